//! The reading side: when a window is opened, believed, given up or replaced.
//!
//! ```text
//! opening:  Idle ─▶ Waiting ─▶ Window ─▶ Candidate     a new window, beside the one that is open
//!             ▲        │          │          │ the open one is silent, or has ended
//!             │        │ (replication) ─▶ Link ─▶ Numbering
//!             └────────┴──────────┴──────────┴──────────▶ open
//!           Full    no room: opened again once there is
//!           Held    a newer configuration reads elsewhere
//! open:     reading ─▶ behind     the spool is slower than the source
//!              │  └──▶ paused     a tap without room
//!              └────▶ silent      no heartbeat comes back: a candidate is opened beside it
//! ```
//!
//! Silence closes nothing by itself. A source that stalls (a slow script, a failover) may still deliver its messages,
//! so a new window is opened *beside* the silent one. If the old one delivers again, the new one is dropped, and there
//! is no gap. If the old one stays silent for a moment after the new one is open, it is given up.

mod ended;
mod epoch_check;
pub(super) mod ingest;
pub(super) mod replication;

use std::time::{Duration, Instant};

use super::handover::Border;
use super::{Effect, Engine, Notice, Side};
use crate::capture::batch::gap::{Gap, Joint};
use crate::logs::LogCode;
use crate::position::{AnchorId, Epoch, Position};
use crate::rt::Moment;
use crate::server::{BLOCKED_RETRY, Backoff, Class, Error};
use replication::{Linked, ReplicationReading};

/// A window without a message for this time is silent. Longer than a pause of 3 s and the interval of an idle heartbeat
/// (1 s); short enough to notice a stopped server within 5 s.
const SILENCE: Duration = Duration::from_millis(4500);
/// How long a silent window may stay silent beside an open new one: the new one's anchor is published on the server by
/// then, and a working window delivers it.
const LAST_CHANCE: Duration = Duration::from_millis(1500);

/// The reading side.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) opening: ReaderOpening,
    pub(super) open: Option<Open>,
    pub(super) backoff: Backoff,
    /// Why no window is open, for the operator.
    pub(super) error: Option<String>,
    /// When a heartbeat of this process last came back; milliseconds since 1970.
    pub(super) heartbeat_unix_ms: Option<u64>,
    /// When the last heartbeat that came back was sent: nothing published before is missing.
    pub(super) beat_sent: Option<Instant>,
    /// True if another server can become the source.
    source_moves: bool,
    /// When the last window or link was asked for.
    pub(super) asked: Instant,
    /// True if the last link was silent: the next one goes to a server of the other role.
    pub(super) avoids_preferred: bool,
    /// The last report of the heartbeat's task.
    pub(super) heartbeat: HeartbeatReport,
    /// Number of demotions of the source that were seen before the window opened.
    opened_at_demotions: u64,
    pub(super) opened_before: bool,
    /// When the fence of a stop was asked for.
    pub(super) fenced: Option<Instant>,
    /// Until when nothing is missed, once reading has ended in order; milliseconds since 1970.
    pub(super) finished: Option<u64>,
    /// In replication mode: the gap if the source no longer holds the messages published meanwhile.
    pub(super) away: Option<Gap>,
}

/// The heartbeat task's knowledge of the source.
#[derive(Debug, Default)]
pub(in crate::capture) struct HeartbeatReport {
    /// Number of times that the source turned from master to replica.
    pub(in crate::capture) demotions: u64,
    /// Why heartbeats cannot be sent.
    pub(in crate::capture) error: Option<String>,
    /// Why it is in doubt which server is the source.
    pub(in crate::capture) doubt: Option<String>,
    /// When something last confirmed that the server is the only master.
    pub(in crate::capture) confirmed: Option<Instant>,
}

/// The reader being opened.
#[derive(Debug)]
pub(super) enum ReaderOpening {
    /// None.
    Idle,
    Waiting(Instant),
    /// A window.
    Window,
    /// A window is open beside a silent one.
    Candidate {
        anchor: Position,
        since: Instant,
    },
    /// A replication link.
    Link(Option<crate::source::replication::ReplicationOffset>),
    /// A link that is open; the state is asked for the number of its history.
    Numbering(Box<Linked>),
    /// There is no room for more.
    Full,
    /// No epoch is left above the one of the checkpoint.
    UsedUp,
    /// A newer configuration reads elsewhere.
    Held,
    /// Reading has ended.
    Closed,
}

