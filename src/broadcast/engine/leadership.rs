//! Which of several instances publishes, if the channel is on another server than the stream.
//!
//! Problem: across two servers a message goes out before the cursor moves. Two instances that publish at once
//! send every entry twice.
//!
//! Constraints: PUBLISH takes no condition, so the other server cannot refuse an instance whose lease has run out.
//! On one server none of this is needed: the step that publishes compares the cursor.
//!
//! Operation: a lease on the stream's server, by that server's clock. The holder renews it several times within its
//! term. By its own clock the holder counts from the moment before it asked, and stops a margin early, so it ends no
//! later than the server's term. It checks the clock before each send, also before the rest of a buffer.
//!
//! ```text
//!            reply: this instance holds it
//! standby ─────────────────────────────────▶ leading
//!      ▲                                        │
//!      └──── reply: another one holds it ◀──────┤
//!      └──── the term has passed  ◀─────────────┘   (nothing is sent; the next reply decides)
//! ```
//!
//! Failure: if an instance ends or freezes, its term passes, and the standby takes over at the cursor in the same
//! reply. Messages that the first one sent and did not note in the cursor are sent again. A new session lets a waiting
//! instance go first: it has buffered messages that the new session has not.

use std::time::Duration;

use tokio::time::Instant;

use crate::broadcast::publish::call::Tally;
use crate::broadcast::publish::count::CursorCount;
use crate::server::resp::{self, Value};
use crate::server::{Error, Hash, Script, script};
use crate::stream::EntryId;

/// Grants the lease.
pub(crate) const LEASE: Script = script!("lease.lua");

/// A take-over waits for the rest of this, and is to be done within a second.
pub(crate) const TERM: Duration = Duration::from_millis(750);
/// For the difference of two clocks over one term, and for the way of a message that was just sent.
const MARGIN: Duration = Duration::from_millis(100);
/// Interval of renewals: one may be lost or late.
const RENEWAL: Duration = Duration::from_millis(250);
/// Interval of a standby's questions: a released lease is unused for at most this long.
const STANDBY: Duration = Duration::from_millis(200);

/// A request for the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseRequest {
    /// Take it if no other instance holds it or waits for it.
    Begin,
    /// Take it if no other instance holds it.
    Claim,
    /// Give it to another instance.
    Release,
}

impl LeaseRequest {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Claim => "claim",
            Self::Release => "release",
        }
    }
}

/// The reply of `lease.lua`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseReply {
    holder: String,
    left: Duration,
    /// The cursor, if there is one, and its count, if known.
    pub(crate) cursor: Option<EntryId>,
    pub(crate) counted: CursorCount,
    /// Totals since the cursor was made, over all instances.
    pub(crate) tally: Tally,
}

impl LeaseReply {
    /// Reads the script's reply.
    ///
    /// # Errors
    /// If it is an error, or no reply of that script.
    pub(crate) fn read(reply: &Value) -> Result<Self, Error> {
        if let Value::Error(text) = reply {
            return Err(Error::reply(text));
        }
        Self::of(reply).ok_or_else(|| LEASE.invalid_reply())
    }

    fn of(reply: &Value) -> Option<Self> {
        let [holder, left, _, cursor, counted, published, unheard, rejected, filtered] = reply.elements()?
        else {
            return None;
        };
        Some(Self {
            holder: holder.text()?.to_owned(),
            left: Duration::from_millis(left.count()?),
            cursor: match cursor.bytes()? {
                b"" => None,
                id => Some(EntryId::parse(id)?),
            },
            counted: CursorCount::read(counted),
            tally: Tally {
                published: published.count()?,
                unheard: unheard.count()?,
                rejected: rejected.count()?,
                filtered: filtered.count()?,
            },
        })
    }
}

/// The change by a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeadershipChange {
    /// No change.
    Same,
    /// This instance publishes from now on.
    Leads,
    /// Another instance holds it, or none does yet.
    StandsBy(Option<String>),
}

/// One instance's role.
#[derive(Debug)]
pub(crate) struct Leadership {
    me: String,
    key: String,
    hash: Hash,
    /// Until when this instance may send, or might; `None` before it could for the first time.
    until: Option<Instant>,
    /// The last reply's result.
    known: Option<LeadershipChange>,
    /// Sent and not answered.
    asked: Option<(LeaseRequest, Instant)>,
    next: LeaseRequest,
    due: Instant,
    /// True if it was given back, and that is answered.
    released: bool,
}

impl Leadership {
    /// Begins with a session. `me` identifies this route of this process.
    pub(crate) fn new(me: String, key: String, hash: Hash, now: Instant) -> Self {
        Self {
            me,
            key,
            hash,
            until: None,
            known: None,
            asked: None,
            next: LeaseRequest::Begin,
            due: now,
            released: false,
        }
    }

