//! A route among the instances that run the same one: who writes, and by which configuration.

use std::time::Instant;

use super::ending::Ending;
use super::handover::Border;
use super::leadership::{Candidate, LeaseReply, LeaseRequest};
use super::rollout::Rollout;
use super::writing::Ask;
use super::{Engine, Notice};
use crate::capture::append::state::{RankedRevision, StoredState};
use crate::capture::batch::gap::Gap;
use crate::config::Durability;
use crate::event::{DropReason, GapCause};
use crate::logs::LogCode;
use crate::position::AnchorId;
use crate::rt::Moment;
use crate::server::Error;
use crate::server::resp::{self, Value};

impl Engine {
    /// What this instance knows of itself.
    pub(super) fn facts(&self) -> Candidate {
        Candidate {
            coverage: self.chain.coverage(self.reading.watched_from()),
            first: self.chain.first(),
            waits_since: self.chain.waits_since(),
            able: self.superseded.is_none() && !self.yields && !self.writing.is_parked(),
            takes_over: self.takes_over,
            lost: self.chain.is_lost(),
        }
    }

    /// When the others are asked next.
    pub(super) fn lease_due(&self) -> Option<Instant> {
        if self.writing.is_asking() { None } else { self.leadership.due(&self.facts()) }
    }

    /// Whether it may go on with a gap where it cannot go on without.
    pub(super) fn may_force(&self, now: Moment) -> bool {
        self.leadership.may_force(&self.facts(), now.at)
    }

    /// Whether another instance holds everything that waits here.
    pub(super) fn is_covered(&self, now: Instant) -> bool {
        !self.leadership.is_leader() && self.leadership.another_is_eligible(now)
    }

    /// Asks who writes, where that is due.
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
        // What is read is in hand, too.
        self.flush_builder();
        let facts = self.facts();
        self.leadership.observe(self.chain.checkpoint(), &facts, now.at);
        let (want, ask) = match self.leadership.want(&facts, now.at) {
            _ if leaving => (LeaseRequest::Leave, Ask::Leave),
            want => (want, Ask::Stand),
        };
        self.leadership.asked(now.at);
        let keys = &self.settings.keys;
        let own = self.revision.as_ref().map(ToString::to_string).unwrap_or_default();
        let revisions = match &self.instead_of {
            Some(newer) => [own.clone(), newer.to_string(), own],
            None => [String::new(), String::new(), own],
        };
        let Some(hash) = self.writing.stand_hash() else { return };
        let mut call = Vec::new();
        self.leadership.write(&mut call, &hash, [&keys.state, &keys.lease], want, &facts, &revisions);
        self.ask(ask, now, &call);
    }

    /// Takes in who writes, and where the state stands.
    pub(super) fn on_lease_reply(&mut self, reply: &Value, now: Moment) {
        let (stood, state) =
            match LeaseReply::read(reply).and_then(|(stood, state)| Ok((stood, StoredState::read(state)?))) {
                Ok(read) => read,
                Err(error) => return self.wait(&error, now),
            };
        let led = self.leadership.is_leader();
        self.leadership.on_reply(stood, self.revision.as_ref(), now.at);
        // Asked again with the next batch: another place may have been announced.
        self.yields &= self.leadership.is_leader();
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
        if self.superseded.is_none() {
            self.check_numbers(now);
        }
        if self.chain.is_empty() {
            self.appends_again();
        }
    }

    /// Takes in where the state stands.
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
        // What a failover lost is not durable, whatever was known of the server that is gone.
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
        if passed.deduplicated > 0 {
            self.reopen_if_room(now);
        }
    }

    /// Begins anew where nothing that is in hand, or comes, compares with where the state stands.
    fn check_numbers(&mut self, now: Moment) {
        let nobody = self.leadership.is_alone(now.at) || self.leadership.nobody_goes_on(now.at);
        if self.chain.is_behind() && nobody {
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

    /// Gives up everything that is in hand, and opens a window anew.
    fn begin_anew(&mut self, cause: GapCause, why: &str, now: Moment) {
        self.flush_builder();
        let given_up = self.chain.clear() + self.spill.clear();
        self.forget_tap();
        self.give_up(given_up);
        if self.reading.is_open() {
            self.lose_window(cause, why, now);
        } else if self.gap.is_none() {
            self.gap = Some(Gap::begins(cause, why, now.unix_ms));
        }
        if let Some(gap) = &mut self.gap {
            gap.dropped += given_up;
        }
    }

    /// Sees to it that the newest configuration is the one that is written by.
    fn follow_revision(&mut self, state: &StoredState, now: Moment) {
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

    /// Whether it could go on without a gap.
    pub(super) fn is_eligible(&self) -> bool {
        let facts = self.facts();
        facts.able && facts.coverage.is_eligible()
    }
}
