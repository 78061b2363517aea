//! What only an invalidation shows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An invalidation: what all instances have done since its cursor was made, and what this process saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvalidateStatus {
    /// Keys that were there and were removed, in either pass.
    pub cleared: u64,
    /// Keys that were not there in the first pass.
    pub absent: u64,
    /// Keys that were there with an older version, and got the value of an entry.
    #[serde(default)]
    pub written: u64,
    /// Keys that had the version of an entry or a newer one in the first pass.
    #[serde(default)]
    pub kept: u64,
    /// Leases that were removed: loads under way that would have stored an old value.
    pub fills_refused: u64,
    /// Entries that this process wrote to the dead letters.
    pub rejected: u64,
    /// Entries that this process left out by the route's own filter.
    pub filtered: u64,
    /// The last entry whose keys were removed once more; none without a second pass.
    pub again: Option<String>,
    /// How long ago the stream was last applied to its end; milliseconds. None if it is not known.
    pub behind_ms: Option<u64>,
    /// How often changes may have been missed, since the process started, by kind.
    pub missed: BTreeMap<String, u64>,
    /// How often every key of the route was removed, since the process started.
    pub clears: u64,
    /// How often entries were applied once more, since the process started, by trigger.
    pub replays: BTreeMap<String, u64>,
}
