//! Which routes and endpoints have handles now, and which of them came last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::catalogue::SeriesOwner;

/// The names that are rendered.
#[derive(Clone, Debug, Default)]
pub(super) struct Live(Arc<Mutex<BTreeMap<(SeriesOwner, String), Holders>>>);

#[derive(Debug, Default)]
struct Holders {
    /// Number of [`SeriesGuard`] that are alive.
    count: usize,
    /// The number of the one that was made last.
    newest: u64,
}

impl Live {
    /// Keeps a name rendered until the value and its clones are dropped.
    pub(super) fn hold(&self, owner: SeriesOwner, name: &str) -> SeriesGuard {
        let mut live = self.lock();
        let key = (owner, name.to_owned());
        let holders = live.entry(key.clone()).or_default();
        holders.count += 1;
        holders.newest += 1;
        let (first, number) = (holders.count == 1, holders.newest);
        SeriesGuard(Arc::new(Guard { first, number, live: self.clone(), key }))
    }

    /// Returns whether a series with that owner and name is rendered.
    pub(super) fn shows(&self, owner: SeriesOwner, name: Option<&str>) -> bool {
        let Some(name) = name else { return owner == SeriesOwner::Process };
        let live = self.lock();
        let has = |owner| live.contains_key(&(owner, name.to_owned()));
        let reads = || has(SeriesOwner::Broadcast) || has(SeriesOwner::Invalidate);
        match owner {
            SeriesOwner::Process => true,
            SeriesOwner::Route => has(SeriesOwner::Capture) || reads(),
            SeriesOwner::Entries => reads(),
            SeriesOwner::Capture
            | SeriesOwner::Broadcast
            | SeriesOwner::Invalidate
            | SeriesOwner::Cache
            | SeriesOwner::Endpoint => has(owner),
        }
    }

    /// A panic elsewhere ends the process (see `rt`), so a poisoned lock still holds whole values.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(SeriesOwner, String), Holders>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a name rendered.
#[derive(Clone, Debug)]
pub(super) struct SeriesGuard(Arc<Guard>);

#[derive(Debug)]
struct Guard {
    first: bool,
    number: u64,
    live: Live,
    key: (SeriesOwner, String),
}

impl SeriesGuard {
    /// Returns whether the name had no holder when this guard was made.
    pub(super) fn is_first(&self) -> bool {
        self.0.first
    }

    /// Calls `run` under the lock, if this guard is still the newest holder of the series.
    pub(super) fn if_newest(&self, run: impl FnOnce()) {
        let live = self.0.live.lock();
        if live.get(&self.0.key).is_some_and(|holders| holders.newest == self.0.number) {
            run();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut live = self.live.lock();
        if let Some(holders) = live.get_mut(&self.key) {
            holders.count -= 1;
            if holders.count == 0 {
                live.remove(&self.key);
            }
        }
    }
}
