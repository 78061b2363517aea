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

use crate::capture::append::state::{RankedRevision, StoredState};
use crate::position::AnchorId;

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
