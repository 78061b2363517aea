//! Revisions: whether two instances, or one before and after a reload, run the same route.
//!
//! The state of a route carries both hashes, so they must not change by themselves. Adding an option
//! with a default must leave every existing route its revision: so only values that differ from their
//! defaults are hashed, each as one line `key=value` with the value as JSON, the lines sorted. Order
//! that means nothing (of channels, of groups) is taken out; endpoints count by their names, so that
//! a server may move. A golden test holds known hashes: one that changes there would make a running
//! pair disagree about nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::raw::defaults;
use super::settings::{
    Capture, Condition, FieldNames, Format, GroupsStart, Invalidate, Keep, Mode, OwnKeys, Scalar, Subject,
    Test,
};

/// The two hashes of a capture, 16 hex digits each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// How events are counted: source and subscriptions.
    pub numbering: String,
    /// What becomes of them: filter, destination, stream, groups, retention, format, limits.
    pub mapping: String,
}

impl Capture {
    /// What this route is, in two hashes.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision { numbering: hash(&numbering(self)), mapping: hash(&mapping(self)) }
    }
}

impl Invalidate {
    /// Which keys the entries of the stream make and what is stored in them, as a hash of 16 hex digits. A cursor of another revision says nothing
    /// about the keys of this one.
    #[must_use]
    pub fn revision(&self) -> String {
        let mut lines = Lines::new();
        set(&mut lines, "source", json!(self.source));
        set(&mut lines, "stream", json!(self.stream));
        let keys: BTreeSet<String> = self.keys.iter().map(ToString::to_string).collect();
        set(&mut lines, "keys", json!(keys));
        let lease = self.lease.as_ref().map(ToString::to_string);
        set_unless(&mut lines, "lease", json!(lease), &json!(defaults::lease()));
        let written = self.set.as_ref().map(|set| [&set.value, &set.version].map(ToString::to_string));
        set_unless(&mut lines, "set", json!(written), &Value::Null);
        set_unless(&mut lines, "where", conditions(&self.conditions), &json!([]));
        set_unless(&mut lines, "payload_field", json!(self.payload_field), &json!(defaults::payload_field()));
        hash(&lines)
    }
}

