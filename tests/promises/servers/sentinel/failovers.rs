//! Promise: what a failover does to each kind of route, as the table of guides/sentinel.md says, however it comes about.

use std::collections::HashSet;

use super::{
    CAPTURE, Load, Oracle, PATIENCE, Payloads, Server, Subscriber, Version, Watched, assert_exact,
    assert_nothing_lost_outside_gaps, before_the_failover, captured, eventually, gaps, subscribers,
};

/// From the server that stands alone to the one that is watched.
const TO_SHOP: &str = r#"
[capture.orders]
source = "events"
channels = ["orders"]
destination = "shop"
stream = "orders"
keep = "forever"
include = ["id"]
"#;

/// How the master is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failover {
    /// `SENTINEL FAILOVER`.
    Planned,
    /// The same while two sentinels are dead.
    OneSentinel,
    /// `kill -9`. One sentinel is frozen meanwhile, and comes back with old news.
    Killed,
    /// `kill -9`, and it is back at once: for ten seconds it says that it is the master.
    Returns,
    /// The sentinels lose it and nobody else does: it continues to take writes, and is demoted later.
    Partition,
}

impl Failover {
    const ALL: [Self; 5] = [Self::Planned, Self::OneSentinel, Self::Killed, Self::Returns, Self::Partition];
}

impl Watched {
    /// Loses the master, and waits until every sentinel that lives names the other server.
    #[track_caller]
    fn lose_master(&mut self, how: Failover) {
        match how {
            Failover::Planned => {
                self.sentinels[0].fail_over("shop");
                self.wait_switched(&self.sentinels);
            }
            Failover::OneSentinel => {
                self.sentinels[0].kill();
                self.sentinels[1].kill();
                self.sentinels[2].fail_over("shop");
                self.wait_switched(&self.sentinels[2..]);
            }
            Failover::Killed => {
                self.sentinels[2].freeze();
                self.kill_master(0..2);
                self.wait_switched(&self.sentinels[..2]);
                self.sentinels[2].thaw();
            }
            Failover::Returns => {
                self.kill_master(0..3);
                self.wait_switched(&self.sentinels);
                self.master.start_again();
            }
            Failover::Partition => {
                self.cut_off();
                self.wait_switched(&self.sentinels);
            }
        }
    }

    /// Brings the old master back, and waits until it follows the new one.
    #[track_caller]
    fn demote(&mut self, how: Failover) {
        match how {
            Failover::Killed => {
                // The sentinel that was frozen could have the old master promoted again, without its data.
                self.wait_switched(&self.sentinels);
                self.master.start_again();
            }
            Failover::Partition => self.master.ask::<()>(&["ACL", "SETUSER", "default", "+ping"]),
            Failover::Planned | Failover::OneSentinel | Failover::Returns => {}
        }
        self.master.wait_linked();
    }
}

/// With two instances as well: both lose the source at once, so it is a gap for both, and recorded once.
#[test]
fn a_capture_continues_at_the_new_master() {
    for how in Failover::ALL {
        let mut watched = Watched::start(Version::Redis70, CAPTURE, "");
        let twin = watched.daemon.start_twin();
        before_the_failover(&watched);
        watched.lose_master(how);
        eventually("both instances listen to the new master", PATIENCE, || {
            match subscribers(&watched.replica) {
                2 => Ok(()),
                count => Err(format!("{how:?}: {count} listen")),
            }
        });
        watched.assert_captured(2);
        if matches!(how, Failover::Returns | Failover::Partition) {
            watched.demote(how);
            assert_eq!(subscribers(&watched.master), 0, "{how:?}");
        }
        drop(twin);
    }
}

#[test]
fn in_replication_mode_nothing_is_missed() {
    let routes = format!("{CAPTURE}mode = \"replication\"\nprefer = \"replica\"\n");
    for how in Failover::ALL {
        let mut watched = Watched::start(Version::Redis82, &routes, "");
        before_the_failover(&watched);
        let tap = watched.daemon.route("orders").unwrap().replication;
        assert_eq!(tap.map(|tap| tap.role).as_deref(), Some("replica"), "{how:?}");
        watched.lose_master(how);
        let oracle = Oracle::new(&watched.replica);
        // Nobody needs to read it yet.
        oracle.publish(&Load::new(2, 1000, &["orders"]).payloads(Payloads::Unique).first_publisher(2));
        if how == Failover::Partition {
            watched.demote(how);
            oracle.publish(&Load::new(2, 1000, &["orders"]).payloads(Payloads::Unique).first_publisher(4));
        }
        oracle.publish_last("orders", &watched.events, "orders", PATIENCE);
        assert_exact(&oracle.sequence(), &captured(&watched.events, "orders"));
    }
}

/// Exactly once in the streams that the failover leaves, with one instance and with two.
#[test]
fn a_destination_that_waits_for_a_replica_loses_nothing() {
    for how in Failover::ALL {
        let mut watched = Watched::start(Version::Redis70, TO_SHOP, "durability = \"replicated\"");
        let twin = watched.daemon.start_twin();
        let oracle = Oracle::new(&watched.events);
        let load = oracle.start(&Load::new(2, usize::MAX / 2, &["orders"]).rate(2_000));
        watched.master.wait_longer("orders", 500);
        watched.lose_master(how);
        watched.demote(how);
        watched.replica.wait_longer("orders", 500);
        load.stop();
        oracle.publish_last("orders", &watched.replica, "orders", PATIENCE);
        assert_exact(&oracle.sequence(), &captured(&watched.replica, "orders"));
        assert_eq!(gaps(&watched.replica, "orders").len(), 0, "{how:?}: the source was there all the time");
        drop(twin);
    }
}

