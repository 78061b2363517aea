//! Invalidations: how close they come to a client that sends the same scripts, and how soon an outage is caught up.
//!
//! ```text
//! stream of entries ──▶ ideal client or daemon ──clear.lua──▶ cache
//! ```
//!
//! Stream and cache are two servers, so that the cache's processor time is that of the removals. All entries appear at
//! once, by RENAME: their reader is connected already, and is not measured while it starts.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::ideal_invalidate::{self, STREAM};
use crate::plan::Plan;
use crate::sample::{Sample, Spread};
use crate::support::{Daemon, Server, Setup, Version};
use crate::throughput::{PAIRS, Row, Runner, cpu, in_turns};

pub(crate) const IDEAL_INVALIDATE: &str = "ideal client, clear.lua";
pub(crate) const INVALIDATE: &str = "invalidation";

/// Where entries wait before the stream is there.
const WAITING: &str = "waiting";
/// Keys that each have a value and a lease, and an entry.
const KEYS: u64 = 200_000;
/// An hour at 1,000 changes a second…
const HOUR: u64 = 3_600_000;
/// …of this number of keys.
const KEYS_OF_HOUR: u64 = 100_000;
const HOURS: usize = 3;
/// Commands in one write while servers are filled.
const PIPELINE: u64 = 1_000;
/// How often the cursor is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long nothing may move.
const PATIENCE: Duration = Duration::from_secs(60);
/// Digits of a key's number: payloads are equally long.
const DIGITS: usize = 9;

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invalidations {
    /// Each entry about one key, which is there with its lease.
    pub(crate) row: Row,
    /// Entries of the backlog that was caught up.
    pub(crate) backlog: u64,
    /// Seconds until all of them were applied, with the second pass on.
    pub(crate) caught_up_seconds: Spread,
}

pub(crate) fn measure(plan: Plan) -> Invalidations {
    let keys = plan.count(50_000, KEYS);
    let runners: [Runner<'_>; 2] =
        [(IDEAL_INVALIDATE, Box::new(move || ideal(keys))), (INVALIDATE, Box::new(move || daemon(keys)))];
    let payload = payload(0).len();
    let row = in_turns(Cell::of_bytes(payload), plan.pairs(1, PAIRS), &runners);
    if let Some(ratio) = row.ratio(INVALIDATE, IDEAL_INVALIDATE) {
        println!("{INVALIDATE}: {ratio} of the ideal client's throughput");
    }
    let backlog = plan.count(20_000, HOUR);
    let seconds = (0..plan.pairs(1, HOURS)).map(|_| {
        let seconds = catch_up(backlog);
        println!("{backlog} entries caught up in {seconds:.1} s");
        seconds
    });
    Invalidations { row, backlog, caught_up_seconds: Spread::of(seconds) }
}

/// Both servers, with entries that wait and keys that are there.
struct Servers {
    events: Server,
    cache: Server,
    last: String,
    entries: u64,
}

impl Servers {
    fn new(entries: u64, keys: u64) -> Self {
        let (events, cache) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
        let mut connection = cache.connection();
        in_pipelines(&mut connection, keys, |pipeline, number| {
            let key = format!("product:{number:0DIGITS$}");
            let lease = format!("{key}:tidegate");
            pipeline.cmd("MSET").arg(&[&key, "a value", &lease, "a token"]).ignore();
        });
        let mut connection = events.connection();
        in_pipelines(&mut connection, entries, |pipeline, number| {
            pipeline.cmd("XADD").arg(&[WAITING, "*", "payload", &payload(number % keys)]).ignore();
        });
        let found: Vec<(String, Vec<String>)> = events.ask(&["XREVRANGE", WAITING, "+", "-", "COUNT", "1"]);
        let last = found.into_iter().next().expect("there are entries").0;
        Self { events, cache, last, entries }
    }

    /// A daemon that waits for the entries.
    fn start(&self, lines: &str) -> Daemon {
        let route = format!(
            r#"
            [invalidate.bench]
            source = "events"
            stream = "{STREAM}"
            destination = "cache"
            keys = ["product:<pointer:/sku>"]
            {lines}
            "#
        );
        let setup = Setup::new().endpoint("events", &self.events).endpoint("cache", &self.cache);
        setup.routes(&route).start_ready()
    }

    /// Lets the entries appear, and waits until the cursor is behind the last.
    fn run(&self, cursor: &str, client_cpu: impl Fn() -> Duration) -> Sample {
        let server_cpu = || self.cache.process().cpu_time().expect("the server runs");
        let (server, client, begun) = (server_cpu(), client_cpu(), Instant::now());
        self.events.ask::<()>(&["RENAME", WAITING, STREAM]);
        let mut connection = self.cache.connection();
        let (mut last, mut moved) = (None, begun);
        loop {
            let place: Option<String> =
                redis::cmd("HGET").arg(&[cursor, "pos"]).query(&mut connection).expect("the cache answers");
            if place.as_ref() == Some(&self.last) {
                break;
            }
            if place != last {
                (last, moved) = (place, Instant::now());
            }
            assert!(moved.elapsed() < PATIENCE, "nothing goes on any more, at {last:?}");
            std::thread::sleep(LOOK);
        }
        let wall = begun.elapsed();
        Sample::whole(
            self.entries,
            wall,
            server_cpu().saturating_sub(server),
            client_cpu().saturating_sub(client),
        )
    }

    /// Everything was removed: else something else was measured.
    fn check(&self) {
        let left = self.cache.ask::<u64>(&["DBSIZE"]);
        assert_eq!(left, 1, "the cursor alone is left");
    }
}

fn ideal(keys: u64) -> Sample {
    let servers = Servers::new(keys, keys);
    let ideal = ideal_invalidate::start(&servers.events, &servers.cache);
    let sample = servers.run(ideal_invalidate::CURSOR, || ideal.cpu_time());
    ideal.stop();
    servers.check();
    sample
}

fn daemon(keys: u64) -> Sample {
    let servers = Servers::new(keys, keys);
    let daemon = servers.start("again_after = \"0s\"");
    let sample = servers.run("tidegate:bench:cursor", || cpu(&daemon));
    servers.check();
    sample
}

fn catch_up(entries: u64) -> f64 {
    let servers = Servers::new(entries, KEYS_OF_HOUR.min(entries));
    let daemon = servers.start("");
    servers.run("tidegate:bench:cursor", || cpu(&daemon)).seconds()
}

fn payload(number: u64) -> String {
    format!("{{\"sku\":\"{number:0DIGITS$}\"}}")
}

fn in_pipelines(connection: &mut redis::Connection, count: u64, command: impl Fn(&mut redis::Pipeline, u64)) {
    for first in (0..count).step_by(usize::try_from(PIPELINE).expect("a small number")) {
        let mut pipeline = redis::pipe();
        (first..count.min(first + PIPELINE)).for_each(|number| command(&mut pipeline, number));
        pipeline.exec(connection).expect("the server takes commands");
    }
}
