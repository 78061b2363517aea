//! Who writes: the decision of one instance, by what it has buffered and what it learns of the others.
//!
//! Every instance reads the same events. One of them has the lease and writes; the others release what the checkpoint
//! passes. The lease only saves work. Two instances that write at once do no harm, since the position in the state
//! decides what is stored. So the rules may be simple:
//!
//! ```text
//! has the lease     keeps it, but releases it if it cannot continue and another instance can
//! the lease is free takes it, if it can continue at the checkpoint
//! another has it    seizes it if an item is buffered for 500 ms while the checkpoint stands still; or at once, if the
//!                   other one has an older configuration and this one can continue
//! ```
//!
//! If no instance can continue without a gap, the one whose coverage begins earliest continues with a gap: at once if
//! it has seen no other instance lately, otherwise after `force_after`.

use std::time::{Duration, Instant};

use super::chain::Coverage;
use crate::capture::append::state::revision::RankedRevision;
use crate::position::Position;
use crate::server::Error;
use crate::server::resp::{self, Value};
use crate::server::{Hash, Script, script};

pub(crate) const LEASE: Script = script!("lease.lua");

/// Duration of the lease: a few times the longest interval between two calls.
const LEASE_DURATION: Duration = Duration::from_secs(3);
/// An item buffered for so long while the checkpoint stands still is written, with or without the lease.
const OVERDUE: Duration = Duration::from_millis(500);
/// Interval between calls, while nothing waits.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between calls of the leader.
const LEADER_INTERVAL: Duration = Duration::from_millis(500);
/// Interval between calls of a standby that waits for the checkpoint to pass its items.
const STANDBY_INTERVAL: Duration = Duration::from_millis(100);

/// A request for the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseRequest {
    /// To know only.
    Watch,
    /// Take the lease if it is free.
    Claim,
    /// To have it.
    Seize,
    /// Give the lease to another instance.
    Release,
    /// To be forgotten.
    Leave,
}

impl LeaseRequest {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Claim => "claim",
            Self::Seize => "seize",
            Self::Release => "release",
            Self::Leave => "leave",
        }
    }
}

/// Another instance, as it was when it last called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The instance's id.
    pub(crate) name: String,
    /// Time since it was last seen, when the reply was made.
    pub(crate) ago: Duration,
    /// True if it could continue without a gap.
    pub(crate) eligible: bool,
    /// The first item that it holds.
    pub(crate) first: Option<Position>,
    /// Under which revision it writes, or would; release 0.1.0 does not say.
    pub(crate) revision: Option<RankedRevision>,
}

/// The part of the script's reply beside the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseReply {
    /// The instance that has the lease.
    pub(crate) holder: Option<String>,
    /// The other instances.
    pub(crate) others: Vec<Peer>,
}

/// The facts that an instance knows of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// Coverage of what follows the checkpoint by the buffer.
    pub(crate) coverage: Coverage,
    /// The first item that waits.
    pub(crate) first: Option<Position>,
    /// Since when something waits.
    pub(crate) waits_since: Option<Instant>,
    /// True if it may write at all: it is not blocked, and no newer configuration has taken over.
    pub(crate) able: bool,
    /// True if its configuration is newer than the leader's, and it may continue at the leader's checkpoint.
    pub(crate) takes_over: bool,
    /// True if the state is gone: then only the last leader knows what is stored.
    pub(crate) lost: bool,
}

impl Candidate {
    fn eligible(&self) -> bool {
        self.able && self.coverage.is_eligible()
    }
}

/// One instance's role among those of its route.
#[derive(Debug)]
pub(crate) struct Leadership {
    me: String,
    force_after: Duration,
    leader: bool,
    /// Somebody else has the lease.
    taken: bool,
    others: Vec<Peer>,
    /// When another instance was last seen, by this process's clock.
    seen: Option<Instant>,
    /// When an instance with a newer configuration was last seen.
    newer_seen: Option<Instant>,
    /// When the last reply came; `None` before the first over this connection.
    heard: Option<Instant>,
    /// Since when replies come one after another, and the last of them: over several connections, too.
    answers: Option<(Instant, Instant)>,
    asked: Option<Instant>,
    /// Since when it cannot continue without a gap.
    missing_since: Option<Instant>,
    /// When the checkpoint last moved.
    moved: Instant,
    checkpoint: Option<Position>,
}

