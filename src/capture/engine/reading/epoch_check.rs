//! The numbers of epochs: which anchors begin a numbering, and what happens to a route that runs out of numbers.

use std::time::{Duration, Instant};

use super::{Open, ReaderOpening};
use crate::capture::engine::{Engine, Notice, Side};
use crate::logs::LogCode;
use crate::position::Epoch;
use crate::rt::Moment;

/// How far an anchor's epoch may be ahead of the source's clock. A window knows that clock from its own anchor, which
/// carries the clock or a higher number, and the time since.
const CLOCK_STEP: Duration = Duration::from_secs(60);
/// How far it may be ahead of the anchor before it: if the source's clock is behind its epochs, each anchor's epoch is
/// the next number. So a client that forges anchors does not exhaust the numbers.
const LONGEST_STEP: u64 = 1_000;
/// An epoch further ahead of the clock than this does not come from a clock.
const FAR_AHEAD_MS: u64 = 10 * 366 * 24 * 60 * 60 * 1000;

impl Open {
    /// Checks whether positions may be counted from this anchor.
    ///
    /// Any client that may publish on the control channel can forge anchors. An anchor ends the window if it is not
    /// above the epoch before it, or if neither the source's clock nor its last epoch confirms it. Instances may judge
    /// differently by the clock. That does no harm: an ended window counts nothing, and the next one opens with an
    /// anchor of the source's own. Ignoring an anchor would do harm: two instances would count the same messages in two
    /// ways.
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

    /// Takes in the state's highest epoch. It is lower than before only if the state was removed.
    pub(in crate::capture::engine) fn on_highest_epoch(&mut self, highest: u64, now: Moment) {
        if matches!(self.reading.opening, ReaderOpening::UsedUp) && highest < Epoch::MAX_NUMBER {
            self.floor = highest + 1;
            self.successor.set_floor(self.floor);
            self.reading.opening = ReaderOpening::Waiting(now.at);
        }
    }

    /// Takes over the predecessor's knowledge of epochs.
    pub(super) fn take_floor(&mut self) {
        if let Some((predecessor, true)) = &self.predecessor {
            self.raise_floor(predecessor.floor());
        }
    }

    /// Logs that the source's epochs were not made by a clock.
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