/// The open reader.
#[derive(Debug)]
pub(super) struct Open {
    /// Its first position.
    pub(super) anchor: Position,
    /// When it was asked for: every message that it has was published later, if it does not continue an earlier one.
    pub(super) since: Instant,
    /// A window's latest item.
    pub(super) last: Position,
    /// When it last delivered something.
    pub(super) heard: Moment,
    /// Until when it is complete, once sentinels have reported another master: their later confirmations are about
    /// another server.
    complete_until: Option<Instant>,
    /// True if it is silent, and another window is opened beside it.
    pub(super) silent: bool,
    /// Memory is full and the spool is behind: nothing is read until there is room, or until then.
    pub(super) behind: Option<Instant>,
    /// True if there is no room: a tap leaves messages in the source.
    pub(super) paused: bool,
    pub(super) tap: Option<ReplicationReading>,
}

impl Open {
    /// Something that begins behind this anchor.
    fn new(anchor: Position, tap: Option<ReplicationReading>, since: Instant, now: Moment) -> Self {
        Self {
            anchor,
            since,
            last: anchor,
            heard: now,
            complete_until: None,
            silent: false,
            behind: None,
            paused: false,
            tap,
        }
    }

    /// The position of the next message.
    #[inline]
    pub(super) fn place(&mut self, offset: u64) -> Position {
        match &self.tap {
            Some(tap) => tap.numbering.at(offset),
            None => {
                self.last.ordinal += 1;
                self.last
            }
        }
    }
}

/// Why a window has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::capture) enum Lost {
    /// The connection ended.
    Disconnected,
    /// The server is no longer the one to be read.
    Demoted,
}

impl Reading {
    pub(super) fn new(source_moves: bool, now: Instant) -> Self {
        Self {
            opening: ReaderOpening::Waiting(now),
            open: None,
            backoff: Backoff::default(),
            error: None,
            heartbeat_unix_ms: None,
            beat_sent: None,
            source_moves,
            asked: now,
            avoids_preferred: false,
            heartbeat: HeartbeatReport::default(),
            opened_at_demotions: 0,
            opened_before: false,
            fenced: None,
            finished: None,
            away: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The anchor of the window that is open and heard.
    pub(super) fn watched_from(&self) -> Option<Position> {
        self.open.as_ref().filter(|open| !open.silent).map(|open| open.anchor)
    }

    /// Until when nothing is missed. A connection may deliver late: later messages than the last one that came may have
    /// been published before it came. So the last heartbeat that came back over the connection counts, by the time of
    /// its sending. It is no later than the last confirmation that this server is the master, because another one may
    /// have taken over meanwhile.
    pub(super) fn complete_until(&self) -> Option<Instant> {
        let open = self.open.as_ref()?;
        if open.complete_until.is_some() {
            return open.complete_until;
        }
        let sent = self.beat_sent.map_or(open.since, |sent| sent.max(open.since));
        Some(self.is_master_until().map_or(sent, |at| at.min(sent)))
    }

    /// Until when the server that is read is certain to be the master. `None` if nothing is read, or if no other server
    /// can become the master and none was asked so far.
    pub(super) fn is_master_until(&self) -> Option<Instant> {
        let open = self.open.as_ref()?;
        let confirmed = self.heartbeat.confirmed.map(|at| at.max(open.since));
        // Without a confirmation so far, no more is certain than that it was the master at first.
        open.complete_until.or(confirmed).or(self.source_moves.then_some(open.since))
    }

    /// The tap that is open.
    pub(super) fn tap(&self) -> Option<&ReplicationReading> {
        self.open.as_ref()?.tap.as_ref()
    }

    /// Returns whether it was stopped because another instance reads.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.opening, ReaderOpening::Held)
    }

    /// Returns whether a connection is being made, or is made and not adopted.
    pub(super) fn is_opening(&self) -> bool {
        matches!(
            self.opening,
            ReaderOpening::Window
                | ReaderOpening::Candidate { .. }
                | ReaderOpening::Link(_)
                | ReaderOpening::Numbering(_)
        )
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let opening = match &self.opening {
            ReaderOpening::Waiting(until) => Some(*until),
            ReaderOpening::Candidate { since, .. } => Some(*since + LAST_CHANCE),
            _ => None,
        };
        let open = self.open.as_ref().and_then(|open| match open.behind {
            Some(until) => Some(until),
            None if open.silent || open.paused => None,
            None => Some(open.heard.at + SILENCE),
        });
        opening.into_iter().chain(open).min()
    }

    /// Takes silence for no sign this time.
    pub(super) fn forgive(&mut self, now: Moment) {
        if let Some(open) = &mut self.open
            && !open.silent
        {
            open.heard.at = now.at;
        }
    }

    /// Returns whether reading has stopped, or the window was given up, because there is no room.
    pub(super) fn is_out_of_room(&self) -> bool {
        match &self.open {
            Some(open) => open.behind.is_some() || open.paused,
            None => matches!(self.opening, ReaderOpening::Full),
        }
    }

    /// Returns whether a window has been tried once, with whatever outcome.
    pub(super) fn was_tried(&self) -> bool {
        self.opened_before || self.error.is_some()
    }
}

impl Engine {
    /// Until when nothing is missed; milliseconds since 1970. `None` if nothing is open. A link may continue an earlier
    /// one, over which the last heartbeat came back: it has older messages than itself.
    pub(super) fn complete_unix_ms(&self, now: Moment) -> Option<u64> {
        let complete = now.unix_ms_of(self.reading.complete_until()?);
        if !self.is_replication() {
            return Some(complete);
        }
        let before = match self.reading.beat_sent {
            Some(sent) => Some(now.unix_ms_of(sent)),
            None => self.chain.since_unix_ms(),
        };
        Some(before.map_or(complete, |before| before.min(complete)))
    }

