//! Promise: when the source or the way to it fails, that is noticed, a new window opens by itself,
//! and what is missing lies inside a recorded gap.

use std::time::{Duration, Instant};

use tidegate::status::RouteState;

use crate::support::{
    Load, Options, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted, assert_exact, captured,
    eventually, gaps, wait_for_last,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn setup(source: &Server, destination: &Server) -> Setup {
    Setup::orders(source, destination).expects(&[alert::GAP, alert::SOURCE])
}

#[test]
fn its_connection_is_killed() {
    const KILLS: usize = 5;
    for version in Version::SOURCES {
        let source = Server::start(version);
        let destination = Server::start(Version::Redis70);
        let mut daemon = setup(&source, &destination).start_ready();
        let oracle = Oracle::new(&source);
        daemon.watch(&oracle);
        let load = Load::new(3, usize::MAX / 2, &["orders"]);
        let load = oracle.start(&load.payloads(Payloads::Unique).rate(10_000));
        for _ in 0..KILLS {
            let before = destination.stream_length("orders");
            let killed: usize = source.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            assert_eq!(killed, 1, "{version}: the daemon has one subscriber");
            eventually("it captures through a new connection", PATIENCE, || {
                let subscribed: usize =
                    source.ask::<Vec<redis::Value>>(&["PUBSUB", "NUMSUB", "orders"]).len();
                let now = destination.stream_length("orders");
                let status = daemon.route("orders")?;
                if status.state == RouteState::Live && status.gap_open_since_unix_ms.is_none() && now > before
                {
                    Ok(())
                } else {
                    Err(format!("{subscribed} {now} entries, {status:?}"))
                }
            });
            // The route may not have noticed yet when it was asked: the next kill needs its subscriber.
            eventually("it is subscribed again", PATIENCE, || {
                match source.ask::<(String, usize)>(&["PUBSUB", "NUMSUB", "orders"]).1 {
                    1 => Ok(()),
                    count => Err(format!("{count} subscribers")),
                }
            });
        }
        load.stop();
        oracle.publish_last("orders", &destination, "orders", PATIENCE);

        let (gaps, captured) = (gaps(&destination, "orders"), captured(&destination, "orders"));
        let seen = [daemon.seen("orders")];
        assert_accounted(&oracle.sequence(), &captured, &gaps, &seen, &["source_disconnected"]);
        assert_eq!(gaps.len(), KILLS, "{version}: one gap for each kill: {gaps:#?}");
    }
}

#[test]
fn it_is_frozen_and_that_is_noticed_within_five_seconds() {
    let source = Server::with(Version::Redis70, Options::default().tcp());
    let destination = Server::start(Version::Redis70);
    let daemon = setup(&source, &destination).start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(2, 5_000, &["orders"]).payloads(Payloads::Unique));

    source.freeze();
    let frozen = Instant::now();
    let status = daemon.wait_state_within(Duration::from_secs(5), "orders", RouteState::Waiting);
    assert!(frozen.elapsed() < Duration::from_secs(5), "it took {:?}", frozen.elapsed());
    assert!(status.source.error.is_some(), "it says what is wrong: {status:?}");
    assert_eq!(daemon.get("/readyz?route=orders").unwrap().0, 503);
    assert_eq!(daemon.get("/healthz").unwrap().0, 200, "the daemon itself is well");

    source.thaw();
    daemon.wait_state("orders", RouteState::Live);
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    // The frozen server kept the connection, and delivers over it what it took.
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    assert_eq!(gaps(&destination, "orders"), []);
}

#[test]
fn it_is_killed_and_comes_back_empty() {
    let mut source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = setup(&source, &destination).start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(2, 5_000, &["orders"]).payloads(Payloads::Unique));
    oracle.publish_one(b"orders", b"before the restart");
    wait_for_last(&destination, "orders", b"before the restart", PATIENCE);
    let mut expected = oracle.sequence();

    source.restart();
    daemon.wait_state("orders", RouteState::Live);
    eventually("it is subscribed again", PATIENCE, || {
        match source.ask::<(String, usize)>(&["PUBSUB", "NUMSUB", "orders"]).1 {
            1 => Ok(()),
            count => Err(format!("{count} subscribers")),
        }
    });
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    // The source forgot its list and the last epoch; positions must not go back all the same.
    expected.extend(oracle.sequence());
    let gaps = gaps(&destination, "orders");
    let (captured, seen) = (captured(&destination, "orders"), [daemon.seen("orders")]);
    assert_accounted(&expected, &captured, &gaps, &seen, &["source_disconnected"]);
    assert_eq!(gaps.len(), 1, "{gaps:#?}");
}

#[test]
fn it_is_made_a_replica() {
    let source = Server::start(Version::Redis70);
    let other = Server::with(Version::Redis70, Options::default().tcp());
    let destination = Server::start(Version::Redis70);
    let daemon = setup(&source, &destination).start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(2, 2_000, &["orders"]));
    daemon.wait_settled("orders", 2_000);

    // Its subscribers stay connected, and it still takes PUBLISH: only its role tells.
    let port = other.port().expect("it listens on TCP").to_string();
    source.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
    let status = daemon.wait_state("orders", RouteState::Waiting);
    assert!(status.gap_open_since_unix_ms.is_some(), "{status:?}");

    source.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    daemon.wait_ready();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    let causes: Vec<String> = gaps(&destination, "orders").into_iter().map(|gap| gap.cause).collect();
    assert_eq!(causes, ["source_demoted"]);
}
