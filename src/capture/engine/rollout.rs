//! How a newer configuration becomes the one that is written by, while another instance runs an older one.
//!
//! Where it can go on at the checkpoint, it does: the script refuses the older revision from then on. Where it cannot,
//! since the older one counts other messages and stands inside an epoch, it says in the state at which anchor it begins,
//! and opens a window with that anchor. What stands before the anchor, and the anchor itself, is the older one's to store;
//! from there on the script refuses it.
//!
//! Failure: what was said can be lost with a failover of the destination, or something older can come back
//! with it, at whose anchor nobody of the newer configuration listens any more. Then the older one would
//! write for ever, or nobody would; so it is said again, with another anchor.

use std::time::{Duration, Instant};

use super::handover::Border;
use super::writing::Ask;
use super::{Engine, Notice};
use crate::capture::append::state::{RankedRevision, StoredState};
use crate::capture::batch::gap::Gap;
use crate::event::GapCause;
use crate::logs::LogCode;
use crate::position::AnchorId;
use crate::rt::Moment;
use crate::server::Error;
use crate::server::resp;

/// How long a destination that refused an announcement is left alone.
const AGAIN: Duration = Duration::from_secs(2);

/// How far an instance with a newer configuration has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rollout {
    /// Nothing is announced: nobody runs an older one, as far as is known.
    None,
    /// The announcement was refused. It is made again from this moment on.
    Refused(Instant),
    /// It is announced to begin at this anchor, which is not published yet.
    Announced(AnchorId),
    /// The anchor is published.
    Opened,
    /// It goes on from the older one in the same process, which wrote: nobody needs to be told.
    Inherited,
}

impl Rollout {
    /// The connection to the destination ended: whether it was announced is not known.
    pub(crate) fn on_disconnected(&mut self) {
        if matches!(self, Self::Announced(_)) {
            *self = Self::None;
        }
    }

    /// The destination refused the announcement.
    pub(crate) fn on_refused(&mut self, now: Instant) {
        *self = Self::Refused(now + AGAIN);
    }

    /// The window with the announced anchor could not be opened, or is no more: the anchor will not come.
    pub(crate) fn on_window_lost(&mut self) {
        if *self == Self::Opened {
            *self = Self::None;
        }
    }

