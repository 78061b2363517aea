//! `/status` as data: what the daemon says of itself, and what `tidegate status` reads.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::status::{Board, DaemonStatus, RouteStatus};

/// What does not change while the process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// tidegate's version.
    pub version: String,
    /// What tells this process from another one with the same configuration.
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
    /// What changes of the process.
    #[serde(default)]
    pub daemon: DaemonStatus,
    /// Every route, by name.
    pub routes: Vec<RouteStatus>,
}

impl StatusReport {
    /// What the board shows now.
    #[must_use]
    pub fn new(about: &About, board: &Board) -> Self {
        let routes = board.slots().into_iter().map(|(_, slot)| slot.read()).collect();
        Self { about: about.clone(), daemon: board.daemon(), routes }
    }
}
