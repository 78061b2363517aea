//! One session's sockets and timers: connections that hold, until one of them fails or the route is told to stop.
//!
//! ```text
//! sockets ──answers──▶ engine ──commands──▶ sockets
//! timers  ──the time─▶   │
//!                        └──effects──▶ board, metrics, log
//! ```
//!
//! What an answer means and what is asked next, the engine decides.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::call::{PUBLISH, RELEASE};
use super::engine::{Engine, Event, Half, Hashes, Next};
use super::failure::Failure;
use super::leadership::LEASE;
use super::look::LOOK;
use super::route::Route;
use super::wake::Wake;
use crate::config::Endpoint;
use crate::server::{Connection, Error, connect, connect_to_publish, load_script};

/// How often the loop looks at the clock when nothing else happens.
const TICK: Duration = Duration::from_millis(250);

/// SPUBLISH came with Redis 7.0, and every Valkey has it.
const SHARDED_SINCE: u32 = 7;

/// The connections that publish, as a replay has them too.
#[derive(Debug)]
pub(super) struct Writers {
    pub(super) writer: Connection,
    pub(super) other: Option<Connection>,
}

/// The state of the loop.
#[derive(Debug)]
pub(super) struct Session<'r> {
    route: &'r mut Route,
    reader: Connection,
    writers: Writers,
    ticks: Interval,
    draining: bool,
}

/// What woke the loop.
#[derive(Debug)]
enum Action {
    /// Bytes came.
    Came(Half),
    /// A connection ended.
    Broke(Half, Error),
    /// The lease ran out before what waits was sent.
    Lapsed,
    /// Some time has passed.
    Tick,
    /// The engine has something to do.
    Due,
    /// Something has happened to the group.
    Woken,
    /// It was told to stop.
    Stop,
}

impl<'r> Session<'r> {
    /// Connects, loads the scripts and finds the cursor. Cancel safe: a dropped future leaves at most a
    /// cursor that was made where it belongs.
    pub(super) async fn open(route: &'r mut Route) -> Result<Self, Failure> {
        let source = route.parts.source.clone();
        let role = format!("broadcast.{}", route.parts.settings.name);
        let deadline = source.response_timeout;
        let reader = connect(&source, &role).await.map_err(Failure::source)?;
        let mut writer = connect(&source, &role).await.map_err(Failure::source)?;
        let mut hashes = Hashes { publish: [0; 40], release: [0; 40], look: [0; 40], lease: [0; 40] };
        for (script, hash) in [
            (PUBLISH, &mut hashes.publish),
            (RELEASE, &mut hashes.release),
            (LOOK, &mut hashes.look),
            (LEASE, &mut hashes.lease),
        ] {
            *hash = load_script(&mut writer, script, deadline).await.map_err(Failure::source)?;
        }
        route.engine.ask_cursor(writer.out());
        let reply = writer.answer(deadline, "looking for the cursor").await.map_err(Failure::source)?;
        route.engine.on_cursor(&reply)?;
        let left = left_behind(&route.engine, &mut writer, &source).await?;
        let mut other = None;
        if !route.engine.one_server() {
            let destination = route.parts.destination.clone();
            let connection = connect_to_publish(&destination, &role).await.map_err(Failure::destination)?;
            // An older server knows no such command, which would look like a refusal of the first entry.
            let sharded = route.parts.settings.sharded;
            if sharded && connection.major_version.is_some_and(|major| major < SHARDED_SINCE) {
                return Err(Failure::destination(Error::Refused(
                    "sharded = true needs SPUBLISH (Redis 7.0 or newer), which this server does not know"
                        .to_owned(),
                )));
            }
            other = Some(connection);
        }
        let woken = route.wake.as_ref().is_some_and(Wake::is_up);
        route.engine.begin(&hashes, left, woken, Instant::now());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { route, reader, writers: Writers { writer, other }, ticks, draining: false })
    }

    /// Publishes until it is told to stop, and then up to `drain` longer.
    pub(super) async fn run(mut self, stop: &CancellationToken, drain: Duration) -> Result<(), Failure> {
        loop {
            self.hand_out();
            self.route.tell(self.writers.unsent_bytes());
            let action = self.select(stop).await;
            let now = Instant::now();
            self.apply(action, now, drain)?;
            if self.route.engine.advance(now)? == Next::Stopped {
                self.route.tell(0);
                return Ok(());
            }
        }
    }

    /// Waits for the next thing to happen. Cancel safe.
    async fn select(&mut self, stop: &CancellationToken) -> Action {
        let draining = self.draining;
        let due = self.route.engine.due();
        let until = self.route.engine.sends_until();
        let wake = self.route.wake.as_ref();
        let (reader, writers) = (&mut self.reader, &mut self.writers);
        let connections = poll_fn(|cx| {
            if let Poll::Ready(result) = turn(reader, cx) {
                return Poll::Ready(came(Half::Reader, result));
            }
            // The clock is read anew: this process may have been stopped since the engine looked at it.
            if writers.other.as_ref().is_some_and(|other| other.unsent_bytes() > 0)
                && until.is_some_and(|until| Instant::now() >= until)
            {
                return Poll::Ready(Action::Lapsed);
            }
            writers.poll(cx).map(|(half, result)| came(half, result))
        });
        tokio::select! {
            biased;
            () = stop.cancelled(), if !draining => Action::Stop,
            _ = self.ticks.tick() => Action::Tick,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Action::Due,
            () = rung(wake), if wake.is_some() && !draining => Action::Woken,
            action = connections => action,
        }
    }

    /// Hands over what happened.
    fn apply(&mut self, action: Action, now: Instant, drain: Duration) -> Result<(), Failure> {
        let engine = &mut self.route.engine;
        match action {
            Action::Came(Half::Reader) => {
                while let Some(frame) = self.reader.reader.next_frame().map_err(Failure::source)? {
                    engine.on(Event::Read(frame), now)?;
                }
                Ok(())
            }
            Action::Came(Half::Writer) => {
                while let Some(value) = self.writers.writer.reader.next_value().map_err(Failure::source)? {
                    engine.on(Event::Script(value), now)?;
                }
                Ok(())
            }
            Action::Came(Half::Other) => {
                let Some(other) = &mut self.writers.other else { return Ok(()) };
                while let Some(value) = other.reader.next_value().map_err(Failure::destination)? {
                    engine.on(Event::Answer(value), now)?;
                }
                Ok(())
            }
            Action::Broke(half, error) => Err(engine.on_broken(half, error)),
            Action::Lapsed => Err(Failure::LeaseLapsed),
            Action::Tick => engine.on(Event::Tick, now),
            Action::Due => Ok(()),
            Action::Woken => {
                let up = self.route.wake.as_ref().is_some_and(Wake::is_up);
                engine.on(Event::Woken(up), now)
            }
            Action::Stop => {
                self.draining = true;
                engine.on(Event::Stop(now + drain), now)
            }
        }
    }

    /// Hands the engine's commands to the connections.
    fn hand_out(&mut self) {
        let engine = &mut self.route.engine;
        if let Some(out) = engine.outgoing(Half::Reader) {
            self.reader.send(out);
        }
        if let Some(out) = engine.outgoing(Half::Writer) {
            self.writers.writer.send(out);
        }
        if let (Some(out), Some(other)) = (engine.outgoing(Half::Other), &mut self.writers.other) {
            other.send(out);
        }
    }
}

