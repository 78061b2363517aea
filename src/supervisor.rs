//! Starts, replaces and ends the routes of a configuration.
//!
//! ```text
//! start    every capture and broadcast, each with a place on the board
//! reload   a new configuration beside the old one, route by route:
//!            the same            not touched
//!            gone                stores what is in hand, ends
//!            new                 started
//!            changed capture     the new one opens its window, then the old one ends (make-before-break)
//!            changed broadcast   the old one ends, the new one goes on at the cursor
//! drain    everything stops reading, stores what is in hand, ends within the deadline
//! ```
//!
//! A capture whose *source server* changed is another stream of events: there is nothing to align, so
//! the old route ends before the new one begins, and the stretch between is recorded as a gap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broadcast;
use crate::capture::{self, Handover, Pulse, Share};
use crate::config::{Broadcast, Capture, Config, Endpoint};
use crate::metrics::Metrics;
use crate::rt;
use crate::spool::{self, StateDirectory};
use crate::status::{Board, Kind, RouteStatus};

/// Of a capture's share, a part is for what stands beside the ring: read buffers, batches that are
/// being sent, the runtime. Measured, not computed, that is below a quarter.
const RING_PERCENT: u64 = 75;

/// The routes of a daemon.
#[derive(Debug)]
pub struct Supervisor {
    config: Arc<Config>,
    instance: u64,
    /// Where captures may write; `None` where there is no place.
    place: Option<StateDirectory>,
    /// What each capture may hold in memory.
    share: Share,
    board: Board,
    metrics: Metrics,
    pulses: BTreeMap<String, (Arc<Endpoint>, Pulse)>,
    captures: BTreeMap<String, RunningCapture>,
    broadcasts: BTreeMap<String, RunningBroadcast>,
    /// Captures that a reload took away or replaced, until they have ended.
    ending: Vec<RunningCapture>,
}

#[derive(Debug)]
struct RunningCapture {
    capture: Arc<Capture>,
    source: Arc<Endpoint>,
    destination: Arc<Endpoint>,
    stop: CancellationToken,
    /// What the route that replaces this one says to it.
    successor: Handover,
    /// The route that this one replaces.
    predecessor: Option<(Handover, Box<RunningCapture>)>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct RunningBroadcast {
    broadcast: Arc<Broadcast>,
    source: Arc<Endpoint>,
    destination: Arc<Endpoint>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Starts every route of a configuration.
    #[must_use]
    pub fn start(
        config: Config,
        instance: u64,
        place: Option<StateDirectory>,
        board: Board,
        metrics: Metrics,
    ) -> Self {
        let mut supervisor = Self {
            config: Arc::new(config),
            instance,
            place,
            share: Share::default(),
            board,
            metrics,
            pulses: BTreeMap::new(),
            captures: BTreeMap::new(),
            broadcasts: BTreeMap::new(),
            ending: Vec::new(),
        };
        let config = supervisor.config.clone();
        supervisor.divide_memory();
        for capture in config.capture.values() {
            supervisor.start_capture(capture.clone(), None);
        }
        for broadcast in config.broadcast.values() {
            supervisor.start_broadcast(broadcast.clone());
        }
        supervisor
    }

    /// Goes over to another configuration; routes that stay the same are not touched. Returns when
    /// every new route is started, not when it is live. Not cancel safe.
    pub async fn reload(&mut self, config: Config) {
        let config = Arc::new(config);
        let old = std::mem::replace(&mut self.config, config.clone());
        self.ending.retain(|running| !running.is_finished());
        self.divide_memory();

        for name in old.broadcast.keys() {
            let same = self.broadcasts.get(name).is_some_and(|running| running.is(&config));
            if !same && let Some(running) = self.broadcasts.remove(name) {
                running.stop.cancel();
                // It ends in time, and the new one must not meet it at the cursor.
                let _ = running.task.await;
            }
        }
        let names: Vec<String> = self.captures.keys().cloned().collect();
        for name in names {
            if self.captures.get(&name).is_some_and(|running| running.is(&config)) {
                continue;
            }
            let Some(running) = self.captures.remove(&name) else { continue };
            match config.capture.get(&name) {
                Some(capture) => self.replace_capture(running, capture, &config).await,
                None => {
                    running.stop_all();
                    self.board.remove(&name);
                    self.ending.push(running);
                }
            }
        }
        for capture in config.capture.values() {
            if !self.captures.contains_key(&capture.name) {
                self.start_capture(capture.clone(), None);
            }
        }
        for name in old.broadcast.keys().filter(|name| !config.broadcast.contains_key(*name)) {
            if !config.capture.contains_key(name) {
                self.board.remove(name);
            }
        }
        for broadcast in config.broadcast.values() {
            if !self.broadcasts.contains_key(&broadcast.name) {
                self.start_broadcast(broadcast.clone());
            }
        }
        self.pulses.retain(|name, _| config.redis.contains_key(name));
    }

    /// Tells every route to end, and waits until all have: at most the shutdown timeout and the moment
    /// that ending takes. Cancel safe in effect: what is dropped is a gap at the next start.
    pub async fn drain(mut self) {
        let captures: Vec<_> = self.captures.into_values().chain(std::mem::take(&mut self.ending)).collect();
        for running in &captures {
            running.stop_all();
        }
        for running in self.broadcasts.values() {
            running.stop.cancel();
        }
        let limit = self.config.daemon.shutdown_timeout + Duration::from_secs(1);
        let tasks = captures
            .into_iter()
            .flat_map(RunningCapture::tasks)
            .chain(self.broadcasts.into_values().map(|running| running.task));
        let all = futures_util::future::join_all(tasks);
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::error!(event = "drain_overrun", "routes did not end within {limit:?} and are cut off");
        }
    }

