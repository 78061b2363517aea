//! Promise: what was received while the destination is away is on disk, and survives what kills the daemon.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Daemon, Load, Options, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted, assert_exact,
    captured, eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn setup(source: &Server, destination: &Server) -> Setup {
    Setup::orders(source, destination).expects(&[alert::DESTINATION])
}

/// Waits until everything that was received is on disk.
#[track_caller]
fn wait_spooled(daemon: &Daemon, at_least: u64) {
    eventually("what was received is on disk", PATIENCE, || {
        let status = daemon.route("orders")?;
        if status.spool_bytes > at_least { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

#[test]
fn a_long_outage_is_more_than_memory_holds() {
    let source = Server::start(Version::Redis70);
    let mut destination = Server::with(Version::Redis70, Options::default().durable());
    let daemon = setup(&source, &destination).daemon("memory_limit = \"16MiB\"").start_ready();
    destination.kill();
    let oracle = Oracle::new(&source);
    // Some 60 MiB of payloads, into 16 MiB of memory.
    let load = Load::new(3, 400_000, &["orders"]);
    oracle.publish(&load);
    wait_spooled(&daemon, 40 << 20);
    let resident = daemon.process().resident_kib().expect("it runs");
    assert!(resident < (16 + 48) * 1024, "{resident} KiB are resident");
    destination.start_again();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_eq!(gaps(&destination, "orders"), []);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    daemon.wait_settled("orders", oracle.sequence().len());
    eventually("what is stored is deleted from disk", PATIENCE, || {
        let status = daemon.route("orders")?;
        if status.spool_bytes == 0 { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

#[test]
fn a_burst_that_the_disk_does_not_keep_up_with_is_no_gap() {
    let source = Server::start(Version::Redis70);
    let mut destination = Server::with(Version::Redis70, Options::default().durable());
    // Of a sixteenth of this, less than a megabyte is for what waits to be written.
    let route = |name: &str| {
        let text = r#"
            [capture.NAME]
            source = "shop"
            channels = ["NAME"]
            destination = "events"
            stream = "NAME"
            keep = "forever"
            include = ["id"]
        "#;
        text.replace("NAME", name)
    };
    let names: Vec<String> = (1..16).map(|number| format!("idle-{number}")).collect();
    let idle: String = names.iter().map(|name| route(name)).collect();
    let daemon = setup(&source, &destination)
        .routes(&format!("{}{idle}", route("orders")))
        .daemon("memory_limit = \"16MiB\"")
        .start_ready();
    destination.kill();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(3, 200_000, &["orders"]));
    wait_spooled(&daemon, 20 << 20);
    destination.start_again();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_eq!(gaps(&destination, "orders"), []);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
}

#[test]
fn killed_during_an_outage_nothing_that_was_received_is_lost() {
    let source = Server::start(Version::Redis70);
    let mut destination = Server::with(Version::Redis82, Options::default().durable());
    let mut daemon = setup(&source, &destination).expects(&[alert::GAP]).start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    oracle.publish(&Load::new(3, 2_000, &["orders"]).payloads(Payloads::Unique));
    daemon.wait_settled("orders", 2_000);
    destination.kill();
    for round in 1..4 {
        let load = Load::new(3, 10_000, &["orders"]).payloads(Payloads::Unique);
        oracle.publish(&load.first_publisher(10 * round));
        // Everything has been received and has waited for as long as a crash may cost.
        eventually("everything is on disk", PATIENCE, || {
            let status = daemon.route("orders")?;
            let received = status.process_counts.as_ref().is_some_and(|process| process.received >= 10_000);
            if received && status.spooled_all { Ok(()) } else { Err(format!("{status:?}")) }
        });
        daemon.restart();
        daemon.wait_state("orders", RouteState::Connecting);
        eventually("it listens again", PATIENCE, || {
            let status = daemon.route("orders")?;
            if status.source.connected { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }
    destination.start_again();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    let (gaps, captured) = (gaps(&destination, "orders"), captured(&destination, "orders"));
    let seen = [daemon.seen("orders")];
    let missing = assert_accounted(&oracle.sequence(), &captured, &gaps, &seen, &["restart"]);
    assert_eq!(missing, 0, "nothing was published while it was away");
    assert!(gaps.len() <= 3, "{gaps:?}");
}

#[test]
fn stopped_during_an_outage_it_keeps_what_is_in_hand() {
    let source = Server::start(Version::Redis70);
    let mut destination = Server::with(Version::Redis70, Options::default().durable());
    let mut daemon = setup(&source, &destination).expects(&[alert::GAP]).start_ready();
    destination.kill();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(3, 20_000, &["orders"]));
    assert_eq!(daemon.stop().code(), Some(0));
    destination.start_again();
    daemon.start_again();
    eventually("what it kept is stored", PATIENCE, || match destination.stream_length("orders") {
        20_000 => Ok(()),
        other => Err(format!("{other} entries")),
    });
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    let verified = daemon.run_command(&["spool", "verify"]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn a_second_daemon_in_the_same_directory_is_refused() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = setup(&source, &destination).start_ready();
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "--config"])
        .arg(daemon.configuration())
        .env("TIDEGATE_DAEMON__LISTEN", "127.0.0.1:0")
        .output()
        .expect("the program starts");
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("give each instance a state_directory of its own"), "{text}");
}
