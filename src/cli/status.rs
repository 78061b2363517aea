//! `tidegate status`: what the running daemon says of itself, once or again and again.
//!
//! Rates come from two readings: what was done between them, by the clock of this process.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::Refusal;
use super::output::table::{Column, Table};
use super::output::{self, Printer, tell};
use crate::config::Listen;
use crate::metrics;
use crate::observe::client;
use crate::observe::report::StatusReport;
use crate::rt;
use crate::status::{
    BroadcastCounts, CacheActivity, CacheStatus, FailedReload, InvalidateStatus, Ledger, RouteKind,
    RouteStatus,
};
use crate::text::printable::PrintableLines;

/// Between two readings, where nothing else was asked for.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// Print /status of the daemon as JSON; with --watch, one line for each reading
    #[arg(long)]
    json: bool,
    /// Print repeatedly, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Time between two readings, from which rates are computed. By default 1s on a terminal and with --watch;
    /// otherwise there is one reading without rates
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    interval: Option<Duration>,
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration >= Duration::from_millis(100) => Ok(duration),
        Ok(_) => Err("expected at least 100ms".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Asks the running daemon.
pub(super) fn status(config: &Path, arguments: &StatusArguments) -> u8 {
    let listen = match super::listen(config) {
        Ok(listen) => listen,
        Err(code) => return code,
    };
    let stop = match super::interrupt::token() {
        Ok(stop) => stop,
        Err(error) => {
            tell!("cannot listen for signals: {error}");
            return super::FAILED;
        }
    };
    super::carry_out(run(&mut output::stdout(), &listen, arguments, &stop))
}

async fn run(
    out: &mut Printer<impl Write>,
    listen: &Listen,
    arguments: &StatusArguments,
    stop: &CancellationToken,
) -> Result<u8, Refusal> {
    let terminal = io::stdout().is_terminal();
    let interval = arguments.interval.unwrap_or(INTERVAL);
    if arguments.watch {
        return watch(out, listen, arguments.json, interval, terminal, stop).await;
    }
    let body = ask(listen)?;
    if arguments.json {
        out.json_text(body.trim_end())?;
        return Ok(super::OK);
    }
    let mut reading = StatusSample::of(&body)?;
    let mut before = None;
    if (terminal || arguments.interval.is_some()) && pause(interval, stop).await {
        before = Some(reading);
        reading = StatusSample::of(&ask(listen)?)?;
    }
    out.lines(&shown(&reading, before.as_ref()))?;
    Ok(super::OK)
}

/// Prints until a signal stops it. It waits for a daemon that does not answer, to show its return.
async fn watch(
    out: &mut Printer<impl Write>,
    listen: &Listen,
    json: bool,
    interval: Duration,
    terminal: bool,
    stop: &CancellationToken,
) -> Result<u8, Refusal> {
    let mut before: Option<StatusSample> = None;
    loop {
        let answer = ask(listen).and_then(|body| Ok((StatusSample::of(&body)?, body)));
        if terminal && !json {
            // To the upper left corner, and away with what is below.
            out.write_own(b"\x1b[H\x1b[J")?;
        }
        match answer {
            Ok((_, body)) if json => out.json_text(body.trim_end())?,
            Ok((reading, _)) => {
                out.lines(&shown(&reading, before.as_ref()))?;
                if !terminal {
                    out.line("")?;
                }
                before = Some(reading);
            }
            Err(Refusal(_, why)) => {
                before = None;
                // Beside the screen it would be cleared away.
                if terminal && !json {
                    out.lines(&why)?;
                    out.line(format_args!(
                        "the daemon is asked again every {}",
                        humantime::format_duration(interval)
                    ))?;
                } else {
                    output::tell_lines(&why);
                }
            }
        }
        out.flush()?;
        if !pause(interval, stop).await {
            return Ok(super::OK);
        }
    }
}

/// Waits; false where it was told to stop.
async fn pause(interval: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(interval) => true,
    }
}