/// What the new master lacks is stored again while it is in memory, and is a gap where it is not.
#[test]
fn a_destination_that_does_not_wait_records_what_the_failover_loses() {
    for how in Failover::ALL {
        let mut watched = Watched::start(Version::Redis70, TO_SHOP, "durability = \"applied\"");
        let oracle = Oracle::new(&watched.events);
        let load = Load::new(2, usize::MAX / 2, &["orders"]).payloads(Payloads::Unique).rate(2_000);
        let load = oracle.start(&load);
        watched.master.wait_longer("orders", 500);
        watched.lose_master(how);
        watched.replica.wait_longer("orders", 500);
        load.stop();
        oracle.publish_last("orders", &watched.replica, "orders", PATIENCE);
        let (stored, gaps) = (captured(&watched.replica, "orders"), gaps(&watched.replica, "orders"));
        assert_nothing_lost_outside_gaps(&oracle.sequence(), &stored, &gaps);
    }
}

/// Entries of the new master's time are published there in order; on one server those come again before them whose step of
/// the cursor the failover lost.
#[test]
fn a_broadcast_publishes_where_the_subscribers_are() {
    for (source, version) in [("events", Version::Valkey91), ("shop", Version::Redis70)] {
        let routes = format!(
            r#"
            [broadcast.orders]
            source = "{source}"
            stream = "orders"
            destination = "shop"
            channel = "orders"
            message = "<field:payload>"
            start = "beginning"

            [broadcast.elsewhere]
            source = "events"
            stream = "elsewhere"
            destination = "events"
            channel = "elsewhere"
            message = "<field:payload>"
            start = "beginning"
            "#
        );
        for how in Failover::ALL {
            let mut watched = Watched::start(version, &routes, "");
            let add = |server: &Server, numbers: std::ops::Range<u32>| {
                for number in numbers {
                    server.ask::<String>(&["XADD", "orders", "*", "payload", &number.to_string()]);
                }
            };
            add(if source == "shop" { &watched.master } else { &watched.events }, 0..100);
            eventually("what is there is published", PATIENCE, || {
                match watched.daemon.route("orders")?.broadcast.map(|counts| counts.published) {
                    Some(100) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
            watched.replica.wait_caught_up_with(&watched.master);
            watched.lose_master(how);
            eventually("the broadcast is connected to the new master", PATIENCE, || {
                let clients: String = watched.replica.ask(&["CLIENT", "LIST"]);
                if clients.contains("name=tidegate:") { Ok(()) } else { Err(clients) }
            });
            let subscriber = Subscriber::start(&watched.replica, &["orders"]);
            add(if source == "shop" { &watched.replica } else { &watched.events }, 100..200);
            let expected: Vec<String> = (100..200).map(|number: u32| number.to_string()).collect();
            let heard = eventually("everything is heard", PATIENCE, || {
                let heard = subscriber.payloads();
                if heard.ends_with(&expected) { Ok(heard) } else { Err(format!("{how:?}: {heard:?}")) }
            });
            let again: HashSet<&String> = heard[..heard.len() - expected.len()].iter().collect();
            assert!(again.iter().all(|number| !expected.contains(number)), "{source} {how:?}: {heard:?}");
        }
    }
}

/// The old master rejects tidegate, so its routes are blocked and try again every 30 s. With another master they do so at
/// once.
#[test]
fn blocked_routes_do_not_wait_for_the_old_master() {
    let routes = format!(
        "{CAPTURE}{}{}",
        TO_SHOP
            .replace("capture.orders", "capture.stored")
            .replace("stream = \"orders\"", "stream = \"stored\""),
        r#"
        [broadcast.told]
        source = "events"
        stream = "told"
        destination = "shop"
        channel = "told"
        message = "<field:payload>"
        start = "beginning"

        [broadcast.found]
        source = "shop"
        streams = "found:*"
        destination = "shop"
        channel = "found"
        message = "<field:payload>"
        start = "beginning"
        "#
    );
    let mut watched = Watched::start(Version::Redis70, &routes, "");
    watched.master.ask::<()>(&["ACL", "SETUSER", "tidegate-shop", "-@all"]);
    watched.master.ask::<usize>(&["CLIENT", "KILL", "USER", "tidegate-shop"]);
    watched.events.ask::<String>(&["XADD", "told", "*", "payload", "hello"]);
    let routes = ["orders", "stored", "told", "found"];
    for route in routes {
        eventually("the route is rejected", PATIENCE, || {
            let status = watched.daemon.route(route)?;
            let rejected = status.reason.as_ref().is_some_and(|reason| reason.contains("NOPERM"));
            if rejected { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }
    watched.lose_master(Failover::Planned);
    for route in routes {
        // Less than the 30 s, which began before the failover.
        watched.daemon.wait_state_within(PATIENCE / 3, route, tidegate::status::RouteState::Live);
    }
}

/// A connection to the old master that is never answered ends with the move, and not with `connect_timeout`.
#[test]
fn an_attempt_at_the_old_master_ends_with_the_move() {
    let mut watched = Watched::start(Version::Redis70, CAPTURE, "connect_timeout = \"5m\"");
    watched.daemon.kill();
    watched.master.freeze();
    watched.daemon.start_again();
    eventually("tidegate connects to the frozen master", PATIENCE, || {
        match watched.sentinels.iter().map(|sentinel| sentinel.clients("tidegate:sentinel").len()).sum() {
            0 => Err("it has not asked the sentinels".to_owned()),
            _ => Ok(()),
        }
    });
    watched.lose_master(Failover::Planned);
    watched.wait_listening();
}
