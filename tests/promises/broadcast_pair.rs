//! Promise: with two instances of one configuration, a broadcast across two servers publishes each entry once, in
//! order, in fair weather; the one that waits takes over from one that is killed, frozen or stopped.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use tidegate::status::RouteState;

use crate::broadcast_acknowledged::{self as acknowledged, Order};
use crate::broadcast_options::{metric, payloads, wait_counts};
use crate::support::{Daemon, Server, Setup, Subscriber, Version, alert, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
/// What a session may have under way: four batches, and what one more read brings.
const UNDER_WAY: usize = 8 * 128 + 128;

/// How entries get out.
#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    Added,
    Group(Order),
}

const EACH: [After; 3] = [After::Added, After::Group(Order::Stream), After::Group(Order::Acknowledgement)];

fn route(after: After) -> String {
    let lines = match after {
        After::Added => "",
        After::Group(Order::Stream) => "after = \"inventory\"",
        After::Group(Order::Acknowledgement) => "after = \"inventory\"\norder = \"acknowledgement\"",
    };
    format!(
        r#"
        [broadcast.stock]
        source = "events"
        stream = "orders"
        destination = "shop"
        channel = "stock"
        message = "<id>"
        start = "beginning"
        {lines}
        "#
    )
}

/// Two instances between two servers, of which the first publishes.
struct Pair {
    // Dropped before the servers, whose end they would tell of.
    first: Daemon,
    second: Daemon,
    subscriber: Subscriber,
    events: Server,
    shop: Server,
    after: After,
    /// What was added, in order.
    added: Vec<String>,
}

impl Pair {
    fn start(version: Version, after: After, alerts: &[&[&str]]) -> Self {
        let (events, shop) = (Server::start(version), Server::start(Version::Redis62));
        acknowledged::make_group(&events);
        let subscriber = Subscriber::start(&shop, &["stock"]);
        let setup = Setup::new().endpoint("events", &events).endpoint("shop", &shop);
        let first = setup.routes(&route(after)).expects(alerts).start_ready();
        first.wait_state("stock", RouteState::Live);
        let mut second = first.twin();
        second.start_again();
        second.wait_state("stock", RouteState::Standby);
        Self { first, second, events, shop, subscriber, after, added: Vec::new() }
    }

    /// Adds entries, and has a consumer take and acknowledge them where one has to.
    fn add(&mut self, entries: usize) {
        let mut connection = self.events.connection();
        let mut pipe = redis::pipe();
        (0..entries).for_each(|_| {
            pipe.cmd("XADD").arg(&["orders", "*", "payload", "x"]);
        });
        self.added.extend(pipe.query::<Vec<String>>(&mut connection).unwrap());
        if let After::Group(_) = self.after {
            let mut pipe = redis::pipe();
            for id in acknowledged::read(&self.events, "one", entries) {
                pipe.cmd("XACK").arg(&["orders", "inventory", &id]).ignore();
            }
            pipe.exec(&mut connection).unwrap();
        }
    }

    fn heard(&self) -> Vec<String> {
        payloads(&self.subscriber)
    }

    /// Waits until all that was added is heard; returns how many messages were repeats.
    #[track_caller]
    fn wait_heard(&self) -> usize {
        eventually("each is heard", PATIENCE, || {
            let heard: HashSet<String> = self.heard().into_iter().collect();
            if heard.len() >= self.added.len() {
                Ok(())
            } else {
                Err(format!("{} of {}", heard.len(), self.added.len()))
            }
        });
        let mut seen = HashSet::new();
        let mut first_times = self.heard();
        first_times.retain(|id| seen.insert(id.clone()));
        if self.after == After::Group(Order::Acknowledgement) {
            first_times.sort_by_key(|id| {
                let (milliseconds, sequence) = id.split_once('-').unwrap();
                (milliseconds.parse::<u64>().unwrap(), sequence.parse::<u64>().unwrap())
            });
        }
        assert!(first_times == self.added, "{:?}: each, in order but for repeats", self.after);
        self.heard().len() - self.added.len()
    }

    /// The one that publishes, and the other.
    fn swap(&mut self) {
        std::mem::swap(&mut self.first, &mut self.second);
    }
}

