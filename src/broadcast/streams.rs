//! A broadcast from every stream that matches a pattern.
//!
//! Problem: a program makes one stream for each of its queues or tenants, and their names are not known when the
//! configuration is written. Each is to be broadcast like one named stream.
//!
//! Operation: a finder searches for matching streams again and again. Each stream gets a [`BroadcastRoute`] of its own,
//! on connections of its own, with a cursor `P R:cursor:STREAM` (and a lease across two servers). So each keeps the
//! promises of a single stream, and a blocked or busy stream delays no other: the server and the runtime serve
//! connections in turn. `max_streams` bounds memory and connections.
//!
//! ```text
//! finder ──streams──▶ route ──starts, stops──▶ one BroadcastRoute for each stream
//!                       ▲                              │ its own status
//!                       └──────── the sum ◀────────────┘
//! ```
//!
//! The set `P R:streams` has the names. A stream that came after the first complete look is new: it is read from its
//! first entry on, whatever `start` says, since all its entries came after the route began. `found.lua` explains how
//! that is known. After a restart the set gives the names at once.
//!
//! Failure: while the finder cannot search, known streams continue. A deleted stream is forgotten with its cursor, by
//! one script that checks that it is deleted; if it begins anew later, it is new.

mod finder;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::BroadcastParts;
use super::publish::call::Tally;
use super::route::BroadcastRoute;
use crate::config::{Endpoint, Start, StreamPattern};
use crate::logs::{Limited, LogCode};
use crate::rt;
use crate::server::{
    self, BLOCKED_RETRY, Backoff, Class, Connection, Error, MasterMoves, connect_to_publish,
};
use crate::status::{
    BroadcastCounts, RouteKind, RouteState, RouteStatus, SideStatus, Slot, StreamStatus, StreamsStatus,
};
use finder::{Finder, FinderLook, FoundStream};

/// Interval of searches: a new stream's first entry waits about so long.
const LOOK: Duration = Duration::from_secs(1);
/// Interval at which the sum is shown.
const SHOW: Duration = Duration::from_millis(250);

/// A route of all streams that match.
#[derive(Debug)]
pub(super) struct StreamsRoute {
    parts: BroadcastParts,
    matching: StreamPattern,
    drain: Duration,
    members: BTreeMap<String, Member>,
    tasks: JoinSet<()>,
    /// Deleted streams whose routes have ended.
    forget: BTreeSet<String>,
    /// True if all keys were walked once.
    looked: bool,
    left_out: u64,
    past: Tally,
    /// The last known totals of streams, for those that no route has opened: it is about to, or another configuration
    /// with a higher `max_streams` read them.
    totals: BTreeMap<String, Tally>,
    /// Time of the source's last answer to the finder; milliseconds since 1970, 0 before it.
    found_unix_ms: Arc<AtomicU64>,
    /// The other server's status while there is no stream that would report it.
    idle_destination: SideStatus,
    /// Why the finder cannot search.
    trouble: Option<(Class, String)>,
    log: Limited,
    stopping: bool,
}

#[derive(Debug)]
struct Member {
    slot: Slot,
    stop: CancellationToken,
    task: Id,
}

impl StreamsRoute {
    pub(super) fn new(parts: BroadcastParts, matching: StreamPattern, drain: Duration) -> Self {
        let idle_destination = SideStatus::default();
        Self {
            parts,
            matching,
            drain,
            found_unix_ms: Arc::default(),
            idle_destination,
            members: BTreeMap::new(),
            tasks: JoinSet::new(),
            forget: BTreeSet::new(),
            looked: false,
            left_out: 0,
            past: Tally::default(),
            totals: BTreeMap::new(),
            trouble: None,
            log: Limited::new(),
            stopping: false,
        }
    }

