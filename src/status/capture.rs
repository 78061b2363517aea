//! What only a capture shows: its ledger, the entries that it keeps, the replication stream that it reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The events of a capture by outcome:
/// `received = stored + deduplicated + filtered + rejected + Σ dropped + buffered`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Read from the source, each message once.
    pub received: u64,
    /// Stored in a stream.
    pub stored: u64,
    /// Found already stored.
    pub deduplicated: u64,
    /// Left out by the route's own filter.
    pub filtered: u64,
    /// Written to the dead letters.
    pub rejected: u64,
    /// Given up, by reason; each lies inside a recorded gap.
    pub dropped: BTreeMap<String, u64>,
    /// Received, and none of the above yet.
    pub buffered: u64,
    /// The buffered events by place.
    #[serde(default)]
    pub buffered_in: Buffered,
    /// Gaps that were recorded. Releases before 0.2.0 did not count them in the state.
    #[serde(default)]
    pub gaps: u64,
    /// When the last of these ended; milliseconds since 1970.
    #[serde(default)]
    pub last_gap_unix_ms: Option<u64>,
}

/// Events that were received and are not settled, by where they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffered {
    /// In memory, waiting.
    pub memory: u64,
    /// Sent to the destination and not answered.
    pub in_flight: u64,
    /// On disk only.
    pub spool: u64,
    /// Lost with a damaged spool. The gap record is still to be written.
    #[serde(default)]
    pub unrecorded: u64,
}

impl Ledger {
    /// Returns whether every received event is accounted for: stored, dropped or still buffered.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let dropped: u64 = self.dropped.values().sum();
        let settled = self.stored + self.deduplicated + self.filtered + self.rejected + dropped;
        self.received == settled + self.buffered && self.buffered == self.buffered_in.total()
    }
}

impl Buffered {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.memory + self.in_flight + self.spool + self.unrecorded
    }
}

/// The entries that a capture keeps until they are acknowledged, at the last check of its streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepStatus {
    /// Entries that were trimmed before they were acknowledged, since the route's state was made.
    pub trimmed_unacknowledged: u64,
    /// The most entries that a stream keeps, acknowledged or not.
    pub limit: u64,
    /// The stream with the most entries.
    pub fullest: Option<Fullest>,
    /// Groups that a stream does not have, so that nothing there counts as acknowledged; the first few.
    pub missing_groups: Vec<String>,
    /// Why nothing is trimmed.
    pub error: Option<String>,
}

/// The stream of a capture that has the most entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fullest {
    /// The stream's name.
    pub stream: String,
    /// Number of its entries.
    pub entries: u64,
    /// Which of the groups is furthest behind there.
    pub slowest_group: String,
}

/// The replication stream that a capture reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationStatus {
    /// The server's address.
    pub address: String,
    /// `master` or `replica`.
    pub role: String,
    /// How far was read.
    pub offset: u64,
    /// Bytes that were not read yet, about a second ago.
    pub lag_bytes: Option<u64>,
    /// How much the server's backlog can hold.
    pub backlog_bytes: Option<u64>,
    /// How long an absence that covers at the present rate of writes.
    pub backlog_cover_seconds: Option<u64>,
}
