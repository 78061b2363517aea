//! Which configuration of a route writes, while other instances run other configurations.
//!
//! ```text
//! newer  Current ─▶ TakesOver                       continues at the checkpoint: the script then rejects the older one
//!           └────▶ Announced ─▶ Opened ─▶ Current   cannot continue there: begins at an anchor that the state names
//!                    ▲   │         │
//!                    └─ Refused ◀──┘ (or announced again)
//!        Inherited ─▶ Current                       continues from the older one in the same process
//! older  Current ─▶ Yields ─▶ Current               the state names an anchor at which a newer one begins
//!           ├────▶ Outdated ─▶ Current              a newer one writes elsewhere, until its instance is gone
//!           └────▶ Replaces ─▶ Current              its instance is gone: the state is told so
//! ```
//!
//! The older one counts other messages, so inside an epoch a newer one cannot always continue. Then it writes to the
//! state at which anchor it begins, and opens a window with that anchor. The older one stores everything up to that
//! anchor; from there on the script rejects it.
//!
//! Failure: a failover of the destination can lose an announcement, or restore an older one, whose anchor no newer
//! instance awaits. Then the older one would write for ever, or no instance would. So the newer one announces again,
//! with another anchor.

use std::time::{Duration, Instant};

use super::handover::Border;
use super::writing::Ask;
use super::{Engine, Notice};
use crate::capture::append::state::StoredState;
use crate::capture::append::state::revision::RankedRevision;
use crate::capture::batch::gap::Gap;
use crate::event::GapCause;
use crate::logs::LogCode;
use crate::position::AnchorId;
use crate::rt::Moment;
use crate::server::Error;
use crate::server::resp;

/// Pause after a destination refused an announcement.
const AGAIN: Duration = Duration::from_secs(2);

/// This instance's stage between its own configuration and another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rollout {
    /// No other configuration is known, or this one wrote last.
    Current,
    /// An older one wrote last, and this one continues at the checkpoint.
    TakesOver,
    /// The destination rejected the announcement. It is made again from this moment on.
    Refused(Instant),
    /// The state names this anchor, which is not published yet.
    Announced(AnchorId),
    /// The anchor is published.
    Opened,
    /// It continues from the older one in the same process, which wrote: there is no other instance to inform.
    Inherited,
    /// A newer configuration has announced its anchor, and has not written yet. Later items are buffered: that instance
    /// may fail before it writes.
    Yields,
    /// A newer configuration writes elsewhere. This one writes nothing.
    Outdated {
        /// The newer one, for the operator.
        by: String,
        /// The revision whose instance is gone or cannot continue: this one shall write in its place.
        replaces: Option<RankedRevision>,
    },
    /// A newer revision wrote last, and its instance is gone: this one is to write in its place.
    Replaces(RankedRevision),
}

impl Rollout {
    /// Goes to another state of the diagram.
    fn set(&mut self, next: Self) {
        debug_assert!(self.may_become(&next), "no way leads from {self:?} to {next:?}");
        *self = next;
    }

    fn may_become(&self, next: &Self) -> bool {
        match (self, next) {
            (_, Self::Current | Self::Outdated { .. }) => true,
            (Self::Outdated { .. }, _) => false,
            (from, Self::Refused(_) | Self::Opened) => matches!(from, Self::Announced(_)),
            (from, Self::Announced(_) | Self::TakesOver) => !matches!(from, Self::Yields),
            (_, Self::Inherited | Self::Yields | Self::Replaces(_)) => true,
        }
    }

    /// Returns whether this configuration may write.
    pub(crate) fn may_write(&self) -> bool {
        !self.is_outdated() && *self != Self::Yields
    }

    pub(crate) fn is_outdated(&self) -> bool {
        matches!(self, Self::Outdated { .. })
    }

    /// The revision in whose place this instance shall write.
    pub(crate) fn replaces(&self) -> Option<&RankedRevision> {
        match self {
            Self::Outdated { replaces, .. } => replaces.as_ref(),
            Self::Replaces(newer) => Some(newer),
            _ => None,
        }
    }

