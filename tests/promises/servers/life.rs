//! Promise: one team's dead Redis holds up neither the start nor the others, and a password changes
//! without a restart.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Load, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted, assert_exact, captured, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_endpoint_that_is_dead_from_the_start() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = Setup::between(&source, &destination)
        .dead_endpoint("gone")
        .routes(
            r#"
            [capture.alive]
            source = "shop"
            channels = ["alive"]
            destination = "events"
            stream = "alive"
            keep = "forever"

            [capture.no-source]
            source = "gone"
            channels = ["anything"]
            destination = "events"
            stream = "no-source"
            keep = "forever"

            [capture.no-destination]
            source = "shop"
            channels = ["alive"]
            destination = "gone"
            stream = "no-destination"
            keep = "forever"
            "#,
        )
        .expects(&[alert::SOURCE, alert::DESTINATION, alert::DRAIN])
        .start();
    daemon.wait_notified("READY=1");
    daemon.wait_route_ready("alive");
    for route in ["no-source", "no-destination"] {
        let status = daemon.route(route).unwrap();
        assert!(matches!(status.state, RouteState::Connecting | RouteState::Waiting), "{status:?}");
        assert!(status.reason.is_some(), "it says why: {status:?}");
        assert_eq!(daemon.get(&format!("/readyz?route={route}")).unwrap().0, 503);
    }
    assert_eq!(daemon.get("/readyz").unwrap().0, 503);
    assert_eq!(daemon.get("/healthz").unwrap().0, 200);

    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(2, 5_000, &["alive"]));
    oracle.publish_last("alive", &destination, "alive", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&destination, "alive"));
    assert_eq!(daemon.stop().code(), Some(0), "it stops in time although one side is dead");
}

#[test]
fn a_password_that_changes() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = Setup::orders(&source, &destination)
        .expects(&[alert::SOURCE, alert::DESTINATION, alert::GAP])
        .start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    let load = Load::new(2, usize::MAX / 2, &["orders"]).payloads(Payloads::Unique).rate(5_000);
    let load = oracle.start(&load);

    daemon.change_password("events", "second-events");
    oracle.publish_one(b"orders", b"after the first change");
    crate::support::eventually("it appends with the new password", PATIENCE, || {
        let stream = captured(&destination, "orders");
        let found = stream.iter().any(|entry| entry.message.payload == b"after the first change");
        if found { Ok(()) } else { Err(format!("{} entries", stream.len())) }
    });
    assert_eq!(gaps(&destination, "orders"), [], "a destination that was away for a moment costs nothing");

    daemon.change_password("shop", "second-shop");
    crate::support::eventually("it records the gap that the lost connection left", PATIENCE, || match gaps(
        &destination,
        "orders",
    )
    .len()
    {
        1 => Ok(()),
        count => Err(format!("{count} gaps")),
    });
    load.stop();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    daemon.wait_ready();
    daemon.wait_state("orders", RouteState::Live);
    assert_accounted(
        &oracle.sequence(),
        &captured(&destination, "orders"),
        &gaps(&destination, "orders"),
        &[daemon.seen("orders")],
        &["source_disconnected"],
    );
    for line in daemon.log() {
        for secret in ["first-events", "second-events", "first-shop", "second-shop"] {
            assert!(!line.text.contains(secret), "a password is in the log: {}", line.text);
        }
    }
}
