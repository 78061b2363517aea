//! When an open window or tap is given up, awaited, or replaced.

use std::time::Duration;

use super::ingest::Flow;
use super::{LAST_CHANCE, Lost, ReaderOpening, SILENCE};
use crate::capture::batch::gap::Gap;
use crate::capture::engine::{Effect, Engine, Notice, Side};
use crate::event::GapCause;
use crate::logs::LogCode;
use crate::position::Position;
use crate::rt::Moment;

/// How long a window waits for a slow spool or destination. Messages wait in the source's output buffer meanwhile, of
/// which Redis allows 32 MB for a moment.
const BEHIND: Duration = Duration::from_secs(1);

impl Engine {
    /// The open window or tap has ended.
    pub(in crate::capture) fn on_lost(&mut self, lost: Lost, why: &str, now: Moment) {
        let cause = match lost {
            Lost::Disconnected => GapCause::SourceDisconnected,
            Lost::Demoted => GapCause::SourceDemoted,
        };
        self.lose_window(cause, why, now);
    }

    /// Ends a silent window, and continues reading if there is room again.
    pub(in crate::capture::engine) fn check_reading(&mut self, now: Moment) {
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
        if open.tap.is_none() && self.reading.heartbeat.demotions != self.reading.opened_at_demotions {
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
        if let Some(error) = &self.reading.heartbeat.error {
            why = format!("no heartbeat came back, and none can be sent: {error}");
        }
        if self.is_replication() || self.is_ending() {
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

    /// Reads again if that was stopped because memory was full, and stops reading once it is. A timer hands on the
    /// batches of a slow source: no message finds out then.
    pub(in crate::capture::engine) fn watch_room(&mut self, now: Moment) {
        if self.reading.is_out_of_room() {
            self.check_reading(now);
        } else if self.reads() && self.is_full() {
            self.on_read(Flow::Full, now);
        }
    }

    /// Continues reading if there is room again, and gives the window up if there was none in time.
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

    /// Returns whether enough is free for a window to be worth opening.
    fn has_room_again(&self) -> bool {
        let room = self.room();
        if self.spill.is_enabled() {
            // Whatever the chain holds, possibly a batch more than its share: the spool takes the next items.
            return self.spill.held_bytes() <= room.tail / 2;
        }
        self.chain.held_bytes() <= room.chain
    }

    /// The window has ended: messages may be missed until the next one opens.
    pub(in crate::capture::engine) fn lose_window(&mut self, cause: GapCause, why: &str, now: Moment) {
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
            _ if self.is_ending() => {
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

    /// Reads the window that was opened beside the ended one, unless a successor takes over.
    fn continue_with(&mut self, anchor: Position, now: Moment) {
        self.border_cannot_come();
        if matches!(self.reading.opening, ReaderOpening::Candidate { .. }) {
            self.adopt(anchor, now);
        }
    }

    /// Notes the gap that begins with the window's end.
    fn end_window(&mut self, cause: GapCause, why: &str, now: Moment) {
        let Some(missed) = self.reading.complete_until() else { return };
        self.reading.open = None;
        self.flush_builder();
        self.reading.error = Some(why.to_owned());
        self.gap = Some(Gap::begins(cause, why, now.unix_ms_of(missed)));
        let text = format!(
            "the session has ended: {why}; tidegate opens a new one. Messages published before the new session opens are \
             lost; a gap record shows it"
        );
        self.on_source_lost(cause, text, now);
    }

    /// Nothing is read for the moment: an announced anchor will not come, the other instances want to know, and so does
    /// the operator.
    pub(in crate::capture::engine) fn on_source_lost(&mut self, cause: GapCause, text: String, now: Moment) {
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

    /// Ends one read of the source, and acts on its outcome.
    pub(in crate::capture::engine) fn on_read(&mut self, flow: Flow, now: Moment) {
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
                if cause == Some(GapCause::MemoryFull) {
                    // The disk works, or without a spool the destination may, and the source is faster at the moment.
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
