//! The metrics of a broadcast.

use std::time::Duration;

use crate::broadcast::publish::call::Tally;
use crate::broadcast::publish::publisher::Settled;
use crate::metrics::{self, BroadcastMetrics};
use crate::stream::EntryId;

/// A call was answered.
pub(crate) fn settled(handles: &BroadcastMetrics, settled: &Settled) {
    handles.batch_events.record(metrics::float(settled.entries));
    handles.publish_seconds.record(settled.took.as_secs_f64());
}

/// The messages that this process has sent, and those of them that reached no subscriber.
pub(crate) fn sent(handles: &BroadcastMetrics, published: u64, unheard: u64, now_unix_ms: u64) {
    handles.published.increment(published);
    handles.without_subscribers.increment(unheard);
    if published > 0 {
        handles.last_publish_timestamp_seconds.set(Duration::from_millis(now_unix_ms).as_secs_f64());
    }
}

/// Entries were dealt with up to `last`; milliseconds since 1970.
pub(crate) fn done(handles: &BroadcastMetrics, tally: Tally, last: EntryId, now_unix_ms: u64) {
    handles.dead_letters.increment(tally.rejected);
    handles.filtered.increment(tally.filtered);
    if tally.published > 0 {
        // By two clocks: the server's made the id. An id ahead of our clock counts as no lag.
        let lag = Duration::from_millis(now_unix_ms.saturating_sub(last.milliseconds));
        handles.publish_lag_seconds.record(lag.as_secs_f64());
    }
}
