//! The status of the loops, as data: the board that `/status`, `/readyz`, `/healthz` and the watchdog read. A leaf:
//! loops write here, [`crate::observe`] reads, neither knows the other.

mod cache;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub use cache::{CacheActivity, CacheSlot, CacheStatus};

/// Which way a route goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// From channels into streams.
    Capture,
    /// From a stream to channels.
    Broadcast,
    /// From a stream to a cache.
    Invalidate,
}

/// The state of a route.
///
/// ```text
/// connecting ─▶ live ◀─▶ waiting          (an endpoint is away: it tries again by itself)
///                 ▲ └──▶ blocked          (it may not work: an operator must act; tries every 30 s)
///                 └────▶ outdated         (another instance runs a newer configuration)
/// any ─▶ stopping ─▶ stopped
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteState {
    /// It has not been live yet.
    Connecting,
    /// It does its work.
    Live,
    /// Another instance writes; this one holds every later message and can take over.
    Standby,
    /// Another instance writes; later messages are still missing here.
    CatchingUp,
    /// Its source or its destination does not answer.
    Waiting,
    /// It may not write. An operator must act.
    Blocked,
    /// Another instance runs a newer configuration of it.
    Outdated,
    /// It stores or publishes its buffer, and then stops.
    Stopping,
    /// It has ended.
    Stopped,
}

impl RouteState {
    /// Every state, for metrics that show one series a state.
    pub const ALL: [Self; 9] = [
        Self::Connecting,
        Self::Live,
        Self::Standby,
        Self::CatchingUp,
        Self::Waiting,
        Self::Blocked,
        Self::Outdated,
        Self::Stopping,
        Self::Stopped,
    ];

    /// The name in `/status` and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Live => "live",
            Self::Standby => "standby",
            Self::CatchingUp => "catching_up",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Outdated => "outdated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// Which of a route's two endpoints is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteEndpoint {
    /// The one that it reads.
    Source,
    /// The one that it writes, or publishes on. If both are one server, everything of a broadcast is the source's.
    Destination,
}

/// The connection to one of a route's servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideStatus {
    /// The server's name in the configuration.
    pub server: String,
    /// True if there is a working connection.
    pub connected: bool,
    /// When the other side last answered (a heartbeat that came back, a reply); milliseconds since 1970.
    pub last_answer_unix_ms: Option<u64>,
    /// The present error.
    pub error: Option<String>,
}

/// The events of a capture by outcome:
/// `received = stored + deduplicated + filtered + rejected + Σ dropped + buffered`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Read from the source, each message once.
    pub received: u64,
    /// Stored in a stream.
    pub stored: u64,
    /// Found already stored.
    pub deduplicated: u64,
    /// Left out by the route's own filter.
    pub filtered: u64,
    /// Written to the dead letters.
    pub rejected: u64,
    /// Given up, by reason; each lies inside a recorded gap.
    pub dropped: BTreeMap<String, u64>,
    /// Received, and none of the above yet.
    pub buffered: u64,
    /// The buffered events by place.
    #[serde(default)]
    pub buffered_in: Buffered,
    /// Gaps that were recorded. Releases before 0.2.0 did not count them in the state.
    #[serde(default)]
    pub gaps: u64,
    /// When the last of these ended; milliseconds since 1970.
    #[serde(default)]
    pub last_gap_unix_ms: Option<u64>,
}

/// Events that were received and are not settled, by where they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffered {
    /// In memory, waiting.
    pub memory: u64,
    /// Sent to the destination and not answered.
    pub in_flight: u64,
    /// On disk only.
    pub spool: u64,
    /// Lost with a damaged spool. The gap record is still to be written.
    #[serde(default)]
    pub unrecorded: u64,
}

impl Ledger {
    /// Returns whether every received event is accounted for: stored, dropped or still buffered.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let dropped: u64 = self.dropped.values().sum();
        let settled = self.stored + self.deduplicated + self.filtered + self.rejected + dropped;
        self.received == settled + self.buffered && self.buffered == self.buffered_in.total()
    }
}

