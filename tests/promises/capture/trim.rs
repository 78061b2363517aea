//! Promise: with `keep.until_acknowledged` an entry stays until the named groups have acknowledged it, and
//! then it goes; what `keep.entries` forces out before that is counted; a full server frees itself.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate::status::{KeepStatus, RouteState};

use crate::support::{
    Captured, Daemon, Load, Oracle, Published, Server, Setup, Version, alert, assert_exact, captured,
    entries, eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn routes(groups: &str, keep: &str) -> String {
    format!(
        r#"
        [capture.orders]
        source = "shop"
        channels = ["orders"]
        destination = "events"
        stream = "orders"
        groups = [{groups}]
        keep = {keep}
        include = ["id"]
        "#
    )
}

fn setup(source: &Server, destination: &Server, groups: &str, keep: &str) -> Setup {
    let setup = Setup::between(source, destination);
    setup.routes(&routes(groups, keep))
}

/// A consumer of one group.
struct Consumer<'a> {
    server: &'a Server,
    group: &'static str,
    stream: String,
    /// Everything that it was given, in order.
    seen: Vec<Captured>,
    /// Ids that it was given and has not acknowledged.
    open: Vec<String>,
}

impl<'a> Consumer<'a> {
    fn new(server: &'a Server, group: &'static str, stream: &str) -> Self {
        Self { server, group, stream: stream.to_owned(), seen: Vec::new(), open: Vec::new() }
    }

    /// Takes up to `count` entries that nobody of the group was given; says how many there were.
    fn read(&mut self, count: usize) -> usize {
        type Entries = Vec<(String, Vec<Vec<u8>>)>;
        let count = count.to_string();
        let command =
            ["XREADGROUP", "GROUP", self.group, "me", "COUNT", &count, "STREAMS", &self.stream, ">"];
        let reply: Option<Vec<(String, Entries)>> = self.server.ask(&command);
        let given = reply.into_iter().flatten().flat_map(|(_, entries)| entries);
        let before = self.seen.len();
        for (id, fields) in given {
            let field = |name: &[u8]| {
                let mut pairs = fields.chunks_exact(2);
                pairs.find(|pair| pair[0] == name).map(|pair| pair[1].clone()).unwrap()
            };
            let message = Published { channel: field(b"channel"), payload: field(b"payload") };
            let position = Some(String::from_utf8(field(b"id")).unwrap());
            self.seen.push(Captured { message, pattern: None, position });
            self.open.push(id);
        }
        self.seen.len() - before
    }

    /// Reads again what is pending, as a consumer does that was restarted: all of it must still be there.
    fn read_again(&self) {
        type Entries = Vec<(String, Option<Vec<Vec<u8>>>)>;
        let command =
            ["XREADGROUP", "GROUP", self.group, "me", "COUNT", "10000", "STREAMS", &self.stream, "0"];
        let reply: Vec<(String, Entries)> = self.server.ask(&command);
        let pending: Entries = reply.into_iter().flat_map(|(_, entries)| entries).collect();
        assert_eq!(pending.len(), self.open.len());
        let gone: Vec<_> = pending.iter().filter(|(_, fields)| fields.is_none()).map(|(id, _)| id).collect();
        assert!(gone.is_empty(), "pending for {} and trimmed: {gone:?}", self.group);
    }

    /// Acknowledges up to `count` entries, the oldest first.
    fn acknowledge(&mut self, count: usize) {
        let ids: Vec<String> = self.open.drain(..count.min(self.open.len())).collect();
        self.acknowledge_these(&ids);
    }

    fn acknowledge_these(&mut self, ids: &[String]) {
        self.open.retain(|id| !ids.contains(id));
        for some in ids.chunks(1_000) {
            let mut command = vec!["XACK", &self.stream, self.group];
            command.extend(some.iter().map(String::as_str));
            let acknowledged: usize = self.server.ask(&command);
            assert_eq!(acknowledged, some.len());
        }
    }
}

/// What `/status` says of a route's streams, once it says what is wanted.
#[track_caller]
fn wait_kept(daemon: &Daemon, what: &str, wanted: impl Fn(&KeepStatus) -> bool) -> KeepStatus {
    eventually(what, PATIENCE, || {
        let status = daemon.route("orders")?;
        let kept = status.keep.clone().ok_or_else(|| format!("{status:?}"))?;
        if wanted(&kept) { Ok(kept) } else { Err(format!("{kept:?}")) }
    })
}

