//! Promise: what is connected to is the server that the configuration means, or nothing is. A node of a cluster
//! and a sentinel are refused in words, and of several addresses a dead master that came back is not used.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{Daemon, Load, Options, Oracle, Server, Setup, Version, alert, captured, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const ALERTS: &[&[&str]] = &[alert::SOURCE, alert::GAP, alert::DESTINATION, alert::SEVERAL_MASTERS];

fn reason(daemon: &Daemon) -> String {
    daemon.route("orders").ok().and_then(|status| status.reason).unwrap_or_default()
}

#[track_caller]
fn wait_reason(daemon: &Daemon, text: &str) {
    eventually(&format!("the route says: {text}"), PATIENCE, || match reason(daemon) {
        reason if reason.contains(text) => Ok(()),
        reason => Err(reason),
    });
}

/// Both were accepted once: a node as a source lost what a broken link between two nodes lost, without a record.
#[test]
fn a_node_of_a_cluster_is_refused_in_words() {
    const WORDS: &str = "this is a node of a Redis Cluster, which this version does not support";
    for version in Version::SOURCES {
        let node = Server::with(version, Options::default().cluster());
        let plain = Server::start(Version::Redis70);
        for (source, destination, side) in [(&node, &plain, "source"), (&plain, &node, "destination")] {
            let daemon = Setup::orders(source, destination)
                .expects(&[alert::SOURCE, alert::DESTINATION, alert::BLOCKED])
                .start();
            wait_reason(&daemon, WORDS);
            assert_ne!(daemon.get("/readyz").unwrap().0, 200, "{version} as {side}");
            assert_eq!(plain.stream_length("orders"), 0);
            let output = daemon.run_command(&["check", "--connect"]);
            let report = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(report.contains(&format!("problem: cannot be used: {WORDS}")), "{version} {report}");
            assert_eq!(output.status.code(), Some(69), "{version}");
        }
    }
}

#[test]
fn a_sentinel_is_refused_in_words() {
    const WORDS: &str = "this is a Sentinel: name it under [redis.NAME.sentinel]";
    for version in [Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey91] {
        let master = Server::with(version, Options::default().tcp());
        let sentinel = Server::sentinel(version, "shop", &master);
        let shop = Server::start(Version::Redis70);
        for (source, destination) in [("shop", "sentinel"), ("sentinel", "shop")] {
            let routes = format!(
                "[capture.orders]\nsource = \"{source}\"\nchannels = [\"orders\"]\ndestination = \"{destination}\"\n\
                 stream = \"orders\"\nkeep = \"forever\"\n"
            );
            // It knows none of our users, so it does not come to a greeting.
            let daemon = Setup::new()
                .endpoint("shop", &shop)
                .raw_endpoint("sentinel", &sentinel.socket())
                .routes(&routes)
                .expects(&[alert::SOURCE, alert::DESTINATION, alert::BLOCKED])
                .start();
            wait_reason(&daemon, WORDS);
            let output = daemon.run_command(&["check", "--connect"]);
            let report = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(report.contains(&format!("problem: cannot be used: {WORDS}")), "{version} {report}");
        }
    }
}

/// A master that died, a replica that took its place, and a daemon that knows both.
struct Returned {
    daemon: Daemon,
    old: Server,
    new: Server,
    destination: Server,
    /// Follows the new master, where the test wants one.
    _replica: Option<Server>,
}

impl Returned {
    /// The old master is dead; the daemon listens to the new one, and what was published on it is stored.
    fn start(version: Version, old_first: bool, replica: bool) -> Self {
        let mut old = Server::with(version, Options::default().tcp());
        let new = Server::replica_of(&old, version, Options::default());
        let destination = Server::start(Version::Redis70);
        let servers = if old_first { [&old, &new] } else { [&new, &old] };
        let daemon = Setup::new()
            .deployment("shop", &servers)
            .endpoint("events", &destination)
            .routes(
                "[capture.orders]\nsource = \"shop\"\nchannels = [\"orders\"]\ndestination = \"events\"\n\
                 stream = \"orders\"\nkeep = \"forever\"\ninclude = [\"id\"]\n",
            )
            .expects(ALERTS)
            .start_ready();
        old.kill();
        new.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
        let replica = replica.then(|| Server::replica_of(&new, version, Options::default()));
        let returned = Self { daemon, old, new, destination, _replica: replica };
        returned.wait_listening();
        returned
    }

