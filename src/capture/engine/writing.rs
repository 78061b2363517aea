//! The writing side: the connection to the destination, the calls on their way, and the meaning of replies.

mod maxmemory;
mod state_time;
mod stumbling;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::chain::ReplyStep;
use super::{Effect, Engine, Notice, Side};
use crate::capture::append::call::{Append, AppendOutcome};
use crate::capture::append::state::StoredState;
use crate::capture::append::state::revision::RankedRevision;
use crate::logs::LogCode;
use crate::rt::Moment;
use crate::server::resp::Value;
use crate::server::{BLOCKED_RETRY, Backoff, Class, Error, Hash};
use stumbling::Stumbling;

/// Most batches on their way. With one, the server idles between two of them; more than a few only fill its buffer.
const IN_FLIGHT: usize = 8;
/// Nothing more is written behind this many unsent bytes.
const UNSENT_BYTES: usize = 2 * 1024 * 1024;
/// Longest time for the answer to a question: with the second between questions, a stopped server is noticed within 5
/// s.
const ASK_DEADLINE: Duration = Duration::from_secs(3);

/// The writing side.
#[derive(Debug)]
pub(super) struct Writing {
    link: DestinationLink,
    backoff: Backoff,
    /// Why it does not write, for the operator.
    pub(super) error: Option<String>,
    /// True if the operator must act.
    pub(super) blocked: bool,
    /// Time of the last answer.
    pub(super) answered: Option<Moment>,
    connected_before: bool,
    /// Counts connections that end at the same batch.
    stumbling: Stumbling,
    /// When the state's time was last renewed.
    touched: Instant,
    /// True if the other instances have been told that this one ends.
    left: bool,
}

#[derive(Debug)]
enum DestinationLink {
    /// The predecessor has not reported yet where it stopped.
    Inheriting,
    Waiting(Instant),
    Connecting,
    Up(Box<Up>),
}

#[derive(Debug)]
struct Up {
    scripts: Scripts,
    sent: VecDeque<SentCall>,
    /// Questions that are not written yet; they go before the next batch.
    questions: Vec<u8>,
    /// Nothing is sent before that: the server refused the last batch.
    paused_until: Option<Instant>,
    /// The destination was out of memory: the error, until the answer to [`Ask::Memory`].
    out_of_memory: Option<Error>,
    /// True from then on until nothing waits. Batches go one by one: one that is sent behind another takes room that
    /// the other one needs, and a server keeps such a buffer for a while.
    short_of_memory: bool,
}

/// The scripts as a connection knows them.
#[derive(Debug)]
pub(in crate::capture) struct Scripts {
    pub(in crate::capture) append: Append,
    pub(in crate::capture) lease: Hash,
    pub(in crate::capture) epochs: Hash,
}

/// A connection that is ready.
#[derive(Debug)]
pub(in crate::capture) struct Connected {
    pub(in crate::capture) scripts: Scripts,
    pub(in crate::capture) state: StoredState,
    /// Under which revision of the configuration batches are appended over it.
    pub(in crate::capture) revision: RankedRevision,
}

#[derive(Debug, Clone, Copy)]
struct SentCall {
    at: Instant,
    /// When the connection is given up without a reply.
    due: Instant,
    what: AskedOf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AskedOf {
    Batch,
    Asked(Ask),
}

/// A question beside the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The leader and the checkpoint.
    Lease,
    /// The last such call, before the end.
    Leave,
    /// The anchor at which this configuration begins.
    Announce,
    /// The epochs of the source's histories.
    History,
    /// How much memory the destination may use.
    Memory,
    /// To write something down that only informs: a refusal is tried again with the next one.
    Note,
}

impl Writing {
    /// Waits for the predecessor's last report first, if there is a predecessor.
    pub(super) fn new(inherits: bool, now: Instant) -> Self {
        Self {
            link: if inherits { DestinationLink::Inheriting } else { DestinationLink::Waiting(now) },
            backoff: Backoff::default(),
            error: None,
            blocked: false,
            answered: None,
            connected_before: false,
            stumbling: Stumbling::default(),
            touched: now,
            left: false,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.link {
            DestinationLink::Waiting(until) => Some(*until),
            DestinationLink::Up(up) => {
                up.paused_until.into_iter().chain(up.sent.front().map(|sent| sent.due)).min()
            }
            DestinationLink::Inheriting | DestinationLink::Connecting => None,
        }
    }

    /// Returns whether a connection has been tried once, with whatever outcome.
    pub(super) fn was_tried(&self) -> bool {
        self.connected_before || self.error.is_some() || self.is_inheriting()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.link, DestinationLink::Up(_))
    }