    /// Whether it is to be announced, where another instance runs an older one. `in_vain` says that a window
    /// is open, and neither this instance nor another one could go on without a gap.
    pub(crate) fn is_due(
        self,
        own: &RankedRevision,
        state: &StoredState,
        leader: bool,
        in_vain: bool,
        now: Instant,
    ) -> bool {
        match (self, &state.next) {
            (Self::None, _) => true,
            (Self::Refused(until), _) => now >= until,
            (Self::Announced(_), _) => false,
            (Self::Opened, Some((anchor, by))) if !own.supersedes(by) => in_vain && stands_at(state, *anchor),
            // Whoever writes says with its next batch by what.
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
        self.instead_of = None;
        self.takes_over = false;
        let alone = self.leadership.is_alone(now.at);
        if let Some(newer) = state.revision.as_ref().filter(|written| written.supersedes(&own)) {
            self.rollout = Rollout::None;
            // Other instances of this very configuration may be there, and wait as well.
            let newest = self.leadership.is_newest(now.at);
            if self.superseded.is_none() && !newest {
                self.stand_by(newer, newer.numbers_alike(&own), now);
            }
            // The newer one may have begun anew behind what this one still holds.
            let watched = self.chain.coverage(self.reading.watched_from()).is_eligible();
            let needed = watched && self.leadership.nobody_goes_on(now.at);
            if newest || needed {
                self.instead_of = Some(newer.clone());
                self.leadership.hurry();
            }
            return;
        }
        if let Some((_, newer)) = state.next.as_ref().filter(|(_, announced)| announced.supersedes(&own)) {
            if alone || self.leadership.is_held_up(&self.facts(), now.at) {
                self.withdraw(&newer.to_string(), now);
            }
            return;
        }
        if let Some(by) = self.superseded.take() {
            self.on_superseded_no_more(&by, state, now);
        }
        let Some(written) = state.revision.as_ref().filter(|written| written.differs(&own) && !alone) else {
            self.rollout = Rollout::None;
            return;
        };
        let goes_on = self.chain.coverage(self.reading.watched_from()).is_eligible();
        if written.numbers_alike(&own) || goes_on {
            self.rollout = Rollout::None;
            self.takes_over = true;
            return;
        }
        let in_vain = self.reading.is_open() && !self.leadership.another_is_eligible(now.at);
        if self.rollout.is_due(&own, state, self.leadership.is_leader(), in_vain, now.at) {
            self.announce(now);
        }
    }

    /// The newer configuration writes no more: this one goes on.
    fn on_superseded_no_more(&mut self, by: &str, state: &StoredState, now: Moment) {
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

    /// Another instance writes by an older configuration: says at which anchor this one begins, and opens
    /// a window with it. What stands before it is the other instance's.
    fn announce(&mut self, now: Moment) {
        let anchor = AnchorId::random();
        let Some(revision) = &self.revision else { return };
        let (key, next) = (self.settings.keys.state.clone(), format!("{anchor} {revision}"));
        let text = "another instance has an older configuration of this route; this one takes over at its next session marker";
        self.log(Notice::info(LogCode::RolloutAnnounced, text), now);
        let mut call = Vec::new();
        resp::command(&mut call, &[b"HSET", &key, b"next", next.as_bytes()]);
        self.ask(Ask::Announce, now, &call);
        self.rollout = Rollout::Announced(anchor);
    }

    /// The announcement was refused: everything is held as before, and it is made again after a while.
    pub(super) fn on_announce_failed(&mut self, error: &Error, now: Moment) {
        self.rollout.on_refused(now.at);
        self.wait(error, now);
    }

    /// The announcement is in the state: the window opens anew, with the anchor that it names. What is held from before
    /// is held until the other instance has come to the anchor.
    pub(super) fn on_announced(&mut self, now: Moment) {
        self.flush_builder();
        let why = "messages before this configuration's first session belong to the instance with the older configuration";
        self.gap = Some(Gap::begins(GapCause::Rollout, why, now.unix_ms));
        self.read_anew(now);
        self.border_cannot_come();
        self.changed();
    }

    /// A newer configuration was announced and never wrote: what was announced holds this one up no longer.
    /// Whoever announced it, and is there after all, announces it again.
    fn withdraw(&mut self, by: &str, now: Moment) {
        self.forget_next(now);
        self.yields = false;
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

    /// A newer configuration of this route writes elsewhere. Where it numbers alike, this one reads on and holds what is
    /// not stored: it goes on without a gap if that instance ends.
    fn stand_by(&mut self, by: &RankedRevision, alike: bool, now: Moment) {
        let text = "another instance has a newer configuration of this route; this one is outdated until it is reloaded or that \
                    instance stops";
        self.log(Notice::warn(LogCode::Outdated, text).by(by), now);
        self.superseded = Some(by.to_string());
        self.leadership.hurry();
        self.changed();
        if alike {
            return;
        }
        self.flush_builder();
        let others = self.chain.clear() + self.spill.clear();
        self.count_deduplicated(others);
        self.gap = None;
        self.hold_reading();
        self.forget_tap();
        self.say_border(Border::None);
        self.border_cannot_come();
    }
}

/// Whether the state has come to an anchor and no further.
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
        let due = |rollout: Rollout, state: &StoredState, leader, in_vain| {
            rollout.is_due(&own, state, leader, in_vain, start)
        };
        assert!(due(Rollout::None, &state(None, None), false, false));
        assert!(!due(Rollout::Announced(anchor), &state(None, at(0)), false, true), "it is under way");
        let mut refused = Rollout::Announced(anchor);
        refused.on_refused(start);
        assert!(!due(refused, &state(None, at(0)), false, true), "the destination refused it a moment ago");
        assert!(refused.is_due(&own, &state(None, at(0)), false, true, start + AGAIN));
        let opened = Rollout::Opened;
        assert!(due(opened, &state(None, at(3)), false, false), "a failover has lost it");
        assert!(!due(opened, &state(None, at(3)), true, false), "the next batch says it");
        assert!(due(opened, &state(Some(&older), at(3)), false, false), "something older came back");
        assert!(!due(Rollout::Inherited, &state(None, at(3)), true, false), "it writes");
        assert!(due(Rollout::Inherited, &state(None, at(3)), false, false), "another one does by now");
        for by in [&own, &newer] {
            assert!(
                !due(opened, &state(Some(by), at(3)), false, true),
                "the other one has not come there yet"
            );
            assert!(!due(opened, &state(Some(by), at(0)), false, false), "somebody goes on from there");
            assert!(due(opened, &state(Some(by), at(0)), false, true), "nobody does");
        }
    }
}