    /// Puts a changed capture in the place of the one that runs.
    async fn replace_capture(
        &mut self,
        mut running: RunningCapture,
        capture: &Arc<Capture>,
        config: &Config,
    ) {
        if let Some((word, before)) = running.predecessor.take() {
            if word.is_open() {
                // It has taken over, or is about to: it is a predecessor like any other.
                self.ending.push(*before);
            } else {
                // It never came to listen: the one before it still does, and is the predecessor.
                running.task.abort();
                let _ = running.task.await;
                if word.is_open() {
                    // Between the look and the abort it did open; what it read meanwhile is lost with it.
                    self.ending.push(*before);
                    return self.start_capture(capture.clone(), None);
                }
                word.withdraw();
                running = *before;
            }
        }
        let source = config.redis.get(&capture.source);
        let same_source = source.is_some_and(|source| {
            source.is_same_server(&running.source) && source.key_prefix == running.source.key_prefix
        });
        if same_source {
            self.start_capture(capture.clone(), Some(running));
        } else {
            running.stop.cancel();
            let _ = running.task.await;
            self.start_capture(capture.clone(), None);
        }
    }

    fn start_capture(&mut self, capture: Arc<Capture>, before: Option<RunningCapture>) {
        let (Some(source), Some(destination)) =
            (self.endpoint(&capture.source), self.endpoint(&capture.destination))
        else {
            return;
        };
        let stop = CancellationToken::new();
        let successor = Handover::default();
        let status =
            RouteStatus::new(&capture.name, Kind::Capture, &source.name, &destination.name, rt::unix_ms());
        let predecessor = before.as_ref().map(|before| {
            let same_state = before.destination.is_same_server(&destination)
                && before.destination.database == destination.database
                && before.destination.key_prefix == destination.key_prefix;
            if !same_state {
                before.successor.writes_elsewhere();
            }
            (before.successor.clone(), same_state)
        });
        // One that writes elsewhere keeps its spool until what is in it is stored.
        let spool = if predecessor.as_ref().is_some_and(|(_, same_state)| !same_state) {
            None
        } else {
            self.spool_place(&capture.name)
        };
        let route = capture::Route::new(capture::Parts {
            pulse: self.pulse(&source),
            metrics: self.metrics.capture(&capture.name),
            source_metrics: self.metrics.endpoint(&source.name),
            destination_metrics: self.metrics.endpoint(&destination.name),
            slot: self.board.place(status),
            share: self.share.clone(),
            spool,
            instance: format!("{:016x}", self.instance),
            force_after: self.config.daemon.force_after,
            stop: stop.clone(),
            drain_deadline: self.config.daemon.shutdown_timeout,
            predecessor: predecessor.clone(),
            successor: successor.clone(),
            capture: capture.clone(),
            source: source.clone(),
            destination: destination.clone(),
        });
        let task = rt::spawn("capture", async move {
            route.run().await;
        });
        let predecessor = predecessor.zip(before).map(|((word, _), before)| (word, Box::new(before)));
        let name = capture.name.clone();
        let running = RunningCapture { capture, source, destination, stop, successor, predecessor, task };
        self.captures.insert(name, running);
    }

