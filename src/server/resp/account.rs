//! What replies may take of the process's memory, all connections together.
//!
//! A reader bounds one reply; but a hostile server can begin a large one on each connection, and those of twenty routes
//! would take gigabytes that `memory_limit` knows nothing of. So a buffer that grows past what messages may take (those
//! `memory_limit` counts) needs a share of one account, and a reply for which there is none left is refused.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Four replies of the largest size. Replies of that size are rare, so a process seldom reads two at a time.
pub(super) const ALL_BYTES: usize = 256 * 1024 * 1024;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// What one reader has taken; given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct BufferShare(usize);

impl BufferShare {
    /// Makes the share as large as `bytes`, where there is so much.
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