    pub(super) async fn run(mut self, stop: &CancellationToken) {
        let BroadcastParts { source, destination, settings, .. } = &self.parts;
        let two_servers = !source.is_same_server(destination);
        let finder = Finder::new(source.clone(), &settings.name, &self.matching, two_servers);
        self.found_unix_ms = finder.answered_unix_ms();
        let other = two_servers.then(|| IdleServer { endpoint: destination.clone(), connection: None });
        let look =
            Look { finder, other, moves: MasterMoves::of(source.clone()), backoff: Backoff::default() };
        let mut looking = Box::pin(look.after(Duration::ZERO, BTreeSet::new()));
        let mut ticks = interval(SHOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            self.show();
            tokio::select! {
                () = stop.cancelled() => {}
                (mut look, outcome, answer) = &mut looking => {
                    self.on_idle_answer(answer);
                    let pause = self.on_looked(outcome, &mut look.backoff);
                    looking.set(look.after(pause, std::mem::take(&mut self.forget)));
                }
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.on_ended(ended.map_or_else(|error| error.id(), |(task, ())| task));
                }
                _ = ticks.tick() => {}
            }
        }
        drop(looking);
        self.stopping = true;
        for member in self.members.values() {
            member.stop.cancel();
        }
        // Each ends within its drain.
        while !self.tasks.is_empty() {
            self.show();
            tokio::select! {
                _ = self.tasks.join_next() => {}
                _ = ticks.tick() => {}
            }
        }
        self.show();
        self.state(RouteState::Stopped, None);
    }

    /// Takes in whether the other server answers, if no stream's route asks it.
    fn on_idle_answer(&mut self, answer: Option<Result<(), Error>>) {
        let side = &mut self.idle_destination;
        match answer {
            None => {}
            Some(Ok(())) => {
                (side.connected, side.error) = (true, None);
                side.last_answer_unix_ms = Some(rt::unix_ms());
            }
            Some(Err(error)) => (side.connected, side.error) = (false, Some(error.with_hint())),
        }
    }

    /// Starts routes of new streams and stops those of deleted ones. Returns the time until the next look.
    fn on_looked(&mut self, outcome: Result<FinderLook, Error>, backoff: &mut Backoff) -> Duration {
        let found = match outcome {
            Ok(found) => found,
            Err(error) => return self.on_trouble(&error, backoff),
        };
        backoff.reset();
        self.trouble = None;
        self.looked |= found.complete;
        (self.left_out, self.past) = (found.left_out, found.past);
        self.totals.extend(found.tallies);
        let read: BTreeSet<&String> = found.streams.iter().map(|stream| &stream.name).collect();
        // Totals of streams that are forgotten are past.
        self.totals.retain(|name, _| read.contains(name) || found.cut.contains(name));
        if found.left_out > 0
            && let Some(suppressed) =
                self.log.admit(LogCode::BroadcastStreamsLeftOut.as_str(), std::time::Instant::now())
        {
            let route = &self.parts.settings.name;
            tracing::warn!(event = LogCode::BroadcastStreamsLeftOut.as_str(), %route, suppressed, "{}", self.left_out());
        }
        for FoundStream { name, start } in &found.streams {
            if !self.members.contains_key(name) && !found.missing.contains(name) {
                self.start(name, *start);
            }
        }
        for (name, member) in &self.members {
            if found.missing.contains(name) || !read.contains(name) {
                member.stop.cancel();
            }
        }
        self.forget.extend(found.missing.into_iter().filter(|name| !self.members.contains_key(name)));
        LOOK
    }

    fn on_trouble(&mut self, error: &Error, backoff: &mut Backoff) -> Duration {
        let class = error.class();
        let reason = format!("cannot look for streams: {}", error.with_hint());
        let BroadcastParts { settings, source, outages, .. } = &self.parts;
        let (route, server) = (&settings.name, &source.name);
        let now = std::time::Instant::now();
        if class == Class::Block {
            if let Some(suppressed) = self.log.admit(LogCode::BroadcastBlocked.as_str(), now) {
                tracing::error!(
                    event = LogCode::BroadcastBlocked.as_str(), %route, %server, class = class.as_str(), suppressed,
                    "{reason}; new streams are not published until this is fixed; tidegate retries every {} s",
                    BLOCKED_RETRY.as_secs()
                );
            }
        } else if let Some(held) = self.log.admit(LogCode::BroadcastWaiting.as_str(), now)
            && let Some(others) = outages.admit(LogCode::BroadcastWaiting.as_str(), server, now)
        {
            tracing::warn!(
                event = LogCode::BroadcastWaiting.as_str(), %route, %server, class = class.as_str(),
                suppressed = held + others, "{reason}; tidegate retries, and publishes what is new then"
            );
        }
        self.trouble = Some((class, reason));
        if class == Class::Block { BLOCKED_RETRY } else { backoff.next_wait() }
    }

    fn start(&mut self, name: &str, start: Option<Start>) {
        let settings = &self.parts.settings;
        let start = start.or(settings.start);
        let BroadcastParts { source, destination, .. } = &self.parts;
        let status = RouteStatus::new(
            &settings.name,
            RouteKind::Broadcast,
            &source.name,
            &destination.name,
            rt::unix_ms(),
        );
        let slot = Slot::new(status);
        let parts = BroadcastParts {
            settings: Arc::new(settings.for_stream(name, start)),
            source: source.clone(),
            destination: destination.clone(),
            outages: self.parts.outages.clone(),
            slot: slot.clone(),
            metrics: self.parts.metrics.of_one_stream(),
            source_metrics: self.parts.source_metrics.clone(),
            destination_metrics: self.parts.destination_metrics.clone(),
        };
        let (stop, drain) = (CancellationToken::new(), self.drain);
        let stopped = stop.clone();
        let run = async move { BroadcastRoute::new(parts).run(&stopped, drain).await };
        let task = rt::spawn_in(&mut self.tasks, "broadcast of a stream", run).id();
        self.members.insert(name.to_owned(), Member { slot, stop, task });
    }

    /// The route of a stream has ended: the stream is gone, or is not read any more.
    fn on_ended(&mut self, task: Id) {
        let ended = self.members.iter().find(|(_, member)| member.task == task);
        let Some(stream) = ended.map(|(name, _)| name.clone()) else { return };
        let last = self.members.remove(&stream).map(|member| member.slot.read());
        if let Some(total) = last.as_ref().and_then(total) {
            self.totals.insert(stream.clone(), total);
        }
        let position = last.and_then(|status| status.position);
        let route = &self.parts.settings.name;
        tracing::info!(
            event = LogCode::BroadcastStreamGone.as_str(), %route, %stream, position,
            "the stream is gone or is not read any more"
        );
        self.forget.insert(stream);
    }

    fn left_out(&self) -> String {
        let StreamPattern { pattern, max_streams, .. } = &self.matching;
        format!(
            "streams that match {pattern} and are not published: about {}; max_streams is {max_streams}, and a name must \
             be UTF-8 of at most 1024 bytes",
            self.left_out
        )
    }

    /// Shows the sum of all streams.
    fn show(&self) {
        let now = rt::unix_ms();
        let members: Vec<(&String, &Slot, RouteStatus)> =
            self.members.iter().map(|(name, member)| (name, &member.slot, member.slot.read())).collect();
        let slot = &self.parts.slot;
        let slowest = members.iter().map(|(_, slot, _)| slot.progress_unix_ms()).min();
        slot.progressed(slowest.map_or(now, |slowest| slowest.min(now)));
        if (self.looked || self.trouble.is_some()) && members.iter().all(|(_, slot, _)| slot.was_tried()) {
            slot.tried();
        }
        let statuses = || members.iter().map(|(_, _, status)| status);
        let counts = || statuses().filter_map(|status| status.broadcast.as_ref());
        let rate_limited = counts().any(|counts| counts.rate_limited);
        let opened: BTreeMap<&String, Tally> =
            members.iter().filter_map(|(name, _, status)| Some((*name, total(status)?))).collect();
        let others =
            self.totals.iter().filter(|(name, _)| !opened.contains_key(name)).map(|(_, total)| total);
        let totals: Vec<&Tally> = opened.values().chain(others).chain([&self.past]).collect();
        let sum = |of: fn(&Tally) -> u64| totals.iter().map(|total| of(total)).sum::<u64>();
        let counts = BroadcastCounts {
            published: sum(|total| total.published),
            without_subscribers: sum(|total| total.unheard),
            rejected: sum(|total| total.rejected),
            filtered: sum(|total| total.filtered),
            rate_limited,
        };
        let shown = StreamsStatus {
            read: members.len() as u64,
            left_out: self.left_out,
            max_streams: u64::from(self.matching.max_streams),
            streams: members
                .iter()
                .map(|(name, _, status)| StreamStatus {
                    stream: (*name).clone(),
                    state: status.state,
                    reason: status.reason.clone(),
                    position: status.position.clone(),
                })
                .collect(),
        };
        let metrics = &self.parts.metrics;
        metrics.rate_limited.set(f64::from(u8::from(rate_limited)));
        metrics.streams.set(crate::metrics::float(shown.read));
        metrics.streams_left_out.set(crate::metrics::float(shown.left_out));
        let [source_doubt, destination_doubt] =
            [&self.parts.source, &self.parts.destination].map(|endpoint| server::doubt(endpoint));
        slot.update(|status| {
            for (side, of) in [
                (&mut status.source, source_of as SideOf),
                (&mut status.destination, destination_of as SideOf),
            ] {
                side.connected = self.looked && statuses().all(|status| of(status).connected);
                side.last_answer_unix_ms =
                    statuses().filter_map(|status| of(status).last_answer_unix_ms).max();
                side.error = statuses().find_map(|status| of(status).error.clone());
            }
            let found = Some(self.found_unix_ms.load(Ordering::Relaxed)).filter(|at| *at > 0);
            status.source.last_answer_unix_ms = status.source.last_answer_unix_ms.max(found);
            if members.is_empty() {
                let same = self.parts.source.is_same_server(&self.parts.destination);
                let known = if same { &status.source } else { &self.idle_destination };
                let server = status.destination.server.clone();
                status.destination = SideStatus { server, ..known.clone() };
            }
            status.doubt(source_doubt, destination_doubt);
            status.buffered_bytes = statuses().map(|status| status.buffered_bytes).sum();
            let progress = statuses().filter_map(|status| status.last_progress_unix_ms).max();
            status.last_progress_unix_ms = status.last_progress_unix_ms.max(progress);
            status.broadcast = Some(counts);
            status.streams = Some(shown);
        });
        let (state, reason) = self.sum_of_states(&members);
        self.state(state, reason);
    }

    /// The worst state of all streams, and why.
    fn sum_of_states(&self, members: &[(&String, &Slot, RouteStatus)]) -> (RouteState, Option<String>) {
        if self.stopping {
            return (RouteState::Stopping, None);
        }
        let severe = |state: RouteState| match state {
            RouteState::Blocked => 4,
            RouteState::Waiting => 3,
            RouteState::Connecting => 2,
            RouteState::Live => 1,
            // Another instance may publish some streams.
            _ => 0,
        };
        let trouble = self.trouble.as_ref().map(|(class, reason)| {
            let state = if *class == Class::Block { RouteState::Blocked } else { RouteState::Waiting };
            (state, Some(reason.clone()))
        });
        let worst = members.iter().max_by_key(|(_, _, status)| severe(status.state));
        let worst = worst.map(|(name, _, status)| {
            let same = members.iter().filter(|(_, _, other)| other.state == status.state).count();
            let reason = status
                .reason
                .as_ref()
                .map(|reason| format!("{same} of {} streams, such as '{name}': {reason}", members.len()));
            (status.state, reason)
        });
        let none = if self.looked { RouteState::Live } else { RouteState::Connecting };
        let (state, reason) = [worst, trouble]
            .into_iter()
            .flatten()
            .max_by_key(|(state, _)| severe(*state))
            .unwrap_or((none, None));
        match state {
            RouteState::Live if !self.looked => (RouteState::Connecting, None),
            RouteState::Live if self.left_out > 0 => (state, Some(self.left_out())),
            _ => (state, reason),
        }
    }

    fn state(&self, state: RouteState, reason: Option<String>) {
        self.parts.slot.set_state(state, reason, rt::unix_ms());
        self.parts.metrics.set_state(state);
    }
}