    /// Returns whether the predecessor still writes.
    pub(super) fn is_inheriting(&self) -> bool {
        matches!(self.link, DestinationLink::Inheriting)
    }

    /// The predecessor has ended.
    pub(super) fn on_inherited(&mut self, now: Instant) {
        self.link = DestinationLink::Waiting(now);
    }

    /// Returns whether the other instances know that this one ends, or cannot be told.
    pub(super) fn has_left(&self) -> bool {
        self.left || !self.is_up()
    }

    /// Returns whether an answer to who writes is awaited.
    pub(super) fn is_asking(&self) -> bool {
        let asked = |sent: &SentCall| matches!(sent.what, AskedOf::Asked(Ask::Lease | Ask::Leave));
        matches!(&self.link, DestinationLink::Up(up) if up.sent.iter().any(asked))
    }

    /// `lease.lua`, as the connection knows it.
    pub(super) fn lease_hash(&self) -> Option<Hash> {
        match &self.link {
            DestinationLink::Up(up) => Some(up.scripts.lease),
            _ => None,
        }
    }

    /// `histories.lua`, as the connection knows it.
    pub(super) fn epochs_hash(&self) -> Option<Hash> {
        match &self.link {
            DestinationLink::Up(up) => Some(up.scripts.epochs),
            _ => None,
        }
    }

    /// Appends under this revision from now on.
    pub(super) fn set_revision(&mut self, revision: &RankedRevision) {
        if let DestinationLink::Up(up) = &mut self.link {
            up.scripts.append.set_revision(revision.to_string());
        }
    }

    /// Returns whether nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        match &self.link {
            DestinationLink::Up(up) => up.sent.is_empty(),
            _ => true,
        }
    }

    /// Returns whether writing is put off because the operator must act.
    pub(super) fn is_blocked(&self) -> bool {
        match &self.link {
            DestinationLink::Up(up) => self.blocked && up.paused_until.is_some(),
            _ => self.blocked,
        }
    }
}

impl Engine {
    /// Connects, if that is due.
    pub(super) fn connect_if_due(&mut self, now: Moment) {
        if matches!(self.writing.link, DestinationLink::Waiting(until) if until <= now.at) {
            self.writing.link = DestinationLink::Connecting;
            self.effect(Effect::Connect(self.revision.clone()));
        }
    }

    /// Sentinels report another master: what waits to connect does so now.
    pub(super) fn hurry_connecting(&mut self, now: Moment) {
        self.writing.backoff.reset();
        if let DestinationLink::Waiting(until) = &mut self.writing.link {
            *until = now.at;
        }
    }

    /// A connection is ready.
    pub(in crate::capture) fn on_connected(&mut self, connected: Connected, now: Moment) {
        if !matches!(self.writing.link, DestinationLink::Connecting) {
            return self.effect(Effect::Disconnect);
        }
        let Connected { scripts, state, revision } = connected;
        let writing = &mut self.writing;
        if !writing.stumbling.goes_alone() {
            // Else it is not known yet whether it writes again.
            writing.error = None;
            writing.blocked = false;
        }
        writing.answered = Some(now);
        if writing.connected_before {
            self.counters.destination.reconnects.increment(1);
        }
        writing.connected_before = true;
        self.raise_floor(state.highest_epoch() + 1);
        self.revision = Some(revision);
        self.chain.on_disconnected();
        self.leadership.on_disconnected();
        let notice = Notice::info(LogCode::DestinationConnected, "the capture can store entries")
            .of(Side::Destination);
        self.log(notice.position(state.position), now);
        self.writing.link = DestinationLink::Up(Box::new(Up {
            scripts,
            sent: VecDeque::new(),
            questions: Vec::new(),
            paused_until: None,
            out_of_memory: None,
            short_of_memory: false,
        }));
        self.on_state(&state, now);
        self.number_history(now);
        self.changed();
    }

    /// No connection could be made, or it has ended.
    pub(in crate::capture) fn on_disconnected(&mut self, error: &Error, now: Moment) {
        if matches!(self.writing.link, DestinationLink::Connecting | DestinationLink::Up(_)) {
            self.disconnect(error, now);
        }
    }

