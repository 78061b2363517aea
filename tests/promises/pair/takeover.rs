//! Promise: with two instances of one configuration nothing is missing, nothing is twice and no gap is
//! recorded, whichever of them ends, however it ends.

use std::time::Duration;

use nix::sys::signal::Signal;
use tidegate::status::RouteState;

use super::routes;
use crate::support::{
    Daemon, Load, Loading, Options, Oracle, Server, Setup, Version, alert, assert_exact, captured,
    eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A source, a destination and two instances between them, of which the first writes.
struct Pair {
    // Dropped before the servers, whose end they would tell of.
    first: Daemon,
    second: Daemon,
    source: Server,
    destination: Server,
    oracle: Oracle,
}

impl Pair {
    fn start(version: Version, alerts: &[&[&str]]) -> Self {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(version);
        let setup = Setup::orders(&source, &destination).expects(alerts);
        Self::of(source, destination, setup)
    }

    fn of(source: Server, destination: Server, setup: Setup) -> Self {
        let first = setup.start_ready();
        let second = first.start_twin();
        second.wait_state("orders", RouteState::Standby);
        first.wait_state("orders", RouteState::Live);
        let oracle = Oracle::new(&source);
        Self { source, destination, first, second, oracle }
    }

    fn load(&self) -> Loading {
        let load = self.oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).rate(10_000));
        self.appends_go_on();
        load
    }

    #[track_caller]
    fn appends_go_on(&self) {
        self.destination.wait_longer("orders", 500);
    }

    #[track_caller]
    fn ends_exact(&self, load: Loading) {
        load.stop();
        self.oracle.publish_last("orders", &self.destination, "orders", PATIENCE);
        assert_eq!(gaps(&self.destination, "orders"), []);
        assert_exact(&self.oracle.sequence(), &captured(&self.destination, "orders"));
    }

    /// Ends one of the connections by which instances listen: which instance's is not known.
    fn cut_a_listener(&self) {
        let listeners = self.source.clients(":orders:subscribe");
        let killed: usize =
            self.source.ask(&["CLIENT", "KILL", "ID", listeners.first().expect("one listens")]);
        assert_eq!(killed, 1);
    }
}

#[test]
fn the_one_that_writes_is_killed() {
    for version in Version::DESTINATIONS {
        let mut pair = Pair::start(version, &[]);
        let load = pair.load();
        for _ in 0..3 {
            pair.first.kill();
            pair.second.wait_leader("orders");
            pair.appends_go_on();
            pair.first.start_again();
            pair.first.wait_state("orders", RouteState::Standby);
            std::mem::swap(&mut pair.first, &mut pair.second);
        }
        pair.ends_exact(load);
        let received = pair.oracle.sequence().len();
        pair.first.wait_settled("orders", received);
        pair.second.wait_settled("orders", received);
    }
}

