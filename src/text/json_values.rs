//! The values of a JSON document that templates put into names and fields.
//!
//! A text gives its content; a number, `true` and `false` give their spelling. A `null`, a list or an object is no
//! value, since it makes no sensible name.

use super::json_pointer::Pointer;
use super::json_pointer::evaluate::{Places, PointerTree, with_text};
use super::template::Part;

/// The places that some templates name, and what stood there in the last document.
#[derive(Debug, Default)]
pub(crate) struct JsonValues {
    tree: PointerTree,
    found: FoundValues,
}

#[derive(Debug, Default)]
struct FoundValues(Vec<PlaceValue>);

#[derive(Debug)]
struct PlaceValue {
    pointer: Pointer,
    there: bool,
    /// Kept from document to document, so that it is allocated once.
    text: Vec<u8>,
}

impl JsonValues {
    /// The places that these parts of templates name.
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Self {
        let mut values = Self::default();
        for part in parts {
            let Part::Pointer(pointer) = part else { continue };
            if values.found.0.iter().all(|value| value.pointer != *pointer) {
                values.tree.add(pointer, values.found.0.len());
                values.found.0.push(PlaceValue { pointer: pointer.clone(), there: false, text: Vec::new() });
            }
        }
        values
    }

    /// Reads a document. `document` is called only if a template names a place.
    pub(crate) fn read<'a>(&mut self, document: impl FnOnce() -> &'a [u8]) {
        if !self.found.0.is_empty() {
            self.tree.look(document(), &mut self.found);
        }
    }

    /// The value at a place in the last document.
    pub(crate) fn get(&self, pointer: &Pointer) -> Option<&[u8]> {
        let value = self.found.0.iter().find(|value| value.pointer == *pointer)?;
        value.there.then_some(value.text.as_slice())
    }
}

/// Appends what a JSON value puts into a name; `false` if it is no such value.
pub(crate) fn put_value(json: &str, text: &mut Vec<u8>) -> bool {
    match json.as_bytes().first() {
        Some(b'"') => with_text(json, |content| text.extend_from_slice(content.as_bytes())).is_some(),
        Some(b't' | b'f' | b'-' | b'0'..=b'9') => {
            text.extend_from_slice(json.as_bytes());
            true
        }
        _ => false,
    }
}

impl Places for FoundValues {
    fn value(&mut self, place: usize, json: &str) {
        let PlaceValue { there, text, .. } = &mut self.0[place];
        text.clear();
        *there = put_value(json, text);
    }

    fn nothing(&mut self, place: usize) {
        self.0[place].there = false;
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::Template;
    use super::*;

    #[test]
    fn a_value_is_a_text_a_number_or_true_or_false() {
        let template = Template::parse("<pointer:/a>:<pointer:/b/0>:<pointer:/a>").unwrap();
        let mut values = JsonValues::of(template.parts());
        assert_eq!(values.found.0.len(), 2, "a place that is named twice is looked at once");
        let mut read = |document: &[u8]| {
            values.read(|| document);
            let text = |pointer| {
                let value = values.get(&Pointer::parse(pointer).unwrap());
                value.map(|value| String::from_utf8(value.to_vec()).unwrap())
            };
            [text("/a"), text("/b/0")].map(|text| text.unwrap_or("-".to_owned())).join(" ")
        };
        for (document, expected) in [
            (r#"{"a":"x","b":[1.50,2]}"#, "x 1.50"),
            (r#"{"a":"\u00e9\n","b":[true]}"#, "é\n true"),
            (r#"{"a":"","b":[-1e9]}"#, " -1e9"),
            (r#"{"a":null,"b":[false]}"#, "- false"),
            (r#"{"a":{},"b":[[1]]}"#, "- -"),
            (r#"{"a":"\ud800","b":{"0":7}}"#, "- 7"),
            (r#"{"a":1,"a":2,"b":[3],"b":[]}"#, "2 -"),
            (r#"{"a":1,"b":[2]"#, "- -"),
            ("no json", "- -"),
            ("", "- -"),
        ] {
            assert_eq!(read(document.as_bytes()), expected, "{document}");
        }
        assert_eq!(read(b"{\"a\":\"\xff\"}"), "- -");
    }

    #[test]
    fn the_whole_document_is_a_place() {
        let template = Template::parse("<pointer:>").unwrap();
        let mut values = JsonValues::of(template.parts());
        let whole = Pointer::parse("").unwrap();
        for (document, expected) in [(&b" 17 "[..], Some(&b"17"[..])), (b"\"a\"", Some(b"a")), (b"a", None)] {
            values.read(|| document);
            assert_eq!(values.get(&whole), expected, "{}", document.escape_ascii());
        }
    }
}
