//! The handles that a loop keeps: one field per series, made once.

use metrics::{Counter, Gauge, Histogram};

use super::live::SeriesGuard;
use super::{Register, catalogue, float};
use crate::event::{DropReason, GapCause, InvalidateLoss, ReplayTrigger};
use crate::status::{GroupChange, Ledger, RouteState};

/// The outcomes of a route's events in the state, in the order of [`CaptureMetrics::ledger`].
pub(super) const OUTCOMES: [&str; 5] = ["received", "stored", "filtered", "rejected", "dropped"];

/// The metrics of a capture. Dropping the last clone ends the rendering of its series.
#[derive(Clone, Debug)]
#[must_use = "the route's series are rendered only while the handles are alive"]
pub struct CaptureMetrics {
    /// `tidegate_events_received_total`.
    pub received: Counter,
    /// `tidegate_events_stored_total`.
    pub stored: Counter,
    /// `tidegate_events_deduplicated_total`.
    pub deduplicated: Counter,
    /// `tidegate_events_filtered_total`.
    pub filtered: Counter,
    /// `tidegate_events_rejected_total`.
    pub rejected: Counter,
    /// `tidegate_dead_letters_total`.
    pub dead_letters: Counter,
    /// `tidegate_buffered_events`.
    pub buffered_events: Gauge,
    /// `tidegate_buffered_bytes` with `where="memory"`.
    pub buffered_bytes_memory: Gauge,
    /// `tidegate_buffered_bytes` with `where="spool"`.
    pub buffered_bytes_spool: Gauge,
    /// `tidegate_last_stored_timestamp_seconds`; seconds since 1970.
    pub last_stored_timestamp_seconds: Gauge,
    /// `tidegate_spool_unavailable`; 0 or 1.
    pub spool_unavailable: Gauge,
    /// `tidegate_not_durable`; 0 or 1.
    pub not_durable: Gauge,
    /// `tidegate_gap_open`; 0 or 1.
    pub gap_open: Gauge,
    /// `tidegate_durable_lag_events`.
    pub durable_lag_events: Gauge,
    /// `tidegate_trimmed_total`.
    pub trimmed: Counter,
    /// `tidegate_trimmed_unacknowledged_total`.
    pub trimmed_unacknowledged: Counter,
    /// `tidegate_leader`; 0 or 1.
    pub leader: Gauge,
    /// `tidegate_standby_eligible`; 0 or 1.
    pub standby_eligible: Gauge,
    /// `tidegate_append_seconds`.
    pub append_seconds: Histogram,
    /// `tidegate_capture_lag_seconds`.
    pub capture_lag_seconds: Histogram,
    /// `tidegate_batch_events`.
    pub batch_events: Histogram,
    /// `tidegate_heartbeat_round_trip_seconds`.
    pub heartbeat_round_trip_seconds: Histogram,
    /// `tidegate_source_failovers_total`.
    pub source_failovers: Counter,
    /// `tidegate_backlog_cover_seconds`.
    pub backlog_cover_seconds: Gauge,
    /// `tidegate_replication_lag_bytes`.
    pub replication_lag_bytes: Gauge,
    route_events: [Gauge; OUTCOMES.len()],
    route_gaps: Gauge,
    last_gap_timestamp_seconds: Gauge,
    dropped: [Counter; DropReason::ALL.len()],
    gaps: [Counter; GapCause::ALL.len()],
    state: StateMetrics,
}

/// A gauge that shows nothing before something is known: a zero would alarm.
fn unknown(gauge: Gauge) -> Gauge {
    gauge.set(f64::NAN);
    gauge
}

