//! The loop of one capture: sockets, files and timers around the engine.
//!
//! [`CaptureRoute::run`] opens the spool, and then is `select` (which awaits an event) and `apply` (which awaits nothing),
//! in turn. `apply` passes the event to the engine, and then carries out the effects: connections, bytes, requests to the
//! spool, log lines. The engine decides everything about messages. The route only chooses the server in replication mode.

mod connection;
mod destination;
mod report;
mod source;
mod spool;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::append::call::CaptureKeys;
use super::append::durability::DurabilityWatch;
use super::append::state::revision::RankedRevision;
use super::engine::handover::{Border, Ended, Handover};
use super::engine::{Counters, Effect, Engine, EngineSettings, HeartbeatReport, Lost, Side};
use super::housekeeping;
use super::memory_quota::MemoryQuota;
use super::retention::acknowledged::AcknowledgedTrimming;
use crate::config::{Capture, Durability, Endpoint};
use crate::event::DropReason;
use crate::logs::{LogCode, Outages};
use crate::metrics::{CaptureMetrics, EndpointMetrics};
use crate::position::Position;
use crate::rt::{self, Moment};
use crate::server::{Error, MasterMoves};
use crate::source::heartbeat::Heartbeat;
use crate::spool::{Spool, SpoolDone};
use crate::status::Slot;

pub use self::spool::SpoolPlace;
use destination::DestinationSide;
use source::SourceSide;

/// The parts of a capture.
#[derive(Debug)]
pub struct CaptureParts {
    /// The route's settings.
    pub capture: Arc<Capture>,
    /// The source.
    pub source: Arc<Endpoint>,
    /// The destination.
    pub destination: Arc<Endpoint>,
    /// The source's heartbeat.
    pub heartbeat: Heartbeat,
    /// Handles of the route's metrics.
    pub metrics: CaptureMetrics,
    /// Handles of the source's metrics.
    pub source_metrics: EndpointMetrics,
    /// Handles of the destination's metrics.
    pub destination_metrics: EndpointMetrics,
    /// Limits log lines about a server that is down, across its routes.
    pub outages: Outages,
    /// The route's place on the board.
    pub slot: Slot,
    /// The route's memory quota.
    pub quota: MemoryQuota,
    /// The directory for items that do not fit in memory, or must survive a crash.
    pub spool: Option<SpoolPlace>,
    /// Which instance this is, among those that run the same configuration.
    pub instance: String,
    /// How long to wait for another instance that could continue without a gap.
    pub force_after: Duration,
    /// Cancelled when the route shall store its buffer and end.
    pub stop: CancellationToken,
    /// Longest duration of that.
    pub drain_deadline: Duration,
    /// The route that it replaces, and whether that one writes the same state.
    pub predecessor: Option<(Handover, bool)>,
    /// The channel from a later route that replaces it.
    pub successor: Handover,
}

