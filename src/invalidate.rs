//! Invalidation: from a stream to a cache.
//!
//! Problem: a cache holds what a database no longer says. To remove a key when its value changes is not enough: a reader
//! that read the database before the change stores the old value after the removal, and it stays.
//!
//! Constraints: the cache may fail over, be restored, flushed, or evict any key; readers need not do anything; times of
//! two machines cannot be compared, and ids of entries are no times.
//!
//! Operation: a *cursor* on the cache, the hash `P R:cursor`, has the last entry that was applied. One script compares it,
//! removes the keys of a batch with their *leases*, and moves it. So whatever sets the keys back sets the cursor back. A
//! reader that takes the lease before it loads, and stores only if it still holds it, is refused if the route came
//! in between. For readers without leases, each batch is removed *once more* after `again_after`.
//!
//! ```text
//! route ──▶ session ──▶ engine ──▶ change/ ─▶ reading.rs ─▶ cursor.rs ─▶ second_pass.rs
//!  retries   sockets     decides    keys       a queue       clear.lua    clear.lua again
//! ```
//!
//! Failure: to remove a key twice is to remove it once. So uncertain entries are applied once more, from the stream's
//! first entry if need be. With `set`, a key with an older version gets the value of the entry, and other keys are removed.
//! To repeat that is harmless, too. Missed changes are reported, and with `if_missed = "clear"` every key is removed.

mod cache_watch;
mod change;
mod cursor;
mod engine;
mod failure;
mod queue;
pub mod removal;
pub mod requeue;
mod route;
mod second_pass;
#[cfg(test)]
mod simulation;
mod sweep;
pub(crate) mod trial;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{Endpoint, Invalidate};
use crate::logs::Outages;
use crate::metrics::{EndpointMetrics, InvalidateMetrics};
use crate::status::Slot;

pub use cache_watch::{CacheWatch, WeakCacheWatch};
use route::InvalidateRoute;

/// The parts of a route.
#[derive(Debug)]
pub struct InvalidateParts {
    /// The route's settings.
    pub settings: Arc<Invalidate>,
    /// The server that holds the stream.
    pub source: Arc<Endpoint>,
    /// The server that holds the cache.
    pub destination: Arc<Endpoint>,
    /// Limits log lines about a server that is down, across its routes.
    pub outages: Outages,
    /// Its place on the board.
    pub slot: Slot,
    /// Handles of the route's metrics.
    pub metrics: InvalidateMetrics,
    /// Handles of the source's metrics.
    pub source_metrics: EndpointMetrics,
    /// Handles of the cache's metrics.
    pub destination_metrics: EndpointMetrics,
    /// Keeps the cache's own report going while the route runs.
    pub cache_watch: CacheWatch,
}

/// Runs a route until it is stopped; then waits for the call under way, for up to `drain`.
///
/// Cancel safe in effect: wherever it is dropped, the next run begins at the cursor.
pub async fn run(parts: InvalidateParts, stop: CancellationToken, drain: Duration) {
    InvalidateRoute::new(parts).run(&stop, drain).await;
}