/// Nobody could show that it is there while the destination took no writes, and the one that was restarted meanwhile asks
/// first: it waits for the other one, which holds what it has not received.
#[test]
fn one_is_restarted_during_a_long_outage_of_the_destination() {
    let mut pair = Pair::start(Version::Redis70, &[alert::DESTINATION]);
    pair.oracle.publish(&Load::new(1, 500, &["orders"]));
    pair.first.wait_settled("orders", 500);
    pair.destination.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    pair.oracle.publish(&Load::new(1, 300, &["orders"]));
    pair.second.kill();
    pair.oracle.publish(&Load::new(1, 300, &["orders"]));
    let clock = |server: &Server| server.ask::<(u64, u64)>(&["TIME"]).0;
    let began = clock(&pair.destination);
    eventually("the outage is longer than force_after", PATIENCE, || {
        match clock(&pair.destination) - began {
            0..=6 => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    });
    pair.second.start_again();
    eventually("the restarted one is refused", PATIENCE, || match pair.second.route("orders")?.reason {
        Some(reason) if reason.contains("READONLY") => Ok(()),
        reason => Err(format!("{reason:?}")),
    });
    pair.first.process().signal(Signal::SIGSTOP);
    pair.destination.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    eventually("the restarted one has asked", PATIENCE, || match pair.second.route("orders")?.destination {
        side if side.connected => Ok(()),
        side => Err(format!("{side:?}")),
    });
    pair.first.process().signal(Signal::SIGCONT);
    pair.oracle.publish_last("orders", &pair.destination, "orders", PATIENCE);
    assert_eq!(gaps(&pair.destination, "orders"), []);
    assert_exact(&pair.oracle.sequence(), &captured(&pair.destination, "orders"));
}

#[test]
fn a_rolling_restart() {
    let mut pair = Pair::start(Version::Redis82, &[]);
    let load = pair.load();
    for _ in 0..4 {
        let waited = pair.second.run_command(&["wait", "--timeout", "30s"]);
        assert!(waited.status.success(), "{waited:?}");
        assert_eq!(pair.first.stop().code(), Some(0));
        pair.second.wait_leader("orders");
        pair.first.start_again();
        std::mem::swap(&mut pair.first, &mut pair.second);
    }
    pair.second.wait_state("orders", RouteState::Standby);
    pair.ends_exact(load);
}

/// The stop left no gap, since the other instance continued. Its end is an accident, although it had stored nothing yet.
#[test]
fn a_kill_of_the_other_after_a_stop_is_no_planned_restart() {
    let mut pair = Pair::start(Version::Redis70, &[alert::GAP]);
    assert_eq!(pair.first.stop().code(), Some(0));
    let stopped: Option<String> = pair.destination.ask(&["HGET", "tidegate:orders:state", "stopped"]);
    let position: Option<String> = pair.destination.ask(&["HGET", "tidegate:orders:state", "position"]);
    // The other instance is there, so the stop plans nothing yet.
    assert!(
        stopped.is_none_or(|mark| Some(mark) == position.as_ref().map(|at| format!("?{at}"))),
        "{position:?}"
    );
    pair.second.wait_leader("orders");
    pair.second.kill();
    pair.first.start_again();
    let gap = eventually("the gap is recorded", PATIENCE, || match &gaps(&pair.destination, "orders")[..] {
        [gap] => Ok(gap.clone()),
        gaps => Err(format!("{gaps:?}")),
    });
    assert_eq!((gap.cause.as_str(), gap.planned), ("restart", false), "{gap:?}");
    assert_eq!(Some(gap.from), position, "nothing was stored between the two ends");
}

/// The other one cannot take the mark of the stop away before it crashes.
#[test]
fn a_crash_of_the_other_that_is_frozen_is_no_planned_restart() {
    let mut pair = Pair::start(Version::Redis70, &[alert::GAP]);
    pair.first.wait_leader("orders");
    pair.second.process().signal(nix::sys::signal::Signal::SIGSTOP);
    assert_eq!(pair.first.stop().code(), Some(0));
    pair.second.kill();
    pair.first.start_again();
    let gap = eventually("the gap is recorded", PATIENCE, || match &gaps(&pair.destination, "orders")[..] {
        [gap] => Ok(gap.clone()),
        gaps => Err(format!("{gaps:?}")),
    });
    assert_eq!((gap.cause.as_str(), gap.planned), ("restart", false), "{gap:?}");
}

#[test]
fn a_stop_of_both_is_a_planned_restart() {
    let mut pair = Pair::start(Version::Redis70, &[alert::GAP]);
    pair.first.wait_leader("orders");
    assert_eq!(pair.second.stop().code(), Some(0));
    assert_eq!(pair.first.stop().code(), Some(0));
    pair.first.start_again();
    let gap = eventually("the gap is recorded", PATIENCE, || match &gaps(&pair.destination, "orders")[..] {
        [gap] => Ok(gap.clone()),
        gaps => Err(format!("{gaps:?}")),
    });
    assert_eq!((gap.cause.as_str(), gap.planned), ("restart", true), "{gap:?}");
}

#[test]
fn their_connections_to_the_source_are_killed_one_at_a_time() {
    let pair = Pair::start(Version::Valkey91, &[alert::SOURCE]);
    let load = pair.load();
    for _ in 0..6 {
        pair.cut_a_listener();
        pair.appends_go_on();
        pair.first.wait_ready();
        pair.second.wait_ready();
    }
    pair.ends_exact(load);
}

#[test]
fn the_one_that_writes_is_frozen_and_comes_back() {
    let pair = Pair::start(Version::Redis70, &[alert::SOURCE, alert::DESTINATION]);
    let load = pair.load();
    for _ in 0..2 {
        let (leader, other) = if pair.first.route("orders").expect("it answers").leader {
            (&pair.first, &pair.second)
        } else {
            (&pair.second, &pair.first)
        };
        leader.process().signal(nix::sys::signal::Signal::SIGSTOP);
        other.wait_leader("orders");
        pair.appends_go_on();
        leader.process().signal(nix::sys::signal::Signal::SIGCONT);
        leader.wait_ready();
    }
    pair.ends_exact(load);
}

#[test]
fn they_start_at_the_same_time_on_an_empty_destination() {
    for _ in 0..5 {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(Version::Redis70);
        let mut first = Setup::orders(&source, &destination).prepare();
        let mut second = first.twin();
        first.start_again();
        second.start_again();
        first.wait_ready();
        second.wait_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(3, 5_000, &["orders"]));
        oracle.publish_last("orders", &destination, "orders", PATIENCE);
        assert_eq!(gaps(&destination, "orders"), []);
        assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    }
}

