//! One session's sockets and timers: two connections, until one of them fails or the route is stopped.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::InvalidateRoute;
use crate::invalidate::cursor::{ADOPT, CLEAR};
use crate::invalidate::engine::{Hashes, Next};
use crate::invalidate::failure::SessionFailure;
use crate::server::{Connection, Error, connect, load_script};
use crate::status::RouteEndpoint;

/// Interval at which the loop checks the clock when nothing else happens.
const TICK: Duration = Duration::from_millis(250);

/// The state of the loop.
#[derive(Debug)]
pub(super) struct Session<'r> {
    route: &'r mut InvalidateRoute,
    source: Connection,
    cache: Connection,
    ticks: Interval,
    /// When the stop is given up on.
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum SessionEvent {
    Came(RouteEndpoint),
    Broke(SessionFailure),
    /// Some time has passed, or the engine has something to do.
    Time,
    Stop,
}

impl<'r> Session<'r> {
    /// Connects and loads the scripts. Cancel safe: a dropped future leaves nothing behind.
    pub(super) async fn open(route: &'r mut InvalidateRoute) -> Result<Self, SessionFailure> {
        let role = format!("invalidate.{}", route.parts.settings.name);
        let at = &route.parts.destination;
        let mut cache = connect(at, &role).await.map_err(SessionFailure::cache)?;
        if cache.is_replica {
            return Err(SessionFailure::cache(Error::Reply(
                "READONLY the server is a replica; keys are removed on its master".to_owned(),
            )));
        }
        let deadline = at.response_timeout;
        let clear = load_script(&mut cache, CLEAR, deadline).await.map_err(SessionFailure::cache)?;
        let adopt = load_script(&mut cache, ADOPT, deadline).await.map_err(SessionFailure::cache)?;
        let source = connect(&route.parts.source, &role).await.map_err(SessionFailure::source)?;
        route.engine.begin(Hashes { clear, adopt }, Instant::now());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { route, source, cache, ticks, deadline: None })
    }

    /// Clears keys until it is stopped, and waits up to `drain` longer for the call under way.
    pub(super) async fn run(
        mut self,
        stop: &CancellationToken,
        drain: Duration,
    ) -> Result<(), SessionFailure> {
        loop {
            let next = self.advance(Instant::now())?;
            self.route.tell();
            if next == Next::Stopped || self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(());
            }
            let event = self.select(stop).await;
            let now = Instant::now();
            match event {
                SessionEvent::Came(RouteEndpoint::Source) => {
                    while let Some(frame) = self.source.reader.next_frame().map_err(SessionFailure::source)? {
                        self.route.engine.on_source(frame, now)?;
                    }
                }
                SessionEvent::Came(RouteEndpoint::Destination) => {
                    while let Some(value) = self.cache.reader.next_value().map_err(SessionFailure::cache)? {
                        self.route.engine.on_cache(&value, now)?;
                    }
                }
                SessionEvent::Broke(failure) => return Err(failure),
                SessionEvent::Time => self.route.on_time(),
                SessionEvent::Stop => {
                    self.deadline = Some(now + drain);
                    self.route.engine.stop();
                }
            }
        }
    }

    fn advance(&mut self, now: Instant) -> Result<Next, SessionFailure> {
        let (mut source, mut cache) = (Vec::new(), Vec::new());
        let next = self.route.engine.advance(&mut source, &mut cache, now)?;
        self.source.send(&mut source);
        self.cache.send(&mut cache);
        Ok(next)
    }

    /// Waits for the next thing to happen. Cancel safe.
    async fn select(&mut self, stop: &CancellationToken) -> SessionEvent {
        let due = self.route.engine.due();
        let (source, cache) = (&mut self.source, &mut self.cache);
        let connections = poll_fn(|cx| {
            if let Poll::Ready(result) = cache.poll_turn(cx) {
                return Poll::Ready(match result {
                    Ok(()) => SessionEvent::Came(RouteEndpoint::Destination),
                    Err(error) => SessionEvent::Broke(SessionFailure::cache(error)),
                });
            }
            source.poll_turn(cx).map(|result| match result {
                Ok(()) => SessionEvent::Came(RouteEndpoint::Source),
                Err(error) => SessionEvent::Broke(SessionFailure::source(error)),
            })
        });
        tokio::select! {
            biased;
            () = stop.cancelled(), if self.deadline.is_none() => SessionEvent::Stop,
            _ = self.ticks.tick() => SessionEvent::Time,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => SessionEvent::Time,
            event = connections => event,
        }
    }
}
