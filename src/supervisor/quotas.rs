//! The share of each capture in the daemon's memory and disk.

use crate::config::Daemon;
use crate::spool;

/// Percent of a capture's memory for buffered batches. The rest is for read buffers, batches in flight and the runtime:
/// measured, that is below a quarter.
const BATCHES_PERCENT: u64 = 75;
/// Bytes of the smallest and of the largest segment file.
const SEGMENT_BYTES: (u64, u64) = (64 << 10, 64 << 20);

/// Bytes of memory for the batches of one capture, out of `captures`.
pub(super) fn of_memory(daemon: &Daemon, captures: usize) -> u64 {
    daemon.memory_limit / 100 * BATCHES_PERCENT / count(captures)
}

/// The spool of one capture, out of `captures`; `None` if there is no disk for it. A segment is deleted as a whole, so a small
/// limit needs small segments.
pub(super) fn of_disk(daemon: &Daemon, captures: usize) -> Option<spool::Options> {
    let limit_bytes = daemon.spool.limit / count(captures);
    let segment_bytes = (limit_bytes / 8).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1);
    (limit_bytes > 0).then_some(spool::Options { limit_bytes, segment_bytes, fsync: daemon.spool.fsync })
}

fn count(captures: usize) -> u64 {
    u64::try_from(captures.max(1)).unwrap_or(u64::MAX)
}