    /// The connection to the destination ended: whether it was announced is not known.
    pub(crate) fn on_disconnected(&mut self) {
        if matches!(self, Self::Announced(_)) {
            self.set(Self::Current);
        }
    }

    /// The window with the announced anchor could not be opened, or is no more: the anchor will not come.
    pub(crate) fn on_window_lost(&mut self) {
        if *self == Self::Opened {
            self.set(Self::Current);
        }
    }

    /// A window is opened: gives the anchor that it was announced to begin at.
    pub(crate) fn on_opening(&mut self) -> Option<AnchorId> {
        let Self::Announced(anchor) = *self else { return None };
        self.set(Self::Opened);
        Some(anchor)
    }

    /// A batch of this instance is stored, or does not compare with one that another has stored: the announcement or
    /// inheritance is over.
    pub(crate) fn on_written(&mut self) {
        if matches!(self, Self::Refused(_) | Self::Announced(_) | Self::Opened | Self::Inherited) {
            self.set(Self::Current);
        }
    }

    /// The script rejects a batch, since a newer configuration begins before its end or has written.
    pub(crate) fn on_rejected(&mut self) {
        if !self.is_outdated() {
            self.set(Self::Yields);
        }
    }

    /// The route that this one replaces had the lease.
    pub(crate) fn on_inherited(&mut self) {
        self.set(Self::Inherited);
    }

    /// Returns whether to announce, if another instance runs an older one. `in_vain`: a window is open, and no instance
    /// could continue without a gap.
    fn is_due(
        &self,
        own: &RankedRevision,
        state: &StoredState,
        leader: bool,
        in_vain: bool,
        now: Instant,
    ) -> bool {
        match (self, &state.next) {
            (Self::Current | Self::TakesOver | Self::Replaces(_), _) => true,
            (Self::Refused(until), _) => now >= *until,
            (Self::Announced(_) | Self::Yields | Self::Outdated { .. }, _) => false,
            (Self::Opened, Some((anchor, by))) if !own.supersedes(by) => in_vain && stands_at(state, *anchor),
            // The leader names its revision with its next batch.
            (Self::Opened | Self::Inherited, _) => !leader,
        }
    }
}

impl Engine {
    /// Sees to it that the newest configuration is the one that is written by.
    pub(super) fn follow_revision(&mut self, state: &StoredState, now: Moment) {
        let Some(mut own) = self.revision.clone() else { return };
        if let Some(raised) = own.raised(state) {
            self.writing.set_revision(&raised);
            self.revision = Some(raised.clone());
            own = raised;
        }
        if self.rollout == Rollout::Yields && !self.leadership.is_leader() {
            // The next batch finds out again: another anchor may have been announced.
            self.rollout.set(Rollout::Current);
        }
        if let Some(newer) = state.revision.as_ref().filter(|written| written.supersedes(&own)) {
            return self.on_newer_wrote(newer, newer.numbers_alike(&own), now);
        }
        if let Rollout::Outdated { replaces, .. } = &mut self.rollout {
            *replaces = None;
        }
        if matches!(self.rollout, Rollout::Replaces(_) | Rollout::TakesOver) {
            self.rollout.set(Rollout::Current);
        }
        let alone = self.leadership.is_alone(now.at);
        if let Some((_, newer)) = state.next.as_ref().filter(|(_, announced)| announced.supersedes(&own)) {
            if alone || self.leadership.is_held_up(&self.facts(), now.at) {
                self.withdraw(&newer.to_string(), now);
            }
            return;
        }
        if let Rollout::Outdated { by, .. } = &self.rollout {
            let by = by.clone();
            self.rollout.set(Rollout::Current);
            self.on_current_again(&by, state, now);
        }
        if self.rollout == Rollout::Yields {
            return;
        }
        let Some(written) = state.revision.as_ref().filter(|written| written.differs(&own) && !alone) else {
            return self.rollout.set(Rollout::Current);
        };
        let continues = self.chain.coverage(self.reading.watched_from()).is_eligible();
        if written.numbers_alike(&own) || continues {
            return self.rollout.set(Rollout::TakesOver);
        }
        let in_vain = self.reading.is_open() && !self.leadership.another_is_eligible(now.at);
        if self.rollout.is_due(&own, state, self.leadership.is_leader(), in_vain, now.at) {
            self.announce(now);
        }
    }

