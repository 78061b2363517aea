//! Promise: what a cache reports of itself is shown once, whatever the number of its routes, and no route depends on it.

use super::{PATIENCE, cached, change, fill_all, route, setup, wait_applied};
use crate::support::{Daemon, Options, Server, Setup, Version, alert, eventually};
use tidegate::observe::report::StatusReport;
use tidegate::status::CacheStatus;

/// What `/status` says of the cache.
fn status(daemon: &Daemon) -> Result<CacheStatus, String> {
    let (_, body) = daemon.get("/status").map_err(|error| error.to_string())?;
    let report: StatusReport = serde_json::from_str(&body).map_err(|error| error.to_string())?;
    report.caches.get("cache").cloned().ok_or_else(|| "no cache".to_owned())
}

/// A metric of the cache; its series is there once.
fn metric(daemon: &Daemon, name: &str) -> u64 {
    let (_, metrics) = daemon.get("/metrics").expect("it answers");
    let series = format!("{name}{{server=\"cache\"}} ");
    let values: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix(&series)).collect();
    assert_eq!(values.len(), 1, "{name}: {metrics}");
    values[0].parse().unwrap_or_else(|error| panic!("{name}: {error}: {}", values[0]))
}

fn wait_metric(daemon: &Daemon, name: &str, expected: u64) {
    eventually(name, PATIENCE, || match metric(daemon, name) {
        found if found == expected => Ok(()),
        found => Err(format!("{found}, and not {expected}")),
    });
}

/// Waits for a reading that compares with the one before.
fn wait_compared(daemon: &Daemon) {
    eventually("two readings are compared", PATIENCE, || {
        let cache = status(daemon)?;
        if cache.lately.is_some() && cache.error.is_none() { Ok(()) } else { Err(format!("{cache:?}")) }
    });
}

fn look_up(cache: &Server, prefix: &str, count: usize) {
    let mut pipeline = redis::pipe();
    for number in 0..count {
        pipeline.cmd("GET").arg(format!("{prefix}:{number}")).ignore();
    }
    pipeline.exec(&mut cache.connection()).expect("the cache answers");
}

#[test]
fn what_the_cache_reports_is_counted_once_and_outlives_its_restart() {
    let options = Options::default().with("maxmemory", "100mb").with("maxmemory-policy", "allkeys-lru");
    let (events, mut cache) = (Server::start(Version::Redis82), Server::with(Version::Redis82, options));
    let other = route("").replace("invalidate.products", "invalidate.others").replace("product:", "other:");
    let routes = format!("{}{other}", route(""));
    let setup = Setup::new().endpoint("events", &events).endpoint("cache", &cache);
    let daemon = setup.routes(&routes).expects(&[alert::CACHE, alert::REPLAY]).start_ready();
    wait_compared(&daemon);
    let shown = status(&daemon).unwrap();
    assert_eq!((shown.memory_limit_bytes, shown.policy.as_str()), (100 << 20, "allkeys-lru"), "{shown:?}");
    assert!(shown.memory_bytes > 100_000, "{shown:?}");
    let (_, metrics) = daemon.get("/metrics").expect("it answers");
    let limit = "tidegate_cache_memory_limit_bytes{server=\"cache\",policy=\"allkeys-lru\"} 104857600";
    assert!(metrics.lines().any(|line| line == limit), "{metrics}");

    let clients: String = cache.ask(&["CLIENT", "LIST"]);
    assert_eq!(clients.matches("cache-info").count(), 1, "one watch for both routes: {clients}");

    let misses = metric(&daemon, "tidegate_cache_misses_total");
    look_up(&cache, "nothing", 70);
    fill_all(&cache, 0..30);
    look_up(&cache, "product", 30);
    wait_metric(&daemon, "tidegate_cache_misses_total", misses + 70);
    assert!(metric(&daemon, "tidegate_cache_hits_total") >= 30);
    let output = daemon.run_command(&["status"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(" of 100 MB allkeys-lru, evicted 0/s"), "{said}");

    // Its counts begin anew: what was counted stays.
    let before = status(&daemon).unwrap().read_unix_ms;
    cache.kill();
    cache.start_again();
    eventually("the new process is read", PATIENCE, || {
        let shown = status(&daemon)?;
        if shown.error.is_none() && shown.read_unix_ms > before { Ok(()) } else { Err(format!("{shown:?}")) }
    });
    wait_compared(&daemon);
    let misses = metric(&daemon, "tidegate_cache_misses_total");
    assert!(misses >= 70, "{misses}");
    look_up(&cache, "nothing", 5);
    wait_metric(&daemon, "tidegate_cache_misses_total", misses + 5);
}

#[test]
fn a_cache_that_refuses_to_report_is_cleared_all_the_same() {
    let (events, cache) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
    let prepared = setup(&events, &cache, "").expects(&[alert::CACHE_INFO]);
    let mut daemon = prepared.prepare();
    cache.ask::<()>(&["ACL", "SETUSER", "tidegate-cache", "-info"]);
    daemon.start_again();
    daemon.wait_ready();
    eventually("the refusal is shown", PATIENCE, || {
        let shown = status(&daemon)?;
        if shown.error.is_some_and(|error| error.contains("NOPERM")) {
            Ok(())
        } else {
            Err("none".to_owned())
        }
    });
    eventually("it is asked again", PATIENCE, || {
        let stats: String = cache.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with("cmdstat_info:")).unwrap_or_default();
        let rejected = line.split_once("rejected_calls=").and_then(|(_, rest)| rest.split(',').next());
        match rejected.and_then(|count| count.parse::<u32>().ok()) {
            Some(2..) => Ok(()),
            _ => Err(stats),
        }
    });
    fill_all(&cache, 0..1);
    wait_applied(&cache, &change(&events, 0));
    assert_eq!(cached(&cache), [""; 0]);
    let (_, metrics) = daemon.get("/metrics").expect("it answers");
    assert!(metrics.contains("tidegate_cache_memory_bytes{server=\"cache\"} NaN"), "{metrics}");
    cache.ask::<()>(&["ACL", "SETUSER", "tidegate-cache", "+info"]);
    wait_compared(&daemon);
    let refused = "cache_info_refused";
    let told = daemon.log().into_iter().filter(|line| line.event.as_deref() == Some(refused)).count();
    assert_eq!(told, 1, "it is said once");
}
