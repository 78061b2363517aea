//! What a capture decides, without any I/O: events in, actions out.
//!
//! ```text
//!              read · reply · error reply · spool done · tick with the time · stop · reload
//!                                          │ on_…
//!   ┌──────────────────────────────────────▼───────────────────────────────────────────┐
//!   │ reader ─▶ intake ─▶ builder ─▶ spill ─▶ chain ─▶ writer        leadership rollout │
//!   │ windows   filter,   batches    to disk, in       calls and     who writes,  by    │
//!   │           mapping              and back order    replies       which configuration│
//!   └──────────────────────────────────────┬───────────────────────────────────────────┘
//!                                          ▼ next_action, transmit, spool_request, deadline
//!              open or close a window · connect · bytes to send · write or read the spool · log · count
//! ```
//!
//! The route owns sockets, files and timers, and does what it is told. The simulation drives this very type with made-up
//! servers, disks and clocks. Two cells are shared with other routes of the process, and hold no I/O: the handover of a
//! reload, and the share of memory.
//!
//! Failure: no event ends the engine but a stop or a successor. Each side comes back by itself, a route without the right
//! to write is parked, and the next recorded gap carries what may be missing.

mod batch;
mod chain;
mod ending;
mod gap;
mod intake;
mod leadership;
mod ledger;
mod notice;
mod reader;
mod replication;
mod report;
mod rollout;
mod spill;
mod writer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capture::append::{self, Keys, State};
use crate::capture::handover::{Border, Handover};
use crate::capture::history::Histories;
use crate::capture::mapping::Mapping;
use crate::capture::share::Share;
use crate::config::{Capture, Durability, Mode};
use crate::filter::Filter;
use crate::position::{AnchorId, Position};
use crate::replication::Place;
use crate::rt::Moment;
use crate::spool::{Done, Request};
use crate::status::InHand;

pub use batch::{Batch, Builder, Options};
pub(crate) use chain::{Chain, Hole, Prev};
pub(crate) use ending::{Carried, Ending};
pub(crate) use gap::{Gap, Note};
#[cfg(test)]
pub(crate) use gap::Joint;
pub(crate) use intake::{Flow, Intake};
pub(crate) use leadership::LEASE_SCRIPT;
pub(crate) use notice::{Notice, Severity, Side};
pub(crate) use reader::Lost;
pub(crate) use replication::{Linked, Numbering};
pub(crate) use report::{Tally, View};
pub(crate) use spill::Spill;
pub(crate) use writer::Scripts;

use leadership::{Candidate, Leadership};
use ledger::Ledger;
use notice::Notices;
use reader::Reader;
use rollout::Rollout;
use spill::Room;
use writer::Writer;

/// The loop comes round at least this often, and says so.
const TICK: Duration = Duration::from_secs(1);
/// With `durability = "applied"`: how long stored batches are kept all the same. A failover loses what had not come to
/// the replica yet, which is the last moment's.
const KEPT: Duration = Duration::from_secs(2);
/// And how much of it at most: at full speed that is a part of a second.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

/// What an engine is made for.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) capture: Arc<Capture>,
    pub(crate) keys: Keys,
    pub(crate) durability: Durability,
    /// This instance among those that run the same route.
    pub(crate) instance: String,
    /// How long another instance is waited for that could go on without a gap.
    pub(crate) force_after: Duration,
    /// How long an ordered end may take.
    pub(crate) drain_deadline: Duration,
    /// How long the destination may take to answer a batch.
    pub(crate) response_timeout: Duration,
    pub(crate) share: Share,
}

/// What the route is to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Connect to the destination, then [`Engine::on_connected`] or [`Engine::on_disconnected`].
    Connect,
    /// Close the connection to the destination.
    Disconnect,
    /// Open a window beside whatever is open, then [`Engine::on_opened`] or [`Engine::on_not_opened`].
    OpenWindow { anchor: AnchorId, floor: u64 },
    /// Open a replication link at a place, then [`Engine::on_linked`] or [`Engine::on_not_opened`].
    OpenLink { place: Option<Place> },
    /// Close the open window or tap, if any, and read the opened one from now on.
    Adopt,
    /// Read the opened link as a tap from now on.
    Tap(Numbering),
    /// Drop what is being opened, or is opened and not adopted.
    DropOpening,
    /// Close the open window or tap.
    Close,
    /// Ask the source to say when everything is delivered that was published until now.
    Fence,
    /// Publish an anchor through the open window.
    Anchor { anchor: AnchorId, floor: u64 },
    /// Write a log line.
    Log(Notice),
}

