//! One process: the engine, and connections whose bytes are on their way.
//!
//! A turn is one round of the session's loop: bytes go out, received bytes are passed on, the engine advances. In
//! between the process may stop for any time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::World;
use super::model::{CallResult, LEASE, PUBLISH, RELEASE, STATE, Waits};
use crate::broadcast::engine::{Effect, Engine, Event, Hashes, Next};
use crate::broadcast::failure::{Half, SessionFailure};
use crate::config::{Broadcast, Endpoint};
use crate::server::Error;
use crate::server::resp::{self, Limits, Reader, Value};

const HALVES: [Half; 3] = [Half::Reader, Half::Writer, Half::Other];
const TICK: Duration = Duration::from_millis(250);
/// Less than a lease leaves beside its renewal.
const STARVED: Duration = Duration::from_millis(200);

/// Which session of which instance sent something. Sessions are counted over the whole history.
pub(super) type Sender = usize;

/// A connection.
#[derive(Debug)]
pub(super) struct ServerLink {
    /// In the process.
    out: Vec<u8>,
    /// In the socket, or under way.
    wire: Vec<u8>,
    /// The bytes that the server has received.
    inbox: Reader,
    /// Whole answers under way.
    back: VecDeque<Value>,
    /// An XREAD that waits, and until when.
    waits: Option<(Waits, Instant)>,
}

/// A process.
#[derive(Debug)]
pub(super) struct Instance {
    engine: Option<Engine>,
    me: String,
    settings: Arc<Broadcast>,
    pub(super) links: Vec<ServerLink>,
    pub(super) session: Sender,
    /// When the next session is tried, if there is none.
    connect_at: Instant,
    pub(super) frozen: Option<Instant>,
    ticked: Instant,
    /// When it last had the processor.
    turned: Instant,
    stopping: bool,
    pub(super) connects: u64,
    lines: u64,
    pub(super) sent: u64,
}

fn feed(reader: &mut Reader, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let room = reader.room();
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        reader.filled(count);
    }
}

impl ServerLink {
    fn new() -> Self {
        Self {
            out: Vec::new(),
            wire: Vec::new(),
            inbox: Reader::new(Limits::default()),
            back: VecDeque::new(),
            waits: None,
        }
    }
}

impl Instance {
    pub(super) fn new(
        settings: Arc<Broadcast>,
        [source, destination]: &[Endpoint; 2],
        me: String,
        now: Instant,
    ) -> Self {
        Self {
            engine: Some(Engine::new(settings.clone(), source, destination, me.clone())),
            me,
            settings,
            links: Vec::new(),
            session: 0,
            connect_at: now,
            frozen: None,
            ticked: now,
            turned: now,
            stopping: false,
            connects: 0,
            lines: 0,
            sent: 0,
        }
    }

    /// Its description for a history that fails.
    pub(super) fn shown(&self) -> String {
        let work = self.engine.as_ref().map(|engine| format!("{engine:?}"));
        format!("{} links, frozen {:?}, {}", self.links.len(), self.frozen, work.unwrap_or_default())
    }

    pub(super) fn is_running(&self) -> bool {
        self.engine.is_some()
    }

    fn has_session(&self) -> bool {
        !self.links.is_empty()
    }

    /// Ended, in order or not.
    pub(super) fn end(&mut self) {
        self.take_effects();
        self.engine = None;
        self.links.clear();
        self.stopping = false;
        self.frozen = None;
    }

    pub(super) fn begin_again(&mut self, [source, destination]: &[Endpoint; 2], me: String, now: Instant) {
        self.engine = Some(Engine::new(self.settings.clone(), source, destination, me.clone()));
        self.me = me;
        self.connect_at = now;
    }

    /// Bounded however long the history was: connections by what went wrong and by time, lines by time.
    pub(super) fn check_bounds(&self, elapsed: Duration, faults: u64) {
        let seconds = elapsed.as_secs();
        assert!(self.connects <= 40 + 6 * faults + seconds, "{} connects in {seconds} s", self.connects);
        // A dozen kinds, each twice a minute, for each time that the process was begun.
        assert!(self.lines <= (12 + faults) * (seconds / 30 + 2), "{} lines in {seconds} s", self.lines);
    }

    /// Counts the engine's effects.
    fn take_effects(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        for effect in engine.effects().drain(..) {
            let line = match effect {
                Effect::Sent(messages, _) => {
                    self.sent += messages;
                    None
                }
                Effect::HolesLeft(_, line)
                | Effect::Live(_, line)
                | Effect::StandsBy(_, line)
                | Effect::Lapsed(line)
                | Effect::Found(_, _, line)
                | Effect::Failed { suppressed: line, .. } => line,
                _ => None,
            };
            self.lines += u64::from(line.is_some());
        }
    }
}

impl World {
    /// An instance that gets no processor for long is as good as frozen.
    pub(super) fn notice_starved(&mut self) {
        for at in 0..self.instances.len() {
            let instance = &self.instances[at];
            if instance.has_session() && self.now > instance.turned + STARVED {
                self.session_ends(at);
            }
        }
    }