#[test]
fn in_fair_weather_one_publishes_and_each_entry_is_heard_once() {
    const ENTRIES: usize = 5_000;
    for (after, version) in EACH.into_iter().zip(Version::DESTINATIONS) {
        let mut pair = Pair::start(version, after, &[]);
        let status = pair.second.route("stock").unwrap();
        assert!(status.reason.is_some_and(|reason| reason.contains("takes over")), "it says so");
        (0..10).for_each(|_| pair.add(ENTRIES / 10));
        assert_eq!(pair.wait_heard(), 0, "{after:?}: no repeats");
        // Nothing can follow behind this one.
        pair.add(1);
        assert_eq!(pair.wait_heard(), 0, "{after:?}: no repeats");
        let all = ENTRIES as u64 + 1;
        for instance in [&pair.first, &pair.second] {
            // The ledger is the cursor's, and both show it.
            wait_counts(instance, "the cursor's counts", |counts| counts.published == all);
        }
        assert_eq!(metric(&pair.first, "tidegate_published_total"), all, "{after:?}");
        assert_eq!(metric(&pair.second, "tidegate_published_total"), 0, "{after:?}: it sent nothing");
        assert_eq!(pair.second.route("stock").unwrap().state, RouteState::Standby);
    }
}

#[test]
fn the_one_that_waits_takes_over_from_one_that_is_killed() {
    for (after, version) in EACH.into_iter().zip(Version::DESTINATIONS) {
        let mut pair = Pair::start(version, after, &[]);
        let mut repeats = 0;
        for _ in 0..3 {
            pair.add(2_000);
            pair.first.kill();
            pair.add(500);
            pair.second.wait_leader("stock");
            repeats = pair.wait_heard();
            pair.first.start_again();
            pair.first.wait_state("stock", RouteState::Standby);
            pair.swap();
        }
        assert!(repeats <= 3 * UNDER_WAY, "{after:?}: {repeats} repeats");
    }
}

#[test]
fn a_stop_in_order_hands_over_at_once_and_repeats_nothing() {
    for (after, version) in EACH.into_iter().zip(Version::DESTINATIONS) {
        let mut pair = Pair::start(version, after, &[]);
        for _ in 0..3 {
            pair.add(2_000);
            assert_eq!(pair.first.stop().code(), Some(0));
            pair.add(500);
            pair.second.wait_leader("stock");
            assert_eq!(pair.wait_heard(), 0, "{after:?}: no repeats");
            pair.first.start_again();
            pair.first.wait_state("stock", RouteState::Standby);
            pair.swap();
        }
    }
}

#[test]
fn one_that_was_frozen_publishes_nothing_more_once_it_goes_on() {
    for (after, version) in EACH.into_iter().zip(Version::DESTINATIONS) {
        let mut pair = Pair::start(version, after, &[]);
        for _ in 0..2 {
            pair.add(2_000);
            pair.first.process().signal(Signal::SIGSTOP);
            pair.add(500);
            pair.second.wait_leader("stock");
            let before = pair.wait_heard();
            assert!(before <= 2 * UNDER_WAY, "{after:?}: {before} repeats");
            pair.first.process().signal(Signal::SIGCONT);
            pair.first.wait_state("stock", RouteState::Standby);
            pair.add(500);
            let after_it = pair.wait_heard();
            // What was in its socket is all that it may have sent.
            assert!(after_it - before <= UNDER_WAY, "{after:?}: {after_it} after {before}");
            let order: Vec<String> = pair.heard().split_off(pair.heard().len() - 500);
            assert!(order == pair.added[pair.added.len() - 500..], "{after:?}: nothing in between");
            pair.swap();
        }
    }
}

/// An instance that cannot reach the other server leaves the lease to one that can.
#[test]
fn an_instance_whose_destination_refuses_it_leaves_the_lease() {
    let mut pair = Pair::start(Version::Redis70, After::Added, &[alert::DESTINATION]);
    for _ in 0..5 {
        pair.add(200);
        let clients: String = pair.shop.ask(&["CLIENT", "LIST"]);
        let ids = clients.lines().filter(|line| line.contains("name=tidegate:broadcast.stock"));
        for line in ids {
            let id = line.split_whitespace().find_map(|word| word.strip_prefix("id=")).unwrap();
            let _: usize = pair.shop.ask(&["CLIENT", "KILL", "ID", id]);
        }
        pair.wait_heard();
        eventually("one publishes and one waits", PATIENCE, || {
            let states = [pair.first.route("stock")?.state, pair.second.route("stock")?.state];
            match states {
                [RouteState::Live, RouteState::Standby] | [RouteState::Standby, RouteState::Live] => Ok(()),
                states => Err(format!("{states:?}")),
            }
        });
    }
}
