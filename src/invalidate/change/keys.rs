//! From an entry to the keys that it is about.
//!
//! A variable of a template has a value, or several where a pointer names each element of an array. Every combination of
//! them makes a key. A template without a value for one of its variables makes none, and the entry becomes a dead letter;
//! keys of its other templates are cleared, since to clear too little is worse than to clear twice.

use std::collections::HashSet;
use std::sync::Arc;

use super::values::{Missing, Values};
use super::{CacheKey, Change, MOST_KEYS, Version, Write};
use crate::config;
use crate::filter::Filter;
use crate::stream::entries::StreamEntry;
use crate::text::glob::{self, Captures};
use crate::text::plural;
use crate::text::template::{Part, Template};

/// The longest key. Longer ones are no keys of a cache but whole payloads in a wrong place.
const LONGEST_KEY: usize = 4 * 1024;

/// The largest value that is stored, counted once for each key of its entry.
pub(in crate::invalidate) const LARGEST_VALUE: usize = 1024 * 1024;

/// Why an entry makes no keys. Kept in the dead letters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::invalidate) enum KeyRejection {
    /// A template has no value, or makes no valid key.
    #[error("{0}")]
    NoKey(String),
    /// They are too many for one step.
    #[error("the entry makes more than {MOST_KEYS} keys, which are not cleared")]
    TooManyKeys,
}

impl KeyRejection {
    /// The stable name in the dead letter.
    pub(in crate::invalidate) const fn reason(&self) -> &'static str {
        match self {
            Self::NoKey(_) => "no_key",
            Self::TooManyKeys => "too_many_keys",
        }
    }
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::invalidate) enum EntryKeys {
    /// These keys, each once, and what becomes of them.
    Keys(Vec<Change>),
    /// The route's filter leaves it out.
    Filtered,
    /// It becomes a dead letter. These keys can be made nevertheless, and are removed.
    Rejected(KeyRejection, Vec<Change>),
}

/// A route's filter and templates.
#[derive(Debug)]
pub(in crate::invalidate) struct KeyMaker {
    filter: Filter,
    payload_field: String,
    reserved: String,
    templates: Vec<Vec<KeyPart>>,
    set: Option<SetParts>,
    values: Values,
}

/// What is stored in the keys.
#[derive(Debug)]
struct SetParts {
    value: Vec<KeyPart>,
    version: Vec<KeyPart>,
}

#[derive(Debug)]
enum KeyPart {
    Literal(Vec<u8>),
    Field(String),
    Id,
    /// The text that this `*` matched, in the pattern by which the message was received.
    Wildcard(u8),
    /// The values at this place of [`Values`].
    Pointer(usize),
}

impl KeyMaker {
    pub(in crate::invalidate) fn new(settings: &config::Invalidate) -> Self {
        let mut values = Values::default();
        let mut parts = |template: &Template| parts(template, &settings.stream, &mut values);
        let templates = settings.keys.iter().map(&mut parts).collect();
        let set = settings
            .set
            .as_ref()
            .map(|set| SetParts { value: parts(&set.value), version: parts(&set.version) });
        Self {
            filter: Filter::new(&settings.conditions),
            payload_field: settings.payload_field.clone(),
            reserved: settings.reserved.clone(),
            templates,
            set,
            values,
        }
    }

