//! A route among the instances that run the same one: who writes, and by which configuration.

use std::time::Instant;

use super::super::handover::Border;
use super::super::standing::{Facts, Stood, Want};
use super::super::state::State;
use super::super::takeover::Takeover;
use super::destination::Ask;
use super::{Ending, Route};
use crate::config::Durability;
use crate::event::{DropReason, GapCause};
use crate::position::AnchorId;
use crate::rt;
use crate::server::Error;
use crate::server::resp::{self, Value};

impl Route {
    /// What this instance knows of itself.
    fn facts(&self) -> Facts {
        let open = self.source.open_anchor();
        Facts {
            coverage: self.chain.coverage(open),
            first: self.chain.first(),
            waits_since: self.chain.waits_since(),
            able: self.superseded.is_none() && !self.yields && !self.is_parked(),
            lost: self.chain.is_lost(),
        }
    }

    /// When the others are asked next.
    pub(super) fn stand_due(&self) -> Option<Instant> {
        if self.destination.is_asking() { None } else { self.standing.due(&self.facts()) }
    }

    /// Whether it may go on with a gap where it cannot go on without.
    pub(super) fn may_force(&self, now: Instant) -> bool {
        self.standing.may_force(&self.facts(), now)
    }

    /// Whether another instance holds everything that waits here.
    pub(super) fn is_covered(&self) -> bool {
        !self.standing.is_leader() && self.standing.another_is_eligible(Instant::now())
    }

    /// Asks who writes, where that is due.
    pub(super) fn stand(&mut self, now: Instant) {
        if self.destination.is_asking() {
            return;
        }
        let leaving = matches!(self.ending, Ending::Draining(_)) && self.has_settled();
        if leaving && self.destination.has_left() {
            return;
        }
        if !leaving && self.standing.due(&self.facts()).is_some_and(|due| due > now) {
            return;
        }
        // What is read is in hand, too.
        self.flush_builder();
        let facts = self.facts();
        self.standing.observe(self.chain.checkpoint(), &facts, now);
        let (want, ask) = match self.standing.want(&facts, now) {
            _ if leaving => (Want::Leave, Ask::Leave),
            want => (want, Ask::Stand),
        };
        self.standing.asked(now);
        self.note_count(now);
        let (standing, keys) = (&self.standing, &self.keys);
        let Some(hash) = self.destination.stand_hash() else { return };
        let mut call = Vec::new();
        standing.write(&mut call, &hash, [&keys.state, &keys.lease], want, &facts);
        self.ask(ask, now, &call);
    }

    /// Takes in who writes, and where the state stands.
    pub(super) fn on_stood(&mut self, reply: &Value, now: Instant) {
        let (stood, state) =
            match Stood::read(reply).and_then(|(stood, state)| Ok((stood, State::read(state)?))) {
                Ok(read) => read,
                Err(error) => return self.wait(&error, now),
            };
        let led = self.standing.is_leader();
        self.standing.stood(stood, now);
        // Asked again with the next batch: another place may have been announced.
        self.yields &= self.standing.is_leader();
        self.found_state(&state, now);
        self.follow_revision(&state, now);
        if led != self.standing.is_leader() {
            let route = self.parts.capture.name.as_str();
            let position = self.chain.checkpoint().map(|position| position.to_string());
            if led {
                tracing::info!(event = "standing_by", route, position, "another instance writes");
            } else {
                tracing::info!(event = "leading", route, position, "this instance writes");
            }
            self.publish();
        }
        if self.chain.is_behind() && self.standing.is_alone(now) && self.superseded.is_none() {
            self.epoch_lost(now);
        }
        if self.chain.is_empty() {
            self.appends_again();
        }
    }