impl Leadership {
    pub(crate) fn new(me: String, force_after: Duration, now: Instant) -> Self {
        Self {
            me,
            force_after,
            leader: false,
            taken: false,
            others: Vec::new(),
            seen: None,
            newer_seen: None,
            heard: None,
            answers: None,
            asked: None,
            missing_since: None,
            moved: now,
            checkpoint: None,
        }
    }

    /// Returns whether this instance writes.
    pub(crate) fn is_leader(&self) -> bool {
        self.leader
    }

    /// Returns whether it is known that another instance writes.
    pub(crate) fn is_told_of_a_leader(&self) -> bool {
        self.heard.is_some() && self.taken
    }

    /// The connection to the destination ended: who writes is not known any more.
    pub(crate) fn on_disconnected(&mut self) {
        self.leader = false;
        self.heard = None;
        self.asked = None;
    }

    /// Takes in a reply. `own` is the revision of this instance.
    pub(crate) fn on_reply(&mut self, stood: LeaseReply, own: Option<&RankedRevision>, now: Instant) {
        self.leader = stood.holder.as_ref() == Some(&self.me);
        self.taken = stood.holder.is_some() && !self.leader;
        let began = match self.answers {
            Some((began, last))
                if now.saturating_duration_since(last) < self.force_after.max(2 * LEASE_DURATION) =>
            {
                began
            }
            _ => now,
        };
        self.answers = Some((began, now));
        // No instance can renew while the destination is down, so only silence since its first reply counts.
        let audible = now.saturating_duration_since(began);
        let ago = |other: Peer| Peer { ago: other.ago.min(audible), ..other };
        self.others = stood.others.into_iter().map(ago).collect();
        self.heard = Some(now);
        let latest = |ago: Option<Duration>| ago.and_then(|ago| now.checked_sub(ago));
        self.seen = latest(self.present(now).map(|other| other.ago).min()).or(self.seen);
        let newer = |other: &&Peer| {
            // An instance that does not name its revision may be newer.
            own.is_none_or(|own| other.revision.as_ref().is_none_or(|revision| revision.supersedes(own)))
        };
        self.newer_seen =
            latest(self.present(now).filter(newer).map(|other| other.ago).min()).or(self.newer_seen);
    }

    /// Takes in the checkpoint and the facts of the buffer.
    pub(crate) fn observe(&mut self, checkpoint: Option<Position>, facts: &Candidate, now: Instant) {
        if self.checkpoint != checkpoint {
            self.checkpoint = checkpoint;
            self.moved = now;
        }
        let missing = matches!(facts.coverage, Coverage::Missing | Coverage::Fresh | Coverage::Unknown);
        self.missing_since = if missing { self.missing_since.or(Some(now)) } else { None };
    }

    /// Returns whether no other instance has been seen for `force_after`.
    pub(crate) fn is_alone(&self, now: Instant) -> bool {
        self.heard.is_some() && self.present(now).next().is_none() && !self.has_vanished(now)
    }

    /// Returns whether no instance with a newer configuration has been seen for `force_after`.
    pub(crate) fn is_newest(&self, now: Instant) -> bool {
        let lately = |seen: Instant| now.saturating_duration_since(seen) < self.force_after;
        self.heard.is_some() && !self.newer_seen.is_some_and(lately)
    }

    /// Returns whether another instance was listed a moment ago and is not any more. It has left, or the server's clock
    /// has leapt, which makes every other instance look long gone until its next call.
    fn has_vanished(&self, now: Instant) -> bool {
        let lately = |seen: Instant| now.saturating_duration_since(seen) < self.force_after;
        self.present(now).next().is_none() && self.seen.is_some_and(lately)
    }

