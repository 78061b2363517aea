//! The caches of invalidations, as their servers report themselves. One for each server, however many routes share it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use serde::{Deserialize, Serialize};

use super::lock;

/// What a cache's own `INFO` said last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// When it was read; milliseconds since 1970. None before the first time.
    pub read_unix_ms: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_bytes: u64,
    /// `maxmemory` in bytes; 0 for none.
    pub memory_limit_bytes: u64,
    /// `maxmemory_policy`.
    pub policy: String,
    /// What was done between the last two readings. None if the server began anew meanwhile.
    pub lately: Option<CacheActivity>,
    /// Why it cannot be read now.
    pub error: Option<String>,
}

/// What a cache has done in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheActivity {
    /// The time, in milliseconds.
    pub over_ms: u64,
    /// Lookups that found their key.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Keys that were removed because memory was full.
    pub evicted: u64,
    /// Keys whose time to live ended.
    pub expired: u64,
}

/// One cache's place on the board. It is shown until the last clone is dropped.
#[derive(Debug, Clone, Default)]
pub struct CacheSlot(Arc<Mutex<CacheStatus>>);

impl CacheSlot {
    /// Changes the cache's status.
    pub fn update(&self, change: impl FnOnce(&mut CacheStatus)) {
        change(&mut lock(&self.0));
    }
}

/// The places of all caches, by the server's name.
#[derive(Debug, Default)]
pub(super) struct Caches(Mutex<BTreeMap<String, Weak<Mutex<CacheStatus>>>>);

impl Caches {
    pub(super) fn place(&self, server: &str) -> CacheSlot {
        let slot = CacheSlot::default();
        let mut caches = lock(&self.0);
        caches.retain(|_, slot| slot.strong_count() > 0);
        caches.insert(server.to_owned(), Arc::downgrade(&slot.0));
        slot
    }

    pub(super) fn read(&self) -> BTreeMap<String, CacheStatus> {
        let caches = lock(&self.0);
        let shown = caches.iter().filter_map(|(name, slot)| Some((name.clone(), slot.upgrade()?)));
        shown.map(|(name, slot)| (name, lock(&slot).clone())).collect()
    }
}
