//! From an entry to the keys that it is about.
//!
//! A variable of a template has a value, or several where a pointer names each element of an array. Every combination of
//! them makes a key. A template without a value for one of its variables makes none, and the entry becomes a dead letter;
//! keys of its other templates are cleared, since to clear too little is worse than to clear twice.

use std::collections::HashSet;

use serde_json::value::RawValue;

use crate::config;
use crate::filter::Filter;
use crate::stream::entries::StreamEntry;
use crate::text::glob::{self, Captures};
use crate::text::json_lookup::{Places, PointerTree};
use crate::text::json_pointer::Pointer;
use crate::text::json_values::put_value;
use crate::text::template::{Part, Template};

/// Most keys of one entry, and of one call of the script.
pub(super) const MOST_KEYS: usize = 1_000;
/// The longest key. Longer ones are no keys of a cache but whole payloads in a wrong place.
const LONGEST_KEY: usize = 4 * 1024;

/// A key of the cache.
pub(super) type CacheKey = Box<[u8]>;

/// Why an entry makes no keys. Kept in the dead letters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    /// A template has no value, or makes no valid key.
    #[error("{0}")]
    NoKey(String),
    /// They are too many for one step.
    #[error("the entry makes more than {MOST_KEYS} keys, which are not cleared")]
    TooManyKeys,
}

impl Rejection {
    /// The stable name in the dead letter.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::NoKey(_) => "no_key",
            Self::TooManyKeys => "too_many_keys",
        }
    }
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKeys {
    /// These keys, each once.
    Keys(Vec<CacheKey>),
    /// The route's filter leaves it out.
    Filtered,
    /// It becomes a dead letter. These keys can be made nevertheless.
    Rejected(Rejection, Vec<CacheKey>),
}

/// A route's filter and templates.
#[derive(Debug)]
pub(super) struct KeyMaker {
    filter: Filter,
    payload_field: String,
    reserved: String,
    templates: Vec<Vec<KeyPart>>,
    values: Values,
}

#[derive(Debug)]
enum KeyPart {
    Literal(Vec<u8>),
    Field(String),
    Id,
    /// What that `*` of the pattern matched by which the entry's message came.
    Wildcard(u8),
    /// The values at this place of [`Values`].
    Pointer(usize),
}

impl KeyMaker {
    pub(super) fn new(settings: &config::Invalidate) -> Self {
        let mut values = Values::default();
        let templates =
            settings.keys.iter().map(|template| parts(template, &settings.stream, &mut values)).collect();
        Self {
            filter: Filter::new(&settings.conditions),
            payload_field: settings.payload_field.clone(),
            reserved: settings.reserved.clone(),
            templates,
            values,
        }
    }

    /// The keys of an entry.
    pub(super) fn of(&mut self, entry: &StreamEntry<'_>) -> EntryKeys {
        if !self.filter.passes(&entry.looked(&self.payload_field)) {
            return EntryKeys::Filtered;
        }
        self.values.read(|| entry.field(self.payload_field.as_bytes()).unwrap_or_default());
        let mut seen = HashSet::new();
        let mut keys = Vec::new();
        let mut rejected = None;
        for template in &self.templates {
            match self.keys(template, entry) {
                Ok(made) => keys.extend(made.into_iter().filter(|key| seen.insert(key.clone()))),
                Err(Rejection::TooManyKeys) => {
                    return EntryKeys::Rejected(Rejection::TooManyKeys, Vec::new());
                }
                Err(why) => _ = rejected.get_or_insert(why),
            }
            if keys.len() > MOST_KEYS {
                return EntryKeys::Rejected(Rejection::TooManyKeys, Vec::new());
            }
        }
        match rejected {
            Some(why) => EntryKeys::Rejected(why, keys),
            None if keys.is_empty() => {
                EntryKeys::Rejected(no_key("every array that keys names is empty".to_owned()), keys)
            }
            None => EntryKeys::Keys(keys),
        }
    }

