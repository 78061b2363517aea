//! What a broadcast counts.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::call::Tally;
use super::id::EntryId;

/// The handles of one route's metrics.
#[derive(Debug, Clone)]
pub struct BroadcastMetrics {
    /// Entries published.
    pub published: Counter,
    /// Of these, to nobody on the node that was asked.
    pub unheard: Counter,
    /// Entries written to the dead letters.
    pub dead_letters: Counter,
    /// When entries were published last; seconds since 1970.
    pub last_publish_timestamp_seconds: Gauge,
    /// From sending a batch to its answer.
    pub publish_seconds: Histogram,
    /// From an entry's id to its publishing, by two clocks.
    pub publish_lag_seconds: Histogram,
    /// Entries of a batch.
    pub batch_events: Histogram,
}

impl BroadcastMetrics {
    /// Handles that count for nobody.
    #[must_use]
    pub fn noop() -> Self {
        Self {
            published: Counter::noop(),
            unheard: Counter::noop(),
            dead_letters: Counter::noop(),
            last_publish_timestamp_seconds: Gauge::noop(),
            publish_seconds: Histogram::noop(),
            publish_lag_seconds: Histogram::noop(),
            batch_events: Histogram::noop(),
        }
    }

    /// A batch was answered.
    pub(super) fn batch(&self, entries: u64, took: Duration) {
        self.batch_events.record(f64::from(u32::try_from(entries).unwrap_or(u32::MAX)));
        self.publish_seconds.record(took.as_secs_f64());
    }

    /// Entries were dealt with up to `last`; milliseconds since 1970.
    pub(super) fn done(&self, tally: Tally, last: EntryId, now_unix_ms: u64) {
        self.published.increment(tally.published);
        self.unheard.increment(tally.unheard);
        self.dead_letters.increment(tally.rejected);
        if tally.published > 0 {
            self.last_publish_timestamp_seconds.set(Duration::from_millis(now_unix_ms).as_secs_f64());
            let lag = Duration::from_millis(now_unix_ms.saturating_sub(last.milliseconds));
            self.publish_lag_seconds.record(lag.as_secs_f64());
        }
    }
}
