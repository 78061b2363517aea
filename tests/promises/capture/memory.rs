//! Promise: all captures together keep to `memory_limit`, each to its share, and one that is stalled takes
//! nothing from the others.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Daemon, Load, Options, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted, assert_exact,
    captured, eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Of `memory_limit = "32MiB"` three quarters are for what waits.
const SHARED_BYTES: u64 = 24 << 20;

fn routes(names: &[&str]) -> String {
    let route = |name: &&str| {
        format!(
            r#"
            [capture.{name}]
            source = "shop"
            channels = ["{name}"]
            destination = "{name}"
            stream = "{name}"
            keep = "forever"
            include = ["id"]
            "#
        )
    };
    names.iter().map(route).collect()
}

fn buffered_bytes(daemon: &Daemon, route: &str) -> u64 {
    daemon.route(route).expect("it answers").buffered_bytes
}

/// Waits until a route holds this number of messages, and says how many bytes they are.
#[track_caller]
fn wait_in_hand(daemon: &Daemon, route: &str, events: u64) -> u64 {
    let status = eventually(&format!("{route} holds {events} messages"), PATIENCE, || {
        let status = daemon.route(route)?;
        let held = status.process_counts.as_ref().is_some_and(|process| process.buffered == events);
        if held { Ok(status) } else { Err(format!("{status:?}")) }
    });
    status.buffered_bytes
}

#[test]
fn a_stalled_route_takes_nothing_from_the_others() {
    let source = Server::start(Version::Redis70);
    let [mut stalled, mut fine] = [Version::Redis70, Version::Redis82]
        .map(|version| Server::with(version, Options::default().durable()));
    let mut daemon = Setup::new()
        .endpoint("shop", &source)
        .endpoint("stalled", &stalled)
        .endpoint("fine", &fine)
        .daemon("memory_limit = \"32MiB\"\nspool = { limit = \"0B\", fsync = \"1s\" }")
        .routes(&routes(&["stalled", "fine"]))
        .expects(&[alert::DESTINATION, alert::SOURCE, alert::GAP])
        .start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    stalled.kill();
    // Far more than all the memory there is, until the route has no room and reports it.
    let load = oracle.start(&Load::new(3, 400_000, &["stalled"]).payloads(Payloads::Unique));
    eventually("it has no room", PATIENCE, || {
        let status = daemon.route("stalled")?;
        let full = status.gap_open_since_unix_ms.is_some() && !status.source.connected;
        if full { Ok(()) } else { Err(format!("{status:?}")) }
    });
    let held = buffered_bytes(&daemon, "stalled");
    assert!(held <= SHARED_BYTES / 2, "{held} bytes are more than its share");
    assert!(held > SHARED_BYTES / 4, "{held} bytes are no use of its share");

    // The other one has its own share for an outage of its own.
    fine.kill();
    oracle.publish(&Load::new(3, 25_000, &["fine"]).payloads(Payloads::Unique).first_publisher(10));
    let held = wait_in_hand(&daemon, "fine", 25_000);
    assert!(held > SHARED_BYTES / 8, "{held} bytes prove nothing");
    load.join();
    let resident = daemon.process().resident_kib().expect("it runs");
    assert!(resident < (32 + 48) * 1024, "{resident} KiB are resident");
    fine.start_again();
    oracle.publish_last("fine", &fine, "fine", PATIENCE);
    assert_eq!(gaps(&fine, "fine"), []);
    assert_exact(&oracle.sequence_of(|channel| channel == b"fine"), &captured(&fine, "fine"));

    stalled.start_again();
    daemon.wait_state("stalled", RouteState::Live);
    oracle.publish_last("stalled", &stalled, "stalled", PATIENCE);
    let gaps = gaps(&stalled, "stalled");
    let published = oracle.sequence_of(|channel| channel == b"stalled");
    let (captured, seen) = (captured(&stalled, "stalled"), [daemon.seen("stalled")]);
    let missing = assert_accounted(&published, &captured, &gaps, &seen, &["memory_full"]);
    assert!(missing > 0, "it was more than the share");
}

#[test]
fn a_reload_that_adds_routes_divides_memory_anew() {
    let source = Server::start(Version::Redis70);
    let mut stalled = Server::with(Version::Redis70, Options::default().durable());
    let fine = Server::start(Version::Redis70);
    let mut daemon = Setup::new()
        .endpoint("shop", &source)
        .endpoint("stalled", &stalled)
        .endpoint("fine", &fine)
        .daemon("memory_limit = \"32MiB\"\nspool = { limit = \"0B\", fsync = \"1s\" }")
        .routes(&routes(&["stalled", "fine"]))
        .expects(&[alert::DESTINATION, alert::SOURCE])
        .start_ready();
    let more = ["one", "two", "three", "four"]
        .map(|name| routes(&[name]).replace(&format!("destination = \"{name}\""), "destination = \"fine\""));
    daemon.reload(&format!("{}{}", routes(&["stalled", "fine"]), more.concat()));
    daemon.wait_route_ready("four");
    stalled.kill();
    let oracle = Oracle::new(&source);
    let load = oracle.start(&Load::new(3, 400_000, &["stalled"]));
    // It runs since before the reload, and has a sixth now.
    eventually("it has no room", PATIENCE, || {
        let status = daemon.route("stalled")?;
        let full = status.gap_open_since_unix_ms.is_some() && !status.source.connected;
        if full { Ok(()) } else { Err(format!("{status:?}")) }
    });
    let held = buffered_bytes(&daemon, "stalled");
    assert!(held <= SHARED_BYTES / 6, "{held} bytes are more than its share");
    load.stop();
}
