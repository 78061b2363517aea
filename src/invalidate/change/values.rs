//! The values of a payload that templates name, also those in each element of an array.

use serde_json::value::RawValue;

use super::MOST_KEYS;
use crate::text::json_pointer::Pointer;
use crate::text::json_pointer::evaluate::{Places, PointerTree};
use crate::text::json_values::put_value;

/// The values of a payload that templates name.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// The first pieces of all pointers.
    tree: PointerTree,
    places: Vec<PointerValues>,
    found: Texts,
}

/// What stands at the first pieces, as JSON.
#[derive(Debug, Default)]
struct Texts(Vec<Option<String>>);

/// What stands at a pointer.
#[derive(Debug)]
struct PointerValues {
    pointer: Pointer,
    /// What follows each `*`.
    rest: Vec<PointerTree>,
    /// The values in the last payload; `None` where one of them is no part of a key.
    values: Option<Vec<Vec<u8>>>,
    /// True if they are more than can be cleared.
    too_many: bool,
}

/// Why a place has no values.
#[derive(Debug)]
pub(super) enum Missing<'v> {
    /// More than can be cleared.
    TooMany,
    /// There is no text, number, true or false.
    NoValue(&'v Pointer),
}

impl Values {
    /// The number of a pointer's place.
    pub(super) fn place(&mut self, pointer: &Pointer) -> usize {
        if let Some(known) = self.places.iter().position(|place| place.pointer == *pointer) {
            return known;
        }
        let number = self.places.len();
        let mut pieces = pointer.split_at_each().into_iter();
        if let Some(first) = pieces.next() {
            self.tree.add(&first, number);
        }
        let rest = pieces
            .map(|piece| {
                let mut tree = PointerTree::default();
                tree.add(&piece, 0);
                tree
            })
            .collect();
        self.places.push(PointerValues { pointer: pointer.clone(), rest, values: None, too_many: false });
        self.found.0.push(None);
        number
    }

    /// Reads a payload. `payload` is called only if a template names a place.
    pub(super) fn read<'a>(&mut self, payload: impl FnOnce() -> &'a [u8]) {
        if self.places.is_empty() {
            return;
        }
        self.tree.look(payload(), &mut self.found);
        for (place, found) in self.places.iter_mut().zip(&self.found.0) {
            let mut values = Vec::new();
            let read = found.as_ref().is_some_and(|json| collect(json, &place.rest, &mut values));
            place.too_many = values.len() > MOST_KEYS;
            place.values = (read && !values.iter().any(Vec::is_empty)).then_some(values);
        }
    }

    /// The values at a place.
    pub(super) fn get(&self, place: usize) -> Result<&[Vec<u8>], Missing<'_>> {
        let place = &self.places[place];
        match &place.values {
            _ if place.too_many => Err(Missing::TooMany),
            Some(values) => Ok(values),
            None => Err(Missing::NoValue(&place.pointer)),
        }
    }

    /// The object or array at a place, as it is written.
    pub(super) fn compound(&self, place: usize) -> Option<&str> {
        self.found.0[place].as_deref().filter(|json| json.starts_with(['{', '[']))
    }
}

/// Appends the values of a document, or of each element of an array along the rest of a pointer. `false` where something
/// is missing, or is no part of a key; one value more than can be cleared ends it.
fn collect(json: &str, rest: &[PointerTree], values: &mut Vec<Vec<u8>>) -> bool {
    let Some((tree, below)) = rest.split_first() else {
        let mut text = Vec::new();
        let read = put_value(json, &mut text);
        values.push(text);
        return read;
    };
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(json) else { return false };
    for element in elements {
        if values.len() > MOST_KEYS {
            return true;
        }
        let mut found = Texts(vec![None]);
        tree.look(element.get().as_bytes(), &mut found);
        let there = found.0.pop().flatten();
        if !there.is_some_and(|json| collect(&json, below, values)) {
            return false;
        }
    }
    true
}

impl Places for Texts {
    fn value(&mut self, place: usize, json: &str) {
        self.0[place] = Some(json.to_owned());
    }

    fn nothing(&mut self, place: usize) {
        self.0[place] = None;
    }
}