    /// Returns whether this instance may send now.
    pub(crate) fn leads(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Time until which passed messages may be sent.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// When the next question is due; `None` while one is under way.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.asked.is_none().then_some(self.due)
    }

    /// Appends the question if it is due. Returns whether it is.
    pub(crate) fn ask(&mut self, cursor: &str, out: &mut Vec<u8>, now: Instant) -> bool {
        if self.due().is_none_or(|due| now < due) {
            return false;
        }
        self.asked = Some((self.next, now));
        let term = TERM.as_millis().to_string();
        let (key, want) = (self.key.as_bytes(), self.next.as_str().as_bytes());
        let me = self.me.as_bytes();
        resp::command(
            out,
            &[b"EVALSHA", &self.hash, b"2", key, cursor.as_bytes(), me, want, term.as_bytes()],
        );
        true
    }

    /// Releases the lease with the next question, which is due at once.
    pub(crate) fn release(&mut self, now: Instant) {
        self.end(now);
        (self.next, self.due) = (LeaseRequest::Release, now);
    }

    /// Returns whether it was given back, and that is answered.
    pub(crate) fn is_released(&self) -> bool {
        self.released
    }

    /// The term is over, whatever is left of it.
    fn end(&mut self, now: Instant) {
        self.until = self.until.map(|until| until.min(now));
    }

    /// Takes in a reply.
    pub(crate) fn on_reply(&mut self, reply: &LeaseReply, now: Instant) -> LeadershipChange {
        let Some((want, sent)) = self.asked.take() else { return LeadershipChange::Same };
        if self.next == LeaseRequest::Release {
            // The answer to the release itself, or to an earlier question.
            self.released = want == LeaseRequest::Release;
            self.due = now;
            return LeadershipChange::Same;
        }
        self.next = LeaseRequest::Claim;
        let change = if reply.holder == self.me {
            self.until = Some(sent + (TERM - MARGIN));
            self.due = sent + RENEWAL;
            LeadershipChange::Leads
        } else {
            self.end(now);
            // If no instance has it, one that waited before goes first.
            let wait = if reply.holder.is_empty() { STANDBY * 3 / 2 } else { STANDBY.min(reply.left) };
            self.due = now + wait;
            LeadershipChange::StandsBy(Some(reply.holder.clone()).filter(|holder| !holder.is_empty()))
        };
        if self.known.replace(change.clone()) == Some(change.clone()) {
            LeadershipChange::Same
        } else {
            change
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(holder: &str, left: u64) -> LeaseReply {
        let left = Duration::from_millis(left);
        LeaseReply {
            holder: holder.into(),
            left,
            cursor: None,
            counted: CursorCount::default(),
            tally: Tally::default(),
        }
    }

    fn ask(leadership: &mut Leadership, now: Instant) -> String {
        let mut out = Vec::new();
        leadership.ask("c", &mut out, now);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn the_term_counts_from_before_the_question_and_ends_by_the_own_clock() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut one = Leadership::new("one".into(), "l".into(), [b'0'; 40], start);
        assert!(!one.leads(start) && ask(&mut one, start).contains("begin"));
        assert_eq!(ask(&mut one, start), "", "one at a time");
        // The answer took 100 ms.
        assert_eq!(one.on_reply(&reply("one", 750), start + ms(100)), LeadershipChange::Leads);
        assert!(one.leads(start + ms(649)) && !one.leads(start + ms(650)));
        assert_eq!(one.due(), Some(start + ms(250)));
        assert!(ask(&mut one, start + ms(250)).contains("claim"));
        assert_eq!(one.on_reply(&reply("one", 750), start + ms(251)), LeadershipChange::Same);
        assert!(one.leads(start + ms(899)) && !one.leads(start + ms(900)));
        // Frozen for long: the other one has it.
        let later = start + ms(5_000);
        assert!(!one.leads(later) && ask(&mut one, later).contains("claim"));
        assert_eq!(one.on_reply(&reply("two", 30), later), LeadershipChange::StandsBy(Some("two".into())));
        assert_eq!(one.due(), Some(later + ms(30)), "as soon as it can have run out");
    }

    #[test]
    fn a_release_is_asked_at_once_and_the_answer_to_an_older_question_is_not_its_own() {
        let start = Instant::now();
        let mut one = Leadership::new("one".into(), "l".into(), [b'0'; 40], start);
        ask(&mut one, start);
        one.release(start);
        assert!(!one.leads(start));
        assert_eq!(one.on_reply(&reply("one", 750), start), LeadershipChange::Same);
        assert!(!one.leads(start) && !one.is_released());
        assert!(ask(&mut one, start).contains("release"));
        one.on_reply(&reply("", 0), start);
        assert!(one.is_released());
    }
}