/// The decisions of one capture. See the module.
#[derive(Debug)]
pub(crate) struct Engine {
    settings: Settings,
    filter: Filter,
    mapping: Mapping,
    builder: Builder,
    chain: Chain,
    spill: Spill,
    leadership: Leadership,
    rollout: Rollout,
    ledger: Ledger,
    reader: Reader,
    writer: Writer,
    ending: Ending,
    /// The state when it was last read.
    state: State,
    /// Up to where what is stored is known to be durable.
    known_durable: Option<Position>,
    /// A stretch with possible loss since the last window ended.
    gap: Option<Gap>,
    /// The source's histories, where its replication stream is read.
    histories: Histories,
    /// No epoch below this may be handed out.
    floor: u64,
    /// Messages are read and let go: a newer configuration with another numbering writes them.
    discards: bool,
    predecessor: Option<(Handover, bool)>,
    successor: Handover,
    border: Borders,
    notices: Notices,
    tally: Tally,
    actions: VecDeque<Action>,
    report: report::Report,
    woke: Instant,
}

/// Where a successor's numbering begins.
#[derive(Debug, Default)]
struct Borders {
    /// The anchor, once this route's window has come there.
    reached: Option<Position>,
    /// The same in this route's own numbering, which is another one where it reads a replication stream.
    place: Option<Position>,
    /// What the successor said last.
    known: Border,
}

impl Engine {
    /// An engine without connections. `predecessor` is the route that this one replaces, and whether that one writes the
    /// same state.
    pub(crate) fn new(
        settings: Settings,
        predecessor: Option<(Handover, bool)>,
        successor: Handover,
        now: Moment,
    ) -> Self {
        let capture = &settings.capture;
        let revision = capture.revision();
        let (numbering, mapping) = match capture.mode {
            Mode::Subscribe => (revision.numbering, revision.mapping),
            // Offsets of a history count the same bytes whatever the route listens to.
            Mode::Replication(_) => ("offsets".to_owned(), format!("{}{}", revision.numbering, revision.mapping)),
        };
        let options = Arc::new(append::options(capture, &numbering));
        let hashes = format!("{numbering}-{mapping}");
        let inherits = predecessor.as_ref().is_some_and(|(_, same_state)| *same_state);
        Self {
            filter: Filter::new(&capture.conditions),
            mapping: Mapping::new(capture),
            builder: Builder::new(options.clone()),
            chain: Chain::new(&numbering),
            spill: Spill::new(options),
            leadership: Leadership::new(settings.instance.clone(), hashes, settings.force_after, now.at),
            rollout: Rollout::new(),
            ledger: Ledger::default(),
            reader: Reader::new(now.at),
            writer: Writer::new(inherits, now.at),
            ending: Ending::Running,
            state: State::default(),
            known_durable: None,
            gap: None,
            histories: Histories::default(),
            floor: 0,
            discards: false,
            predecessor,
            successor,
            border: Borders::default(),
            notices: Notices::default(),
            tally: Tally::default(),
            actions: VecDeque::new(),
            report: report::Report::default(),
            woke: now.at,
            settings,
        }
    }

