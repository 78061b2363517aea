//! The status of the loops, as data: the board that `/status`, `/readyz`, `/healthz` and the watchdog read. A leaf:
//! loops write here, [`crate::observe`] reads, neither knows the other.

mod board;
mod broadcast;
mod cache;
mod capture;
mod invalidate;

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub use board::{Board, DaemonStatus, FailedReload, Slot};
pub use broadcast::{
    AcknowledgedStatus, BroadcastCounts, GroupChange, StreamStatus, StreamsStatus, UnacknowledgedEntry,
};
pub use cache::{CacheActivity, CacheSlot, CacheStatus};
pub use capture::{Buffered, Fullest, KeepStatus, Ledger, ReplicationStatus};
pub use invalidate::InvalidateStatus;

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
/// disabled                                (it does not run: enabled = false)
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
    /// It does not run: `enabled = false`.
    Disabled,
}

impl RouteState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Connecting,
        Self::Live,
        Self::Standby,
        Self::CatchingUp,
        Self::Waiting,
        Self::Blocked,
        Self::Outdated,
        Self::Stopping,
        Self::Stopped,
        Self::Disabled,
    ];

    /// Those of a route that runs, for metrics that show one series a state. A disabled route has no metrics.
    pub const RUNNING: [Self; 9] = {
        let [running @ .., _] = Self::ALL;
        running
    };

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
            Self::Disabled => "disabled",
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

impl RouteEndpoint {
    /// The name in texts for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
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
    /// Why another server may be the master by now, although this one is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
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
            (side.connected, side.error, side.doubt) = (false, None, None);
        }
        let side = self.side(from);
        side.error = Some(reason.to_owned());
        format!("{} {}: {reason}", from.as_str(), side.server)
    }

    /// Why servers of a route that is connected to both may not be the masters any more.
    pub(crate) fn doubt(&mut self, source: Option<String>, destination: Option<String>) {
        self.source.doubt = source.filter(|_| self.source.connected);
        self.destination.doubt = destination.filter(|_| self.destination.connected);
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

/// A panic elsewhere ends the process (see `rt`), so a poisoned lock still holds whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
