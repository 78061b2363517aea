//! The memory quota of each capture.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Each capture's share of memory in bytes, the same for all. A reload that changes their number changes it
/// for those that run, too. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryQuota(Arc<AtomicUsize>);

impl MemoryQuota {
    /// Sets the quota from now on.
    pub fn set(&self, bytes: u64) {
        self.0.store(usize::try_from(bytes).unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// The quota in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
