//! Promise: a route that may not write is blocked with an alert and keeps what it reads; the others never
//! notice; it continues by itself once the reason is gone.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Daemon, LAST, Load, Oracle, Server, Setup, Version, alert, assert_exact, captured, gaps, wait_for_last,
};

/// A blocked route tries again every 30 s.
const NEXT_TRY: Duration = Duration::from_secs(60);

fn start(source: &Server, destination: &Server) -> Daemon {
    Setup::between(source, destination)
        .routes(
            r#"
            [capture.stuck]
            source = "shop"
            channels = ["stuck"]
            destination = "events"
            stream = "stuck"
            keep = "forever"

            [capture.fine]
            source = "shop"
            channels = ["fine"]
            destination = "events"
            stream = "fine"
            keep = "forever"
            "#,
        )
        .expects(&[alert::BLOCKED])
        .start_ready()
}

fn parks_and_goes_on(says: &str, spoil: impl Fn(&Server), mend: impl Fn(&Server)) {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = start(&source, &destination);
    let oracle = Oracle::new(&source);
    oracle.publish_one(b"stuck", b"while it works");
    wait_for_last(&destination, "stuck", b"while it works", NEXT_TRY);
    spoil(&destination);

    oracle.publish(&Load::new(2, 4_000, &["stuck", "fine"]));
    let status = daemon.wait_state("stuck", RouteState::Blocked);
    assert!(status.reason.as_ref().is_some_and(|reason| reason.contains(says)), "it says why: {status:?}");
    let line = daemon.wait_alert(alert::BLOCKED);
    assert!(line.text.contains("stuck"), "the alert names the route: {}", line.text);
    assert_eq!(daemon.get("/readyz?route=stuck").unwrap().0, 503);

    oracle.publish(&Load::new(2, 4_000, &["stuck", "fine"]));
    oracle.publish_last("fine", &destination, "fine", NEXT_TRY);
    assert_eq!(daemon.get("/readyz?route=fine").unwrap().0, 200);
    assert_exact(&oracle.sequence_of(|channel| channel == b"fine"), &captured(&destination, "fine"));

    mend(&destination);
    oracle.publish_last("stuck", &destination, "stuck", NEXT_TRY);
    daemon.wait_state("stuck", RouteState::Live);
    assert_exact(&oracle.sequence_of(|channel| channel == b"stuck"), &captured(&destination, "stuck"));
    for route in ["stuck", "fine"] {
        assert_eq!(gaps(&destination, route), []);
        let published = oracle.sequence_of(|channel| channel == route.as_bytes());
        daemon.wait_settled(route, published.len());
    }
}

#[test]
fn its_only_stream_is_of_another_type() {
    parks_and_goes_on(
        "WRONGTYPE the key 'stuck' has another type (",
        |destination| {
            destination.ask::<()>(&["RENAME", "stuck", "kept"]);
            destination.ask::<()>(&["SET", "stuck", "not a stream"]);
        },
        |destination| {
            destination.ask::<()>(&["RENAME", "stuck", "moved away"]);
            destination.ask::<()>(&["RENAME", "kept", "stuck"]);
        },
    );
}

#[test]
fn its_state_is_of_another_type() {
    parks_and_goes_on(
        "'tidegate:stuck:state'",
        |destination| {
            destination.ask::<()>(&["RENAME", "tidegate:stuck:state", "kept"]);
            destination.ask::<()>(&["SET", "tidegate:stuck:state", "no hash"]);
        },
        |destination| destination.ask::<()>(&["RENAME", "kept", "tidegate:stuck:state"]),
    );
}

#[test]
fn the_right_to_its_stream_is_taken_away() {
    parks_and_goes_on(
        "NOPERM",
        |destination| {
            let rules = ["ACL", "SETUSER", "tidegate-events", "resetkeys", "~fine", "~tidegate:*"];
            destination.ask::<()>(&rules);
        },
        |destination| destination.ask::<()>(&["ACL", "SETUSER", "tidegate-events", "~stuck"]),
    );
}

/// A server names a missing right by another error where a script's command lacks it. Each version has its own words.
#[test]
fn the_right_to_a_command_of_the_script_is_taken_away() {
    let source = Server::start(Version::Redis70);
    let destinations = Version::DESTINATIONS.map(|version| (version.to_string(), Server::start(version)));
    let mut setup = Setup::new().endpoint("shop", &source);
    let mut routes = String::new();
    for (at, (_, server)) in destinations.iter().enumerate() {
        setup = setup.endpoint(&format!("to{at}"), server);
        routes += &format!(
            "[capture.route{at}]\nsource = \"shop\"\nchannels = [\"orders\"]\ndestination = \"to{at}\"\n\
             stream = \"orders\"\nkeep = \"forever\"\n"
        );
    }
    let daemon = setup.routes(&routes).expects(&[alert::BLOCKED]).start_ready();
    let may = |right: &str| {
        for (at, (_, server)) in destinations.iter().enumerate() {
            server.ask::<()>(&["ACL", "SETUSER", &format!("tidegate-to{at}"), right]);
        }
    };
    let oracle = Oracle::new(&source);
    may("-xadd");
    oracle.publish_one(b"orders", b"while it may not");
    for (at, (version, _)) in destinations.iter().enumerate() {
        let reason = daemon.wait_state(&format!("route{at}"), RouteState::Blocked).reason.unwrap();
        assert!(reason.contains("NOPERM") && reason.contains("tidegate acl"), "{version}: {reason}");
    }
    may("+xadd");
    oracle.publish_one(b"orders", LAST);
    for (at, (_, server)) in destinations.iter().enumerate() {
        wait_for_last(server, "orders", LAST, NEXT_TRY);
        daemon.wait_state(&format!("route{at}"), RouteState::Live);
        assert_exact(&oracle.sequence_of(|_| true), &captured(server, "orders"));
    }
}

#[test]
fn a_server_that_is_too_old_for_scripts_parks_its_routes_and_a_replay_says_so_too() {
    let old = Server::start(Version::Redis62);
    // It does not know every right that is granted to a route that writes.
    old.ask::<()>(&["ACL", "SETUSER", "tidegate-old", "on", ">first-old", "~*", "&*", "+@all"]);
    old.ask::<()>(&["XADD", "orders", "*", "payload", "one"]);
    let daemon = Setup::new()
        .raw_endpoint("old", &old.socket())
        .routes(
            r#"
            [capture.in]
            source = "old"
            channels = ["in"]
            destination = "old"
            stream = "in"
            keep = "forever"

            [broadcast.out]
            source = "old"
            stream = "orders"
            after = "added"
            start = "beginning"
            destination = "old"
            channel = "out"
            message = "<field:payload>"
            "#,
        )
        .expects(&[alert::BLOCKED])
        .start();
    for route in ["in", "out"] {
        let reason = daemon.wait_state(route, RouteState::Blocked).reason.unwrap();
        assert!(reason.contains("Redis 6") && reason.contains("7.0 or newer"), "{route}: {reason}");
    }
    let replay = daemon.run_command(&["replay", "orders", "--from", "0-0", "--channel", "again"]);
    let said = String::from_utf8_lossy(&replay.stderr).into_owned();
    assert_eq!(replay.status.code(), Some(69), "{said}");
    assert!(said.contains("7.0 or newer"), "{said}");
}