/// A running capture.
#[derive(Debug)]
pub struct CaptureRoute {
    parts: CaptureParts,
    keys: CaptureKeys,
    engine: Engine,
    source: SourceSide,
    destination: DestinationSide,
    spool: Option<Spool>,
    durable: Option<DurabilityWatch>,
    /// Changes of both masters, if sentinels know them.
    moves: [(Side, MasterMoves); 2],
    /// Under which revision this instance writes, while it does: only that one trims.
    trims_under: watch::Sender<Option<String>>,
    shown: Option<crate::status::RouteState>,
    wake: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum RouteEvent {
    Source(source::SourceEvent),
    Destination(destination::DestinationEvent),
    Spool(SpoolDone),
    Durable(Position),
    MasterMoved(Side),
    Border(Border),
    Stop,
    Tick,
}

impl CaptureRoute {
    /// Makes a route; nothing happens before [`Self::run`].
    #[must_use]
    pub fn new(parts: CaptureParts) -> Self {
        let now = Moment::now();
        let keys = CaptureKeys::new(&parts.destination.key_prefix, &parts.capture.name);
        let settings = EngineSettings {
            capture: parts.capture.clone(),
            keys: keys.clone(),
            numbering: RankedRevision::numbering(&parts.capture),
            source: parts.source.servers.to_string(),
            epoch_key: crate::config::redis_keys::epoch(&parts.source.key_prefix),
            destination: parts.destination.servers.to_string(),
            durability: parts.destination.durability,
            instance: parts.instance.clone(),
            beat: parts.heartbeat.beat(),
            force_after: parts.force_after,
            drain_deadline: parts.drain_deadline,
            response_timeout: parts.destination.response_timeout,
            quota: parts.quota.clone(),
        };
        let counters = Counters {
            route: parts.metrics.clone(),
            source: parts.source_metrics.clone(),
            destination: parts.destination_metrics.clone(),
        };
        let durable = match parts.destination.durability {
            Durability::Applied => None,
            wanted => Some(DurabilityWatch::start(parts.destination.clone(), &parts.capture.name, wanted)),
        };
        if crate::config::wants_notifications(&parts.capture) {
            parts.heartbeat.ask_for_notifications();
        }
        let (predecessor, successor) = (parts.predecessor.clone(), parts.successor.clone());
        let engine = Engine::new(settings, counters, predecessor, successor, now);
        let inherits = parts.predecessor.as_ref().filter(|(_, same_state)| *same_state);
        let moves = [(Side::Source, &parts.source), (Side::Destination, &parts.destination)]
            .map(|(side, endpoint)| (side, MasterMoves::of(endpoint.clone())));
        Self {
            destination: DestinationSide::new(inherits.map(|(predecessor, _)| predecessor.clone())),
            engine,
            keys,
            source: SourceSide::default(),
            spool: None,
            durable,
            moves,
            trims_under: watch::Sender::new(None),
            shown: None,
            wake: Box::pin(tokio::time::sleep(Duration::ZERO)),
            parts,
        }
    }

    /// Runs until it is stopped or replaced; returns the number of events that could not be stored in time. Dropping
    /// the future drops buffered events; the next start records them as a gap.
    pub async fn run(mut self) -> u64 {
        let housekeeping = self.keep_house();
        self.show_status(Moment::now());
        self.open_spool().await;
        self.settle(Moment::now());
        while !self.engine.is_done(Instant::now()) {
            let event = self.select().await;
            self.apply(event, Moment::now());
        }
        drop(housekeeping);
        self.end()
    }