type Lines = BTreeSet<(&'static str, String)>;

fn numbering(capture: &Capture) -> Lines {
    let mut lines = Lines::new();
    set(&mut lines, "source", json!(capture.source));
    match capture.mode {
        Mode::Subscribe => {}
        Mode::Replication(replication) => {
            set(&mut lines, "mode", json!("replication"));
            set_unless(&mut lines, "sharded", json!(replication.sharded), &json!(false));
        }
    }
    set_unless(&mut lines, "channels", sorted(&capture.channels), &json!([]));
    set_unless(&mut lines, "patterns", sorted(&capture.patterns), &json!([]));
    let OwnKeys { prefixes, streams } = &capture.own;
    set_unless(&mut lines, "own.prefixes", json!(prefixes), &json!([]));
    set_unless(&mut lines, "own.streams", json!(streams), &json!([]));
    lines
}

fn mapping(capture: &Capture) -> Lines {
    let mut lines = Lines::new();
    set_unless(&mut lines, "where", conditions(&capture.conditions), &json!([]));
    set_unless(&mut lines, "origin", json!(capture.origin), &Value::Null);
    set(&mut lines, "destination", json!(capture.destination));
    set(&mut lines, "stream", json!(capture.stream.to_string()));
    set_unless(&mut lines, "groups", sorted(&capture.groups), &json!([]));
    match capture.groups_start {
        None => {}
        Some(GroupsStart::Beginning) => set(&mut lines, "groups_start", json!("0")),
        Some(GroupsStart::End) => set(&mut lines, "groups_start", json!("$")),
    }
    let (entries, age) = match &capture.keep {
        Keep::Forever => {
            set(&mut lines, "keep", json!("forever"));
            (None, None)
        }
        Keep::Limits { entries, age } => (*entries, *age),
        Keep::UntilAcknowledged(until) => {
            set(&mut lines, "keep.until_acknowledged", sorted(&until.groups));
            (Some(until.entries), until.age)
        }
    };
    let age = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    set_unless(&mut lines, "keep.entries", json!(entries), &Value::Null);
    set_unless(&mut lines, "keep.age_ms", json!(age), &Value::Null);
    match &capture.format {
        Format::Raw => {}
        Format::Fields => set(&mut lines, "format", json!("fields")),
        Format::CloudEvents { source, r#type } => {
            set(&mut lines, "format", json!("cloudevents"));
            let default = json!(defaults::cloudevents_source(&capture.name));
            set_unless(&mut lines, "cloudevents.source", json!(source.to_string()), &default);
            let default = json!(defaults::CLOUDEVENTS_TYPE);
            set_unless(&mut lines, "cloudevents.type", json!(r#type.to_string()), &default);
        }
    }
    let include: Vec<&str> = capture.include.iter().map(|include| include.as_str()).collect();
    set_unless(&mut lines, "include", json!(include), &json!([]));
    let (names, default) = (&capture.fields, FieldNames::default());
    for (line, name, default) in [
        ("fields.channel", json!(names.channel), json!(default.channel)),
        ("fields.pattern", json!(names.pattern), json!(default.pattern)),
        ("fields.payload", json!(names.payload), json!(default.payload)),
        ("fields.event", json!(names.event), json!(default.event)),
        ("fields.id", json!(names.id), json!(default.id)),
        ("fields.received_at", json!(names.received_at), json!(default.received_at)),
    ] {
        set_unless(&mut lines, line, name, &default);
    }
    let add: BTreeMap<&str, String> =
        capture.add.iter().map(|field| (field.name.as_str(), field.value.to_string())).collect();
    set_unless(&mut lines, "add", json!(add), &json!({}));
    let default = json!(defaults::max_streams().0);
    set_unless(&mut lines, "max_streams", json!(capture.max_streams), &default);
    let default = json!(defaults::max_message_size().0);
    set_unless(&mut lines, "max_message_size", json!(capture.max_message_size), &default);
    lines
}

/// A condition that stands twice, or elsewhere in the list, filters nothing else.
fn conditions(conditions: &[Condition]) -> Value {
    let texts = conditions.iter().map(|condition| {
        let subject = match &condition.subject {
            Subject::Channel => Value::Null,
            Subject::Text => json!({ "payload": true }),
            Subject::Field(name) => json!({ "field": name }),
            Subject::Payload(pointer) => json!(pointer.to_string()),
        };
        let test = match &condition.test {
            Test::OneOf(values) => json!({ "in": values.iter().map(scalar).collect::<BTreeSet<_>>() }),
            Test::Exists(exists) => json!({ "exists": exists }),
            Test::Prefix(prefix) => json!({ "prefix": prefix }),
        };
        let test = if condition.negated { json!({ "not": test }) } else { test };
        json!([subject, test]).to_string()
    });
    json!(texts.collect::<BTreeSet<_>>())
}

fn scalar(value: &Scalar) -> String {
    match value {
        Scalar::Text(text) => json!(text),
        Scalar::Integer(number) => json!(number),
        Scalar::Float(number) => json!(number),
        Scalar::Bool(value) => json!(value),
    }
    .to_string()
}

fn set(lines: &mut Lines, key: &'static str, value: Value) {
    lines.insert((key, value.to_string()));
}

fn set_unless(lines: &mut Lines, key: &'static str, value: Value, default: &Value) {
    if value != *default {
        set(lines, key, value);
    }
}

fn sorted(names: &[String]) -> Value {
    json!(names.iter().collect::<BTreeSet<_>>())
}

fn hash(lines: &Lines) -> String {
    let mut digest = Sha256::new();
    for (key, value) in lines {
        digest.update(format!("{key}={value}\n"));
    }
    digest.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
