//! Promise: what the destination acknowledged and then lost in a failover is appended again, from what was
//! kept until it was durable; and "durable" is what was asked for.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Load, Options, Oracle, Server, Setup, Version, alert, assert_exact, captured, eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);

const ROUTES: &str = r#"
    [capture.orders]
    source = "shop"
    channels = ["orders"]
    destination = "events"
    stream = "orders"
    keep = "forever"
    include = ["id"]
"#;

#[test]
fn a_destination_that_goes_back_gets_it_again() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let mut destination = Server::start(version);
        let daemon = Setup::orders(&source, &destination).expects(&[alert::DESTINATION]).start_ready();
        let oracle = Oracle::new(&source);
        let load = oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).rate(5_000));
        for _ in 0..4 {
            // What a replica has that is a moment behind: everything until now.
            destination.ask::<()>(&["SAVE"]);
            let saved = destination.stream_length("orders");
            eventually("more is stored", PATIENCE, || match destination.stream_length("orders") {
                now if now > saved + 500 => Ok(()),
                now => Err(format!("{now} entries")),
            });
            destination.restart();
        }
        load.stop();
        oracle.publish_last("orders", &destination, "orders", PATIENCE);
        assert_eq!(gaps(&destination, "orders"), [], "{version}");
        assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
        daemon.wait_settled("orders", oracle.sequence().len());
    }
}

/// What it stored last is kept while it is away, and not by the clock.
#[test]
fn a_destination_that_is_away_for_long_and_goes_back_gets_it_again() {
    let source = Server::start(Version::Redis70);
    let mut destination = Server::start(Version::Redis82);
    let daemon = Setup::orders(&source, &destination).expects(&[alert::DESTINATION]).start_ready();
    let oracle = Oracle::new(&source);
    let load = oracle.start(&Load::new(1, usize::MAX / 2, &["orders"]).rate(1_000));
    let stored = |more: usize| {
        let saved = destination.stream_length("orders");
        eventually("more is stored", PATIENCE, || match destination.stream_length("orders") {
            now if now > saved + more => Ok(()),
            now => Err(format!("{now} entries")),
        });
    };
    stored(100);
    destination.ask::<()>(&["SAVE"]);
    stored(100);
    destination.kill();
    // Some seconds of the load.
    let before = oracle.count().expect("the source counts");
    eventually("it is away for long", PATIENCE, || match oracle.count() {
        Some(now) if now > before + 4_000 => Ok(()),
        now => Err(format!("{now:?}")),
    });
    destination.start_again();
    load.stop();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_eq!(gaps(&destination, "orders"), []);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    daemon.wait_settled("orders", oracle.sequence().len());
}

#[test]
fn a_replica_that_is_stopped_holds_the_watermark() {
    let source = Server::start(Version::Redis70);
    let destination = Server::with(Version::Redis70, Options::default().tcp());
    let replica = Server::replica_of(&destination, Version::Redis70, Options::default());
    let daemon = Setup::new()
        .endpoint("shop", &source)
        .endpoint_with("events", &destination, "durability = \"replicated\"")
        .routes(ROUTES)
        .expects(&[alert::NOT_DURABLE])
        .start_ready();
    let oracle = Oracle::new(&source);
    let durable = |at_least: &str| {
        let status = daemon.route("orders")?;
        match (&status.durable, &status.position) {
            (Some(durable), Some(position)) if durable == position && position.as_str() > at_least => {
                Ok(durable.clone())
            }
            _ => Err(format!("{status:?}")),
        }
    };
    oracle.publish(&Load::new(1, 1_000, &["orders"]));
    daemon.wait_settled("orders", 1_000);
    let before = eventually("everything is durable", PATIENCE, || durable(""));

    replica.freeze();
    oracle.publish(&Load::new(1, 1_000, &["orders"]));
    daemon.wait_settled("orders", 2_000);
    // Two WAITs have come back without it.
    eventually("it has been waited for", PATIENCE, || {
        let calls = destination.calls("wait");
        if calls > 2 { Ok(()) } else { Err(format!("{calls} calls of WAIT")) }
    });
    let status = daemon.route("orders").expect("it answers");
    assert_eq!(status.durable.as_deref(), Some(before.as_str()), "a stopped replica has nothing");
    assert!(status.position.as_deref() > Some(before.as_str()), "the master has it");
    assert_eq!(status.state, RouteState::Live);

    replica.thaw();
    eventually("everything is durable again", PATIENCE, || durable(&before));
}

