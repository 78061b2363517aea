//! The reading side: when a window is opened, believed, given up or replaced.
//!
//! ```text
//! opening:  Idle ─▶ Waiting ─▶ Window ─▶ Candidate     a new window, beside the one that is open
//!             ▲        │          │          │ the open one is silent, or has ended
//!             │        │ (replication) ─▶ Link ─▶ Numbering
//!             └────────┴──────────┴──────────┴──────────▶ open
//! open:     reading ─▶ behind     the spool is slower than the source
//!              │  └──▶ paused     a tap without room
//!              └────▶ silent      no heartbeat comes back: a candidate is opened beside it
//! ```
//!
//! Silence closes nothing by itself. A source that stalls (a slow script, a failover) may still deliver what it holds,
//! so a new window is opened *beside* the silent one. Where the old one delivers again, the new one is dropped and there
//! is no gap. Where the new one is open and the old one stays silent for a moment longer, the old one is given up.

use std::time::{Duration, Instant};

use super::gap::{Gap, Joint};
use super::intake::Flow;
use super::notice::{Notice, Side};
use super::replication::{Linked, Tap};
use super::{Action, Engine};
use crate::capture::handover::Border;
use crate::event::GapCause;
use crate::position::{AnchorId, Position};
use crate::rt::Moment;
use crate::server::{Backoff, Class, Error};

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

/// The reading side.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) opening: Opening,
    pub(super) open: Option<Open>,
    pub(super) backoff: Backoff,
    /// Why it is not open, for the operator.
    pub(super) error: Option<String>,
    /// When a heartbeat of ours last came back; milliseconds since 1970.
    pub(super) heartbeat_unix_ms: Option<u64>,
    pub(super) opened_before: bool,
    /// In replication mode: what is missing if the source no longer holds what was published meanwhile.
    pub(super) away: Option<Gap>,
    /// An anchor that was asked for, to begin anew inside the open window.
    rejoin: Option<(AnchorId, Instant)>,
}

/// What is being opened.
#[derive(Debug)]
pub(super) enum Opening {
    Idle,
    Waiting(Instant),
    /// A window, with this anchor.
    Window(AnchorId),
    /// A window that is open beside one that is silent.
    Candidate { anchor: Position, since: Instant },
    /// A replication link.
    Link,
    /// A link that is open; the state is asked for the number of its history.
    Numbering(Box<Linked>),
    /// There is no room for more.
    Full,
    /// Reading has ended.
    Closed,
}

/// What is open.
#[derive(Debug)]
pub(super) struct Open {
    /// Where it begins.
    pub(super) anchor: Position,
    /// A window's latest item.
    pub(super) last: Position,
    /// When something last came; and the same by the system's clock.
    pub(super) heard: Moment,
    /// It is silent, and another window is opened beside it.
    pub(super) silent: bool,
    /// Memory is full and the spool is behind: nothing is read until there is room, or until then.
    pub(super) behind: Option<Instant>,
    /// There is no room: a tap leaves messages where they are.
    pub(super) paused: bool,
    pub(super) tap: Option<Tap>,
}

/// Why a window has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The connection ended.
    Disconnected,
    /// The source sent what it must not send.
    Broken,
    /// The source was made a replica.
    Demoted,
}

impl Reader {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            opening: Opening::Waiting(now),
            open: None,
            backoff: Backoff::default(),
            error: None,
            heartbeat_unix_ms: None,
            opened_before: false,
            away: None,
            rejoin: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The anchor of the window that is open and heard.
    pub(super) fn watched_from(&self) -> Option<Position> {
        self.open.as_ref().filter(|open| !open.silent).map(|open| open.anchor)
    }

    /// Whether a connection is being made, or is made and not adopted.
    pub(super) fn is_opening(&self) -> bool {
        matches!(
            self.opening,
            Opening::Window(_) | Opening::Candidate { .. } | Opening::Link | Opening::Numbering(_)
        )
    }

    pub(super) fn drop_opening(&mut self) {
        if self.is_opening() {
            self.opening = Opening::Idle;
        }
    }