impl Buffered {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.memory + self.in_flight + self.spool + self.unrecorded
    }
}

/// The counts of a broadcast since its cursor was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastCounts {
    /// Entries published.
    pub published: u64,
    /// Number of these without a subscriber (on that node).
    pub without_subscribers: u64,
    /// Entries written to the dead letters.
    pub rejected: u64,
    /// Entries left out by the route's own filter.
    #[serde(default)]
    pub filtered: u64,
    /// True if `rate_limit` holds it back now: more entries wait than it lets through.
    #[serde(default)]
    pub rate_limited: bool,
}

/// An invalidation: what all instances have done since its cursor was made, and what this process saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvalidateStatus {
    /// Keys that were there and were removed, in either pass.
    pub cleared: u64,
    /// Keys that were not there in the first pass.
    pub absent: u64,
    /// Leases that were removed: loads under way that would have stored an old value.
    pub fills_refused: u64,
    /// Entries that this process wrote to the dead letters.
    pub rejected: u64,
    /// Entries that this process left out by the route's own filter.
    pub filtered: u64,
    /// The last entry whose keys were removed once more; none without a second pass.
    pub again: Option<String>,
    /// How long ago the stream was last applied to its end; milliseconds. None if it is not known.
    pub behind_ms: Option<u64>,
    /// How often changes may have been missed, since the process started, by kind.
    pub missed: BTreeMap<String, u64>,
    /// How often every key of the route was removed, since the process started.
    pub clears: u64,
    /// How often entries were applied once more, since the process started, by trigger.
    pub replays: BTreeMap<String, u64>,
}

/// A broadcast that waits for acknowledgements.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcknowledgedStatus {
    /// The consumer group.
    pub group: String,
    /// True if the group is there.
    pub group_exists: bool,
    /// The last entry that the group was given.
    pub delivered: Option<String>,
    /// Up to where entries were read: they are in memory, whatever their consumers delete.
    pub read: Option<String>,
    /// Entries that the group was given and has not acknowledged.
    pub pending: u64,
    /// With `order = "acknowledgement"`: unacknowledged entries that were left behind.
    pub ack_pending: u64,
    /// Entries that were read and are buffered in memory.
    pub buffered: u64,
    /// The first entry that is not acknowledged.
    pub waiting_for: Option<UnacknowledgedEntry>,
    /// Changes of the group from outside, since the daemon started, by kind.
    pub group_changes: BTreeMap<String, u64>,
}

/// An unacknowledged entry, which delays those behind it if the order is the stream's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnacknowledgedEntry {
    /// The entry's id.
    pub id: String,
    /// Since the time in its id, by the daemon's clock; milliseconds.
    pub age_ms: u64,
    /// The consumer that it was given to last.
    pub consumer: String,
    /// Since then; milliseconds.
    pub idle_ms: u64,
    /// How often it was given to one.
    pub deliveries: u64,
}

/// A change of the consumer group after which entries may count as acknowledged although no consumer acknowledged them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupChange {
    /// The group was missing and was created: entries before its start count as acknowledged.
    GroupCreated,
    /// The group was destroyed and created again: entries that were pending count as acknowledged.
    GroupRecreated,
    /// The group was moved forward: skipped entries count as acknowledged.
    MovedForward,
    /// The group was moved back: it is delivered entries again that were published already.
    MovedBack,
    /// A consumer was deleted while entries were pending for it: these count as acknowledged.
    ConsumerDeleted,
}

impl GroupChange {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::GroupCreated,
        Self::GroupRecreated,
        Self::MovedForward,
        Self::MovedBack,
        Self::ConsumerDeleted,
    ];

    /// The name in logs, metrics and `/status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GroupCreated => "group_created",
            Self::GroupRecreated => "group_recreated",
            Self::MovedForward => "moved_forward",
            Self::MovedBack => "moved_back",
            Self::ConsumerDeleted => "consumer_deleted",
        }
    }
}