/// The totals of a stream, once its route has read them.
fn total(status: &RouteStatus) -> Option<Tally> {
    let counts = status.broadcast.as_ref().filter(|_| status.position.is_some())?;
    Some(Tally {
        published: counts.published,
        unheard: counts.without_subscribers,
        rejected: counts.rejected,
        filtered: counts.filtered,
    })
}

type SideOf = fn(&RouteStatus) -> &SideStatus;

fn source_of(status: &RouteStatus) -> &SideStatus {
    &status.source
}

fn destination_of(status: &RouteStatus) -> &SideStatus {
    &status.destination
}

/// Looks for streams again and again; another master ends the wait before the next look.
#[derive(Debug)]
struct Look {
    finder: Finder,
    /// The channels' server, if it is another one.
    other: Option<IdleServer>,
    moves: MasterMoves,
    backoff: Backoff,
}

impl Look {
    /// Searches after a pause, and asks the other server if there is no stream.
    async fn after(
        mut self,
        pause: Duration,
        forget: BTreeSet<String>,
    ) -> (Self, Result<FinderLook, Error>, Option<Result<(), Error>>) {
        self.moves.wait(pause, &mut self.backoff).await;
        let (finder, outcome) = self.finder.look(forget).await;
        let idle = outcome.as_ref().is_ok_and(|found| found.streams.is_empty());
        let answer = match &mut self.other {
            Some(other) if idle => Some(other.ask(finder.role()).await),
            Some(other) => {
                other.connection = None;
                None
            }
            None => None,
        };
        (Self { finder, ..self }, outcome, answer)
    }
}

/// The channels' server while there is no stream: it is asked whether it answers, so that readiness knows.
#[derive(Debug)]
struct IdleServer {
    endpoint: Arc<Endpoint>,
    connection: Option<Connection>,
}

impl IdleServer {
    async fn ask(&mut self, role: &str) -> Result<(), Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect_to_publish(&self.endpoint, role).await?,
        };
        connection.ask(self.endpoint.response_timeout, "asking whether it answers", &[b"PING"]).await?;
        self.connection = Some(connection);
        Ok(())
    }
}