    /// Returns whether the checkpoint has stood still so long that no other instance will move it, although the items
    /// after it are buffered here.
    pub(crate) fn is_held_up(&self, facts: &Candidate, now: Instant) -> bool {
        let long = |since: Instant| now.saturating_duration_since(since) >= 2 * self.force_after;
        facts.able
            && facts.coverage == Coverage::Held
            && facts.waits_since.is_some_and(long)
            && long(self.moved)
    }

    /// Returns whether no other instance could continue without a gap, and none could for a moment.
    pub(crate) fn nobody_goes_on(&self, now: Instant) -> bool {
        let unmoved = now.saturating_duration_since(self.moved) >= OVERDUE;
        self.heard.is_some() && unmoved && !self.has_vanished(now) && !self.another_is_eligible(now)
    }

    /// Number of other instances seen lately.
    pub(crate) fn others(&self, now: Instant) -> usize {
        self.present(now).count()
    }

    /// Returns whether another instance could continue without a gap.
    pub(crate) fn another_is_eligible(&self, now: Instant) -> bool {
        self.present(now).any(|other| other.eligible)
    }

    /// Returns whether another instance could continue without a gap, or with a smaller one.
    fn another_is_nearer(&self, facts: &Candidate, now: Instant) -> bool {
        let earlier = |other: &Peer| other.first.is_some() && other.first < facts.first;
        self.present(now).any(|other| other.eligible || earlier(other))
    }