    /// Returns whether the open window or tap is to be read.
    pub(in crate::capture) fn reads(&self) -> bool {
        self.reading.open.as_ref().is_some_and(|open| open.behind.is_none() && !open.paused)
    }

    /// Opens a window, if that is due.
    pub(super) fn open_if_due(&mut self, now: Moment) {
        if !matches!(self.reading.opening, ReaderOpening::Waiting(until) if until <= now.at) {
            return;
        }
        self.reading.asked = now.at;
        // Of a successor's anchor that was read as the border and is none any more, only its number was kept free.
        if self.given().is_some_and(|given| given.epoch.number == self.floor) {
            self.raise_floor(self.floor + 1);
        }
        self.take_floor();
        if self.floor > Epoch::MAX_NUMBER {
            return self.on_used_up(now);
        }
        if self.is_replication() {
            return self.open_link(now);
        }
        let anchor = self.rollout.on_opening().unwrap_or_else(AnchorId::random);
        self.say_border(Border::Announced(anchor));
        self.reading.opening = ReaderOpening::Window;
        let floor = self.floor;
        self.effect(Effect::OpenWindow { anchor, floor });
    }

    /// Sentinels report another master: a waiting reader opens now, and the open one is the old master's.
    pub(super) fn hurry_opening(&mut self, now: Moment) {
        self.reading.backoff.reset();
        let until = self.reading.complete_until();
        if let Some(open) = &mut self.reading.open {
            open.complete_until = until;
        }
        if let ReaderOpening::Waiting(until) = &mut self.reading.opening {
            *until = now.at;
        }
    }

    /// A window is open. Its first item is the anchor.
    pub(in crate::capture) fn on_opened(&mut self, anchor: Position, now: Moment) {
        if !matches!(self.reading.opening, ReaderOpening::Window) {
            return self.effect(Effect::DropOpening);
        }
        self.take_floor();
        if anchor.epoch.number < self.floor && self.reading.open.is_none() {
            // The source did not know the floor at that time: the destination was read since, or the predecessor has
            // opened a window.
            self.say_border(Border::None);
            self.effect(Effect::DropOpening);
            self.reading.opening = ReaderOpening::Waiting(now.at + self.reading.backoff.next_wait());
            return;
        }
        if self.reading.open.is_some() {
            self.reading.opening = ReaderOpening::Candidate { anchor, since: now.at };
            return;
        }
        self.adopt(anchor, now);
    }

