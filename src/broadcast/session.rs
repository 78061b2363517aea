//! One session: connections that hold, from the cursor on, until one of them fails or it is told to stop.
//!
//! ```text
//! stream ──XREAD BLOCK COUNT──▶ entries ──render──▶ publisher ──▶ channel, cursor
//!            only while the publisher has room
//! ```
//!
//! Nothing that a session holds outlives it: the next one reads the cursor and begins there.

mod added;
mod followed;

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use self::added::Read;
use super::Route;
use super::call::{self, Keys, OPEN, PUBLISH, RELEASE, Tally};
use super::entries::Ranges;
use super::failure::{Failure, Side};
use super::follow::{Asked, Follow};
use super::look::LOOK;
use super::metrics;
use super::missed::Watch;
use super::publisher::Publisher;
use super::rate::Pace;
use super::wake::Wake;
use crate::config::{self, Endpoint, keys};
use crate::server::{Connection, Error, connect, load_script};

/// How long XREAD waits for an entry: the answer to it is also the sign that the server is alive, so
/// one that stopped is noticed after this and the response timeout.
const BLOCK: Duration = Duration::from_secs(1);
/// How often the loop looks at the clock when nothing else happens.
const TICK: Duration = Duration::from_millis(250);

/// SPUBLISH came with Redis 7.0, and every Valkey has it.
const SHARDED_SINCE: u32 = 7;

/// The state of the loop.
#[derive(Debug)]
pub(super) struct Session<'r> {
    route: &'r mut Route,
    reader: Connection,
    publisher: Publisher,
    read: Option<Read>,
    /// Where it waits for acknowledgements: what is read, and what was asked.
    follow: Option<Follow>,
    watch: Watch,
    asked: Option<(Asked, Instant)>,
    /// How many entries the next read asks for: from 1 up, so that no reply is larger than foreseen.
    read_entries: usize,
    ranges: Ranges,
    pace: Pace,
    /// Until when nothing is read, since the rate lets nothing through.
    paced: Option<Instant>,
    ticks: Interval,
    /// Whether the stream was read and, after a refusal, an entry was published: the route is live.
    live: bool,
    /// Set once it was told to stop: until when what is under way may finish.
    drain_until: Option<Instant>,
}

/// A connection of the session.
#[derive(Debug, Clone, Copy)]
enum Half {
    Reader,
    Writer,
    Other,
}

impl Half {
    fn side(self) -> Side {
        if matches!(self, Self::Other) { Side::Destination } else { Side::Source }
    }
}

/// What happened.
#[derive(Debug)]
enum Action {
    /// Bytes came.
    Came(Half),
    /// A connection ended.
    Broke(Half, Error),
    /// Some time has passed.
    Tick,
    /// The rate lets a message through again.
    Paced,
    /// It is time to look again.
    Due,
    /// Something has happened to the group.
    Woken,
    /// It was told to stop.
    Stop,
}

/// Whether the loop goes on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    Stopped,
}

