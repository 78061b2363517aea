//! The writing side of a route.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::super::append::Outcome;
use super::super::batch::Joint;
use super::super::chain::Step;
use super::super::handover::{Ended, Handover};
use super::super::lane::{Lane, LaneSettings};
use super::super::takeover::Takeover;
use super::source::describe;
use super::{Pending, Route};
use crate::rt;
use crate::server::resp::{self, Value};
use crate::server::{Backoff, Class, Error, Hash};

/// Batches that may be on their way at once. One at a time starves the server between two of them;
/// more than a few only fill its buffer.
const IN_FLIGHT: usize = 8;
/// Nothing more is written behind so many unsent bytes.
const UNSENT_BYTES: usize = 2 * 1024 * 1024;
/// How long a destination that refuses is left alone.
const PARKED: Duration = Duration::from_secs(30);
/// How long the answer to a question may take: with the second between two of them, a stopped server is
/// noticed within 5 s.
const ASK_DEADLINE: Duration = Duration::from_secs(3);
/// How often the state's time is renewed while nothing is appended, so that a restart's gap is not dated
/// from the last event of a quiet channel.
const TOUCH: Duration = Duration::from_secs(10);

/// Where the writing side stands.
pub(super) struct Destination {
    state: State,
    backoff: Backoff,
    /// Why it does not write, for a person.
    pub(super) error: Option<String>,
    /// Whether a person must act.
    pub(super) parked: bool,
    /// When it last answered; milliseconds since 1970.
    pub(super) answered_unix_ms: Option<u64>,
    connected_before: bool,
    /// When the state's time was last renewed.
    touched: Instant,
    /// Whether the other instances have been told that this one ends.
    left: bool,
}

enum State {
    /// The route that this one replaces has not said yet where it stopped.
    Inheriting(Pin<Box<dyn Future<Output = Box<Ended>> + Send>>),
    Waiting(Instant),
    Connecting(Pending<Lane>),
    Up(Box<Up>),
}

struct Up {
    lane: Lane,
    sent: VecDeque<Sent>,
    /// Nothing is sent before that: the server refused the last batch.
    paused_until: Option<Instant>,
    heard: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    /// When the connection is given up if no reply has come.
    due: Instant,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Batch,
    Asked(Ask),
}

/// What happened on the writing side.
#[derive(Debug)]
pub(super) enum Event {
    Inherited(Box<Ended>),
    Due,
    Connected(Result<Box<Lane>, Error>),
    Filled(Result<usize, Error>),
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").field("error", &self.error).finish_non_exhaustive()
    }
}

