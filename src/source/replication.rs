//! The replication link: a server's PUBLISH commands, as a replica sees them, addressed by offset.
//!
//! Problem: Pub/Sub forgets messages without a subscriber. But outside cluster mode a server writes every PUBLISH into
//! its replication stream, and keeps the last part of that in its backlog. So a reader that was away can continue where
//! it stopped.
//!
//! Operation:
//!
//! ```text
//! node     which server of the deployment is read, and whether it holds what follows
//! link     the replica's handshake, the snapshot (read and dropped), the stream, the acknowledgements
//! stream   cuts the commands that are looked for out of the bytes
//! backlog  beside it: how long an absence could last
//! ```
//!
//! A *history* has one replication id: in it an offset always denotes the same byte. After a failover the new master
//! has an id of its own, and reports up to which offset it shares the old history.
//!
//! Failure: a link that ends stays ended; its owner opens another one at the last offset read. If no server holds that
//! part any more, the reason is reported.
//!
//! The protocol is that of the servers' `replication.c`; the behaviour of each version is tested
//! (`tests/promises/replication.rs`).

mod backlog;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub(crate) mod histories;
mod link;
mod node;
pub(crate) mod reader;
mod stream;

use std::fmt;

pub(crate) use backlog::{Backlog, BacklogHealth};
pub(crate) use link::{LinkStart, PublishCommand, ReplicationLink};
pub(crate) use node::NoContinuation;

/// The name of a history: 40 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HistoryId(String);

impl HistoryId {
    /// Bytes of it as text.
    pub(crate) const BYTES: usize = 40;

    /// Reads one; `None` if the text is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex =
            text.len() == Self::BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| Self(text.to_owned()))
    }

    /// The digits.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place in a history: everything up to this byte has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplicationOffset {
    pub(crate) history: HistoryId,
    pub(crate) offset: u64,
}
