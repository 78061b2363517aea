//! Who writes: the decisions of one instance among those that run the same route.
//!
//! Every instance reads the same messages. One of them has the lease and writes; the others let go of what the
//! checkpoint passes. The lease only saves work: two writers at once do no harm, because the position in the state
//! decides what is stored. So the rules may be simple:
//!
//! ```text
//! has the lease     keeps it, but releases it where it could not go on and another could
//! nobody has it     claims it, if it can go on where the state stands
//! another has it    seizes it, when its own oldest batch has waited for 500 ms and the checkpoint stands still
//! ```
//!
//! Where no instance can go on without a gap, one goes on with it: at once where no other instance was seen lately, else
//! after `force_after`, and the one whose first batch is the earliest.

use std::time::{Duration, Instant};

use super::chain::Coverage;
use crate::capture::append::Revision;
use crate::position::Position;
use crate::server::Error;
use crate::server::resp::{self, Value};
use crate::server::{Hash, Script};

/// `lease.lua`.
pub(crate) const LEASE_SCRIPT: Script = Script { name: "lease.lua", source: include_str!("lease.lua") };

/// How long the lease lasts: a few times the longest interval between two calls.
const LEASE: Duration = Duration::from_secs(3);
/// What has been held for so long while nothing moved is written, lease or not.
const OVERDUE: Duration = Duration::from_millis(500);
/// Between two calls, while nothing waits.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two calls of the instance that writes.
const LEADER_INTERVAL: Duration = Duration::from_millis(500);
/// Between two calls of one that waits for the checkpoint to pass what it holds.
const STANDBY_INTERVAL: Duration = Duration::from_millis(100);

/// What an instance requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseRequest {
    /// News only.
    Watch,
    /// The lease, if it is free.
    Claim,
    /// The lease, if it is free; the configuration that wrote last is given up.
    Reclaim,
    /// The lease.
    Seize,
    /// An end of its own lease.
    Release,
    /// An end of its own lease and presence.
    Leave,
}

impl LeaseRequest {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Claim => "claim",
            Self::Reclaim => "reclaim",
            Self::Seize => "seize",
            Self::Release => "release",
            Self::Leave => "leave",
        }
    }
}

/// Another instance, as it was when it last called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Other {
    /// Its id.
    pub(crate) name: String,
    /// How long it had not been seen when the reply was made.
    pub(crate) ago: Duration,
    /// Whether it could go on without a gap.
    pub(crate) eligible: bool,
    /// The first item that waits there.
    pub(crate) first: Option<Position>,
    /// The configuration that it runs; an instance of release 0.1.0 does not say.
    pub(crate) revision: Option<Revision>,
}

/// What the script says beside the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseReply {
    /// Who has the lease.
    pub(crate) holder: Option<String>,
    /// The other instances.
    pub(crate) others: Vec<Other>,
    /// The generation of this instance's configuration.
    pub(crate) generation: u64,
}

/// What an instance knows of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// Whether what follows the checkpoint is in hand.
    pub(crate) coverage: Coverage,
    /// The first item that waits.
    pub(crate) first: Option<Position>,
    /// Since when something waits.
    pub(crate) waits_since: Option<Instant>,
    /// Whether it may write at all: it is not parked, and no newer configuration has taken over.
    pub(crate) able: bool,
    /// Whether the state is gone: then only the last writer knows what is stored.
    pub(crate) lost: bool,
    /// Whether the configuration that wrote last is to be given up.
    pub(crate) reclaims: bool,
}

impl Candidate {
    fn eligible(&self) -> bool {
        self.able && self.coverage.is_eligible()
    }
}

/// One instance's place among those of its route.
#[derive(Debug)]
pub(crate) struct Leadership {
    me: String,
    /// The hashes of this instance's configuration, and its revision once it is ranked.
    hashes: String,
    revision: Option<Revision>,
    force_after: Duration,
    leader: bool,
    /// Somebody else has the lease.
    taken: bool,
    others: Vec<Other>,
    /// When another instance was there last, by this process's clock.
    seen: Option<Instant>,
    /// When the last reply came; `None` before the first over this connection.
    heard: Option<Instant>,
    asked: Option<Instant>,
    /// Since when it cannot go on without a gap.
    missing_since: Option<Instant>,
    /// When the checkpoint last moved.
    moved: Instant,
    checkpoint: Option<Position>,
}

