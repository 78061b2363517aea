//! Which of two configurations of a route is the newer one.

use std::fmt;

use super::StoredState;
use crate::config::{Capture, Mode};

/// The revision of a route's configuration: a generation that each change raises, and hashes of the configuration. As
/// text it compares by generation first, so the script can tell the newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RankedRevision {
    generation: u64,
    /// The hashes of numbering and mapping.
    hashes: String,
}

impl RankedRevision {
    /// Reads what [`Display`](fmt::Display) wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (generation, hashes) = text.split_once('-')?;
        Some(Self { generation: generation.parse().ok()?, hashes: hashes.to_owned() })
    }

    /// Returns whether it is of another configuration than `other`, and later: as the script compares them, so of two
    /// that began at once on an empty state one is the later, too.
    pub(crate) fn supersedes(&self, other: &Self) -> bool {
        self.differs(other) && (self.generation, &self.hashes) > (other.generation, &other.hashes)
    }

    /// Returns whether it is of another configuration than `other`.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        self.hashes != other.hashes
    }

    /// The state's rank for this very configuration, if it is higher: another instance was given it when it went back
    /// to this configuration.
    pub(crate) fn raised(&self, state: &StoredState) -> Option<Self> {
        let announced = state.next.as_ref().map(|(_, revision)| revision);
        let known = state.revision.iter().chain(&state.highest).chain(announced);
        let higher = known.filter(|known| !known.differs(self) && known.generation > self.generation);
        higher.max_by_key(|known| known.generation).cloned()
    }

    /// Returns whether positions mean the same under both: one may continue where the other stopped.
    pub(crate) fn numbers_alike(&self, other: &Self) -> bool {
        let numbering = |revision: &Self| revision.hashes.split('-').next().map(str::to_owned);
        numbering(self) == numbering(other)
    }

    /// The hashes of a configuration for its revision: its numbering, and its output.
    pub(crate) fn hashes(capture: &Capture) -> String {
        let configured = capture.revision();
        match capture.mode {
            Mode::Subscribe => format!("{}-{}", configured.numbering, configured.mapping),
            Mode::Replication(_) => {
                format!("{}-{}{}", Self::numbering(capture), configured.numbering, configured.mapping)
            }
        }
    }

    /// The numbering of a configuration. Offsets of a replication stream count the same bytes, whatever the route
    /// listens to.
    pub(crate) fn numbering(capture: &Capture) -> String {
        match capture.mode {
            Mode::Subscribe => capture.revision().numbering,
            Mode::Replication(_) => "offsets".to_owned(),
        }
    }

    /// The revision under which a configuration with these hashes writes: the state's if it is the same configuration,
    /// otherwise the next generation. An instance asks once, and keeps it as long as it runs.
    pub(crate) fn after(state: &StoredState, hashes: &str) -> Self {
        let announced = state.next.as_ref().map(|(_, revision)| revision);
        let known = || state.revision.iter().chain(&state.highest).chain(announced);
        let same = known().filter(|revision| revision.hashes == hashes).max_by_key(|same| same.generation);
        let highest = known().map(|revision| revision.generation).max().unwrap_or(0);
        same.cloned().unwrap_or_else(|| Self { generation: highest + 1, hashes: hashes.to_owned() })
    }
}

impl fmt::Display for RankedRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}-{}", self.generation, self.hashes)
    }
}
