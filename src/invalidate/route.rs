//! An invalidation's life: session after session.

mod report;
mod session;

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::InvalidateParts;
use super::engine::Engine;
use crate::rt::living;
use crate::server::MasterMoves;
use crate::status::RouteState;
use session::Session;

/// State that outlives a session.
#[derive(Debug)]
pub(super) struct InvalidateRoute {
    engine: Engine,
    parts: InvalidateParts,
    /// True once a session has worked.
    worked: bool,
}

impl InvalidateRoute {
    pub(super) fn new(parts: InvalidateParts) -> Self {
        let settings = parts.settings.clone();
        let engine = Engine::new(settings, &parts.source, &parts.destination, Instant::now());
        Self { engine, parts, worked: false }
    }

    pub(super) async fn run(mut self, stop: &CancellationToken, drain: Duration) {
        let slot = self.parts.slot.clone();
        let [mut source, mut destination] =
            [&self.parts.source, &self.parts.destination].map(|endpoint| MasterMoves::of(endpoint.clone()));
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => Ok(None),
                outcome = living(&slot, Session::open(&mut self)) => outcome.map(Some),
            };
            slot.tried();
            let failure = match outcome {
                Ok(None) => break,
                Ok(Some(session)) => match session.run(stop, drain).await {
                    Ok(()) => break,
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let wait = self.engine.fail(&failure, Instant::now());
            self.tell();
            tokio::select! {
                () = stop.cancelled() => break,
                () = living(&slot, sleep(wait)) => {}
                () = source.next() => self.engine.on_master_moved(),
                () = destination.next() => self.engine.on_master_moved(),
            }
        }
        self.tell();
        self.state(RouteState::Stopped, None);
    }
}
