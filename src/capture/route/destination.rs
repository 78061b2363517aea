//! The writing side of a route.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::super::append::Outcome;
use super::super::batch::Gap;
use super::super::chain::Step;
use super::super::handover::{Ended, Handover};
use super::super::lane::{Lane, LaneSettings};
use super::source::describe;
use super::{Ending, Pending, Route};
use crate::event::{DropReason, GapCause};
use crate::rt;
use crate::server::resp::{self, Value};
use crate::server::{Backoff, Class, Error};

/// Batches that may be on their way at once. One at a time starves the server between two of them;
/// more than a few only fill its buffer.
const IN_FLIGHT: usize = 8;
/// Nothing more is written behind so many unsent bytes.
const UNSENT_BYTES: usize = 2 * 1024 * 1024;
/// How long a destination that refuses is left alone.
const PARKED: Duration = Duration::from_secs(30);
/// How often the state of a superseded route is looked at.
const SUPERSEDED: Duration = Duration::from_secs(5);
/// With nothing to append, the destination is asked where the state stands: it proves that it answers,
/// and a state that vanished is noticed before the next event.
const IDLE_ASK: Duration = Duration::from_secs(1);
/// How long that answer may take: a second of quiet and this together notice a stopped server within 5 s.
const IDLE_DEADLINE: Duration = Duration::from_secs(3);
/// And every so many times the state's time is renewed, so that a restart's gap is not dated from the
/// last event of a quiet channel.
const IDLE_TOUCH: u32 = 10;

/// Where the writing side stands.
pub(super) struct Destination {
    state: State,
    backoff: Backoff,
    /// Why it does not write, for a person.
    pub(super) error: Option<String>,
    /// Whether a person must act.
    pub(super) parked: bool,
    /// A newer configuration writes elsewhere.
    pub(super) superseded: Option<String>,
    /// When it last answered; milliseconds since 1970.
    pub(super) answered_unix_ms: Option<u64>,
    connected_before: bool,
    idle_asks: u32,
}

enum State {
    /// The route that this one replaces has not said yet where it stopped.
    Inheriting(Pin<Box<dyn Future<Output = Ended> + Send>>),
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
    Position,
    Touch,
}

