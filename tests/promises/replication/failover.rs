//! The source has a master and a replica, and the daemon knows both: whichever is tapped and whichever takes
//! over, nothing that the new master has is missed, and nothing of its history is taken for the old one's.

use tidegate::rt;

use super::*;
use crate::support::Captured;

/// A master, a replica and a daemon that knows both.
struct Deployment {
    daemon: Daemon,
    master: Server,
    replica: Server,
    destination: Server,
}

impl Deployment {
    fn start(version: Version, prefer: &str, alerts: &[&[&str]]) -> Self {
        let master = Server::with(version, Options::replication_source().tcp());
        let replica = Server::replica_of(&master, version, Options::replication_source());
        let destination = Server::start(Version::Redis70);
        let routes = ROUTES.replace("mode =", &format!("prefer = \"{prefer}\"\nmode ="));
        let setup = Setup::new().deployment("shop", &[&master, &replica]).endpoint("events", &destination);
        let daemon = setup.routes(&routes).expects(alerts).start_ready();
        Self { daemon, master, replica, destination }
    }

    fn tapped(&self) -> String {
        let status = self.daemon.route("orders").expect("the daemon runs");
        let replication = status.replication.expect("a tap is open");
        format!("{} {}", replication.role, replication.address)
    }

    #[track_caller]
    fn appends_go_on(&self) {
        self.destination.wait_longer("orders", 500);
    }

    #[track_caller]
    fn appends_go_on_to(&self, entries: usize) {
        eventually("so many entries are there", PATIENCE, || {
            match self.destination.stream_length("orders") {
                now if now == entries => Ok(()),
                now => Err(format!("{now} of {entries} entries")),
            }
        });
    }

    /// This number of messages is published to the master, and stored.
    #[track_caller]
    fn appends_go_on_after(&mut self, messages: usize) {
        let before = self.destination.stream_length("orders");
        Oracle::new(&self.master).publish(&Load::new(1, messages, &["orders"]));
        self.appends_go_on_to(before + messages);
    }

    /// The replica takes over, and the master that was becomes its replica.
    fn hand_over(&mut self, handover: Handover) {
        match handover {
            Handover::Asked => {}
            Handover::Killed => self.master.kill(),
            Handover::Frozen => self.master.freeze(),
        }
        self.replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
        Oracle::new(&self.replica).publish(&Load::new(2, 1000, &["orders"]));
        match handover {
            Handover::Asked => {}
            Handover::Killed => self.master.start_again(),
            Handover::Frozen => self.master.thaw(),
        }
        let port = self.replica.port().unwrap().to_string();
        self.master.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
        self.master.wait_linked();
        std::mem::swap(&mut self.master, &mut self.replica);
    }

    /// The failover records that were written.
    fn failovers(&self) -> usize {
        gaps(&self.destination, "orders").iter().filter(|gap| gap.cause == "failover").count()
    }
}

const FAILOVER: &[&[&str]] = &[alert::SOURCE, alert::GAP, alert::SEVERAL_MASTERS];

/// The replica that is tapped is promoted, under load: what it had is there, exactly.
#[test]
fn the_replica_that_is_tapped_is_promoted() {
    for version in Version::SOURCES {
        let mut deployment = Deployment::start(version, "replica", FAILOVER);
        let replica = format!("replica 127.0.0.1:{}", deployment.replica.port().unwrap());
        assert_eq!(deployment.tapped(), replica, "{version}");
        let oracle = Oracle::new(&deployment.master);
        let load = Load::new(3, usize::MAX / 2, &["orders", "returns.eu"]).rate(10_000);
        let load = oracle.start(&load);
        eventually("it captures", PATIENCE, || match deployment.destination.stream_length("orders") {
            0..5000 => Err("too little yet".to_owned()),
            _ => Ok(()),
        });
        deployment.master.kill();
        load.fail();
        deployment.replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
        let oracle = Oracle::new(&deployment.replica);
        oracle.publish(&Load::new(3, 5_000, &["orders"]).first_publisher(3));
        oracle.publish_last("orders", &deployment.destination, "orders", PATIENCE);
        assert_exact(&oracle.sequence(), &captured(&deployment.destination, "orders"));
        assert_eq!(deployment.failovers(), 1, "{version}");
        assert_eq!(gaps(&deployment.destination, "orders").len(), 1, "{version}: the failover, and no gap");
        assert!(deployment.tapped().starts_with("master"), "no other one is left");
    }
}