    /// A newer configuration wrote last. Other instances of this very configuration may be there, and wait as well.
    fn on_newer_wrote(&mut self, newer: &RankedRevision, alike: bool, now: Moment) {
        let newest = self.leadership.is_newest(now.at);
        if !self.rollout.is_outdated() && !newest {
            self.stand_by(newer, alike, now);
        }
        // The newer one may have begun anew behind items that this one still buffers.
        let watched = self.chain.coverage(self.reading.watched_from()).is_eligible();
        let needed = watched && self.leadership.nobody_goes_on(now.at);
        let instead = (newest || needed).then(|| newer.clone());
        if instead.is_some() {
            self.leadership.hurry();
        }
        match (&mut self.rollout, instead) {
            (Rollout::Outdated { replaces, .. }, instead) => *replaces = instead,
            (rollout, Some(newer)) => rollout.set(Rollout::Replaces(newer)),
            (rollout, None) => rollout.set(Rollout::Current),
        }
    }

    /// The newer configuration writes no more: this one continues.
    fn on_current_again(&mut self, by: &str, state: &StoredState, now: Moment) {
        let text = "no instance has the newer configuration any more, or it is this one's now; this instance continues";
        self.log(Notice::warn(LogCode::CurrentAgain, text).by(by), now);
        if self.reading.is_held() {
            let why = "an instance with another configuration was active and has stopped";
            let since = state.at_unix_ms.unwrap_or(now.unix_ms);
            self.gap = Some(Gap::begins(GapCause::Rollout, why, since));
            self.read_anew(now);
        }
        self.changed();
    }

    /// Another instance writes by an older configuration: announces the anchor at which this one begins, and opens a
    /// window with it. Items before it are the other instance's.
    fn announce(&mut self, now: Moment) {
        let anchor = AnchorId::random();
        let Some(revision) = &self.revision else { return };
        let (key, next) = (self.settings.keys.state.clone(), format!("{anchor} {revision}"));
        let text = "another instance has an older configuration of this route; this one takes over at its next session marker";
        self.log(Notice::info(LogCode::RolloutAnnounced, text), now);
        let mut call = Vec::new();
        resp::command(&mut call, &[b"HSET", &key, b"next", next.as_bytes()]);
        self.ask(Ask::Announce, now, &call);
        self.rollout.set(Rollout::Announced(anchor));
    }

    /// The announcement was refused: everything is held as before, and it is made again after a while.
    pub(super) fn on_announce_failed(&mut self, error: &Error, now: Moment) {
        if matches!(self.rollout, Rollout::Announced(_)) {
            self.rollout.set(Rollout::Refused(now.at + AGAIN));
        }
        self.wait(error, now);
    }

    /// The announcement is in the state: the window opens anew, with the announced anchor. Earlier items stay buffered
    /// until the other instance has reached the anchor.
    pub(super) fn on_announced(&mut self, now: Moment) {
        if !matches!(self.rollout, Rollout::Announced(_)) {
            return;
        }
        self.flush_builder();
        let why = "messages before this configuration's first session belong to the instance with the older configuration";
        self.gap = Some(Gap::begins(GapCause::Rollout, why, now.unix_ms));
        self.read_anew(now);
        self.border_cannot_come();
        self.changed();
    }

