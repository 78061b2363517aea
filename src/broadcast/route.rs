//! A broadcast's life: session after session.

mod metrics;
mod report;
mod session;

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::BroadcastParts;
use super::engine::{Effect, Engine};
use super::group::ack_notifier::AckNotifier;
use crate::position::AnchorId;
use crate::rt::living;
use crate::server::MasterMoves;
use crate::status::RouteState;
use session::Session;

/// State that outlives a session.
#[derive(Debug)]
pub(super) struct BroadcastRoute {
    pub(super) engine: Engine,
    pub(super) parts: BroadcastParts,
    /// Watches the replication stream for acknowledgements.
    pub(super) notifier: Option<AckNotifier>,
    effects: Vec<Effect>,
}

impl BroadcastRoute {
    pub(super) fn new(parts: BroadcastParts) -> Self {
        let me = AnchorId::random().to_string();
        let engine = Engine::new(parts.settings.clone(), &parts.source, &parts.destination, me);
        Self { engine, parts, notifier: None, effects: Vec::new() }
    }

    pub(super) async fn run(mut self, stop: &CancellationToken, drain: Duration) {
        let settings = &self.parts.settings;
        self.notifier =
            settings.acknowledged().filter(|acknowledged| acknowledged.replication).map(|acknowledged| {
                let source = self.parts.source.clone();
                AckNotifier::start(source, settings.name.clone(), settings.stream(), &acknowledged.group)
            });
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
            self.tell(0);
            tokio::select! {
                () = stop.cancelled() => break,
                () = living(&slot, sleep(wait)) => {}
                () = source.next() => self.engine.on_master_moved(),
                () = destination.next() => self.engine.on_master_moved(),
            }
        }
        self.state(RouteState::Stopped, None);
    }
}
