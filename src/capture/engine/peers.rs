//! The other instances of the route: who leads, and which checkpoint they have reached.

use std::time::Instant;

use super::ending::Ending;
use super::leadership::{Candidate, LeaseReply, LeaseRequest};
use super::rollout::Rollout;
use super::writing::Ask;
use super::{Engine, Notice};
use crate::capture::append::state::StoredState;
use crate::capture::batch::gap::Gap;
use crate::config::Durability;
use crate::event::{DropReason, GapCause};
use crate::logs::LogCode;
use crate::rt::Moment;
use crate::server::resp::Value;

impl Engine {
    /// The facts of this instance.
    pub(super) fn facts(&self) -> Candidate {
        Candidate {
            coverage: self.chain.coverage(self.reading.watched_from()),
            first: self.chain.first(),
            waits_since: self.chain.waits_since(),
            able: self.rollout.may_write() && !self.writing.is_blocked(),
            takes_over: self.rollout == Rollout::TakesOver,
            lost: self.chain.is_lost(),
        }
    }

    /// When to call for the lease next.
    pub(super) fn lease_due(&self) -> Option<Instant> {
        if self.writing.is_asking() { None } else { self.leadership.due(&self.facts()) }
    }

    /// Returns whether it may continue with a gap, if it cannot continue without.
    pub(super) fn may_force(&self, now: Moment) -> bool {
        self.leadership.may_force(&self.facts(), now.at)
    }

    /// Returns whether another instance holds everything that waits here.
    pub(super) fn is_covered(&self, now: Instant) -> bool {
        !self.leadership.is_leader() && self.leadership.another_is_eligible(now)
    }

    /// Calls for the lease, if that is due.
    pub(super) fn ask_lease(&mut self, now: Moment) {
        if self.writing.is_asking() {
            return;
        }
        let leaving = matches!(self.ending, Ending::Draining(_)) && self.has_settled(now.at);
        if leaving && self.writing.has_left() {
            return;
        }
        if !leaving && self.leadership.due(&self.facts()).is_some_and(|due| due > now.at) {
            return;
        }
        // Items read are buffered, too.
        self.flush_builder();
        let facts = self.facts();
        self.leadership.observe(self.chain.checkpoint(), &facts, now.at);
        let (want, ask) = match self.leadership.want(&facts, now.at) {
            _ if leaving => (LeaseRequest::Leave, Ask::Leave),
            want => (want, Ask::Lease),
        };
        if leaving {
            self.date_stop(now);
        }
        self.leadership.asked(now.at);
        let keys = &self.settings.keys;
        let own = self.revision.as_ref().map(ToString::to_string).unwrap_or_default();
        let revisions = match self.rollout.replaces() {
            Some(newer) => [own.clone(), newer.to_string(), own],
            None => [String::new(), String::new(), own],
        };
        let Some(hash) = self.writing.lease_hash() else { return };
        let mut call = Vec::new();
        self.leadership.write(&mut call, &hash, [&keys.state, &keys.lease], want, &facts, &revisions);
        self.ask(ask, now, &call);
    }

    /// Takes in the leader and the checkpoint.
    pub(super) fn on_lease_reply(&mut self, reply: &Value, now: Moment) {
        let (stood, state) =
            match LeaseReply::read(reply).and_then(|(stood, state)| Ok((stood, StoredState::read(state)?))) {
                Ok(read) => read,
                Err(error) => {
                    let keys = &self.settings.keys;
                    let error = error.at(&[&keys.state, &keys.lease]);
                    return self.wait(&error, now);
                }
            };
        let led = self.leadership.is_leader();
        self.leadership.on_reply(stood, self.revision.as_ref(), now.at);
        self.on_state(&state, now);
        self.follow_revision(&state, now);
        if led != self.leadership.is_leader() {
            let notice = if led && self.leadership.is_told_of_a_leader() {
                Notice::info(LogCode::Standby, "another instance is active; this one is standby")
            } else if led {
                Notice::info(
                    LogCode::Standby,
                    "this instance cannot write at the moment, and no other instance is active yet",
                )
            } else {
                Notice::info(LogCode::Active, "this instance is active")
            };
            self.log(notice.position(self.chain.checkpoint()), now);
            self.changed();
        }
        if !self.rollout.is_outdated() {
            self.check_numbers(now);
        }
        if self.chain.is_empty() {
            self.appends_again();
        }
    }

