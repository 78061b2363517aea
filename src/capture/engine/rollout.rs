//! Which configuration of a route writes, while instances run different ones: one state machine.
//!
//! Every configuration has a rank of its own, a generation that the destination gives it when it is loaded and that it
//! keeps (`lease.lua`). The highest rank among the present instances writes. The others hold what they read.
//!
//! ```text
//!              an older one writes, and counts otherwise        refused, lost, in vain
//!        ┌──────────────────▶ Announcing ──▶ Announced ───────────────┐
//!        │                          └─────────┬──────┘                │
//!   ┌─────────┐ ◀─────────────────────────────┴───────────────────────┘
//!   │ Current │                  wrote
//!   └─────────┘ ◀───────────┬─────────────────────────┐
//!        │   the newer one  │ is gone                 │ is gone, and given up
//!        ├──────────▶ Yielding ─────────────▶ Outdated│
//!        │  a newer one     │ it has written   ▲  └───┘
//!        └──────────────────┴──────────────────┘
//! ```
//!
//! Two configurations with the same *numbering* (source, channels, mode) give a message the same position. The newer one
//! goes on wherever the checkpoint stands. With another numbering it announces in the state at which anchor it begins,
//! and publishes that anchor. What stands before the anchor, and the anchor itself, is the older one's to store; from
//! there on the append script refuses it.
//!
//! Failure: the announcement may be refused, or lost with a failover of the destination. Then it is made again after a
//! wait. Nothing that is held is let go for it.

use std::time::{Duration, Instant};

use super::leadership::Other;
use crate::capture::append::{Revision, State};
use crate::position::AnchorId;

/// Between two announcements.
const AGAIN: Duration = Duration::from_secs(2);

/// Where an instance's configuration stands among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No newer configuration is known.
    Current,
    /// It is being written in the state that this configuration begins at an anchor.
    Announcing { anchor: AnchorId },
    /// It is written there.
    Announced { anchor: AnchorId },
    /// A newer configuration is about to write. This one stores nothing any more, and holds what it reads.
    Yielding { by: Revision },
    /// A newer configuration has written. This one stores nothing, and trims nothing.
    Outdated { by: Revision },
}

/// What is known when the state was read.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) own: &'a Revision,
    pub(crate) state: &'a State,
    /// The newest configuration of a present instance that outranks this one.
    pub(crate) newer: Option<&'a Other>,
    /// An instance that was there a moment ago is not told of.
    pub(crate) vanished: bool,
    /// A present instance runs the configuration that wrote last.
    pub(crate) writer_present: bool,
    /// The state was written by another numbering.
    pub(crate) foreign: bool,
    /// Neither this instance nor another one could go on where the state stands.
    pub(crate) in_vain: bool,
    /// Nothing moves, although this instance holds what follows the checkpoint.
    pub(crate) held_up: bool,
    pub(crate) now: Instant,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Rollout {
    phase: Phase,
    /// Whether the append script has refused this configuration since the phase began.
    refused: bool,
    /// The newer configuration's instance is gone, so it may be given up.
    deserted: bool,
    announce_at: Option<Instant>,
}

/// What follows from a look at the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// The state is to say that this configuration begins at this anchor.
    Announce(AnchorId),
    /// A newer configuration took over.
    Outdated,
    /// This configuration is the one to write again.
    Returned,
    /// An announcement that leads nowhere is to be taken back.
    Withdraw,
}