#[track_caller]
fn wait_length(server: &Server, stream: &str, length: usize) {
    eventually(&format!("{stream} has {length} entries"), PATIENCE, || match server.stream_length(stream) {
        now if now == length => Ok(()),
        now => Err(format!("{now} entries")),
    });
}

/// Waits until a round of trimming has found this number of entries in the stream, and no fewer after it.
#[track_caller]
fn wait_found(daemon: &Daemon, entries: u64, slowest: &str) {
    wait_kept(daemon, &format!("{entries} entries are kept for {slowest}"), |kept| {
        let fullest = kept.fullest.as_ref();
        fullest.is_some_and(|fullest| fullest.entries == entries && fullest.slowest_group == slowest)
    });
}

#[test]
fn an_entry_goes_once_every_group_has_acknowledged_it() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(version);
        let keep = r#"{ entries = 100_000, until_acknowledged = ["inventory", "catalog"] }"#;
        let daemon = setup(&source, &destination, r#""inventory", "catalog""#, keep).start_ready();
        Oracle::new(&source).publish(&Load::new(1, 1_000, &["orders"]));
        daemon.wait_settled("orders", 1_000);
        let mut inventory = Consumer::new(&destination, "inventory", "orders");
        let mut catalog = Consumer::new(&destination, "catalog", "orders");
        assert_eq!(inventory.read(1_000), 1_000);
        inventory.acknowledge(1_000);
        wait_found(&daemon, 1_000, "catalog");

        assert_eq!(catalog.read(600), 600);
        let stuck = catalog.open.remove(299);
        catalog.acknowledge(599);
        // Redis 8.2 trims around what stays pending; others only before it.
        let left = if version == Version::Redis82 { 401 } else { 701 };
        wait_length(&destination, "orders", left);
        wait_found(&daemon, left as u64, "catalog");
        let found = entries(&destination, "orders");
        assert_eq!(found.first().map(|entry| &entry.0), Some(&stuck), "{version}");

        catalog.acknowledge_these(&[stuck]);
        wait_length(&destination, "orders", 400);
        let kept = wait_kept(&daemon, "it says what it did", |kept| {
            kept.fullest.as_ref().is_some_and(|fullest| fullest.entries == 400)
        });
        assert_eq!((kept.trimmed_unacknowledged, kept.missing_groups.len(), kept.limit), (0, 0, 100_000));
        assert_eq!(daemon.metric("orders", "tidegate_trimmed_total"), 600, "{version}");
        assert_eq!(daemon.metric("orders", "tidegate_trimmed_unacknowledged_total"), 0);
        // What stays is what the group still has to be given, in order.
        assert_eq!(catalog.read(1_000), 400);
        assert_eq!(catalog.seen, inventory.seen, "{version}");
    }
}

#[test]
fn a_group_that_is_not_named_holds_nothing_back_and_loses_its_own() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(version);
        let keep = r#"{ entries = 100_000, until_acknowledged = ["inventory"] }"#;
        let daemon = setup(&source, &destination, r#""inventory", "debug""#, keep).start_ready();
        Oracle::new(&source).publish(&Load::new(1, 1_000, &["orders"]));
        daemon.wait_settled("orders", 1_000);
        let mut inventory = Consumer::new(&destination, "inventory", "orders");
        inventory.read(1_000);
        let stuck = inventory.open.remove(499);
        inventory.acknowledge(999);
        // ACKED would wait for the other group: only what stands before the pending one goes.
        wait_length(&destination, "orders", 501);
        wait_found(&daemon, 501, "inventory");
        inventory.acknowledge_these(&[stuck]);
        wait_length(&destination, "orders", 0);
    }
}