    /// Takes in the checkpoint.
    pub(super) fn on_state(&mut self, state: &StoredState, now: Moment) {
        self.ledger.found(&state.ledger, state.position);
        self.on_highest_epoch(state.highest_epoch(), now);
        self.on_histories(state, now);
        let passed = self.chain.found(
            state.position,
            state.numbering.as_deref(),
            &state.passage,
            state.at_unix_ms,
            now.unix_ms,
        );
        // Items that a failover lost are not durable, even if the former server had confirmed them.
        let durable = state.durable.filter(|durable| Some(*durable) <= state.position);
        if passed.rewound > 0 || self.known_durable > state.position {
            self.known_durable = durable;
        }
        self.counters.route.deduplicated.increment(passed.deduplicated);
        self.counters.route.dropped(DropReason::Stale).increment(passed.stale);
        self.counters.route.dropped(DropReason::SpoolCorrupt).increment(passed.corrupt);
        self.ledger.passed(passed);
        if let Some(durable) = durable
            && self.settings.durability != Durability::Applied
        {
            self.on_durable(durable);
        }
        let facts = self.facts();
        self.leadership.observe(self.chain.checkpoint(), &facts, now.at);
    }

    /// Begins anew if no buffered or coming item compares with the checkpoint.
    fn check_numbers(&mut self, now: Moment) {
        let nobody = self.leadership.is_alone(now.at) || self.leadership.nobody_goes_on(now.at);
        // After a restart the chain begins with the oldest records of the spool.
        let newest = self.spill.last().max(self.reading.open.as_ref().map(|open| open.last));
        if self.chain.is_behind(newest.map(|newest| newest.epoch)) && nobody {
            // Another server, or its epoch was lost and its clock is behind. The next window opens above it.
            self.raise_floor(self.chain.checkpoint().map_or(0, |at| at.epoch.number + 1));
            let why =
                "the source's epoch was lower than the one in the route's state; a new session is opened";
            self.begin_anew(GapCause::EpochLost, why, now);
        } else if self.chain.is_foreign() && nobody {
            let dropped = self.chain.drop_foreign(now.unix_ms);
            self.give_up(dropped);
            if self.chain.is_foreign() {
                let why = "the last writer had a configuration with other positions; a new session is opened";
                self.begin_anew(GapCause::Rollout, why, now);
            }
        }
    }

    /// Gives up everything that is buffered, and opens a window anew.
    fn begin_anew(&mut self, cause: GapCause, why: &str, now: Moment) {
        self.flush_builder();
        let front = self.chain.waiting_after(None).next().or(self.spill.front());
        let since = front.map(|batch| self.chain.missing_since_unix_ms(batch));
        let since = since.or(self.chain.since_unix_ms().filter(|_| !self.spill.is_empty()));
        let given_up = self.clear_buffered();
        self.forget_tap();
        self.give_up(given_up);
        if self.reading.is_open() {
            self.lose_window(cause, why, now);
        } else if self.gap.is_none() {
            self.gap = Some(Gap::begins(cause, why, now.unix_ms));
        }
        if let Some(gap) = &mut self.gap {
            gap.dropped += given_up;
            gap.started_unix_ms = since.map_or(gap.started_unix_ms, |since| since.min(gap.started_unix_ms));
        }
    }

    /// Returns whether it could continue without a gap.
    pub(super) fn is_eligible(&self) -> bool {
        let facts = self.facts();
        facts.able && facts.coverage.is_eligible()
    }
}