    fn start_broadcast(&mut self, broadcast: Arc<Broadcast>) {
        let (Some(source), Some(destination)) =
            (self.endpoint(&broadcast.source), self.endpoint(&broadcast.destination))
        else {
            return;
        };
        let stop = CancellationToken::new();
        let status = RouteStatus::new(
            &broadcast.name,
            Kind::Broadcast,
            &source.name,
            &destination.name,
            rt::unix_ms(),
        );
        let parts = broadcast::Parts {
            settings: broadcast.clone(),
            source: source.clone(),
            destination: destination.clone(),
            slot: self.board.place(status),
            metrics: self.metrics.broadcast(&broadcast.name),
            source_metrics: self.metrics.endpoint(&source.name),
            destination_metrics: self.metrics.endpoint(&destination.name),
        };
        let task =
            rt::spawn("broadcast", broadcast::run(parts, stop.clone(), self.config.daemon.shutdown_timeout));
        let name = broadcast.name.clone();
        self.broadcasts.insert(name, RunningBroadcast { broadcast, source, destination, stop, task });
    }

    /// The checked configuration names only endpoints that it has.
    fn endpoint(&self, name: &str) -> Option<Arc<Endpoint>> {
        self.config.redis.get(name).cloned()
    }

    /// Gives each capture the same share of memory.
    fn divide_memory(&self) {
        let shares = self.config.capture.len().max(1) as u64;
        self.share.set(self.config.daemon.memory_limit / 100 * RING_PERCENT / shares);
    }

    /// A capture's share of the disk.
    fn spool_place(&self, route: &str) -> Option<capture::SpoolPlace> {
        let spool = &self.config.daemon.spool;
        let limit_bytes = spool.limit / (self.config.capture.len().max(1) as u64);
        let place = self.place.as_ref().filter(|_| limit_bytes > 0)?;
        // A segment is what is deleted at once, so a small limit needs small ones.
        let segment_bytes = (limit_bytes / 8).clamp(64 << 10, 64 << 20);
        Some(capture::SpoolPlace {
            directory: place.spool(route),
            options: spool::Options { limit_bytes, segment_bytes, fsync: spool.fsync },
        })
    }

    /// The heartbeat of a source, shared by its routes.
    fn pulse(&mut self, source: &Arc<Endpoint>) -> Pulse {
        match self.pulses.get(&source.name) {
            Some((endpoint, pulse)) if endpoint == source => pulse.clone(),
            _ => {
                let pulse = Pulse::start(source.clone(), self.instance);
                self.pulses.insert(source.name.clone(), (source.clone(), pulse.clone()));
                pulse
            }
        }
    }
}

impl RunningCapture {
    /// Whether a configuration has this very route.
    fn is(&self, config: &Config) -> bool {
        config.capture.get(&self.capture.name) == Some(&self.capture)
            && config.redis.get(&self.capture.source) == Some(&self.source)
            && config.redis.get(&self.capture.destination) == Some(&self.destination)
    }

    /// Its task, and those of what it replaces.
    fn tasks(self) -> Vec<JoinHandle<()>> {
        let mut tasks = self.predecessor.map_or_else(Vec::new, |(_, before)| before.tasks());
        tasks.push(self.task);
        tasks
    }

    fn is_finished(&self) -> bool {
        self.task.is_finished() && self.predecessor.as_ref().is_none_or(|(_, before)| before.is_finished())
    }

    /// Tells it and what it replaces to end.
    fn stop_all(&self) {
        self.stop.cancel();
        if let Some((_, before)) = &self.predecessor {
            before.stop_all();
        }
    }
}

impl RunningBroadcast {
    /// Whether a configuration has this very route.
    fn is(&self, config: &Config) -> bool {
        config.broadcast.get(&self.broadcast.name) == Some(&self.broadcast)
            && config.redis.get(&self.broadcast.source) == Some(&self.source)
            && config.redis.get(&self.broadcast.destination) == Some(&self.destination)
    }
}
