//! The process-wide budget for large replies, over all connections.
//!
//! A reader bounds one reply. But a hostile server can begin a large one on each connection, and those of twenty routes
//! would take gigabytes beside `memory_limit`. So a buffer that grows past the allowance for messages (which
//! `memory_limit` counts) needs a share of one account. A reply without a share is refused.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Four replies of the largest size. Replies of that size are rare, so a process seldom reads two at a time.
pub(super) const ALL_BYTES: usize = 256 * 1024 * 1024;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// One reader's share; given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct BufferShare(usize);

impl BufferShare {
    /// Makes the share as large as `bytes`, if the account has as much.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        if let Some(less) = self.0.checked_sub(bytes) {
            TAKEN.fetch_sub(less, Ordering::Relaxed);
        } else {
            let more = bytes - self.0;
            let fits = |taken: usize| taken.checked_add(more).filter(|all| *all <= ALL_BYTES);
            if TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
                return false;
            }
        }
        self.0 = bytes;
        true
    }
}

impl Drop for BufferShare {
    fn drop(&mut self) {
        self.resize(0);
    }
}