#[test]
fn slow_consumers_get_everything_while_instances_are_killed() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(version);
        let keep = r#"{ entries = 1_000_000, until_acknowledged = ["inventory", "catalog"] }"#;
        let mut first = setup(&source, &destination, r#""inventory", "catalog""#, keep).start_ready();
        let mut second = first.start_twin();
        second.wait_state("orders", RouteState::Standby);
        let oracle = Oracle::new(&source);
        let load = oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).rate(5_000));
        // Stream and groups are made with the first entry.
        eventually("something is stored", PATIENCE, || match destination.stream_length("orders") {
            0 => Err("nothing".to_owned()),
            _ => Ok(()),
        });
        let mut inventory = Consumer::new(&destination, "inventory", "orders");
        let mut catalog = Consumer::new(&destination, "catalog", "orders");
        for _ in 0..3 {
            let goal = inventory.seen.len() + 5_000;
            eventually("consumers get on", PATIENCE, || {
                inventory.read(500);
                catalog.read(300);
                // Always behind, and out of order.
                let late = catalog.open.len().saturating_sub(400);
                catalog.acknowledge(late);
                let early: Vec<_> = inventory.open.iter().rev().step_by(3).cloned().collect();
                inventory.acknowledge_these(&early);
                let late = inventory.open.len().saturating_sub(200);
                inventory.acknowledge(late);
                inventory.read_again();
                catalog.read_again();
                if inventory.seen.len() > goal { Ok(()) } else { Err(format!("{}", inventory.seen.len())) }
            });
            first.kill();
            second.wait_leader("orders");
            first.start_again();
            first.wait_state("orders", RouteState::Standby);
            std::mem::swap(&mut first, &mut second);
        }
        load.stop();
        oracle.publish_last("orders", &destination, "orders", PATIENCE);
        for consumer in [&mut inventory, &mut catalog] {
            while consumer.read(1_000) > 0 {}
            consumer.acknowledge(usize::MAX);
            assert_exact(&oracle.sequence(), &consumer.seen);
        }
        assert_eq!(gaps(&destination, "orders"), [], "{version}");
        wait_length(&destination, "orders", 0);
        let kept = wait_kept(&first, "it says what it did", |kept| kept.fullest.is_none());
        assert_eq!(kept.trimmed_unacknowledged, 0, "{version}");
        assert_eq!(second.route("orders").unwrap().keep, None, "only the one that writes trims");
        assert_eq!(second.metric("orders", "tidegate_trimmed_total"), 0, "{version}");
    }
}

#[test]
fn past_the_most_entries_the_oldest_go_and_are_counted() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(version);
        let keep = r#"{ entries = 1_000, until_acknowledged = ["inventory"] }"#;
        let mut daemon = setup(&source, &destination, r#""inventory""#, keep)
            .expects(&[&["unacknowledged_trimmed"], alert::GAP])
            .start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(1, 900, &["orders"]));
        daemon.wait_settled("orders", 900);
        let mut inventory = Consumer::new(&destination, "inventory", "orders");
        inventory.read(200);
        // Every second one, so that acknowledged ones stand between those that are not.
        let some: Vec<_> = inventory.open.iter().skip(1).step_by(2).cloned().collect();
        inventory.acknowledge_these(&some);
        // Redis 8.2 trims them; elsewhere they stay, since the first one of all is pending.
        let kept = if version == Version::Redis82 { 800 } else { 900 };
        wait_length(&destination, "orders", kept);
        wait_found(&daemon, kept as u64, "inventory");

        oracle.publish(&Load::new(3, 9_100, &["orders"]));
        wait_length(&destination, "orders", 1_000);
        // Of 10,000 the 100 that were acknowledged do not count, wherever they stood.
        wait_kept(&daemon, "it says how many", |kept| kept.trimmed_unacknowledged == 8_900);
        let published = oracle.sequence();
        assert_exact(&published[9_000..], &captured(&destination, "orders"));
        assert_eq!(daemon.metric("orders", "tidegate_trimmed_unacknowledged_total"), 8_900, "{version}");
        assert_eq!(daemon.metric("orders", "tidegate_trimmed_total"), 9_000);
        let line = daemon.wait_alert(&["unacknowledged_trimmed"]).text;
        assert!(line.contains("inventory") && line.contains("keep.entries = 1000"), "{line}");

        daemon.restart();
        wait_kept(&daemon, "the count outlives the process", |kept| {
            kept.trimmed_unacknowledged == 8_900
                && kept.fullest.as_ref().is_some_and(|it| it.entries == 1_000)
        });
        // The hundred that are pending and gone hold nothing back.
        assert_eq!(inventory.read(2_000), 1_000);
        inventory
            .open
            .retain(|id| destination.ask::<Vec<redis::Value>>(&["XRANGE", "orders", id, id]).len() == 1);
        inventory.acknowledge(1_000);
        wait_length(&destination, "orders", 0);
    }
}

