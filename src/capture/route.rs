//! The loop of one capture.
//!
//! One struct owns everything; [`Route::run`] is `select` (the only awaits; it returns what happened)
//! and `apply` (which awaits nothing), in turn.
//!
//! ```text
//! source:       waiting ─▶ opening ─▶ open ─▶ waiting …     a new window each time
//!                                      ├─▶ full             no room; opens again when there is
//!                                      └─▶ held             a newer configuration reads elsewhere
//! destination:  inheriting ─▶ waiting ─▶ connecting ─▶ up ─▶ waiting …
//! ending:       running ─▶ draining (told to stop: reads to a fence) ─▶ leaving ─▶ done
//!                     └──▶ handing over (a reload's successor has opened its window) ─▶ done
//! ```
//!
//! Failure: nothing here ends the loop but being told to. Each side comes back by itself, a route that
//! may not write is parked, and what may have been missed is carried by the next window's first batch.

mod destination;
mod intake;
mod keeping;
mod pair;
mod report;
mod source;
mod tapping;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::account::Account;
use super::append::{self, Keys};
use super::batch::{Builder, Gap};
use super::chain::Chain;
use super::counted::Counted;
use super::durable::Durable;
use super::handover::{Border, Ended, Handover};
use super::history::Histories;
use super::housekeeping;
use super::mapping::Mapping;
use super::overflow::{Overflow, Room};
use super::pulse::Pulse;
use super::share::Share;
use super::standing::Standing;
use super::state::Revision;
use super::takeover::Takeover;
use super::trimming::Trimming;
use crate::config::{Capture, Durability, Endpoint};
use crate::event::{DropReason, GapCause};
use crate::filter::Filter;
use crate::logs::{Limited, Outages};
use crate::metrics::{CaptureMetrics, EndpointMetrics};
use crate::position::{AnchorId, Position};
use crate::rt;
use crate::server::Error;
use crate::spool::{self, Spool};
use crate::status::{InHand, Slot};

use destination::Destination;
use source::Source;

/// The loop comes round at least this often, and says so.
const TICK: Duration = Duration::from_secs(1);

/// What a capture is made of.
#[derive(Debug)]
pub struct Parts {
    /// The route's settings.
    pub capture: Arc<Capture>,
    /// Where it reads.
    pub source: Arc<Endpoint>,
    /// Where it writes.
    pub destination: Arc<Endpoint>,
    /// The source's heartbeat.
    pub pulse: Pulse,
    /// Handles of the route's metrics.
    pub metrics: CaptureMetrics,
    /// Handles of the source's metrics.
    pub source_metrics: EndpointMetrics,
    /// Handles of the destination's metrics.
    pub destination_metrics: EndpointMetrics,
    /// Holds back what every route says of a server that is away.
    pub outages: Outages,
    /// The route's place on the board.
    pub slot: Slot,
    /// How much it may hold in memory.
    pub share: Share,
    /// Where it may write what does not fit, and what a crash must not take.
    pub spool: Option<SpoolPlace>,
    /// Which instance this is, among those that run the same configuration.
    pub instance: String,
    /// How long another instance is waited for that could go on without a gap.
    pub force_after: Duration,
    /// Cancelled when it is to store what is in hand and end.
    pub stop: CancellationToken,
    /// How long that may take.
    pub drain_deadline: Duration,
    /// The route that it replaces, and whether that one writes the same state.
    pub predecessor: Option<(Handover, bool)>,
    /// What a later route that replaces it will say.
    pub successor: Handover,
}

/// Where a route's spool is.
#[derive(Debug, Clone)]
pub struct SpoolPlace {
    /// Where all of them are, and who works on them; the route's name claims its own.
    pub keeper: spool::Keeper,
    /// How it is kept.
    pub options: spool::Options,
}

/// A running capture.
#[derive(Debug)]
pub struct Route {
    parts: Parts,
    hashes: String,
    /// Under which revision of the configuration this route writes.
    revision: Option<Revision>,
    /// The anchor at which this configuration takes over from the one that another instance runs.
    takeover: Takeover,
    /// A newer configuration writes elsewhere.
    superseded: Option<String>,
    /// What follows is a newer configuration's to write, which has announced where it begins and has not written
    /// yet. It is held all the same: that instance may fail before it does.
    yields: bool,
    keys: Keys,
    filter: Filter,
    mapping: Mapping,
    builder: Builder,
    chain: Chain,
    overflow: Overflow,
    spool: Option<Spool>,
    standing: Standing,
    account: Account,
    durable: Option<Durable>,
    /// Up to where what is stored is known to be durable.
    known_durable: Option<Position>,
    source: Source,
    destination: Destination,
    ending: Ending,
    /// A stretch that may be missing and that no window has ended yet.
    gap: Option<Gap>,
    /// What the source had counted: when the window was lost, at the first window's anchor, when the state was
    /// last written before this process, and when this route last wrote it.
    counts: Counts,
    /// The source's histories, where its replication stream is read.
    histories: Histories,
    /// No epoch below this may be handed out.
    floor: u64,
    /// Where the successor's numbering begins, once this route's window has come there.
    border: Option<Position>,
    /// The same in this route's own numbering, which is another one where it reads a replication stream.
    border_place: Option<Position>,
    known_border: Border,
    /// Under which revision this instance writes, while it does: only that one trims.
    writes_as: watch::Sender<Option<String>>,
    log: Limited,
    report: report::Report,
    wake: Pin<Box<Sleep>>,
    woke: Instant,
}