fn ask(listen: &Listen) -> Result<String, Refusal> {
    match client::get(listen.address, "/status") {
        Ok((200, body)) => Ok(body),
        Ok((code, _)) => {
            Err(Refusal::new(super::UNAVAILABLE, format!("the daemon answered with HTTP status {code}")))
        }
        Err(error) => Err(super::unreachable(listen, &error)),
    }
}

/// What the daemon said, and when.
struct StatusSample {
    report: StatusReport,
    at: Instant,
    unix_ms: u64,
}

impl StatusSample {
    fn of(body: &str) -> Result<Self, Refusal> {
        let report = serde_json::from_str(body).map_err(|error| {
            let why = format!("the daemon's answer cannot be read (is it another version?): {error}");
            Refusal::new(super::FAILED, why)
        })?;
        Ok(Self { report, at: Instant::now(), unix_ms: rt::unix_ms() })
    }
}

/// The daemon, and one line a route; with a reading before it also how fast it goes, and since when it does not.
fn shown(reading: &StatusSample, before: Option<&StatusSample>) -> PrintableLines {
    let (text, number) = (Column::Text, Column::Number);
    let mut columns = vec![text("ROUTE"), text("KIND"), text("STATE"), number("DONE")];
    if before.is_some() {
        columns.extend([number("PER SECOND"), number("LAST")]);
    }
    columns.extend([number("BUFFERED"), number("GAPS"), number("REJECTED")]);
    let has_caches = reading.report.routes.iter().any(|route| route.invalidate.is_some());
    let mut table = Table::new(columns, if has_caches { "REASON, CACHE" } else { "REASON" });
    for route in &reading.report.routes {
        let counts = RouteCounts::of(route);
        let kind = match route.kind {
            RouteKind::Capture => "capture",
            RouteKind::Broadcast => "broadcast",
            RouteKind::Invalidate => "invalidate",
        };
        let state = route.state.as_str();
        let mut cells = vec![route.route.clone(), kind.to_owned(), state.to_owned(), counts.done.to_string()];
        if let Some(before) = before {
            cells.push(rate(route, reading, before).unwrap_or_else(|| "-".to_owned()));
            cells.push(route.last_progress_unix_ms.map_or_else(
                || "-".to_owned(),
                |last| ago(Duration::from_millis(reading.unix_ms.saturating_sub(last))),
            ));
        }
        let gaps = counts.gaps.map_or_else(|| "-".to_owned(), |gaps| gaps.to_string());
        cells.extend([counts.buffered.to_string(), gaps, counts.rejected.to_string()]);
        let cache = route
            .invalidate
            .as_ref()
            .map(|shown| cache_line(shown, reading.report.caches.get(&route.destination.server)));
        let doubts = [&route.source, &route.destination].into_iter().filter_map(|side| side.doubt.clone());
        table.row(cells, route.reason.iter().cloned().chain(doubts).chain(cache).collect());
    }
    let about = &reading.report.about;
    let up = ago(Duration::from_millis(reading.unix_ms.saturating_sub(about.started_unix_ms)));
    let mut lines = PrintableLines::from(format!("tidegate {}, running for {up}", about.version));
    let daemon = &reading.report.daemon;
    if let Some(FailedReload { at_unix_ms, problems }) = daemon.reload_failed {
        let since = ago(Duration::from_millis(reading.unix_ms.saturating_sub(at_unix_ms)));
        let s = if problems == 1 { "" } else { "s" };
        lines.push(format_args!(
            "the last reload failed {since} ago ({problems} problem{s}: `tidegate check` prints them); the configuration before it \
             stays in use"
        ));
    }
    if let Some(error) = &daemon.state_directory_error {
        lines.push(error);
    }
    lines.append(&table.lines());
    lines
}

/// What a route has done, and what it holds.
#[derive(Debug, Default)]
struct RouteCounts {
    done: u64,
    buffered: u64,
    /// Of a capture only.
    gaps: Option<u64>,
    rejected: u64,
}

