//! The attempts of a route that works in sessions: to open one, and to wait before the next.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::Endpoint;
use crate::rt::living;
use crate::server::MasterMoves;
use crate::status::Slot;

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Its time has passed.
    Whole,
    /// Sentinels report another master of one of the servers.
    MasterMoved,
    /// The route is stopped.
    Stopped,
}

/// A route's attempts at its two servers.
#[derive(Debug)]
pub(crate) struct Attempts {
    slot: Slot,
    stop: CancellationToken,
    source: MasterMoves,
    destination: MasterMoves,
}

impl Attempts {
    pub(crate) fn new(
        slot: Slot,
        stop: CancellationToken,
        source: Arc<Endpoint>,
        destination: Arc<Endpoint>,
    ) -> Self {
        Self { slot, stop, source: MasterMoves::of(source), destination: MasterMoves::of(destination) }
    }

    /// Opens a session, and notes on the board that the route has tried; `None` once the route is stopped. Cancel safe
    /// if `opening` is.
    pub(crate) async fn open<S>(&self, opening: impl Future<Output = S>) -> Option<S> {
        let opened = tokio::select! {
            () = self.stop.cancelled() => None,
            opened = living(&self.slot, opening) => Some(opened),
        };
        self.slot.tried();
        opened
    }

    /// Waits before the next attempt. Cancel safe.
    pub(crate) async fn wait(&mut self, wait: Duration) -> Waited {
        tokio::select! {
            () = self.stop.cancelled() => Waited::Stopped,
            () = living(&self.slot, sleep(wait)) => Waited::Whole,
            () = self.source.next() => Waited::MasterMoved,
            () = self.destination.next() => Waited::MasterMoved,
        }
    }
}
