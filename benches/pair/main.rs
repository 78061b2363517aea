//! `make bench`: what a standby costs the instance that writes, how long a take-over takes after
//! `kill -9`, and how much memory an outage of the destination takes.
//!
//! One server is source and destination. Runs with and without a standby go in turns. On a machine of two
//! cores four busy processes share them: the server, the publishers, and both instances.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot go on says so by a panic")]

#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../capture/load.rs"]
mod load;
#[path = "../capture/measure.rs"]
mod measure;

use std::time::{Duration, Instant};

use load::{CHANNEL, Load};
use measure::{Sample, median, over};
use support::{Daemon, Options, Oracle, Server, Setup, Version};
use tidegate::status::RouteState;

const STREAM: &str = "captured";
const OUTAGE_RATE: usize = 20_000;
const MEMORY_LIMIT_MIB: u64 = 64;

fn setup(server: &Server) -> Setup {
    Setup::new().endpoint("bench", server).routes(&format!(
        r#"
        [capture.bench]
        source = "bench"
        channels = ["{CHANNEL}"]
        destination = "bench"
        stream = "{STREAM}"
        keep = {{ entries = 100_000 }}
        "#
    ))
}

fn main() {
    let full = std::env::args().any(|argument| argument == "full");
    let (pairs, each, takeovers, outage) = if full { (5, 10, 10, 60) } else { (1, 3, 2, 5) };
    let each = Duration::from_secs(each);
    let mut ratios = Vec::new();
    let mut standby_cpu = Vec::new();
    for _ in 0..pairs {
        let (alone, _) = run(each, false);
        let (with, standby) = run(each, true);
        println!(
            "alone {:>9.0}/s, {:.2} µs a message; with a standby {:>9.0}/s, {:.2} µs; the standby {:.2} µs",
            alone.per_second(),
            alone.client_micros(),
            with.per_second(),
            with.client_micros(),
            standby.client_micros()
        );
        ratios.push(with.per_second() / alone.per_second());
        standby_cpu.push(standby.client_micros() / with.client_micros());
    }
    println!("throughput with a standby, median of pairs: {:.2}  (goal: at least 0.90)", median(&ratios));
    println!("  spread: {ratios:.2?}");
    println!("the standby's CPU to the leader's: {:.2}  (goal: at most 1.20)", median(&standby_cpu));
    let times = take_over(takeovers);
    println!(
        "take-over after kill -9 at 5,000/s: median {:.0} ms, longest {:.0} ms  (goal: under 1,000)",
        median(&times) * 1e3,
        times.iter().copied().fold(0.0, f64::max) * 1e3
    );
    outage_of(Duration::from_secs(outage));
}

/// Throughput and CPU of the instance that writes, and of the one that stands by.
fn run(each: Duration, with_standby: bool) -> (Sample, Sample) {
    let server = Server::start(Version::Redis70);
    let leader = setup(&server).start_ready();
    let standby = with_standby.then(|| {
        let mut standby = leader.twin();
        standby.start_again();
        standby.wait_state("bench", RouteState::Standby);
        standby
    });
    let load = Load::start(&server, STREAM);
    let cpu = |daemon: &Daemon| daemon.process().cpu_time().expect("it runs");
    let before = standby.as_ref().map(&cpu);
    let begun = load.captured();
    let sample = over(each, &server, &load, || cpu(&leader));
    let spent =
        standby.as_ref().map(&cpu).zip(before).map_or(Duration::ZERO, |(after, before)| after - before);
    let other = Sample::of(load.captured() - begun, spent);
    load.stop();
    (sample, other)
}

/// Seconds from the kill of the instance that writes until something is stored again.
fn take_over(times: usize) -> Vec<f64> {
    let server = Server::start(Version::Redis70);
    let mut leader = setup(&server).start_ready();
    let mut standby = leader.twin();
    standby.start_again();
    let oracle = Oracle::new(&server);
    let load = oracle.start(&support::Load::new(2, usize::MAX / 2, &[CHANNEL]).rate(5_000));
    let mut seconds = Vec::new();
    for _ in 0..times {
        leader.wait_leader("bench");
        standby.wait_state("bench", RouteState::Standby);
        leader.kill();
        let killed = Instant::now();
        let added = || -> u64 {
            let info: std::collections::HashMap<String, redis::Value> =
                server.ask(&["XINFO", "STREAM", STREAM]);
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

/// The destination is stopped for a while; then what has waited is stored.
fn outage_of(time: Duration) {
    let source = Server::start(Version::Redis70);
    let destination = Server::with(Version::Redis70, Options::default());
    let daemon = Setup::new()
        .endpoint("shop", &source)
        .endpoint("bench", &destination)
        .daemon(&format!("memory_limit = \"{MEMORY_LIMIT_MIB}MiB\""))
        .routes(&format!(
            r#"
            [capture.bench]
            source = "shop"
            channels = ["{CHANNEL}"]
            destination = "bench"
            stream = "{STREAM}"
            keep = {{ entries = 100_000 }}
            "#
        ))
        .expects(&[support::alert::DESTINATION])
        .start_ready();
    let oracle = Oracle::new(&source);
    let load = oracle.start(&support::Load::new(2, usize::MAX / 2, &[CHANNEL]).rate(OUTAGE_RATE));
    destination.freeze();
    let begun = Instant::now();
    let mut highest = 0;
    while begun.elapsed() < time {
        std::thread::sleep(Duration::from_millis(100));
        highest = highest.max(daemon.process().resident_kib().expect("it runs"));
    }
    let waiting = daemon.route("bench").expect("it answers");
    destination.thaw();
    let thawed = Instant::now();
    loop {
        highest = highest.max(daemon.process().resident_kib().expect("it runs"));
        let status = daemon.route("bench").expect("it answers");
        let in_hand = status.ledger.map_or(0, |ledger| ledger.in_hand);
        if in_hand < OUTAGE_RATE as u64 / 10 {
            break;
        }
        assert!(thawed.elapsed() < 10 * time + Duration::from_secs(60), "it does not catch up");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!(
        "an outage of {} s at {OUTAGE_RATE}/s: {:.0} MiB on disk, at most {:.0} MiB resident with memory_limit \
         {MEMORY_LIMIT_MIB} MiB  (goal: at most {}); caught up {:.1} s after it",
        time.as_secs(),
        waiting.spool_bytes as f64 / f64::from(1 << 20),
        highest as f64 / 1024.0,
        MEMORY_LIMIT_MIB + 48,
        thawed.elapsed().as_secs_f64()
    );
    load.stop();
}
