//! The metrics: one catalogue, and handles that the loops keep.
//!
//! **Problem.** Loops count on the hot path, people scrape, and a dashboard breaks when a name moves.
//!
//! **Constraints.** A handle costs some 20 ns a call and a lookup by name ten times that, so handles
//! are kept and recorded into once a batch. Nothing is global: two daemons in one test process must
//! not count into each other. Counters are this process's. Exceptions are the counters of a route's ledger,
//! which is in its state and outlives processes.
//!
//! **Operation.** `catalogue` has every name, kind, unit, label and help text. [`Metrics`] owns the
//! recorder. [`Metrics::capture`], [`Metrics::broadcast`], [`Metrics::invalidate`], [`Metrics::cache`] and
//! [`Metrics::endpoint`] register at once every series that a route, a cache or an endpoint can have, so that zero is
//! visible from the start.
//!
//! **Removal.** The recorder cannot forget a series. A route's series are rendered as long as a handle
//! to them is alive (`live`), and hidden after that. What stays is memory, bounded by how many
//! different names one process has had. A route that comes back under its name counts on from where
//! it was, which is what a counter should do, and its gauges begin at zero.
//!
//! **Failure.** There is none to handle: registering and recording cannot fail.

mod cache;
mod catalogue;
mod exposition;
mod handles;
mod live;
mod process;

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

pub use self::cache::{CacheMetrics, CachePolicy};
use self::catalogue::{Family, MetricKind, SeriesOwner};
pub use self::handles::{
    BroadcastMetrics, CaptureMetrics, CredentialGauges, CredentialMetrics, EndpointMetrics, InvalidateMetrics,
};
use self::live::{Live, SeriesGuard};
use self::process::ProcessMetrics;

/// The daemon's metrics. Cheap to clone: every clone is the same set.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Whether the configuration that was last read is the one that runs: 1, or 0 after a reload that
    /// was refused.
    pub config_reload_success: Gauge,
    inner: Arc<Registry>,
}

#[derive(Debug)]
struct Registry {
    recorder: PrometheusRecorder,
    live: Live,
    process: ProcessMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Makes a set with the metrics of the process registered.
    #[must_use]
    pub fn new() -> Self {
        let recorder = catalogue::ALL
            .iter()
            .filter(|family| !family.buckets.is_empty())
            .fold(PrometheusBuilder::new(), |builder, family| {
                let name = Matcher::Full(family.name.to_owned());
                // The one error is an empty list, and those are filtered out above.
                builder.set_buckets_for_metric(name, family.buckets).unwrap_or_default()
            })
            .build_recorder();
        let register = Register { recorder: &recorder, labels: Vec::new(), fresh: true };
        register.with("version", env!("CARGO_PKG_VERSION")).gauge(&catalogue::BUILD_INFO).set(1.0);
        let config_reload_success = register.gauge(&catalogue::CONFIG_RELOAD_SUCCESS);
        // A daemon that runs has read its configuration.
        config_reload_success.set(1.0);
        let process = ProcessMetrics::new(&register);
        Self { config_reload_success, inner: Arc::new(Registry { recorder, live: Live::default(), process }) }
    }

    /// The handles of a capture. Its series are rendered until the last clone is dropped.
    pub fn capture(&self, route: &str) -> CaptureMetrics {
        let held = self.inner.live.hold(SeriesOwner::Capture, route);
        CaptureMetrics::new(&self.register(&held).with("route", route), held)
    }

    /// The handles of a broadcast. Its series are rendered until the last clone is dropped.
    pub fn broadcast(&self, route: &str) -> BroadcastMetrics {
        let held = self.inner.live.hold(SeriesOwner::Broadcast, route);
        BroadcastMetrics::new(&self.register(&held).with("route", route), held)
    }

    /// The handles of an invalidation. Its series are rendered until the last clone is dropped.
    pub fn invalidate(&self, route: &str) -> InvalidateMetrics {
        let held = self.inner.live.hold(SeriesOwner::Invalidate, route);
        InvalidateMetrics::new(&self.register(&held).with("route", route), held)
    }

    /// The handles of an endpoint. Its series are rendered until the last clone is dropped.
    pub fn endpoint(&self, name: &str) -> EndpointMetrics {
        let held = self.inner.live.hold(SeriesOwner::Endpoint, name);
        EndpointMetrics::new(&self.register(&held).with("server", name), self.credentials(name), held)
    }

