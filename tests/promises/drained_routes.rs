//! Promise: a reload holds up nothing. Routes that it takes away drain beside those that run, and a signal to stop is
//! heard at any time.

use std::time::Duration;

use tidegate::status::Ledger;

use crate::support::{Daemon, Load, Options, Oracle, Server, Setup, Version, alert, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
/// Twice `shutdown_timeout`, and more: far less than its three routes would take one after the other.
const STOP: Duration = Duration::from_secs(20);

fn capture(name: &str, settings: &str) -> String {
    format!(
        r#"
        [capture.{name}]
        source = "shop"
        channels = ["{name}"]
        destination = "events"
        stream = "{name}"
        keep = "forever"
        include = ["id"]
        {settings}
        "#
    )
}

/// A daemon with routes whose destination does not answer, so that each drains for `shutdown_timeout`. A reload may meet
/// a file that is being written, and is refused then.
fn slow_to_drain(source: &Server, destination: &Server, other: &Server) -> Daemon {
    Setup::new()
        .endpoint("shop", source)
        .endpoint("more", other)
        .endpoint("events", destination)
        .routes(&moved("shop"))
        .daemon("shutdown_timeout = \"8s\"\nspool = { limit = \"0B\", fsync = \"1s\" }")
        .expects(&[
            alert::DESTINATION,
            alert::DRAIN,
            alert::GAP,
            alert::SOURCE,
            alert::RELOAD,
            &["shutdown_overrun"],
        ])
        .start_ready()
}

/// The routes go over to another source, so that each must end before the one that replaces it may begin.
fn moved(source: &str) -> String {
    let all: String = (0..3).map(|number| capture(&format!("route-{number}"), "")).collect();
    let idle = format!("{}{}", capture("idle", ""), capture("idle-too", "").replace("\"shop\"", "\"more\""));
    format!("{}{idle}", all.replace("\"shop\"", &format!("\"{source}\"")))
}

#[track_caller]
fn stopped_during_a_slow_reload(further: usize) {
    let source = Server::start(Version::Redis70);
    let other = Server::start(Version::Redis70);
    let destination = Server::with(Version::Redis70, Options::default().tcp());
    let mut daemon = slow_to_drain(&source, &destination, &other);
    let oracle = Oracle::new(&source);
    // The users have the rights for both before the destination is gone.
    daemon.set_routes(&moved("more"));
    daemon.set_routes(&moved("shop"));
    destination.freeze();
    oracle.publish(&Load::new(1, 1_000, &["route-0", "route-1", "route-2"]));
    eventually("it has something to store", PATIENCE, || {
        let waits = |ledger: &Ledger| ledger.buffered > 0;
        let held = daemon
            .status()?
            .iter()
            .filter(|status| status.process_counts.as_ref().is_some_and(waits))
            .count();
        if held == 3 { Ok(()) } else { Err(format!("{held} routes")) }
    });
    daemon.begin_reload(&moved("more"));
    daemon.wait_notified("RELOADING=1");
    for _ in 0..further {
        // Each time it is another configuration.
        for source in ["shop", "more"] {
            daemon.begin_reload(&moved(source));
        }
    }
    let status = daemon.stop_within(STOP);
    assert_eq!(status.code(), Some(0));
    destination.thaw();
}

/// Three routes that end one after the other would take three times as long.
#[test]
fn told_to_stop_during_a_slow_reload() {
    stopped_during_a_slow_reload(0);
}

/// As many signals as may queue, and the one that asks to stop behind them.
#[test]
fn told_to_stop_behind_many_reloads() {
    stopped_during_a_slow_reload(100);
}