    /// Waits until the new master is listened to.
    #[track_caller]
    fn wait_listening(&self) {
        eventually("the new master has a subscriber", PATIENCE, || {
            match self.new.ask::<(String, usize)>(&["PUBSUB", "NUMSUB", "orders"]).1 {
                0 => Err(reason(&self.daemon)),
                _ => Ok(()),
            }
        });
    }

    fn listens_to_the_old_one(&self) -> bool {
        self.old.ask::<(String, usize)>(&["PUBSUB", "NUMSUB", "orders"]).1 > 0
    }

    /// What is published on the new master from now on is stored.
    #[track_caller]
    fn assert_captured(&self) {
        let oracle = Oracle::new(&self.new);
        let before = captured(&self.destination, "orders").len();
        oracle.publish(&Load::new(2, 100, &["orders"]));
        oracle.publish_last("orders", &self.destination, "orders", PATIENCE);
        assert_eq!(captured(&self.destination, "orders").len() - before, 101);
        assert!(!self.listens_to_the_old_one());
    }
}

/// The first server that said master was taken once: connected, ready, and nothing heard.
#[test]
fn a_dead_master_that_came_back_is_not_used_by_who_knows_the_new_one() {
    for (version, old_first) in [(Version::Redis62, true), (Version::Valkey91, false)] {
        let mut returned = Returned::start(version, old_first, false);
        returned.old.start_again();
        // Nothing is disconnected, but nobody can be sure.
        returned.daemon.wait_state("orders", RouteState::Waiting);
        wait_reason(&returned.daemon, "source: two addresses report that they are the master: 127.0.0.1:");
        returned.assert_captured();
        // Also not by a connection that is made now.
        returned.new.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        returned.wait_listening();
        assert!(!returned.listens_to_the_old_one(), "{version}");
        // As Sentinel does it, some ten seconds later.
        let port = returned.new.port().unwrap().to_string();
        returned.old.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
        returned.daemon.wait_ready();
        returned.assert_captured();
    }
}

#[test]
fn a_replica_tells_the_new_master_to_who_knows_neither() {
    for (version, old_first) in [(Version::Redis70, true), (Version::Redis82, false)] {
        let mut returned = Returned::start(version, old_first, true);
        returned.old.start_again();
        returned.daemon.restart();
        returned.wait_listening();
        returned.assert_captured();
        let port = returned.new.port().unwrap().to_string();
        returned.old.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
        returned.daemon.wait_ready();
    }
}

#[test]
fn where_nothing_tells_which_is_the_master_none_is_used_until_one_gives_way() {
    for (version, old_first) in [(Version::Redis70, true), (Version::Valkey80, false)] {
        let mut returned = Returned::start(version, old_first, false);
        returned.old.start_again();
        returned.daemon.restart();
        wait_reason(&returned.daemon, "two addresses report that they are the master: 127.0.0.1:");
        assert!(!returned.listens_to_the_old_one(), "{version}");
        assert_ne!(returned.daemon.get("/readyz").unwrap().0, 200);
        let report = returned.daemon.run_command(&["check", "--connect"]);
        let report = String::from_utf8_lossy(&report.stdout).into_owned();
        assert!(report.contains("two addresses report that they are the master: 127.0.0.1:"), "{report}");
        let port = returned.new.port().unwrap().to_string();
        returned.old.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
        returned.daemon.wait_ready();
        returned.assert_captured();
    }
}
