//! The decisions of a capture, without any I/O: events in, effects out.
//!
//! ```text
//!              read · reply · error reply · spool done · tick with the time · stop · reload
//!                                          │ on_…
//!   ┌──────────────────────────────────────▼───────────────────────────────────────────┐
//!   │ reading ─▶ ingest ─▶ builder ─▶ spill ─▶ chain ─▶ writing      leadership rollout │
//!   │ windows    filter,   batches    to disk, in       calls and    who writes,  by    │
//!   │            mapping              and back order    replies      which configuration│
//!   └──────────────────────────────────────┬───────────────────────────────────────────┘
//!                                          ▼ next_effect, transmit, spool_request, deadline
//!              open or close a window · connect · bytes to send · write or read the spool · log
//! ```
//!
//! The route owns sockets, files and timers, and carries out the effects. The simulation drives this very type with
//! simulated servers, disks and clocks. Two cells are shared with other routes of the process, and hold no I/O: the
//! handover of a reload, and the share of memory.
//!
//! Failure: only a stop or a successor ends the engine. Each side reconnects by itself, a route without the right to
//! write is blocked, and the next recorded gap covers what may be missing.

mod chain;
mod ending;
pub(super) mod handover;
mod leadership;
mod ledger;
mod peers;
mod reading;
mod report;
mod rollout;
mod spill;
mod trim_permission;
mod writing;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::append::call::{self, CaptureKeys};
use super::append::state::revision::RankedRevision;
use super::batch::Batch;
use super::batch::builder::Builder;
use super::batch::gap::Gap;
use super::mapping::Mapping;
use super::memory_quota::MemoryQuota;
use crate::config::{Capture, Durability};
use crate::filter::Filter;
use crate::logs::LogCode;
use crate::metrics::{CaptureMetrics, EndpointMetrics};
use crate::position::{AnchorId, Position};
use crate::rt::Moment;
use crate::source::heartbeat::HeartbeatClock;
use crate::source::replication::ReplicationOffset;
use crate::source::replication::histories::Histories;
use crate::spool::{Recovered, SpoolDone, SpoolRequest};
use crate::status::Buffered;
use handover::{Border, Handover};

pub(super) use leadership::LEASE;
pub(super) use reading::ingest::Flow;
pub(super) use reading::replication::Linked;
pub(super) use reading::{HeartbeatReport, Lost};
pub(super) use report::CaptureSnapshot;
pub(super) use report::notice::{Notice, Severity, Side};
pub(super) use writing::{Connected, Scripts};

use chain::Chain;
use ending::Ending;
use leadership::Leadership;
use ledger::EngineLedger;
use reading::Reading;
use report::notice::Notices;
use rollout::Rollout;
use spill::{MemoryRoom, Spill};
use writing::Writing;

/// The engine is ticked at least this often.
const TICK: Duration = Duration::from_secs(1);
/// With `durability = "applied"`: how long stored batches are kept, counted to the destination's last answer. A failover
/// loses the last moment's entries, which the replica has not received.
const KEPT: Duration = Duration::from_secs(2);
/// Most bytes that are kept for that: at full speed, a part of a second.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

/// The settings and facts that an engine is made for.
#[derive(Debug, Clone)]
pub(super) struct EngineSettings {
    pub(super) capture: Arc<Capture>,
    pub(super) keys: CaptureKeys,
    /// The numbering of messages in this configuration.
    pub(super) numbering: String,
    /// The servers' addresses, for the operator.
    pub(super) source: String,
    /// True if another server can become the source: sentinels name it, or several addresses are configured.
    pub(super) source_moves: bool,
    pub(super) destination: String,
    /// The source's key with the last epoch, for the operator.
    pub(super) epoch_key: String,
    pub(super) durability: Durability,
    /// This instance among those that run the same route.
    pub(super) instance: String,
    /// Recognises and dates heartbeats of this process.
    pub(super) beat: HeartbeatClock,
    /// How long to wait for another instance that could continue without a gap.
    pub(super) force_after: Duration,
    /// Longest duration of an ordered end.
    pub(super) drain_deadline: Duration,
    /// Longest time for the destination to answer a batch.
    pub(super) response_timeout: Duration,
    pub(super) quota: MemoryQuota,
}