impl Leadership {
    pub(crate) fn new(me: String, hashes: String, force_after: Duration, now: Instant) -> Self {
        Self {
            me,
            hashes,
            revision: None,
            force_after,
            leader: false,
            taken: false,
            others: Vec::new(),
            seen: None,
            heard: None,
            asked: None,
            missing_since: None,
            moved: now,
            checkpoint: None,
        }
    }

    /// Whether this instance writes.
    pub(crate) fn is_leader(&self) -> bool {
        self.leader
    }

    /// Whether it is known that another instance writes.
    pub(crate) fn is_told_of_a_leader(&self) -> bool {
        self.heard.is_some() && self.taken
    }

    /// The connection to the destination ended: who writes is not known any more.
    pub(crate) fn disconnected(&mut self) {
        self.leader = false;
        self.heard = None;
        self.asked = None;
    }

    /// This instance's configuration, once it is ranked. It keeps its rank as long as the process lives.
    pub(crate) fn revision(&self) -> Option<&Revision> {
        self.revision.as_ref()
    }

    /// Takes in a reply.
    pub(crate) fn on_reply(&mut self, reply: LeaseReply, now: Instant) {
        if self.revision.is_none() && reply.generation > 0 {
            self.revision = Some(Revision::new(reply.generation, &self.hashes));
        }
        self.leader = reply.holder.as_ref() == Some(&self.me);
        self.taken = reply.holder.is_some() && !self.leader;
        self.others = reply.others;
        self.heard = Some(now);
        let latest = self.present(now).map(|other| other.ago).min();
        self.seen = latest.and_then(|ago| now.checked_sub(ago)).or(self.seen);
    }

    /// Takes in where the checkpoint stands and what is in hand.
    pub(crate) fn observe(&mut self, checkpoint: Option<Position>, facts: &Candidate, now: Instant) {
        if self.checkpoint != checkpoint {
            self.checkpoint = checkpoint;
            self.moved = now;
        }
        let missing = matches!(facts.coverage, Coverage::Missing | Coverage::Fresh | Coverage::Unknown);
        self.missing_since = if missing { self.missing_since.or(Some(now)) } else { None };
    }

    /// Whether no other instance has been seen for `force_after`.
    pub(crate) fn is_alone(&self, now: Instant) -> bool {
        self.heard.is_some() && self.present(now).next().is_none() && !self.has_vanished(now)
    }

    /// The newest configuration that another instance runs, where it outranks this one's.
    pub(crate) fn newer(&self, now: Instant) -> Option<&Other> {
        let own = self.revision.as_ref()?;
        let outranks = |other: &&Other| other.revision.as_ref().is_some_and(|other| other.supersedes(own));
        self.present(now).filter(outranks).max_by_key(|other| other.revision.as_ref())
    }

    /// Whether another instance runs exactly this configuration.
    pub(crate) fn is_run_elsewhere(&self, revision: &Revision, now: Instant) -> bool {
        self.present(now).any(|other| other.revision.as_ref() == Some(revision))
    }

    /// Whether the positions of another instance can be compared with this one's.
    fn is_comparable(&self, other: &Other) -> bool {
        match (&self.revision, &other.revision) {
            (Some(own), Some(other)) => own.counts_like(other),
            _ => true,
        }
    }

    /// Whether another instance was there a moment ago and is not told of any more. It has left, or the
    /// server's clock has leapt, which makes every other look long gone until it calls again.
    pub(crate) fn has_vanished(&self, now: Instant) -> bool {
        let lately = |seen: Instant| now.saturating_duration_since(seen) < self.force_after;
        self.present(now).next().is_none() && self.seen.is_some_and(lately)
    }

    /// Whether nothing has moved for so long, although something waits here that could be stored, that whoever
    /// else was to go on will not.
    pub(crate) fn is_held_up(&self, facts: &Candidate, now: Instant) -> bool {
        let long = |since: Instant| now.saturating_duration_since(since) >= 2 * self.force_after;
        facts.able
            && facts.coverage == Coverage::Held
            && facts.waits_since.is_some_and(long)
            && long(self.moved)
    }

    /// How many other instances have been seen lately.
    pub(crate) fn others(&self, now: Instant) -> usize {
        self.present(now).count()
    }

    /// Whether another one could go on without a gap.
    pub(crate) fn another_is_eligible(&self, now: Instant) -> bool {
        self.present(now).any(|other| other.eligible)
    }