    /// The keys of one template, maybe several times.
    fn keys(&self, template: &[KeyPart], entry: &StreamEntry<'_>) -> Result<Vec<CacheKey>, Rejection> {
        let mut made = vec![Vec::new()];
        for part in template {
            made = self.extended(made, part, entry)?;
        }
        let checked = |key: Vec<u8>| self.check(&key).map(|()| key.into_boxed_slice());
        made.into_iter().map(checked).collect()
    }

    /// The beginnings of keys, each with each value of a part.
    fn extended(
        &self,
        mut made: Vec<Vec<u8>>,
        part: &KeyPart,
        entry: &StreamEntry<'_>,
    ) -> Result<Vec<Vec<u8>>, Rejection> {
        match part {
            KeyPart::Literal(text) => append(&mut made, text),
            KeyPart::Id => append(&mut made, entry.id_text),
            KeyPart::Field(name) => match entry.field(name.as_bytes()) {
                None => return Err(no_key(format!("the entry has no field '{name}'"))),
                Some(b"") => return Err(no_key(format!("the field '{name}' of the entry is empty"))),
                Some(value) => append(&mut made, value),
            },
            KeyPart::Wildcard(number) => {
                let [channel, pattern] =
                    ["channel", "pattern"].map(|field| entry.field(field.as_bytes()).unwrap_or_default());
                let mut captures = Captures::default();
                glob::captures(pattern, channel, &mut captures);
                match captures.get(*number, channel) {
                    None | Some(b"") => {
                        let why = format!("the channel of the entry has nothing where <{number}> is");
                        return Err(no_key(why));
                    }
                    Some(value) => append(&mut made, value),
                }
            }
            KeyPart::Pointer(place) => {
                let values = self.values.get(*place)?;
                if made.len().saturating_mul(values.len()) > MOST_KEYS {
                    return Err(Rejection::TooManyKeys);
                }
                if let [only] = values {
                    append(&mut made, only);
                } else {
                    let each = |key: Vec<u8>| values.iter().map(move |value| [&key[..], value].concat());
                    made = made.into_iter().flat_map(each).collect();
                }
            }
        }
        Ok(made)
    }

    fn check(&self, key: &[u8]) -> Result<(), Rejection> {
        unusable(&self.reserved, key).map_or(Ok(()), |why| Err(no_key(format!("a key would {why}"))))
    }
}

/// Why this can be no key of a cache whose keys of tidegate's own begin so: what a key would do.
pub(super) fn unusable(reserved: &str, key: &[u8]) -> Option<String> {
    if key.len() > LONGEST_KEY {
        return Some(format!("have {} bytes; at most {LONGEST_KEY}", key.len()));
    }
    let own = key.starts_with(reserved.as_bytes());
    own.then(|| format!("begin with '{reserved}', as those of tidegate do"))
}

fn append(made: &mut [Vec<u8>], value: &[u8]) {
    for key in made {
        key.extend_from_slice(value);
    }
}

fn no_key(why: String) -> Rejection {
    Rejection::NoKey(why)
}

fn parts(template: &Template, stream: &str, values: &mut Values) -> Vec<KeyPart> {
    let part = |part: &Part| match part {
        Part::Literal(text) => Some(KeyPart::Literal(text.as_bytes().to_vec())),
        Part::Field(name) => Some(KeyPart::Field(name.clone())),
        Part::Stream => Some(KeyPart::Literal(stream.as_bytes().to_vec())),
        Part::Id => Some(KeyPart::Id),
        Part::Wildcard(number) => Some(KeyPart::Wildcard(*number)),
        Part::Pointer(pointer) => Some(KeyPart::Pointer(values.place(pointer))),
        // The configuration refuses these in keys.
        Part::Channel | Part::Pattern | Part::Json | Part::Key => None,
    };
    template.parts().iter().filter_map(part).collect()
}