    /// Drops the connection; unanswered calls are sent again over the next.
    pub(super) fn disconnect(&mut self, error: &Error, now: Moment) {
        let ended =
            self.writing.is_up() && matches!(error, Error::Io(_) | Error::Closed | Error::Protocol(_));
        let was_sent = self.chain.awaited() > 0;
        // Nothing that was sent will be answered.
        self.chain.on_disconnected();
        let blamed = if ended { self.stumble(error, was_sent) } else { None };
        let error = blamed.as_ref().unwrap_or(error);
        let block = error.class() == Class::Block;
        let wait = match error.class() {
            Class::Block => BLOCKED_RETRY,
            // The scripts are loaded at every connect: once at once, then as any other failure.
            Class::Repair if self.writing.backoff.failures() == 0 => {
                self.writing.backoff.next_wait();
                Duration::ZERO
            }
            _ => self.writing.backoff.next_wait(),
        };
        self.unlink(now.at + wait);
        self.refused(error, block, now);
        self.changed();
    }

    /// The error to report instead, if the first unanswered batch is to blame. `was_sent`: whether that batch was on
    /// its way.
    fn stumble(&mut self, error: &Error, was_sent: bool) -> Option<Error> {
        let batch = self.chain.front()?;
        if was_sent {
            self.writing.stumbling.on_end(batch);
        }
        let blamed = self.writing.stumbling.blames(batch, error)?;
        (!self.chain.halve_front()).then_some(blamed)
    }

    fn unlink(&mut self, until: Instant) {
        self.effect(Effect::Disconnect);
        self.leadership.on_disconnected();
        self.rollout.on_disconnected();
        self.writing.link = DestinationLink::Waiting(until);
    }

    fn refused(&mut self, error: &Error, block: bool, now: Moment) {
        let text = error.with_hint();
        self.writing.blocked = block;
        self.writing.error = Some(text.clone());
        let notice = if block {
            let text = format!("the route cannot write: {text}; it buffers messages and retries every 30 s");
            Notice::error(LogCode::Blocked, text)
        } else {
            let text = format!(
                "cannot write to {}: {text}; the route buffers messages and retries",
                self.settings.destination
            );
            Notice::warn(LogCode::DestinationUnavailable, text).of_an_outage()
        };
        self.log(notice.of(Side::Destination).class(error.class().as_str()), now);
    }

    /// A reply has come. `sent` is answered in order.
    pub(in crate::capture) fn on_reply(&mut self, reply: &Value, now: Moment) {
        let DestinationLink::Up(up) = &mut self.writing.link else { return };
        let Some(sent) = up.sent.pop_front() else {
            let error = Error::Protocol("a reply came without a request".to_owned());
            return self.disconnect(&error, now);
        };
        self.writing.answered = Some(now);
        let refusal = match reply {
            Value::Error(text) => Some(Error::reply_at(text, &self.settings.keys.state)),
            _ => None,
        };
        match (sent.what, refusal) {
            (AskedOf::Batch, _) => self.on_appended(reply, sent.at, now),
            (AskedOf::Asked(Ask::Lease), _) => self.on_lease_reply(reply, now),
            (AskedOf::Asked(Ask::History), _) => self.on_numbered(reply, now),
            (AskedOf::Asked(Ask::Memory), _) => self.on_memory(reply, now),
            // They cannot be told, so no instance is awaited.
            (AskedOf::Asked(Ask::Leave), _) => self.writing.left = true,
            (AskedOf::Asked(Ask::Announce), Some(error)) => self.on_announce_failed(&error, now),
            (AskedOf::Asked(Ask::Announce), None) => self.on_announced(now),
            (AskedOf::Asked(Ask::Note), Some(error)) if error.class() == Class::Resolve => {
                self.disconnect(&error, now);
            }
            (AskedOf::Asked(Ask::Note), _) => {}
        }
    }

    fn on_appended(&mut self, reply: &Value, sent_at: Instant, now: Moment) {
        let read = AppendOutcome::read(reply).map_err(|error| error.at(&[&self.settings.keys.state]));
        let outcome = match read {
            Err(error @ Error::Protocol(_)) => return self.disconnect(&error, now),
            outcome => outcome,
        };
        match self.chain.on_reply(outcome, now.unix_ms) {
            ReplyStep::Stored { counts, stored, gap } => {
                let took = now.at.saturating_duration_since(sent_at);
                self.counters.route.append_seconds.record(took.as_secs_f64());
                self.writing.touched = now.at;
                self.rollout.on_written();
                self.count_stored(&counts, &stored, now);
                self.give_up(counts.lost);
                self.tell_gap(&counts, gap.as_ref(), now);
                self.appends_again();
            }
            ReplyStep::Duplicate { counts, gap } => {
                self.count_duplicate(&counts);
                self.give_up(counts.lost);
                self.tell_gap(&counts, gap.as_ref(), now);
                // Another instance writes as well: it may have the lease by now.
                self.leadership.hurry();
                self.appends_again();
            }
            ReplyStep::Dropped { events, lost } => {
                self.give_up(events);
                self.count_corrupt(lost);
                self.leadership.hurry();
            }
            ReplyStep::Again { rewound } => {
                self.ledger.rewound(rewound);
                self.leadership.hurry();
            }
            ReplyStep::Ignored => {}
            ReplyStep::Wait(error, stored) => {
                if let Some(stored) = stored {
                    self.count_part(&stored, now);
                    self.report.part += stored.events();
                }
                if error.code() == Some("OOM") {
                    return self.ask_memory(error, now);
                }
                // A server that refuses an argument answers ERR, and ends the connection.
                let blamed = if error.code() == Some("ERR") { self.stumble(&error, true) } else { None };
                self.wait(blamed.as_ref().unwrap_or(&error), now);
            }
            ReplyStep::Outdated => {
                self.rollout.on_rejected();
                self.leadership.hurry();
            }
            ReplyStep::Foreign => {
                // Another instance had stored more than the items taken over from a predecessor.
                self.rollout.on_written();
                self.leadership.hurry();
            }
        }
    }