impl Rollout {
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Current, refused: false, deserted: false, announce_at: None }
    }

    /// The only place that changes the phase.
    fn go(&mut self, to: Phase) {
        use Phase::{Announced, Announcing, Current, Outdated, Yielding};
        let legal = match (&self.phase, &to) {
            (Current, Announced { .. }) => false,
            (Yielding { .. } | Outdated { .. }, Announcing { .. } | Announced { .. }) => false,
            (Announced { .. }, Announced { .. }) => false,
            (
                Current | Announcing { .. } | Announced { .. } | Yielding { .. } | Outdated { .. },
                Current | Announcing { .. } | Announced { .. } | Yielding { .. } | Outdated { .. },
            ) => true,
        };
        debug_assert!(legal, "from {:?} to {to:?}", self.phase);
        if self.phase != to {
            self.refused = false;
        }
        self.phase = to;
    }

    pub(crate) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether this configuration may store something.
    pub(crate) fn may_write(&self) -> bool {
        !matches!(self.phase, Phase::Yielding { .. } | Phase::Outdated { .. })
    }

    /// Whether this configuration may claim the lease: it writes, or the newer one is to be given up.
    pub(crate) fn may_claim(&self) -> bool {
        self.may_write() || self.deserted
    }

    /// Whether the configuration that wrote last is to be given up with the next claim.
    pub(crate) fn reclaims(&self) -> bool {
        self.deserted
    }

    /// The newer configuration that writes.
    pub(crate) fn outdated_by(&self) -> Option<&Revision> {
        match &self.phase {
            Phase::Outdated { by } => Some(by),
            _ => None,
        }
    }

    /// The anchor that is announced and that a window is to begin with.
    pub(crate) fn anchor(&self) -> Option<AnchorId> {
        match self.phase {
            Phase::Announced { anchor } => Some(anchor),
            _ => None,
        }
    }

    /// The append script refused this configuration: a newer one has announced itself, or has written.
    pub(crate) fn on_superseded(&mut self, by: Option<Revision>) {
        if self.may_write()
            && let Some(by) = by
        {
            self.go(Phase::Yielding { by });
        }
        self.refused = true;
    }

    /// The announcement is in the state.
    pub(crate) fn on_announced(&mut self) {
        if let Phase::Announcing { anchor } = self.phase {
            self.go(Phase::Announced { anchor });
        }
    }

    /// The announcement was refused, or its outcome is not known.
    pub(crate) fn on_not_announced(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Announcing { .. }) {
            self.announce_at = Some(now + AGAIN);
            self.go(Phase::Current);
        }
    }

    /// A batch of this configuration is stored.
    pub(crate) fn on_stored(&mut self) {
        if matches!(self.phase, Phase::Announcing { .. } | Phase::Announced { .. }) {
            self.go(Phase::Current);
        }
    }

    /// Looks at the state and at the other instances.
    pub(crate) fn look(&mut self, seen: &Seen<'_>) -> Change {
        self.deserted = false;
        match seen.newer {
            Some(newer) => self.look_at_newer(newer, seen),
            None => self.look_alone(seen),
        }
    }

    fn look_at_newer(&mut self, newer: &Other, seen: &Seen<'_>) -> Change {
        let Some(by) = newer.revision.clone() else { return Change::None };
        let announced = seen.state.next.as_ref().is_some_and(|(_, next)| *next == by);
        if seen.state.revision.as_ref() == Some(&by) {
            if self.outdated_by() == Some(&by) {
                return Change::None;
            }
            self.go(Phase::Outdated { by });
            return Change::Outdated;
        }
        if seen.own.counts_like(&by) {
            if newer.eligible {
                self.go(Phase::Yielding { by });
                return Change::None;
            }
            return self.return_if_held();
        }
        if announced && seen.held_up {
            // It announced itself and does not go on.
            self.return_if_held();
            return Change::Withdraw;
        }
        if announced && self.refused {
            return Change::None;
        }
        self.return_if_held()
    }

    fn look_alone(&mut self, seen: &Seen<'_>) -> Change {
        let held = matches!(self.phase, Phase::Yielding { .. } | Phase::Outdated { .. });
        if held && seen.vanished {
            // It may only look gone.
            return Change::None;
        }
        let written = seen.state.revision.as_ref().filter(|written| written.supersedes(seen.own));
        if let Some(by) = written.filter(|written| seen.state.given_up.as_ref() != Some(*written)) {
            self.deserted = true;
            if self.outdated_by() == Some(by) {
                return Change::None;
            }
            self.go(Phase::Outdated { by: by.clone() });
            return Change::Outdated;
        }
        // An announcement of an instance that is gone goes with the next claim.
        self.deserted = seen.state.next.as_ref().is_some_and(|(_, next)| next.supersedes(seen.own));
        if held {
            return self.return_if_held();
        }
        self.announce(seen)
    }

    fn return_if_held(&mut self) -> Change {
        if matches!(self.phase, Phase::Yielding { .. } | Phase::Outdated { .. }) {
            self.go(Phase::Current);
            return Change::Returned;
        }
        Change::None
    }

    /// Announces this configuration where an older one with another numbering writes.
    fn announce(&mut self, seen: &Seen<'_>) -> Change {
        let needed = seen.foreign && seen.writer_present;
        match self.phase {
            Phase::Announced { anchor } => {
                let at_anchor = seen
                    .state
                    .position
                    .is_some_and(|at| at.epoch.anchor == anchor && at.ordinal == 0);
                let known = seen.state.next.as_ref().is_some_and(|(_, next)| next == seen.own);
                if !needed || !(known || at_anchor) || (at_anchor && seen.in_vain) {
                    self.go(Phase::Current);
                }
                return Change::None;
            }
            Phase::Current if needed => {}
            _ => return Change::None,
        }
        if self.announce_at.is_some_and(|at| seen.now < at) {
            return Change::None;
        }
        self.announce_at = Some(seen.now + AGAIN);
        let anchor = AnchorId::random();
        self.go(Phase::Announcing { anchor });
        Change::Announce(anchor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    struct Case {
        own: Revision,
        other: Revision,
        state: State,
        start: Instant,
    }

    impl Case {
        fn new(own: Revision, other: Revision) -> Self {
            let state = State { revision: Some(other.clone()), ..State::default() };
            Self { own, other, state, start: Instant::now() }
        }

        fn look(&self, rollout: &mut Rollout, present: bool, eligible: bool) -> Change {
            let other = Other {
                name: "b".to_owned(),
                ago: Duration::ZERO,
                eligible,
                first: None,
                revision: Some(self.other.clone()),
            };
            rollout.look(&Seen {
                own: &self.own,
                state: &self.state,
                newer: (present && self.other.supersedes(&self.own)).then_some(&other),
                vanished: false,
                writer_present: present && self.state.revision.as_ref() == Some(&self.other),
                foreign: self.state.revision.as_ref().is_some_and(|written| !written.counts_like(&self.own)),
                in_vain: false,
                held_up: false,
                now: self.start,
            })
        }
    }

    fn revision(generation: u64, hashes: &str) -> Revision {
        Revision::new(generation, hashes)
    }

    #[test]
    fn a_newer_one_that_counts_alike_goes_on_once_it_can() {
        let mut case = Case::new(revision(1, "n-old"), revision(2, "n-new"));
        case.state.revision = Some(case.own.clone());
        let mut rollout = Rollout::new();
        assert_eq!(case.look(&mut rollout, true, false), Change::None);
        assert!(rollout.may_write(), "it could not go on without a gap");
        case.look(&mut rollout, true, true);
        assert!(!rollout.may_write());
        assert_eq!(case.look(&mut rollout, false, false), Change::Returned, "it ended before it wrote");
        case.look(&mut rollout, true, true);
        case.state.revision = Some(case.other.clone());
        assert_eq!(case.look(&mut rollout, true, true), Change::Outdated);
        assert!(!rollout.may_claim());
    }

    #[test]
    fn a_newer_one_that_is_gone_is_given_up_and_keeps_its_rank() {
        let mut case = Case::new(revision(1, "n-old"), revision(2, "n-new"));
        let mut rollout = Rollout::new();
        assert_eq!(case.look(&mut rollout, true, true), Change::Outdated);
        assert_eq!(case.look(&mut rollout, false, false), Change::None);
        assert!(rollout.reclaims() && rollout.may_claim() && !rollout.may_write());
        case.state.given_up = Some(case.other.clone());
        assert_eq!(case.look(&mut rollout, false, false), Change::Returned);
        assert!(rollout.may_write() && !rollout.reclaims());
        case.state.revision = Some(case.own.clone());
        case.look(&mut rollout, true, true);
        assert!(!rollout.may_write(), "it is back, and is still the newer one");
    }

    #[test]
    fn one_that_counts_otherwise_is_announced_once_in_a_while() {
        let mut case = Case::new(revision(2, "m-new"), revision(1, "n-old"));
        let mut rollout = Rollout::new();
        let Change::Announce(anchor) = case.look(&mut rollout, true, true) else { panic!("{rollout:?}") };
        assert_eq!(case.look(&mut rollout, true, true), Change::None, "it is under way");
        rollout.on_not_announced(case.start);
        assert_eq!(case.look(&mut rollout, true, true), Change::None, "it was refused a moment ago");
        case.start += AGAIN;
        assert!(matches!(case.look(&mut rollout, true, true), Change::Announce(_)));
        rollout.on_announced();
        let anchor = rollout.anchor().unwrap_or(anchor);
        case.state.next = Some((anchor, case.own.clone()));
        case.look(&mut rollout, true, true);
        assert_eq!(rollout.anchor(), Some(anchor));
        case.state.next = None;
        case.look(&mut rollout, true, true);
        assert_eq!(rollout.phase(), &Phase::Current, "a failover has lost it");
    }

    #[test]
    fn the_older_one_stores_up_to_the_anchor() {
        let mut case = Case::new(revision(1, "n-old"), revision(2, "m-new"));
        let anchor: AnchorId = "0123456789abcdef".parse().unwrap();
        case.state.revision = Some(case.own.clone());
        case.state.next = Some((anchor, case.other.clone()));
        case.state.position = Some(Epoch { number: 7, anchor }.at(0));
        let mut rollout = Rollout::new();
        case.look(&mut rollout, true, true);
        assert!(rollout.may_write(), "the script tells where it ends");
        rollout.on_superseded(Some(case.other.clone()));
        case.look(&mut rollout, true, true);
        assert!(!rollout.may_write());
    }
}