    /// An instance gets the processor, if it is not frozen.
    pub(super) fn turn(&mut self, at: usize) {
        let now = self.now;
        if self.instances[at].frozen.is_some_and(|until| now < until) {
            // The bytes in its sockets still arrive.
            return self.serve(at);
        }
        (self.instances[at].frozen, self.instances[at].turned) = (None, now);
        if !self.instances[at].is_running() {
            return;
        }
        if !self.instances[at].has_session() {
            if now >= self.instances[at].connect_at {
                if let Err(failure) = self.connect(at) {
                    self.fail(at, &failure);
                }
                self.instances[at].take_effects();
            }
            return;
        }
        if let Err(failure) = self.loop_once(at) {
            self.fail(at, &failure);
        }
        self.instances[at].take_effects();
    }

    pub(super) fn fail(&mut self, at: usize, failure: &SessionFailure) {
        let now = self.now;
        self.session_ends(at);
        let instance = &mut self.instances[at];
        instance.links.clear();
        if let Some(engine) = &mut instance.engine {
            instance.connect_at = now + engine.fail(failure, now);
        }
        if instance.stopping {
            instance.end();
        }
    }

    /// Opens the connections and finds the cursor, at once, but not always.
    fn connect(&mut self, at: usize) -> Result<(), SessionFailure> {
        self.instances[at].connects += 1;
        self.checks.sessions += 1;
        let session = self.checks.sessions;
        self.instances[at].session = session;
        self.session_begins(at);
        for server in 0..self.servers.len() {
            if self.is_stalled(server) {
                let error = || Error::Timeout(Duration::from_secs(2), "connecting");
                return Err(if server == 0 {
                    SessionFailure::source(error())
                } else {
                    SessionFailure::destination(error())
                });
            }
        }
        let now = self.now;
        let mut out = Vec::new();
        let Some(engine) = &self.instances[at].engine else { return Ok(()) };
        engine.ask_cursor(&mut out);
        let mut reader = Reader::new(Limits::default());
        feed(&mut reader, &out);
        let command = arguments(&reader.next_value().unwrap().unwrap());
        let reply = match self.error_for(0, &command) {
            Some(error) => Value::Error(error.into_bytes()),
            None => match self.carry_out(0, &command, session) {
                CallResult::Reply(reply) => reply,
                CallResult::Waits(_) => unreachable!("it asks for the cursor"),
            },
        };
        if self.loses_an_answer() {
            return Err(SessionFailure::source(Error::Closed));
        }
        let two = self.servers.len() == 2;
        let lost = two && self.loses_an_answer();
        let instance = &mut self.instances[at];
        let Some(engine) = &mut instance.engine else { return Ok(()) };
        engine.on_cursor(&reply)?;
        out.clear();
        if engine.ask_stream(&mut out) {
            let answer = match self.servers[0].model.xinfo() {
                Value::Error(text) => Err(Error::reply(&text)),
                reply => Ok(reply),
            };
            engine.on_stream(answer, now)?;
        }
        if lost {
            return Err(SessionFailure::destination(Error::Closed));
        }
        let hash = |letter: u8| [letter; 40];
        let hashes =
            Hashes { publish: hash(PUBLISH), release: hash(RELEASE), state: hash(STATE), lease: hash(LEASE) };
        engine.begin(&hashes, None, false, now);
        instance.links = HALVES[..if two { 3 } else { 2 }].iter().map(|_| ServerLink::new()).collect();
        instance.ticked = now;
        Ok(())
    }

    /// One round of the session's loop.
    fn loop_once(&mut self, at: usize) -> Result<(), SessionFailure> {
        self.hand_out(at);
        if self.freezes(at) {
            return Ok(());
        }
        let (now, clock) = (self.now, self.clock_ms(0));
        let lease = &self.servers[0].model.lease;
        let instance = &mut self.instances[at];
        let held = |(holder, until): (&String, &String)| {
            *holder != instance.me && until.parse::<u64>().unwrap() > clock && !self.checks.forgets
        };
        let held_by_another = lease.get("holder").zip(lease.get("until")).is_some_and(held);
        let Some(engine) = &mut instance.engine else { return Ok(()) };
        let until = engine.sends_until();
        for (half, link) in HALVES.into_iter().zip(&mut instance.links) {
            if link.out.is_empty() {
                continue;
            }
            if half == Half::Other && until.is_some_and(|until| now >= until) {
                return Err(SessionFailure::LeaseLapsed);
            }
            let publishes = |out: &[u8]| out.windows(9).any(|part| part == b"PUBLISH\r\n");
            assert!(
                half != Half::Other || !held_by_another || !publishes(&link.out),
                "it sends, and another holds the lease"
            );
            // A socket takes as many bytes as it has room for.
            let count =
                if self.rng.u8(..8) == 0 { self.rng.usize(..=link.out.len()) } else { link.out.len() };
            link.wire.extend(link.out.drain(..count));
        }
        self.serve(at);
        let instance = &mut self.instances[at];
        let Some(engine) = &mut instance.engine else { return Ok(()) };
        for (half, link) in HALVES.into_iter().zip(&mut instance.links) {
            let most = if self.rng.u8(..4) == 0 { self.rng.usize(..3) } else { usize::MAX };
            for _ in 0..most.min(link.back.len()) {
                let Some(value) = link.back.pop_front() else { break };
                let event = match half {
                    Half::Reader => {
                        let mut frame = Vec::new();
                        resp::reply(&value, &mut frame);
                        engine.on(Event::Read(&frame), now)?;
                        continue;
                    }
                    Half::Writer => Event::Script(value),
                    Half::Other => Event::Answer(value),
                };
                engine.on(event, now)?;
            }
        }
        if now >= instance.ticked + TICK {
            instance.ticked = now;
            engine.on(Event::Tick, now)?;
        }
        if engine.advance(now)? == Next::Stopped {
            instance.end();
            return Ok(());
        }
        self.hand_out(at);
        Ok(())
    }