/// Counts of the source's messages, see [`Counted`].
#[derive(Debug, Default)]
struct Counts {
    lost: Option<Counted>,
    first: Option<Counted>,
    state: Option<Counted>,
    noted: Option<Counted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Running,
    /// Told to stop: what was published before is read, and what is in hand is stored, until then.
    Draining(Instant),
    /// A successor runs, elsewhere: what is before the border is stored; until then, where this was told
    /// to stop.
    HandingOver(Option<Instant>),
    /// A successor runs and takes over what is not stored.
    HandedOver,
}

/// What happened.
#[derive(Debug)]
enum Action {
    Source(source::Event),
    Destination(destination::Event),
    Spool(spool::Done),
    Durable(Position),
    Border(Border),
    Stop,
    Tick,
}

impl Route {
    /// Makes a route; nothing happens before [`Self::run`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let now = Instant::now();
        let revision = parts.capture.revision();
        let predecessor = match &parts.predecessor {
            Some((predecessor, true)) => Some(predecessor.clone()),
            _ => None,
        };
        let standing = Standing::new(parts.instance.clone(), parts.force_after, now);
        let durable = match parts.destination.durability {
            Durability::Applied => None,
            wanted => Some(Durable::start(parts.destination.clone(), &parts.capture.name, wanted)),
        };
        Self {
            hashes: format!("{}-{}", revision.numbering, revision.mapping),
            revision: None,
            takeover: Takeover::None,
            superseded: None,
            yields: false,
            overflow: Overflow::default(),
            spool: None,
            standing,
            account: Account::default(),
            durable,
            known_durable: None,
            keys: Keys::new(&parts.destination.key_prefix, &parts.capture.name),
            filter: Filter::new(&parts.capture.conditions),
            mapping: Mapping::new(&parts.capture),
            builder: Builder::new(Arc::new(append::options(&parts.capture))),
            chain: Chain::default(),
            source: Source::new(now),
            destination: Destination::new(now, predecessor),
            ending: Ending::Running,
            gap: None,
            counts: Counts::default(),
            histories: Histories::default(),
            floor: 0,
            border: None,
            border_place: None,
            known_border: Border::None,
            writes_as: watch::Sender::new(None),
            log: Limited::new(),
            report: report::Report::default(),
            wake: Box::pin(tokio::time::sleep(TICK)),
            woke: now,
            parts,
        }
    }

    /// Runs until told to stop or replaced; returns how many events could not be stored in time.
    /// Dropping the future drops what is in hand; the next start records that as a gap.
    pub async fn run(mut self) -> u64 {
        let housekeeping = self.keep_house();
        self.publish();
        self.open_spool().await;
        while !self.is_done(Instant::now()) {
            let action = self.select().await;
            self.apply(action, Instant::now());
        }
        drop(housekeeping);
        self.ended()
    }

    async fn select(&mut self) -> Action {
        let stop = self.parts.stop.clone();
        let successor = self.parts.successor.clone();
        let stopped = stop.cancelled();
        let border = successor.border_other_than(self.known_border);
        tokio::pin!(stopped, border);
        let may_stop = matches!(self.ending, Ending::Running | Ending::HandingOver(None));
        let may_hand_over = !matches!(self.ending, Ending::HandingOver(_) | Ending::HandedOver);
        poll_fn(|cx| {
            if may_stop && stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Action::Stop);
            }
            if may_hand_over && let Poll::Ready(border) = border.as_mut().poll(cx) {
                return Poll::Ready(Action::Border(border));
            }
            self.poll(cx)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Action> {
        // Replies first: they make room. Time last: what came meanwhile proves that a peer lives.
        if let Poll::Ready(event) = self.destination.poll(cx) {
            return Poll::Ready(Action::Destination(event));
        }
        if let Some(spool) = &mut self.spool
            && spool.is_busy()
            && let Poll::Ready(done) = spool.poll_done(cx)
        {
            return Poll::Ready(Action::Spool(done));
        }
        if let Some(durable) = &mut self.durable
            && let Poll::Ready(position) = durable.poll(cx)
        {
            return Poll::Ready(Action::Durable(position));
        }
        if let Poll::Ready(event) = self.source.poll(cx) {
            return Poll::Ready(Action::Source(event));
        }
        let deadline = self.next_deadline();
        // One that is over was for what was read above, where that has set another.
        if self.wake.deadline() > deadline.into() || (self.wake.is_elapsed() && deadline > Instant::now()) {
            self.wake.as_mut().reset(deadline.into());
        }
        self.wake.as_mut().poll(cx).map(|()| Action::Tick)
    }

    fn apply(&mut self, action: Action, now: Instant) {
        match action {
            Action::Source(event) => self.on_source(event, now),
            Action::Destination(event) => self.on_destination(event, now),
            Action::Spool(done) => self.on_spool(done, now),
            Action::Durable(position) => self.on_durable(position),
            Action::Border(border) => self.on_border(border),
            Action::Stop => self.on_stop(now),
            Action::Tick => self.on_tick(now),
        }
        // Where events come without a pause, the timer is never asked.
        if now.duration_since(self.woke) >= TICK {
            self.on_tick(now);
        }
        self.pump(now);
        self.keep(now);
    }

    /// When the loop must come round, whatever happens.
    fn next_deadline(&self) -> Instant {
        let mut deadline = self.woke + TICK;
        let due = self.stand_due();
        for other in [self.source.deadline(), self.destination.deadline(), due].into_iter().flatten() {
            deadline = deadline.min(other);
        }
        match self.ending {
            Ending::Draining(until) | Ending::HandingOver(Some(until)) => deadline.min(until),
            Ending::Running | Ending::HandingOver(None) | Ending::HandedOver => deadline,
        }
    }

    fn on_tick(&mut self, now: Instant) {
        if now.duration_since(self.woke) > 2 * TICK {
            // This process was stopped for a while: then silence says nothing of the peers.
            self.source.forgive(now);
        }
        self.woke = now;
        self.wake.as_mut().reset((now + TICK).into());
        // What is read and waits is not to wait in the open batch, where it cannot be kept.
        self.flush_builder();
        self.check_source(now);
        self.check_destination(now);
        self.publish();
    }

    fn on_stop(&mut self, now: Instant) {
        let until = now + self.parts.drain_deadline;
        if matches!(self.ending, Ending::HandingOver(_)) {
            self.ending = Ending::HandingOver(Some(until));
        } else {
            self.ending = Ending::Draining(until);
            self.overflow.hurry();
            self.standing.hurry();
            self.finish_source();
        }
        self.publish();
    }

    /// The successor has said something.
    fn on_border(&mut self, border: Border) {
        self.known_border = border;
        match border {
            Border::None => self.forget_border(),
            Border::Here => self.hand_over_here(),
            Border::Announced(id) => {
                if !self.is_past(id) {
                    // An earlier announcement, withdrawn meanwhile, holds nothing back any more.
                    self.forget_border();
                }
            }
            Border::Open(position) => {
                let coming = self.source.is_open() && self.builder.last() < Some(position);
                if !self.is_past(position.epoch.anchor) && coming {
                    // Not there yet: `read_window` stops when the anchor comes.
                    self.forget_border();
                    return;
                }
                self.hand_over(position);
            }
        }
    }

    fn forget_border(&mut self) {
        self.border = None;
        self.border_place = None;
    }

    /// Whether this route's window has come to an anchor that a successor announced.
    fn is_past(&self, anchor: AnchorId) -> bool {
        self.border.is_some_and(|border| border.epoch.anchor == anchor)
    }

    /// Everything from the border on is the successor's.
    fn hand_over(&mut self, border: Position) {
        let contiguous = self.is_past(border.epoch.anchor);
        let place = self.border_place.filter(|_| contiguous).unwrap_or(border);
        self.border = Some(border);
        self.border_place = Some(place);
        let inherits = self.parts.successor.inherits();
        self.ending = match self.ending {
            _ if inherits => Ending::HandedOver,
            Ending::Draining(until) => Ending::HandingOver(Some(until)),
            Ending::HandingOver(until) => Ending::HandingOver(until),
            Ending::Running | Ending::HandedOver => Ending::HandingOver(None),
        };
        self.close_source();
        self.flush_builder();
        let (others, gap) = self.overflow.cut(place, &mut self.chain);
        self.parts.metrics.deduplicated.increment(others);
        self.account.deduplicated(others);
        // Only what may be missing before the border is the successor's to record: where a window of
        // this route begins beyond it, the gap that this window would have recorded.
        self.gap = if contiguous { None } else { gap.or(self.gap.take()) };
        self.publish();
    }

    fn is_done(&self, now: Instant) -> bool {
        match self.ending {
            Ending::Running => false,
            // What its own predecessor leaves is handed on.
            Ending::HandedOver => !self.destination.is_inheriting(),
            Ending::Draining(until) => now >= until || (self.has_settled() && self.destination.has_left()),
            Ending::HandingOver(until) => {
                let stored = self.chain.is_empty() && self.overflow.is_empty();
                until.is_some_and(|until| now >= until) || (stored && self.destination.is_idle())
            }
        }
    }

    /// Whether nothing would be lost if this ended now.
    fn has_settled(&self) -> bool {
        if self.source.is_open() || self.builder.open_items() > 0 {
            return false;
        }
        let stored = self.chain.is_empty() && self.overflow.is_empty();
        let last = self.overflow.last().or(self.chain.last());
        let spooled = self.overflow.has_written(last) && !self.destination.is_up();
        stored || spooled || self.is_covered()
    }

    fn ended(mut self) -> u64 {
        let leader = self.standing.is_leader();
        if self.ending == Ending::HandedOver {
            self.parts.successor.end(Box::new(Ended {
                chain: self.chain,
                overflow: self.overflow,
                spool: self.spool,
                broken: self.gap,
                leader,
                histories: self.histories,
            }));
            return 0;
        }
        let left = self.in_hand().total();
        let last = self.overflow.last().or(self.chain.last());
        let lost = if self.overflow.has_written(last) || self.is_covered() { 0 } else { left };
        let route = self.parts.capture.name.as_str();
        if lost > 0 {
            self.parts.metrics.dropped(DropReason::Stopped).increment(lost);
            tracing::error!(
                event = "drain_incomplete",
                route,
                events = lost,
                "{lost} events could not be stored within shutdown_timeout and are lost; the next start \
                 records the gap. Give tidegate a state_directory that it may write, or bring the \
                 destination back before stopping"
            );
        } else if left > 0 {
            tracing::info!(
                event = "left_in_hand",
                route,
                events = left,
                "{left} events are not stored yet: they are in the spool, or another instance holds them"
            );
        }
        let broken = self.gap.take().or_else(|| {
            (lost > 0).then(|| stopped(&format!("{lost} events could not be stored before the deadline")))
        });
        // The successor writes elsewhere: only where it stands matters, and what is missing.
        let mut chain = Chain::default();
        std::mem::swap(&mut chain, &mut self.chain);
        self.parts.successor.end(Box::new(Ended {
            chain,
            overflow: Overflow::default(),
            spool: None,
            broken,
            leader,
            // Another state numbers them by itself.
            histories: Histories::default(),
        }));
        lost
    }

    /// Moves what was read towards the destination.
    fn flush_builder(&mut self) {
        if let Some(batch) = self.builder.take() {
            let room = self.room();
            self.overflow.push(batch, &mut self.chain, room);
        }
    }

    /// How much may wait in memory. A part is for what is stored and kept until that is durable.
    fn room(&self) -> Room {
        let share = self.parts.share.bytes();
        Room { chain: share / 2, tail: share / 4 }
    }

    /// What is in hand, counted where it is.
    fn in_hand(&self) -> InHand {
        let sent = self.chain.sent_events();
        InHand {
            ring: self.chain.held_events() - sent + self.overflow.tail_events() + self.builder.open_events(),
            in_flight: sent,
            spool: self.overflow.disk_events(),
            unrecorded: self.chain.unrecorded_events()
                + self.overflow.unrecorded_events()
                + self.builder.open_loss(),
        }
    }

    /// Starts what runs beside the route, and ends with what is returned.
    fn keep_house(&self) -> DropGuard {
        let stop = CancellationToken::new();
        let Parts { destination, capture, metrics, slot, .. } = &self.parts;
        let trimming = capture.keep.until_acknowledged().map(|_| {
            let writes_as = self.writes_as.subscribe();
            Trimming::new(capture.clone(), self.keys.clone(), writes_as, metrics.clone(), slot.clone())
        });
        let (destination, keys) = (destination.clone(), self.keys.clone());
        let writes_as = self.writes_as.subscribe();
        let keeping =
            housekeeping::keep(destination, capture.clone(), keys, writes_as, trimming, stop.clone());
        rt::spawn("housekeeping", keeping);
        stop.drop_guard()
    }

    /// Bytes in memory: what is read, what waits, what is sent, what is kept.
    fn held_bytes(&self) -> usize {
        self.chain.held_bytes()
            + self.chain.kept_bytes()
            + self.overflow.held_bytes()
            + self.source.held_bytes()
            + self.destination.held_bytes()
    }
}

/// The stretch from now on, which a route that ends does not watch.
fn stopped(detail: &str) -> Gap {
    Gap {
        cause: GapCause::Restart,
        detail: detail.to_owned(),
        started_unix_ms: rt::unix_ms(),
        ended_unix_ms: 0,
        dropped: 0,
        published: None,
    }
}

/// A future that a loop polls in its `select`.
type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;