impl Destination {
    /// Waits for `predecessor`'s last word first, where there is one.
    pub(super) fn new(now: Instant, predecessor: Option<Handover>) -> Self {
        Self {
            state: match predecessor {
                Some(predecessor) => State::Inheriting(Box::pin(async move { predecessor.ended().await })),
                None => State::Waiting(now),
            },
            backoff: Backoff::default(),
            error: None,
            parked: false,
            answered_unix_ms: None,
            connected_before: false,
            touched: now,
            left: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match &mut self.state {
            State::Inheriting(ended) => ended.as_mut().poll(cx).map(Event::Inherited),
            State::Waiting(until) if *until <= Instant::now() => Poll::Ready(Event::Due),
            State::Waiting(_) => Poll::Pending,
            State::Connecting(connecting) => {
                connecting.as_mut().poll(cx).map(|lane| Event::Connected(lane.map(Box::new)))
            }
            State::Up(up) => {
                let connection = &mut up.lane.connection;
                if connection.unsent_bytes() > 0
                    && let Poll::Ready(Err(error)) = connection.poll_flush(cx)
                {
                    return Poll::Ready(Event::Filled(Err(error)));
                }
                connection.poll_fill(cx).map(Event::Filled)
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting(until) => Some(*until),
            State::Up(up) => up.paused_until.into_iter().chain(up.sent.front().map(|sent| sent.due)).min(),
            State::Inheriting(_) | State::Connecting(_) => None,
        }
    }

    /// Whether a connection has been tried once, with whatever outcome.
    pub(super) fn was_tried(&self) -> bool {
        self.connected_before || self.error.is_some() || self.is_inheriting()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Whether the predecessor still writes.
    pub(super) fn is_inheriting(&self) -> bool {
        matches!(self.state, State::Inheriting(_))
    }

    /// Whether no other instance waits for this one any more, or none can be told.
    pub(super) fn has_left(&self) -> bool {
        self.left || !self.is_up()
    }

    /// Whether an answer to who writes is awaited.
    pub(super) fn is_asking(&self) -> bool {
        let asked = |sent: &Sent| matches!(sent.what, What::Asked(Ask::Stand | Ask::Leave));
        matches!(&self.state, State::Up(up) if up.sent.iter().any(asked))
    }

    /// `stand.lua`, as the connection knows it.
    pub(super) fn stand_hash(&self) -> Option<Hash> {
        match &self.state {
            State::Up(up) => Some(up.lane.stand),
            _ => None,
        }
    }

    /// `history.lua`, as the connection knows it.
    pub(super) fn history_hash(&self) -> Option<Hash> {
        match &self.state {
            State::Up(up) => Some(up.lane.history),
            _ => None,
        }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        match &self.state {
            State::Up(up) => up.sent.is_empty(),
            _ => true,
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        match &self.state {
            State::Up(up) => up.lane.connection.held_bytes(),
            _ => 0,
        }
    }
}

impl Route {
    pub(super) fn on_destination(&mut self, event: Event, now: Instant) {
        match event {
            Event::Inherited(ended) => self.inherit(*ended, now),
            Event::Due => {
                let settings = LaneSettings {
                    endpoint: self.parts.destination.clone(),
                    capture: self.parts.capture.clone(),
                    keys: self.keys.clone(),
                    hashes: self.hashes.clone(),
                    revision: self.revision.clone(),
                };
                self.destination.state = State::Connecting(Box::pin(Lane::open(settings)));
            }
            Event::Connected(Ok(lane)) => self.connected(*lane, now),
            Event::Connected(Err(error)) => self.disconnect(&error, now),
            Event::Filled(Ok(_)) => self.read_replies(now),
            Event::Filled(Err(error)) => self.disconnect(&error, now),
        }
    }

    /// Takes over from the route that this one replaces.
    fn inherit(&mut self, ended: Ended, now: Instant) {
        self.destination.state = State::Waiting(now);
        let Ended { chain, overflow, spool, broken, leader, histories } = ended;
        if self.is_replication() {
            self.histories = histories;
            // Nothing was read yet: it goes on where that one stopped, or says why not.
            self.source.away.clone_from(&broken);
            self.source.resume(now);
        }
        self.flush_builder();
        let own = self.chain.take_batches();
        self.chain = chain;
        self.chain.disconnected();
        self.overflow = overflow;
        self.spool = spool;
        // This route has not received it, and it is in hand.
        self.account.received(self.in_hand().total());
        if leader {
            self.takeover = Takeover::Inherited;
        }
        let room = self.room();
        let given = self.overflow.last().or(self.chain.last());
        let mut joint = match broken {
            Some(gap) => Some(Joint::Gap(gap)),
            None => given.map(Joint::Follows),
        };
        let mut others = 0;
        for mut batch in own {
            if Some(batch.last) <= given {
                // Another instance stored it behind the border before this route was heard of.
                others += batch.events;
                joint = None;
                continue;
            }
            if let Some(joint) = joint.take()
                && Some(batch.first) > given
            {
                batch.joint = joint;
            }
            self.overflow.push(batch, &mut self.chain, room);
        }
        self.parts.metrics.deduplicated.increment(others);
        self.account.deduplicated(others);
    }

    fn connected(&mut self, lane: Lane, now: Instant) {
        let destination = &mut self.destination;
        destination.error = None;
        destination.parked = false;
        destination.answered_unix_ms = Some(rt::unix_ms());
        if destination.connected_before {
            self.parts.destination_metrics.reconnects.increment(1);
        }
        destination.connected_before = true;
        let position = lane.state.position;
        self.floor = self.floor.max(lane.state.highest_epoch() + 1);
        self.revision = Some(lane.revision.clone());
        self.chain.disconnected();
        self.standing.disconnected();
        tracing::info!(
            event = "destination_connected",
            route = self.parts.capture.name,
            endpoint = self.parts.destination.name,
            position = position.map(|position| position.to_string()),
            "ready to append"
        );
        let state = lane.state.clone();
        self.destination.state =
            State::Up(Box::new(Up { lane, sent: VecDeque::new(), paused_until: None, heard: now }));
        self.found_state(&state, now);
        self.number_history(now);
        self.publish();
    }

    /// The connection is of no more use; what was sent over it is sent again over the next.
    pub(super) fn disconnect(&mut self, error: &Error, now: Instant) {
        self.unlinked();
        let park = error.class() == Class::Park;
        let wait = match error.class() {
            Class::Park => PARKED,
            // The script is loaded at every connect: once at once, then as any other failure.
            Class::Repair if self.destination.backoff.failures() == 0 => {
                self.destination.backoff.next_wait();
                Duration::ZERO
            }
            _ => self.destination.backoff.next_wait(),
        };
        self.destination.state = State::Waiting(now + wait);
        self.refused(error, park, now);
        self.publish();
    }

    /// Nothing that was sent will be answered.
    fn unlinked(&mut self) {
        self.chain.disconnected();
        self.standing.disconnected();
        self.takeover.disconnected();
    }

    /// Connects anew.
    pub(super) fn reconnect(&mut self, now: Instant) {
        self.unlinked();
        self.destination.state = State::Waiting(now);
    }

    fn refused(&mut self, error: &Error, park: bool, now: Instant) {
        let text = describe(error);
        self.destination.parked = park;
        self.destination.error = Some(text.clone());
        let (route, endpoint) = (&self.parts.capture.name, &self.parts.destination.name);
        let class = error.class().as_str();
        if park {
            if let Some(suppressed) = self.log.admit("parked", now) {
                tracing::error!(
                    event = "parked",
                    route,
                    endpoint,
                    class,
                    suppressed,
                    "the route may not write: {text}; it keeps what it reads and tries again every 30 s"
                );
            }
        } else if let Some(suppressed) = self.parts.outages.admit("destination_unavailable", endpoint, now) {
            tracing::warn!(
                event = "destination_unavailable",
                route,
                endpoint,
                class,
                suppressed,
                "cannot append to {}: {text}; keeps what it reads and tries again by itself",
                self.parts.destination.address
            );
        }
    }

    fn read_replies(&mut self, now: Instant) {
        loop {
            let State::Up(up) = &mut self.destination.state else { return };
            up.heard = now;
            let reply = match up.lane.connection.reader.next_value() {
                Ok(None) => return,
                Ok(Some(reply)) => reply,
                Err(error) => return self.disconnect(&error.into(), now),
            };
            let Some(sent) = up.sent.pop_front() else {
                let error = Error::Protocol("a reply came that nothing was asked for".to_owned());
                return self.disconnect(&error, now);
            };
            self.destination.answered_unix_ms = Some(rt::unix_ms());
            match sent.what {
                What::Batch => self.on_reply(&reply, sent.at, now),
                What::Asked(Ask::Stand) => self.on_stood(&reply, now),
                What::Asked(Ask::Leave) => self.destination.left = true,
                What::Asked(Ask::Announced) => match reply {
                    Value::Error(text) => self.not_announced(&Error::reply(&text), now),
                    _ => self.announced(now),
                },
                What::Asked(Ask::History) => self.numbered(&reply, now),
                What::Asked(Ask::Withdrawn) => match reply {
                    Value::Error(text) => self.wait(&Error::reply(&text), now),
                    _ => self.withdrawn(now),
                },
                What::Asked(Ask::Note) => {}
            }
        }
    }

    fn on_reply(&mut self, reply: &Value, sent_at: Instant, now: Instant) {
        let outcome = match Outcome::read(reply) {
            Err(error @ Error::Protocol(_)) => return self.disconnect(&error, now),
            outcome => outcome,
        };
        match self.chain.replied(outcome, rt::unix_ms()) {
            Step::Stored { counts, stored, gap } => {
                self.parts.metrics.append_seconds.record(now.duration_since(sent_at).as_secs_f64());
                self.destination.touched = now;
                self.takeover = Takeover::None;
                self.count_stored(&counts, &stored, now);
                self.tell_gap(&counts, gap.as_ref());
                self.appends_again();
                self.reopen_if_room(now);
            }
            Step::Duplicate { counts, gap } => {
                self.count_duplicate(&counts);
                self.tell_gap(&counts, gap.as_ref());
                // Another instance writes as well: it may have the lease by now.
                self.standing.hurry();
                self.appends_again();
                self.reopen_if_room(now);
            }
            Step::Dropped { events } => {
                self.give_up(events);
                self.standing.hurry();
                self.reopen_if_room(now);
            }
            Step::Again { rewound } => {
                self.account.rewound(rewound);
                self.standing.hurry();
            }
            Step::Ignored => {}
            Step::Wait(error, stored) => {
                if let Some(stored) = stored {
                    self.count_part(&stored);
                    self.report.part += stored.events();
                }
                self.wait(&error, now);
            }
            Step::Superseded => {
                self.yields = true;
                self.standing.hurry();
            }
        }
    }

    /// The destination has proved that it takes what it is sent.
    pub(super) fn appends_again(&mut self) {
        self.destination.backoff.reset();
        if self.destination.error.take().is_some() {
            self.destination.parked = false;
            self.publish();
        }
    }

    /// The server refused a batch and the connection is as good as before: asks again after a while.
    pub(super) fn wait(&mut self, error: &Error, now: Instant) {
        match error.class() {
            Class::Resolve | Class::Repair => self.disconnect(error, now),
            class @ (Class::Park | Class::Retry) => {
                let park = class == Class::Park;
                let wait = if park { PARKED } else { self.destination.backoff.next_wait() };
                if let State::Up(up) = &mut self.destination.state {
                    up.paused_until = Some(now + wait);
                }
                self.refused(error, park, now);
                self.publish();
            }
        }
    }

    /// Ends a connection over which no answer comes.
    pub(super) fn check_destination(&mut self, now: Instant) {
        let State::Up(up) = &mut self.destination.state else { return };
        if up.paused_until.is_some_and(|until| until <= now) {
            up.paused_until = None;
        }
        if let Some(oldest) = up.sent.front()
            && now >= oldest.due
        {
            let waited = now.duration_since(oldest.at);
            self.disconnect(&Error::Timeout(waited, "waiting for a reply"), now);
        }
    }

    /// Sends something small over the append connection, if there is one.
    pub(super) fn ask(&mut self, what: Ask, now: Instant, call: &[u8]) {
        let State::Up(up) = &mut self.destination.state else { return };
        up.lane.connection.out().extend_from_slice(call);
        up.sent.push_back(Sent { at: now, due: now + ASK_DEADLINE, what: What::Asked(what) });
    }

    /// Renews the state's time, which dates the gap of a restart: it stands still while a gap is open.
    fn touch(&mut self, now: Instant) {
        let watching = self.source.is_open() && self.chain.is_empty() && self.chain.checkpoint().is_some();
        if watching && self.standing.is_leader() && now.duration_since(self.destination.touched) >= TOUCH {
            self.destination.touched = now;
            let (key, at) = (self.keys.state.clone(), rt::unix_ms().to_string());
            let mut call = Vec::new();
            resp::command(&mut call, &[b"HSET", &key, b"at", at.as_bytes()]);
            self.ask(Ask::Note, now, &call);
        }
    }

    /// Sends what may be sent: every full batch, and the open one where nothing else is on its way.
    pub(super) fn pump(&mut self, now: Instant) {
        if !self.destination.is_up() {
            return;
        }
        self.stand(now);
        self.touch(now);
        if self.chain.is_empty() && self.overflow.is_empty() {
            self.flush_builder();
        }
        let may = self.standing.is_leader() && self.superseded.is_none() && !self.yields;
        if !may || self.waits_for_durability() {
            return;
        }
        let force = self.may_force(now);
        let State::Up(up) = &mut self.destination.state else { return };
        if up.paused_until.is_some_and(|until| until > now) {
            return;
        }
        up.paused_until = None;
        let due = now + self.parts.destination.response_timeout;
        let now_unix_ms = rt::unix_ms();
        let connection = &mut up.lane.connection;
        while self.chain.awaited() < IN_FLIGHT && connection.unsent_bytes() < UNSENT_BYTES {
            // What follows a border may be a successor's.
            if self.border_place.is_some() && self.chain.next_first() >= self.border_place {
                return;
            }
            let Some((prev, gap, batch)) = self.chain.send(force, now_unix_ms) else { return };
            up.lane.append.write(connection.out(), batch, prev, gap);
            up.sent.push_back(Sent { at: now, due, what: What::Batch });
        }
    }

    /// Whether writing is put off because a person must act.
    pub(super) fn is_parked(&self) -> bool {
        match &self.destination.state {
            State::Up(up) => self.destination.parked && up.paused_until.is_some(),
            _ => self.destination.parked,
        }
    }
}

/// What is asked beside the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Who writes, and where the state stands.
    Stand,
    /// The same, for the last time.
    Leave,
    /// Where this configuration begins.
    Announced,
    /// That a newer configuration is gone, and this one to go on.
    Withdrawn,
    /// Which epochs the source's histories stand for.
    History,
    /// Nothing: the answer is not looked at.
    Note,
}
