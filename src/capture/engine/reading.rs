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
//! Silence closes nothing by itself. A source that stalls (a slow script, a failover) may still deliver what it holds,
//! so a new window is opened *beside* the silent one. Where the old one delivers again, the new one is dropped and there
//! is no gap. Where the new one is open and the old one stays silent for a moment longer, the old one is given up.

pub(super) mod ingest;
pub(super) mod replication;

use std::time::{Duration, Instant};

use super::ending::Ending;
use super::handover::Border;
use super::rollout::Rollout;
use super::writing::describe;
use super::{Effect, Engine, Notice, Side};
use crate::capture::batch::gap::{Gap, Joint};
use crate::event::GapCause;
use crate::logs::LogCode;
use crate::position::{AnchorId, Epoch, Position};
use crate::rt::Moment;
use crate::server::{Backoff, Class, Error};
use ingest::Flow;
use replication::{Linked, ReplicationReading};

/// How long a source that refuses is left alone.
const PARKED: Duration = Duration::from_secs(30);
/// How long a window waits for a spool that is behind. Messages wait in the source's output buffer meanwhile, of which
/// Redis takes 32 MB for a moment.
const BEHIND: Duration = Duration::from_secs(1);
/// A window over which nothing came for so long is silent. Longer than a pause of 3 s with an idle heartbeat's second
/// beside it; short enough that a stopped server is noticed within 5 s.
const SILENCE: Duration = Duration::from_millis(4500);
/// How long a silent window may stay silent beside a new one that is open: the new one's anchor was published on the
/// server by then, so a window that still works delivers it.
const LAST_CHANCE: Duration = Duration::from_millis(1500);

/// How far the epoch of an anchor may be ahead of the source's clock, as far as a window knows that: its own anchor
/// carries the clock or a higher number, and time has passed since.
const CLOCK_STEP: Duration = Duration::from_secs(60);
/// How far it may be ahead of the anchor before it: where the source's clock is behind its epochs, each anchor's is the
/// next number. So whoever forges anchors does not come to the end of the numbers.
const LONGEST_STEP: u64 = 1_000;
/// An epoch that is so far ahead of the clock was not made by a clock.
const FAR_AHEAD_MS: u64 = 10 * 366 * 24 * 60 * 60 * 1000;

/// The reading side.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) opening: ReaderOpening,
    pub(super) open: Option<Open>,
    pub(super) backoff: Backoff,
    /// Why it is not open, for the operator.
    pub(super) error: Option<String>,
    /// When a heartbeat of ours last came back; milliseconds since 1970.
    pub(super) heartbeat_unix_ms: Option<u64>,
    /// Why no heartbeat can be sent.
    heartbeat_error: Option<String>,
    /// Why it is in doubt which server is the source.
    pub(super) doubt: Option<String>,
    /// How often the source was seen to turn from master to replica: now, and when the window opened.
    demotions: u64,
    opened_at_demotions: u64,
    pub(super) opened_before: bool,
    /// In replication mode: what is missing if the source no longer holds what was published meanwhile.
    pub(super) away: Option<Gap>,
}

/// What is being opened.
#[derive(Debug)]
pub(super) enum ReaderOpening {
    /// Nothing.
    Idle,
    Waiting(Instant),
    /// A window.
    Window,
    /// A window that is open beside one that is silent.
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
    /// No epoch is left above the one that the state stands in.
    UsedUp,
    /// A newer configuration reads elsewhere.
    Held,
    /// Reading has ended.
    Closed,
}

/// What is open.
#[derive(Debug)]
pub(super) struct Open {
    /// Where it begins.
    pub(super) anchor: Position,
    /// When it was opened.
    pub(super) since: Instant,
    /// A window's latest item.
    pub(super) last: Position,
    /// When something last came.
    pub(super) heard: Moment,
    /// It is silent, and another window is opened beside it.
    pub(super) silent: bool,
    /// Memory is full and the spool is behind: nothing is read until there is room, or until then.
    pub(super) behind: Option<Instant>,
    /// There is no room: a tap leaves messages where they are.
    pub(super) paused: bool,
    pub(super) tap: Option<ReplicationReading>,
}