    /// The destination has proved that it accepts calls.
    pub(super) fn appends_again(&mut self) {
        self.writing.backoff.reset();
        self.writing.stumbling.on_stored();
        if self.writing.error.take().is_some() {
            self.writing.blocked = false;
            self.changed();
        }
    }

    /// The server refused a call and the connection is as good as before: asks again after a while.
    pub(super) fn wait(&mut self, error: &Error, now: Moment) {
        match error.class() {
            Class::Resolve | Class::Repair => self.disconnect(error, now),
            class @ (Class::Block | Class::Retry) => {
                let block = class == Class::Block;
                let wait = if block { BLOCKED_RETRY } else { self.writing.backoff.next_wait() };
                // Questions continue in a pause, and are refused as well: that makes it no longer.
                if let DestinationLink::Up(up) = &mut self.writing.link
                    && up.paused_until.is_none_or(|until| until <= now.at)
                {
                    up.paused_until = Some(now.at + wait);
                }
                self.refused(error, block, now);
                self.changed();
            }
        }
    }

    /// Ends a connection over which no answer comes.
    pub(super) fn check_writing(&mut self, now: Moment) {
        let DestinationLink::Up(up) = &mut self.writing.link else { return };
        if up.paused_until.is_some_and(|until| until <= now.at) {
            up.paused_until = None;
        }
        if let Some(oldest) = up.sent.front()
            && now.at >= oldest.due
        {
            let waited = now.at.saturating_duration_since(oldest.at);
            self.disconnect(&Error::Timeout(waited, "waiting for a reply"), now);
        }
    }

    /// Asks something small, if there is a connection.
    pub(super) fn ask(&mut self, what: Ask, now: Moment, call: &[u8]) {
        let DestinationLink::Up(up) = &mut self.writing.link else { return };
        up.questions.extend_from_slice(call);
        up.sent.push_back(SentCall { at: now.at, due: now.at + ASK_DEADLINE, what: AskedOf::Asked(what) });
    }

    /// Writes calls behind the `unsent` bytes in `out`: questions, every full batch, and the open one if nothing else
    /// is on its way.
    pub(in crate::capture) fn transmit(&mut self, out: &mut Vec<u8>, unsent: usize, now: Moment) {
        if !self.writing.is_up() {
            return;
        }
        self.ask_lease(now);
        self.touch(now);
        if self.is_drained() {
            self.flush_builder();
        }
        let may = self.leadership.is_leader() && self.rollout.may_write();
        let may = may && !self.waits_for_durability();
        let force = may && self.may_force(now);
        let begun = out.len();
        let DestinationLink::Up(up) = &mut self.writing.link else { return };
        out.append(&mut up.questions);
        if !may || up.paused_until.is_some_and(|until| until > now.at) {
            return;
        }
        up.paused_until = None;
        let due = now.at + self.settings.response_timeout;
        up.short_of_memory &= !self.chain.is_empty();
        let alone = up.short_of_memory || self.writing.stumbling.goes_alone();
        let most = if alone { 1 } else { IN_FLIGHT };
        while self.chain.awaited() < most && unsent + (out.len() - begun) < UNSENT_BYTES {
            // Items after a border may be a successor's.
            if self.border.place.is_some() && self.chain.next_first() >= self.border.place {
                return;
            }
            let Some((prev, gap, batch)) = self.chain.send(force, now.unix_ms) else { return };
            up.scripts.append.write(out, batch, prev, gap);
            up.sent.push_back(SentCall { at: now.at, due, what: AskedOf::Batch });
        }
    }
}
