//! Looking into a payload along the conditions' pointers.

use std::fmt;

use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::condition::{ConditionTest, JsonTextTest};
use crate::text::json_pointer::{self, Pointer};

/// The conditions on a payload.
#[derive(Debug, Default)]
pub(super) struct Payload {
    root: PointerNode,
    tests: Vec<ConditionTest>,
    /// Which tests hold for the payload that is looked at.
    holds: Vec<bool>,
}

/// A place in documents: what is tested there, and the places below.
#[derive(Debug, Default)]
struct PointerNode {
    tests: Vec<usize>,
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    name: String,
    /// The name as a place in an array.
    place: Option<usize>,
    node: PointerNode,
}

impl Payload {
    pub(super) fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    pub(super) fn add(&mut self, pointer: &Pointer, test: ConditionTest) {
        let mut node = &mut self.root;
        for token in pointer.tokens() {
            node = node.child(token);
        }
        node.tests.push(self.tests.len());
        self.holds.push(test.holds_without());
        self.tests.push(test);
    }

    /// Whether every test holds for a payload.
    pub(super) fn all_hold(&mut self, payload: &[u8]) -> bool {
        let mut look = JsonLookup { tests: &self.tests, holds: &mut self.holds };
        look.forget(&self.root);
        let read = std::str::from_utf8(payload).is_ok_and(|text| look.document(&self.root, text).is_ok());
        if !read {
            // What stood before the fault is no part of a document either.
            look.forget(&self.root);
        }
        self.holds.iter().all(|holds| *holds)
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

/// One look into one payload.
struct JsonLookup<'a> {
    tests: &'a [ConditionTest],
    holds: &'a mut [bool],
}

impl JsonLookup<'_> {
    /// Nothing is there, at a place and below it.
    fn forget(&mut self, node: &PointerNode) {
        for test in &node.tests {
            self.holds[*test] = self.tests[*test].holds_without();
        }
        for child in &node.children {
            self.forget(&child.node);
        }
    }

    /// Reads a whole document, which need not be one.
    fn document(&mut self, root: &PointerNode, text: &str) -> Result<(), serde_json::Error> {
        if root.tests.is_empty() {
            // A plain value has nothing below it, be it JSON or not.
            return self.below(root, text.trim_start_matches([' ', '\t', '\n', '\r']));
        }
        let document: &RawValue = serde_json::from_str(text)?;
        self.value(root, document)
    }

    fn value(&mut self, node: &PointerNode, value: &RawValue) -> Result<(), serde_json::Error> {
        // An earlier member of the same name may have been here.
        self.forget(node);
        for test in &node.tests {
            self.holds[*test] = self.tests[*test].holds_for_json(value.get());
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
struct Below<'l, 'a> {
    look: &'l mut JsonLookup<'a>,
    node: &'l PointerNode,
}

impl<'de> Visitor<'de> for Below<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(member) = map.next_key_seed(JsonTextTest(|name: &str| self.node.member(name)))? {
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