/// The values of a payload that templates name.
#[derive(Debug, Default)]
struct Values {
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

impl Values {
    /// The number of a pointer's place.
    fn place(&mut self, pointer: &Pointer) -> usize {
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
    fn read<'a>(&mut self, payload: impl FnOnce() -> &'a [u8]) {
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

    fn get(&self, place: usize) -> Result<&[Vec<u8>], Rejection> {
        let place = &self.places[place];
        match &place.values {
            _ if place.too_many => Err(Rejection::TooManyKeys),
            Some(values) => Ok(values),
            None => {
                let pointer = &place.pointer;
                Err(no_key(format!("the payload has no text, number, true or false at '{pointer}'")))
            }
        }
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::stream::entries::StreamEntries;
    use crate::stream::entries::tests::reply;

    /// A route with these keys.
    pub(in crate::invalidate) fn settings(keys: &[&str]) -> config::Invalidate {
        config::Invalidate {
            name: "products".to_owned(),
            source: "events".to_owned(),
            stream: "orders".to_owned(),
            gaps: Vec::new(),
            destination: "cache".to_owned(),
            reserved: "tidegate:".to_owned(),
            keys: keys.iter().map(|key| Template::parse(key).unwrap()).collect(),
            lease: None,
            again_after: None,
            collect: std::time::Duration::ZERO,
            if_missed: config::IfMissed::Record,
            conditions: Vec::new(),
            payload_field: "payload".to_owned(),
        }
    }

    fn of(keys: &[&str], payload: &[u8]) -> EntryKeys {
        let bytes = reply(&[("5-1", &[(b"sku", b"\xff7"), (b"none", b""), (b"payload", payload)])]);
        let mut entries = StreamEntries::new(&bytes, Vec::new()).unwrap();
        KeyMaker::new(&settings(keys)).of(&entries.next().unwrap().unwrap())
    }

    fn text(found: EntryKeys) -> String {
        match found {
            EntryKeys::Keys(keys) => {
                keys.iter().map(|key| key.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
            }
            EntryKeys::Filtered => "filtered".to_owned(),
            EntryKeys::Rejected(why, keys) => {
                let made = text(EntryKeys::Keys(keys));
                format!("{}: {why} {made}", why.reason()).trim_end().to_owned()
            }
        }
    }

    #[test]
    fn keys_are_made_of_fields_and_of_values_as_they_are_written() {
        let made = |keys: &[&str], payload: &str| text(of(keys, payload.as_bytes()));
        assert_eq!(made(&["a:<field:sku>:<stream>:<id>"], ""), "a:\\xff7:orders:5-1");
        for (payload, expected) in [
            (r#"{"sku":42}"#, "p:42"),
            (r#"{"sku":42.0}"#, "p:42.0"),
            (r#"{"sku":9007199254740993}"#, "p:9007199254740993"),
            (r#"{"sku":true}"#, "p:true"),
            (r#"{"sku":"\u00e9 \"x\""}"#, "p:\\xc3\\xa9 \\\"x\\\""),
            (r#"{"sku":1,"sku":"2"}"#, "p:2"),
        ] {
            assert_eq!(made(&["p:<pointer:/sku>"], payload), expected, "{payload}");
        }
        let missing = "no_key: the payload has no text, number, true or false at '/sku'";
        for payload in [
            "",
            "no json",
            "7",
            "{}",
            r#"{"sku":""}"#,
            r#"{"sku":null}"#,
            r#"{"sku":{}}"#,
            r#"{"sku":["1"]}"#,
            r#"{"sku":"\ud800"}"#,
            r#"{"sku":1"#,
        ] {
            assert_eq!(made(&["p:<pointer:/sku>"], payload), missing, "{payload}");
        }
        let not_utf8 = text(of(&["p:<pointer:/sku>"], b"{\"sku\":\"\xff\"}"));
        assert_eq!(not_utf8, missing);
        assert_eq!(made(&["p:<field:none>"], ""), "no_key: the field 'none' of the entry is empty");
        assert_eq!(made(&["p:<field:other>"], ""), "no_key: the entry has no field 'other'");
        let others = made(&["a:<id>", "p:<field:other>", "b", "q:<field:none>"], "");
        assert_eq!(
            others, "no_key: the entry has no field 'other' a:5-1 b",
            "the first reason, and the other keys"
        );
    }

    #[test]
    fn a_step_for_each_element_makes_a_key_for_each() {
        let made = |keys: &[&str], payload: &str| text(of(keys, payload.as_bytes()));
        let items =
            r#"{"items":[{"sku":1,"in":["a","b"]},{"sku":"2","in":[]},{"sku":1,"in":["c"]}],"all":[]}"#;
        assert_eq!(made(&["p:<pointer:/items/*/sku>"], items), "p:1 p:2");
        assert_eq!(made(&["c:<pointer:/items/*/in/*>"], items), "c:a c:b c:c");
        assert_eq!(
            made(&["<pointer:/items/*/sku>:<pointer:/items/*/in/*>"], items),
            "1:a 1:b 1:c 2:a 2:b 2:c",
            "every combination"
        );
        assert_eq!(made(&["p:<pointer:/items/1/sku>", "x"], items), "p:2 x");
        assert_eq!(made(&["p:<pointer:/*>"], "[1,2,2]"), "p:1 p:2");
        assert_eq!(made(&["a:<pointer:/all/*>", "b"], items), "b", "an empty array makes no key");
        assert_eq!(made(&["a:<pointer:/all/*>"], items), "no_key: every array that keys names is empty");
        let missing = "no_key: the payload has no text, number, true or false at '/items/*/sku'";
        for payload in [r#"{"items":[{"sku":1},{}]}"#, r#"{"items":{"sku":1}}"#, r#"{"items":[1]}"#, "{}"] {
            assert_eq!(made(&["p:<pointer:/items/*/sku>"], payload), missing, "{payload}");
        }
    }

    #[test]
    fn a_number_is_what_a_star_of_the_pattern_matched() {
        let made = |key: &str, channel: &[u8]| {
            let bytes =
                reply(&[("5-1", &[(b"channel", channel), (b"pattern", b"p.*.x*"), (b"payload", b"")])]);
            let mut entries = StreamEntries::new(&bytes, Vec::new()).unwrap();
            text(KeyMaker::new(&settings(&[key])).of(&entries.next().unwrap().unwrap()))
        };
        assert_eq!(made("a:<1>:<2>", b"p.7.x8"), "a:7:8");
        assert_eq!(made("a:<2>", b"p.7.x"), "no_key: the channel of the entry has nothing where <2> is");
        assert_eq!(made("a:<3>", b"p.7.x8"), "no_key: the channel of the entry has nothing where <3> is");
        assert_eq!(text(of(&["a:<1>"], b"")), "no_key: the channel of the entry has nothing where <1> is");
    }

    #[test]
    fn a_thousand_keys_and_no_more() {
        let array =
            |count: usize| format!("[{}]", (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
        let made = |keys: &[&str], count| match of(keys, array(count).as_bytes()) {
            EntryKeys::Keys(keys) => keys.len(),
            EntryKeys::Rejected(Rejection::TooManyKeys, keys) => keys.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(made(&["p:<pointer:/*>"], 1000), 1000);
        assert_eq!(made(&["p:<pointer:/*>"], 1001), 0);
        assert_eq!(made(&["p:<pointer:/*>"], 100_000), 0);
        assert_eq!(made(&["p:<pointer:/*>", "q:<pointer:/*>"], 501), 0);
        assert_eq!(made(&["p:<pointer:/*>", "q:<pointer:/*>"], 500), 1000);
        assert_eq!(made(&["p:<pointer:/*>:<pointer:/*>"], 33), 0, "33 times 33");
    }

    #[test]
    fn what_is_no_key_of_a_cache_is_refused() {
        let reserved = "no_key: a key would begin with 'tidegate:', as those of tidegate do";
        assert_eq!(text(of(&["<pointer:/a>"], br#"{"a":"tidegate:r:cursor"}"#)), reserved);
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(4095));
        assert_eq!(
            text(of(&["pp<pointer:/a>"], long.as_bytes())),
            "no_key: a key would have 4097 bytes; at most 4096"
        );
        assert!(matches!(of(&["p<pointer:/a>"], long.as_bytes()), EntryKeys::Keys(_)));
    }
}