/// The status of a route at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The route's name.
    pub route: String,
    /// Which way it goes.
    pub kind: RouteKind,
    /// The route's state.
    pub state: RouteState,
    /// Since when; milliseconds since 1970.
    pub since_unix_ms: u64,
    /// Why it is not live.
    pub reason: Option<String>,
    /// The side it reads.
    pub source: SideStatus,
    /// The side it writes.
    pub destination: SideStatus,
    /// A capture's checkpoint or a broadcast's cursor.
    pub position: Option<String>,
    /// Bytes buffered in memory.
    pub buffered_bytes: u64,
    /// Bytes of the spool on disk.
    #[serde(default)]
    pub spool_bytes: u64,
    /// Captures only: why the spool cannot be used.
    #[serde(default)]
    pub spool_error: Option<String>,
    /// Captures only: why stored messages have not become as durable as the configuration asks for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability_error: Option<String>,
    /// Captures only: whether everything that waits is on disk as well.
    #[serde(default)]
    pub spooled_all: bool,
    /// Captures only: the last position that is known to be stored durably.
    #[serde(default)]
    pub durable: Option<String>,
    /// True if this instance writes, or publishes.
    #[serde(default)]
    pub leader: bool,
    /// Captures only: how many other instances were there lately.
    #[serde(default)]
    pub other_instances: u64,
    /// When messages began to be lost in a gap that is not recorded yet; milliseconds since 1970.
    pub gap_open_since_unix_ms: Option<u64>,
    /// When something was last stored or published; milliseconds since 1970.
    pub last_progress_unix_ms: Option<u64>,
    /// Captures only: what all instances have done since the route's state was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Ledger>,
    /// Captures only: the counts of this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_counts: Option<Ledger>,
    /// Captures in replication mode: the node being read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationStatus>,
    /// Captures of keyspace notifications: the missing settings of the source, each with its remedy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_notifications: Vec<String>,
    /// Captures with `keep.until_acknowledged`: the kept entries, if this instance writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<KeepStatus>,
    /// Broadcasts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<BroadcastCounts>,
    /// Invalidations only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalidate: Option<InvalidateStatus>,
    /// Broadcasts that wait for acknowledgements only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<AcknowledgedStatus>,
    /// Broadcasts from several streams only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<StreamsStatus>,
}

/// The streams of a broadcast with `streams`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamsStatus {
    /// Number of streams that are read.
    pub read: u64,
    /// About how many matching streams are not read.
    pub left_out: u64,
    /// Most streams that are read.
    pub max_streams: u64,
    /// The streams that are read, by name.
    pub streams: Vec<StreamStatus>,
}

/// The status of one such stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// The stream's name.
    pub stream: String,
    /// The state of its route.
    pub state: RouteState,
    /// Why it is not live.
    pub reason: Option<String>,
    /// Its cursor.
    pub position: Option<String>,
}

/// The entries that a capture keeps until they are acknowledged, at the last check of its streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepStatus {
    /// Entries that were trimmed before they were acknowledged, since the route's state was made.
    pub trimmed_unacknowledged: u64,
    /// The most entries that a stream keeps, acknowledged or not.
    pub limit: u64,
    /// The stream with the most entries.
    pub fullest: Option<Fullest>,
    /// Groups that a stream does not have, so that nothing there counts as acknowledged; the first few.
    pub missing_groups: Vec<String>,
    /// Why nothing is trimmed.
    pub error: Option<String>,
}

/// The stream of a capture that has the most entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fullest {
    /// The stream's name.
    pub stream: String,
    /// Number of its entries.
    pub entries: u64,
    /// Which of the groups is furthest behind there.
    pub slowest_group: String,
}