    /// The other instances that were there lately.
    fn present(&self, now: Instant) -> impl Iterator<Item = &Peer> {
        let since = self.heard.map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard));
        self.others.iter().filter(move |other| other.ago + since < self.force_after)
    }

    /// Returns whether it may continue with a gap, if it cannot continue without.
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
                let earlier = !facts.lost && other.first.is_some() && other.first < facts.first;
                !other.eligible && !earlier && (fresh || waited || (facts.lost && self.leader))
            })
    }

    /// The lease request to send.
    pub(crate) fn want(&self, facts: &Candidate, now: Instant) -> LeaseRequest {
        let goes_on = facts.eligible() || self.may_force(facts, now);
        let overdue = |since: Option<Instant>| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= OVERDUE)
        };
        if self.heard.is_none() {
            // The other instances are not known yet, so nothing can be forced.
            if facts.eligible() { LeaseRequest::Claim } else { LeaseRequest::Watch }
        } else if !facts.able {
            if self.leader { LeaseRequest::Release } else { LeaseRequest::Watch }
        } else if self.leader {
            if !goes_on && self.another_is_nearer(facts, now) {
                LeaseRequest::Release
            } else {
                LeaseRequest::Claim
            }
        } else if !self.taken {
            if goes_on { LeaseRequest::Claim } else { LeaseRequest::Watch }
        } else if facts.takes_over && facts.eligible()
            || goes_on && overdue(facts.waits_since) && overdue(Some(self.moved))
        {
            LeaseRequest::Seize
        } else {
            LeaseRequest::Watch
        }
    }

    /// When to call again.
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

    /// Appends the call to `out`. `revisions` are the revision that writes again, the one it replaces, and this
    /// instance's.
    pub(crate) fn write(
        &self,
        out: &mut Vec<u8>,
        hash: &Hash,
        keys: [&[u8]; 2],
        want: LeaseRequest,
        facts: &Candidate,
        revisions: &[String; 3],
    ) {
        let millis = |duration: Duration| duration.as_millis().to_string();
        let remembered = self.force_after.max(Duration::from_secs(15)) * 2;
        let first = facts.first.map_or_else(|| "-".to_owned(), |first| first.to_string());
        let eligible: &[u8] = if facts.eligible() { b"1" } else { b"0" };
        let (lasts, remembered) = (millis(LEASE_DURATION), millis(remembered));
        let me = self.me.as_bytes();
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
                revisions[0].as_bytes(),
                revisions[1].as_bytes(),
                revisions[2].as_bytes(),
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
        Self::parse(reply).ok_or_else(|| LEASE.invalid_reply())
    }

    fn parse(reply: &Value) -> Option<(Self, &Value)> {
        let [holder, state, others] = reply.elements()? else { return None };
        let text = |value: &Value| Some(std::str::from_utf8(value.bytes()?).ok()?.to_owned());
        let others = others.elements()?.chunks_exact(5).map(|other| {
            Some(Peer {
                name: text(&other[0])?,
                ago: Duration::from_millis(text(&other[1])?.parse().ok()?),
                eligible: text(&other[2])? == "1",
                first: text(&other[3])?.parse().ok(),
                revision: RankedRevision::parse(&text(&other[4])?),
            })
        });
        let holder = Some(text(holder)?).filter(|holder| !holder.is_empty());
        Some((Self { holder, others: others.collect::<Option<_>>()? }, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{AnchorId, Epoch};

    fn other(ago_ms: u64, eligible: bool, first: Option<Position>) -> Peer {
        Peer { name: "b".into(), ago: Duration::from_millis(ago_ms), eligible, first, revision: None }
    }

    fn at(number: u64) -> Position {
        Epoch { number, anchor: AnchorId::random() }.at(0)
    }

    fn facts(coverage: Coverage, first: Option<Position>, waits_since: Option<Instant>) -> Candidate {
        Candidate { coverage, first, waits_since, able: true, takes_over: false, lost: false }
    }

    #[test]
    fn a_gap_is_forced_at_once_only_where_nobody_else_is() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut leadership = Leadership::new("a".into(), 5 * second, start);
        let missing = facts(Coverage::Missing, Some(at(7)), Some(start));
        assert!(!leadership.may_force(&missing, start), "nobody has been asked");
        leadership.on_reply(LeaseReply { holder: None, others: vec![] }, None, start);
        leadership.observe(None, &missing, start);
        assert!(leadership.may_force(&missing, start));
        leadership.on_reply(
            LeaseReply { holder: None, others: vec![other(0, true, Some(at(1)))] },
            None,
            start,
        );
        assert!(!leadership.may_force(&missing, start), "it can go on");
        assert!(leadership.may_force(&missing, start + 5 * second), "it has not been seen for force_after");
        leadership.observe(None, &missing, start + 4 * second);
        leadership.on_reply(LeaseReply { holder: None, others: vec![] }, None, start + second);
        assert!(!leadership.may_force(&missing, start + second), "the server's clock may have leapt");
        assert!(!leadership.is_alone(start + second));
        assert!(leadership.is_alone(start + 5 * second));
        leadership.on_reply(
            LeaseReply { holder: None, others: vec![other(0, false, Some(at(1)))] },
            None,
            start + 5 * second,
        );
        assert!(!leadership.may_force(&missing, start + 9 * second), "it holds what is earlier");
        leadership.on_reply(
            LeaseReply { holder: None, others: vec![other(0, false, Some(at(8)))] },
            None,
            start + 2 * second,
        );
        assert!(!leadership.may_force(&missing, start + 2 * second), "something may come back yet");
        assert!(leadership.may_force(&missing, start + 6 * second));
    }

    #[test]
    fn the_lease_goes_to_who_can_go_on() {
        let start = Instant::now();
        let mut leadership = Leadership::new("a".into(), Duration::from_secs(5), start);
        let held = facts(Coverage::Held, Some(at(7)), Some(start));
        assert_eq!(leadership.want(&held, start), LeaseRequest::Claim);
        let taken = LeaseReply { holder: Some("b".into()), others: vec![other(0, true, None)] };
        leadership.on_reply(taken, None, start);
        assert_eq!(leadership.want(&held, start), LeaseRequest::Watch);
        assert_eq!(leadership.want(&held, start + OVERDUE), LeaseRequest::Seize, "nothing moves");
        leadership.observe(Some(at(3)), &held, start + OVERDUE);
        assert_eq!(leadership.want(&held, start + OVERDUE), LeaseRequest::Watch, "the other one gets on");
        leadership.on_reply(
            LeaseReply { holder: Some("a".into()), others: vec![other(0, true, None)] },
            None,
            start,
        );
        let missing = facts(Coverage::Missing, Some(at(7)), Some(start));
        assert_eq!(
            leadership.want(&missing, start),
            LeaseRequest::Release,
            "the other one holds what is missing here"
        );
        assert_eq!(leadership.want(&held, start), LeaseRequest::Claim);
    }
}