    /// Takes in where the state stands.
    pub(super) fn found_state(&mut self, state: &State, now: Instant) {
        self.account.found(&state.ledger);
        self.found_histories(state, now);
        if !self.chain.was_read() {
            self.counts.state.clone_from(&state.counted);
            self.tell_missed();
        }
        let passed = self.chain.found(state.position, &state.epochs, state.at_unix_ms, rt::unix_ms());
        // What a failover lost is not durable, whatever was known of the server that is gone.
        let durable = state.durable.filter(|durable| Some(*durable) <= state.position);
        if passed.rewound > 0 || self.known_durable > state.position {
            self.known_durable = durable;
        }
        self.parts.metrics.deduplicated.increment(passed.deduplicated);
        self.parts.metrics.dropped(DropReason::Stale).increment(passed.stale);
        self.account.passed(passed);
        if let Some(durable) = durable
            && self.parts.destination.durability != Durability::Applied
        {
            self.on_durable(durable);
        }
        let facts = self.facts();
        self.standing.observe(self.chain.checkpoint(), &facts, now);
        if passed.deduplicated > 0 {
            self.reopen_if_room(now);
        }
    }

    /// How many messages were published between what the state says and the first window.
    pub(super) fn tell_missed(&mut self) {
        let counts = self.counts.first.as_ref().zip(self.counts.state.as_ref());
        self.chain.set_missed(counts.and_then(|(now, then)| now.since(then)));
    }

    /// Notes in the state how many messages the source has counted: it bounds the gap of a restart.
    fn note_count(&mut self, now: Instant) {
        let counted = self.parts.pulse.counted();
        if self.standing.is_leader() && self.source.is_open() && counted != self.counts.noted {
            if let (Some(counted), Some(_)) = (&counted, self.chain.checkpoint()) {
                let (key, text) = (self.keys.state.clone(), counted.to_string());
                let mut call = Vec::new();
                resp::command(&mut call, &[b"HSET", &key, b"counted", text.as_bytes()]);
                self.ask(Ask::Note, now, &call);
            }
            self.counts.noted = counted;
        }
    }

    /// The source handed out an epoch that the state has passed already: another server, or its epoch was
    /// lost and its clock is behind. The next window opens above it.
    fn epoch_lost(&mut self, now: Instant) {
        let given_up = self.chain.clear() + self.overflow.clear();
        self.forget_tap();
        self.give_up(given_up);
        self.floor = self.floor.max(self.chain.checkpoint().map_or(0, |at| at.epoch.number + 1));
        let why = "the source's epochs stood behind the route's state; the window is opened anew";
        self.lost_window(GapCause::EpochLost, why, now);
        if let Some(gap) = &mut self.gap {
            gap.dropped = given_up;
        }
    }

    /// Sees to it that the newest configuration is the one that is written by.
    fn follow_revision(&mut self, state: &State, now: Instant) {
        let Some(own) = self.revision.clone() else { return };
        let by = state.revision.iter().chain(state.next.as_ref().map(|(_, revision)| revision));
        let newer = by.filter(|revision| revision.supersedes(&own)).max_by_key(|by| by.to_string()).cloned();
        if let Some(newer) = newer {
            let written = state.revision.as_ref().is_some_and(|found| found.supersedes(&own));
            let alone = self.standing.is_alone(now);
            if written && alone {
                self.take_over_again(&newer.to_string(), now);
            } else if written && self.superseded.is_none() {
                self.stand_by(newer.to_string());
            } else if !written && (alone || self.standing.is_held_up(&self.facts(), now)) {
                self.withdraw(&newer.to_string(), now);
            }
            return;
        }
        if let Some(by) = self.superseded.take() {
            tracing::info!(event = "superseded_no_more", route = self.parts.capture.name, by, "goes on");
            self.source.resume(now);
        }
        let differs = state.revision.as_ref().is_some_and(|found| found.differs(&own));
        if !differs || self.standing.is_alone(now) {
            self.takeover = Takeover::None;
            return;
        }
        let goes_on = self.facts().coverage.is_eligible() || self.standing.another_is_eligible(now);
        let in_vain = self.source.is_open() && !goes_on;
        if self.takeover.is_due(&own, state, self.standing.is_leader(), in_vain, now) {
            self.announce(now);
        }
    }

