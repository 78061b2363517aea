//! A route as it is configured, and as it runs.

use std::sync::Arc;

use tokio::task::{AbortHandle, Id};
use tokio_util::sync::CancellationToken;

use crate::capture::Handover;
use crate::config::{Broadcast, Capture, Config, Endpoint, Invalidate};
use crate::status::{RouteKind, Slot};

/// The plan that a route is started from. Equal plans are the same route: a reload does not touch it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) route: RouteSettings,
    pub(super) source: Arc<Endpoint>,
    pub(super) destination: Arc<Endpoint>,
}

/// The settings of a route.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RouteSettings {
    Capture(Arc<Capture>),
    Broadcast(Arc<Broadcast>),
    Invalidate(Arc<Invalidate>),
}

/// A route whose task has not ended.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) plan: Plan,
    /// Its place on the board.
    pub(super) slot: Slot,
    pub(super) kind: RunningKind,
    pub(super) stop: CancellationToken,
    pub(super) task: AbortHandle,
}

/// The parts of one kind of routes.
#[derive(Debug)]
pub(super) enum RunningKind {
    Capture {
        /// The channel from the route that replaces this one.
        successor: Handover,
        /// The channel to the route that this one replaces.
        predecessor: Option<Handover>,
    },
    /// A broadcast or an invalidation: the next one continues at the cursor.
    Cursor,
}

/// A predecessor as a new route meets it.
#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) handover: Handover,
    /// True if the new route writes the same state.
    pub(super) same_state: bool,
}

impl Plan {
    /// Every route of a configuration, by name, also those that are disabled. No two routes have the same name.
    pub(super) fn all(config: &Config) -> impl Iterator<Item = (String, Self)> {
        let captures = config.capture.values().map(|capture| {
            let ends = (&capture.source, &capture.destination);
            (&capture.name, ends, RouteSettings::Capture(capture.clone()))
        });
        let broadcasts = config.broadcast.values().map(|broadcast| {
            let ends = (&broadcast.source, &broadcast.destination);
            (&broadcast.name, ends, RouteSettings::Broadcast(broadcast.clone()))
        });
        let invalidations = config.invalidate.values().map(|invalidate| {
            let ends = (&invalidate.source, &invalidate.destination);
            (&invalidate.name, ends, RouteSettings::Invalidate(invalidate.clone()))
        });
        // A checked configuration names no endpoint that it does not have.
        captures.chain(broadcasts).chain(invalidations).filter_map(|(name, (source, destination), route)| {
            let (source, destination) = (config.redis.get(source)?, config.redis.get(destination)?);
            Some((name.clone(), Self { route, source: source.clone(), destination: destination.clone() }))
        })
    }

    pub(super) fn kind(&self) -> RouteKind {
        match self.route {
            RouteSettings::Capture(_) => RouteKind::Capture,
            RouteSettings::Broadcast(_) => RouteKind::Broadcast,
            RouteSettings::Invalidate(_) => RouteKind::Invalidate,
        }
    }
}

impl Running {
    pub(super) fn id(&self) -> Id {
        self.task.id()
    }

    /// Stops it: it stores its buffer, within the shutdown timeout.
    pub(super) fn end(&self) {
        self.stop.cancel();
    }

    /// Returns whether it was asked to end.
    pub(super) fn is_ending(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// How a route with this plan may take over while this one runs; `None` if it must wait for its end.
    pub(super) fn hands_over_to(&self, plan: &Plan) -> Option<Predecessor> {
        let (RunningKind::Capture { successor, .. }, RouteSettings::Capture(_)) = (&self.kind, &plan.route)
        else {
            return None;
        };
        // Another server, or another control channel: there is no anchor that both would see.
        let (before, source) = (&self.plan.source, &plan.source);
        if !before.is_same_server(source) || before.key_prefix != source.key_prefix {
            return None;
        }
        let (before, destination) = (&self.plan.destination, &plan.destination);
        let same_state = before.is_same_server(destination)
            && before.database == destination.database
            && before.key_prefix == destination.key_prefix;
        Some(Predecessor { handover: successor.clone(), same_state })
    }

    /// Gives up on a route that has not taken over from its predecessor yet, which then continues as if there had
    /// been none. `false` where it has taken over.
    pub(super) fn withdraw(&self) -> bool {
        let RunningKind::Capture { predecessor: Some(handover), .. } = &self.kind else { return false };
        let withdrawn = handover.withdraw();
        if withdrawn {
            self.task.abort();
        }
        withdrawn
    }
}
