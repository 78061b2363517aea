//! A file of cases.
//!
//! ```toml
//! [[test]]
//! name = "an order of a shop goes into the stream of the shop"
//! route = "orders"
//! channel = "orders.paid"
//! payload = '{"shop": 7}'
//! expect.stream = "orders:7"
//! ```
//!
//! Each case is read by itself, so that a mistake in one is told beside the outcome of the others. The parser is that of
//! the configuration, here with the order of fields, which the tree of a configuration does not keep.

use std::fmt;

use serde::de::{IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml_edit::de::Error;
use toml_edit::{ArrayOfTables, ImDocument, Item, Table, Value};

use crate::cli::output::bytes;
use crate::cli::trial::{Fields, Given, Outcome, SHOWN};
use crate::config::line_at;

/// One case.
#[derive(Debug)]
pub(super) struct Case {
    /// Where it begins in its file.
    pub(super) line: usize,
    pub(super) name: Option<String>,
    pub(super) route: String,
    pub(super) given: Given,
    pub(super) expect: Expected,
}

/// Why a case, or a file, cannot be read.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) line: Option<usize>,
    pub(super) why: String,
}

/// What must come out. What is not named is not compared.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Expected {
    /// Of a capture: whether it receives the channel.
    received: Option<bool>,
    /// Whether it is left out, or a part of the reason.
    left_out: Option<LeftOut>,
    /// The reason of the dead letter.
    dead_letter: Option<String>,
    /// Of a capture: the stream.
    stream: Option<String>,
    /// Of a capture: some fields of the entry.
    fields: Option<WrittenFields>,
    /// Of a broadcast: the channel.
    channel: Option<String>,
    /// Of a broadcast: the message.
    message: Option<String>,
    /// Of an invalidation: all keys, in any order.
    keys: Option<Vec<String>>,
    /// Of an invalidation with `set`: the version.
    version: Option<WrittenText>,
    /// Of an invalidation with `set`: the value.
    value: Option<String>,
}

/// A case as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct Written {
    name: Option<String>,
    route: String,
    channel: Option<String>,
    payload: Option<String>,
    stream: Option<String>,
    id: Option<String>,
    #[serde(default)]
    entry: WrittenFields,
    expect: Expected,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected true, false or a part of the reason, such as \"/kind\"")]
enum LeftOut {
    Whether(bool),
    Because(String),
}

/// A text, or a number or a truth value that stands for its text.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text, a whole number, true or false")]
enum WrittenText {
    Text(String),
    Number(i64),
    Truth(bool),
}

impl WrittenText {
    fn as_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Truth(truth) => truth.to_string(),
        }
    }
}

/// Names and values in the order in which they are written.
#[derive(Debug, Default)]
struct WrittenFields(Fields);

impl<'de> Deserialize<'de> for WrittenFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = WrittenFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::new();
                while let Some((name, value)) = map.next_entry::<String, WrittenText>()? {
                    fields.push((name, value.as_text()));
                }
                Ok(WrittenFields(fields))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// Reads the cases of a file, in their order.
pub(super) fn read(text: &str) -> Vec<Result<Case, Unread>> {
    match tables(text) {
        Ok(tables) => tables.iter().map(|table| case(text, table)).collect(),
        Err(unread) => vec![Err(unread)],
    }
}

fn tables(text: &str) -> Result<ArrayOfTables, Unread> {
    let document = ImDocument::parse(text).map_err(|error| unread(text, &error.into(), None))?;
    if let Some((key, item)) =
        document.iter().find(|(key, item)| *key != "test" || !item.is_array_of_tables())
    {
        let key_span = document.key(key).and_then(toml_edit::Key::span);
        let line = key_span.or_else(|| item.span()).map(|span| line_at(text, span.start));
        return Err(Unread { line, why: format!("{key}: expected only cases, each with [[test]] above it") });
    }
    match document.get("test") {
        Some(Item::ArrayOfTables(tables)) => Ok(tables.clone()),
        _ => Err(Unread { line: None, why: "there is no case: each has [[test]] above it".to_owned() }),
    }
}

fn case(text: &str, table: &Table) -> Result<Case, Unread> {
    let line = table.span().map(|span| line_at(text, span.start));
    let value = Value::InlineTable(table.clone().into_inline_table());
    let written = Written::deserialize(value.into_deserializer());
    let Written { name, route, channel, payload, stream, id, entry, expect } =
        written.map_err(|error| unread(text, &error, line))?;
    if expect.names_nothing() {
        return Err(Unread { line, why: "expect names nothing, so the case could not fail".to_owned() });
    }
    let given = Given { channel, payload, stream, id, entry: entry.0 };
    Ok(Case { line: line.unwrap_or_default(), name, route, given, expect })
}