    /// Whether another one could go on without a gap, or with a smaller one.
    fn another_is_nearer(&self, facts: &Candidate, now: Instant) -> bool {
        let earlier = |other: &Other| {
            self.is_comparable(other) && other.first.is_some() && other.first < facts.first
        };
        self.present(now).any(|other| other.eligible || earlier(other))
    }

    /// The other instances that were there lately.
    fn present(&self, now: Instant) -> impl Iterator<Item = &Other> {
        let since = self.heard.map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard));
        self.others.iter().filter(move |other| other.ago + since < self.force_after)
    }

    /// Whether it may go on with a gap where it cannot go on without.
    pub(crate) fn may_force(&self, facts: &Candidate, now: Instant) -> bool {
        let waited = self.missing_since.is_some_and(|since| now.duration_since(since) >= self.force_after);
        let fresh = facts.coverage == Coverage::Fresh;
        if facts.lost && !self.leader && (self.taken || !waited) {
            return false;
        }
        facts.able
            && self.heard.is_some()
            && (fresh || facts.coverage == Coverage::Missing)
            && (waited || !self.has_vanished(now))
            && self.present(now).all(|other| {
                let earlier = !facts.lost
                    && self.is_comparable(other)
                    && other.first.is_some()
                    && other.first < facts.first;
                !other.eligible && !earlier && (fresh || waited || (facts.lost && self.leader))
            })
    }

    /// What to ask for.
    pub(crate) fn want(&self, facts: &Candidate, now: Instant) -> LeaseRequest {
        let goes_on = facts.eligible() || self.may_force(facts, now);
        let overdue = |since: Option<Instant>| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= OVERDUE)
        };
        if self.heard.is_none() {
            // Who else is there is not known yet, so nothing can be forced.
            if facts.eligible() { LeaseRequest::Claim } else { LeaseRequest::Watch }
        } else if !facts.able {
            if self.leader { LeaseRequest::Release } else { LeaseRequest::Watch }
        } else if self.leader {
            match (!goes_on && self.another_is_nearer(facts, now), facts.reclaims) {
                (true, _) => LeaseRequest::Release,
                (false, true) => LeaseRequest::Reclaim,
                (false, false) => LeaseRequest::Claim,
            }
        } else if !self.taken {
            match (goes_on, facts.reclaims) {
                (true, true) => LeaseRequest::Reclaim,
                (true, false) => LeaseRequest::Claim,
                (false, _) => LeaseRequest::Watch,
            }
        } else if goes_on && overdue(facts.waits_since) && overdue(Some(self.moved)) {
            LeaseRequest::Seize
        } else {
            LeaseRequest::Watch
        }
    }

    /// When to ask again.
    pub(crate) fn due(&self, facts: &Candidate) -> Option<Instant> {
        let interval = match (facts.waits_since.is_some(), self.leader) {
            (true, true) => LEADER_INTERVAL,
            (true, false) => STANDBY_INTERVAL,
            (false, _) => IDLE_INTERVAL,
        };
        self.asked.map(|asked| asked + interval)
    }

    /// Asks at the next chance: something changed that others want to know.
    pub(crate) fn hurry(&mut self) {
        self.asked = None;
    }

    /// Says that it was asked.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// Appends the call to `out`.
    pub(crate) fn write(
        &self,
        out: &mut Vec<u8>,
        hash: &Hash,
        keys: [&[u8]; 2],
        want: LeaseRequest,
        facts: &Candidate,
    ) {
        let millis = |duration: Duration| duration.as_millis().to_string();
        let remembered = self.force_after.max(Duration::from_secs(15)) * 2;
        let first = facts.first.map_or_else(|| "-".to_owned(), |first| first.to_string());
        let eligible: &[u8] = if facts.eligible() { b"1" } else { b"0" };
        let (lasts, remembered) = (millis(LEASE), millis(remembered));
        let me = self.me.as_bytes();
        let generation = self.revision.as_ref().map_or(0, Revision::generation).to_string();
        resp::command(
            out,
            &[
                b"EVALSHA",
                hash,
                b"2",
                keys[0],
                keys[1],
                me,
                want.as_str().as_bytes(),
                lasts.as_bytes(),
                remembered.as_bytes(),
                eligible,
                first.as_bytes(),
                self.hashes.as_bytes(),
                generation.as_bytes(),
            ],
        );
    }
}

impl LeaseReply {
    /// Reads the script's reply; returns the state's part as it is.
    ///
    /// # Errors
    /// An error reply is one; so is a reply that is not the script's.
    pub(crate) fn read(reply: &Value) -> Result<(Self, &Value), Error> {
        if let Value::Error(text) = reply {
            return Err(Error::reply(text));
        }
        Self::parse(reply)
            .ok_or_else(|| Error::Protocol("the reply to lease.lua has another form".to_owned()))
    }

