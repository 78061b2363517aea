//! Broadcast: from a stream to channels.
//!
//! Problem: subscribers of plain channels shall receive the entries of a stream, each once, however often tidegate or
//! its connections fail in between.
//!
//! Constraints: PUBLISH leaves nothing that could be compared later, so the step that publishes must also remember what
//! it published. XREAD with BLOCK holds its connection.
//!
//! Operation: a *cursor* beside the stream, the hash `P R:cursor`, has the id of the last entry that was handled. A
//! script compares it with the caller's expectation, publishes a batch and moves it, all or nothing. So a batch with an
//! unknown outcome needs no special care: the next session reads the cursor and continues there. If channel and stream
//! are on different servers, the messages go out first and the cursor moves when all are answered: at least once, and
//! by one instance at a time, which a lease beside the cursor names. An entry that cannot be published goes to the
//! stream `P R:dead-letters` in the step that moves the cursor over it.
//!
//! ```text
//! route ──▶ session ──▶ engine ──▶ entries ─▶ message ─▶ egress ─▶ publisher
//!  retries   sockets     decides
//! ```
//!
//! With a pattern in the place of a name, `streams` finds the streams and runs one such route for each.
//!
//! Failure: every failure ends the session, and a new one begins at the cursor. Exactly once on one
//! server; only a failover that loses the cursor's last step repeats what it covered.

mod connections;
mod engine;
mod failure;
mod group;
mod message;
mod publish;
pub mod replay;
pub mod requeue;
mod route;
#[cfg(test)]
mod simulation;
mod streams;
pub(crate) mod trial;
mod unread_loss;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{Broadcast, Endpoint};
use crate::logs::Outages;
use crate::metrics::{BroadcastMetrics, EndpointMetrics};
use crate::status::Slot;

use route::BroadcastRoute;
use streams::StreamsRoute;

pub use unread_loss::DELETED_UNREAD;

/// The parts of a route.
#[derive(Debug)]
pub struct BroadcastParts {
    /// The route's settings.
    pub settings: Arc<Broadcast>,
    /// The server that holds the streams.
    pub source: Arc<Endpoint>,
    /// The server of the channels. If it has the source's address, both count as one server, and the source's user
    /// needs the rights to publish.
    pub destination: Arc<Endpoint>,
    /// Limits log lines about a server that is down, across its routes.
    pub outages: Outages,
    /// Its place on the board.
    pub slot: Slot,
    /// Handles of the route's metrics.
    pub metrics: BroadcastMetrics,
    /// Handles of the source's metrics.
    pub source_metrics: EndpointMetrics,
    /// Handles of the destination's metrics.
    pub destination_metrics: EndpointMetrics,
}

/// Runs a route until it is stopped; then waits for the calls under way, for up to `drain`.
///
/// Cancel safe in effect: wherever it is dropped, the next run begins at the cursor.
pub async fn run(parts: BroadcastParts, stop: CancellationToken, drain: Duration) {
    match parts.settings.pattern().cloned() {
        Some(matching) => StreamsRoute::new(parts, matching, drain).run(&stop).await,
        None => {
            parts.metrics.streams.set(1.0);
            BroadcastRoute::new(parts).run(&stop, drain).await;
        }
    }
}