    /// The keys of an entry.
    pub(in crate::invalidate) fn of(&mut self, entry: &StreamEntry<'_>) -> EntryKeys {
        if !self.filter.passes(&entry.looked(&self.payload_field)) {
            return EntryKeys::Filtered;
        }
        self.values.read(|| entry.field(self.payload_field.as_bytes()).unwrap_or_default());
        let mut keys: Vec<CacheKey> = Vec::new();
        let mut rejected = None;
        for template in &self.templates {
            match self.keys(template, entry) {
                Ok(made) if keys.is_empty() && made.len() == 1 => keys = made,
                Ok(made) => {
                    keys.extend(made);
                    let mut seen = HashSet::with_capacity(keys.len());
                    keys.retain(|key| seen.insert(key.clone()));
                }
                Err(KeyRejection::TooManyKeys) => {
                    return EntryKeys::Rejected(KeyRejection::TooManyKeys, Vec::new());
                }
                Err(why) => _ = rejected.get_or_insert(why),
            }
            if keys.len() > MOST_KEYS {
                return EntryKeys::Rejected(KeyRejection::TooManyKeys, Vec::new());
            }
        }
        let removals = |keys: Vec<CacheKey>| keys.into_iter().map(Change::removal).collect();
        match rejected {
            Some(why) => EntryKeys::Rejected(why, removals(keys)),
            None if keys.is_empty() => {
                let why = no_key("every array that keys names is empty".to_owned());
                EntryKeys::Rejected(why, removals(keys))
            }
            None => {
                let set = self.set.as_ref().and_then(|set| self.write(set, entry, keys.len()).ok());
                let write = |key| Change { key, write: set.clone().map(Box::new) };
                EntryKeys::Keys(keys.into_iter().map(write).collect())
            }
        }
    }

    /// Why the last entry's keys are removed, on a route that stores values.
    pub(in crate::invalidate) fn unwritten(&self, entry: &StreamEntry<'_>, keys: usize) -> Option<String> {
        self.write(self.set.as_ref()?, entry, keys).err()
    }

    /// What is stored in the keys of an entry, or why they are removed.
    fn write(&self, set: &SetParts, entry: &StreamEntry<'_>, keys: usize) -> Result<Write, String> {
        let text = |what: &str, parts: &[KeyPart]| {
            let mut text = vec![Vec::new()];
            for part in parts {
                text = self.extended(text, part, entry).map_err(|why| format!("no {what}: {why}"))?;
            }
            Ok::<_, String>(text.pop().unwrap_or_default())
        };
        let version = text("version", &set.version)?;
        let version = Version::parse(&version).ok_or("the version is no decimal number")?;
        let value = match &set.value[..] {
            // A place alone may also hold an object or an array.
            [KeyPart::Pointer(place)] => match self.values.compound(*place) {
                Some(json) => json.as_bytes().to_vec(),
                None => text("value", &set.value)
                    .map_err(|_| "no value: nothing, null or an empty text is where it should be")?,
            },
            parts => text("value", parts)?,
        };
        if value.len().saturating_mul(keys) > LARGEST_VALUE {
            let (bytes, keys) = (value.len(), plural::of(u64::try_from(keys).unwrap_or(u64::MAX), "key"));
            return Err(format!("the value has {bytes} bytes, for {keys}; at most {LARGEST_VALUE} in all"));
        }
        Ok(Write { version, value: Some(Arc::from(value)) })
    }