    fn parse(reply: &Value) -> Option<(Self, &Value)> {
        let [holder, state, others, generation] = reply.elements()? else { return None };
        let text = |value: &Value| Some(std::str::from_utf8(value.bytes()?).ok()?.to_owned());
        let others = others.elements()?.chunks_exact(5).map(|other| {
            Some(Other {
                name: text(&other[0])?,
                ago: Duration::from_millis(text(&other[1])?.parse().ok()?),
                eligible: text(&other[2])? == "1",
                first: text(&other[3])?.parse().ok(),
                revision: Revision::parse(&text(&other[4])?),
            })
        });
        let holder = Some(text(holder)?).filter(|holder| !holder.is_empty());
        let generation = text(generation)?.parse().ok()?;
        Some((Self { holder, others: others.collect::<Option<_>>()?, generation }, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{AnchorId, Epoch};

    fn other(ago_ms: u64, eligible: bool, first: Option<Position>) -> Other {
        Other { name: "b".into(), ago: Duration::from_millis(ago_ms), eligible, first, revision: None }
    }

    fn at(number: u64) -> Position {
        Epoch { number, anchor: AnchorId::random() }.at(0)
    }

    fn reply(holder: Option<String>, others: Vec<Other>) -> LeaseReply {
        LeaseReply { holder, others, generation: 1 }
    }

    fn facts(coverage: Coverage, first: Option<Position>, waits_since: Option<Instant>) -> Candidate {
        Candidate { coverage, first, waits_since, able: true, lost: false, reclaims: false }
    }

    #[test]
    fn a_gap_is_forced_at_once_only_where_nobody_else_is() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut standing = Leadership::new("a".into(), "n-m".into(), 5 * second, start);
        let missing = facts(Coverage::Missing, Some(at(7)), Some(start));
        assert!(!standing.may_force(&missing, start), "nobody has been asked");
        standing.on_reply(reply(None, vec![]), start);
        standing.observe(None, &missing, start);
        assert!(standing.may_force(&missing, start));
        standing.on_reply(reply(None, vec![other(0, true, Some(at(1)))]), start);
        assert!(!standing.may_force(&missing, start), "it can go on");
        assert!(standing.may_force(&missing, start + 5 * second), "it has not been seen for force_after");
        standing.observe(None, &missing, start + 4 * second);
        standing.on_reply(reply(None, vec![]), start + second);
        assert!(!standing.may_force(&missing, start + second), "the server's clock may have leapt");
        assert!(!standing.is_alone(start + second));
        assert!(standing.is_alone(start + 5 * second));
        standing
            .on_reply(reply(None, vec![other(0, false, Some(at(1)))]), start + 5 * second);
        assert!(!standing.may_force(&missing, start + 9 * second), "it holds what is earlier");
        standing
            .on_reply(reply(None, vec![other(0, false, Some(at(8)))]), start + 2 * second);
        assert!(!standing.may_force(&missing, start + 2 * second), "something may come back yet");
        assert!(standing.may_force(&missing, start + 6 * second));
    }

    #[test]
    fn the_lease_goes_to_who_can_go_on() {
        let start = Instant::now();
        let mut standing = Leadership::new("a".into(), "n-m".into(), Duration::from_secs(5), start);
        let held = facts(Coverage::Held, Some(at(7)), Some(start));
        assert_eq!(standing.want(&held, start), LeaseRequest::Claim);
        let taken = reply(Some("b".into()), vec![other(0, true, None)]);
        standing.on_reply(taken, start);
        assert_eq!(standing.want(&held, start), LeaseRequest::Watch);
        assert_eq!(standing.want(&held, start + OVERDUE), LeaseRequest::Seize, "nothing moves");
        standing.observe(Some(at(3)), &held, start + OVERDUE);
        assert_eq!(standing.want(&held, start + OVERDUE), LeaseRequest::Watch, "the other one gets on");
        standing.on_reply(reply(Some("a".into()), vec![other(0, true, None)]), start);
        let missing = facts(Coverage::Missing, Some(at(7)), Some(start));
        assert_eq!(standing.want(&missing, start), LeaseRequest::Release, "the other one holds what is missing here");
        assert_eq!(standing.want(&held, start), LeaseRequest::Claim);
    }
}
