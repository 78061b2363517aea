//! Promise: a reload holds up nothing. Routes that it takes away drain beside those that run, and a signal to stop is
//! heard at any time.

use std::time::Duration;

use tidegate::status::{Ledger, RouteState};

use crate::support::{
    Daemon, Load, LogLine, Options, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted,
    captured, eventually, gaps,
};

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
        let all = status.process_counts.as_ref().is_some_and(|counts| counts.received == received);
        if all && status.spooled_all { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

/// Taken away and put back by two reloads, while most of what it has received is on disk only.
#[track_caller]
fn put_back_while_it_drains(settings: &str) {
    const MANY: usize = 8_000;
    let source = Server::start(Version::Redis70);
    let destination = Server::with(Version::Redis70, Options::default().tcp());
    // Of a sixteenth of the memory, less than a megabyte is for what waits.
    let others: String = (1..16).map(|number| capture(&format!("other-{number}"), "")).collect();
    let all = |settings: &str| format!("{}{others}", capture("orders", settings));
    let mut daemon = Setup::between(&source, &destination)
        .routes(&all(""))
        .daemon("memory_limit = \"16MiB\"\nspool = { limit = \"512MiB\", fsync = \"100ms\" }")
        .expects(&[alert::DESTINATION, alert::GAP])
        .start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    let load = |messages, number| {
        Load::new(1, messages, &["orders"]).payloads(Payloads::Numbered).first_publisher(number)
    };
    oracle.publish(&load(100, 0));
    daemon.wait_settled("orders", 100);
    destination.freeze();
    oracle.publish(&load(MANY, 1));
    wait_spooled(&daemon, "orders", (100 + MANY) as u64);
    daemon.reload_settings(&others);
    daemon.reload_settings(&all(settings));
    destination.thaw();
    eventually("it listens again", PATIENCE, || {
        let opened = |line: &LogLine| {
            line.event.as_deref() == Some("session_opened") && line.text.contains("\"orders\"")
        };
        match daemon.log().iter().filter(|line| opened(line)).count() {
            2 => Ok(()),
            count => Err(format!("{count} sessions")),
        }
    });
    oracle.publish(&load(MANY, 2));
    daemon.wait_state("orders", RouteState::Live);
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
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
