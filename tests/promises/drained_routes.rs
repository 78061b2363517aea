//! Promise: a reload holds up nothing. Routes that it takes away drain beside those that run, one that is put back
//! meanwhile waits for its own, and a signal to stop is heard at any time.

use std::time::Duration;

use nix::sys::signal::Signal;
use tidegate::status::RouteState;

use crate::support::{
    Daemon, Load, Options, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted, captured,
    eventually, gaps, wait_for_last,
};

const LAST: &[u8] = b"the last message";
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

/// Waits until what was received is on disk.
#[track_caller]
fn wait_spooled(daemon: &Daemon, route: &str, received: u64) {
    eventually("everything is on disk", PATIENCE, || {
        let status = daemon.route(route)?;
        let all = status.process.as_ref().is_some_and(|process| process.received == received);
        if all && status.spooled_all { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

/// Taken away and put back by two reloads, while what the first one has received waits for the destination.
#[track_caller]
fn put_back_while_it_drains(settings: &str) {
    const EACH: usize = 2_000;
    let source = Server::start(Version::Redis70);
    let mut destination = Server::with(Version::Redis70, Options::default().durable());
    let other = capture("other", "");
    let both = |settings: &str| format!("{}{other}", capture("orders", settings));
    let mut daemon = Setup::new()
        .endpoint("shop", &source)
        .endpoint("events", &destination)
        .routes(&both(""))
        .expects(&[alert::DESTINATION, alert::GAP, alert::DRAIN])
        .start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    let load = |number| Load::new(1, EACH, &["orders"]).payloads(Payloads::Unique).first_publisher(number);
    oracle.publish(&load(0));
    daemon.wait_settled("orders", EACH);
    // It answers nothing, so that a route drains for as long as that lasts.
    destination.kill();
    oracle.publish(&load(1));
    wait_spooled(&daemon, "orders", 2 * EACH as u64);
    daemon.reload_settings(&other);
    daemon.reload_settings(&both(settings));
    eventually("it listens again", PATIENCE, || {
        let status = daemon.route("orders")?;
        if status.source.connected { Ok(()) } else { Err(format!("{status:?}")) }
    });
    oracle.publish(&load(2));
    destination.start_again();
    daemon.wait_state("orders", RouteState::Live);
    oracle.publish(&load(3));
    oracle.publish_one(b"orders", LAST);
    wait_for_last(&destination, "orders", LAST, PATIENCE);
    let (found, captured) = (gaps(&destination, "orders"), captured(&destination, "orders"));
    let seen = [daemon.seen("orders")];
    // Between the two reloads nobody listened, and nothing was published.
    let missing = assert_accounted(&oracle.sequence(), &captured, &found, &seen, &["restart"]);
    assert_eq!(missing, 0, "it listened whenever something was published: {found:#?}");
    assert!(found.len() <= 1, "{found:#?}");
    let verified = daemon.run_command(&["spool", "verify"]);
    assert!(verified.status.success(), "{verified:?}");
    eventually("what is stored is deleted from disk", PATIENCE, || {
        let status = daemon.route("orders")?;
        if status.spool_bytes == 0 { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

#[test]
fn put_back_as_it_was() {
    put_back_while_it_drains("");
}

#[test]
fn put_back_with_another_mapping() {
    put_back_while_it_drains("groups = [\"inventory\"]\ngroups_start = \"0\"");
}

/// A daemon with routes whose destination does not answer, so that each drains for `shutdown_timeout`.
fn slow_to_drain(source: &Server, destination: &Server, other: &Server) -> Daemon {
    Setup::new()
        .endpoint("shop", source)
        .endpoint("more", other)
        .endpoint("events", destination)
        .routes(&moved("shop"))
        .daemon("shutdown_timeout = \"8s\"\nspool = { limit = \"0B\", fsync = \"1s\" }")
        .expects(&[alert::DESTINATION, alert::DRAIN, alert::GAP, alert::SOURCE, &["drain_overrun"]])
        .start_ready()
}

/// The routes go over to another source, so that each must end before the one that replaces it may begin.
fn moved(source: &str) -> String {
    let all: String = (0..3).map(|number| capture(&format!("route-{number}"), "")).collect();
    let idle = capture("idle", "").replace("\"shop\"", "\"more\"");
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
        let held = daemon.status()?.iter().filter(|status| status.in_hand_bytes > 0).count();
        if held == 3 { Ok(()) } else { Err(format!("{held} routes")) }
    });
    daemon.write_routes(&moved("more"));
    daemon.process().signal(Signal::SIGHUP);
    daemon.wait_notified("RELOADING=1");
    for _ in 0..further {
        // Each time it is another configuration.
        for source in ["shop", "more"] {
            daemon.write_routes(&moved(source));
            daemon.process().signal(Signal::SIGHUP);
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
