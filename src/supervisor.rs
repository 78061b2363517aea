//! Starts, replaces and ends the routes of a configuration.
//!
//! ```text
//! start    every route, each with a place on the board
//! reload   a new configuration beside the old one, route by route:
//!            the same            not touched
//!            gone, or disabled   stores what is buffered, ends
//!            new                 started
//!            changed capture     the new one opens its window, then the old one ends (make-before-break)
//!            every other changed one    the old one ends, then the new one continues at the cursor
//! settle   a route has ended: what waited for that is started
//! drain    everything stops reading, stores what is buffered, ends within the deadline
//! ```
//!
//! Constraint: a signal is acted on at once, whatever routes still do. So a reload waits for nothing: it asks routes
//! to end, and plans the ones that must wait (`replacement`). Old routes end side by side, in the background.
//!
//! A capture whose *source server* changed is another stream of events: there is nothing to align, so
//! the old route ends before the new one begins, and the stretch between is recorded as a gap. The same holds for a
//! route that was removed and comes back while it still ends.

mod quotas;
mod replacement;
mod running;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::broadcast;
use crate::capture::{self, Handover, Heartbeat, MemoryQuota, WeakHeartbeat};
use crate::config::{Broadcast, Capture, Config, Endpoint, Invalidate};
use crate::invalidate::{self, CacheWatch, WeakCacheWatch};
use crate::logs::{LogCode, Outages};
use crate::metrics::{EndpointMetrics, Metrics};
use crate::rt;
use crate::server;
use crate::spool;
use crate::status::{Board, RouteKind, RouteState, RouteStatus, Slot};

use replacement::{DueStart, Replacement};
use running::{Plan, RouteSettings, Running, RunningKind};

/// How much longer than the shutdown timeout a stop lasts: routes at their deadline report their rest.
const CUT_OFF: Duration = Duration::from_secs(1);

/// The routes of a daemon.
#[derive(Debug)]
pub struct Supervisor {
    config: Arc<Config>,
    instance: u64,
    /// The place of the captures' spools, and their threads; `None` without a place.
    keeper: Option<spool::Keeper>,
    /// The memory quota of each capture.
    quota: MemoryQuota,
    board: Board,
    metrics: Metrics,
    outages: Outages,
    /// The heartbeats of the sources, as long as a capture listens for them.
    heartbeats: BTreeMap<String, (Arc<Endpoint>, WeakHeartbeat)>,
    /// The watches over caches, as long as an invalidation clears them.
    cache_watches: BTreeMap<String, (Arc<Endpoint>, WeakCacheWatch)>,
    /// The routes by name, those that a reload took away included until they have ended.
    routes: BTreeMap<String, Replacement>,
    tasks: JoinSet<()>,
}