    /// Reads a window from now on that was opened.
    fn adopt(&mut self, anchor: Position, now: Moment) {
        let since = self.reading.asked;
        self.effect(Effect::Adopt);
        self.reading.opening = ReaderOpening::Idle;
        self.reading.opened_at_demotions = self.reading.heartbeat.demotions;
        self.say_border(Border::Open(anchor));
        if self.reading.opened_before {
            self.counters.source.reconnects.increment(1);
        }
        self.reading.opened_before = true;
        self.reading.error = None;
        self.raise_floor(anchor.epoch.number + 1);
        let joint = self.gap.take().map_or(Joint::Start, |gap| Joint::Gap(gap.until(now.unix_ms)));
        self.flush_builder();
        self.builder.set_complete(now.unix_ms_of(since));
        self.builder.open_window(anchor, joint, now);
        self.reading.open = Some(Open::new(anchor, None, since, now));
        let notice = Notice::info(LogCode::SessionOpened, "the capture is subscribed")
            .of(Side::Source)
            .position(Some(anchor));
        self.log(notice.always(), now);
        self.check_clock(anchor.epoch, now);
        self.leadership.hurry();
        self.changed();
    }

    /// No window could be opened.
    pub(in crate::capture) fn on_not_opened(&mut self, error: &Error, now: Moment) {
        if !self.reading.is_opening() {
            return;
        }
        self.say_border(Border::None);
        self.rollout.on_window_lost();
        let wait =
            if error.class() == Class::Block { BLOCKED_RETRY } else { self.reading.backoff.next_wait() };
        self.reading.opening = ReaderOpening::Waiting(now.at + wait);
        match &self.reading.open {
            None => self.reading.error = Some(error.with_hint()),
            // The present obstacle adds to the reason for which the open window is silent.
            Some(open) if open.silent => {
                let why = error.with_hint();
                self.reading.error =
                    Some(format!("no heartbeat came back, and no other session can be opened: {why}"));
            }
            Some(_) => {}
        }
        let text =
            format!("cannot subscribe on {}: {}; tidegate retries", self.settings.source, error.with_hint());
        self.log(
            Notice::warn(LogCode::SourceUnavailable, text)
                .of_an_outage()
                .of(Side::Source)
                .class(error.class().as_str()),
            now,
        );
        self.changed();
    }

    /// The heartbeat's task has looked at the source.
    pub(in crate::capture) fn on_heartbeat_task(&mut self, report: HeartbeatReport) {
        self.reading.heartbeat = report;
    }

    /// Something came over the open window or tap.
    pub(super) fn on_heard(&mut self, now: Moment) {
        let Some(open) = &mut self.reading.open else { return };
        open.heard = now;
        if std::mem::take(&mut open.silent) {
            // It only stalled. The new window is not needed.
            self.reading.error = None;
            self.drop_opening();
            self.leadership.hurry();
            self.changed();
        }
    }

    /// Gives up the reader being opened.
    pub(super) fn drop_opening(&mut self) {
        if self.reading.is_opening() {
            self.effect(Effect::DropOpening);
        }
        if !matches!(self.reading.opening, ReaderOpening::Closed) {
            self.reading.opening = ReaderOpening::Idle;
        }
    }

    /// Reads no more, ever.
    pub(super) fn close_reading(&mut self) {
        self.stop_reading(ReaderOpening::Closed);
    }

    /// Stops reading: another instance reads from here on.
    pub(super) fn hold_reading(&mut self) {
        self.stop_reading(ReaderOpening::Held);
    }

    /// Opens a window anew, and lets the open one go.
    pub(super) fn read_anew(&mut self, now: Moment) {
        self.stop_reading(ReaderOpening::Waiting(now.at));
    }

    /// Closes everything that is open or is being opened.
    fn stop_reading(&mut self, then: ReaderOpening) {
        if self.reading.is_opening() {
            self.effect(Effect::DropOpening);
        }
        if self.reading.open.take().is_some() {
            self.effect(Effect::Close);
        }
        if !matches!(self.reading.opening, ReaderOpening::Closed) {
            self.reading.opening = then;
        }
    }
}
