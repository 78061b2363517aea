//! `[invalidate.NAME]` as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{EntryCondition, Mode, Span, Table, Word, defaults};

/// One route from a stream to a cache, where it removes the keys that an entry is about.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Invalidate {
    /// Whether the route runs, and with channels or patterns also its capture. With false it is checked like any other,
    /// and makes no connections.
    #[serde(default = "defaults::enabled")]
    pub(crate) enabled: bool,
    /// The server of the stream.
    #[schemars(with = "String")]
    pub(crate) source: Option<String>,
    /// The exact name of the stream; or channels, patterns or both are given.
    pub(crate) stream: Option<String>,
    /// In place of stream: channels, which a capture stores in a stream of the source.
    #[serde(default)]
    pub(crate) channels: Vec<String>,
    /// In place of stream: channel patterns, as PSUBSCRIBE matches them.
    #[serde(default)]
    pub(crate) patterns: Vec<String>,
    /// With channels or patterns: how the source is read; "subscribe" by default.
    pub(crate) mode: Option<Word<Mode>>,
    /// The server of the cache.
    #[schemars(with = "String")]
    pub(crate) destination: Option<String>,
    /// The keys that an entry is about: templates with <field:NAME>, <pointer:/PATH>, <stream> and <id>; with
    /// patterns alone also <1> to <9>. In a path, a step "*" is each element of an array.
    #[serde(default)]
    #[schemars(required)]
    pub(crate) keys: Vec<String>,
    /// The key that a reader holds while it loads a value, made from <key>; "" for none.
    #[serde(default = "defaults::lease")]
    pub(crate) lease: String,
    /// How long after it was removed each key is removed once more; "0s" for only once.
    #[serde(default = "defaults::again_after")]
    pub(crate) again_after: Span,
    /// How long changes are collected before they are applied, so that a key that changes often is removed once in that
    /// time.
    #[serde(default = "defaults::collect")]
    pub(crate) collect: Span,
    /// What is done where changes were missed, or may have been: entries that were trimmed unread, a stream that was
    /// begun anew, an entry with too many keys.
    #[serde(default)]
    pub(crate) if_missed: Word<IfMissed>,
    /// Write-through: a key that is there with an older version gets the value of the entry, in place of its removal. It is a
    /// hash with the fields value and version.
    pub(crate) set: Option<Table<SetValue>>,
    /// Filter: an entry counts if every condition holds. The others are counted as filtered.
    #[serde(default)]
    pub(crate) r#where: Vec<Table<EntryCondition>>,
    /// The field of an entry that holds the payload, which conditions with field and pointer, and <pointer:/PATH> in
    /// templates, look at.
    #[serde(default = "defaults::payload_field")]
    pub(crate) payload_field: String,
}

/// What is stored in a key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct SetValue {
    /// The value: a template as in keys, or a <pointer:/PATH> alone to an object or an array, which is stored as it is written.
    #[schemars(with = "String")]
    pub(crate) value: Option<String>,
    /// The version of the value: a template that makes a decimal number.
    #[schemars(with = "String")]
    pub(crate) version: Option<String>,
}

/// What is done where changes were missed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IfMissed {
    /// It is reported; what changed may be stale until its time to live ends.
    #[default]
    Record,
    /// Every key that the templates can make is removed.
    Clear,
}
