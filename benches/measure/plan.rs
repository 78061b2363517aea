//! How long everything takes.

use std::time::{Duration, Instant};

/// How long the parts take at full length, in minutes, as they are run by `make bench`.
const FULL_MINUTES: f64 = 100.0;

/// Which lengths a run has: everything is cut in proportion, and nothing below what still says something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    share: f64,
    /// Whether every combination of sizes, channels and streams is measured.
    pub(crate) matrix: bool,
    begun: Instant,
}

impl Plan {
    pub(crate) fn smoke() -> Self {
        Self { share: 0.0, matrix: false, begun: Instant::now() }
    }

    /// Full length, or as much as fits into so many minutes.
    pub(crate) fn within(minutes: Option<f64>, matrix: bool) -> Self {
        let share = minutes.map_or(1.0, |minutes| (minutes / FULL_MINUTES).min(1.0));
        Self { share, matrix, begun: Instant::now() }
    }

    /// A stretch of `full` seconds, and of at least `least`.
    pub(crate) fn seconds(self, least: f64, full: f64) -> Duration {
        Duration::from_secs_f64((full * self.share).max(least))
    }

    /// So many, at full length `full`.
    pub(crate) fn count(self, least: u64, full: u64) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
        let cut = (full as f64 * self.share) as u64;
        cut.max(least)
    }

    /// Of pairs there are always as many, but in a smoke run.
    pub(crate) fn pairs(self, smoke: usize, usual: usize) -> usize {
        if self.share == 0.0 { smoke } else { usual }
    }

    pub(crate) fn say(self, part: &str) {
        println!("\n== {part}  ({:.1} min after the start)", self.begun.elapsed().as_secs_f64() / 60.0);
    }
}