    async fn select(&mut self) -> RouteEvent {
        let stop = self.parts.stop.clone();
        let successor = self.parts.successor.clone();
        let may_stop = self.engine.may_stop();
        let known = self.engine.awaits_border();
        let stopped = stop.cancelled();
        let border = successor.border_other_than(known.unwrap_or_default());
        tokio::pin!(stopped, border);
        poll_fn(|cx| {
            if may_stop && stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(RouteEvent::Stop);
            }
            if known.is_some()
                && let Poll::Ready(border) = border.as_mut().poll(cx)
            {
                return Poll::Ready(RouteEvent::Border(border));
            }
            self.poll(cx)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RouteEvent> {
        // Replies first: they make room. Time last: an event that arrived meanwhile proves that the peer lives.
        if let Poll::Ready(event) = self.destination.poll(cx) {
            return Poll::Ready(RouteEvent::Destination(event));
        }
        if let Some(spool) = &mut self.spool
            && spool.is_busy()
            && let Poll::Ready(done) = spool.poll_done(cx)
        {
            return Poll::Ready(RouteEvent::Spool(done));
        }
        if let Some(durable) = &mut self.durable
            && let Poll::Ready(position) = durable.poll(cx)
        {
            return Poll::Ready(RouteEvent::Durable(position));
        }
        for (side, moves) in &mut self.moves {
            if moves.poll(cx).is_ready() {
                return Poll::Ready(RouteEvent::MasterMoved(*side));
            }
        }
        if let Poll::Ready(event) = self.source.poll(cx, self.engine.reads()) {
            return Poll::Ready(RouteEvent::Source(event));
        }
        let rests = self.source.rests_until();
        let deadline = rests.into_iter().chain([self.engine.deadline()]).min().unwrap_or_else(Instant::now);
        // An elapsed timer belongs to the previous deadline; it is reset if reading set a later one.
        if self.wake.deadline() > deadline.into() || (self.wake.is_elapsed() && deadline > Instant::now()) {
            self.wake.as_mut().reset(deadline.into());
        }
        self.wake.as_mut().poll(cx).map(|()| RouteEvent::Tick)
    }

    /// Gives what happened to the engine.
    fn apply(&mut self, event: RouteEvent, now: Moment) {
        match event {
            RouteEvent::Source(event) => self.on_source(event, now),
            RouteEvent::Destination(event) => self.on_destination(event, now),
            RouteEvent::Spool(done) => self.engine.on_spool(done, now),
            RouteEvent::Durable(position) => self.engine.on_durable(position),
            RouteEvent::MasterMoved(side) => self.engine.on_master_moved(side, now),
            RouteEvent::Border(border) => self.engine.on_border(border, now),
            RouteEvent::Stop => self.engine.on_stop(now),
            RouteEvent::Tick => {
                self.look_at_heartbeat();
                self.check_tap(now);
                self.engine.on_tick(now);
            }
        }
        self.settle(now);
    }

    /// Passes the findings of the heartbeat's task to the engine.
    fn look_at_heartbeat(&mut self) {
        let heartbeat = &self.parts.heartbeat;
        self.engine.on_heartbeat_task(HeartbeatReport {
            demotions: heartbeat.demotions(),
            error: heartbeat.error(),
            doubt: heartbeat.doubt(),
            confirmed: heartbeat.confirmed(),
        });
    }

    /// Carries out the engine's effects.
    fn settle(&mut self, now: Moment) {
        self.engine.after(now);
        self.perform(now);
        self.destination.transmit(&mut self.engine, now);
        self.perform(now);
        if let (Some(durable), Some(applied)) = (&self.durable, self.engine.applied()) {
            durable.applied(applied);
        }
        if self.spool.as_mut().is_some_and(Spool::has_become_available) {
            self.engine.on_spool_available();
            let route = self.parts.capture.name.as_str();
            tracing::info!(event = LogCode::SpoolAvailable.as_str(), route, "the spool is available now");
        }
        if let Some(spool) = &mut self.spool
            && !spool.is_busy()
            && let Some(request) = self.engine.spool_request(now)
        {
            spool.submit(request);
        }
        if self.engine.take_changed() {
            self.show_status(now);
        }
    }

    fn perform(&mut self, now: Moment) {
        while let Some(effect) = self.engine.next_effect() {
            match effect {
                Effect::Connect(revision) => self.connect(revision),
                Effect::Disconnect => self.destination.disconnect(),
                Effect::OpenWindow { anchor, floor } => self.open_window(anchor, floor),
                Effect::OpenLink(place) => self.open_link(place),
                Effect::Adopt => {
                    self.source.adopt();
                    self.read(now);
                }
                Effect::Tap => {
                    self.tap();
                    self.read(now);
                }
                Effect::DropOpening => self.source.drop_opening(),
                Effect::Close => self.source.close(),
                Effect::Fence => self.source.fence(),
                Effect::Read => self.read(now),
                Effect::Log(notice) => self.log(&notice, now),
            }
        }
    }

    fn end(self) -> u64 {
        let (route, hands_over) = (self.parts.capture.name.clone(), self.engine.hands_over());
        let now = Moment::now();
        let (carried, lost, notice) = self.engine.end(now);
        if lost > 0 {
            self.parts.metrics.dropped(DropReason::Stopped).increment(lost);
        }
        if let Some(notice) = notice {
            report::write(&notice, &route, None);
        }
        // A successor that writes elsewhere has a spool of its own.
        let spool = self.spool.filter(|_| hands_over);
        self.parts.successor.end(Box::new(Ended { carried, spool }));
        lost
    }

    /// Starts the tasks beside the route. They end when the returned guard is dropped.
    fn keep_house(&self) -> DropGuard {
        let stop = CancellationToken::new();
        let CaptureParts { destination, capture, metrics, slot, .. } = &self.parts;
        let trimming = capture.keep.until_acknowledged().map(|_| {
            let trims_under = self.trims_under.subscribe();
            AcknowledgedTrimming::new(
                capture.clone(),
                self.keys.clone(),
                trims_under,
                metrics.clone(),
                slot.clone(),
            )
        });
        let (destination, keys) = (destination.clone(), self.keys.clone());
        let trims_under = self.trims_under.subscribe();
        let keeping =
            housekeeping::keep(destination, capture.clone(), keys, trims_under, trimming, stop.clone());
        rt::spawn("housekeeping", keeping);
        stop.drop_guard()
    }
}

/// A future that a loop polls in its `select`.
type PendingFuture<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;