impl Writers {
    /// Sends what waits and reads what came; ready once something came or a connection has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Half, Result<(), Error>)> {
        if let Poll::Ready(result) = turn(&mut self.writer, cx) {
            return Poll::Ready((Half::Writer, result));
        }
        match self.other.as_mut().map(|other| turn(other, cx)) {
            Some(Poll::Ready(result)) => Poll::Ready((Half::Other, result)),
            _ => Poll::Pending,
        }
    }

    fn unsent_bytes(&self) -> usize {
        self.writer.unsent_bytes() + self.other.as_ref().map_or(0, Connection::unsent_bytes)
    }
}

fn came(half: Half, result: Result<(), Error>) -> Action {
    match result {
        Ok(()) => Action::Came(half),
        Err(error) => Action::Broke(half, error),
    }
}

/// How many entries a route left behind when it had the order of acknowledgements; `None` where it may not look.
async fn left_behind(
    engine: &Engine,
    writer: &mut Connection,
    source: &Endpoint,
) -> Result<Option<u64>, Failure> {
    let Some(holes) = engine.holes_left_key(&source.key_prefix) else { return Ok(None) };
    let arguments = [b"ZCARD".as_slice(), holes.as_bytes()];
    match writer.ask(source.response_timeout, "counting entries left behind", &arguments).await {
        Ok(reply) => Ok(reply.integer().and_then(|count| u64::try_from(count).ok())),
        Err(Error::Reply(_)) => Ok(None),
        Err(error) => Err(Failure::source(error)),
    }
}

async fn rung(wake: Option<&Wake>) {
    if let Some(wake) = wake {
        wake.rung().await;
    }
}

/// Sends what waits and reads what came; ready once something came or the connection has ended.
fn turn(connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
    if connection.unsent_bytes() > 0
        && let Poll::Ready(Err(error)) = connection.poll_flush(cx)
    {
        return Poll::Ready(Err(error));
    }
    connection.poll_fill(cx).map_ok(drop)
}