    fn hand_out(&mut self, at: usize) {
        let instance = &mut self.instances[at];
        let Some(engine) = &mut instance.engine else { return };
        for (half, link) in HALVES.into_iter().zip(&mut instance.links) {
            if let Some(out) = engine.outgoing(half) {
                link.out.append(out);
            }
        }
    }

    /// The servers read the received commands of an instance, and answer.
    fn serve(&mut self, at: usize) {
        let session = self.instances[at].session;
        for half in 0..self.instances[at].links.len() {
            let server = if half == 2 { 1 } else { 0 };
            if self.is_stalled(server) {
                continue;
            }
            let link = &mut self.instances[at].links[half];
            let wire = std::mem::take(&mut link.wire);
            feed(&mut link.inbox, &wire);
            self.carry_out_all(at, half, server, session);
        }
    }

    fn carry_out_all(&mut self, at: usize, half: usize, server: usize, session: Sender) {
        loop {
            let now = self.now;
            let link = &mut self.instances[at].links[half];
            if let Some((waits, until)) = link.waits {
                let found = self.servers[server].model.xread(waits.after, waits.count);
                match found {
                    Some(found) => link.back.push_back(found),
                    None if now >= until => link.back.push_back(Value::Null),
                    None => return,
                }
                link.waits = None;
            }
            let Some(value) = link.inbox.next_value().unwrap() else { return };
            let command = arguments(&value);
            if let Some(error) = self.error_for(server, &command) {
                // Messages behind a refused one are published before it, and once more.
                self.session_ends(at);
                self.instances[at].links[half].back.push_back(Value::Error(error.into_bytes()));
                continue;
            }
            let done = self.carry_out(server, &command, session);
            let link = &mut self.instances[at].links[half];
            match done {
                CallResult::Reply(reply) => link.back.push_back(reply),
                CallResult::Waits(waits) => {
                    link.waits = Some((waits, now + Duration::from_millis(waits.millis)));
                }
            }
        }
    }

    /// A session's connections end: the servers still receive a part of the bytes under way.
    pub(super) fn cut(&mut self, at: usize) {
        let session = self.instances[at].session;
        for half in 0..self.instances[at].links.len() {
            let server = if half == 2 { 1 } else { 0 };
            let link = &mut self.instances[at].links[half];
            let mut wire = std::mem::take(&mut link.wire);
            wire.truncate(self.rng.usize(..=wire.len()));
            link.waits = None;
            feed(&mut link.inbox, &wire);
            if !self.is_stalled(server) {
                self.carry_out_all(at, half, server, session);
            }
        }
    }

    /// One connection breaks; the engine is informed.
    pub(super) fn break_link(&mut self, at: usize) {
        if !self.instances[at].has_session() {
            return;
        }
        self.session_ends(at);
        self.cut(at);
        let half = HALVES[self.rng.usize(..self.instances[at].links.len())];
        let Some(engine) = &mut self.instances[at].engine else { return };
        let failure = engine.on_broken(half, Error::Closed);
        self.fail(at, &failure);
        self.instances[at].take_effects();
    }

    /// Told to stop, in order.
    pub(super) fn stop(&mut self, at: usize, drain: Duration) {
        let now = self.now;
        let instance = &mut self.instances[at];
        if !instance.has_session() {
            return instance.end();
        }
        instance.stopping = true;
        let Some(engine) = &mut instance.engine else { return };
        let stopped = engine.on(Event::Stop(now + drain), now).and_then(|()| engine.advance(now));
        match stopped {
            Ok(Next::Continue) => {}
            Ok(Next::Stopped) => instance.end(),
            Err(failure) => self.fail(at, &failure),
        }
    }
}

/// A command's words.
pub(super) fn arguments(value: &Value) -> Vec<Vec<u8>> {
    value.elements().unwrap().iter().map(|one| one.bytes().unwrap().to_vec()).collect()
}