    /// Opens at this time, unless reading has ended.
    pub(super) fn open_at(&mut self, at: Instant) {
        if !matches!(self.opening, Opening::Closed) {
            self.opening = Opening::Waiting(at);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let opening = match &self.opening {
            Opening::Waiting(until) => Some(*until),
            Opening::Candidate { since, .. } => Some(*since + LAST_CHANCE),
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
    pub(super) fn forgive(&mut self, now: Instant) {
        if let Some(open) = &mut self.open
            && !open.silent
        {
            open.heard.at = now;
        }
    }

    /// Whether a window has been tried once, with whatever outcome.
    pub(super) fn was_tried(&self) -> bool {
        self.opened_before || self.error.is_some()
    }
}

impl Engine {
    /// Whether the open window or tap is to be read.
    pub(crate) fn reads(&self) -> bool {
        self.reader.open.as_ref().is_some_and(|open| open.behind.is_none() && !open.paused)
    }

    /// Opens a window where that is due.
    pub(super) fn open_if_due(&mut self, now: Moment) {
        if !matches!(self.reader.opening, Opening::Waiting(until) if until <= now.at) {
            return;
        }
        if self.is_replication() {
            return self.open_link(now);
        }
        let announced = self.rollout.anchor().filter(|anchor| !self.chain.has_seen(*anchor));
        let anchor = announced.unwrap_or_else(AnchorId::random);
        self.say_border(Border::Announced(anchor));
        self.reader.opening = Opening::Window(anchor);
        let floor = self.floor;
        self.act(Action::OpenWindow { anchor, floor });
    }

    /// A window is open. Its first item is the anchor.
    pub(crate) fn on_opened(&mut self, anchor: Position, now: Moment) {
        if !matches!(self.reader.opening, Opening::Window(_)) {
            return self.act(Action::DropOpening);
        }
        if anchor.epoch.number < self.floor {
            let seen = self.reader.open.is_some() && self.chain.has_seen(anchor.epoch.anchor);
            if !seen {
                // The source did not know the floor when it was asked: the destination was read since.
                self.say_border(Border::None);
                self.act(Action::DropOpening);
                let wait = self.reader.backoff.next_wait();
                self.reader.opening = Opening::Waiting(now.at + wait);
                return;
            }
        }
        if self.reader.open.is_some() {
            self.reader.opening = Opening::Candidate { anchor, since: now.at };
            return;
        }
        self.adopt(anchor, now);
    }

    /// Reads a window from now on that was opened.
    fn adopt(&mut self, anchor: Position, now: Moment) {
        self.act(Action::Adopt);
        self.reader.opening = Opening::Idle;
        self.say_border(Border::Open(anchor));
        if self.reader.opened_before {
            self.tally.source_reconnects += 1;
        }
        self.reader.opened_before = true;
        self.reader.error = None;
        self.reader.rejoin = None;
        self.discards = false;
        self.floor = self.floor.max(anchor.epoch.number + 1);
        let joint = self.gap.take().map_or(Joint::Start, |gap| Joint::Gap(gap.until(now.unix_ms)));
        self.flush_builder();
        self.builder.open_window(anchor, joint, now);
        self.reader.open = Some(Open {
            anchor,
            last: anchor,
            heard: now,
            silent: false,
            behind: None,
            paused: false,
            tap: None,
        });
        let notice = Notice::info("window_opened", "listening").of(Side::Source).position(anchor);
        self.log(notice.always(), now);
        self.leadership.hurry();
    }

    /// No window could be opened.
    pub(crate) fn on_not_opened(&mut self, error: &Error, now: Moment) {
        if !self.reader.is_opening() {
            return;
        }
        self.say_border(Border::None);
        let wait = if error.class() == Class::Park { PARKED } else { self.reader.backoff.next_wait() };
        self.reader.opening = Opening::Waiting(now.at + wait);
        if self.reader.open.is_none() {
            self.reader.error = Some(describe(error));
        }
        let text = format!("cannot listen: {}; tries again by itself", describe(error));
        self.log(Notice::warn("source_unavailable", text).of(Side::Source).class(error.class().as_str()), now);
    }

    /// The open window or tap has ended.
    pub(crate) fn on_lost(&mut self, lost: Lost, why: &str, now: Moment) {
        let cause = match lost {
            Lost::Disconnected => GapCause::SourceDisconnected,
            Lost::Broken => GapCause::SourceBroken,
            Lost::Demoted => GapCause::SourceDemoted,
        };
        self.lose_window(cause, why, now);
    }

    /// Something came over the open window or tap.
    pub(crate) fn on_heard(&mut self, now: Moment) {
        let Some(open) = &mut self.reader.open else { return };
        open.heard = now;
        if std::mem::take(&mut open.silent) {
            // It only stalled. The new window is not needed.
            self.reader.error = None;
            if self.reader.is_opening() {
                self.act(Action::DropOpening);
            }
            if !matches!(self.reader.opening, Opening::Closed) {
                self.reader.opening = Opening::Idle;
            }
            self.leadership.hurry();
        }
    }

    /// Ends a window over which nothing comes, and reads on where there is room again.
    pub(super) fn check_reader(&mut self, now: Moment) {
        let Some(open) = &self.reader.open else {
            if matches!(self.reader.opening, Opening::Full) && self.has_room_again() {
                self.reader.opening = Opening::Waiting(now.at);
            }
            return;
        };
        if open.behind.is_some() {
            return self.catch_up(now);
        }
        if open.paused {
            if self.has_room_again() {
                self.go_on_reading();
            }
            return;
        }
        if let Opening::Candidate { anchor, since } = self.reader.opening
            && now.at >= since + LAST_CHANCE
        {
            let why = "no heartbeat came back, and a new connection took over: the server was stopped, or is no longer \
                       the one that is published to";
            self.reader.opening = Opening::Idle;
            self.end_window(GapCause::SourceSilent, why, now);
            return self.adopt(anchor, now);
        }
        if !open.silent && now.at.duration_since(open.heard.at) >= SILENCE {
            self.on_silence(now);
        }
        if self.is_replication() && self.reader.is_open() {
            self.tell_progress(now);
        }
    }

    fn on_silence(&mut self, now: Moment) {
        if self.is_replication() {
            let why = "nothing came over the replication link for a while, not even a heartbeat";
            return self.lose_window(GapCause::SourceSilent, why, now);
        }
        if self.ending != super::Ending::Running {
            let why = "no heartbeat came back while the route was ending";
            return self.lose_window(GapCause::SourceSilent, why, now);
        }
        if let Some(open) = &mut self.reader.open {
            open.silent = true;
        }
        let why = "no heartbeat came back: the server stalls, or is no longer the one that is published to";
        self.reader.error = Some(why.to_owned());
        let text = format!("{why}; another window is opened beside the silent one");
        self.log(Notice::warn("source_silent", text).of(Side::Source), now);
        if matches!(self.reader.opening, Opening::Idle) {
            self.reader.opening = Opening::Waiting(now.at);
        }
        self.leadership.hurry();
    }

    /// Reads again if that was stopped because memory was full.
    pub(super) fn reopen_if_room(&mut self, now: Moment) {
        let stopped = match &self.reader.open {
            Some(open) => open.behind.is_some() || open.paused,
            None => matches!(self.reader.opening, Opening::Full),
        };
        if stopped {
            self.check_reader(now);
        }
    }

    /// Reads on where the spool has made room, and gives the window up where it has not in time.
    fn catch_up(&mut self, now: Moment) {
        let room = self.has_room_again();
        let Some(open) = &mut self.reader.open else { return };
        if room {
            open.behind = None;
            open.heard = now;
        } else if open.behind.is_some_and(|until| until <= now.at) {
            open.behind = None;
            self.no_room(now);
        }
    }

    /// Whether enough is free for a window to be worth opening.
    pub(super) fn has_room_again(&self) -> bool {
        let room = self.room();
        let waits = self.chain.held_bytes() + self.spill.held_bytes();
        let most = if self.spill.is_enabled() { room.chain + room.tail / 2 } else { room.chain };
        waits <= most && self.spill.full(&self.chain, room).is_none()
    }

    /// The window has ended: messages may be missed until the next one opens.
    pub(super) fn lose_window(&mut self, cause: GapCause, why: &str, now: Moment) {
        if self.reader.open.is_none() {
            return;
        }
        self.act(Action::Close);
        if self.is_replication() {
            return self.lose_tap(cause, why, now);
        }
        self.end_window(cause, why, now);
        if let Opening::Candidate { anchor, .. } = self.reader.opening {
            // It is open already.
            return self.adopt(anchor, now);
        }
        self.reader.opening = match cause {
            _ if self.ending != super::Ending::Running => Opening::Closed,
            GapCause::MemoryFull | GapCause::SpoolFull | GapCause::SpoolFailed => Opening::Full,
            _ if self.reader.is_opening() => return self.border_cannot_come(),
            _ => Opening::Waiting(now.at + self.reader.backoff.next_wait()),
        };
        self.border_cannot_come();
    }

    /// Notes the gap that begins with the window's end.
    fn end_window(&mut self, cause: GapCause, why: &str, now: Moment) {
        // Messages are missed since something last came, not since that was noticed.
        let heard = self.reader.open.take().map_or(now, |open| open.heard);
        self.flush_builder();
        self.reader.error = Some(why.to_owned());
        self.reader.rejoin = None;
        let gap = Gap::begins(cause, why, heard.unix_ms.min(now.unix_ms));
        self.gap = Some(match self.gap.take() {
            Some(before) => before.with(gap),
            None => gap,
        });
        self.leadership.hurry();
        let text = format!(
            "the window has ended: {why}; a new one is opened, and messages that were missed until then lie in a recorded gap"
        );
        self.log(Notice::warn("source_lost", text).of(Side::Source).cause(cause.as_str()), now);
    }

    /// Ends the window: there is no room for more.
    fn no_room(&mut self, now: Moment) {
        let cause = self.spill.full(&self.chain, self.room()).unwrap_or(GapCause::MemoryFull);
        let why = format!(
            "{} bytes wait for the destination in memory and {} on disk: {}",
            self.chain.held_bytes() + self.spill.held_bytes(),
            self.spill.disk_bytes(),
            match cause {
                GapCause::SpoolFull => "the route's share of [daemon.spool] limit is used up",
                GapCause::SpoolFailed => "the spool cannot be written",
                _ => "the route's share of memory_limit is used up",
            }
        );
        self.lose_window(cause, &why, now);
    }

    pub(super) fn close_reader(&mut self) {
        if self.reader.is_opening() {
            self.act(Action::DropOpening);
        }
        if self.reader.open.take().is_some() {
            self.act(Action::Close);
        }
        self.reader.opening = Opening::Closed;
    }

    /// Reading has come to a stop: for now, or for good. `reached` is how far a tap was read.
    pub(crate) fn on_read(&mut self, flow: Flow, reached: Option<u64>, now: Moment) {
        if let (Some(offset), Some(open)) = (reached, &mut self.reader.open)
            && let Some(tap) = &mut open.tap
        {
            tap.reached = offset;
        }
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
                    if let Some(open) = &mut self.reader.open {
                        open.behind = Some(now.at + BEHIND);
                    }
                } else {
                    self.no_room(now);
                }
            }
        }
    }