impl RouteCounts {
    fn of(route: &RouteStatus) -> Self {
        if let Some(InvalidateStatus { cleared, written, rejected, .. }) = &route.invalidate {
            return Self { done: cleared + written, rejected: *rejected, ..Self::default() };
        }
        match (&route.counts, &route.broadcast) {
            (Some(Ledger { stored, buffered, gaps, rejected, .. }), _) => {
                Self { done: *stored, buffered: *buffered, gaps: Some(*gaps), rejected: *rejected }
            }
            (None, Some(BroadcastCounts { published, rejected, .. })) => {
                Self { done: *published, rejected: *rejected, ..Self::default() }
            }
            (None, None) => Self::default(),
        }
    }
}

/// How far an invalidation is behind, and how its cache is.
fn cache_line(shown: &InvalidateStatus, cache: Option<&CacheStatus>) -> String {
    let mut parts = Vec::new();
    parts.extend(shown.behind_ms.map(|behind| format!("behind {behind} ms")));
    parts.push(format!("refused {}", shown.fills_refused));
    if shown.written + shown.kept > 0 {
        parts.push(format!("written {}, kept {}", shown.written, shown.kept));
    }
    let Some(cache) = cache else { return parts.join(", ") };
    if let Some(error) = &cache.error {
        parts.push(format!("cache unknown: {error}"));
    } else if cache.read_unix_ms.is_some() {
        let CacheStatus { memory_bytes, memory_limit_bytes, policy, lately, .. } = cache;
        let CacheActivity { over_ms, hits, misses, evicted, .. } = lately.unwrap_or_default();
        if hits + misses > 0 {
            let share = metrics::float(hits) * 100.0 / metrics::float(hits + misses);
            parts.push(format!("cache hits {share:.1} %"));
        }
        // As servers count: 32mb are 32 times 1024 times 1024.
        let mb = |bytes: u64| format!("{:.0}", metrics::float(bytes) / 1_048_576.0);
        let of =
            if *memory_limit_bytes == 0 { String::new() } else { format!(" of {}", mb(*memory_limit_bytes)) };
        parts.push(format!("{}{of} MB {policy}", mb(*memory_bytes)));
        if over_ms > 0 {
            let rate = metrics::float(evicted) * 1000.0 / metrics::float(over_ms);
            parts.push(format!("evicted {rate:.0}/s"));
        }
    }
    parts.join(", ")
}

/// What was done in a second; none if the route was not there before, or counts anew.
fn rate(route: &RouteStatus, now: &StatusSample, before: &StatusSample) -> Option<String> {
    let known = before.report.routes.iter().find(|known| known.route == route.route)?;
    let done = RouteCounts::of(route).done.checked_sub(RouteCounts::of(known).done)?;
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
    (seconds > 0.0).then(|| format!("{:.0}", metrics::float(done) / seconds))
}

