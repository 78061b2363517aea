//! `[broadcast.NAME]`: from streams to channels.

use std::time::Duration;

use super::Condition;
use crate::text::glob;
use crate::text::template::Template;

/// `[broadcast.NAME]`: from streams to channels.
#[derive(Debug, Clone, PartialEq)]
pub struct Broadcast {
    /// The name in `[broadcast.NAME]`.
    pub name: String,
    /// The endpoint that holds the streams.
    pub source: String,
    /// The streams to read.
    pub streams: Streams,
    /// The event that releases an entry.
    pub after: After,
    /// The endpoint on which is published.
    pub destination: String,
    /// The channel's name, from the entry.
    pub channel: Template,
    /// The message, from the entry.
    pub message: MessageFormat,
    /// Which entries are published: those for which all of these hold.
    pub conditions: Vec<Condition>,
    /// The field of an entry that holds what conditions on the payload look at.
    pub payload_field: String,
    /// What each message is marked with. An entry whose message carries it already is left out.
    pub origin: Option<String>,
    /// True if messages are published with SPUBLISH.
    pub sharded: bool,
    /// How many messages are published at most.
    pub rate_limit: Option<Rate>,
    /// How often an entry is tried that is refused for its own sake, before it becomes a dead letter.
    pub max_deliveries: u64,
    /// Where to begin on a stream that already has entries.
    pub start: Option<Start>,
    /// The largest message in bytes; an entry that makes a larger one becomes a dead letter.
    pub max_message_size: u64,
}

/// A number of messages in a time; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Number of messages.
    pub count: u32,
    /// The time for them.
    pub per: Duration,
}

impl Rate {
    /// The time that one of them takes.
    #[must_use]
    pub fn share(self) -> Duration {
        self.per / self.count.max(1)
    }
}

/// What an entry is published as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageFormat {
    /// What a template makes of it.
    Template(Template),
    /// A JSON document with the stream's name, the entry's id and its fields.
    Envelope,
}

/// What releases an entry for broadcast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// Being in the stream.
    Added,
    /// Being acknowledged by a consumer group.
    Acknowledged(Acknowledged),
}

/// `after = "GROUP"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// The consumer group whose acknowledgement releases an entry.
    pub group: String,
    /// In which order they are published.
    pub order: Order,
    /// True if acknowledgements are noticed in the replication stream, and not only by looking.
    pub replication: bool,
}

/// In which order acknowledged entries are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they stand in the stream.
    Stream,
    /// As they are acknowledged.
    Acknowledgement {
        /// How many entries that are not acknowledged may be left behind.
        max_ack_pending: u64,
    },
}

/// The streams of a broadcast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Streams {
    /// One stream, exactly.
    One(String),
    /// Every stream whose name matches a pattern.
    Matching(StreamPattern),
    /// One of those. It is in no configuration: the route derives it for each stream that it finds.
    Found(String),
}

/// `streams` and `max_streams`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPattern {
    /// The pattern, as SCAN matches it.
    pub pattern: String,
    /// How many streams are read at most.
    pub max_streams: u32,
    /// What no name of a stream that is read begins with: the source's `key_prefix`.
    pub reserved: String,
}

impl StreamPattern {
    /// Returns whether a stream of this name is read.
    #[must_use]
    pub fn matches(&self, stream: &str) -> bool {
        !stream.starts_with(&self.reserved) && glob::matches(self.pattern.as_bytes(), stream.as_bytes())
    }
}

impl Broadcast {
    /// The stream's name, or the pattern of the names.
    #[must_use]
    pub fn stream(&self) -> &str {
        match &self.streams {
            Streams::One(stream) | Streams::Found(stream) => stream,
            Streams::Matching(matching) => &matching.pattern,
        }
    }

    /// The pattern of the names, where there may be several streams.
    #[must_use]
    pub const fn pattern(&self) -> Option<&StreamPattern> {
        match &self.streams {
            Streams::Matching(matching) => Some(matching),
            Streams::One(_) | Streams::Found(_) => None,
        }
    }

    /// Returns whether a stream of this name is read.
    #[must_use]
    pub fn reads(&self, stream: &str) -> bool {
        self.pattern().map_or_else(|| self.stream() == stream, |pattern| pattern.matches(stream))
    }

    /// The same route for one stream that matches the pattern.
    #[must_use]
    pub fn for_stream(&self, stream: &str, start: Option<Start>) -> Self {
        Self { streams: Streams::Found(stream.to_owned()), start, ..self.clone() }
    }

    /// What it waits for beyond an entry's being in the stream, if anything.
    #[must_use]
    pub fn acknowledged(&self) -> Option<&Acknowledged> {
        match &self.after {
            After::Added => None,
            After::Acknowledged(acknowledged) => Some(acknowledged),
        }
    }
}

/// Where a broadcast begins on a stream that already has entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first entry.
    Beginning,
    /// After the last entry.
    End,
    /// After the entry with this id, `milliseconds-sequence`.
    After(u64, u64),
    /// Where the stream itself begins: it is newer than the route, so every entry that was ever added is due. Not to be
    /// configured.
    New,
}