/// The record of the failover cannot be written: meanwhile nothing is stored, and so nothing twice.
#[test]
fn the_gaps_key_is_of_another_type_as_a_failover_comes() {
    let alerts = [FAILOVER, &[alert::BLOCKED]].concat();
    let mut deployment = Deployment::start(Version::Valkey91, "replica", &alerts);
    let oracle = Oracle::new(&deployment.master);
    oracle.publish(&Load::new(1, 1_000, &["orders"]));
    deployment.appends_go_on_to(1_000);
    deployment.destination.ask::<()>(&["SET", "tidegate:orders:gaps", "no stream"]);
    deployment.master.kill();
    deployment.replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    let oracle = Oracle::new(&deployment.replica);
    oracle.publish(&Load::new(1, 1_000, &["orders"]).first_publisher(1));
    deployment.daemon.wait_state("orders", RouteState::Blocked);
    assert_eq!(deployment.destination.stream_length("orders"), 1_000);
    deployment.destination.ask::<()>(&["DEL", "tidegate:orders:gaps"]);
    oracle.publish_last("orders", &deployment.destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&deployment.destination, "orders"));
    assert_eq!(deployment.failovers(), 1);
}

/// The replica tells an address that leads nowhere, as behind NAT; the map says where it is.
#[test]
fn a_replica_is_reached_where_the_map_says() {
    const TOLD: &str = "192.0.2.7";
    let master = Server::with(Version::Redis70, Options::replication_source().tcp());
    let announced =
        Options::replication_source().with("replica-announce-ip", TOLD).with("replica-announce-port", "7");
    let replica = Server::replica_of(&master, Version::Redis70, announced);
    let destination = Server::start(Version::Redis70);
    let reached = format!("127.0.0.1:{}", replica.port().unwrap());
    // Users are not replicated: both servers get them, and only the master is in the list.
    let daemon = Setup::new()
        .deployment("shop", &[&master, &replica])
        .with_settings(&format!("address_map = {{ \"{TOLD}:7\" = \"{reached}\" }}"))
        .with_settings_replaced(&format!("addresses = [\"{reached}\"]"), "")
        .endpoint("events", &destination)
        .routes(ROUTES)
        .start_ready();
    let tapped = daemon.route("orders").unwrap().replication.unwrap();
    assert_eq!((tapped.role.as_str(), tapped.address), ("replica", reached));
    let oracle = Oracle::new(&master);
    oracle.publish(&Load::new(2, 1_000, &["orders"]));
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
}

/// The master that is tapped dies, and a replica that had everything is promoted.
#[test]
fn the_master_that_is_tapped_dies() {
    for version in Version::SOURCES {
        let mut deployment = Deployment::start(version, "master", FAILOVER);
        assert!(deployment.tapped().starts_with("master"), "{version}");
        let oracle = Oracle::new(&deployment.master);
        oracle.publish(&Load::new(3, 5_000, &["orders"]));
        deployment.replica.wait_caught_up_with(&deployment.master);
        deployment.daemon.wait_settled("orders", 5_000);
        deployment.master.kill();
        deployment.replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
        let oracle = Oracle::new(&deployment.replica);
        oracle.publish(&Load::new(3, 5_000, &["orders"]).first_publisher(3));
        oracle.publish_last("orders", &deployment.destination, "orders", PATIENCE);
        assert_exact(&oracle.sequence(), &captured(&deployment.destination, "orders"));
    }
}