/// The metrics that an engine counts in.
#[derive(Debug, Clone)]
pub(super) struct Counters {
    pub(super) route: CaptureMetrics,
    pub(super) source: EndpointMetrics,
    pub(super) destination: EndpointMetrics,
}

/// An instruction to the route.
#[derive(Debug)]
pub(super) enum Effect {
    /// Connect to the destination under this revision, or a new one; then [`Engine::on_connected`] or
    /// [`Engine::on_disconnected`].
    Connect(Option<RankedRevision>),
    /// Close the connection to the destination.
    Disconnect,
    /// Open a window beside the one that may be open; then [`Engine::on_opened`] or [`Engine::on_not_opened`].
    OpenWindow { anchor: AnchorId, floor: u64 },
    /// Open a replication link at a place; then [`Engine::on_linked`] or [`Engine::on_not_opened`].
    OpenLink(Option<ReplicationOffset>),
    /// Close the open window, if any, and read the opened one from now on.
    Adopt,
    /// Read the opened link as a tap from now on.
    Tap,
    /// Drop the reader that is being opened, or is opened and not adopted.
    DropOpening,
    /// Close the open window or tap.
    Close,
    /// Ask the source to say when everything is delivered that was published until now.
    Fence,
    /// Read the bytes that have already arrived.
    Read,
    /// Write a log line.
    Log(Notice),
}

/// The decisions of one capture. See the module.
#[derive(Debug)]
pub(super) struct Engine {
    settings: EngineSettings,
    counters: Counters,
    filter: Filter,
    mapping: Mapping,
    builder: Builder,
    chain: Chain,
    spill: Spill,
    leadership: Leadership,
    rollout: Rollout,
    /// Under which revision of the configuration this route writes.
    revision: Option<RankedRevision>,
    ledger: EngineLedger,
    reading: Reading,
    writing: Writing,
    ending: Ending,
    /// The position up to which items are known to be durable.
    known_durable: Option<Position>,
    /// A stretch that may be missing and that no window has ended yet.
    gap: Option<Gap>,
    /// The source's histories, if its replication stream is read.
    histories: Histories,
    /// No epoch below this may be handed out.
    floor: u64,
    predecessor: Option<(Handover, bool)>,
    successor: Handover,
    border: Borders,
    notices: Notices,
    effects: VecDeque<Effect>,
    report: report::ReportState,
    woke: Instant,
}

/// Where a successor's numbering begins.
#[derive(Debug, Default)]
struct Borders {
    /// The anchor, once this route's window has come there.
    reached: Option<Position>,
    /// The border in this route's own numbering, which differs if it reads a replication stream.
    place: Option<Position>,
    /// The border that the successor reported last.
    known: Border,
    /// True if this route's window reached it.
    contiguous: bool,
}

impl Engine {
    /// An engine without connections. `predecessor` is the route that this one replaces, and whether it writes the same
    /// state.
    pub(super) fn new(
        settings: EngineSettings,
        counters: Counters,
        predecessor: Option<(Handover, bool)>,
        successor: Handover,
        now: Moment,
    ) -> Self {
        let capture = &settings.capture;
        let inherits = predecessor.as_ref().is_some_and(|(_, same_state)| *same_state);
        Self {
            filter: Filter::new(&capture.conditions),
            mapping: Mapping::new(capture),
            builder: Builder::new(Arc::new(call::options(capture, &settings.numbering))),
            chain: Chain::new(&settings.numbering),
            spill: Spill::default(),
            leadership: Leadership::new(settings.instance.clone(), settings.force_after, now.at),
            rollout: Rollout::Current,
            revision: None,
            ledger: EngineLedger::default(),
            reading: Reading::new(settings.source_moves, now.at),
            writing: Writing::new(inherits, now.at),
            ending: Ending::Running,
            known_durable: None,
            gap: None,
            histories: Histories::default(),
            floor: 0,
            predecessor,
            successor,
            border: Borders::default(),
            notices: Notices::default(),
            effects: VecDeque::new(),
            report: report::ReportState::default(),
            woke: now.at,
            settings,
            counters,
        }
    }

    /// The next thing to do.
    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    fn log(&mut self, notice: Notice, now: Moment) {
        if let Some(notice) = self.notices.admit(notice, now.at) {
            self.effects.push_back(Effect::Log(notice));
        }
    }

