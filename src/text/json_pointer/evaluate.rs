//! Reads the values at many pointers from a JSON document at once.
//!
//! Problem: only some places of a document matter: a filter tests their values, a template puts them into a name.
//!
//! Constraints: this runs on the hot path. The document is read at most once, only values at pointers are built, and
//! nothing is allocated per document. Documents are any bytes.
//!
//! Operation: the pointers are one tree, and the document is walked along it. [`Places`] receives the value at each
//! place, by the place's number.
//!
//! If a member is named twice, the last counts, as for most readers of JSON.
//!
//! Failure: a document that is no JSON has no values, even if its beginning could be read.

use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Pointer;

/// Receives the values at the places of a [`PointerTree`]. The last value of a place counts.
pub(crate) trait Places {
    /// The value at a place, as it is written.
    fn value(&mut self, place: usize, json: &str);
    /// Nothing is there.
    fn nothing(&mut self, place: usize);
}

/// The pointers, each with a number.
#[derive(Debug, Default)]
pub(crate) struct PointerTree(PointerNode);

/// A place in documents: the numbers that it has, and the places below.
#[derive(Debug, Default)]
struct PointerNode {
    numbers: Vec<usize>,
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    name: String,
    /// The name as a place in an array.
    place: Option<usize>,
    node: PointerNode,
}

impl PointerTree {
    /// Adds a place.
    pub(crate) fn add(&mut self, pointer: &Pointer, number: usize) {
        let mut node = &mut self.0;
        for token in pointer.tokens() {
            node = node.child(token);
        }
        node.numbers.push(number);
    }

    /// Passes the value at every place of a document to `places`.
    pub(crate) fn look(&self, document: &[u8], places: &mut impl Places) {
        let mut look = Lookup { places };
        look.forget(&self.0);
        let read = std::str::from_utf8(document).is_ok_and(|text| look.document(&self.0, text).is_ok());
        if !read {
            // Values before the fault do not count either.
            look.forget(&self.0);
        }
    }
}

impl PointerNode {
    fn child(&mut self, name: &str) -> &mut Self {
        let at = self.children.iter().position(|child| child.name == name).unwrap_or_else(|| {
            let place = super::place(name);
            self.children.push(Child { name: name.to_owned(), place, node: Self::default() });
            self.children.len() - 1
        });
        &mut self.children[at].node
    }

    fn member(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name).map(|child| &child.node)
    }

    fn element(&self, place: usize) -> Option<&Self> {
        self.children.iter().find(|child| child.place == Some(place)).map(|child| &child.node)
    }
}

/// One look into one document.
struct Lookup<'p, P> {
    places: &'p mut P,
}

impl<P: Places> Lookup<'_, P> {
    /// Nothing is there, at a place and below it.
    fn forget(&mut self, node: &PointerNode) {
        for number in &node.numbers {
            self.places.nothing(*number);
        }
        for child in &node.children {
            self.forget(&child.node);
        }
    }

    /// Reads a whole document, which need not be one.
    fn document(&mut self, root: &PointerNode, text: &str) -> Result<(), serde_json::Error> {
        if root.numbers.is_empty() {
            // A plain value has nothing below it, be it JSON or not.
            return self.below(root, text.trim_start_matches([' ', '\t', '\n', '\r']));
        }
        let document: &RawValue = serde_json::from_str(text)?;
        self.value(root, document)
    }

    fn value(&mut self, node: &PointerNode, value: &RawValue) -> Result<(), serde_json::Error> {
        // An earlier member of the same name may have been here.
        self.forget(node);
        for number in &node.numbers {
            self.places.value(*number, value.get());
        }
        if node.children.is_empty() { Ok(()) } else { self.below(node, value.get()) }
    }

    fn below(&mut self, node: &PointerNode, text: &str) -> Result<(), serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(text);
        let below = Below { look: self, node };
        match text.as_bytes().first() {
            Some(b'{') => json.deserialize_map(below)?,
            Some(b'[') => json.deserialize_seq(below)?,
            _ => return Ok(()),
        }
        json.end()
    }
}

/// Reads the members or elements of one value.
struct Below<'l, 'p, P> {
    look: &'l mut Lookup<'p, P>,
    node: &'l PointerNode,
}

impl<'de, P: Places> Visitor<'de> for Below<'_, '_, P> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<&RawValue>()? {
            // A name that has no valid text is that of no pointer.
            match with_text(name.get(), |name| self.node.member(name)).flatten() {
                Some(node) => self.look.value(node, map.next_value()?).map_err(A::Error::custom)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        for place in 0.. {
            let more = match self.node.element(place) {
                Some(node) => match elements.next_element()? {
                    Some(value) => {
                        self.look.value(node, value).map_err(A::Error::custom)?;
                        true
                    }
                    None => false,
                },
                None => elements.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }
}

/// Calls a function with the content of a JSON string; `None` if it is no string, or has no valid text (half of a
/// surrogate pair).
pub(crate) fn with_text<R>(json: &str, function: impl FnOnce(&str) -> R) -> Option<R> {
    if !json.starts_with('"') {
        return None;
    }
    if let Some(plain) = json[1..].strip_suffix('"')
        && memchr::memchr(b'\\', plain.as_bytes()).is_none()
    {
        return Some(function(plain));
    }
    let mut value = serde_json::Deserializer::from_str(json);
    (&mut value).deserialize_str(WithText(function)).ok()
}

/// Calls a function with a JSON string's content, which is copied only where it holds an escape.
struct WithText<F>(F);

impl<R, F: FnOnce(&str) -> R> Visitor<'_> for WithText<F> {
    type Value = R;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<R, E> {
        Ok((self.0)(text))
    }
}