    /// The keys of one template, maybe several times.
    fn keys(&self, template: &[KeyPart], entry: &StreamEntry<'_>) -> Result<Vec<CacheKey>, KeyRejection> {
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
    ) -> Result<Vec<Vec<u8>>, KeyRejection> {
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
                let values = self.values.get(*place).map_err(|missing| match missing {
                    Missing::TooMany => KeyRejection::TooManyKeys,
                    Missing::NoValue(pointer) => {
                        no_key(format!("the payload has no text, number, true or false at '{pointer}'"))
                    }
                })?;
                if made.len().saturating_mul(values.len()) > MOST_KEYS {
                    return Err(KeyRejection::TooManyKeys);
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

    fn check(&self, key: &[u8]) -> Result<(), KeyRejection> {
        unusable(&self.reserved, key).map_or(Ok(()), |why| Err(no_key(format!("a key would {why}"))))
    }
}

/// Why this cannot be a key of the cache, as the end of a sentence about the keys. `reserved` begins tidegate's own keys.
pub(in crate::invalidate) fn unusable(reserved: &str, key: &[u8]) -> Option<String> {
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

fn no_key(why: String) -> KeyRejection {
    KeyRejection::NoKey(why)
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

#[cfg(test)]
pub(in crate::invalidate) mod tests {
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
            set: None,
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
                keys.iter().map(|change| change.key.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
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
    fn a_value_is_stored_with_its_version_and_else_the_keys_are_removed() {
        let made = |value: &str, version: &str, payload: &str| {
            let bytes =
                reply(&[("5-1", &[(b"sku", b"7"), (b"none", b""), (b"payload", payload.as_bytes())])]);
            let mut entries = StreamEntries::new(&bytes, Vec::new()).unwrap();
            let entry = entries.next().unwrap().unwrap();
            let mut settings = settings(&["p:<field:sku>", "q:<field:sku>"]);
            let [value, version] = [value, version].map(|text| Template::parse(text).unwrap());
            settings.set = Some(config::SetValue { value, version });
            let mut maker = KeyMaker::new(&settings);
            let EntryKeys::Keys(keys) = maker.of(&entry) else { panic!("{payload}") };
            assert_eq!(keys.len(), 2, "{payload}");
            assert_eq!(keys[0].write, keys[1].write, "{payload}");
            match (&keys[0].write, maker.unwritten(&entry, keys.len())) {
                (Some(write), None) => {
                    let value = String::from_utf8(write.value.as_ref().unwrap().to_vec()).unwrap();
                    format!("{} {value}", String::from_utf8(write.version.digits().to_vec()).unwrap())
                }
                (None, Some(why)) => why,
                other => panic!("{other:?}"),
            }
        };
        let plain = |payload: &str| made("<pointer:/p>", "<pointer:/v>", payload);
        for (payload, expected) in [
            (r#"{"p":{"a": [1, 2.50]},"v":7}"#, r#"7 {"a": [1, 2.50]}"#),
            (r#"{"p":[ ],"v":"007"}"#, "7 [ ]"),
            (r#"{"p":"\u00e9","v":0}"#, "0 é"),
            (r#"{"p":1.50,"v":123456789012345678901234567890}"#, "123456789012345678901234567890 1.50"),
            (r#"{"p":false,"v":7}"#, "7 false"),
        ] {
            assert_eq!(plain(payload), expected, "{payload}");
        }
        assert_eq!(made("<field:payload>", "<field:sku>", "text"), "7 text");
        assert_eq!(made("a<field:sku>:<pointer:/v>", "<pointer:/v>", r#"{"v":3}"#), "3 a7:3");
        let no_value = "no value: nothing, null or an empty text is where it should be";
        for payload in [r#"{"p":null,"v":7}"#, r#"{"v":7}"#, r#"{"p":"","v":7}"#] {
            assert_eq!(plain(payload), no_value, "{payload}");
        }
        for payload in [r#"{"p":1}"#, r#"{"p":1,"v":null}"#, r#"{"p":1,"v":{}}"#, "no json"] {
            let no_version = "no version: the payload has no text, number, true or false at '/v'";
            assert_eq!(plain(payload), no_version, "{payload}");
        }
        for version in ["-1", "1.0", "1e3", "\"x\"", "true"] {
            let payload = format!(r#"{{"p":1,"v":{version}}}"#);
            assert_eq!(plain(&payload), "the version is no decimal number", "{payload}");
        }
        let within = "no value: the payload has no text, number, true or false at '/p'";
        assert_eq!(made("a<pointer:/p>", "1", r#"{"p":{}}"#), within);
        let large = |bytes: usize| format!(r#"{{"p":"{}","v":1}}"#, "x".repeat(bytes));
        assert!(plain(&large(LARGEST_VALUE / 2)).starts_with("1 x"));
        let too_large = "the value has 524289 bytes, for 2 keys; at most 1048576 in all";
        assert_eq!(plain(&large(LARGEST_VALUE / 2 + 1)), too_large);
    }

    #[test]
    fn a_thousand_keys_and_no_more() {
        let array =
            |count: usize| format!("[{}]", (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
        let made = |keys: &[&str], count| match of(keys, array(count).as_bytes()) {
            EntryKeys::Keys(keys) => keys.len(),
            EntryKeys::Rejected(KeyRejection::TooManyKeys, keys) => keys.len(),
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
