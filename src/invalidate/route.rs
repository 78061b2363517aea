//! An invalidation's life: session after session.

mod report;
mod session;

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::InvalidateParts;
use super::engine::Engine;
use crate::status::RouteState;
use crate::stream::attempts::{Attempts, Waited};
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
        let (source, destination) = (self.parts.source.clone(), self.parts.destination.clone());
        let mut attempts = Attempts::new(self.parts.slot.clone(), stop.clone(), source, destination);
        loop {
            let failure = match attempts.open(Session::open(&mut self)).await {
                None => break,
                Some(Ok(session)) => match session.run(stop, drain).await {
                    Ok(()) => break,
                    Err(failure) => failure,
                },
                Some(Err(failure)) => failure,
            };
            let wait = self.engine.fail(&failure, Instant::now());
            self.tell();
            match attempts.wait(wait).await {
                Waited::Whole => {}
                Waited::MasterMoved => self.engine.on_master_moved(),
                Waited::Stopped => break,
            }
        }
        self.tell();
        self.state(RouteState::Stopped, None);
    }
}