#[test]
fn a_group_that_does_not_exist_has_acknowledged_nothing() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(version);
        let keep = r#"{ entries = 1_000, until_acknowledged = ["inventory", "audit"] }"#;
        let daemon = setup(&source, &destination, r#""inventory""#, keep)
            .expects(&[&["group_missing", "unacknowledged_trimmed"]])
            .start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(1, 800, &["orders"]));
        daemon.wait_settled("orders", 800);
        let mut inventory = Consumer::new(&destination, "inventory", "orders");
        inventory.read(800);
        inventory.acknowledge(800);
        wait_found(&daemon, 800, "audit");
        let kept = wait_kept(&daemon, "it says which", |kept| !kept.missing_groups.is_empty());
        assert_eq!(kept.missing_groups, ["audit of orders"], "{version}");
        let line = daemon.wait_alert(&["group_missing"]).text;
        assert!(line.contains("audit"), "{line}");
        // The bound holds all the same.
        oracle.publish(&Load::new(1, 700, &["orders"]));
        wait_kept(&daemon, "the bound is kept", |kept| kept.trimmed_unacknowledged == 500);
        wait_length(&destination, "orders", 1_000);

        destination.ask::<()>(&["XGROUP", "CREATE", "orders", "audit", "$"]);
        inventory.read(800);
        inventory.acknowledge(800);
        wait_length(&destination, "orders", 0);
        wait_kept(&daemon, "none is missing any more", |kept| kept.missing_groups.is_empty());
    }
}

#[test]
fn with_an_age_what_is_acknowledged_stays_until_then() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(version);
        for id in ["1000-1", "1000-2", "1000-3"] {
            destination.ask::<()>(&["XADD", "orders", id, "channel", "old", "payload", id, "id", ""]);
        }
        destination.ask::<()>(&["XGROUP", "CREATE", "orders", "inventory", "0"]);
        let keep = r#"{ entries = 1_000, age = "1h", until_acknowledged = ["inventory"] }"#;
        let daemon = setup(&source, &destination, r#""inventory""#, keep).start_ready();
        Oracle::new(&source).publish(&Load::new(1, 100, &["orders"]));
        daemon.wait_settled("orders", 100);
        wait_found(&daemon, 103, "inventory");
        let mut inventory = Consumer::new(&destination, "inventory", "orders");
        inventory.read(200);
        inventory.acknowledge_these(&["1000-1".to_owned(), "1000-2".to_owned()]);
        wait_length(&destination, "orders", 101);
        inventory.acknowledge(200);
        wait_length(&destination, "orders", 100);
        wait_found(&daemon, 100, "inventory");
    }
}

/// What comes gets ids behind the last one, so nothing ages out before the server's clock has come there.
#[test]
fn entries_from_the_future_do_not_age_out_and_that_is_said() {
    for stream in ["orders", "s:<channel>"] {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(Version::Redis70);
        let routes = routes(r#""inventory""#, r#"{ age = "1s" }"#)
            .replace(r#"stream = "orders""#, &format!("stream = {stream:?}"));
        let setup = Setup::between(&source, &destination).routes(&routes);
        let daemon = setup.expects(&[&["ids_ahead"]]).start_ready();
        let name = stream.replace("<channel>", "orders");
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(1, 1, &["orders"]));
        daemon.wait_settled("orders", 1);
        destination.ask::<()>(&[
            "XADD",
            &name,
            "9999999999999-1",
            "channel",
            "orders",
            "payload",
            "",
            "id",
            "",
        ]);
        oracle.publish(&Load::new(1, 100, &["orders"]));
        let said = daemon.wait_alert(&["ids_ahead"]);
        assert!(said.text.contains(&format!("{name:?}")), "{said:?}");
        daemon.wait_settled("orders", 101);
        // The one from before is too old, and goes.
        wait_length(&destination, &name, 101);
    }
}

#[test]
fn streams_of_a_template_are_trimmed_in_turn() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = Setup::between(&source, &destination)
        .routes(
            r#"
            [capture.orders]
            source = "shop"
            patterns = ["shop.*"]
            destination = "events"
            stream = "orders:<1>"
            groups = ["inventory"]
            keep = { entries = 50, until_acknowledged = ["inventory"] }
            include = ["id"]
            "#,
        )
        .expects(&[&["unacknowledged_trimmed"]])
        .start_ready();
    let oracle = Oracle::new(&source);
    // More than one step of the scan returns.
    let names: Vec<String> = (0..600).map(|n| format!("shop.{n}")).collect();
    for name in &names {
        for _ in 0..3 {
            oracle.publish_one(name.as_bytes(), b"x");
        }
    }
    oracle.publish(&Load::new(1, 1_000, &["shop.7"]));
    daemon.wait_settled("orders", 2_800);
    let read: BTreeSet<usize> = (0..600).step_by(2).collect();
    for n in &read {
        let mut inventory = Consumer::new(&destination, "inventory", &format!("orders:{n}"));
        assert_eq!(inventory.read(10), 3);
        inventory.acknowledge(2);
    }
    for n in 0..600 {
        let left = if n == 7 {
            50
        } else if read.contains(&n) {
            1
        } else {
            3
        };
        wait_length(&destination, &format!("orders:{n}"), left);
    }
    let kept = wait_kept(&daemon, "it says which is the fullest", |kept| {
        kept.fullest.as_ref().is_some_and(|it| it.stream == "orders:7" && it.entries == 50)
    });
    assert_eq!(kept.trimmed_unacknowledged, 953);
}