    /// An anchor is asked for that begins anew inside the open window, or a window is opened with one.
    pub(super) fn begin_anew(&mut self, gap: Gap, now: Moment) {
        self.flush_builder();
        self.gap = Some(match self.gap.take() {
            Some(before) => before.with(gap),
            None => gap,
        });
        if self.reader.open.is_some() && !self.is_replication() {
            self.discards = true;
            self.ask_for_anchor(AnchorId::random(), now);
        }
    }

    /// Publishes an anchor through the open window.
    pub(super) fn ask_for_anchor(&mut self, anchor: AnchorId, now: Moment) {
        self.reader.rejoin = Some((anchor, now.at));
        let floor = self.floor;
        self.act(Action::Anchor { anchor, floor });
    }

    /// The source refused the anchor that was asked for.
    pub(crate) fn on_anchor_refused(&mut self, error: &Error, now: Moment) {
        let text = format!(
            "the source refuses an anchor: {}; the window is opened anew, which may leave a gap",
            describe(error)
        );
        self.log(Notice::warn("anchor_refused", text).of(Side::Source).class(error.class().as_str()), now);
        self.lose_window(GapCause::SourceBroken, "the source refused an anchor", now);
    }

    /// Whether this is the anchor with which the window begins anew.
    pub(super) fn begins_anew_at(&mut self, anchor: AnchorId) -> bool {
        if self.reader.rejoin.is_some_and(|(id, _)| id == anchor) {
            self.reader.rejoin = None;
            return std::mem::take(&mut self.discards);
        }
        false
    }
}

/// An error with what the operator can do about it.
pub(super) fn describe(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    }
}
