//! The numbers of epochs: which anchors a window counts from, and what becomes of a route where they run out.

use std::time::{Duration, Instant};

use super::{Open, ReaderOpening};
use crate::capture::engine::{Engine, Notice, Side};
use crate::logs::LogCode;
use crate::position::Epoch;
use crate::rt::Moment;

/// How far the epoch of an anchor may be ahead of the source's clock, as far as a window knows that: its own anchor
/// carries the clock or a higher number, and time has passed since.
const CLOCK_STEP: Duration = Duration::from_secs(60);
/// How far it may be ahead of the anchor before it: where the source's clock is behind its epochs, each anchor's is the
/// next number. So a client that forges anchors does not exhaust the numbers.
const LONGEST_STEP: u64 = 1_000;
/// An epoch that is so far ahead of the clock was not made by a clock.
const FAR_AHEAD_MS: u64 = 10 * 366 * 24 * 60 * 60 * 1000;

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
}

impl Engine {
    /// No window can be opened above the state. An operator must act.
    pub(super) fn on_used_up(&mut self, now: Moment) {
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
    pub(in crate::capture::engine) fn on_highest_epoch(&mut self, highest: u64, now: Moment) {
        if matches!(self.reading.opening, ReaderOpening::UsedUp) && highest < Epoch::MAX_NUMBER {
            self.floor = highest + 1;
            self.successor.set_floor(self.floor);
            self.reading.opening = ReaderOpening::Waiting(now.at);
        }
    }

    /// What the route before knows of epochs holds for this one.
    pub(super) fn take_floor(&mut self) {
        if let Some((predecessor, true)) = &self.predecessor {
            self.raise_floor(predecessor.floor());
        }
    }

    /// Says where the source's epochs were not made by a clock.
    pub(super) fn check_clock(&mut self, epoch: Epoch, now: Moment) {
        if epoch.number > now.unix_ms.saturating_add(FAR_AHEAD_MS) {
            let text = format!(
                "the source's epochs are decades ahead of the clock: {} of at most {}. Session markers were forged, the \
                 key {} was overwritten, or the source's clock is wrong. Messages are stored; when the epochs are used \
                 up, the route blocks",
                epoch.number,
                Epoch::MAX_NUMBER,
                self.settings.epoch_key,
            );
            self.log(Notice::warn(LogCode::EpochsAhead, text).of(Side::Source), now);
        }
    }
}