/// The replication stream that a capture reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationStatus {
    /// The server's address.
    pub address: String,
    /// `master` or `replica`.
    pub role: String,
    /// How far was read.
    pub offset: u64,
    /// Bytes that were not read yet, about a second ago.
    pub lag_bytes: Option<u64>,
    /// How much the server's backlog can hold.
    pub backlog_bytes: Option<u64>,
    /// How long an absence that covers at the present rate of writes.
    pub backlog_cover_seconds: Option<u64>,
}

impl RouteStatus {
    /// The status of one of its sides.
    pub fn side(&mut self, side: RouteEndpoint) -> &mut SideStatus {
        match side {
            RouteEndpoint::Source => &mut self.source,
            RouteEndpoint::Destination => &mut self.destination,
        }
    }

    /// A session of a route that needs both servers has ended: both connections are closed, and one side is why. Returns
    /// the reason with that side's name.
    pub(crate) fn session_failed(&mut self, from: RouteEndpoint, reason: &str) -> String {
        for side in [&mut self.source, &mut self.destination] {
            (side.connected, side.error) = (false, None);
        }
        let name = match from {
            RouteEndpoint::Source => "source",
            RouteEndpoint::Destination => "destination",
        };
        let side = self.side(from);
        side.error = Some(reason.to_owned());
        format!("{name} {}: {reason}", side.server)
    }

    /// The sides that are not connected, with their names. If only one of them has an error, the other one is left out:
    /// its connection was closed for the first one's sake, or is not tried before.
    pub fn away(&self) -> impl Iterator<Item = (&'static str, &SideStatus)> {
        let (source, destination) = (&self.source, &self.destination);
        [("source", source, destination), ("destination", destination, source)]
            .into_iter()
            .filter(|(_, side, other)| !side.connected && (side.error.is_some() || other.error.is_none()))
            .map(|(name, side, _)| (name, side))
    }

    /// A route that has not begun.
    #[must_use]
    pub fn new(route: &str, kind: RouteKind, source: &str, destination: &str, now_unix_ms: u64) -> Self {
        let link = |server: &str| SideStatus { server: server.to_owned(), ..SideStatus::default() };
        Self {
            route: route.to_owned(),
            kind,
            state: RouteState::Connecting,
            since_unix_ms: now_unix_ms,
            reason: None,
            source: link(source),
            destination: link(destination),
            position: None,
            buffered_bytes: 0,
            spool_bytes: 0,
            spool_error: None,
            durability_error: None,
            spooled_all: false,
            durable: None,
            leader: false,
            other_instances: 0,
            gap_open_since_unix_ms: None,
            last_progress_unix_ms: None,
            counts: (kind == RouteKind::Capture).then(Ledger::default),
            process_counts: (kind == RouteKind::Capture).then(Ledger::default),
            missing_notifications: Vec::new(),
            replication: None,
            keep: None,
            broadcast: (kind == RouteKind::Broadcast).then(BroadcastCounts::default),
            invalidate: (kind == RouteKind::Invalidate).then(InvalidateStatus::default),
            acknowledged: None,
            streams: None,
        }
    }
}

/// One route's place on the board. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Slot(Arc<SlotInner>);

#[derive(Debug)]
struct SlotInner {
    status: Mutex<RouteStatus>,
    progress_unix_ms: AtomicU64,
    /// True once every endpoint of the route has been tried.
    tried: std::sync::atomic::AtomicBool,
}

impl Slot {
    /// A place that no board shows.
    #[must_use]
    pub fn new(status: RouteStatus) -> Self {
        Self(Arc::new(SlotInner {
            progress_unix_ms: AtomicU64::new(status.since_unix_ms),
            status: Mutex::new(status),
            tried: std::sync::atomic::AtomicBool::new(false),
        }))
    }

