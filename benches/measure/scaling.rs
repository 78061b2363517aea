//! Scaling: more routes, a second instance, idle routes, and how long a start takes.
//!
//! On a machine of two cores several busy processes share them: the server, the publishers, and the daemons.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidegate::status::RouteState;

use crate::cell::Cell;
use crate::load::Load;
use crate::plan::Plan;
use crate::sample::{Sample, Spread, over};
use crate::support::{self, Daemon, Oracle, Server, Setup, Version};
use crate::throughput::{cpu, start_capture};

const ROUTES: [usize; 3] = [1, 2, 4];
/// Routes without traffic, and in the start that is timed.
const MANY_ROUTES: usize = 100;
const PAIRS: usize = 5;
/// Messages a second while instances are killed.
const TAKE_OVER_RATE: usize = 5_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scaling {
    /// How many routes capture the same messages, and entries a second of all of them.
    pub(crate) routes: Vec<(usize, Sample)>,
    /// Alone, with a standby, and the standby itself.
    pub(crate) pairs: Vec<[Sample; 3]>,
    pub(crate) take_over_seconds: Spread,
    pub(crate) take_overs: usize,
    pub(crate) idle: Idle,
    pub(crate) start_seconds: Spread,
}

/// What routes cost that nobody publishes for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Idle {
    pub(crate) routes: usize,
    pub(crate) kib_each: f64,
    /// Of one core, in millionths, each.
    pub(crate) core_millionths_each: f64,
    /// Commands a second that both servers carry out, each.
    pub(crate) commands_each: f64,
}

pub(crate) fn measure(plan: Plan) -> Scaling {
    let each = plan.seconds(2.0, 10.0);
    let routes = ROUTES.into_iter().map(|count| (count, routes(count, each))).collect();
    let pairs: Vec<_> = (0..plan.pairs(1, PAIRS)).map(|_| pair(each)).collect();
    let take_overs = usize::try_from(plan.count(2, 10)).expect("a small number");
    let take_over_seconds = Spread::of(take_over(take_overs));
    println!("take-over after kill -9 at {TAKE_OVER_RATE}/s: {take_over_seconds} s");
    let idle = idle(plan.seconds(3.0, 30.0));
    let starts = (0..plan.pairs(1, PAIRS)).map(|_| start().as_secs_f64());
    let start_seconds = Spread::of(starts);
    println!("from start to READY with {MANY_ROUTES} routes: {start_seconds} s");
    Scaling { routes, pairs, take_over_seconds, take_overs, idle, start_seconds }
}

/// Routes on the same channel: each message is read and appended as often as there are routes.
fn routes(count: usize, each: Duration) -> Sample {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new().endpoint("bench", &server).routes(&captures(count, "bench")).start_ready();
    let load = Load::of_messages(&server, &server, Cell::PLAIN);
    let sample = over(each, &server, &load, || cpu(&daemon));
    load.stop();
    println!(
        "{count} routes: {:.0} entries/s, server at {:.0} %, {:.2} µs of tidegate each",
        sample.per_second(),
        sample.server_share() * 100.0,
        sample.client_micros()
    );
    sample
}

fn captures(count: usize, channel: &str) -> String {
    let route = |number| {
        format!(
            r#"
            [capture.route{number}]
            source = "bench"
            channels = ["{channel}"]
            destination = "bench"
            stream = "captured:{number}"
            keep = {{ entries = 10_000 }}
            "#
        )
    };
    (0..count).map(route).collect()
}

/// Alone, and with a standby, in turn.
fn pair(each: Duration) -> [Sample; 3] {
    let (alone, _) = instances(each, false);
    let (with, standby) = instances(each, true);
    println!(
        "alone {:.0}/s, {:.2} µs; with a standby {:.0}/s, {:.2} µs, and the standby {:.2} µs",
        alone.per_second(),
        alone.client_micros(),
        with.per_second(),
        with.client_micros(),
        standby.client_micros()
    );
    [alone, with, standby]
}