impl CaptureMetrics {
    pub(super) fn new(route: &Register<'_>, held: SeriesGuard) -> Self {
        Self {
            received: route.counter(&catalogue::EVENTS_RECEIVED),
            stored: route.counter(&catalogue::EVENTS_STORED),
            deduplicated: route.counter(&catalogue::EVENTS_DEDUPLICATED),
            filtered: route.counter(&catalogue::EVENTS_FILTERED),
            rejected: route.counter(&catalogue::EVENTS_REJECTED),
            dead_letters: route.counter(&catalogue::DEAD_LETTERS),
            buffered_events: route.gauge(&catalogue::BUFFERED_EVENTS),
            buffered_bytes_memory: route.with("where", "memory").gauge(&catalogue::BUFFERED_BYTES),
            buffered_bytes_spool: route.with("where", "spool").gauge(&catalogue::BUFFERED_BYTES),
            last_stored_timestamp_seconds: route.gauge(&catalogue::LAST_STORED_TIMESTAMP),
            spool_unavailable: route.gauge(&catalogue::SPOOL_UNAVAILABLE),
            not_durable: route.gauge(&catalogue::NOT_DURABLE),
            gap_open: route.gauge(&catalogue::GAP_OPEN),
            durable_lag_events: route.gauge(&catalogue::DURABLE_LAG_EVENTS),
            trimmed: route.counter(&catalogue::TRIMMED),
            trimmed_unacknowledged: route.counter(&catalogue::TRIMMED_UNACKNOWLEDGED),
            leader: route.gauge(&catalogue::LEADER),
            standby_eligible: route.gauge(&catalogue::STANDBY_ELIGIBLE),
            append_seconds: route.histogram(&catalogue::APPEND_SECONDS),
            capture_lag_seconds: route.histogram(&catalogue::CAPTURE_LAG_SECONDS),
            batch_events: route.histogram(&catalogue::BATCH_EVENTS_PER_CALL),
            heartbeat_round_trip_seconds: route.histogram(&catalogue::HEARTBEAT_ROUND_TRIP_SECONDS),
            source_failovers: route.counter(&catalogue::SOURCE_FAILOVERS),
            backlog_cover_seconds: unknown(route.gauge(&catalogue::BACKLOG_COVER)),
            replication_lag_bytes: unknown(route.gauge(&catalogue::REPLICATION_LAG)),
            route_events: OUTCOMES.map(|outcome| {
                unknown(route.with("outcome", outcome).fractional_counter(&catalogue::ROUTE_EVENTS))
            }),
            route_gaps: unknown(route.fractional_counter(&catalogue::ROUTE_GAPS)),
            last_gap_timestamp_seconds: unknown(route.gauge(&catalogue::LAST_GAP_TIMESTAMP)),
            dropped: DropReason::ALL
                .map(|reason| route.with("reason", reason.as_str()).counter(&catalogue::DROPPED)),
            gaps: GapCause::ALL.map(|cause| route.with("cause", cause.as_str()).counter(&catalogue::GAPS)),
            state: StateMetrics::new(route, held),
        }
    }

    /// `tidegate_dropped_total` of one reason.
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.dropped[reason as usize]
    }

    /// `tidegate_gaps_total` of one cause.
    pub fn gap(&self, cause: GapCause) -> &Counter {
        &self.gaps[cause as usize]
    }

    /// Sets the counts of all processes since the route's state was made, once the state was read.
    pub fn ledger(&self, ledger: &Ledger) {
        let dropped = ledger.dropped.values().sum();
        let done = [ledger.received, ledger.stored, ledger.filtered, ledger.rejected, dropped];
        for (gauge, events) in self.route_events.iter().zip(done) {
            gauge.set(float(events));
        }
        self.route_gaps.set(float(ledger.gaps));
        self.last_gap_timestamp_seconds.set(float(ledger.last_gap_unix_ms.unwrap_or(0)) / 1000.0);
    }

    /// `tidegate_route_state`. Without effect once another loop has taken over the route's name, so
    /// that the end of a replaced loop does not hide the state of the one that runs.
    pub fn set_state(&self, state: RouteState) {
        self.state.set(state);
    }
}

/// The metrics of a broadcast. Dropping the last clone ends the rendering of its series.
#[derive(Clone, Debug)]
#[must_use = "the route's series are rendered only while the handles are alive"]
pub struct BroadcastMetrics {
    /// `tidegate_published_total`.
    pub published: Counter,
    /// `tidegate_published_without_subscribers_total`.
    pub without_subscribers: Counter,
    /// `tidegate_entries_filtered_total`.
    pub filtered: Counter,
    /// `tidegate_dead_letters_total`.
    pub dead_letters: Counter,
    /// `tidegate_rate_limited`; 0 or 1.
    pub rate_limited: Gauge,
    /// `tidegate_broadcast_streams`.
    pub streams: Gauge,
    /// `tidegate_broadcast_streams_left_out`.
    pub streams_left_out: Gauge,
    /// `tidegate_last_publish_timestamp_seconds`; seconds since 1970.
    pub last_publish_timestamp_seconds: Gauge,
    /// `tidegate_publish_seconds`.
    pub publish_seconds: Histogram,
    /// `tidegate_publish_lag_seconds`.
    pub publish_lag_seconds: Histogram,
    /// `tidegate_batch_events`.
    pub batch_events: Histogram,
    /// `tidegate_oldest_unacknowledged_age_seconds`.
    pub oldest_unacknowledged_age_seconds: Gauge,
    /// `tidegate_entries_lost_total`.
    pub lost: Counter,
    /// `tidegate_ack_pending_entries`.
    pub ack_pending: Gauge,
    group_changes: [Counter; GroupChange::ALL.len()],
    state: StateMetrics,
}

