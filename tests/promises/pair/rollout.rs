//! Promise: a configuration that is rolled out to two instances one after the other takes over once and for good,
//! whatever its destination refuses and whichever of them stops. The older one then writes and deletes nothing.

use std::time::Duration;

use nix::sys::signal::Signal;
use tidegate::status::RouteState;

use super::routes;
use crate::support::{
    Captured, Daemon, Load, Options, Oracle, Payloads, Published, Server, Setup, Subscriber, Version, alert,
    assert_accounted, assert_exact, captured, entries, eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Windows and changes of mind: a handful is what a take-over needs.
const FEW: usize = 20;

/// How the newer configuration differs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Entries have a further field.
    Mapping,
    /// A further channel, so that messages are counted otherwise.
    Numbering,
}

fn older(mode: &str) -> String {
    routes(mode, "refunds")
}

fn newer(mode: &str, change: Change) -> String {
    match change {
        Change::Mapping => older(mode).replace(r#""id""#, r#""id", "received_at""#),
        Change::Numbering => routes(mode, "returns"),
    }
}

/// What stands in the stream, and whether it has the newer mapping's field.
fn stored(server: &Server) -> (Vec<Captured>, Vec<bool>) {
    let all = entries(server, "orders").into_iter().map(|(id, mut fields)| {
        let mut take = |name: &str| {
            let at = fields.iter().position(|(field, _)| field == name.as_bytes())?;
            Some(fields.remove(at).1)
        };
        let mut need = |name| take(name).unwrap_or_else(|| panic!("{id} has no field {name}"));
        let message = Published { channel: need("channel"), payload: need("payload") };
        let position = String::from_utf8(need("id")).expect("a position is text");
        let newer = take("received_at").is_some();
        (Captured { message, pattern: None, position: Some(position) }, newer)
    });
    all.unzip()
}

struct Pair {
    // Dropped before the servers, whose end they would tell of.
    older: Daemon,
    newer: Daemon,
    source: Server,
    destination: Server,
    oracle: Oracle,
}

impl Pair {
    /// Two instances of the older configuration, of which the first writes.
    fn start(mode: &str) -> Self {
        let source = Server::with(Version::Redis70, Options::replication_source());
        let destination = Server::start(Version::Redis70);
        let changes: &[&str] = &["outdated", "current_again"];
        let mut older = Setup::between(&source, &destination)
            .routes(&older(mode))
            .expects(&[changes, alert::SOURCE, alert::DESTINATION, alert::GAP])
            .start_ready();
        let mut newer = older.start_twin();
        newer.wait_state("orders", RouteState::Standby);
        let oracle = Oracle::new(&source);
        older.watch(&oracle);
        newer.watch(&oracle);
        Self { older, newer, source, destination, oracle }
    }

    #[track_caller]
    fn finish(&self) {
        self.oracle.publish_last("orders", &self.destination, "orders", PATIENCE);
    }

    /// Both have said of themselves what they had to say.
    fn changes_of_mind(&self) -> usize {
        let events = ["outdated", "current_again", "rollout_announced", "active", "standby"];
        let of = |daemon: &Daemon| {
            let log = daemon.log();
            let told =
                log.iter().filter_map(|line| line.event.as_deref()).filter(|event| events.contains(event));
            told.count()
        };
        of(&self.older) + of(&self.newer)
    }
}

/// Connections that were made to read the source.
fn openings(source: &Server, subscriber: &Subscriber) -> usize {
    let anchors = subscriber.heard();
    let anchors = anchors.iter().filter(|said| said.payload.starts_with(b"tidegate1 anchor")).count();
    let syncs = source.info("stats", "sync_full") + source.info("stats", "sync_partial_ok");
    anchors + usize::try_from(syncs).expect("a few")
}

/// A configuration is loaded while the destination has no memory left, so that nothing can be announced. Then the
/// instance with the older one ends.
#[track_caller]
fn announced_to_a_full_destination(mode: &str, change: Change) {
    let mut pair = Pair::start(mode);
    let load = |number| Load::new(2, 1_000, &["orders"]).payloads(Payloads::Unique).first_publisher(number);
    pair.oracle.publish(&load(0));
    pair.older.wait_settled("orders", 1_000);
    let subscriber = Subscriber::start(&pair.source, &["tidegate:control"]);
    pair.destination.ask::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let before = openings(&pair.source, &subscriber);
    pair.newer.reload(&newer(mode, change));
    // Five seconds of messages.
    pair.oracle.publish(&load(2).rate(200));
    pair.newer.status().expect("it answers");
    let opened = openings(&pair.source, &subscriber) - before;
    assert!(opened <= FEW, "{opened} windows were opened");
    pair.older.kill();
    pair.oracle.publish(&load(4));
    eventually("the newer one has received it", PATIENCE, || {
        let status = pair.newer.route("orders")?;
        let process = status.process_counts.as_ref().expect("it is a capture");
        if process.received >= 2_000 { Ok(()) } else { Err(format!("{status:?}")) }
    });
    pair.destination.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    pair.finish();
    let (found, gaps) = (stored(&pair.destination).0, gaps(&pair.destination, "orders"));
    let seen = [pair.older.seen("orders"), pair.newer.seen("orders")];
    let missing = assert_accounted(&pair.oracle.sequence(), &found, &gaps, &seen, &[]);
    assert_eq!(missing, 0, "one instance read at any time: {gaps:#?}");
    let opened = openings(&pair.source, &subscriber) - before;
    assert!(opened <= FEW, "{opened} windows were opened");
}

#[test]
fn another_mapping_is_announced_to_a_full_destination() {
    announced_to_a_full_destination("subscribe", Change::Mapping);
}

#[test]
fn another_numbering_is_announced_to_a_full_destination() {
    announced_to_a_full_destination("subscribe", Change::Numbering);
}

#[test]
fn another_mapping_is_announced_to_a_full_destination_in_replication_mode() {
    announced_to_a_full_destination("replication", Change::Mapping);
}

/// The newer one is frozen until the older one has gone on without it, and comes back.
#[track_caller]
fn frozen_for_nine_seconds(change: Change) {
    const RATE: usize = 1_000;
    let mut pair = Pair::start("subscribe");
    let load = Load::new(2, usize::MAX / 2, &["orders"]).payloads(Payloads::Unique).rate(RATE);
    let load = pair.oracle.start(&load);
    pair.destination.wait_longer("orders", 500);
    pair.newer.reload(&newer("subscribe", change));
    pair.newer.wait_leader("orders");
    pair.older.wait_state("orders", RouteState::Outdated);
    pair.destination.wait_longer("orders", 500);
    pair.newer.process().signal(Signal::SIGSTOP);
    let before = load.sent();
    eventually("nine seconds of messages are sent", PATIENCE, || match load.sent() - before {
        sent if sent >= 9 * RATE => Ok(()),
        sent => Err(format!("{sent} sent")),
    });
    pair.older.status().expect("it answers");
    pair.newer.process().signal(Signal::SIGCONT);
    pair.newer.wait_leader("orders");
    pair.older.wait_state("orders", RouteState::Outdated);
    let from = pair.oracle.sequence().len();
    pair.destination.wait_longer("orders", 2 * RATE);
    load.stop();
    pair.finish();
    let (found, by_newer) = stored(&pair.destination);
    let gaps = gaps(&pair.destination, "orders");
    let seen = [pair.older.seen("orders"), pair.newer.seen("orders")];
    let published = pair.oracle.sequence();
    if change == Change::Mapping {
        assert_eq!(gaps, [], "the older one has read on, and holds what the newer one does not store");
        assert_accounted(&published, &found, &gaps, &seen, &[]);
        let after = published.len() - from;
        let of_older = by_newer[by_newer.len() - after..].iter().filter(|newer| !**newer).count();
        assert_eq!(of_older, 0, "entries have the newer form since the newer one is back");
    } else {
        assert_accounted(&published, &found, &gaps, &seen, &["rollout"]);
    }
    let changes = pair.changes_of_mind();
    assert!(changes <= FEW, "{changes} changes of mind");
    pair.newer.wait_ready();
}

#[test]
fn frozen_for_nine_seconds_with_another_mapping() {
    frozen_for_nine_seconds(Change::Mapping);
}

#[test]
fn frozen_for_nine_seconds_with_another_numbering() {
    frozen_for_nine_seconds(Change::Numbering);
}

/// The older one keeps entries for a second, the newer one for ever. A stream of the older one's own shows when it
/// has trimmed.
#[test]
fn an_older_configuration_that_keeps_entries_for_a_shorter_time_deletes_nothing() {
    const MESSAGES: usize = 1_000;
    let route = |name: &str, keep: &str| {
        format!(
            r#"
            [capture.{name}]
            source = "shop"
            channels = ["{name}"]
            destination = "events"
            stream = "{name}"
            keep = {keep}
            include = ["id"]
            "#
        )
    };
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let age = r#"{ age = "1s" }"#;
    let older = Setup::between(&source, &destination)
        .routes(&format!("{}{}", route("orders", age), route("mark", age)))
        .expects(&[&["outdated", "current_again"]])
        .start_ready();
    let mut newer = older.twin();
    newer.set_routes(&route("orders", "\"forever\""));
    newer.start_again();
    let oracle = Oracle::new(&source);
    // It takes over at a message.
    let load = oracle.start(&Load::new(1, usize::MAX / 2, &["orders"]).rate(500));
    newer.wait_leader("orders");
    older.wait_state("orders", RouteState::Outdated);
    load.stop();
    oracle.publish(&Load::new(2, MESSAGES, &["orders"]));
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    for round in 0..2 {
        oracle.publish(&Load::new(2, 200, &["mark"]).first_publisher(10 * round));
        eventually("it captures", PATIENCE, || match destination.stream_length("mark") {
            0 => Err("nothing".to_owned()),
            _ => Ok(()),
        });
        eventually("the older one has trimmed", PATIENCE, || match destination.stream_length("mark") {
            0 => Ok(()),
            count => Err(format!("{count} entries")),
        });
    }
    let mut expected = oracle.sequence_of(|channel| channel == b"orders");
    // Before the change the older one's word held.
    let mut found = captured(&destination, "orders");
    let late = |all: usize| all.saturating_sub(MESSAGES + 1);
    assert!(found.len() > MESSAGES, "{} of {} are left", found.len(), expected.len());
    let (expected, found) = (expected.split_off(late(expected.len())), found.split_off(late(found.len())));
    assert_exact(&expected, &found);
    assert_eq!(gaps(&destination, "orders"), []);
}