/// A distance of time in one unit.
fn ago(distance: Duration) -> String {
    match distance.as_secs() {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7199 => format!("{}m", seconds / 60),
        seconds @ 7200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::report::About;
    use crate::status::RouteState;

    fn reading(at: Instant, appended: u64, published: u64) -> StatusSample {
        let about = About {
            version: "0.9.0".to_owned(),
            instance: String::new(),
            started_unix_ms: 1_000,
            configuration: std::path::PathBuf::new(),
        };
        let mut orders = RouteStatus::new("orders", RouteKind::Capture, "shop", "events", 0);
        orders.state = RouteState::Live;
        orders.counts =
            Some(Ledger { stored: appended, buffered: 7, gaps: 2, rejected: 3, ..Ledger::default() });
        orders.last_progress_unix_ms = Some(95_000);
        let mut stock = RouteStatus::new("stock", RouteKind::Broadcast, "events", "shop", 0);
        stock.reason = Some("no answer".to_owned());
        stock.broadcast = Some(BroadcastCounts { published, rejected: 4, ..BroadcastCounts::default() });
        let routes = vec![orders, stock];
        let report = StatusReport { about, daemon: Default::default(), routes, caches: Default::default() };
        StatusSample { report, at, unix_ms: 100_000 }
    }

    #[test]
    fn rates_are_what_was_done_between_two_readings() {
        let start = Instant::now();
        let (before, after) = (reading(start, 1_000, 50), reading(start + Duration::from_secs(2), 4_000, 20));
        let words: Vec<Vec<String>> = shown(&after, Some(&before))
            .iter()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        assert_eq!(words[0].join(" "), "tidegate 0.9.0, running for 99s");
        assert_eq!(words[2], ["orders", "capture", "live", "4000", "1500", "5s", "7", "2", "3"]);
        // Its counts went back: there is no rate to be known.
        assert_eq!(
            words[3],
            ["stock", "broadcast", "connecting", "20", "-", "-", "0", "-", "4", "no", "answer"]
        );
        let once = shown(&after, None).to_string();
        assert_eq!(once.lines().count(), words.len(), "the daemon has no more to say");
        assert!(!once.contains("PER SECOND") && !once.contains("1500"), "{once}");
    }

    #[test]
    fn an_invalidation_shows_how_its_cache_is() {
        let route = InvalidateStatus { behind_ms: Some(3), fills_refused: 12, ..InvalidateStatus::default() };
        let lately = CacheActivity { over_ms: 10_000, hits: 962, misses: 38, evicted: 120, expired: 0 };
        let mut cache = CacheStatus {
            read_unix_ms: Some(1),
            memory_bytes: 27 << 20,
            memory_limit_bytes: 32 << 20,
            policy: "allkeys-lru".to_owned(),
            lately: Some(lately),
            error: None,
        };
        let expected = "behind 3 ms, refused 12, cache hits 96.2 %, 27 of 32 MB allkeys-lru, evicted 12/s";
        assert_eq!(cache_line(&route, Some(&cache)), expected);
        (cache.lately, cache.memory_limit_bytes) = (None, 0);
        let expected = "behind 3 ms, refused 12, 27 MB allkeys-lru";
        assert_eq!(cache_line(&route, Some(&cache)), expected);
        cache.error = Some("NOPERM".to_owned());
        assert_eq!(cache_line(&route, Some(&cache)), "behind 3 ms, refused 12, cache unknown: NOPERM");
        assert_eq!(cache_line(&route, Some(&CacheStatus::default())), "behind 3 ms, refused 12");
        assert_eq!(cache_line(&InvalidateStatus::default(), None), "refused 0");
        let writes = InvalidateStatus { written: 7, kept: 2, ..InvalidateStatus::default() };
        assert_eq!(cache_line(&writes, None), "refused 0, written 7, kept 2");
        let mut reading = reading(Instant::now(), 0, 0);
        let mut products = RouteStatus::new("products", RouteKind::Invalidate, "events", "cache", 0);
        products.invalidate = Some(route);
        reading.report.routes = vec![products];
        reading.report.caches.insert("cache".to_owned(), cache);
        let lines = shown(&reading, None).to_string();
        assert!(lines.contains("REASON, CACHE") && lines.contains("cache unknown: NOPERM"), "{lines}");
    }

    #[test]
    fn what_is_wrong_with_the_daemon_stands_above_its_routes() {
        let mut failed = reading(Instant::now(), 0, 0);
        failed.report.daemon.reload_failed = Some(FailedReload { at_unix_ms: 40_000, problems: 2 });
        failed.report.daemon.state_directory_error = Some("/var/lib/tidegate: no such directory".to_owned());
        let lines: Vec<String> = shown(&failed, None).iter().map(str::to_owned).collect();
        assert!(lines[1].starts_with("the last reload failed 60s ago (2 problems"), "{lines:?}");
        assert_eq!(lines[2], "/var/lib/tidegate: no such directory");
    }

    #[test]
    fn distances_have_one_unit() {
        let shown = [0, 119, 120, 7_199, 7_200, 172_800].map(|seconds| ago(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0s", "119s", "2m", "119m", "2h", "2d"]);
    }
}
