//! Every metric that tidegate has, in the order in which it is rendered and documented.
//! `docs/metrics.md` is written from this table (`UPDATE_GOLDEN=1 cargo test docs_metrics`).

/// What a metric is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Whose life a series shares: it is rendered while one of these is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SeriesOwner {
    /// The daemon: always.
    Process,
    /// A capture, by the label `route`.
    Capture,
    /// A broadcast, by the label `route`.
    Broadcast,
    /// An invalidation, by the label `route`.
    Invalidate,
    /// A broadcast or an invalidation, by the label `route`.
    Entries,
    /// A route of any kind, by the label `route`.
    Route,
    /// A cache, by the label `server`.
    Cache,
    /// A server, by the label `server`.
    Endpoint,
}

/// One metric.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: MetricKind,
    /// The unit of the value; base units are part of the name.
    #[cfg_attr(not(test), expect(dead_code, reason = "docs/metrics.md shows it, and a test writes that"))]
    pub(super) unit: &'static str,
    /// In the order in which they are rendered.
    pub(super) labels: &'static [&'static str],
    pub(super) owner: SeriesOwner,
    /// Upper bounds, histograms only.
    pub(super) buckets: &'static [f64],
    pub(super) help: &'static str,
}

/// From a fast local append to one that waits for a disk or a far server; past 10 s a reply has
/// long counted as lost.
const REPLY_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// A lag that grows past a minute is an outage, which other metrics tell more exactly.
const LAG_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// A heartbeat that takes 5 s ends the connection.
const HEARTBEAT_SECONDS: &[f64] =
    &[0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// A full batch is about 128.
const BATCH_EVENTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

const ROUTE: &[&str] = &["route"];
const SERVER: &[&str] = &["server"];

const fn counter(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    owner: SeriesOwner,
    help: &'static str,
) -> Family {
    Family { name, kind: MetricKind::Counter, unit, labels, owner, buckets: &[], help }
}

const fn gauge(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    owner: SeriesOwner,
    help: &'static str,
) -> Family {
    Family { name, kind: MetricKind::Gauge, unit, labels, owner, buckets: &[], help }
}

const fn histogram(
    name: &'static str,
    unit: &'static str,
    owner: SeriesOwner,
    buckets: &'static [f64],
    help: &'static str,
) -> Family {
    Family { name, kind: MetricKind::Histogram, unit, labels: ROUTE, owner, buckets, help }
}

macro_rules! catalogue {
    ($($id:ident = $family:expr;)*) => {
        $(pub(super) static $id: Family = $family;)*
        /// Every metric, in order.
        pub(super) static ALL: &[&Family] = &[$(&$id),*];
    };
}

catalogue! {
    EVENTS_RECEIVED = counter("tidegate_events_received_total", "events", ROUTE, SeriesOwner::Capture,
        "Messages read from the source, each counted once, even if several subscriptions match it.");
    EVENTS_STORED = counter("tidegate_events_stored_total", "events", ROUTE, SeriesOwner::Capture,
        "Messages stored in a stream.");
    EVENTS_DEDUPLICATED = counter("tidegate_events_deduplicated_total", "events", ROUTE, SeriesOwner::Capture,
        "Messages that were stored already: the reply was lost, or another instance stored them.");
    EVENTS_FILTERED = counter("tidegate_events_filtered_total", "events", ROUTE, SeriesOwner::Capture,
        "Messages left out by the filter of the route.");
    EVENTS_REJECTED = counter("tidegate_events_rejected_total", "events", ROUTE, SeriesOwner::Capture,
        "Messages that could not become an entry; each went to the dead letters.");
    DROPPED = counter("tidegate_dropped_total", "events", &["route", "reason"], SeriesOwner::Capture,
        "Messages given up after they were received; each lies inside a recorded gap.");
    GAPS = counter("tidegate_gaps_total", "gaps", &["route", "cause"], SeriesOwner::Capture,
        "Recorded gaps: periods in which messages may have been lost.");
    ROUTE_EVENTS = counter("tidegate_route_events_total", "events", &["route", "outcome"], SeriesOwner::Capture,
        "Messages of the route since its state was created, by all processes and instances. Absent until the state was read.");
    ROUTE_GAPS = counter("tidegate_route_gaps_total", "gaps", ROUTE, SeriesOwner::Capture,
        "Recorded gaps of the route since its state was created, by all processes and instances. Absent until the state was read.");
    LAST_GAP_TIMESTAMP = gauge("tidegate_last_gap_timestamp_seconds", "seconds since 1970", ROUTE, SeriesOwner::Capture,
        "End of the last recorded gap of the route, by any process; 0 if there is none, NaN until the state was read.");
    SPOOL_UNAVAILABLE = gauge("tidegate_spool_unavailable", "0 or 1", ROUTE, SeriesOwner::Capture,
        "1 if the spool of the route cannot be used: during an outage of the destination, messages that exceed memory are lost. tidegate retries.");
    NOT_DURABLE = gauge("tidegate_not_durable", "0 or 1", ROUTE, SeriesOwner::Capture,
        "1 if stored messages have not become as durable as `durability` asks for 5 s: they are kept, and storing ends once they fill a quarter of the memory.");
    GAP_OPEN = gauge("tidegate_gap_open", "0 or 1", ROUTE, SeriesOwner::Capture,
        "1 while messages are being lost: the source is not being read, or messages are being dropped.");
    BUFFERED_EVENTS = gauge("tidegate_buffered_events", "events", ROUTE, SeriesOwner::Capture,
        "Messages received and not yet stored, rejected or dropped.");
    BUFFERED_BYTES = gauge("tidegate_buffered_bytes", "bytes", &["route", "where"], SeriesOwner::Capture,
        "Bytes of memory or disk that the buffered messages use.");
    LAST_STORED_TIMESTAMP = gauge("tidegate_last_stored_timestamp_seconds", "seconds since 1970", ROUTE, SeriesOwner::Capture,
        "Time of the last stored message; 0 before the first.");
    DURABLE_LAG_EVENTS = gauge("tidegate_durable_lag_events", "events", ROUTE, SeriesOwner::Capture,
        "Messages stored and not yet known to be durable.");
    TRIMMED = counter("tidegate_trimmed_total", "entries", ROUTE, SeriesOwner::Capture,
        "Entries trimmed from the route's streams by `keep.until_acknowledged`.");
    TRIMMED_UNACKNOWLEDGED = counter("tidegate_trimmed_unacknowledged_total", "entries", ROUTE, SeriesOwner::Capture,
        "Entries trimmed because a stream had more than `keep.entries`, before every group of `keep.until_acknowledged` had acknowledged them.");
    LEADER = gauge("tidegate_leader", "0 or 1", ROUTE, SeriesOwner::Capture,
        "1 if this instance is active: it writes.");
    STANDBY_ELIGIBLE = gauge("tidegate_standby_eligible", "0 or 1", ROUTE, SeriesOwner::Capture,
        "1 if this instance can take over without a gap.");
    APPEND_SECONDS = histogram("tidegate_append_seconds", "seconds", SeriesOwner::Capture, REPLY_SECONDS,
        "Time from sending a batch to the destination until its reply.");
    CAPTURE_LAG_SECONDS = histogram("tidegate_capture_lag_seconds", "seconds", SeriesOwner::Capture, LAG_SECONDS,
        "Time from receiving the oldest message of a batch until the reply that it is stored.");
    HEARTBEAT_ROUND_TRIP_SECONDS = histogram("tidegate_heartbeat_round_trip_seconds", "seconds", SeriesOwner::Capture, HEARTBEAT_SECONDS,
        "Time from publishing a heartbeat on the source until it arrives through the subscription.");
    PUBLISHED = counter("tidegate_published_total", "entries", ROUTE, SeriesOwner::Broadcast,
        "Messages that this process published. Each of two instances counts its own.");
    PUBLISHED_WITHOUT_SUBSCRIBERS = counter("tidegate_published_without_subscribers_total", "entries", ROUTE, SeriesOwner::Broadcast,
        "Published messages for which the server counted no subscriber on its node.");
    ENTRIES_FILTERED = counter("tidegate_entries_filtered_total", "entries", ROUTE, SeriesOwner::Entries,
        "Entries left out by the filter of the route.");
    RATE_LIMITED = gauge("tidegate_rate_limited", "0 or 1", ROUTE, SeriesOwner::Broadcast,
        "1 while rate_limit slows the route down.");
    BROADCAST_STREAMS = gauge("tidegate_broadcast_streams", "streams", ROUTE, SeriesOwner::Broadcast,
        "Streams that are read: 1 with `stream`; with `streams`, those that were found.");
    BROADCAST_STREAMS_LEFT_OUT = gauge("tidegate_broadcast_streams_left_out", "streams", ROUTE, SeriesOwner::Broadcast,
        "About how many streams match `streams` and are not read, because of `max_streams` or their names.");
    LAST_PUBLISH_TIMESTAMP = gauge("tidegate_last_publish_timestamp_seconds", "seconds since 1970", ROUTE, SeriesOwner::Broadcast,
        "Time of the last published entry; 0 before the first.");
    PUBLISH_SECONDS = histogram("tidegate_publish_seconds", "seconds", SeriesOwner::Broadcast, REPLY_SECONDS,
        "Time from sending a batch of entries until its reply.");
    PUBLISH_LAG_SECONDS = histogram("tidegate_publish_lag_seconds", "seconds", SeriesOwner::Broadcast, LAG_SECONDS,
        "Time from an entry's id until it was published, one sample for each batch. Two clocks are compared, so it is a rough measure.");
    ENTRIES_LOST = counter("tidegate_entries_lost_total", "entries", ROUTE, SeriesOwner::Broadcast,
        "Entries that were deleted or trimmed before they were read. Each occurrence is a dead letter with the reason `deleted_unread`.");
    OLDEST_UNACKNOWLEDGED_AGE = gauge("tidegate_oldest_unacknowledged_age_seconds", "seconds", ROUTE, SeriesOwner::Broadcast,
        "Age of the first entry that the group has not acknowledged, by the time in its id; 0 if there is none. Only with a group in `after`.");
    ACK_PENDING = gauge("tidegate_ack_pending_entries", "entries", ROUTE, SeriesOwner::Broadcast,
        "Unacknowledged entries that were left behind; each is published once it is acknowledged. Only with `order = \"acknowledgement\"`.");
    GROUP_CHANGES = counter("tidegate_group_changes_total", "changes", &["route", "kind"], SeriesOwner::Broadcast,
        "Changes of the consumer group after which entries may count as acknowledged although no consumer acknowledged them.");
    INVALIDATED = counter("tidegate_invalidated_total", "keys", ROUTE, SeriesOwner::Invalidate,
        "Keys that were in the cache and were removed, in the first or the second pass.");
    INVALIDATED_ABSENT = counter("tidegate_invalidated_absent_total", "keys", ROUTE, SeriesOwner::Invalidate,
        "Keys that were not in the cache in the first pass.");
    WRITTEN_THROUGH = counter("tidegate_written_through_total", "keys", ROUTE, SeriesOwner::Invalidate,
        "Keys that were in the cache with an older version, and got the value of an entry. Only with `set`.");
    INVALIDATED_KEPT = counter("tidegate_invalidated_kept_total", "keys", ROUTE, SeriesOwner::Invalidate,
        "Keys that had the version of an entry or a newer one in the first pass, and were left as they are. Only with `set`.");
    FILLS_REFUSED = counter("tidegate_fills_refused_total", "leases", ROUTE, SeriesOwner::Invalidate,
        "Leases that were removed: loads under way that may not store what they read.");
    CACHE_BEHIND = gauge("tidegate_cache_behind_seconds", "seconds", ROUTE, SeriesOwner::Invalidate,
        "How long ago the stream was last applied to its end; up to half a second while nothing happens. NaN if unknown.");
    INVALIDATE_REPLAYS = counter("tidegate_invalidate_replays_total", "replays", &["route", "trigger"], SeriesOwner::Invalidate,
        "How often entries were applied once more, because cursor, stream or configuration are others than before.");
    INVALIDATE_MISSED = counter("tidegate_invalidate_missed_total", "occurrences", &["route", "loss"], SeriesOwner::Invalidate,
        "How often changes may have been missed, so that keys may stay until their time to live ends.");
    CACHE_CLEARS = counter("tidegate_cache_clears_total", "clears", ROUTE, SeriesOwner::Invalidate,
        "How often every key of the route was removed, because changes were missed and `if_missed` is `clear`.");
    CACHE_HITS = counter("tidegate_cache_hits_total", "lookups", SERVER, SeriesOwner::Cache,
        "Lookups that found their key, by the cache's own INFO, since tidegate reads it. Scripts that store a value count once.");
    CACHE_MISSES = counter("tidegate_cache_misses_total", "lookups", SERVER, SeriesOwner::Cache,
        "Lookups that found no key, by the cache's own INFO.");
    CACHE_EVICTED = counter("tidegate_cache_evicted_keys_total", "keys", SERVER, SeriesOwner::Cache,
        "Keys that the cache removed because its memory was full, by its own INFO.");
    CACHE_EXPIRED = counter("tidegate_cache_expired_keys_total", "keys", SERVER, SeriesOwner::Cache,
        "Keys of the cache whose time to live ended, by its own INFO.");
    CACHE_MEMORY = gauge("tidegate_cache_memory_bytes", "bytes", SERVER, SeriesOwner::Cache,
        "Memory that the cache uses, by its own INFO, read every 10 s. NaN if it is not known.");
    CACHE_MEMORY_LIMIT = gauge("tidegate_cache_memory_limit_bytes", "bytes", &["server", "policy"], SeriesOwner::Cache,
        "`maxmemory` of the cache under its present `maxmemory-policy`; 0 for none. Absent while it is not known.");
    CLEAR_SECONDS = histogram("tidegate_clear_seconds", "seconds", SeriesOwner::Invalidate, REPLY_SECONDS,
        "Time from sending a batch of keys until its reply.");
    BATCH_EVENTS_PER_CALL = histogram("tidegate_batch_events", "events", SeriesOwner::Route, BATCH_EVENTS,
        "Messages or entries in one batch.");
    DEAD_LETTERS = counter("tidegate_dead_letters_total", "entries", ROUTE, SeriesOwner::Route,
        "Entries written to the route's dead letters.");
    ROUTE_STATE = gauge("tidegate_route_state", "0 or 1", &["route", "state"], SeriesOwner::Route,
        "1 for the present state of the route, 0 for the others.");
    SOURCE_FAILOVERS = counter("tidegate_source_failovers_total", "failovers", ROUTE, SeriesOwner::Capture,
        "Failovers of the source after which reading continued in the same replication history. Only messages that the old master had not replicated are lost. Replication mode only.");
    BACKLOG_COVER = gauge("tidegate_backlog_cover_seconds", "seconds", ROUTE, SeriesOwner::Capture,
        "How long an absence the source's replication backlog covers at the present write rate. NaN if unknown, and in subscribe mode.");
    REPLICATION_LAG = gauge("tidegate_replication_lag_bytes", "bytes", ROUTE, SeriesOwner::Capture,
        "Bytes of the source's replication stream that were not read yet, about a second ago. NaN if unknown, and in subscribe mode.");
    RECONNECTS = counter("tidegate_reconnects_total", "connections", &["server"], SeriesOwner::Endpoint,
        "Connections opened after one ended or could not be opened.");
    TLS_CERTIFICATE_EXPIRY = gauge("tidegate_tls_certificate_expiry_timestamp_seconds", "seconds since 1970", &["server", "side"], SeriesOwner::Endpoint,
        "Expiry of a certificate: tidegate's own (side `client`), or the first to expire of those that the servers presented last (`server`). The sentinels of a server have `.sentinel` behind its name. NaN if there is none.");
    CREDENTIAL_FILES_INVALID = gauge("tidegate_credential_files_invalid", "0 or 1", &["server"], SeriesOwner::Endpoint,
        "1 if the password file or a file of TLS of this server, or of its sentinels (`.sentinel` behind the name), cannot be used now. Open connections continue; certificates that were read before stay in use.");
    CONFIG_RELOAD_SUCCESS = gauge("tidegate_config_reload_success", "0 or 1", &[], SeriesOwner::Process,
        "1 if the configuration that was read last is in use; 0 after a reload that failed.");
    BUILD_INFO = gauge("tidegate_build_info", "1", &["version"], SeriesOwner::Process,
        "Always 1; the label has the version.");
    LOG_LINES_DROPPED = counter("tidegate_log_lines_dropped_total", "lines", &[], SeriesOwner::Process,
        "Log lines that could not be written to standard error.");
    PROCESS_CPU = counter("process_cpu_seconds_total", "seconds", &[], SeriesOwner::Process,
        "User and system CPU time.");
    PROCESS_OPEN_FDS = gauge("process_open_fds", "file descriptors", &[], SeriesOwner::Process,
        "Open file descriptors.");
    PROCESS_MAX_FDS = gauge("process_max_fds", "file descriptors", &[], SeriesOwner::Process,
        "The limit of open file descriptors; 0 means none.");
    PROCESS_VIRTUAL_MEMORY = gauge("process_virtual_memory_bytes", "bytes", &[], SeriesOwner::Process,
        "Virtual memory.");
    PROCESS_VIRTUAL_MEMORY_MAX = gauge("process_virtual_memory_max_bytes", "bytes", &[], SeriesOwner::Process,
        "The limit of virtual memory; 0 means none.");
    PROCESS_RESIDENT_MEMORY = gauge("process_resident_memory_bytes", "bytes", &[], SeriesOwner::Process,
        "Resident memory.");
    PROCESS_START_TIME = gauge("process_start_time_seconds", "seconds since 1970", &[], SeriesOwner::Process,
        "When the process started.");
    PROCESS_THREADS = gauge("process_threads", "threads", &[], SeriesOwner::Process,
        "Threads of the operating system.");
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::event::{DropReason, GapCause, InvalidateLoss, ReplayTrigger};
    use crate::metrics::CachePolicy;
    use crate::status::{GroupChange, RouteState};

    #[test]
    fn names_are_what_prometheus_expects() {
        for family in ALL {
            let name = family.name;
            assert_eq!(name.ends_with("_total"), family.kind == MetricKind::Counter, "{name}");
            assert_eq!(family.buckets.is_empty(), family.kind != MetricKind::Histogram, "{name}");
            assert!(family.buckets.is_sorted(), "{name}");
            assert!(
                !name.ends_with("_bucket") && !name.ends_with("_sum") && !name.ends_with("_count"),
                "{name}"
            );
            assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\']), "{name}");
            assert_eq!(family.unit.starts_with("seconds"), name.contains("_seconds"), "{name}");
            assert_eq!(family.unit == "bytes", name.ends_with("_bytes"), "{name}");
            assert_eq!(ALL.iter().filter(|other| other.name == name).count(), 1, "{name}");
        }
    }

    fn reference() -> String {
        let mut text = String::from(
            "# Metrics\n\n\
             `GET /metrics` in Prometheus' text format. This page is written from the table in\n\
             `src/metrics/catalogue.rs` by `UPDATE_GOLDEN=1 cargo test docs_metrics`.\n\n\
             - Counters count what this process did, and start at zero with it. `tidegate_route_…` and\n  \
               `tidegate_last_gap_timestamp_seconds` belong to the route and outlive processes: take their `max by (route)`.\n\
             - Every series that a route can have exists from its start, at zero.\n\
             - A route or server that a reload removed is no longer rendered. If it returns under the same\n  \
               name, its counters continue.\n\n\
             | name | kind | unit | labels | of | meaning |\n|---|---|---|---|---|---|\n",
        );
        for family in ALL {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let owner = match family.owner {
                SeriesOwner::Process => "the daemon",
                SeriesOwner::Capture => "each capture",
                SeriesOwner::Broadcast => "each broadcast",
                SeriesOwner::Invalidate => "each invalidation",
                SeriesOwner::Entries => "each broadcast and invalidation",
                SeriesOwner::Route => "each route",
                SeriesOwner::Cache => "each cache",
                SeriesOwner::Endpoint => "each server",
            };
            writeln!(
                text,
                "| `{}` | {} | {} | {} | {owner} | {} |",
                family.name,
                family.kind.as_str(),
                family.unit,
                labels.join(", "),
                family.help
            )
            .unwrap();
        }
        text.push_str("\n## Values of labels\n\n| label | values |\n|---|---|\n");
        let list =
            |names: Vec<&str>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        writeln!(text, "| `cause` | {} |", list(GapCause::ALL.iter().map(|c| c.as_str()).collect())).unwrap();
        writeln!(text, "| `reason` | {} |", list(DropReason::ALL.iter().map(|r| r.as_str()).collect()))
            .unwrap();
        writeln!(text, "| `state` | {} |", list(RouteState::RUNNING.iter().map(|s| s.as_str()).collect()))
            .unwrap();
        writeln!(
            text,
            "| `kind` | {} |",
            list(GroupChange::ALL.iter().map(|change| change.as_str()).collect())
        )
        .unwrap();
        let triggers = ReplayTrigger::ALL.iter().map(|trigger| trigger.as_str());
        writeln!(text, "| `trigger` | {} |", list(triggers.collect())).unwrap();
        let losses = InvalidateLoss::ALL.iter().map(|loss| loss.as_str());
        writeln!(text, "| `loss` | {} |", list(losses.collect())).unwrap();
        writeln!(text, "| `policy` | {} |", list(CachePolicy::ALL.to_vec())).unwrap();
        writeln!(text, "| `outcome` | {} |", list(crate::metrics::handles::OUTCOMES.to_vec())).unwrap();
        text.push_str(
            "| `where` | `memory`, `spool` |\n| `route`, `server` | names in the configuration |\n",
        );
        text.push_str("\n## Bounds of the buckets\n\n| name | upper bounds |\n|---|---|\n");
        for family in ALL.iter().filter(|family| family.kind == MetricKind::Histogram) {
            let bounds: Vec<String> = family.buckets.iter().map(f64::to_string).collect();
            writeln!(text, "| `{}` | {} |", family.name, bounds.join(", ")).unwrap();
        }
        text.push_str(&alerts_section());
        text
    }

    const RULES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/monitoring/alerts.yml"));
    const STAGED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/monitoring/alerts.test.yml"));

    /// A rule of `monitoring/alerts.yml`: name, expression, how long it must hold, and what it means.
    fn alerts() -> Vec<[&'static str; 4]> {
        let value = |rule: &'static str, key: &str| {
            rule.lines()
                .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "))
                .unwrap_or_default()
        };
        let rules = RULES.split("- alert: ").skip(1);
        let alert = |rule: &'static str| {
            let name = rule.lines().next().unwrap_or_default();
            [name, value(rule, "expr"), value(rule, "for"), value(rule, "summary")]
        };
        rules.map(alert).collect()
    }

    fn alerts_section() -> String {
        let mut text = String::from(
            "\n## Worth an alert\n\n\
             `monitoring/alerts.yml` has these rules for Prometheus, and `make alerts` tests each of\n\
             them. The gap alert uses the time of the last gap and not a counter: after a crash, the new process counts the gap\n\
             before its first scrape, so a counter would show no increase.\n\n\
             | alert | expression | for | what it means |\n|---|---|---|---|\n",
        );
        for [name, expression, held, summary] in alerts() {
            let expression = expression.replace('|', "\\|");
            writeln!(text, "| `{name}` | `{expression}` | {held} | {summary} |").unwrap();
        }
        text
    }

    /// An expression about a metric that does not exist never fires, and an alert that nobody staged may not.
    #[test]
    fn alerts_name_metrics_of_the_catalogue_and_are_staged() {
        let alerts = alerts();
        assert!(
            alerts.len() >= 10
                && alerts
                    .iter()
                    .all(|[_, expression, _, summary]| { !expression.is_empty() && !summary.is_empty() })
        );
        for [name, expression, ..] in alerts {
            assert!(STAGED.contains(&format!("alertname: {name}\n")), "{name} is not staged");
            let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            for metric in words.filter(|word| word.starts_with("tidegate_")) {
                assert!(ALL.iter().any(|family| family.name == metric), "{name}: {metric}");
            }
        }
    }

    #[test]
    fn docs_metrics_is_the_catalogue() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let expected = reference();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &expected).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert!(written == expected, "docs/metrics.md differs: run UPDATE_GOLDEN=1 cargo test docs_metrics");
    }
}
