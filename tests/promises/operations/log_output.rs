//! Promise: a standard error that cannot be written, or that nobody reads, neither ends nor holds up the daemon.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Daemon, Guarded, Load, Oracle, Server, Setup, Version, assert_exact, captured};

const PATIENCE: Duration = Duration::from_secs(60);

fn run(daemon: &Daemon, stderr: Stdio) -> Guarded {
    Guarded::start("tidegate", env!("CARGO_BIN_EXE_tidegate").as_ref(), |command| {
        command.args(["run", "--config"]).arg(daemon.configuration());
        command.env_remove("JOURNAL_STREAM").env("TIDEGATE_LOG", "trace");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    })
}

/// Captures messages under a standard error, asks for the status often, stops, and gives the metrics before.
fn works(stderr: impl FnOnce() -> Stdio) -> String {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = Setup::orders(&source, &destination).prepare();
    let mut process = run(&daemon, stderr());
    daemon.wait_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(2, 500, &["orders"]));
    // Each request is a line at this level: more than a pipe holds.
    for _ in 0..600 {
        daemon.get("/healthz").unwrap();
    }
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    let metrics = daemon.get("/metrics").unwrap().1;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(PATIENCE).code(), Some(0));
    metrics
}

fn dropped(metrics: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix("tidegate_log_lines_dropped_total "));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_full_disk_under_the_log() {
    let metrics = works(|| File::options().write(true).open("/dev/full").unwrap().into());
    assert!(dropped(&metrics) > 600, "{metrics}");
}

#[test]
fn a_log_whose_reader_has_ended() {
    let metrics = works(|| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer.into()
    });
    assert!(dropped(&metrics) > 600, "{metrics}");
}

#[test]
fn a_log_whose_reader_stands_still() {
    let (reader, writer) = std::io::pipe().unwrap();
    works(|| writer.into());
    drop(reader);
}
