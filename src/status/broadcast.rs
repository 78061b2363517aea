//! What only a broadcast shows: its counts, the group that it waits for, its streams.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::RouteState;

/// The counts of a broadcast since its cursor was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastCounts {
    /// Entries published.
    pub published: u64,
    /// Number of these without a subscriber (on that node).
    pub without_subscribers: u64,
    /// Entries written to the dead letters.
    pub rejected: u64,
    /// Entries left out by the route's own filter.
    #[serde(default)]
    pub filtered: u64,
    /// True if `rate_limit` holds it back now: more entries wait than it lets through.
    #[serde(default)]
    pub rate_limited: bool,
}

/// A broadcast that waits for acknowledgements.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcknowledgedStatus {
    /// The consumer group.
    pub group: String,
    /// True if the group is there.
    pub group_exists: bool,
    /// The last entry that the group was given.
    pub delivered: Option<String>,
    /// Up to where entries were read: they are in memory, whatever their consumers delete.
    pub read: Option<String>,
    /// Entries that the group was given and has not acknowledged.
    pub pending: u64,
    /// With `order = "acknowledgement"`: unacknowledged entries that were left behind.
    pub ack_pending: u64,
    /// Entries that were read and are buffered in memory.
    pub buffered: u64,
    /// The first entry that is not acknowledged.
    pub waiting_for: Option<UnacknowledgedEntry>,
    /// Changes of the group from outside, since the daemon started, by kind.
    pub group_changes: BTreeMap<String, u64>,
}

/// An unacknowledged entry, which delays those behind it if the order is the stream's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnacknowledgedEntry {
    /// The entry's id.
    pub id: String,
    /// Since the time in its id, by the daemon's clock; milliseconds.
    pub age_ms: u64,
    /// The consumer that it was given to last.
    pub consumer: String,
    /// Since then; milliseconds.
    pub idle_ms: u64,
    /// How often it was given to one.
    pub deliveries: u64,
}

/// A change of the consumer group after which entries may count as acknowledged although no consumer acknowledged them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupChange {
    /// The group was missing and was created: entries before its start count as acknowledged.
    GroupCreated,
    /// The group was destroyed and created again: entries that were pending count as acknowledged.
    GroupRecreated,
    /// The group was moved forward: skipped entries count as acknowledged.
    MovedForward,
    /// The group was moved back: it is delivered entries again that were published already.
    MovedBack,
    /// A consumer was deleted while entries were pending for it: these count as acknowledged.
    ConsumerDeleted,
}

impl GroupChange {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::GroupCreated,
        Self::GroupRecreated,
        Self::MovedForward,
        Self::MovedBack,
        Self::ConsumerDeleted,
    ];

    /// The name in logs, metrics and `/status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GroupCreated => "group_created",
            Self::GroupRecreated => "group_recreated",
            Self::MovedForward => "moved_forward",
            Self::MovedBack => "moved_back",
            Self::ConsumerDeleted => "consumer_deleted",
        }
    }
}

/// The streams of a broadcast with `streams`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamsStatus {
    /// Number of streams that are read.
    pub read: u64,
    /// About how many matching streams are not read.
    pub left_out: u64,
    /// Most streams that are read.
    pub max_streams: u64,
    /// The streams that are read, by name.
    pub streams: Vec<StreamStatus>,
}

/// The status of one such stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// The stream's name.
    pub stream: String,
    /// The state of its route.
    pub state: RouteState,
    /// Why it is not live.
    pub reason: Option<String>,
    /// Its cursor.
    pub position: Option<String>,
}
