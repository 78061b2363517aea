//! `make bench-smoke`: how close a capture comes to what the same server can do at all.
//!
//! The ceiling is an ideal client: no bridge logic, the same subscription, the same append script
//! with batches of 128, everything pipelined. Both run against a fresh server that is source and
//! destination at once, with its append-only file off, in turns, so that a machine whose speed
//! drifts slows both. Publishers keep a fixed number of messages on the way: they offer exactly what
//! the route sustains, and the server, not a queue, is what is measured.
//!
//! ```text
//! publishers ──▶ server ──▶ ideal client or daemon ──▶ server
//!     └── wait while published − appended > WINDOW ──────┘
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot go on says so by a panic")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod ideal;
mod load;
mod measure;

use std::time::Duration;

use support::{Daemon, Options, Server, Setup, Version};

use ideal::Ideal;
use load::{CHANNEL, Load, PAYLOAD_BYTES};
use measure::{Sample, median, over};

/// How much of a stream is kept, so that memory does not grow with the length of a run.
const KEEP_ENTRIES: u64 = 100_000;

/// What a run takes.
struct Plan {
    pairs: usize,
    each: Duration,
    /// Messages after which the daemon's memory is read the first and the last time.
    memory: [u64; 2],
}

const SMOKE: Plan = Plan { pairs: 3, each: Duration::from_secs(5), memory: [1_000_000, 5_000_000] };
const FULL: Plan = Plan { pairs: 7, each: Duration::from_secs(15), memory: [1_000_000, 10_000_000] };

fn main() {
    let plan = if std::env::args().any(|argument| argument == "full") { FULL } else { SMOKE };
    println!("capture, {PAYLOAD_BYTES} B payloads, one channel, {}, unix socket, AOF off", Version::Redis70);
    println!("{:>9} {:>12} {:>12} {:>12} {:>12}", "", "messages/s", "server CPU", "server µs", "client µs");

    let (mut ideals, mut windows, mut taps) = (Vec::new(), Vec::new(), Vec::new());
    let mut memory = Vec::new();
    for pair in 1..=plan.pairs {
        ideals.push(show("ideal", run_ideal(&plan)));
        let rest = if pair == plan.pairs { &plan.memory[..] } else { &[] };
        let (sample, resident) = run_daemon(&plan, "subscribe", rest);
        windows.push(show("subscribe", sample));
        memory = resident;
        taps.push(show("replicate", run_daemon(&plan, "replication", &[]).0));
    }

    println!();
    compare("mode = \"subscribe\"", &windows, &ideals, [0.80, 1.50]);
    compare("mode = \"replication\"", &taps, &ideals, [0.90, 1.00]);
    let skipped = run_unrelated(&plan);
    println!(
        "mode = \"replication\" beside {:.0} unrelated writes/s: {:.3} µs of tidegate's CPU for each  (goal: at most 0.150)",
        skipped.per_second(),
        skipped.client_micros(),
    );
    if let [first, last] = memory[..] {
        println!(
            "tidegate's memory: {:.1} MiB after {} messages, {:.1} MiB after {}: {:+.1} MiB, ratio {:.2}  (goal: at most +1.0, under 48)",
            mib(first),
            plan.memory[0],
            mib(last),
            plan.memory[1],
            mib(last) - mib(first),
            mib(last) / mib(first),
        );
    }
}

fn show(name: &str, sample: Sample) -> Sample {
    println!(
        "{name:>9} {:>12.0} {:>10.0} % {:>12.2} {:>12.2}",
        sample.per_second(),
        sample.server_share() * 100.0,
        sample.server_micros(),
        sample.client_micros(),
    );
    sample
}

fn compare(what: &str, daemons: &[Sample], ideals: &[Sample], goals: [f64; 2]) {
    let ratios: Vec<f64> =
        daemons.iter().zip(ideals).map(|(daemon, ideal)| daemon.per_second() / ideal.per_second()).collect();
    let [least, most] = goals;
    println!(
        "{what}: throughput against the ideal client, median of pairs: {:.2}  (goal: at least {least:.2})",
        median(&ratios)
    );
    println!("  spread: {ratios:.2?}");
    let busy = median(&daemons.iter().map(|sample| sample.server_share()).collect::<Vec<_>>());
    println!("  server at {:.0} % of a core  (a ceiling needs at least 95 %)", busy * 100.0);
    let cpu = median(&daemons.iter().map(Sample::client_micros).collect::<Vec<_>>());
    let against = median(&ideals.iter().map(Sample::server_micros).collect::<Vec<_>>());
    println!(
        "  tidegate's CPU: {cpu:.2} µs a message  (goal: at most {most:.2}); that is {:.2} of what the server itself \
         spends on it",
        cpu / against
    );
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn run_ideal(plan: &Plan) -> Sample {
    let server = Server::start(Version::Redis70);
    let ideal = Ideal::start(&server, KEEP_ENTRIES);
    let load = Load::start(&server, ideal::STREAM);
    let sample = over(plan.each, &server, &load, || ideal.cpu_time());
    load.stop();
    ideal.stop();
    sample
}

fn run_daemon(plan: &Plan, mode: &str, memory_at: &[u64]) -> (Sample, Vec<u64>) {
    let (server, daemon) = start(mode);
    let load = Load::start(&server, "captured");
    let sample = over(plan.each, &server, &load, || daemon.process().cpu_time().expect("the daemon runs"));
    let resident = memory_at.iter().map(|count| {
        load.wait_until(*count);
        daemon.process().resident_kib().expect("the daemon runs")
    });
    let resident = resident.collect();
    load.stop();
    (sample, resident)
}

/// What a tap spends on writes that are nobody's.
fn run_unrelated(plan: &Plan) -> Sample {
    let (server, daemon) = start("replication");
    let load = Load::of_writes(&server);
    let sample = over(plan.each, &server, &load, || daemon.process().cpu_time().expect("the daemon runs"));
    load.stop();
    sample
}

fn start(mode: &str) -> (Server, Daemon) {
    let server = Server::with(Version::Redis70, Options::default().with("repl-diskless-sync-delay", "0"));
    let daemon = Setup::new()
        .endpoint("bench", &server)
        .routes(&format!(
            r#"
            [capture.bench]
            source = "bench"
            channels = ["{CHANNEL}"]
            mode = "{mode}"
            destination = "bench"
            stream = "captured"
            keep = {{ entries = {KEEP_ENTRIES} }}
            "#
        ))
        // The server's own default is not made for such a rate.
        .expects(&[&["backlog_short"]])
        .start_ready();
    (server, daemon)
}