    /// The handles of a cache. Its series are rendered until the last clone is dropped.
    pub fn cache(&self, name: &str) -> CacheMetrics {
        let held = self.inner.live.hold(SeriesOwner::Cache, name);
        CacheMetrics::new(&self.register(&held).with("server", name), held)
    }

    /// The handles of what logging in to an endpoint, or to its sentinels, needs. The series are rendered until the last
    /// clone is dropped.
    pub fn credentials(&self, name: &str) -> CredentialMetrics {
        let held = self.inner.live.hold(SeriesOwner::Endpoint, name);
        CredentialMetrics::new(&self.register(&held).with("server", name), held)
    }

    /// Everything as Prometheus reads it, text format 0.0.4, in the catalogue's order.
    #[must_use]
    pub fn render(&self) -> String {
        self.inner.process.collect();
        exposition::compose(&self.inner.recorder.handle().render(), &self.inner.live)
    }

    /// Moves recorded samples into their buckets. Call it every few seconds, scraped or not: samples
    /// that nobody drains stay in memory at 16 bytes each.
    pub fn upkeep(&self) {
        self.inner.recorder.handle().run_upkeep();
    }

    fn register(&self, held: &SeriesGuard) -> Register<'_> {
        Register { recorder: &self.inner.recorder, labels: Vec::new(), fresh: held.is_first() }
    }
}

/// The name of every metric, in the order in which they are rendered.
pub fn names() -> impl Iterator<Item = &'static str> {
    catalogue::ALL.iter().map(|family| family.name)
}

/// A number of things as a metric's value: exact up to 2⁵³.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float; past 2^53 the last digits do not matter")]
#[must_use]
pub fn float(value: u64) -> f64 {
    value as f64
}

/// The door to the recorder: a series can only be made from the catalogue.
struct Register<'a> {
    recorder: &'a PrometheusRecorder,
    labels: Vec<Label>,
    /// True if nobody else holds these series: what a gauge last said is then out of date.
    fresh: bool,
}