/// The second failover comes right after the first one: its server knows the history before its own, and not the one
/// before that.
#[test]
fn two_failovers_at_once_leave_no_gap() {
    let mut first = Server::with(Version::Redis82, Options::replication_source().tcp());
    let mut second = Server::replica_of(&first, Version::Redis82, Options::replication_source());
    let third = Server::replica_of(&second, Version::Redis82, Options::replication_source());
    let destination = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .deployment("shop", &[&first, &second, &third])
        .endpoint("events", &destination)
        .routes(&ROUTES.replace("mode =", "prefer = \"master\"\nmode ="))
        .expects(FAILOVER)
        .start_ready();
    let oracle = Oracle::new(&first);
    oracle.publish(&Load::new(2, 1_000, &["orders"]));
    daemon.wait_settled("orders", 1_000);
    second.wait_caught_up_with(&first);
    third.wait_caught_up_with(&second);
    first.kill();
    second.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    let master = second.port().unwrap().to_string();
    eventually("the second master is read", PATIENCE, || match daemon.route("orders")?.replication {
        Some(tap) if tap.role == "master" && tap.address.ends_with(&master) => Ok(()),
        tap => Err(format!("{tap:?}")),
    });
    second.kill();
    third.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    let oracle = Oracle::new(&third);
    oracle.publish(&Load::new(2, 1_000, &["orders"]).first_publisher(2));
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    let causes: Vec<String> = gaps(&destination, "orders").into_iter().map(|gap| gap.cause).collect();
    assert!(causes.iter().all(|cause| cause == "failover"), "{causes:?}");
}

/// A replica that lags is promoted, and reuses offsets for other bytes: nothing of it is taken for what was
/// there, and what was published before it was read is there too.
#[test]
fn a_replica_that_lags_is_promoted() {
    let mut deployment = Deployment::start(Version::Redis70, "master", FAILOVER);
    let oracle = Oracle::new(&deployment.master);
    let messages =
        |first, count| Load::new(1, count, &["orders"]).first_publisher(first).payloads(Payloads::Unique);
    oracle.publish(&messages(0, 1000));
    deployment.replica.wait_caught_up_with(&deployment.master);
    // A replica of a server that does not exist keeps its data, and gets nothing new.
    deployment.replica.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    oracle.publish(&messages(1, 1000));
    deployment.daemon.wait_settled("orders", 2000);
    let before = oracle.sequence();
    deployment.master.kill();
    deployment.replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    let oracle = Oracle::new(&deployment.replica);
    let kept = oracle.sequence();
    assert!(kept.len() < before.len(), "the replica does not have everything");
    oracle.publish(&messages(2, 5000));
    oracle.publish_last("orders", &deployment.destination, "orders", PATIENCE);
    let all = [before, oracle.sequence()[kept.len()..].to_vec()].concat();
    let captured: Vec<Captured> = captured(&deployment.destination, "orders");
    assert_exact(&all, &captured);
    let gaps = gaps(&deployment.destination, "orders");
    assert_eq!(gaps.len(), 1, "{gaps:#?}");
    assert_eq!(gaps[0].cause, "failover");
}