#[test]
fn a_full_server_frees_itself() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(version);
        let keep = r#"{ entries = 1_000_000, until_acknowledged = ["inventory"] }"#;
        let daemon =
            setup(&source, &destination, r#""inventory""#, keep).expects(&[alert::DESTINATION]).start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(3, 3_000, &["orders"]));
        daemon.wait_settled("orders", 3_000);
        destination.limit_memory(2_000_000);
        oracle.publish(&Load::new(3, 60_000, &["orders"]));
        let status = daemon.wait_state("orders", RouteState::Waiting);
        assert!(status.destination.error.is_some_and(|error| error.contains("OOM")), "{version}");
        assert!(destination.stream_length("orders") < 63_000, "{version}: the limit was reached");

        // The consumer comes back, and nobody does anything else.
        let mut inventory = Consumer::new(&destination, "inventory", "orders");
        eventually("the consumer gets everything", PATIENCE, || {
            inventory.read(1_000);
            inventory.acknowledge(1_000);
            if inventory.seen.len() == 63_000 { Ok(()) } else { Err(format!("{}", inventory.seen.len())) }
        });
        assert_exact(&oracle.sequence(), &inventory.seen);
        daemon.wait_state("orders", RouteState::Live);
        wait_length(&destination, "orders", 0);
        let kept = wait_kept(&daemon, "it says what it did", |kept| kept.fullest.is_none());
        assert_eq!(kept.trimmed_unacknowledged, 0, "{version}");
    }
}

#[test]
fn a_full_server_is_freed_by_a_reload() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(&source, &destination, r#""inventory""#, "\"forever\"")
        .expects(&[alert::DESTINATION])
        .start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(3, 20_000, &["orders"]));
    daemon.wait_settled("orders", 20_000);
    let mut inventory = Consumer::new(&destination, "inventory", "orders");
    inventory.read(20_000);
    inventory.acknowledge(20_000);
    destination.limit_memory(0);
    oracle.publish(&Load::new(3, 10_000, &["orders"]));
    daemon.wait_state("orders", RouteState::Waiting);
    daemon.reload(&routes(r#""inventory""#, r#"{ entries = 100_000, until_acknowledged = ["inventory"] }"#));
    eventually("the consumer gets everything", PATIENCE, || {
        inventory.read(1_000);
        inventory.acknowledge(1_000);
        if inventory.seen.len() == 30_000 { Ok(()) } else { Err(format!("{}", inventory.seen.len())) }
    });
    assert_exact(&oracle.sequence(), &inventory.seen);
    wait_length(&destination, "orders", 0);
}

#[test]
fn a_missing_right_is_said() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Valkey91);
    let keep = r#"{ entries = 1_000, until_acknowledged = ["inventory"] }"#;
    let daemon =
        setup(&source, &destination, r#""inventory""#, keep).expects(&[&["trimming_failed"]]).start_ready();
    destination.ask::<()>(&["ACL", "SETUSER", "tidegate-events", "-xpending"]);
    Oracle::new(&source).publish(&Load::new(1, 100, &["orders"]));
    daemon.wait_settled("orders", 100);
    daemon.wait_alert(&["trimming_failed"]);
    wait_kept(&daemon, "it says why", |kept| kept.error.is_some());
    assert_eq!(daemon.route("orders").unwrap().state, RouteState::Live, "appending goes on");
    destination.ask::<()>(&["ACL", "SETUSER", "tidegate-events", "+xpending"]);
    let mut inventory = Consumer::new(&destination, "inventory", "orders");
    inventory.read(100);
    inventory.acknowledge(100);
    wait_length(&destination, "orders", 0);
    wait_kept(&daemon, "nothing is wrong any more", |kept| kept.error.is_none());
}