impl Register<'_> {
    fn with(&self, key: &'static str, value: &str) -> Self {
        let mut labels = self.labels.clone();
        labels.push(Label::new(key, value.to_owned()));
        Self { recorder: self.recorder, labels, fresh: self.fresh }
    }

    fn counter(&self, family: &'static Family) -> Counter {
        self.recorder.register_counter(&self.key(family, MetricKind::Counter), &METADATA)
    }

    fn gauge(&self, family: &'static Family) -> Gauge {
        let gauge = self.recorder.register_gauge(&self.key(family, MetricKind::Gauge), &METADATA);
        if self.fresh {
            gauge.set(0.0);
        }
        gauge
    }

    /// A counter with fractions: the recorder's own counters are whole, its gauges are not.
    fn fractional_counter(&self, family: &'static Family) -> Gauge {
        self.recorder.register_gauge(&self.key(family, MetricKind::Counter), &METADATA)
    }

    fn histogram(&self, family: &'static Family) -> Histogram {
        self.recorder.register_histogram(&self.key(family, MetricKind::Histogram), &METADATA)
    }

    fn key(&self, family: &'static Family, kind: MetricKind) -> Key {
        debug_assert_eq!(family.kind, kind, "{}", family.name);
        debug_assert!(
            family.labels.iter().copied().eq(self.labels.iter().map(Label::key)),
            "{} has the labels {:?}",
            family.name,
            family.labels
        );
        Key::from_parts(family.name, self.labels.clone())
    }
}

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::event::{DropReason, GapCause};
    use crate::status::{CacheActivity, Ledger, RouteState};

    fn find(name: &str) -> Option<&'static Family> {
        catalogue::ALL.iter().copied().find(|family| family.name == name)
    }

    /// A set with one of everything.
    fn full()
    -> (Metrics, CaptureMetrics, BroadcastMetrics, EndpointMetrics, (InvalidateMetrics, CacheMetrics)) {
        let metrics = Metrics::new();
        let capture = metrics.capture("orders");
        capture.ledger(&Ledger::default());
        let broadcast = metrics.broadcast("stock");
        let endpoint = metrics.endpoint("shop");
        let invalidate = (metrics.invalidate("products"), metrics.cache("cache"));
        invalidate.1.read(None, 0, 0, CachePolicy::of("noeviction"));
        (metrics, capture, broadcast, endpoint, invalidate)
    }

    #[test]
    fn what_is_rendered_is_exactly_the_catalogue() {
        let (metrics, ..) = &full();
        let text = metrics.render();
        let headers: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let catalogue: Vec<String> =
            catalogue::ALL.iter().map(|family| format!("{} {}", family.name, family.kind.as_str())).collect();
        assert_eq!(headers, catalogue);

        let mut found = BTreeSet::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, labels) = exposition::split(line);
            let family = find(name)
                .or_else(|| find(name.strip_suffix("_bucket")?))
                .or_else(|| find(name.strip_suffix("_sum")?))
                .or_else(|| find(name.strip_suffix("_count")?))
                .unwrap_or_else(|| panic!("not in the catalogue: {line}"));
            let keys: Vec<&str> = labels
                .split(',')
                .filter_map(|pair| pair.split('=').next())
                .filter(|k| *k != "le" && !k.is_empty())
                .collect();
            assert_eq!(keys, family.labels, "{line}");
            found.insert(family.name);
        }
        assert_eq!(found.len(), catalogue::ALL.len(), "every family has a series from the start");
    }

    #[test]
    fn every_series_of_a_route_is_there_at_zero() {
        let (metrics, ..) = &full();
        let text = metrics.render();
        for cause in GapCause::ALL {
            let line = format!("tidegate_gaps_total{{route=\"orders\",cause=\"{}\"}} 0", cause.as_str());
            assert!(text.lines().any(|l| l == line), "{line}");
        }
        for reason in DropReason::ALL {
            let line = format!("tidegate_dropped_total{{route=\"orders\",reason=\"{}\"}} 0", reason.as_str());
            assert!(text.lines().any(|l| l == line), "{line}");
        }
        assert!(text.contains("tidegate_append_seconds_count{route=\"orders\"} 0"));
        assert!(text.contains("tidegate_published_total{route=\"stock\"} 0"));
        assert!(text.contains("tidegate_reconnects_total{server=\"shop\"} 0"));
    }

    /// A process that has just started knows nothing of the route: a zero would look like a reset.
    #[test]
    fn what_outlives_processes_is_absent_until_it_is_known() {
        let metrics = Metrics::new();
        let capture = metrics.capture("orders");
        let text = metrics.render();
        assert!(
            !text.contains("tidegate_route_gaps_total{") && !text.contains("tidegate_route_events_total{"),
            "{text}"
        );
        assert!(text.contains("tidegate_last_gap_timestamp_seconds{route=\"orders\"} NaN"), "{text}");
        capture.ledger(&Ledger { gaps: 4, last_gap_unix_ms: Some(5_500), ..Ledger::default() });
        let text = metrics.render();
        assert!(text.contains("tidegate_route_gaps_total{route=\"orders\"} 4"), "{text}");
        assert!(text.contains("tidegate_last_gap_timestamp_seconds{route=\"orders\"} 5.5"), "{text}");
        assert!(
            text.contains("tidegate_route_events_total{route=\"orders\",outcome=\"received\"} 0"),
            "{text}"
        );
    }

    #[test]
    fn each_cause_and_reason_counts_into_its_own_series() {
        let (metrics, capture, ..) = &full();
        capture.gap(GapCause::SourceSilent).increment(3);
        capture.dropped(DropReason::Stale).increment(4);
        let text = metrics.render();
        assert!(text.contains("tidegate_gaps_total{route=\"orders\",cause=\"source_silent\"} 3"));
        assert!(text.contains("tidegate_dropped_total{route=\"orders\",reason=\"stale\"} 4"));
    }

    fn state_of(text: &str, route: &str) -> Vec<String> {
        let prefix = format!("tidegate_route_state{{route=\"{route}\",state=\"");
        text.lines()
            .filter_map(|line| line.strip_prefix(&prefix)?.strip_suffix("\"} 1").map(str::to_owned))
            .collect()
    }

    #[test]
    fn one_state_is_set_and_a_replaced_loop_cannot_take_it_back() {
        let metrics = Metrics::new();
        let old = metrics.capture("orders");
        assert_eq!(state_of(&metrics.render(), "orders"), ["connecting"]);
        old.set_state(RouteState::Live);
        assert_eq!(state_of(&metrics.render(), "orders"), ["live"]);

        old.last_stored_timestamp_seconds.set(5.0);
        let new = metrics.capture("orders");
        let line = "tidegate_last_stored_timestamp_seconds{route=\"orders\"} 5";
        assert!(metrics.render().contains(line), "a reload does not take values back");
        new.set_state(RouteState::Live);
        old.set_state(RouteState::Stopped);
        assert_eq!(state_of(&metrics.render(), "orders"), ["live"]);
        drop(old);
        new.set_state(RouteState::Blocked);
        assert_eq!(state_of(&metrics.render(), "orders"), ["blocked"]);
    }

    #[test]
    fn a_removed_route_is_no_longer_rendered_and_counts_on_when_it_comes_back() {
        let (metrics, capture, broadcast, endpoint, invalidate) = full();
        capture.received.increment(5);
        capture.buffered_events.set(7.0);
        let clone = capture.clone();
        drop((capture, broadcast, endpoint, invalidate));
        assert!(metrics.render().contains("tidegate_events_received_total{route=\"orders\"} 5"));

        drop(clone);
        let text = metrics.render();
        assert!(!text.contains("orders") && !text.contains("stock") && !text.contains("shop"), "{text}");
        assert!(!text.contains("# TYPE tidegate_events_received_total"), "no header without a series");

        // A broadcast under the capture's old name shows the broadcast's series only.
        let other = metrics.broadcast("orders");
        let text = metrics.render();
        assert!(text.contains("tidegate_published_total{route=\"orders\"} 0"));
        assert_eq!(state_of(&text, "orders"), ["connecting"], "what both kinds have is shown for either");
        assert!(!text.contains("tidegate_events_received_total"));
        drop(other);

        let again = metrics.capture("orders");
        again.received.increment(1);
        let text = metrics.render();
        assert!(text.contains("tidegate_events_received_total{route=\"orders\"} 6"));
        assert!(text.contains("tidegate_buffered_events{route=\"orders\"} 0"));
    }

    #[test]
    fn a_cache_shows_its_present_policy_and_what_it_did_is_added_up() {
        let metrics = Metrics::new();
        let (old, cache) = (metrics.cache("cache"), metrics.cache("cache"));
        let lru = CachePolicy::of("allkeys-lru");
        let activity = CacheActivity { hits: 3, evicted: 2, ..CacheActivity::default() };
        cache.read(None, 5, 9, CachePolicy::of("noeviction"));
        cache.read(Some(activity), 7, 9, lru);
        cache.read(Some(activity), 7, 9, lru);
        // The loop of a replaced endpoint counts no more.
        old.read(Some(activity), 1, 1, lru);
        let text = metrics.render();
        for line in [
            "tidegate_cache_hits_total{server=\"cache\"} 6",
            "tidegate_cache_misses_total{server=\"cache\"} 0",
            "tidegate_cache_evicted_keys_total{server=\"cache\"} 4",
            "tidegate_cache_memory_bytes{server=\"cache\"} 7",
            "tidegate_cache_memory_limit_bytes{server=\"cache\",policy=\"allkeys-lru\"} 9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("noeviction"), "{text}");
        cache.unread();
        let text = metrics.render();
        assert!(text.contains("tidegate_cache_memory_bytes{server=\"cache\"} NaN"), "{text}");
        assert!(text.contains("tidegate_cache_hits_total{server=\"cache\"} 6"), "{text}");
    }

    #[test]
    fn histograms_fill_their_buckets_and_upkeep_keeps_the_samples() {
        let (metrics, capture, ..) = &full();
        capture.batch_events.record(100.0);
        metrics.upkeep();
        capture.batch_events.record(1.0);
        let text = metrics.render();
        assert!(text.contains("tidegate_batch_events_bucket{route=\"orders\",le=\"64\"} 1"), "{text}");
        assert!(text.contains("tidegate_batch_events_bucket{route=\"orders\",le=\"128\"} 2"));
        assert!(text.contains("tidegate_batch_events_count{route=\"orders\"} 2"));
    }

    #[test]
    fn two_sets_do_not_count_into_each_other() {
        let (one, capture, ..) = &full();
        let (two, ..) = &full();
        capture.stored.increment(9);
        assert!(one.render().contains("tidegate_events_stored_total{route=\"orders\"} 9"));
        assert!(two.render().contains("tidegate_events_stored_total{route=\"orders\"} 0"));
    }

    #[test]
    fn the_process_is_measured() {
        let text = Metrics::new().render();
        let value = |name: &str| -> f64 {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
                .unwrap_or_else(|| panic!("{name}"))
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_start_time_seconds") > 1_600_000_000.0);
        assert!(text.contains("# TYPE process_cpu_seconds_total counter"));
        assert!(
            text.contains(&format!("tidegate_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")))
        );
    }
}