    /// The next thing to do.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn log(&mut self, notice: Notice, now: Moment) {
        if let Some(notice) = self.notices.admit(notice, now.at) {
            self.actions.push_back(Action::Log(notice));
        }
    }

    /// When the engine must be ticked, whatever happens.
    pub(crate) fn deadline(&self) -> Instant {
        let mut deadline = self.woke + TICK;
        for other in [self.reader.deadline(), self.writer.deadline(), self.lease_due()].into_iter().flatten() {
            deadline = deadline.min(other);
        }
        match self.ending {
            Ending::Draining(until) | Ending::HandingOver(Some(until)) => deadline.min(until),
            Ending::Running | Ending::HandingOver(None) | Ending::HandedOver => deadline,
        }
    }

    /// Ends every event: gives the time to what waits for it.
    pub(crate) fn after(&mut self, now: Moment) {
        // Where events come without a pause, no timer is ever asked.
        if now.at.duration_since(self.woke) >= TICK {
            self.on_tick(now);
        }
        self.connect_if_due(now);
        self.open_if_due(now);
        let room = self.room();
        match self.settings.durability {
            Durability::Applied => self.chain.retire_old(now.at, KEPT, room.tail.min(KEPT_BYTES)),
            Durability::Replicated(_) | Durability::Fsynced => {}
        }
        self.spill.refill(&mut self.chain, room);
    }

    /// Time has passed.
    pub(crate) fn on_tick(&mut self, now: Moment) {
        if now.at.duration_since(self.woke) > 2 * TICK {
            // This process was stopped for a while: then silence says nothing of the peers.
            self.reader.forgive(now.at);
        }
        self.woke = now.at;
        // A message that waits is not to wait in the open batch, where it cannot be kept.
        self.flush_builder();
        self.check_reader(now);
        self.check_writer(now);
    }

    /// What the spool is to do next. To be asked while it does nothing.
    pub(crate) fn spool_request(&mut self, now: Moment) -> Option<Request> {
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

    /// There is a spool from now on. An earlier process left records up to `last` in it, in so many bytes.
    pub(crate) fn on_spool_opened(&mut self, last: Option<Position>, bytes: u64) {
        self.floor = self.floor.max(last.map_or(0, |last| last.epoch.number + 1));
        self.spill.opened(last, bytes);
    }

    /// The spool has done what it was asked.
    pub(crate) fn on_spool(&mut self, done: Done, now: Moment) {
        let room = self.room();
        let outcome = self.spill.done(done, &mut self.chain, room, now);
        self.ledger.received(outcome.recovered);
        if let Some(error) = outcome.failed {
            let text = format!(
                "{error}; new messages stay in memory as long as that lasts; tidegate tries again every 2 s"
            );
            self.log(Notice::error("spool_failed", text), now);
        }
        for damage in outcome.damaged {
            let text = format!("{damage}; a gap records it, and what is intact is stored");
            self.log(Notice::error("spool_corrupt", text), now);
            self.leadership.hurry();
        }
        self.reopen_if_room(now);
    }

    /// So much is stored durably. More than is stored is said of a server that is gone.
    pub(crate) fn on_durable(&mut self, position: Position) {
        if Some(position) > self.chain.checkpoint() {
            return;
        }
        self.known_durable = self.known_durable.max(Some(position));
        self.chain.retire(self.known_durable);
    }

    /// Up to where the leader has stored, for the watch of durability.
    pub(crate) fn applied(&self) -> Option<Position> {
        self.chain.checkpoint().filter(|_| self.leadership.is_leader())
    }

    /// Whether more is stored than may be kept until it is durable: then nothing is sent for a while.
    fn waits_for_durability(&self) -> bool {
        self.settings.durability != Durability::Applied && self.chain.kept_bytes() > self.room().tail
    }

    /// Moves the open batch towards the destination.
    fn flush_builder(&mut self) {
        if let Some(batch) = self.builder.take() {
            let room = self.room();
            self.spill.push(batch, &mut self.chain, room);
        }
    }

    /// How much may wait in memory. A part is for batches that are stored and kept until that is durable.
    fn room(&self) -> Room {
        let share = self.settings.share.bytes();
        Room { chain: share / 2, tail: share / 4 }
    }

    /// Messages that wait, counted where they are.
    fn in_hand(&self) -> InHand {
        let sent = self.chain.sent_events();
        InHand {
            ring: self.chain.held_events() - sent + self.spill.tail_events() + self.builder.open_events(),
            in_flight: sent,
            spool: self.spill.disk_events(),
            unrecorded: self.chain.owed_events()
                + self.spill.owed_events()
                + self.builder.open_loss()
                + self.gap.as_ref().map_or(0, |gap| gap.dropped),
        }
    }

    /// Nothing waits to be stored.
    fn is_drained(&self) -> bool {
        self.chain.is_empty() && self.spill.is_empty() && self.chain.next_note().is_none()
    }

    /// The last item that was given behind the builder.
    fn last_given(&self) -> Option<Position> {
        self.spill.last().or(self.chain.last())
    }

    /// What this instance could do.
    fn candidate(&self) -> Candidate {
        Candidate {
            coverage: self.chain.coverage(self.reader.watched_from()),
            first: self.chain.first(),
            waits_since: self.chain.waits_since(),
            able: self.rollout.may_claim() && !self.writer.is_parked(),
            lost: self.chain.is_lost(),
            reclaims: self.rollout.reclaims(),
        }
    }
}