impl BroadcastMetrics {
    /// `tidegate_group_changes_total` of one kind.
    pub fn group_change(&self, group_change: GroupChange) -> &Counter {
        &self.group_changes[group_change as usize]
    }

    pub(super) fn new(route: &Register<'_>, held: SeriesGuard) -> Self {
        Self {
            published: route.counter(&catalogue::PUBLISHED),
            without_subscribers: route.counter(&catalogue::PUBLISHED_WITHOUT_SUBSCRIBERS),
            filtered: route.counter(&catalogue::ENTRIES_FILTERED),
            dead_letters: route.counter(&catalogue::DEAD_LETTERS),
            rate_limited: route.gauge(&catalogue::RATE_LIMITED),
            streams: route.gauge(&catalogue::BROADCAST_STREAMS),
            streams_left_out: route.gauge(&catalogue::BROADCAST_STREAMS_LEFT_OUT),
            last_publish_timestamp_seconds: route.gauge(&catalogue::LAST_PUBLISH_TIMESTAMP),
            publish_seconds: route.histogram(&catalogue::PUBLISH_SECONDS),
            publish_lag_seconds: route.histogram(&catalogue::PUBLISH_LAG_SECONDS),
            batch_events: route.histogram(&catalogue::BATCH_EVENTS_PER_CALL),
            oldest_unacknowledged_age_seconds: route.gauge(&catalogue::OLDEST_UNACKNOWLEDGED_AGE),
            lost: route.counter(&catalogue::ENTRIES_LOST),
            ack_pending: route.gauge(&catalogue::ACK_PENDING),
            group_changes: GroupChange::ALL.map(|group_change| {
                route.with("kind", group_change.as_str()).counter(&catalogue::GROUP_CHANGES)
            }),
            state: StateMetrics::new(route, held),
        }
    }

    /// `tidegate_route_state`. Without effect once another loop has taken over the route's name.
    pub fn set_state(&self, state: RouteState) {
        self.state.set(state);
    }

    /// The handles of one of several streams: it counts with the others, and what holds for the route as a whole, the
    /// route sets.
    pub fn of_one_stream(&self) -> Self {
        Self {
            rate_limited: Gauge::noop(),
            oldest_unacknowledged_age_seconds: Gauge::noop(),
            ack_pending: Gauge::noop(),
            state: self.state.silent(),
            ..self.clone()
        }
    }
}

/// The metrics of an invalidation. Dropping the last clone ends the rendering of its series.
#[derive(Clone, Debug)]
#[must_use = "the route's series are rendered only while the handles are alive"]
pub struct InvalidateMetrics {
    /// `tidegate_invalidated_total`.
    pub cleared: Counter,
    /// `tidegate_invalidated_absent_total`.
    pub absent: Counter,
    /// `tidegate_written_through_total`.
    pub written: Counter,
    /// `tidegate_invalidated_kept_total`.
    pub kept: Counter,
    /// `tidegate_fills_refused_total`.
    pub fills_refused: Counter,
    /// `tidegate_entries_filtered_total`.
    pub filtered: Counter,
    /// `tidegate_dead_letters_total`.
    pub dead_letters: Counter,
    /// `tidegate_cache_behind_seconds`.
    pub behind_seconds: Gauge,
    /// `tidegate_cache_clears_total`.
    pub sweeps: Counter,
    /// `tidegate_clear_seconds`.
    pub clear_seconds: Histogram,
    /// `tidegate_batch_events`.
    pub batch_events: Histogram,
    replays: [Counter; ReplayTrigger::ALL.len()],
    missed: [Counter; InvalidateLoss::ALL.len()],
    state: StateMetrics,
}

impl InvalidateMetrics {
    pub(super) fn new(route: &Register<'_>, held: SeriesGuard) -> Self {
        Self {
            cleared: route.counter(&catalogue::INVALIDATED),
            absent: route.counter(&catalogue::INVALIDATED_ABSENT),
            written: route.counter(&catalogue::WRITTEN_THROUGH),
            kept: route.counter(&catalogue::INVALIDATED_KEPT),
            fills_refused: route.counter(&catalogue::FILLS_REFUSED),
            filtered: route.counter(&catalogue::ENTRIES_FILTERED),
            dead_letters: route.counter(&catalogue::DEAD_LETTERS),
            behind_seconds: unknown(route.gauge(&catalogue::CACHE_BEHIND)),
            sweeps: route.counter(&catalogue::CACHE_CLEARS),
            clear_seconds: route.histogram(&catalogue::CLEAR_SECONDS),
            batch_events: route.histogram(&catalogue::BATCH_EVENTS_PER_CALL),
            replays: ReplayTrigger::ALL.map(|trigger| {
                route.with("trigger", trigger.as_str()).counter(&catalogue::INVALIDATE_REPLAYS)
            }),
            missed: InvalidateLoss::ALL
                .map(|loss| route.with("loss", loss.as_str()).counter(&catalogue::INVALIDATE_MISSED)),
            state: StateMetrics::new(route, held),
        }
    }

