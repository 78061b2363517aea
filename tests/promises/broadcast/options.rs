//! Promise: what a broadcast's options say is what its subscribers hear, and what they leave out, hold back
//! or give up is counted; exactly once on one server with each of them.

use std::collections::HashSet;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tidegate::status::{BroadcastCounts, RouteState};

use crate::support::{Daemon, Options, Server, Setup, Subscriber, Version, alert, entries, eventually};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A route of every entry of `orders`, with more TOML lines.
fn route(destination: &str, lines: &str) -> String {
    format!(
        r#"
        [broadcast.stock]
        source = "events"
        stream = "orders"
        destination = "{destination}"
        start = "beginning"
        {lines}
        "#
    )
}

/// The daemon with that route; stream and channel on one server, or on two.
pub(crate) fn setup(events: &Server, shop: Option<&Server>, lines: &str) -> Setup {
    let setup = Setup::new().endpoint("events", events);
    match shop {
        None => setup.routes(&route("events", lines)),
        Some(shop) => setup.endpoint("shop", shop).routes(&route("shop", lines)),
    }
}

/// Adds entries in a thread: `n` counts from 0, `kind` is even or odd, the payload is JSON.
fn add(server: &Server, entries: usize) -> JoinHandle<()> {
    server.adding("orders", entries, |n| {
        let kind = if n % 2 == 0 { "even" } else { "odd" };
        let payload = format!(r#"{{"n":{n},"rest":{}}}"#, n % 3);
        ["n", &n.to_string(), "kind", kind, "payload", &payload].map(str::to_owned)
    })
}

/// What was heard, once each of these was; without repeats where there may be some: on two servers.
#[track_caller]
fn assert_heard(subscriber: &Subscriber, repeats: bool, expected: &[String]) {
    let heard = || {
        let mut seen = HashSet::new();
        let mut found = subscriber.payloads();
        found.retain(|message| seen.insert(message.clone()) || !repeats);
        found
    };
    let found = eventually("every message is heard", PATIENCE, || match heard() {
        found if found.len() >= expected.len() => Ok(found),
        found => Err(format!("{} of {}", found.len(), expected.len())),
    });
    assert!(found == expected, "each once, in order: {found:?}");
}

#[track_caller]
fn wait_heard(subscriber: &Subscriber, least: usize) {
    eventually("the messages are heard", PATIENCE, || match subscriber.count() {
        count if count >= least => Ok(()),
        count => Err(format!("{count} heard")),
    });
}

#[track_caller]
pub(crate) fn wait_counts(
    daemon: &Daemon,
    what: &str,
    done: impl Fn(&BroadcastCounts) -> bool,
) -> BroadcastCounts {
    eventually(what, PATIENCE, || {
        let status = daemon.route("stock")?;
        let counts = status.broadcast.clone().ok_or("no broadcast")?;
        if done(&counts) { Ok(counts) } else { Err(format!("{status:?}")) }
    })
}

/// One server, and two.
pub(crate) fn placements(version: Version) -> [(Server, Option<Server>); 2] {
    [(Server::start(version), None), (Server::start(version), Some(Server::start(version)))]
}

#[test]
fn sharded_messages_reach_those_who_subscribe_to_shard_channels_and_nobody_else() {
    const ENTRIES: usize = 2_000;
    for version in Version::DESTINATIONS {
        for (events, second) in placements(version) {
            let shop = second.as_ref().unwrap_or(&events);
            let shards = Subscriber::start_sharded(shop, &["stock.even", "stock.odd"]);
            let plain = Subscriber::start(shop, &["stock.*"]);
            let lines = "channel = \"stock.<field:kind>\"\nmessage = \"<field:n>\"\nsharded = true";
            let daemon = setup(&events, second.as_ref(), lines).start_ready();
            add(&events, ENTRIES).join().unwrap();
            wait_heard(&shards, ENTRIES);
            let expected: Vec<_> = (0..ENTRIES)
                .map(|n| (format!("stock.{}", if n % 2 == 0 { "even" } else { "odd" }), n.to_string()))
                .collect();
            assert_eq!(shards.texts(), expected, "{version}: each once, in order");
            let counts = wait_counts(&daemon, "all are counted", |c| c.published == ENTRIES as u64);
            assert_eq!(counts.without_subscribers, 0, "{version}");
            shop.ask::<u32>(&["PUBLISH", "stock.end", "end"]);
            wait_heard(&plain, 1);
            assert_eq!(plain.payloads(), ["end"], "{version}: plain subscribers heard nothing before");
        }
    }
}

#[test]
fn a_server_without_shard_channels_parks_the_route_and_says_so() {
    let (events, shop) = (Server::start(Version::Redis70), Server::start(Version::Redis62));
    let lines = "channel = \"stock\"\nsharded = true";
    // 6.2 knows no right of that name either, so the line that grants it cannot be run there.
    let daemon = Setup::new()
        .endpoint("events", &events)
        .raw_endpoint("shop", &shop.socket())
        .routes(&route("shop", lines))
        .expects(&[alert::BLOCKED]);
    shop.ask::<()>(&["ACL", "SETUSER", "tidegate-shop", "on", ">first-shop", "~*", "&*", "+@all"]);
    let daemon = daemon.start();
    let status = daemon.wait_state("stock", RouteState::Blocked);
    let reason = status.reason.unwrap();
    assert!(reason.contains("needs SPUBLISH") && reason.contains("7.0"), "{reason}");
    let checked = daemon.run_command(&["check", "--connect"]);
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(!checked.status.success() && text.contains("sharded = true needs SPUBLISH"), "{text}");
}

/// Drops what has the id of an earlier message, as a subscriber would.
fn without_repeats(messages: &[String]) -> Vec<Value> {
    let mut seen = HashSet::new();
    let documents = messages.iter().map(|message| serde_json::from_str::<Value>(message).unwrap());
    documents.filter(|document| seen.insert(document["id"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn the_envelope_lets_subscribers_across_servers_drop_repeats() {
    const ENTRIES: usize = 20_000;
    let (events, shop) = (Server::start(Version::Redis70), Server::start(Version::Valkey91));
    let subscriber = Subscriber::start(&shop, &["stock"]);
    let lines = "channel = \"stock\"\nenvelope = \"json\"";
    let mut daemon = setup(&events, Some(&shop), lines).expects(&[alert::DESTINATION]).start_ready();
    let adding = add(&events, ENTRIES);
    for kill in 1..=4 {
        wait_heard(&subscriber, kill * ENTRIES / 6);
        daemon.restart();
    }
    adding.join().unwrap();
    wait_heard(&subscriber, ENTRIES);
    let last = events.ask::<String>(&["XADD", "orders", "*", "payload", "last"]);
    eventually("the last entry is heard", PATIENCE, || match subscriber.payloads().last() {
        Some(message) if message.contains(&last) => Ok(()),
        message => Err(format!("{message:?}")),
    });
    let found = without_repeats(&subscriber.payloads());
    let stored = entries(&events, "orders");
    assert_eq!(found.len(), stored.len());
    for (document, (id, fields)) in found.iter().zip(&stored) {
        assert_eq!((document["stream"].as_str(), document["id"].as_str()), (Some("orders"), Some(&**id)));
        let expected = fields.iter().map(|(name, value)| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(name), Value::String(text(value)))
        });
        assert_eq!(document["fields"], Value::Object(expected.collect()));
    }
}

#[test]
fn a_filter_leaves_out_and_counts_and_the_cursor_moves_over() {
    const ENTRIES: usize = 30_000;
    // What the conditions want: odd, and without a rest.
    let lines = r#"
        channel = "stock.<field:kind>"
        message = "<field:n>"
        where = [{ entry = "kind", equals = "odd" }, { field = "rest", in = [0] }, { entry = "gone", exists = false }]
    "#;
    for (events, second) in placements(Version::Redis82) {
        let shop = second.as_ref().unwrap_or(&events);
        let subscriber = Subscriber::start(shop, &["stock.*"]);
        let mut daemon = setup(&events, second.as_ref(), lines).expects(&[alert::DESTINATION]).start_ready();
        let adding = add(&events, ENTRIES);
        for kill in 1..=3 {
            wait_heard(&subscriber, kill * ENTRIES / 6 / 5);
            daemon.restart();
        }
        adding.join().unwrap();
        let total = ENTRIES as u64;
        let counts = wait_counts(&daemon, "every entry is dealt with", |c| c.published + c.filtered == total);
        let wanted: Vec<String> =
            (0..ENTRIES).filter(|n| n % 2 == 1 && n % 3 == 0).map(|n| n.to_string()).collect();
        assert_eq!((counts.published, counts.rejected), (wanted.len() as u64, 0));
        assert_heard(&subscriber, second.is_some(), &wanted);
        let last = events.ask::<String>(&["XADD", "orders", "*", "kind", "even"]);
        eventually("the cursor moves over an entry that is left out", PATIENCE, || {
            let status = daemon.route("stock")?;
            if status.position.as_deref() == Some(&last) { Ok(()) } else { Err(format!("{status:?}")) }
        });
        assert!(daemon.metric("stock", "tidegate_entries_filtered_total") > 0);
    }
}

#[test]
fn a_server_that_is_out_of_memory_still_broadcasts() {
    const ENTRIES: usize = 5_000;
    for version in Version::DESTINATIONS {
        for sharded in [false, true] {
            let events = Server::with(version, Options::default().with("maxmemory-policy", "noeviction"));
            add(&events, ENTRIES).join().unwrap();
            let full = |memory: &str| events.ask::<()>(&["CONFIG", "SET", "maxmemory", memory]);
            let subscriber = if sharded {
                Subscriber::start_sharded(&events, &["stock"])
            } else {
                Subscriber::start(&events, &["stock"])
            };
            let lines = format!("channel = \"stock\"\nmessage = \"<field:n>\"\nsharded = {sharded}");
            full("1");
            let refused = events.try_ask::<String>(&["XADD", "orders", "*", "n", "x"]).unwrap_err();
            assert_eq!(refused.code(), Some("OOM"), "{version}: {refused}");
            let daemon = setup(&events, None, &lines).start_ready();
            wait_heard(&subscriber, ENTRIES);
            let expected: Vec<String> = (0..ENTRIES).map(|n| n.to_string()).collect();
            assert!(subscriber.payloads() == expected, "{version}: each once, in order");
            wait_counts(&daemon, "all are counted", |c| c.published == ENTRIES as u64);
            let position = daemon.route("stock").unwrap().position.unwrap();
            assert_eq!(entries(&events, "orders").last().unwrap().0, position, "{version}");
        }
    }
}

#[test]
fn a_rate_limit_holds_back_and_a_reload_lets_go() {
    const ENTRIES: usize = 3_000;
    for (events, second) in placements(Version::Valkey80) {
        let shop = second.as_ref().unwrap_or(&events);
        let subscriber = Subscriber::start(shop, &["stock"]);
        let lines = |limit: &str| format!("channel = \"stock\"\nmessage = \"<field:n>\"\n{limit}");
        let mut daemon = setup(&events, second.as_ref(), &lines("rate_limit = \"1/h\"")).start_ready();
        add(&events, ENTRIES).join().unwrap();
        let counts = wait_counts(&daemon, "the rate holds it back", |c| c.rate_limited);
        assert_eq!(counts.published, 1, "one an hour");
        assert_eq!(daemon.metric("stock", "tidegate_rate_limited"), 1);
        assert_eq!(subscriber.payloads(), ["0"]);
        daemon.wait_ready();
        // It ends in time although the next message is an hour away.
        assert!(daemon.stop().success());
        daemon.start_again();
        wait_counts(&daemon, "after a restart as well", |c| c.rate_limited);
        let destination = if second.is_some() { "shop" } else { "events" };
        daemon.reload(&route(destination, &lines("rate_limit = \"20000/s\"")));
        wait_counts(&daemon, "all are published", |c| c.published == ENTRIES as u64 && !c.rate_limited);
        wait_heard(&subscriber, ENTRIES);
        let expected: Vec<String> = (0..ENTRIES).map(|n| n.to_string()).collect();
        assert!(subscriber.payloads() == expected, "each once, in order");
    }
}

/// The dead letters of the route: the entry's id and the reason.
fn letters(events: &Server) -> Vec<(String, String, String)> {
    let get = |fields: &[(Vec<u8>, Vec<u8>)], wanted: &[u8]| {
        let found = fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        String::from_utf8(found.unwrap()).unwrap()
    };
    let letters = entries(events, "tidegate:stock:dead-letters").into_iter();
    letters
        .map(|(_, fields)| (get(&fields, b"id"), get(&fields, b"reason"), get(&fields, b"detail")))
        .collect()
}

/// Lets the route's user publish on these channels alone.
fn allow_channels(daemon_endpoint: &str, server: &Server, rules: &[&str]) {
    let user = format!("tidegate-{daemon_endpoint}");
    let mut command = vec!["ACL", "SETUSER", &user, "resetchannels"];
    command.extend(rules);
    server.ask::<()>(&command);
}

#[test]
fn an_entry_that_is_refused_for_its_own_sake_becomes_a_dead_letter_after_max_deliveries() {
    for version in Version::DESTINATIONS {
        for (events, second) in placements(version) {
            let (name, shop) = second.as_ref().map_or(("events", &events), |shop| ("shop", shop));
            let subscriber = Subscriber::start(shop, &["stock.*"]);
            let lines = "channel = \"stock.<field:kind>\"\nmessage = \"<field:n>\"\nmax_deliveries = 2";
            let daemon = setup(&events, second.as_ref(), lines).expects(&[alert::DESTINATION]).start_ready();
            allow_channels(name, shop, &["&stock.even"]);
            add(&events, 9).join().unwrap();
            wait_counts(&daemon, "all are dealt with", |c| (c.published, c.rejected) == (5, 4));
            let even = ["0", "2", "4", "6", "8"].map(str::to_owned);
            assert_heard(&subscriber, second.is_some(), &even);
            let stored = entries(&events, "orders");
            let found = letters(&events);
            assert_eq!(found.len(), 4, "{version}: {found:?}");
            for (n, (id, reason, detail)) in [1, 3, 5, 7].into_iter().zip(&found) {
                assert_eq!((id, reason.as_str()), (&stored[n].0, "refused"), "{version}");
                assert!(detail.starts_with("2 deliveries failed, the last with: "), "{detail}");
            }
        }
    }
}

/// What the options say holds also where a group has to acknowledge, and for what was left behind as a hole.
#[test]
fn the_same_options_hold_where_a_group_has_to_acknowledge() {
    for (order, sharded) in [("stream", false), ("acknowledgement", true)] {
        for (events, second) in placements(Version::Redis82) {
            let (name, shop) = second.as_ref().map_or(("events", &events), |shop| ("shop", shop));
            let subscriber = if sharded {
                Subscriber::start_sharded(shop, &["stock.even"])
            } else {
                Subscriber::start(shop, &["stock.*"])
            };
            let lines = format!(
                r#"
                after = "inventory"
                order = "{order}"
                sharded = {sharded}
                channel = "stock.<field:kind>"
                message = "<field:n>"
                where = [{{ field = "rest", in = [0, 1] }}]
                rate_limit = "50/s"
                max_deliveries = 2
                "#
            );
            events.ask::<()>(&["XGROUP", "CREATE", "orders", "inventory", "0", "MKSTREAM"]);
            let daemon = setup(&events, second.as_ref(), &lines).expects(&[alert::DESTINATION]).start_ready();
            allow_channels(name, shop, &["&stock.even"]);
            add(&events, 9).join().unwrap();
            let ids: Vec<String> = entries(&events, "orders").into_iter().map(|(id, _)| id).collect();
            let read = ["XREADGROUP", "GROUP", "inventory", "one", "STREAMS", "orders", ">"];
            events.ask::<redis::Value>(&read);
            eventually("all are pending, and what is left out is no hole", PATIENCE, || {
                let known = daemon.route("stock")?.acknowledged.ok_or("nothing is known")?;
                let holes = if order == "stream" { 0 } else { 6 };
                if (known.pending, known.ack_pending) == (9, holes) {
                    Ok(())
                } else {
                    Err(format!("{known:?}"))
                }
            });
            assert_eq!(subscriber.count(), 0);
            for id in ids.iter().rev() {
                events.ask::<u32>(&["XACK", "orders", "inventory", id]);
            }
            wait_counts(&daemon, "all are dealt with", |c| {
                (c.published, c.rejected, c.filtered) == (3, 3, 3)
            });
            wait_heard(&subscriber, 3);
            let mut heard = subscriber.payloads();
            heard.sort();
            assert_eq!(without_any_repeat(heard, second.is_some()), ["0", "4", "6"], "{order}");
            let mut refused: Vec<String> = letters(&events).into_iter().map(|(id, ..)| id).collect();
            refused.sort();
            assert_eq!(refused, [1, 3, 7].map(|n: usize| ids[n].clone()), "{order}");
        }
    }
}

/// On two servers an entry may be published twice.
fn without_any_repeat(mut heard: Vec<String>, repeats: bool) -> Vec<String> {
    if repeats {
        heard.dedup();
    }
    heard
}

#[test]
fn a_restart_does_not_begin_to_count_anew() {
    let events = Server::start(Version::Redis70);
    let lines = "channel = \"stock.<field:kind>\"\nmax_deliveries = 1000";
    let mut daemon = setup(&events, None, lines).expects(&[alert::DESTINATION]).start_ready();
    allow_channels("events", &events, &["&stock.even"]);
    let id = events.ask::<String>(&["XADD", "orders", "*", "kind", "odd", "payload", "x"]);
    let failures = || events.ask::<Option<u64>>(&["HGET", "tidegate:stock:cursor", "failures"]);
    eventually("its failures are counted", PATIENCE, || match failures() {
        Some(count) if count >= 2 => Ok(()),
        count => Err(format!("{count:?}")),
    });
    daemon.stop();
    // A thousand failures take longer than this test waits: what is left of them is one.
    events.ask::<u32>(&["HSET", "tidegate:stock:cursor", "failures", "999"]);
    daemon.start_again();
    wait_counts(&daemon, "it becomes a dead letter", |counts| counts.rejected == 1);
    assert_eq!(letters(&events)[0].0, id);
}

#[test]
fn a_right_that_every_entry_needs_parks_the_route_instead_of_emptying_the_stream() {
    for (events, second) in placements(Version::Redis70) {
        let (name, shop) = second.as_ref().map_or(("events", &events), |shop| ("shop", shop));
        let subscriber = Subscriber::start(shop, &["stock.*"]);
        let lines = "channel = \"stock.<field:kind>\"\nmessage = \"<field:n>\"\nmax_deliveries = 1";
        let mut daemon = setup(&events, second.as_ref(), lines)
            .expects(&[alert::DESTINATION, alert::BLOCKED])
            .start_ready();
        allow_channels(name, shop, &[]);
        add(&events, 100).join().unwrap();
        let status = daemon.wait_state("stock", RouteState::Blocked);
        let reason = status.reason.unwrap();
        assert!(reason.contains("every entry is affected"), "{reason}");
        assert_eq!(letters(&events).len(), 8);
        allow_channels(name, shop, &["&stock.*"]);
        daemon.restart();
        wait_counts(&daemon, "the rest is published", |c| (c.published, c.rejected) == (92, 8));
        let expected: Vec<String> = (8..100).map(|n: usize| n.to_string()).collect();
        assert_heard(&subscriber, second.is_some(), &expected);
    }
}

#[test]
fn a_message_that_is_larger_than_the_server_takes_becomes_a_dead_letter() {
    for version in Version::DESTINATIONS {
        for (events, second) in placements(version) {
            let shop = second.as_ref().unwrap_or(&events);
            let subscriber = Subscriber::start(shop, &["stock"]);
            let large = "x".repeat(2 << 20);
            add(&events, 300).join().unwrap();
            let id = events.ask::<String>(&["XADD", "orders", "*", "n", &large]);
            add(&events, 300).join().unwrap();
            shop.ask::<()>(&["CONFIG", "SET", "proto-max-bulk-len", "1mb"]);
            let lines = "channel = \"stock\"\nmessage = \"<id> <field:n>\"\nmax_deliveries = 3";
            let daemon = setup(&events, second.as_ref(), lines).expects(&[alert::DESTINATION]).start_ready();
            wait_counts(&daemon, "all are dealt with", |c| (c.published, c.rejected) == (600, 1));
            let found = letters(&events);
            assert_eq!((found.len(), &found[0].0, found[0].1.as_str()), (1, &id, "refused"), "{version}");
            let stored = entries(&events, "orders").into_iter().filter(|(stored, _)| *stored != id);
            let text = |fields: &[(Vec<u8>, Vec<u8>)]| String::from_utf8(fields[0].1.clone()).unwrap();
            let expected: Vec<String> =
                stored.map(|(id, fields)| format!("{id} {}", text(&fields))).collect();
            assert_heard(&subscriber, second.is_some(), &expected);
        }
    }
}