/// With the first configuration of a mode.
fn pair_in(mode: &str, alerts: &[&[&str]]) -> Pair {
    let source = Server::with(Version::Redis70, Options::replication_source());
    let destination = Server::start(Version::Redis70);
    let setup = Setup::between(&source, &destination);
    Pair::of(source, destination, setup.routes(&routes(mode, "refunds")).expects(alerts))
}

#[test]
fn a_newer_configuration_takes_over_at_an_anchor() {
    for mode in ["subscribe", "replication"] {
        let mut pair = pair_in(mode, &[&["outdated"]]);
        let load = pair.load();
        // Other subscriptions number messages otherwise: the two must change at the same one.
        pair.second.reload(&routes(mode, "returns"));
        pair.second.wait_leader("orders");
        pair.first.wait_state("orders", RouteState::Outdated);
        pair.appends_go_on();
        pair.first.reload(&routes(mode, "returns"));
        pair.first.wait_state("orders", RouteState::Standby);
        pair.second.kill();
        pair.first.wait_leader("orders");
        pair.appends_go_on();
        pair.ends_exact(load);
    }
}

/// One is given another `keep`, and then what it had: the other one never had anything else, and must continue with it.
#[test]
fn a_configuration_that_was_tried_and_taken_back_leaves_both_able_to_write() {
    for mode in ["subscribe", "replication"] {
        let mut pair = pair_in(mode, &[&["outdated", "current_again"]]);
        let load = pair.load();
        let own = routes(mode, "refunds");
        pair.first.reload(&own.replace("\"forever\"", "{ entries = 1000000000 }"));
        pair.second.wait_state("orders", RouteState::Outdated);
        pair.appends_go_on();
        pair.first.reload(&own);
        pair.second.wait_state("orders", RouteState::Standby);
        pair.appends_go_on();
        pair.first.kill();
        pair.second.wait_leader("orders");
        pair.appends_go_on();
        pair.ends_exact(load);
    }
}

/// Nothing comes, so the newer configuration does not write; then its instance is gone.
#[test]
fn a_configuration_that_took_over_and_never_wrote_holds_nobody_up() {
    for mode in ["subscribe", "replication"] {
        // Whether the other one hears of it before the kill is not known.
        let mut pair = pair_in(mode, &[&["outdated", "current_again"]]);
        pair.oracle.publish(&Load::new(3, 1_000, &["orders"]));
        pair.first.wait_settled("orders", 1_000);
        pair.second.reload(&routes(mode, "returns"));
        pair.second.wait_leader("orders");
        pair.second.kill();
        pair.oracle.publish(&Load::new(3, 1_000, &["orders"]).first_publisher(3));
        pair.oracle.publish_last("orders", &pair.destination, "orders", PATIENCE);
        assert_eq!(gaps(&pair.destination, "orders"), [], "{mode}");
        assert_exact(&pair.oracle.sequence(), &captured(&pair.destination, "orders"));
    }
}

/// It is announced, and then its instance comes back with the configuration that it had.
#[test]
fn a_configuration_that_took_over_and_was_taken_back_holds_nobody_up() {
    let mut pair = pair_in("subscribe", &[&["current_again"]]);
    pair.oracle.publish(&Load::new(3, 1_000, &["orders"]));
    pair.first.wait_settled("orders", 1_000);
    pair.second.reload(&routes("subscribe", "returns"));
    pair.second.wait_leader("orders");
    pair.second.kill();
    pair.second.set_routes(&routes("subscribe", "refunds"));
    pair.second.start_again();
    pair.oracle.publish(&Load::new(3, 1_000, &["orders"]).first_publisher(3));
    pair.oracle.publish_last("orders", &pair.destination, "orders", PATIENCE);
    assert_eq!(gaps(&pair.destination, "orders"), []);
    assert_exact(&pair.oracle.sequence(), &captured(&pair.destination, "orders"));
}
