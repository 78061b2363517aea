//! How long everything takes.

use std::time::{Duration, Instant};

use crate::cell::Cell;

/// How long all parts take at full length, in minutes, and what of that no plan can cut: servers start and
/// stop, and warm up.
const FULL_MINUTES: f64 = 103.0;
const FIXED_MINUTES: f64 = 19.0;

/// With less of the full length there is no point in many pairs.
const PAIRS_SHARE: f64 = 0.1;

/// Which lengths a run has: everything is cut in proportion, and nothing below what still says something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    share: f64,
    /// Whether every combination of sizes, channels and streams is measured.
    matrix: bool,
    begun: Instant,
}

impl Plan {
    pub(crate) fn smoke() -> Self {
        Self { share: 0.0, matrix: false, begun: Instant::now() }
    }

    /// Full length, or as much as fits into this number of minutes if all parts are measured.
    pub(crate) fn within(minutes: Option<f64>, matrix: bool) -> Self {
        let share = minutes.map_or(1.0, |minutes| {
            ((minutes - FIXED_MINUTES) / (FULL_MINUTES - FIXED_MINUTES)).clamp(0.0, 1.0)
        });
        Self { share, matrix, begun: Instant::now() }
    }

    /// The cells of a table.
    pub(crate) fn cells(self) -> Vec<Cell> {
        if self.share == 0.0 && !self.matrix { Cell::some() } else { Cell::all(self.matrix) }
    }

    /// A stretch of `full` seconds, and of at least `least`.
    pub(crate) fn seconds(self, least: f64, full: f64) -> Duration {
        Duration::from_secs_f64((full * self.share).max(least))
    }

    /// This number, at full length `full`.
    pub(crate) fn count(self, least: u64, full: u64) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
        let cut = (full as f64 * self.share) as u64;
        cut.max(least)
    }

    /// Pairs are not cut, until so little is left that they are only a sign of life.
    pub(crate) fn pairs(self, smoke: usize, usual: usize) -> usize {
        if self.share < PAIRS_SHARE { smoke } else { usual }
    }

    pub(crate) fn say(self, part: &str) {
        println!("\n== {part}  ({:.1} min after the start)", self.begun.elapsed().as_secs_f64() / 60.0);
    }
}
