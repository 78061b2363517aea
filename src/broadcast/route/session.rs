//! One session's sockets and timers: the connections, until one of them fails or the route is stopped.
//!
//! ```text
//! sockets ──answers──▶ engine ──commands──▶ sockets
//! timers  ──the time─▶   │
//!                        └──effects──▶ board, metrics, log
//! ```
//!
//! The engine decides what an answer means and what is asked next.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::BroadcastRoute;
use crate::broadcast::connections::PublishConnections;
use crate::broadcast::engine::leadership::LEASE;
use crate::broadcast::engine::{Engine, Event, Hashes, Next};
use crate::broadcast::failure::{Half, SessionFailure};
use crate::broadcast::group::ack_notifier::AckNotifier;
use crate::broadcast::group::ack_state::ACK_STATE;
use crate::broadcast::publish::call::{PUBLISH, RELEASE};
use crate::config::Endpoint;
use crate::server::{Connection, Error, connect, connect_to_publish, load_script};

/// Interval at which the loop checks the clock when nothing else happens.
const TICK: Duration = Duration::from_millis(250);

/// SPUBLISH came with Redis 7.0, and every Valkey has it.
const SHARDED_SINCE: u32 = 7;

/// The state of the loop.
#[derive(Debug)]
pub(crate) struct Session<'r> {
    route: &'r mut BroadcastRoute,
    reader: Connection,
    writers: PublishConnections,
    ticks: Interval,
    draining: bool,
}

#[derive(Debug)]
enum SessionEvent {
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
    /// The route was stopped.
    Stop,
}