    /// When the engine must be ticked, whatever happens.
    pub(super) fn deadline(&self) -> Instant {
        let mut deadline = self.woke + TICK;
        let due = self.lease_due();
        for other in [self.reading.deadline(), self.writing.deadline(), due].into_iter().flatten() {
            deadline = deadline.min(other);
        }
        match self.ending {
            Ending::Draining(until) | Ending::HandingOver(Some(until)) => deadline.min(until),
            Ending::Running | Ending::HandingOver(None) | Ending::HandedOver => deadline,
        }
    }

    /// Ends every event: gives the time to what waits for it.
    pub(super) fn after(&mut self, now: Moment) {
        // If events come without a pause, no timer is polled.
        if now.at.duration_since(self.woke) >= TICK {
            self.on_tick(now);
        }
        let room = self.room();
        if self.settings.durability == Durability::Applied {
            // A destination that does not answer may come back without what it stored last.
            let answered = self.writing.answered.map_or(now.at, |answered| answered.at);
            self.chain.retire_old((now.at, answered), KEPT, room.tail.min(KEPT_BYTES));
        }
        self.spill.refill(&mut self.chain, room);
        self.watch_room(now);
        self.connect_if_due(now);
        self.open_if_due(now);
    }

    /// Sentinels report another master of this side: stop waiting for the old one.
    pub(super) fn on_master_moved(&mut self, side: Side, now: Moment) {
        match side {
            Side::Source => self.hurry_opening(now),
            Side::Destination => self.hurry_connecting(now),
        }
    }

    /// Time has passed.
    pub(super) fn on_tick(&mut self, now: Moment) {
        if now.at.duration_since(self.woke) > 2 * TICK {
            // This process was stopped for a while: silence of the peers means nothing.
            self.reading.forgive(now);
        }
        self.woke = now.at;
        // Items that wait must not stay in the open batch, which cannot be kept.
        self.flush_builder();
        self.check_reading(now);
        self.check_writing(now);
        self.changed();
    }

    /// The next request to the spool. To be called while the spool is idle.
    pub(super) fn spool_request(&mut self, now: Moment) -> Option<SpoolRequest> {
        if self.border.reached.is_some() {
            return None;
        }
        let durable = match self.settings.durability {
            Durability::Applied => self.chain.checkpoint(),
            Durability::Replicated(_) | Durability::Fsynced => self.known_durable,
        };
        let room = self.room();
        self.spill.request(&self.chain, durable, room, now.at)
    }

    /// There is a spool from now on, with the records of an earlier process.
    pub(super) fn on_spool_opened(&mut self, recovered: &Recovered) {
        let last = recovered.last.map(Position::from_bytes);
        self.raise_floor(last.map_or(0, |last| last.epoch.number + 1));
        self.spill = Spill::with_spool(last, recovered);
        let complete = recovered
            .ends
            .as_ref()
            .map(|ends| ends.each_ref().map(|body| Batch::recorded_complete_unix_ms(body)));
        if let Some([Some(first), Some(last)]) = complete {
            self.chain.on_recovered(first, last);
        }
    }

    /// Gives up everything that is buffered, also what an earlier process left on disk. Returns the number of messages.
    fn clear_buffered(&mut self) -> u64 {
        let spilled = self.spill.clear();
        self.ledger.received(spilled.unread);
        // A border that was read has nothing before it any more: the successor does not continue there without a gap.
        self.forget_border();
        self.chain.clear() + spilled.events
    }

    /// An empty spool has become available.
    pub(super) fn on_spool_available(&mut self) {
        self.spill.enable();
    }

    /// Takes in the spool's answer.
    pub(super) fn on_spool(&mut self, done: SpoolDone, now: Moment) {
        let room = self.room();
        let outcome = self.spill.done(done, &mut self.chain, self.builder.options(), room, now);
        self.ledger.received(outcome.recovered);
        if let Some(error) = outcome.failed {
            let text = format!(
                "{error}; new messages stay in memory until the spool works again; tidegate retries every 2 s"
            );
            self.log(Notice::error(LogCode::SpoolFailed, text), now);
        }
        for damage in outcome.damaged {
            let text = format!(
                "{damage}; a gap records the loss. Intact records are stored, and the damaged file is kept beside the spool. \
                 Check the disk"
            );
            self.log(Notice::error(LogCode::SpoolCorrupt, text), now);
            self.leadership.hurry();
        }
    }

