//! Promise: while the destination is away or full, events wait; then they are appended exactly once,
//! in order, and no gap is recorded.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Load, Options, Oracle, Server, Setup, Version, alert, assert_exact, captured, eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn setup(source: &Server, destination: &Server) -> Setup {
    Setup::orders(source, destination).expects(&[alert::DESTINATION])
}

#[test]
fn restarted_in_the_middle_of_batches() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let mut destination = Server::with(version, Options::default().durable());
        let daemon = setup(&source, &destination).start_ready();
        let oracle = Oracle::new(&source);
        let load = oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).rate(10_000));
        for _ in 0..4 {
            let before = destination.stream_length("orders");
            eventually("appends are under way", PATIENCE, || match destination.stream_length("orders") {
                now if now > before + 1_000 => Ok(()),
                now => Err(format!("{now} entries")),
            });
            destination.restart();
        }
        load.stop();
        oracle.publish_last("orders", &destination, "orders", PATIENCE);
        assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
        assert_eq!(gaps(&destination, "orders"), [], "{version}");
        daemon.wait_settled("orders", oracle.sequence().len());
    }
}

#[test]
fn its_connections_are_killed() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = setup(&source, &destination).start_ready();
    let oracle = Oracle::new(&source);
    let load = oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).rate(20_000));
    for _ in 0..20 {
        let before = destination.stream_length("orders");
        eventually("appends are under way", PATIENCE, || match destination.stream_length("orders") {
            now if now > before => Ok(()),
            now => Err(format!("{now} entries")),
        });
        let killed: usize = destination.ask(&["CLIENT", "KILL", "USER", "tidegate-events"]);
        assert!(killed > 0, "the daemon was connected");
    }
    load.stop();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    assert_eq!(gaps(&destination, "orders"), []);
    daemon.wait_settled("orders", oracle.sequence().len());
}

#[test]
fn frozen_for_a_while() {
    let source = Server::start(Version::Redis70);
    let destination = Server::with(Version::Redis70, Options::default().tcp());
    let daemon = setup(&source, &destination).start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(3, 5_000, &["orders"]));
    destination.freeze();
    oracle.publish(&Load::new(3, 20_000, &["orders"]));
    daemon.wait_state("orders", RouteState::Waiting);
    destination.thaw();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    assert_eq!(gaps(&destination, "orders"), []);
}

#[test]
fn out_of_memory() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(version);
        let daemon = setup(&source, &destination).start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(3, 3_000, &["orders"]));
        destination.limit_memory(500_000);

        oracle.publish(&Load::new(3, 30_000, &["orders"]));
        let status = daemon.wait_state("orders", RouteState::Waiting);
        assert!(status.destination.error.is_some(), "{version}: it says what is wrong: {status:?}");
        let published = oracle.sequence().len();
        assert!(destination.stream_length("orders") < published, "{version}: the limit was reached");

        destination.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        oracle.publish_last("orders", &destination, "orders", PATIENCE);
        assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
        assert_eq!(gaps(&destination, "orders"), [], "{version}");
        daemon.wait_state("orders", RouteState::Live);
        daemon.wait_settled("orders", oracle.sequence().len());
    }
}