/// The parser's message, which can have several lines, at the line that it is about, or else at that of the case.
fn unread(text: &str, error: &Error, case: Option<usize>) -> Unread {
    let line = error.span().map(|span| line_at(text, span.start)).or(case);
    Unread { line, why: error.message().replace('\n', ", ") }
}

impl Expected {
    fn names_nothing(&self) -> bool {
        let Self { received, left_out, dead_letter, stream, fields, channel, message, keys, version, value } =
            self;
        let texts = [dead_letter, stream, channel, message, value];
        let fields = fields.as_ref().is_none_or(|fields| fields.0.is_empty());
        let others = [received.is_some(), left_out.is_some(), keys.is_some(), version.is_some()];
        fields && !others.contains(&true) && texts.iter().all(|text| text.is_none())
    }

    /// What the outcome does not have, each with its expected value.
    pub(super) fn missed(&self, outcome: &Outcome) -> Vec<String> {
        let mut missed = Missed(Vec::new());
        if let Some(expected) = self.received {
            missed.unless(
                expected != matches!(outcome, Outcome::NotReceived),
                "received",
                &expected.to_string(),
            );
        }
        match &self.left_out {
            Some(LeftOut::Whether(expected)) => {
                let found = matches!(outcome, Outcome::LeftOut(_));
                missed.unless(*expected == found, "left_out", &expected.to_string());
            }
            Some(LeftOut::Because(part)) => {
                let found = matches!(outcome, Outcome::LeftOut(why) if why.contains(part));
                missed.unless(found, "left_out", part);
            }
            None => {}
        }
        let found = Found::of(outcome);
        missed.text("dead_letter", self.dead_letter.as_deref(), found.dead_letter);
        missed.text("stream", self.stream.as_deref(), found.stream);
        for (name, value) in self.fields.iter().flat_map(|fields| &fields.0) {
            let has = |(found, content): &(Vec<u8>, Vec<u8>)| {
                found == name.as_bytes() && content == value.as_bytes()
            };
            missed.unless(found.fields.iter().any(has), &format!("fields.{name}"), value);
        }
        missed.text("channel", self.channel.as_deref(), found.channel);
        missed.text("message", self.message.as_deref(), found.message);
        if let Some(expected) = &self.keys {
            let mut wanted: Vec<&[u8]> = expected.iter().map(String::as_bytes).collect();
            wanted.sort_unstable();
            let equal = found.keys.is_some_and(|keys| {
                let mut keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
                keys.sort_unstable();
                keys == wanted
            });
            missed.unless(equal, "keys", &expected.join(", "));
        }
        let version = self.version.as_ref().map(WrittenText::as_text);
        missed.text("version", version.as_deref(), found.version);
        missed.text("value", self.value.as_deref(), found.value);
        missed.0
    }
}

/// The parts of an outcome.
#[derive(Default)]
struct Found<'a> {
    dead_letter: Option<&'a [u8]>,
    stream: Option<&'a [u8]>,
    fields: &'a [(Vec<u8>, Vec<u8>)],
    channel: Option<&'a [u8]>,
    message: Option<&'a [u8]>,
    keys: Option<&'a [Vec<u8>]>,
    version: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl<'a> Found<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        let none = Self::default();
        match outcome {
            Outcome::NotReceived | Outcome::LeftOut(_) => none,
            Outcome::DeadLetter(reason, _) => Self { dead_letter: Some(reason.as_bytes()), ..none },
            Outcome::Stored { stream, fields } => Self { stream: Some(stream), fields, ..none },
            Outcome::Published { channel, message } => {
                Self { channel: Some(channel), message: Some(message), ..none }
            }
            Outcome::Cleared { keys, written, unwritten: _, dead_letter } => Self {
                keys: Some(keys),
                version: written.as_ref().map(|(version, _)| version.as_slice()),
                value: written.as_ref().map(|(_, value)| value.as_slice()),
                dead_letter: dead_letter.as_ref().map(|(reason, _)| reason.as_bytes()),
                ..none
            },
        }
    }
}

/// Expectations that are not met.
struct Missed(Vec<String>);

impl Missed {
    fn text(&mut self, name: &str, expected: Option<&str>, found: Option<&[u8]>) {
        if let Some(expected) = expected {
            self.unless(found == Some(expected.as_bytes()), name, expected);
        }
    }

    fn unless(&mut self, met: bool, name: &str, expected: &str) {
        if !met {
            self.0.push(format!("{name}: {}", bytes::shown(expected.as_bytes(), SHOWN)));
        }
    }
}