impl<'r> Session<'r> {
    /// Connects, loads the scripts and finds the cursor. Cancel safe: a dropped future leaves at most a cursor at its
    /// right place.
    pub(crate) async fn open(route: &'r mut BroadcastRoute) -> Result<Self, SessionFailure> {
        let source = route.parts.source.clone();
        let role = format!("broadcast.{}", route.parts.settings.name);
        let deadline = source.response_timeout;
        let reader = connect(&source, &role).await.map_err(SessionFailure::source)?;
        let mut writer = connect(&source, &role).await.map_err(SessionFailure::source)?;
        let mut hashes = Hashes { publish: [0; 40], release: [0; 40], state: [0; 40], lease: [0; 40] };
        for (script, hash) in [
            (PUBLISH, &mut hashes.publish),
            (RELEASE, &mut hashes.release),
            (ACK_STATE, &mut hashes.state),
            (LEASE, &mut hashes.lease),
        ] {
            *hash = load_script(&mut writer, script, deadline).await.map_err(SessionFailure::source)?;
        }
        route.engine.ask_cursor(writer.out());
        let reply = writer.answer(deadline, "looking for the cursor").await;
        let reply = reply.map_err(|error| route.engine.no_cursor(error))?;
        route.engine.on_cursor(&reply)?;
        if route.engine.ask_stream(writer.out()) {
            let answer = writer.answer(deadline, "looking at the stream").await;
            route.engine.on_stream(answer, Instant::now())?;
        }
        let left = left_behind(&route.engine, &mut writer, &source).await?;
        let mut other = None;
        if !route.engine.one_server() {
            let destination = route.parts.destination.clone();
            let connection =
                connect_to_publish(&destination, &role).await.map_err(SessionFailure::destination)?;
            // An older server does not know the command, which would look like a refusal of the first entry.
            let sharded = route.parts.settings.sharded;
            if sharded && connection.major_version.is_some_and(|major| major < SHARDED_SINCE) {
                return Err(SessionFailure::destination(Error::Refused(
                    "sharded = true needs SPUBLISH (Redis 7.0 or newer), which this server does not know"
                        .to_owned(),
                )));
            }
            other = Some(connection);
        }
        let woken = route.notifier.as_ref().is_some_and(AckNotifier::is_up);
        route.engine.begin(&hashes, left, woken, Instant::now());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { route, reader, writers: PublishConnections { writer, other }, ticks, draining: false })
    }

    /// Publishes until it is stopped, and then up to `drain` longer.
    pub(crate) async fn run(
        mut self,
        stop: &CancellationToken,
        drain: Duration,
    ) -> Result<(), SessionFailure> {
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
    async fn select(&mut self, stop: &CancellationToken) -> SessionEvent {
        let draining = self.draining;
        let due = self.route.engine.due();
        let until = self.route.engine.sends_until();
        let notifier = self.route.notifier.as_ref();
        let (reader, writers) = (&mut self.reader, &mut self.writers);
        let connections = poll_fn(|cx| {
            if let Poll::Ready(result) = reader.poll_turn(cx) {
                return Poll::Ready(came(Half::Reader, result));
            }
            // The clock is read anew: this process may have been stopped since the engine looked at it.
            if writers.other.as_ref().is_some_and(|other| other.unsent_bytes() > 0)
                && until.is_some_and(|until| Instant::now() >= until)
            {
                return Poll::Ready(SessionEvent::Lapsed);
            }
            writers.poll(cx).map(|(half, result)| came(half, result))
        });
        tokio::select! {
            biased;
            () = stop.cancelled(), if !draining => SessionEvent::Stop,
            _ = self.ticks.tick() => SessionEvent::Tick,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => SessionEvent::Due,
            () = notified(notifier), if notifier.is_some() && !draining => SessionEvent::Woken,
            action = connections => action,
        }
    }

    /// Hands over what happened.
    fn apply(&mut self, action: SessionEvent, now: Instant, drain: Duration) -> Result<(), SessionFailure> {
        let engine = &mut self.route.engine;
        match action {
            SessionEvent::Came(Half::Reader) => {
                while let Some(frame) = self.reader.reader.next_frame().map_err(SessionFailure::source)? {
                    engine.on(Event::Read(frame), now)?;
                }
                Ok(())
            }
            SessionEvent::Came(Half::Writer) => {
                while let Some(value) =
                    self.writers.writer.reader.next_value().map_err(SessionFailure::source)?
                {
                    engine.on(Event::Script(value), now)?;
                }
                Ok(())
            }
            SessionEvent::Came(Half::Other) => {
                let Some(other) = &mut self.writers.other else { return Ok(()) };
                while let Some(value) = other.reader.next_value().map_err(SessionFailure::destination)? {
                    engine.on(Event::Answer(value), now)?;
                }
                Ok(())
            }
            SessionEvent::Broke(half, error) => Err(engine.on_broken(half, error)),
            SessionEvent::Lapsed => Err(SessionFailure::LeaseLapsed),
            SessionEvent::Tick => {
                engine.on(Event::Tick, now)?;
                self.route.show_doubt();
                Ok(())
            }
            SessionEvent::Due => Ok(()),
            SessionEvent::Woken => {
                let up = self.route.notifier.as_ref().is_some_and(AckNotifier::is_up);
                engine.on(Event::Woken(up), now)
            }
            SessionEvent::Stop => {
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

fn came(half: Half, result: Result<(), Error>) -> SessionEvent {
    match result {
        Ok(()) => SessionEvent::Came(half),
        Err(error) => SessionEvent::Broke(half, error),
    }
}

/// Number of holes that a route left when it had the order of acknowledgements; `None` without the right to look.
async fn left_behind(
    engine: &Engine,
    writer: &mut Connection,
    source: &Endpoint,
) -> Result<Option<u64>, SessionFailure> {
    let Some(holes) = engine.holes_left_key(&source.key_prefix) else { return Ok(None) };
    let arguments = [b"ZCARD".as_slice(), holes.as_bytes()];
    match writer.ask(source.response_timeout, "counting entries left behind", &arguments).await {
        Ok(reply) => Ok(reply.count()),
        Err(Error::Reply(_)) => Ok(None),
        Err(error) => Err(SessionFailure::source(error)),
    }
}

async fn notified(notifier: Option<&AckNotifier>) {
    if let Some(notifier) = notifier {
        notifier.notified().await;
    }
}
