//! `/status` as data: the daemon's report, which `tidegate status` reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::status::{Board, CacheStatus, DaemonStatus, RouteStatus};

/// The part that does not change while the process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// tidegate's version.
    pub version: String,
    /// The id of this process, to distinguish it from another with the same configuration.
    pub instance: String,
    /// When it started; milliseconds since 1970.
    pub started_unix_ms: u64,
    /// The main configuration file.
    pub configuration: PathBuf,
}

/// The whole of `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The process.
    #[serde(flatten)]
    pub about: About,
    /// The part that changes.
    #[serde(default)]
    pub daemon: DaemonStatus,
    /// Every route, by name.
    pub routes: Vec<RouteStatus>,
    /// The caches of invalidations, by the server's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub caches: BTreeMap<String, CacheStatus>,
}

impl StatusReport {
    /// A report of the present board.
    #[must_use]
    pub fn new(about: &About, board: &Board) -> Self {
        let routes = board.slots().into_iter().map(|(_, slot)| slot.read()).collect();
        Self { about: about.clone(), daemon: board.daemon(), routes, caches: board.caches() }
    }
}