    /// Items up to here are durable. A position after the checkpoint belongs to a server that is gone.
    pub(super) fn on_durable(&mut self, position: Position) {
        if Some(position) > self.chain.checkpoint() {
            return;
        }
        self.known_durable = self.known_durable.max(Some(position));
        self.chain.retire(self.known_durable);
    }

    /// The position up to which this instance has stored, while it writes: for the watch of durability.
    pub(super) fn applied(&self) -> Option<Option<Position>> {
        self.leadership.is_leader().then(|| self.chain.checkpoint())
    }

    /// Returns whether more is stored than may be kept until it is durable: then nothing is sent for a while.
    fn waits_for_durability(&self) -> bool {
        self.settings.durability != Durability::Applied && self.chain.kept_bytes() > self.room().tail
    }

    /// The last item that is, or was, buffered.
    fn given(&self) -> Option<Position> {
        self.builder.last().max(self.spill.last()).max(self.chain.last())
    }

    /// No epoch below this may be handed out from now on, here or to a successor.
    fn raise_floor(&mut self, floor: u64) {
        if floor > self.floor {
            self.floor = floor;
            self.successor.set_floor(floor);
        }
    }

    /// Moves the open batch towards the destination.
    fn flush_builder(&mut self) {
        if let Some(batch) = self.builder.take() {
            let room = self.room();
            self.spill.push(batch, &mut self.chain, room);
        }
    }

    /// The memory limits. A part is for batches that are kept until they are durable.
    fn room(&self) -> MemoryRoom {
        let quota = self.settings.quota.bytes();
        MemoryRoom { chain: quota / 2, tail: quota / 4 }
    }

    /// Number of waiting messages, by place.
    fn in_hand(&self) -> Buffered {
        let sent = self.chain.sent_events();
        Buffered {
            memory: self.chain.held_events() - sent + self.spill.tail_events() + self.builder.open_events(),
            in_flight: sent,
            spool: self.spill.disk_events(),
            unrecorded: self.chain.unrecorded_events()
                + self.spill.unrecorded_events()
                + self.builder.open_loss(),
        }
    }

    /// Nothing waits to be stored.
    fn is_drained(&self) -> bool {
        self.chain.is_empty() && self.spill.is_empty()
    }

    /// The last item that was given behind the builder.
    fn last_given(&self) -> Option<Position> {
        self.spill.last().or(self.chain.last())
    }

    /// Counts messages that another instance stores or has stored.
    fn count_deduplicated(&mut self, events: u64) {
        self.counters.route.deduplicated.increment(events);
        self.ledger.deduplicated(events);
    }

    /// Returns whether no item waits anywhere.
    pub(super) fn holds_nothing(&self) -> bool {
        self.is_drained() && self.builder.open_items() == 0
    }

    /// Returns whether the next messages will be buffered, and everything before them is stored.
    #[cfg(test)]
    pub(super) fn is_watching(&self) -> bool {
        self.facts().coverage == chain::Coverage::Watching
    }

    /// Under which revision it writes.
    #[cfg(test)]
    pub(super) fn revision(&self) -> Option<&RankedRevision> {
        self.revision.as_ref()
    }

    /// Returns whether reading has stopped for lack of memory.
    #[cfg(test)]
    pub(super) fn is_out_of_room(&self) -> bool {
        self.reading.is_out_of_room()
    }

    /// Returns whether reading has stopped for lack of memory although the spool works and nothing waits to be written.
    #[cfg(test)]
    pub(super) fn is_stopped_for_nothing(&self) -> bool {
        self.spill.is_enabled() && self.spill.held_bytes() == 0 && self.reading.is_out_of_room()
    }

    /// Returns whether the next message might take the last room, once a timer hands on the open batch.
    #[cfg(test)]
    pub(super) fn is_nearly_full(&self) -> bool {
        let room = self.room();
        self.spill.is_over(self.builder.open_bytes() + room.tail / 2, &self.chain, room)
    }

    /// Returns whether there is no room for more.
    pub(super) fn is_full(&self) -> bool {
        self.spill.full(&self.chain, self.room()).is_some()
    }
}