/// A replica whose own link is down sends nothing: the daemon continues at the master.
#[test]
fn a_replica_that_has_lost_its_master_is_left() {
    let mut deployment = Deployment::start(Version::Redis70, "replica", FAILOVER);
    assert!(deployment.tapped().starts_with("replica"));
    let oracle = Oracle::new(&deployment.master);
    let load = oracle.start(&Load::new(2, usize::MAX / 2, &["orders"]).rate(5_000));
    // A replica of a server that does not exist keeps its data, and gets nothing new.
    deployment.replica.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    eventually("it reads the master", Duration::from_secs(10), || {
        let status = deployment.daemon.route("orders")?;
        match status.replication {
            Some(replication) if replication.role == "master" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    load.stop();
    oracle.publish_last("orders", &deployment.destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&deployment.destination, "orders"));
    assert_eq!(gaps(&deployment.destination, "orders"), []);
    assert_eq!(deployment.daemon.stop().code(), Some(0));
}

/// Sentinel does not see a tap of a replica: no replica of no address is in its list.
#[test]
fn sentinel_sees_no_trace() {
    let master = Server::with(Version::Redis70, Options::replication_source().tcp());
    let replica = Server::replica_of(&master, Version::Redis70, Options::replication_source());
    let sentinel = Server::sentinel(Version::Redis70, "shop", &master);
    let destination = Server::start(Version::Redis70);
    // Only the master is named: the replica is found by itself.
    let setup = Setup::new().deployment("shop", &[&master, &replica]).endpoint("events", &destination);
    let _daemon = setup.routes(ROUTES).start_ready();
    let oracle = Oracle::new(&master);
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_eq!(replica.info("replication", "connected_slaves"), 1, "the replica has a reader");
    let tapped = Instant::now();
    let heard = || sentinel.ask::<Vec<HashMap<String, String>>>(&["SENTINEL", "REPLICAS", "shop"]);
    // Sentinel asks each server every ten seconds.
    eventually("sentinel has asked the master since", PATIENCE, || {
        let master: HashMap<String, String> = sentinel.ask(&["SENTINEL", "MASTER", "shop"]);
        match master.get("info-refresh").and_then(|ms| ms.parse().ok()).map(Duration::from_millis) {
            Some(ago) if ago < tapped.elapsed() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let listed: Vec<String> = heard().iter().map(|one| one["port"].clone()).collect();
    assert_eq!(listed, [replica.port().unwrap().to_string()]);
}

/// The source fails over, and then the destination goes back to before that: what the new history is numbered by
/// is not forgotten with it.
#[test]
fn the_destination_goes_back_to_before_a_failover() {
    let alerts: &[&[&str]] = &[alert::SOURCE, alert::GAP, alert::DESTINATION];
    let mut deployment = Deployment::start(Version::Redis70, "master", alerts);
    let oracle = Oracle::new(&deployment.master);
    oracle.publish(&Load::new(3, 1_000, &["orders"]));
    deployment.daemon.wait_settled("orders", 1_000);
    deployment.replica.wait_caught_up_with(&deployment.master);
    deployment.destination.ask::<()>(&["SAVE"]);
    deployment.hand_over(Handover::Killed);
    let oracle = Oracle::new(&deployment.master);
    deployment.appends_go_on_to(oracle.sequence().len());
    deployment.destination.restart();
    oracle.publish(&Load::new(3, 1_000, &["orders"]).first_publisher(3));
    deployment.appends_go_on_to(oracle.sequence().len());
    // The place is known by what the state has alone.
    deployment.daemon.kill();
    oracle.publish(&Load::new(3, 1_000, &["orders"]).first_publisher(6));
    deployment.daemon.start_again();
    oracle.publish_last("orders", &deployment.destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&deployment.destination, "orders"));
    let causes: Vec<_> = gaps(&deployment.destination, "orders").into_iter().map(|gap| gap.cause).collect();
    assert_eq!(causes, ["failover"]);
}

/// How one server takes over from another that it has everything of.
#[derive(Debug, Clone, Copy)]
enum Handover {
    /// The master is made a replica after the other one was made a master.
    Asked,
    /// The master is killed, and starts again, with nothing, when it has a successor.
    Killed,
    /// The master answers nobody, and when it does again it is told at once.
    Frozen,
}

/// The source fails over again and again, and whatever is done to two instances just before: exact.
#[test]
fn two_instances_follow_one_failover_after_another() {
    let seed = fastrand::u64(..);
    eprintln!("the seed is {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for prefer in ["replica", "master"] {
        let mut deployment = Deployment::start(Version::Redis70, prefer, FAILOVER);
        let mut second = deployment.daemon.start_twin();
        second.wait_ready();
        let mut handovers = [Handover::Asked, Handover::Killed, Handover::Frozen, Handover::Asked];
        random.shuffle(&mut handovers);
        for (round, handover) in handovers.into_iter().enumerate() {
            eprintln!("{prefer}, {handover:?}");
            let oracle = Oracle::new(&deployment.master);
            let load = Load::new(3, usize::MAX / 2, &["orders", "returns.eu"]).first_publisher(3 * round);
            let load = oracle.start(&load.rate(5_000));
            deployment.appends_go_on();
            match random.u8(..4) {
                0 => deployment.daemon.restart(),
                1 => second.restart(),
                2 => cut_link(&deployment.master),
                _ => cut_link(&deployment.replica),
            }
            load.stop();
            deployment.replica.wait_caught_up_with(&deployment.master);
            deployment.hand_over(handover);
            let oracle = Oracle::new(&deployment.master);
            oracle.publish_one(b"orders", LAST);
            // A server knows the history before its own and no older one: both have to have come along.
            for instance in [&deployment.daemon, &second] {
                instance.wait_settled("orders", oracle.sequence().len());
                instance.wait_ready();
            }
        }
        let expected = Oracle::new(&deployment.master).sequence();
        assert_exact(&expected, &captured(&deployment.destination, "orders"));
        assert_eq!(deployment.failovers(), 4, "{prefer}");
        assert_eq!(gaps(&deployment.destination, "orders").len(), 4, "{prefer}: failovers, and no gap");
    }
}

/// A link that stalls delivers late, or not at all: what is missing was published long before anybody noticed.
#[test]
fn the_gap_of_a_link_that_stalled_begins_before_the_stall() {
    const MESSAGES: usize = 4_000;
    let source = source(Version::Redis82);
    source.ask::<()>(&["CONFIG", "SET", "repl-backlog-size", "16384"]);
    source.ask::<()>(&["CONFIG", "SET", "client-output-buffer-limit", "replica 65536 65536 1"]);
    let destination = Server::start(Version::Redis70);
    let proxy = Proxy::start(&source, 0);
    let setup = Setup::new().endpoint_through("shop", &source, &proxy, "").endpoint("events", &destination);
    let daemon = setup.routes(ROUTES).expects(&[alert::SOURCE, alert::GAP]).start_ready();
    source.ask::<()>(&["PUBLISH", "orders", "before"]);
    eventually("a message is stored", PATIENCE, || match captured(&destination, "orders").len() {
        1 => Ok(()),
        count => Err(format!("{count} entries")),
    });
    let stalled = rt::unix_ms();
    proxy.hold();
    let mut connection = source.connection();
    let mut pipeline = redis::pipe();
    for _ in 0..MESSAGES {
        pipeline.cmd("PUBLISH").arg("orders").arg("x".repeat(1_024)).ignore();
    }
    pipeline.exec(&mut connection).expect("the source takes messages");
    let published = rt::unix_ms();
    daemon.wait_alert(alert::SOURCE);
    proxy.release();
    eventually("a gap is recorded", PATIENCE, || match gaps(&destination, "orders").len() {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    });
    let gaps = gaps(&destination, "orders");
    assert!(captured(&destination, "orders").len() < MESSAGES, "the backlog holds few");
    assert_eq!(gaps[0].cause, "backlog_exceeded");
    assert!(
        gaps[0].started_at <= stalled && published <= gaps[0].ended_at,
        "{gaps:#?}, and messages are missing from {stalled} to {published}"
    );
}

/// The replica takes links and brings nothing, since its own link to the master stalls.
#[test]
fn a_replica_that_hears_nothing_is_left_for_the_master() {
    let mut deployment = Deployment::start(Version::Redis82, "replica", &[alert::SOURCE]);
    assert!(deployment.tapped().starts_with("replica"), "{}", deployment.tapped());
    let proxy = Proxy::start(&deployment.master, 0);
    deployment.replica.ask::<()>(&["REPLICAOF", "127.0.0.1", &proxy.port().to_string()]);
    deployment.replica.wait_linked();
    // The daemon reads the replica over the new link.
    deployment.appends_go_on_after(1);
    proxy.hold();
    deployment.appends_go_on_after(1_000);
    assert!(deployment.tapped().starts_with("master"), "{}", deployment.tapped());
    assert_eq!(gaps(&deployment.destination, "orders").len(), 0);
    proxy.release();
}
