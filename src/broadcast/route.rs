//! A broadcast's life: session after session.

mod metrics;
mod report;
mod session;

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::BroadcastParts;
use super::engine::{Effect, Engine};
use super::group::ack_notifier::AckNotifier;
use crate::position::AnchorId;
use crate::status::RouteState;
use crate::stream::attempts::{Attempts, Waited};
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
            self.tell(0);
            match attempts.wait(wait).await {
                Waited::Whole => {}
                Waited::MasterMoved => self.engine.on_master_moved(),
                Waited::Stopped => break,
            }
        }
        self.state(RouteState::Stopped, None);
    }
}