/// Throughput and processor time of the instance that writes, and of the standby.
fn instances(each: Duration, with_standby: bool) -> (Sample, Sample) {
    let (server, leader) = start_capture(Cell::PLAIN, "mode = \"subscribe\"");
    let standby = with_standby.then(|| {
        let standby = leader.start_twin();
        standby.wait_state("bench", RouteState::Standby);
        standby
    });
    let load = Load::of_messages(&server, &server, Cell::PLAIN);
    let before = standby.as_ref().map(cpu);
    let begun = load.done();
    let sample = over(each, &server, &load, || cpu(&leader));
    let spent =
        standby.as_ref().map(cpu).zip(before).map_or(Duration::ZERO, |(after, before)| after - before);
    let other = Sample::of(load.done() - begun, spent);
    load.stop();
    (sample, other)
}

/// Seconds from the kill of the instance that writes until something is stored again.
fn take_over(times: usize) -> Vec<f64> {
    let (server, mut leader) = start_capture(Cell::PLAIN, "mode = \"subscribe\"");
    let mut standby = leader.start_twin();
    let oracle = Oracle::new(&server);
    let load = oracle.start(&support::Load::new(2, usize::MAX / 2, &["bench"]).rate(TAKE_OVER_RATE));
    let mut seconds = Vec::new();
    for _ in 0..times {
        leader.wait_leader("bench");
        standby.wait_state("bench", RouteState::Standby);
        leader.kill();
        let killed = Instant::now();
        let added = || -> u64 {
            let info: std::collections::HashMap<String, redis::Value> =
                server.ask(&["XINFO", "STREAM", "captured"]);
            redis::from_redis_value(info["entries-added"].clone()).expect("a number")
        };
        let before = added();
        while added() == before {
            std::thread::sleep(Duration::from_millis(1));
            assert!(killed.elapsed() < Duration::from_secs(30), "nobody takes over");
        }
        seconds.push(killed.elapsed().as_secs_f64());
        leader.start_again();
        std::mem::swap(&mut leader, &mut standby);
    }
    load.stop();
    seconds
}

/// One route and many, without a message, so that what the daemon itself costs is taken off.
fn idle(time: Duration) -> Idle {
    let look = |count| {
        let server = Server::start(Version::Redis70);
        let daemon = Setup::new().endpoint("bench", &server).routes(&captures(count, "nobody")).start_ready();
        let commands = || -> f64 {
            let info: String = server.ask(&["INFO", "stats"]);
            let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
            line.and_then(|text| text.trim().parse().ok()).expect("the server counts its commands")
        };
        // What starting costs is over once something has been idle for a while.
        std::thread::sleep(Duration::from_secs(1));
        let (before, spent) = (commands(), cpu(&daemon));
        std::thread::sleep(time);
        let commands = (commands() - before) / time.as_secs_f64();
        let share = (cpu(&daemon) - spent).as_secs_f64() / time.as_secs_f64();
        let kib = daemon.process().resident_kib().expect("it runs") as f64;
        (kib, share, commands)
    };
    let (one, many) = (look(1), look(MANY_ROUTES));
    let more = (MANY_ROUTES - 1) as f64;
    let idle = Idle {
        routes: MANY_ROUTES,
        kib_each: (many.0 - one.0) / more,
        core_millionths_each: (many.1 - one.1) / more * 1e6,
        commands_each: (many.2 - one.2) / more,
    };
    println!(
        "an idle route of {MANY_ROUTES}: {:.0} KiB, {:.0} millionths of a core, {:.1} commands/s",
        idle.kib_each, idle.core_millionths_each, idle.commands_each
    );
    idle
}

/// From the start of the program until it says READY.
fn start() -> Duration {
    let server = Server::start(Version::Redis70);
    let mut daemon: Daemon =
        Setup::new().endpoint("bench", &server).routes(&captures(MANY_ROUTES, "nobody")).prepare();
    let begun = Instant::now();
    daemon.start_again();
    daemon.wait_notified("READY=1");
    begun.elapsed()
}
