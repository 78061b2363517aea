//! The board: a place for each route and each cache, and one for the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::cache::{CacheSlot, CacheStatus, Caches};
use super::{RouteState, RouteStatus, lock};

/// One route's place on the board. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Slot(Arc<SlotInner>);

#[derive(Debug)]
struct SlotInner {
    status: Mutex<RouteStatus>,
    progress_unix_ms: AtomicU64,
    /// True once every endpoint of the route has been tried.
    tried: std::sync::atomic::AtomicBool,
}

impl Slot {
    /// A place that no board shows.
    #[must_use]
    pub fn new(status: RouteStatus) -> Self {
        Self(Arc::new(SlotInner {
            progress_unix_ms: AtomicU64::new(status.since_unix_ms),
            status: Mutex::new(status),
            tried: std::sync::atomic::AtomicBool::new(false),
        }))
    }

    /// Sets a broadcast's state, and why it is not live.
    pub fn set_state(&self, state: RouteState, reason: Option<String>, now_unix_ms: u64) {
        self.update(|status| {
            if status.state != state {
                status.state = state;
                status.since_unix_ms = now_unix_ms;
            }
            status.reason = reason;
            status.leader = state == RouteState::Live;
        });
    }

    /// Changes the route's status.
    pub fn update(&self, change: impl FnOnce(&mut RouteStatus)) {
        change(&mut lock(&self.0.status));
    }

    /// The route's status.
    #[must_use]
    pub fn read(&self) -> RouteStatus {
        lock(&self.0.status).clone()
    }

    /// Says that the loop has come round; milliseconds since 1970. Each loop does at least once a second.
    pub fn progressed(&self, now_unix_ms: u64) {
        self.0.progress_unix_ms.store(now_unix_ms, Ordering::Relaxed);
    }

    /// When the loop last came round; milliseconds since 1970.
    #[must_use]
    pub fn progress_unix_ms(&self) -> u64 {
        self.0.progress_unix_ms.load(Ordering::Relaxed)
    }

    /// Says that the route has tried its endpoints once, with whatever outcome.
    pub fn tried(&self) {
        self.0.tried.store(true, Ordering::Relaxed);
    }

    /// Returns whether the route has tried its endpoints once.
    #[must_use]
    pub fn was_tried(&self) -> bool {
        self.0.tried.load(Ordering::Relaxed)
    }
}

/// The status of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// When the configuration that runs was read; milliseconds since 1970.
    pub configuration_unix_ms: u64,
    /// The last reload, if it failed: the previous configuration stays in use.
    pub reload_failed: Option<FailedReload>,
    /// Why the state directory cannot be used, if captures need it.
    pub state_directory_error: Option<String>,
    /// How much all routes together may hold in memory.
    pub memory_limit_bytes: u64,
}

/// A reload that changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedReload {
    /// When; milliseconds since 1970.
    pub at_unix_ms: u64,
    /// How many problems the configuration has.
    pub problems: usize,
}

/// Every route's place, and the process's.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<BoardInner>);

#[derive(Debug, Default)]
struct BoardInner {
    slots: Mutex<BTreeMap<String, Slot>>,
    caches: Caches,
    daemon: Mutex<DaemonStatus>,
}

impl Board {
    /// Changes the process's status.
    pub fn update_daemon(&self, change: impl FnOnce(&mut DaemonStatus)) {
        change(&mut lock(&self.0.daemon));
    }

    /// The process's status.
    #[must_use]
    pub fn daemon(&self) -> DaemonStatus {
        lock(&self.0.daemon).clone()
    }

    /// Makes a place for a route, or gives a route of the same name a new one.
    #[must_use]
    pub fn place(&self, status: RouteStatus) -> Slot {
        let name = status.route.clone();
        let slot = Slot::new(status);
        lock(&self.0.slots).insert(name, slot.clone());
        slot
    }

    /// Shows a route in a place that it was given before.
    pub fn show(&self, route: &str, slot: Slot) {
        lock(&self.0.slots).insert(route.to_owned(), slot);
    }

    /// Takes a route off the board.
    pub fn remove(&self, route: &str) {
        lock(&self.0.slots).remove(route);
    }

    /// Makes a place for a cache, or gives a cache of the same server a new one.
    #[must_use]
    pub fn place_cache(&self, server: &str) -> CacheSlot {
        self.0.caches.place(server)
    }

    /// The caches, by the server's name.
    #[must_use]
    pub fn caches(&self) -> BTreeMap<String, CacheStatus> {
        self.0.caches.read()
    }

    /// One route's place.
    #[must_use]
    pub fn slot(&self, route: &str) -> Option<Slot> {
        lock(&self.0.slots).get(route).cloned()
    }

    /// The places of the routes that run, by name: those of all but disabled ones.
    #[must_use]
    pub fn running(&self) -> Vec<(String, Slot)> {
        let mut slots = self.slots();
        slots.retain(|(_, slot)| slot.read().state != RouteState::Disabled);
        slots
    }

    /// Every route's place, by name.
    #[must_use]
    pub fn slots(&self) -> Vec<(String, Slot)> {
        lock(&self.0.slots).iter().map(|(name, slot)| (name.clone(), slot.clone())).collect()
    }
}
