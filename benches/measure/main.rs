//! `make bench`: what a careful engineer asks before adopting tidegate, measured in one run on any machine.
//!
//! ```text
//! cargo bench -p tidegate-benches --bench measure -- COMMAND
//!   all [PART…]      measure, and write docs/performance.json, tables and plots
//!   smoke [PART…]    the same in seconds, to see that it works; writes nothing
//!   gate             fail if the throughput is too low
//!   document         make tables and plots again
//! BENCH_MINUTES=25   cuts every length in proportion        FULL=1   every combination of cells
//! ```
//!
//! Every figure is beside one of the same run: an ideal client, Redis without a bridge, or what people would
//! use instead.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot go on says so by a panic")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod cell;
mod deployments;
mod document;
mod gate;
mod group;
mod ideal;
mod ideal_broadcast;
mod ideal_invalidate;
mod ideal_stream;
mod invalidate;
mod latency;
mod load;
mod memory;
mod peers;
mod plan;
mod plots;
mod results;
mod sample;
mod scaling;
mod spool;
mod throughput;

use std::path::Path;
use std::process::{Command, ExitCode};

use plan::Plan;
use results::{Part, Results};

/// The parts, in the order in which they are measured.
const PARTS: [&str; 10] = [
    "capture",
    "unrelated",
    "broadcast",
    "invalidate",
    "latency",
    "memory",
    "scaling",
    "deployments",
    "peers",
    "spool",
];

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let (command, wanted) =
        arguments.split_first().map_or(("smoke", &[][..]), |(first, rest)| (first.as_str(), rest));
    if let Some(unknown) = wanted.iter().find(|part| !PARTS.contains(&part.as_str())) {
        eprintln!("there is no part {unknown:?}; there are {}", PARTS.join(", "));
        return ExitCode::from(64);
    }
    let parts: Vec<&str> = PARTS
        .into_iter()
        .filter(|part| wanted.is_empty() || wanted.iter().any(|name| name == part))
        .collect();
    if command != "document" {
        build_daemon();
    }
    match command {
        "all" => {
            let minutes = std::env::var("BENCH_MINUTES")
                .ok()
                .map(|text| text.parse().expect("BENCH_MINUTES is a number"));
            let mut results = Results::read();
            let plan = Plan::within(minutes, std::env::var_os("FULL").is_some_and(|value| value == "1"));
            measure(plan, &parts, &mut results, |results| {
                results.write();
                show(results);
            });
        }
        "document" => show(&Results::read()),
        "smoke" => measure(Plan::smoke(), &parts, &mut Results::default(), |_| {}),
        "gate" if gate::passes() => {}
        "gate" => return ExitCode::FAILURE,
        other => {
            eprintln!("there is no command {other:?}; there are all, smoke, gate, document");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}

/// The daemon belongs to another package, so cargo does not build it with the bench. A stale one must never be measured.
/// Both packages are named, so that what they depend on is not compiled a second time.
fn build_daemon() {
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--locked",
            "--release",
            "-p",
            "tidegate",
            "-p",
            "tidegate-benches",
            "--bin",
            "tidegate",
        ])
        .current_dir(repository())
        .status()
        .expect("cargo started this program");
    assert!(built.success(), "the daemon does not build");
}

/// Where the sources and the documents are.
fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Tables and plots.
fn show(results: &Results) {
    document::write(results);
    plots::write(results);
}

/// Measures, and keeps each part as soon as it is there.
fn measure(plan: Plan, parts: &[&str], results: &mut Results, keep: impl Fn(&Results)) {
    for part in parts {
        plan.say(part);
        match *part {
            "capture" => results.captures = Some(Part::new(throughput::captures(plan))),
            "unrelated" => results.unrelated = Some(Part::new(throughput::unrelated(plan))),
            "broadcast" => results.broadcasts = Some(Part::new(throughput::broadcasts(plan))),
            "invalidate" => results.invalidations = Some(Part::new(invalidate::measure(plan))),
            "latency" => results.latency = Some(Part::new(latency::points(plan))),
            "memory" => results.memory = Some(Part::new(memory::measure(plan))),
            "scaling" => results.scaling = Some(Part::new(scaling::measure(plan))),
            "deployments" => results.deployments = Some(Part::new(deployments::measure(plan))),
            "peers" => results.peers = Some(Part::new(peers::measure(plan))),
            "spool" => results.spool = Some(Part::new(spool::measure(plan))),
            _ => unreachable!("every part is listed"),
        }
        keep(results);
    }
}