    /// Another instance writes by an older configuration: says at which anchor this one begins, and opens
    /// a window with it. What stands before it is the other instance's.
    fn announce(&mut self, now: Instant) {
        let anchor = if self.is_replication() {
            // A tap has no anchors: this configuration begins wherever the other one stands by then.
            let Some(tap) = self.source.tap() else { return };
            tap.reached().epoch.anchor
        } else {
            AnchorId::random()
        };
        let Some(revision) = &self.revision else { return };
        let (key, next) = (self.keys.state.clone(), format!("{anchor} {revision}"));
        tracing::info!(
            event = "taking_over",
            route = self.parts.capture.name,
            "another instance runs another configuration of this route; this one begins at the next window"
        );
        let mut call = Vec::new();
        resp::command(&mut call, &[b"HSET", &key, b"next", next.as_bytes()]);
        self.ask(Ask::Announced, now, &call);
        self.takeover = Takeover::Announced(anchor);
    }

    /// The announcement was refused: everything is held as before, and it is made again after a while.
    pub(super) fn not_announced(&mut self, error: &Error, now: Instant) {
        self.takeover.refused(now);
        self.wait(error, now);
    }

    /// The announcement is in the state: the window opens anew, with the anchor that it names.
    pub(super) fn announced(&mut self, now: Instant) {
        self.flush_builder();
        let others = self.chain.clear() + self.overflow.clear();
        self.parts.metrics.deduplicated.increment(others);
        self.account.deduplicated(others);
        self.gap = None;
        self.forget_tap();
        if self.is_replication() {
            self.takeover = Takeover::Opened;
        }
        self.source.resume(now);
        self.border_cannot_come();
        self.publish();
    }

    /// A newer configuration was announced and never wrote: what was announced holds this one up no longer.
    /// Whoever announced it, and is there after all, announces it again.
    fn withdraw(&mut self, by: &str, now: Instant) {
        self.forget_next(Ask::Note, now);
        self.yields = false;
        tracing::warn!(
            event = "superseded_no_more",
            route = self.parts.capture.name,
            by,
            "an instance announced a newer configuration and has not gone on with it; this one does"
        );
    }

    fn forget_next(&mut self, what: Ask, now: Instant) {
        let key = self.keys.state.clone();
        let mut call = Vec::new();
        resp::command(&mut call, &[b"HDEL", &key, b"next"]);
        self.ask(what, now, &call);
    }

    /// The instance with the newer configuration is gone, so this one writes again.
    fn take_over_again(&mut self, by: &str, now: Instant) {
        self.forget_next(Ask::Withdrawn, now);
        tracing::warn!(
            event = "superseded_no_more",
            route = self.parts.capture.name,
            by,
            "the instance with the newer configuration has not been seen for a while; this one goes on"
        );
    }

    /// Nothing is announced any more, so it may.
    pub(super) fn withdrawn(&mut self, now: Instant) {
        self.superseded = None;
        self.takeover = Takeover::None;
        self.revision = None;
        self.source.resume(now);
        // The revision is claimed when connecting.
        self.reconnect(now);
    }

    /// A newer configuration of this route writes elsewhere.
    pub(super) fn stand_by(&mut self, by: String) {
        self.flush_builder();
        let others = self.chain.clear() + self.overflow.clear();
        self.parts.metrics.deduplicated.increment(others);
        self.account.deduplicated(others);
        self.source.hold();
        self.forget_tap();
        self.say_border(Border::None);
        tracing::warn!(
            event = "superseded",
            route = self.parts.capture.name,
            by,
            "another instance runs a newer configuration of this route; this one stands by until it is \
             reloaded, or until that instance is gone"
        );
        self.superseded = Some(by);
        self.standing.hurry();
        self.border_cannot_come();
        self.publish();
    }

    /// Whether it could go on without a gap.
    pub(super) fn is_eligible(&self) -> bool {
        let facts = self.facts();
        facts.able && facts.coverage.is_eligible()
    }
}
