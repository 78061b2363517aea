//! `[invalidate.NAME]`: from a stream to a cache.

use std::time::Duration;

use super::Condition;
use crate::text::template::{Part, Template};

/// `[invalidate.NAME]`: the keys that an entry of a stream is about are removed from a cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Invalidate {
    /// The name in `[invalidate.NAME]`.
    pub name: String,
    /// The endpoint that holds the stream.
    pub source: String,
    /// The stream, exactly.
    pub stream: String,
    /// The keys beside the stream where captures of this configuration that may write it record their gaps.
    pub gaps: Vec<String>,
    /// The endpoint that holds the cache.
    pub destination: String,
    /// What no key begins with: the cache's `key_prefix`.
    pub reserved: String,
    /// The keys that an entry is about; at least one.
    pub keys: Vec<Template>,
    /// The key of the lease that belongs to a key, if readers use leases.
    pub lease: Option<Template>,
    /// When each key is removed once more; `None` for only once.
    pub again_after: Option<Duration>,
    /// How long changes are collected before they are applied.
    pub collect: Duration,
    /// What is done where changes were missed.
    pub if_missed: IfMissed,
    /// What is stored in keys that are there; without it they are removed.
    pub set: Option<SetValue>,
    /// Which entries count: those for which all of these hold.
    pub conditions: Vec<Condition>,
    /// The field of an entry that holds the payload.
    pub payload_field: String,
}

/// `set`: where a key is there with an older version, it gets the value of the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetValue {
    /// Makes the value.
    pub value: Template,
    /// Makes its version, a decimal number.
    pub version: Template,
}

/// What is done where changes were missed, or may have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissed {
    /// It is reported.
    Record,
    /// Every key that the route can make is removed.
    Clear,
}

impl Invalidate {
    /// The text that every key of a template begins with, and whether that is the whole key.
    #[must_use]
    pub fn fixed_beginning(&self, template: &Template) -> (String, bool) {
        fixed_beginning(template, &self.stream)
    }
}

/// The text that everything begins with that a template makes of a stream's entries, and whether that is all of it.
#[must_use]
pub fn fixed_beginning(template: &Template, stream: &str) -> (String, bool) {
    let mut text = String::new();
    for part in template.parts() {
        match part {
            Part::Literal(literal) => text.push_str(literal),
            Part::Stream => text.push_str(stream),
            _ => return (text, false),
        }
    }
    (text, true)
}