    /// Sets a broadcast's state, and why it is not live.
    pub fn set_state(&self, state: RouteState, reason: Option<String>, now_unix_ms: u64) {
        self.update(|status| {
            if status.state != state {
                status.state = state;
                status.since_unix_ms = now_unix_ms;
            }
            status.reason = reason;
            status.leader = state == RouteState::Live;
        });
    }

    /// Changes the route's status.
    pub fn update(&self, change: impl FnOnce(&mut RouteStatus)) {
        change(&mut lock(&self.0.status));
    }

    /// The route's status.
    #[must_use]
    pub fn read(&self) -> RouteStatus {
        lock(&self.0.status).clone()
    }

    /// Says that the loop has come round; milliseconds since 1970. Each loop does at least once a second.
    pub fn progressed(&self, now_unix_ms: u64) {
        self.0.progress_unix_ms.store(now_unix_ms, Ordering::Relaxed);
    }

    /// When the loop last came round; milliseconds since 1970.
    #[must_use]
    pub fn progress_unix_ms(&self) -> u64 {
        self.0.progress_unix_ms.load(Ordering::Relaxed)
    }

    /// Says that the route has tried its endpoints once, with whatever outcome.
    pub fn tried(&self) {
        self.0.tried.store(true, Ordering::Relaxed);
    }

    /// Returns whether the route has tried its endpoints once.
    #[must_use]
    pub fn was_tried(&self) -> bool {
        self.0.tried.load(Ordering::Relaxed)
    }
}

/// The status of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// When the configuration that runs was read; milliseconds since 1970.
    pub configuration_unix_ms: u64,
    /// The last reload, if it failed: the previous configuration stays in use.
    pub reload_failed: Option<FailedReload>,
    /// Why the state directory cannot be used, if captures need it.
    pub state_directory_error: Option<String>,
    /// How much all routes together may hold in memory.
    pub memory_limit_bytes: u64,
}

/// A reload that changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedReload {
    /// When; milliseconds since 1970.
    pub at_unix_ms: u64,
    /// How many problems the configuration has.
    pub problems: usize,
}

/// Every route's place, and the process's.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<BoardInner>);

#[derive(Debug, Default)]
struct BoardInner {
    slots: Mutex<BTreeMap<String, Slot>>,
    caches: cache::Caches,
    daemon: Mutex<DaemonStatus>,
}

impl Board {
    /// Changes the process's status.
    pub fn update_daemon(&self, change: impl FnOnce(&mut DaemonStatus)) {
        change(&mut lock(&self.0.daemon));
    }

    /// The process's status.
    #[must_use]
    pub fn daemon(&self) -> DaemonStatus {
        lock(&self.0.daemon).clone()
    }

    /// Makes a place for a route, or gives a route of the same name a new one.
    #[must_use]
    pub fn place(&self, status: RouteStatus) -> Slot {
        let name = status.route.clone();
        let slot = Slot::new(status);
        lock(&self.0.slots).insert(name, slot.clone());
        slot
    }

    /// Shows a route in a place that it was given before.
    pub fn show(&self, route: &str, slot: Slot) {
        lock(&self.0.slots).insert(route.to_owned(), slot);
    }

    /// Takes a route off the board.
    pub fn remove(&self, route: &str) {
        lock(&self.0.slots).remove(route);
    }

    /// Makes a place for a cache, or gives a cache of the same server a new one.
    #[must_use]
    pub fn place_cache(&self, server: &str) -> CacheSlot {
        self.0.caches.place(server)
    }

    /// The caches, by the server's name.
    #[must_use]
    pub fn caches(&self) -> BTreeMap<String, CacheStatus> {
        self.0.caches.read()
    }

    /// Every route's place, by name.
    #[must_use]
    pub fn slots(&self) -> Vec<(String, Slot)> {
        lock(&self.0.slots).iter().map(|(name, slot)| (name.clone(), slot.clone())).collect()
    }
}

/// A panic elsewhere ends the process (see `rt`), so a poisoned lock still holds whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