impl Open {
    /// Whether positions may be counted from this anchor, or why not.
    ///
    /// Anybody who may publish on the control channel can forge anchors. One that is not above the epoch before it, or
    /// that neither the source's clock nor its last epoch bears out, ends the window. Instances may judge differently
    /// where the clock decides, and that does no harm: a window that has ended counts nothing, and the next one opens
    /// with an anchor of the source's own. An anchor that is passed over would do harm: two instances would count the
    /// same messages in two ways.
    pub(super) fn numbers(&self, epoch: Epoch, now: Instant) -> Result<(), &'static str> {
        let before = self.last.epoch.number;
        if epoch.number <= before {
            return Err("the source's epoch key was lost, or the marker is forged");
        }
        let passed = now.saturating_duration_since(self.since) + CLOCK_STEP;
        let clock =
            self.anchor.epoch.number.saturating_add(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
        if epoch.number <= clock.max(before + LONGEST_STEP) {
            return Ok(());
        }
        Err(
            "neither the source's clock nor its last epoch confirms that, so it is forged, or the clock was set",
        )
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
    pub(super) fn new(now: Instant) -> Self {
        Self {
            opening: ReaderOpening::Waiting(now),
            open: None,
            backoff: Backoff::default(),
            error: None,
            heartbeat_unix_ms: None,
            heartbeat_error: None,
            doubt: None,
            demotions: 0,
            opened_at_demotions: 0,
            opened_before: false,
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

    /// The tap that is open.
    pub(super) fn tap(&self) -> Option<&ReplicationReading> {
        self.open.as_ref()?.tap.as_ref()
    }

    /// Whether it was stopped because another instance reads.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.opening, ReaderOpening::Held)
    }

    /// Whether a connection is being made, or is made and not adopted.
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

    /// Whether a window has been tried once, with whatever outcome.
    pub(super) fn was_tried(&self) -> bool {
        self.opened_before || self.error.is_some()
    }
}

impl Engine {
    /// Whether the open window or tap is to be read.
    pub(in crate::capture) fn reads(&self) -> bool {
        self.reading.open.as_ref().is_some_and(|open| open.behind.is_none() && !open.paused)
    }

    /// Opens a window where that is due.
    pub(super) fn open_if_due(&mut self, now: Moment) {
        if !matches!(self.reading.opening, ReaderOpening::Waiting(until) if until <= now.at) {
            return;
        }
        self.take_floor();
        if self.floor > Epoch::MAX_NUMBER {
            return self.on_used_up(now);
        }
        if self.is_replication() {
            return self.open_link(now);
        }
        let anchor = match self.rollout {
            Rollout::Announced(anchor) => {
                self.rollout = Rollout::Opened;
                anchor
            }
            _ => AnchorId::random(),
        };
        self.say_border(Border::Announced(anchor));
        self.reading.opening = ReaderOpening::Window;
        let floor = self.floor;
        self.effect(Effect::OpenWindow { anchor, floor });
    }

    /// No window can be opened above the state. An operator must act.
    fn on_used_up(&mut self, now: Moment) {
        self.reading.opening = ReaderOpening::UsedUp;
        let text = format!(
            "no epoch is left, so no session can be opened: session markers were forged, or the epoch key was overwritten. \
             Delete the key {} on {} and the key {} on {}. tidegate then continues, and records a gap with the cause \
             state_lost. Check who may publish on the control channel, and who may write that key",
            self.settings.epoch_key,
            self.settings.source,
            String::from_utf8_lossy(&self.settings.keys.state),
            self.settings.destination,
        );
        self.reading.error = Some(text.clone());
        self.log(Notice::error(LogCode::Blocked, text).of(Side::Source), now);
        self.changed();
    }

    /// The state says how high the epochs are. They are lower than before only where the state was taken away.
    pub(super) fn on_highest_epoch(&mut self, highest: u64, now: Moment) {
        if matches!(self.reading.opening, ReaderOpening::UsedUp) && highest < Epoch::MAX_NUMBER {
            self.floor = highest + 1;
            self.successor.set_floor(self.floor);
            self.reading.opening = ReaderOpening::Waiting(now.at);
        }
    }

    /// What the route before knows of epochs holds for this one.
    fn take_floor(&mut self) {
        if let Some((predecessor, true)) = &self.predecessor {
            self.raise_floor(predecessor.floor());
        }
    }

    /// A window is open. Its first item is the anchor.
    pub(in crate::capture) fn on_opened(&mut self, anchor: Position, now: Moment) {
        if !matches!(self.reading.opening, ReaderOpening::Window) {
            return self.effect(Effect::DropOpening);
        }
        self.take_floor();
        if anchor.epoch.number < self.floor && self.reading.open.is_none() {
            // The source did not know the floor when it was asked: the destination was read since, or the predecessor has
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
        self.effect(Effect::Adopt);
        self.reading.opening = ReaderOpening::Idle;
        self.reading.opened_at_demotions = self.reading.demotions;
        self.say_border(Border::Open(anchor));
        if self.reading.opened_before {
            self.counters.source.reconnects.increment(1);
        }
        self.reading.opened_before = true;
        self.reading.error = None;
        self.raise_floor(anchor.epoch.number + 1);
        let joint = self.gap.take().map_or(Joint::Start, |gap| Joint::Gap(gap.until(now.unix_ms)));
        self.flush_builder();
        self.builder.open_window(anchor, joint, now);
        self.reading.open = Some(Open {
            anchor,
            since: now.at,
            last: anchor,
            heard: now,
            silent: false,
            behind: None,
            paused: false,
            tap: None,
        });
        let notice = Notice::info(LogCode::SessionOpened, "the capture is subscribed")
            .of(Side::Source)
            .position(Some(anchor));
        self.log(notice.always(), now);
        if anchor.epoch.number > now.unix_ms.saturating_add(FAR_AHEAD_MS) {
            let text = format!(
                "the source's epochs are decades ahead of the clock: {} of at most {}. Session markers were forged, the \
                 key {} was overwritten, or the source's clock is wrong. Messages are stored; when the epochs are used \
                 up, the route blocks",
                anchor.epoch.number,
                Epoch::MAX_NUMBER,
                self.settings.epoch_key,
            );
            self.log(Notice::warn(LogCode::EpochsAhead, text).of(Side::Source), now);
        }
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
        let wait = if error.class() == Class::Park { PARKED } else { self.reading.backoff.next_wait() };
        self.reading.opening = ReaderOpening::Waiting(now.at + wait);
        if self.reading.open.is_none() {
            self.reading.error = Some(describe(error));
        }
        let text =
            format!("cannot subscribe on {}: {}; tidegate retries", self.settings.source, describe(error));
        self.log(
            Notice::warn(LogCode::SourceUnavailable, text)
                .of_an_outage()
                .of(Side::Source)
                .class(error.class().as_str()),
            now,
        );
        self.changed();
    }

    /// The open window or tap has ended.
    pub(in crate::capture) fn on_lost(&mut self, lost: Lost, why: &str, now: Moment) {
        let cause = match lost {
            Lost::Disconnected => GapCause::SourceDisconnected,
            Lost::Demoted => GapCause::SourceDemoted,
        };
        self.lose_window(cause, why, now);
    }

    /// The heartbeat's task says whether heartbeats can be sent, how often the source was made a replica, and why it is in
    /// doubt which server is the source.
    pub(in crate::capture) fn on_heartbeat_task(
        &mut self,
        demotions: u64,
        error: Option<String>,
        doubt: Option<String>,
    ) {
        self.reading.demotions = demotions;
        self.reading.heartbeat_error = error;
        self.reading.doubt = doubt;
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

    /// Gives up what is being opened.
    pub(super) fn drop_opening(&mut self) {
        if self.reading.is_opening() {
            self.effect(Effect::DropOpening);
        }
        if !matches!(self.reading.opening, ReaderOpening::Closed) {
            self.reading.opening = ReaderOpening::Idle;
        }
    }

    /// Ends a window over which nothing comes, and reads on where there is room again.
    pub(super) fn check_reading(&mut self, now: Moment) {
        let Some(open) = &self.reading.open else {
            if matches!(self.reading.opening, ReaderOpening::Full) && self.has_room_again() {
                self.reading.opening = ReaderOpening::Waiting(now.at);
            }
            return;
        };
        if open.behind.is_some() {
            return self.catch_up(now);
        }
        if open.paused {
            if self.has_room_again() {
                self.continue_reading(now);
            }
            return;
        }
        if open.tap.is_none() && self.reading.demotions != self.reading.opened_at_demotions {
            let why = "the server was made a replica; messages published on its master may not reach it";
            return self.lose_window(GapCause::SourceDemoted, why, now);
        }
        if let ReaderOpening::Candidate { anchor, since } = self.reading.opening
            && now.at >= since + LAST_CHANCE
        {
            let why = "no heartbeat came back, and a new connection works: the server was stopped, or publishers use another server";
            self.end_window(GapCause::SourceSilent, why, now);
            return self.continue_with(anchor, now);
        }
        if !open.silent && now.at.saturating_duration_since(open.heard.at) >= SILENCE {
            self.on_silence(now);
        }
        if self.is_replication() {
            self.tell_progress(now);
        }
    }

    fn on_silence(&mut self, now: Moment) {
        let mut why =
            "no heartbeat came back: the server stalls, or publishers use another server".to_owned();
        if let Some(error) = &self.reading.heartbeat_error {
            why = format!("no heartbeat came back, and none can be sent: {error}");
        }
        if self.is_replication() || self.ending != Ending::Running {
            return self.lose_window(GapCause::SourceSilent, &why, now);
        }
        let Some(open) = &mut self.reading.open else { return };
        open.silent = true;
        self.reading.error = Some(why.clone());
        let text = format!(
            "{why}; tidegate opens another session beside the silent one. Nothing is lost if the silent one continues"
        );
        self.log(Notice::warn(LogCode::SourceSilent, text).of(Side::Source), now);
        if matches!(self.reading.opening, ReaderOpening::Idle) {
            self.reading.opening = ReaderOpening::Waiting(now.at);
        }
        self.leadership.hurry();
        self.changed();
    }

    /// Reads again if that was stopped because memory was full.
    pub(super) fn reopen_if_room(&mut self, now: Moment) {
        let stopped = match &self.reading.open {
            Some(open) => open.behind.is_some() || open.paused,
            None => matches!(self.reading.opening, ReaderOpening::Full),
        };
        if stopped {
            self.check_reading(now);
        }
    }

    /// Reads on where the spool has made room, and gives the window up where it has not in time.
    fn catch_up(&mut self, now: Moment) {
        let room = self.has_room_again();
        let Some(open) = &mut self.reading.open else { return };
        if room {
            open.behind = None;
            open.heard = now;
            self.effect(Effect::Read);
        } else if open.behind.is_some_and(|until| until <= now.at) {
            open.behind = None;
            self.no_room(now);
        }
    }

    /// Whether enough is free for a window to be worth opening.
    fn has_room_again(&self) -> bool {
        let room = self.room();
        let waits = self.chain.held_bytes() + self.spill.held_bytes();
        let most = if self.spill.is_enabled() { room.chain + room.tail / 2 } else { room.chain };
        waits <= most && self.spill.full(&self.chain, room).is_none()
    }

    /// The window has ended: messages may be missed until the next one opens.
    pub(super) fn lose_window(&mut self, cause: GapCause, why: &str, now: Moment) {
        if self.reading.open.is_none() {
            return;
        }
        if self.is_replication() {
            return self.lose_tap(cause, why, now);
        }
        self.end_window(cause, why, now);
        if let ReaderOpening::Candidate { anchor, .. } = self.reading.opening {
            return self.continue_with(anchor, now);
        }
        self.effect(Effect::Close);
        match cause {
            _ if self.ending != Ending::Running => {
                self.drop_opening();
                self.reading.opening = ReaderOpening::Closed;
            }
            GapCause::MemoryFull | GapCause::SpoolFull | GapCause::SpoolFailed => {
                self.drop_opening();
                self.reading.opening = ReaderOpening::Full;
            }
            _ if matches!(self.reading.opening, ReaderOpening::Window) => {}
            _ => self.reading.opening = ReaderOpening::Waiting(now.at + self.reading.backoff.next_wait()),
        }
        self.border_cannot_come();
        self.changed();
    }

    /// Reads the window that was opened beside the one that has ended, unless a successor takes over.
    fn continue_with(&mut self, anchor: Position, now: Moment) {
        self.border_cannot_come();
        if matches!(self.reading.opening, ReaderOpening::Candidate { .. }) {
            self.adopt(anchor, now);
        }
    }

    /// Notes the gap that begins with the window's end.
    fn end_window(&mut self, cause: GapCause, why: &str, now: Moment) {
        let Some(open) = self.reading.open.take() else { return };
        self.flush_builder();
        self.reading.error = Some(why.to_owned());
        // Messages are missed since something last came, not since that was noticed.
        let unheard = now.at.saturating_duration_since(open.heard.at).as_millis();
        let since = now.unix_ms.saturating_sub(u64::try_from(unheard).unwrap_or_default());
        self.gap = Some(Gap::begins(cause, why, since));
        let text = format!(
            "the session has ended: {why}; tidegate opens a new one. Messages until then are lost, and a gap is recorded"
        );
        self.on_source_lost(cause, text, now);
    }

    /// Nothing is read for the moment: an announced anchor will not come, the other instances want to know, and so does
    /// the operator.
    pub(super) fn on_source_lost(&mut self, cause: GapCause, text: String, now: Moment) {
        self.rollout.on_window_lost();
        self.leadership.hurry();
        let notice = Notice::warn(LogCode::SourceLost, text).of_an_outage();
        self.log(notice.of(Side::Source).cause(cause.as_str()), now);
    }

    /// Ends the window: there is no room for more.
    fn no_room(&mut self, now: Moment) {
        let cause = self.spill.full(&self.chain, self.room()).unwrap_or(GapCause::MemoryFull);
        let why = format!(
            "{} bytes are buffered in memory and {} on disk: {}",
            self.chain.held_bytes() + self.spill.held_bytes(),
            self.spill.disk_bytes(),
            match cause {
                GapCause::SpoolFull => "the route's share of the spool limit is used up",
                GapCause::SpoolFailed => "the spool cannot be written",
                _ => "the route's share of memory_limit is used up",
            }
        );
        self.lose_window(cause, &why, now);
    }

    /// Reads no more, ever.
    pub(super) fn close_reading(&mut self) {
        self.stop_reading(ReaderOpening::Closed);
    }

    /// Stops reading: messages are another instance's from here on.
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

    /// Reading has come to a stop: for now, or for good.
    pub(super) fn on_read(&mut self, flow: Flow, now: Moment) {
        match flow {
            Flow::Go => {
                if self.is_replication() {
                    self.tell_progress(now);
                }
            }
            Flow::Fence => self.on_fence(now),
            Flow::Border(border) => self.hand_over(border),
            Flow::Broken(why) => self.lose_window(GapCause::SourceBroken, &why, now),
            Flow::Numbered(why) => self.lose_window(GapCause::EpochLost, &why, now),
            Flow::Full => {
                if self.is_replication() {
                    return self.pause_reading(now);
                }
                let cause = self.spill.full(&self.chain, self.room());
                if self.spill.is_enabled() && cause == Some(GapCause::MemoryFull) {
                    // The disk works, and the source is faster than it at the moment.
                    if let Some(open) = &mut self.reading.open {
                        open.behind = Some(now.at + BEHIND);
                    }
                } else {
                    self.no_room(now);
                }
            }
        }
    }
}