impl<'r> Session<'r> {
    /// Connects, loads the scripts and finds the cursor. Cancel safe: a dropped future leaves at most a
    /// cursor that was made where it belongs.
    pub(super) async fn open(route: &'r mut Route, careful: bool) -> Result<Self, Failure> {
        let source = route.parts.source.clone();
        let settings = route.parts.settings.clone();
        let role = format!("broadcast.{}", settings.name);
        let deadline = source.response_timeout;
        let reader = connect(&source, &role).await.map_err(Failure::source)?;
        let mut writer = connect(&source, &role).await.map_err(Failure::source)?;
        let keys = Keys::new(&source.key_prefix, &settings);
        let begin =
            route.remembered.map_or_else(|| call::start_argument(settings.start), |id| id.to_string());
        let hash = load_script(&mut writer, PUBLISH, deadline).await.map_err(Failure::source)?;
        let release = load_script(&mut writer, RELEASE, deadline).await.map_err(Failure::source)?;
        let look = load_script(&mut writer, LOOK, deadline).await.map_err(Failure::source)?;
        let (failed, error) = route.failed.clone().unwrap_or_default();
        let arguments: [&[u8]; 8] = [
            b"EVAL",
            OPEN.source.as_bytes(),
            b"2",
            keys.cursor.as_bytes(),
            keys.stream.as_bytes(),
            begin.as_bytes(),
            failed.as_bytes(),
            error.as_bytes(),
        ];
        let reply =
            writer.ask(deadline, "looking for the cursor", &arguments).await.map_err(Failure::source)?;
        let opened = call::opened(&reply).map_err(Failure::source)?;
        // It is counted now.
        route.failed = None;
        route.failing = opened.failing;
        let cursor = opened.cursor.ok_or_else(|| Failure::StartUnsaid {
            stream: settings.stream.clone(),
            route: settings.name.clone(),
        })?;
        let woken = route.wake.as_ref().is_some_and(Wake::is_up);
        let follow = settings.acknowledged().map(|what| Follow::new(what, &keys, look, cursor, woken));
        let left =
            if keys.holes.is_none() { left_behind(&mut writer, &settings, &source).await? } else { None };
        let mut publisher = Publisher::new(writer, hash, keys, (cursor, opened.counted), deadline)
            .with_release(release)
            .blaming(settings.channel.literal().is_none(), route.failing.as_ref(), settings.max_deliveries);
        if !route.one_server() {
            let destination = route.parts.destination.clone();
            let other = connect(&destination, &role).await.map_err(Failure::destination)?;
            // An older server knows no such command, which would look like a refusal of the first entry.
            if settings.sharded && other.major_version.is_some_and(|major| major < SHARDED_SINCE) {
                return Err(Failure::destination(Error::Refused(
                    "sharded = true needs SPUBLISH, which this server does not know: name a Redis 7.0 or \
                     newer, or publish without it"
                        .to_owned(),
                )));
            }
            publisher = publisher.with_other(other, destination.response_timeout);
        }
        if careful {
            publisher = publisher.careful();
        }
        route.opened(cursor, opened.tally);
        if let Some(left) = left.filter(|left| *left > 0) {
            route.left_behind(left);
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            route,
            reader,
            publisher,
            read: None,
            follow,
            watch: Watch::new(Instant::now()),
            asked: None,
            read_entries: 1,
            ranges: Vec::new(),
            pace: Pace::new(settings.rate_limit, Instant::now()),
            paced: None,
            ticks,
            live: false,
            drain_until: None,
        })
    }

    /// Publishes until it is told to stop, and then up to `drain` longer.
    pub(super) async fn run(mut self, stop: &CancellationToken, drain: Duration) -> Result<(), Failure> {
        self.read_on(Instant::now());
        loop {
            let action = self.select(stop).await;
            let now = Instant::now();
            if self.apply(action, now, drain)? == Next::Stopped {
                return Ok(());
            }
        }
    }

    /// Waits for the next thing to happen. Cancel safe.
    async fn select(&mut self, stop: &CancellationToken) -> Action {
        let draining = self.drain_until.is_some();
        let due = match &self.follow {
            Some(follow) if self.asked.is_none() && self.publisher.takes() && !draining => {
                Some(follow.due(&self.pace))
            }
            _ => None,
        };
        let wake = self.route.wake.as_ref();
        let (writer, mut other) = self.publisher.connections();
        let reader = &mut self.reader;
        let connections = poll_fn(|cx| {
            if let Poll::Ready(result) = turn(reader, cx) {
                return Poll::Ready((Half::Reader, result));
            }
            if let Poll::Ready(result) = turn(writer, cx) {
                return Poll::Ready((Half::Writer, result));
            }
            match other.as_deref_mut().map(|other| turn(other, cx)) {
                Some(Poll::Ready(result)) => Poll::Ready((Half::Other, result)),
                _ => Poll::Pending,
            }
        });
        tokio::select! {
            biased;
            () = stop.cancelled(), if !draining => Action::Stop,
            _ = self.ticks.tick() => Action::Tick,
            () = paced(self.paced) => Action::Paced,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Action::Due,
            () = rung(wake), if wake.is_some() && !draining => Action::Woken,
            (half, result) = connections => match result {
                Ok(()) => Action::Came(half),
                Err(error) => Action::Broke(half, error),
            },
        }
    }

    /// Does what follows from it.
    fn apply(&mut self, action: Action, now: Instant, drain: Duration) -> Result<Next, Failure> {
        match action {
            Action::Came(Half::Reader) if self.follow.is_some() => self.followed(now)?,
            Action::Came(Half::Reader) => self.entries(now)?,
            Action::Came(Half::Writer) => self.settled(now)?,
            Action::Came(Half::Other) => {
                self.publisher.answered(now)?;
                self.route.answered(Side::Destination);
            }
            Action::Broke(Half::Reader, error) => return Err(Failure::source(error)),
            Action::Broke(half, error) => return Err(self.publisher.broke(half.side(), error)),
            Action::Stop => {
                self.drain_until = Some(now + drain);
                self.route.draining();
            }
            Action::Tick => self.tick(now)?,
            Action::Paced => self.paced = None,
            // What is due is asked for below.
            Action::Due => {}
            Action::Woken => {
                let up = self.route.wake.as_ref().is_some_and(Wake::is_up);
                if let Some(follow) = &mut self.follow {
                    follow.wake(up, now);
                }
            }
        }
        self.publisher.come_to_terms()?;
        match self.drain_until {
            Some(_) if self.publisher.is_idle() => return Ok(Next::Stopped),
            Some(until) if now >= until => {
                tracing::warn!(
                    event = "broadcast_drain_cut_short",
                    route = %self.route.parts.settings.name,
                    position = self.publisher.cursor().map(tracing::field::display),
                    "the last batches were not answered in time; the next start finds in the cursor whether they were published"
                );
                return Ok(Next::Stopped);
            }
            Some(_) => {}
            None => self.read_on(now),
        }
        Ok(Next::GoOn)
    }

    /// Asks for more entries, where the publisher has room for them.
    fn read_on(&mut self, now: Instant) {
        if self.follow.is_some() {
            self.ask_followed(now);
        } else {
            self.read_added(now);
        }
    }

    /// Takes in what the script has answered.
    fn settled(&mut self, now: Instant) -> Result<(), Failure> {
        let mut all = Tally::default();
        while let Some(settled) = self.publisher.settled(now)? {
            all.published += settled.tally.published;
            all.unheard += settled.tally.unheard;
            all.rejected += settled.tally.rejected;
            all.filtered += settled.tally.filtered;
            metrics::settled(&self.route.parts.metrics, &settled);
        }
        if let Some(cursor) = self.publisher.cursor() {
            self.route.done(cursor, all, self.publisher.held_bytes());
        }
        let waits = self.follow.as_ref().is_some_and(|follow| follow.look().is_none());
        if !self.publisher.is_careful() && !waits {
            self.live();
        }
        Ok(())
    }

    /// Says that the route does its work, once a session.
    fn live(&mut self) {
        if !self.live && self.drain_until.is_none() {
            self.live = true;
            self.route.live(self.publisher.end());
        }
    }

    fn tick(&mut self, now: Instant) -> Result<(), Failure> {
        self.route.progressed();
        self.publisher.ping(now);
        self.publisher.check_deadlines(now)?;
        let limit = BLOCK + self.route.parts.source.response_timeout;
        let sent = self.read.map(|read| read.sent).or(self.asked.as_ref().map(|(_, sent)| *sent));
        if sent.is_some_and(|sent| now.saturating_duration_since(sent) > limit) {
            return Err(Failure::source(Error::Timeout(limit, "reading the stream")));
        }
        Ok(())
    }
}

/// How many entries a route left behind when it had the order of acknowledgements; `None` where it may not look.
async fn left_behind(
    writer: &mut Connection,
    settings: &config::Broadcast,
    source: &Endpoint,
) -> Result<Option<u64>, Failure> {
    let holes = keys::of_route(&source.key_prefix, &settings.name, keys::HOLES);
    let arguments = [b"ZCARD".as_slice(), holes.as_bytes()];
    match writer.ask(source.response_timeout, "counting what was left behind", &arguments).await {
        Ok(reply) => Ok(reply.integer().and_then(|count| u64::try_from(count).ok())),
        Err(Error::Reply(_)) => Ok(None),
        Err(error) => Err(Failure::source(error)),
    }
}

/// Until the rate lets a message through again; for ever where nothing waits for that.
async fn paced(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn rung(wake: Option<&Wake>) {
    if let Some(wake) = wake {
        wake.rung().await;
    }
}

/// Sends what waits and reads what came; ready once something came or the connection has ended.
pub(super) fn turn(connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
    if connection.unsent_bytes() > 0
        && let Poll::Ready(Err(error)) = connection.poll_flush(cx)
    {
        return Poll::Ready(Err(error));
    }
    connection.poll_fill(cx).map_ok(drop)
}