    /// `tidegate_invalidate_replays_total` of one trigger.
    pub fn replay(&self, trigger: ReplayTrigger) -> &Counter {
        &self.replays[trigger as usize]
    }

    /// `tidegate_invalidate_missed_total` of one kind.
    pub fn missed(&self, loss: InvalidateLoss) -> &Counter {
        &self.missed[loss as usize]
    }

    /// `tidegate_route_state`. Without effect once another loop has taken over the route's name.
    pub fn set_state(&self, state: RouteState) {
        self.state.set(state);
    }
}

/// The metrics of an endpoint. Dropping the last clone ends the rendering of its series.
#[derive(Clone, Debug)]
#[must_use = "the endpoint's series are rendered only while the handles are alive"]
pub struct EndpointMetrics {
    /// `tidegate_reconnects_total`.
    pub reconnects: Counter,
    /// What logging in there needs.
    pub credentials: CredentialMetrics,
    /// The same of the sentinels that know its servers.
    pub sentinels: Option<CredentialMetrics>,
    _held: SeriesGuard,
}

impl EndpointMetrics {
    pub(super) fn new(endpoint: &Register<'_>, credentials: CredentialMetrics, held: SeriesGuard) -> Self {
        let reconnects = endpoint.counter(&catalogue::RECONNECTS);
        Self { reconnects, credentials, sentinels: None, _held: held }
    }
}

/// The metrics of passwords and certificates. Dropping the last clone ends the rendering of their series.
#[derive(Clone, Debug)]
#[must_use = "the series are rendered only while the handles are alive"]
pub struct CredentialMetrics {
    /// The series.
    pub gauges: CredentialGauges,
    _held: SeriesGuard,
}

/// The series of [`CredentialMetrics`]; they do not keep the rendering.
#[derive(Clone, Debug)]
pub struct CredentialGauges {
    /// `tidegate_tls_certificate_expiry_timestamp_seconds` with `side="client"`.
    pub client_expiry_seconds: Gauge,
    /// The expiry with `side="server"`.
    pub server_expiry_seconds: Gauge,
    /// `tidegate_credential_files_invalid`.
    pub files_invalid: Gauge,
}

impl CredentialMetrics {
    pub(super) fn new(endpoint: &Register<'_>, held: SeriesGuard) -> Self {
        let expiry = |side| unknown(endpoint.with("side", side).gauge(&catalogue::TLS_CERTIFICATE_EXPIRY));
        let gauges = CredentialGauges {
            client_expiry_seconds: expiry("client"),
            server_expiry_seconds: expiry("server"),
            files_invalid: endpoint.gauge(&catalogue::CREDENTIAL_FILES_INVALID),
        };
        Self { gauges, _held: held }
    }
}

/// One series per state: the present one is 1.
#[derive(Clone, Debug)]
struct StateMetrics {
    series: [Gauge; RouteState::RUNNING.len()],
    held: SeriesGuard,
}

impl StateMetrics {
    fn new(route: &Register<'_>, held: SeriesGuard) -> Self {
        let series = RouteState::RUNNING
            .map(|state| route.with("state", state.as_str()).gauge(&catalogue::ROUTE_STATE));
        let this = Self { series, held };
        this.set(RouteState::Connecting);
        this
    }

    /// The same handles, without a series that shows them.
    fn silent(&self) -> Self {
        Self { series: RouteState::RUNNING.map(|_| Gauge::noop()), held: self.held.clone() }
    }

    fn set(&self, state: RouteState) {
        self.held.if_newest(|| {
            for (each, gauge) in RouteState::RUNNING.iter().zip(&self.series) {
                gauge.set(if *each == state { 1.0 } else { 0.0 });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `dropped` and `gap` index by the variant's place.
    #[test]
    fn the_lists_of_causes_and_reasons_are_in_the_order_of_their_variants() {
        assert!(GapCause::ALL.iter().enumerate().all(|(at, cause)| *cause as usize == at));
        assert!(GroupChange::ALL.iter().enumerate().all(|(at, group_change)| *group_change as usize == at));
        assert!(ReplayTrigger::ALL.iter().enumerate().all(|(at, trigger)| *trigger as usize == at));
        assert!(InvalidateLoss::ALL.iter().enumerate().all(|(at, loss)| *loss as usize == at));
        assert!(DropReason::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
    }
}
