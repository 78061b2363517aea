//! Looking into a JSON document along many pointers at once.
//!
//! Problem: of a document some places matter: a filter tests what stands there, a template puts it into a name.
//!
//! Constraints: this runs on the hot path. The document is read at most once, nothing is built of what no pointer
//! names, and nothing is allocated a document. Documents are any bytes.
//!
//! Operation: the pointers are one tree, and the document is walked along it. [`Places`] is told what stands at each
//! place, by the number that the place was given.
//!
//! Of a member that is named twice the last counts, as most readers of JSON have it.
//!
//! Failure: a document that is no JSON has nothing anywhere, also where its beginning could be read.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json_pointer::{self, Pointer};

/// Is told what stands at the places of a [`PointerTree`]. Of each place the last word counts.
pub(crate) trait Places {
    /// A value stands there, written so.
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

    /// Says of every place what stands there in a document.
    pub(crate) fn look(&self, document: &[u8], places: &mut impl Places) {
        let mut look = Lookup { places };
        look.forget(&self.0);
        let read = std::str::from_utf8(document).is_ok_and(|text| look.document(&self.0, text).is_ok());
        if !read {
            // What stood before the fault is no part of a document either.
            look.forget(&self.0);
        }
    }
}

impl PointerNode {
    fn child(&mut self, name: &str) -> &mut Self {
        let at = self.children.iter().position(|child| child.name == name).unwrap_or_else(|| {
            let place = json_pointer::place(name);
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
        while let Some(member) = map.next_key_seed(WithText(|name: &str| self.node.member(name)))? {
            match member {
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

/// Calls a function with the content of a JSON string; `None` for what is no string, or one that no text can be made
/// of (half of a surrogate pair).
pub(crate) fn with_text<R>(json: &str, function: impl FnOnce(&str) -> R) -> Option<R> {
    if !json.starts_with('"') {
        return None;
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

impl<'de, R, F: FnOnce(&str) -> R> DeserializeSeed<'de> for WithText<F> {
    type Value = R;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<R, D::Error> {
        deserializer.deserialize_str(self)
    }
}