/// What happened on the writing side.
#[derive(Debug)]
pub(super) enum Event {
    Inherited(Ended),
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
            superseded: None,
            answered_unix_ms: None,
            connected_before: false,
            idle_asks: 0,
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
            Event::Inherited(ended) => {
                if ended.read {
                    self.chain.inherit(ended.position, ended.broken);
                }
                self.destination.state = State::Waiting(now);
            }
            Event::Due => {
                let settings = LaneSettings {
                    endpoint: self.parts.destination.clone(),
                    capture: self.parts.capture.clone(),
                    keys: self.keys.clone(),
                    hashes: self.hashes.clone(),
                };
                self.destination.state = State::Connecting(Box::pin(Lane::open(settings)));
            }
            Event::Connected(Ok(lane)) => self.connected(*lane, now),
            Event::Connected(Err(error)) => self.disconnect(&error, now),
            Event::Filled(Ok(_)) => self.read_replies(now),
            Event::Filled(Err(error)) => self.disconnect(&error, now),
        }
    }

    fn connected(&mut self, lane: Lane, now: Instant) {
        let found = lane.state.revision.as_ref();
        if let Some(by) = &self.destination.superseded
            && found.is_some_and(|found| !found.is_of(&self.hashes))
        {
            tracing::debug!(event = "superseded", route = self.parts.capture.name, by, "still standing by");
            self.destination.state = State::Waiting(now + SUPERSEDED);
            return;
        }
        let destination = &mut self.destination;
        destination.superseded = None;
        destination.error = None;
        destination.parked = false;
        destination.answered_unix_ms = Some(rt::unix_ms());
        if destination.connected_before {
            self.parts.destination_metrics.reconnects.increment(1);
        }
        destination.connected_before = true;
        self.flush_builder();
        let state = &lane.state;
        self.floor = self.floor.max(state.highest_epoch + 1);
        if self.chain.comes_after(state.position) {
            // The source handed out an epoch that the state has passed already: another server, or its
            // epoch was lost and its clock is behind. The next window opens above it.
            let given_up = self.chain.held_events();
            self.chain.clear();
            self.give_up(given_up);
            let why = "the source's epochs stood behind the route's state; the window is opened anew";
            self.lost_window(GapCause::EpochLost, why, now);
            if let Some(gap) = &mut self.gap {
                gap.dropped = given_up;
                gap.reason = DropReason::Stale;
            }
        }
        self.report.ledger = state.ledger.clone();
        self.chain.disconnected();
        self.chain.found(state.position, state.at_unix_ms, rt::unix_ms());
        tracing::info!(
            event = "destination_connected",
            route = self.parts.capture.name,
            endpoint = self.parts.destination.name,
            position = state.position.map(|position| position.to_string()),
            "appending"
        );
        self.destination.state =
            State::Up(Box::new(Up { lane, sent: VecDeque::new(), paused_until: None, heard: now }));
        self.publish(now);
    }

    /// The connection is of no more use; what was sent over it is sent again over the next.
    fn disconnect(&mut self, error: &Error, now: Instant) {
        self.chain.disconnected();
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
        self.publish(now);
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
        } else if let Some(suppressed) = self.log.admit("destination_unavailable", now) {
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
                What::Position => self.on_position(&reply, now),
                What::Touch => {}
            }
        }
    }

    fn on_reply(&mut self, reply: &Value, sent_at: Instant, now: Instant) {
        let outcome = match Outcome::read(reply) {
            Err(error @ Error::Protocol(_)) => return self.disconnect(&error, now),
            outcome => outcome,
        };
        match self.chain.replied(outcome, rt::unix_ms()) {
            Step::Stored { batch, stored } => {
                self.parts.metrics.append_seconds.record(now.duration_since(sent_at).as_secs_f64());
                self.count_stored(&batch, &stored, now);
                self.appends_again(now);
                self.reopen_if_room(now);
            }
            Step::Duplicate { batch } => {
                self.count_duplicate(&batch);
                self.appends_again(now);
                self.reopen_if_room(now);
            }
            Step::Dropped { batch } => {
                self.give_up(batch.events);
                self.reopen_if_room(now);
            }
            Step::Again | Step::Ignored => {}
            Step::Wait(error, stored) => {
                if let Some(stored) = stored {
                    self.count_part(&stored);
                    self.report.part += stored.events();
                }
                self.wait(&error, now);
            }
            Step::Superseded(by) => self.stand_by(by, now),
        }
    }

    /// The destination has proved that it takes what it is sent.
    fn appends_again(&mut self, now: Instant) {
        self.destination.backoff.reset();
        if self.destination.error.take().is_some() {
            self.destination.parked = false;
            self.publish(now);
        }
    }

    /// The server refused a batch and the connection is as good as before: asks again after a while.
    fn wait(&mut self, error: &Error, now: Instant) {
        match error.class() {
            Class::Resolve | Class::Repair => self.disconnect(error, now),
            class @ (Class::Park | Class::Retry) => {
                let park = class == Class::Park;
                let wait = if park { PARKED } else { self.destination.backoff.next_wait() };
                if let State::Up(up) = &mut self.destination.state {
                    up.paused_until = Some(now + wait);
                }
                self.refused(error, park, now);
                self.publish(now);
            }
        }
    }

    /// A newer configuration of this route writes elsewhere.
    fn stand_by(&mut self, by: String, now: Instant) {
        self.flush_builder();
        let given_up = self.chain.held_events();
        self.chain.clear();
        self.give_up(given_up);
        let now_unix_ms = rt::unix_ms();
        self.chain.owe(Gap {
            cause: GapCause::Stale,
            detail: "another instance, with a newer configuration, had taken over".to_owned(),
            started_unix_ms: now_unix_ms,
            ended_unix_ms: now_unix_ms,
            dropped: given_up,
            reason: DropReason::Stale,
        });
        tracing::warn!(
            event = "superseded",
            route = self.parts.capture.name,
            by,
            "another instance runs a newer configuration of this route; this one stands by until it is \
             reloaded or that configuration is withdrawn"
        );
        self.destination.superseded = Some(by);
        self.destination.state = State::Waiting(now + SUPERSEDED);
        self.publish(now);
    }

    /// The answer to where the state stands.
    fn on_position(&mut self, reply: &Value, now: Instant) {
        if let Value::Error(text) = reply {
            return self.wait(&Error::reply(text), now);
        }
        if self.chain.is_empty() {
            self.appends_again(now);
        }
        let position = reply.bytes().and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        if self.chain.awaited() == 0 && position < self.chain.acked() {
            self.chain.found(position, None, rt::unix_ms());
        }
    }

    /// Ends a connection over which no answer comes, and asks where nothing is under way.
    pub(super) fn check_destination(&mut self, now: Instant) {
        let draining = self.ending != Ending::Running;
        // The state's time dates the gap of a restart, so it stands still while a gap is open.
        let watching = self.source.is_open() && self.chain.is_empty() && self.chain.acked().is_some();
        let State::Up(up) = &mut self.destination.state else { return };
        if up.paused_until.is_some_and(|until| until <= now) {
            up.paused_until = None;
        }
        match up.sent.front() {
            Some(oldest) if now >= oldest.due => {
                let waited = now.duration_since(oldest.at);
                self.disconnect(&Error::Timeout(waited, "waiting for a reply"), now);
            }
            None if now.duration_since(up.heard) >= IDLE_ASK && !draining => {
                let state = &self.keys.state;
                self.destination.idle_asks += 1;
                let what = if self.destination.idle_asks.is_multiple_of(IDLE_TOUCH) && watching {
                    let at = rt::unix_ms().to_string();
                    let touch: [&[u8]; 4] = [b"HSET", state, b"at", at.as_bytes()];
                    resp::command(up.lane.connection.out(), &touch);
                    What::Touch
                } else {
                    resp::command(up.lane.connection.out(), &[b"HGET", state, b"position"]);
                    What::Position
                };
                up.sent.push_back(Sent { at: now, due: now + IDLE_DEADLINE, what });
            }
            _ => {}
        }
    }

    /// Sends what may be sent: every full batch, and the open one where nothing else is on its way.
    pub(super) fn pump(&mut self, now: Instant) {
        let State::Up(up) = &mut self.destination.state else { return };
        if self.destination.superseded.is_some() {
            return;
        }
        if up.paused_until.is_some_and(|until| until > now) {
            return;
        }
        up.paused_until = None;
        let due = now + self.parts.destination.response_timeout;
        let connection = &mut up.lane.connection;
        while self.chain.awaited() < IN_FLIGHT && connection.unsent_bytes() < UNSENT_BYTES {
            if !self.chain.has_unsent() {
                if self.chain.awaited() > 0 {
                    return;
                }
                match self.builder.take() {
                    Some(batch) => self.chain.push(batch),
                    None => return,
                }
            }
            // What follows a border may be a successor's.
            if self.border.is_some() && self.chain.next_first() >= self.border {
                return;
            }
            let Some((prev, batch)) = self.chain.send() else { return };
            up.lane.append.write(connection.out(), batch, prev, rt::unix_ms());
            up.sent.push_back(Sent { at: now, due, what: What::Batch });
        }
    }
}