impl Supervisor {
    /// Starts every route of a configuration.
    #[must_use]
    pub fn start(
        config: Config,
        instance: u64,
        keeper: Option<spool::Keeper>,
        board: Board,
        metrics: Metrics,
    ) -> Self {
        let config = Arc::new(config);
        let mut supervisor = Self {
            config: config.clone(),
            instance,
            keeper,
            quota: MemoryQuota::default(),
            board,
            metrics,
            outages: Outages::default(),
            heartbeats: BTreeMap::new(),
            cache_watches: BTreeMap::new(),
            routes: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        supervisor.follow(&config);
        supervisor
    }

    /// Goes over to another configuration; routes that stay the same are not touched. It waits for nothing: what
    /// must wait for the end of another route is started by [`settle`](Self::settle).
    pub fn reload(&mut self, config: Config) {
        let config = Arc::new(config);
        self.config = config.clone();
        self.follow(&config);
    }

    /// Waits for the end of a route, and starts the routes that waited for it; never returns if none runs. Cancel safe.
    pub async fn settle(&mut self) {
        let task = match self.tasks.join_next_with_id().await {
            Some(Ok((task, ()))) => task,
            // It was aborted: a panic ends the process.
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        self.ended(task);
    }

    /// Stops every route, and waits until all have ended: at most the shutdown timeout and the moment that ending
    /// takes. Cancel safe in effect: dropped messages are a gap at the next start.
    pub async fn drain(mut self) {
        for routes in self.routes.values_mut() {
            routes.end();
        }
        let limit = self.config.daemon.shutdown_timeout + CUT_OFF;
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::error!(
                event = LogCode::ShutdownOverrun.as_str(),
                "routes did not stop within {limit:?} and are aborted"
            );
        }
    }

    /// Brings the routes in line with a configuration.
    fn follow(&mut self, config: &Config) {
        self.divide_memory();
        for (name, _) in self.board.slots() {
            if !config.has_route(&name) {
                self.board.remove(&name);
            }
        }
        let (mut plans, disabled): (BTreeMap<String, Plan>, BTreeMap<String, Plan>) =
            Plan::all(config).partition(|(name, _)| config.is_enabled(name));
        for (name, routes) in &mut self.routes {
            routes.want(plans.remove(name));
        }
        for (name, plan) in plans {
            self.routes.entry(name).or_default().want(Some(plan));
        }
        for (name, plan) in disabled {
            self.show_disabled(&name, &plan);
        }
        let names: Vec<String> = self.routes.keys().cloned().collect();
        for name in names {
            self.advance(&name);
            if self.routes.get(&name).is_some_and(Replacement::waits) {
                tracing::info!(
                    event = LogCode::StartWaits.as_str(),
                    route = name,
                    "the new route starts once the old route of this name has stopped, within shutdown_timeout"
                );
            }
        }
    }

    /// A task has ended.
    fn ended(&mut self, task: Id) {
        let name = self.routes.iter_mut().find_map(|(name, routes)| routes.ended(task).then(|| name.clone()));
        if let Some(name) = name {
            self.advance(&name);
        }
    }

    /// Starts what may be started under a name, and shows it.
    fn advance(&mut self, name: &str) {
        let Some(routes) = self.routes.get_mut(name) else { return };
        if let Some(start) = routes.due() {
            let running = self.start_route(start);
            if let Some(routes) = self.routes.get_mut(name) {
                routes.started(running);
            }
        }
        let enabled = self.config.is_enabled(name);
        let Some(routes) = self.routes.get(name) else { return };
        match routes.current() {
            Some(current) if enabled => self.board.show(name, current.slot.clone()),
            _ => {}
        }
        if routes.is_over() {
            self.routes.remove(name);
            if let Some(slot) = self.board.slot(name).filter(|_| !enabled) {
                slot.update(|status| status.reason = None);
            }
        }
        self.heartbeats.retain(|_, (_, heartbeat)| heartbeat.upgrade().is_some());
    }

    /// Shows a route that does not run, and since when it does not.
    fn show_disabled(&self, name: &str, plan: &Plan) {
        let (source, destination) = (&plan.source.name, &plan.destination.name);
        let mut status = RouteStatus::new(name, plan.kind(), source, destination, rt::unix_ms());
        status.state = RouteState::Disabled;
        let before = self.board.slot(name).map(|slot| slot.read());
        if let Some(before) = before.filter(|before| before.state == RouteState::Disabled) {
            status.since_unix_ms = before.since_unix_ms;
        }
        let ends = self.routes.contains_key(name);
        status.reason = ends.then(|| "what it has begun is finished, within shutdown_timeout".to_owned());
        self.board.show(name, Slot::new(status));
    }

    fn start_route(&mut self, DueStart { plan, predecessor }: DueStart) -> Running {
        let stop = CancellationToken::new();
        let (slot, kind, task) = match &plan.route {
            RouteSettings::Capture(capture) => {
                let before = predecessor.map(|before| {
                    before.handover.offer(before.same_state);
                    (before.handover, before.same_state)
                });
                self.start_capture(capture, &plan, before, stop.clone())
            }
            RouteSettings::Broadcast(broadcast) => self.start_broadcast(broadcast, &plan, stop.clone()),
            RouteSettings::Invalidate(route) => self.start_invalidate(route, &plan, stop.clone()),
        };
        Running { plan, slot, kind, stop, task }
    }

    fn start_capture(
        &mut self,
        capture: &Arc<Capture>,
        Plan { source, destination, .. }: &Plan,
        predecessor: Option<(Handover, bool)>,
        stop: CancellationToken,
    ) -> (Slot, RunningKind, AbortHandle) {
        let slot = self.place_route(&capture.name, RouteKind::Capture, source, destination);
        let successor = Handover::default();
        // A predecessor that writes elsewhere keeps its spool until its items are stored.
        let spool = if predecessor.as_ref().is_some_and(|(_, same_state)| !same_state) {
            None
        } else {
            self.spool_place()
        };
        let kind = RunningKind::Capture {
            successor: successor.clone(),
            predecessor: predecessor.as_ref().map(|(handover, _)| handover.clone()),
        };
        let route = capture::CaptureRoute::new(capture::CaptureParts {
            heartbeat: self.heartbeat(source),
            metrics: self.metrics.capture(&capture.name),
            source_metrics: self.endpoint_metrics(source),
            destination_metrics: self.endpoint_metrics(destination),
            outages: self.outages.clone(),
            slot: slot.clone(),
            quota: self.quota.clone(),
            spool,
            instance: format!("{:016x}", self.instance),
            force_after: self.config.daemon.force_after,
            stop,
            drain_deadline: self.config.daemon.shutdown_timeout,
            predecessor,
            successor,
            capture: capture.clone(),
            source: source.clone(),
            destination: destination.clone(),
        });
        let task = rt::spawn_in(&mut self.tasks, "capture", async move {
            route.run().await;
        });
        (slot, kind, task)
    }

    fn start_broadcast(
        &mut self,
        broadcast: &Arc<Broadcast>,
        Plan { source, destination, .. }: &Plan,
        stop: CancellationToken,
    ) -> (Slot, RunningKind, AbortHandle) {
        let slot = self.place_route(&broadcast.name, RouteKind::Broadcast, source, destination);
        let parts = broadcast::BroadcastParts {
            settings: broadcast.clone(),
            source: source.clone(),
            destination: destination.clone(),
            outages: self.outages.clone(),
            slot: slot.clone(),
            metrics: self.metrics.broadcast(&broadcast.name),
            source_metrics: self.endpoint_metrics(source),
            destination_metrics: self.endpoint_metrics(destination),
        };
        let run = broadcast::run(parts, stop, self.config.daemon.shutdown_timeout);
        (slot, RunningKind::Cursor, rt::spawn_in(&mut self.tasks, "broadcast", run))
    }

    fn start_invalidate(
        &mut self,
        route: &Arc<Invalidate>,
        Plan { source, destination, .. }: &Plan,
        stop: CancellationToken,
    ) -> (Slot, RunningKind, AbortHandle) {
        let slot = self.place_route(&route.name, RouteKind::Invalidate, source, destination);
        let parts = invalidate::InvalidateParts {
            settings: route.clone(),
            source: source.clone(),
            destination: destination.clone(),
            outages: self.outages.clone(),
            slot: slot.clone(),
            metrics: self.metrics.invalidate(&route.name),
            source_metrics: self.endpoint_metrics(source),
            destination_metrics: self.endpoint_metrics(destination),
            cache_watch: self.cache_watch(destination),
        };
        let run = invalidate::run(parts, stop, self.config.daemon.shutdown_timeout);
        (slot, RunningKind::Cursor, rt::spawn_in(&mut self.tasks, "invalidate", run))
    }

    fn place_route(&self, name: &str, kind: RouteKind, source: &Endpoint, destination: &Endpoint) -> Slot {
        self.board.place(RouteStatus::new(name, kind, &source.name, &destination.name, rt::unix_ms()))
    }

    fn endpoint_metrics(&self, endpoint: &Endpoint) -> EndpointMetrics {
        let mut metrics = self.metrics.endpoint(&endpoint.name);
        server::show_credentials(endpoint, &metrics.credentials);
        if let Some(sentinels) = endpoint.sentinels() {
            let of_sentinels = self.metrics.credentials(&sentinels.endpoint.name);
            server::show_credentials(&sentinels.endpoint, &of_sentinels);
            metrics.sentinels = Some(of_sentinels);
        }
        metrics
    }

    /// Gives each capture the same share of memory.
    fn divide_memory(&self) {
        self.quota.set(quotas::of_memory(&self.config.daemon, self.config.enabled_captures()));
    }

    /// A capture's share of the disk.
    fn spool_place(&self) -> Option<capture::SpoolPlace> {
        let options = quotas::of_disk(&self.config.daemon, self.config.enabled_captures())?;
        Some(capture::SpoolPlace { keeper: self.keeper.clone()?, options })
    }

    /// The heartbeat of a source, shared by its captures.
    fn heartbeat(&mut self, source: &Arc<Endpoint>) -> Heartbeat {
        let known = self.heartbeats.get(&source.name).filter(|(endpoint, _)| endpoint == source);
        if let Some(heartbeat) = known.and_then(|(_, heartbeat)| heartbeat.upgrade()) {
            return heartbeat;
        }
        let heartbeat = Heartbeat::start(source.clone(), self.instance);
        self.heartbeats.insert(source.name.clone(), (source.clone(), heartbeat.downgrade()));
        heartbeat
    }

    /// The watch over a cache, shared by its invalidations.
    fn cache_watch(&mut self, cache: &Arc<Endpoint>) -> CacheWatch {
        let known = self.cache_watches.get(&cache.name).filter(|(endpoint, _)| endpoint == cache);
        if let Some(watch) = known.and_then(|(_, watch)| watch.upgrade()) {
            return watch;
        }
        let (slot, metrics) = (self.board.place_cache(&cache.name), self.metrics.cache(&cache.name));
        let watch = CacheWatch::start(cache.clone(), slot, metrics);
        self.cache_watches.insert(cache.name.clone(), (cache.clone(), watch.downgrade()));
        watch
    }
}