/// A replica that had not got everything takes over: what it lacks was never durable, although the new master and
/// its own replica have all that is there.
#[test]
fn what_a_failover_lost_was_never_durable() {
    let source = Server::start(Version::Redis70);
    let mut master = Server::with(Version::Redis70, Options::default().tcp());
    let replicas = [(); 2].map(|()| Server::replica_of(&master, Version::Redis70, Options::default()));
    let daemon = Setup::new()
        .endpoint("shop", &source)
        .deployment("events", &[&master, &replicas[0], &replicas[1]])
        .with_settings("durability = \"replicated\"")
        .routes(ROUTES)
        .expects(&[alert::DESTINATION, alert::NOT_DURABLE])
        .start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(1, 1_000, &["orders"]));
    eventually("everything is durable", PATIENCE, || {
        let status = daemon.route("orders")?;
        let settled = status.counts.as_ref().is_some_and(|ledger| ledger.stored == 1_000);
        if settled && status.durable == status.position { Ok(()) } else { Err(format!("{status:?}")) }
    });
    // Replicas of a server that does not exist keep their data, and get nothing new.
    replicas.iter().for_each(|replica| replica.ask(&["REPLICAOF", "127.0.0.1", "1"]));
    oracle.publish(&Load::new(1, 1_000, &["orders"]).first_publisher(1));
    daemon.wait_settled("orders", 2_000);
    replicas[0].ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(replicas[0].stream_length("orders"), 1_000, "it lacks what came last");
    let port = replicas[0].port().expect("it listens on TCP").to_string();
    replicas[1].ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
    replicas[1].wait_linked();
    // The first WAIT over there succeeds at once.
    master.kill();
    oracle.publish_last("orders", &replicas[0], "orders", PATIENCE);
    assert_eq!(gaps(&replicas[0], "orders"), []);
    assert_exact(&oracle.sequence(), &captured(&replicas[0], "orders"));
}

#[test]
fn what_is_synced_to_disk_is_durable() {
    for version in [Version::Redis82, Version::Valkey91] {
        let source = Server::start(Version::Redis70);
        let options = Options::default().with("appendonly", "yes").with("appendfsync", "everysec");
        let destination = Server::with(version, options);
        let daemon = Setup::new()
            .endpoint("shop", &source)
            .endpoint_with("events", &destination, "durability = \"fsynced\"")
            .routes(ROUTES)
            .start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(1, 1_000, &["orders"]));
        daemon.wait_settled("orders", 1_000);
        eventually("everything is durable", PATIENCE, || {
            let status = daemon.route("orders")?;
            if status.durable.is_some() && status.durable == status.position {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        });
    }
}

/// Storing continues, and what was promised is not kept: that is reported with the remedy until it is.
#[test]
fn replicas_that_are_missing_are_told() {
    let source = Server::start(Version::Redis70);
    let destination = Server::with(Version::Redis70, Options::default().tcp());
    let _one = Server::replica_of(&destination, Version::Redis70, Options::default());
    let mut daemon = Setup::new()
        .endpoint("shop", &source)
        .endpoint_with("events", &destination, "durability = \"replicated\"\nreplicas = 2")
        .routes(ROUTES)
        .expects(&[alert::NOT_DURABLE, alert::DESTINATION, alert::GAP])
        .start();
    let words = "1 of 2 replicas have confirmed the stored messages within 5 s (redis.events.durability = \"replicated\"; look \
                 at INFO replication";
    let line = daemon.wait_alert(alert::NOT_DURABLE);
    assert!(
        line.text.contains("\"server\":\"events\"") && line.text.contains("\"route\":\"orders\""),
        "{}",
        line.text
    );
    assert!(
        line.text.contains(&words.replace('"', "\\\"")) && line.text.contains("tidegate stores on"),
        "{}",
        line.text
    );
    let told = |daemon: &crate::support::Daemon| {
        let status = daemon.route("orders")?;
        let (code, body) = daemon.get("/readyz")?;
        let body = body.replace("\\\"", "\"");
        let reason = status.reason.clone().unwrap_or_default();
        let says = reason.contains(words) && body.contains(&format!("not durable: {words}"));
        let gauge = daemon.metric("orders", "tidegate_not_durable");
        if status.state == RouteState::Live && says && (code, gauge) == (503, 1) {
            Ok(())
        } else {
            Err(format!("{status:?} {body} {gauge}"))
        }
    };
    eventually("status and readiness say it", PATIENCE, || told(&daemon));
    Oracle::new(&source).publish(&Load::new(1, 100, &["orders"]));
    daemon.wait_settled("orders", 100);
    let _two = Server::replica_of(&destination, Version::Redis70, Options::default());
    daemon.wait_ready();
    assert_eq!(daemon.metric("orders", "tidegate_not_durable"), 0);
    assert_eq!(daemon.route("orders").unwrap().reason, None);
    eventually("the end is logged", PATIENCE, || match daemon.logged("durable_again") {
        1 => Ok(()),
        count => Err(format!("{count}")),
    });
    // A right that is missing is told as well.
    destination.ask::<()>(&["ACL", "SETUSER", "tidegate-events", "-wait"]);
    daemon.restart();
    eventually("the right is named", PATIENCE, || match daemon.get("/readyz")? {
        (503, body) if body.contains("not durable: it is not known which messages are durable: NOPERM") => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    });
}