    /// A newer configuration was announced and never wrote: its announcement delays this one no longer. Its instance
    /// announces again, if it is still there.
    fn withdraw(&mut self, by: &str, now: Moment) {
        self.forget_next(now);
        if self.rollout == Rollout::Yields {
            self.rollout.set(Rollout::Current);
        }
        let text =
            "an instance announced a newer configuration but did not take over; this instance continues";
        self.log(Notice::warn(LogCode::CurrentAgain, text).by(by), now);
    }

    fn forget_next(&mut self, now: Moment) {
        let key = self.settings.keys.state.clone();
        let mut call = Vec::new();
        resp::command(&mut call, &[b"HDEL", &key, b"next"]);
        self.ask(Ask::Note, now, &call);
    }

    /// A newer configuration of this route writes elsewhere. If its numbering is the same, this one continues to read,
    /// and buffers what is not stored: it continues without a gap if that instance ends.
    fn stand_by(&mut self, by: &RankedRevision, alike: bool, now: Moment) {
        let text = "another instance has a newer configuration of this route; this one is outdated until it is reloaded or that \
                    instance stops";
        self.log(Notice::warn(LogCode::Outdated, text).by(by), now);
        self.rollout.set(Rollout::Outdated { by: by.to_string(), replaces: None });
        self.leadership.hurry();
        self.changed();
        if alike {
            return;
        }
        self.flush_builder();
        let others = self.clear_buffered();
        self.count_deduplicated(others);
        self.gap = None;
        self.hold_reading();
        self.forget_tap();
        self.say_border(Border::None);
        self.border_cannot_come();
    }
}

/// Returns whether the checkpoint is exactly at an anchor.
fn stands_at(state: &StoredState, anchor: AnchorId) -> bool {
    state.position.is_some_and(|position| position.epoch.anchor == anchor && position.ordinal == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    #[test]
    fn what_came_to_nothing_is_announced_again() {
        let after = |state: &StoredState, hashes| RankedRevision::after(state, hashes);
        let written = |revision: &RankedRevision| StoredState {
            revision: Some(revision.clone()),
            ..StoredState::default()
        };
        let older = after(&StoredState::default(), "older");
        let own = after(&written(&older), "own");
        let newer = after(&written(&own), "newer");
        let anchor: AnchorId = "0123456789abcdef".parse().unwrap();
        let at = |ordinal| Some(Epoch { number: 7, anchor }.at(ordinal));
        let state = |next: Option<&RankedRevision>, position| StoredState {
            next: next.map(|by| (anchor, by.clone())),
            position,
            ..StoredState::default()
        };
        let start = Instant::now();
        let due = |rollout: &Rollout, state: &StoredState, leader, in_vain| {
            rollout.is_due(&own, state, leader, in_vain, start)
        };
        assert!(due(&Rollout::Current, &state(None, None), false, false));
        assert!(!due(&Rollout::Announced(anchor), &state(None, at(0)), false, true), "it is under way");
        let mut refused = Rollout::Announced(anchor);
        refused.set(Rollout::Refused(start + AGAIN));
        assert!(!due(&refused, &state(None, at(0)), false, true), "the destination refused it a moment ago");
        assert!(refused.is_due(&own, &state(None, at(0)), false, true, start + AGAIN));
        let opened = &Rollout::Opened;
        assert!(due(opened, &state(None, at(3)), false, false), "a failover has lost it");
        assert!(!due(opened, &state(None, at(3)), true, false), "the next batch says it");
        assert!(due(opened, &state(Some(&older), at(3)), false, false), "something older came back");
        assert!(!due(&Rollout::Inherited, &state(None, at(3)), true, false), "it writes");
        assert!(due(&Rollout::Inherited, &state(None, at(3)), false, false), "another one does by now");
        for by in [&own, &newer] {
            assert!(
                !due(opened, &state(Some(by), at(3)), false, true),
                "the other one has not come there yet"
            );
            assert!(
                !due(opened, &state(Some(by), at(0)), false, false),
                "another instance continues from there"
            );
            assert!(due(opened, &state(Some(by), at(0)), false, true), "nobody does");
        }
    }
}
