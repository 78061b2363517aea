//! The items that a state has passed, and which of them were stored.

use crate::position::{Epoch, Position};

/// The positions that a state has passed: it tells whether an item before the checkpoint was stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Passage {
    epochs: Vec<Epoch>,
    /// The latest gaps that were recorded: the last item before each, and the first one after.
    gaps: Vec<(Option<Position>, Position)>,
}

impl Passage {
    /// Reads the state's fields; malformed parts are left out.
    pub(crate) fn parse(epochs: &str, gaps: &str) -> Self {
        let gap = |text: &str| {
            let (from, to) = text.split_once('>')?;
            let from = if from == "-" { None } else { Some(from.parse().ok()?) };
            Some((from, to.parse().ok()?))
        };
        Self {
            epochs: epochs.split_whitespace().filter_map(|epoch| epoch.parse().ok()).collect(),
            gaps: gaps.split_whitespace().filter_map(gap).collect(),
        }
    }

    /// Returns whether it went through this epoch.
    pub(crate) fn went_through(&self, epoch: Epoch) -> bool {
        self.epochs.contains(&epoch)
    }

    /// Returns whether everything between two items that it has passed was stored: the usual case.
    pub(crate) fn has_all(&self, first: Position, last: Position, epochs: &[Epoch]) -> bool {
        let apart = |(from, to): &(Option<Position>, Position)| Some(last) <= *from || first >= *to;
        epochs.iter().all(|epoch| self.is_free(*epoch)) && self.gaps.iter().all(apart)
    }

    /// Returns whether an item that it has passed was stored.
    pub(crate) fn has(&self, item: Position) -> bool {
        let inside = |(from, to): &(Option<Position>, Position)| Some(item) > *from && item < *to;
        self.is_free(item.epoch) && !self.gaps.iter().any(inside)
    }

    /// Returns whether a gap may have been recorded between the last passed item and this one. If the last one is not
    /// known, each gap of the same epoch may be.
    pub(crate) fn has_gap_before(&self, item: Position, passed: Option<Position>) -> bool {
        let after = |to: Position| passed.map_or(to >= item || to.epoch == item.epoch, |passed| to > passed);
        self.gaps.iter().any(|(from, to)| *from < Some(item) && after(*to))
    }

    /// Returns whether the state went through this epoch; true for a state that names no epochs.
    fn is_free(&self, epoch: Epoch) -> bool {
        self.epochs.is_empty() || self.went_through(epoch)
    }
}
