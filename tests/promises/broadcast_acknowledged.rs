//! Promise: with `after = "GROUP"` an entry is published once that group has acknowledged it, and not before:
//! on one server exactly once, however often the daemon is killed; across servers at least once.
//!
//! The consumers here acknowledge by a script that also publishes the id on `acked`. Pub/Sub has one order, so
//! whoever hears both knows whether an entry was published before it was acknowledged.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::Connection;

use crate::support::{Daemon, Options, Server, Setup, Subscriber, Version, alert, entries, eventually};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Acknowledges, and says so in the order of everything that is published.
const ACKNOWLEDGE: &str = "for _, id in ipairs(ARGV) do \
    if redis.call('XACK', KEYS[1], 'inventory', id) == 1 then redis.call('PUBLISH', 'acked', id) end end";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Stream,
    Acknowledgement,
}

pub(crate) fn route(destination: &str, order: Order) -> String {
    let order = match order {
        Order::Stream => "stream",
        Order::Acknowledgement => "acknowledgement",
    };
    format!(
        r#"
        [broadcast.stock]
        source = "events"
        stream = "orders"
        after = "inventory"
        order = "{order}"
        destination = "{destination}"
        channel = "stock.changed"
        message = "<id>"
        start = "beginning"
        "#
    )
}

pub(crate) fn one_server(server: &Server, order: Order) -> Setup {
    Setup::new().endpoint("events", server).routes(&route("events", order))
}

pub(crate) fn make_group(server: &Server) {
    server.ask::<()>(&["XGROUP", "CREATE", "orders", "inventory", "0", "MKSTREAM"]);
}

pub(crate) fn add(server: &Server, payload: &str) -> String {
    server.ask(&["XADD", "orders", "*", "payload", payload])
}

/// Gives a consumer some entries; their ids.
pub(crate) fn read(server: &Server, consumer: &str, count: usize) -> Vec<String> {
    given_out(&mut server.connection(), consumer, &["COUNT", &count.to_string()])
}

/// The ids of what XREADGROUP brings.
pub(crate) fn given_out(connection: &mut Connection, consumer: &str, how: &[&str]) -> Vec<String> {
    type Reply = Option<Vec<(String, Vec<(String, Vec<String>)>)>>;
    let mut command = redis::cmd("XREADGROUP");
    command.arg(&["GROUP", "inventory", consumer]).arg(how).arg(&["STREAMS", "orders", ">"]);
    let reply: Reply = command.query(connection).unwrap();
    reply.into_iter().flatten().flat_map(|(_, entries)| entries).map(|(id, _)| id).collect()
}

pub(crate) fn acknowledge(server: &Server, id: &str) {
    server.ask::<()>(&["EVAL", ACKNOWLEDGE, "1", "orders", id]);
}

fn texts(subscriber: &Subscriber) -> Vec<(String, String)> {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    subscriber.heard().into_iter().map(|message| (text(message.channel), text(message.payload))).collect()
}

/// What was published, in order.
pub(crate) fn published(subscriber: &Subscriber) -> Vec<String> {
    texts(subscriber)
        .into_iter()
        .filter(|(channel, _)| channel == "stock.changed")
        .map(|(_, id)| id)
        .collect()
}

#[track_caller]
pub(crate) fn wait_published(daemon: &Daemon, subscriber: &Subscriber, expected: &[String]) {
    eventually("these entries are published", PATIENCE, || {
        let heard = published(subscriber);
        if heard == expected { Ok(()) } else { Err(format!("{heard:?}, {:?}", daemon.route("stock"))) }
    });
}

/// Adds entries in a thread, a pipeline at a time.
fn adding(server: &Server, entries: usize) -> JoinHandle<()> {
    let mut connection = server.connection();
    std::thread::spawn(move || {
        const PIPELINE: usize = 20;
        for first in (0..entries).step_by(PIPELINE) {
            let mut pipeline = redis::pipe();
            for _ in first..(first + PIPELINE).min(entries) {
                pipeline.cmd("XADD").arg(&["orders", "*", "payload", "x"]).ignore();
            }
            pipeline.exec(&mut connection).unwrap();
        }
    })
}

/// Consumers that acknowledge everything, each in a random order, until so many are acknowledged in all.
fn consuming(server: &Server, consumers: usize, entries: usize) -> Vec<JoinHandle<()>> {
    let done = Arc::new(AtomicUsize::new(0));
    let work = |number: usize| {
        let (mut connection, done) = (server.connection(), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(number as u64);
            let mut hand: Vec<String> = Vec::new();
            while done.load(Ordering::Relaxed) < entries {
                let name = format!("consumer-{number}");
                let came = given_out(&mut connection, &name, &["COUNT", "40", "BLOCK", "10"]);
                // Some stay in hand for a while, so that others overtake them.
                let keep = if came.is_empty() { 0 } else { 60 };
                hand.extend(came);
                random.shuffle(&mut hand);
                let ids: Vec<String> = hand.drain(keep.min(hand.len())..).collect();
                if !ids.is_empty() {
                    let mut command = redis::cmd("EVAL");
                    command.arg(ACKNOWLEDGE).arg(1).arg("orders").arg(&ids).exec(&mut connection).unwrap();
                    done.fetch_add(ids.len(), Ordering::Relaxed);
                }
            }
        })
    };
    (0..consumers).map(work).collect()
}

fn ids(server: &Server) -> Vec<String> {
    entries(server, "orders").into_iter().map(|(id, _)| id).collect()
}

/// Exactly the stream's entries, each once and after its acknowledgement; in the order that was asked for.
#[track_caller]
fn assert_exact(server: &Server, subscriber: &Subscriber, order: Order, version: Version) {
    let expected = ids(server);
    let heard = texts(subscriber);
    let mut acknowledged = HashSet::new();
    let mut out = Vec::new();
    for (channel, id) in heard {
        if channel == "acked" {
            assert!(acknowledged.insert(id), "each is acknowledged once: the test's own");
        } else {
            assert!(acknowledged.contains(&id), "{version}: {id} was published before it was acknowledged");
            out.push(id);
        }
    }
    if order == Order::Acknowledgement {
        assert!(!out.is_sorted(), "{version}: nothing overtook anything, so this proves nothing");
        out.sort_by_key(|id| {
            let (milliseconds, sequence) = id.split_once('-').unwrap();
            (milliseconds.parse::<u64>().unwrap(), sequence.parse::<u64>().unwrap())
        });
    }
    assert_eq!(out.len(), expected.len(), "{version} {order:?}");
    assert!(out == expected, "{version} {order:?}: each id once");
}

#[track_caller]
fn wait_all(subscriber: &Subscriber, entries: usize, daemon: &Daemon) {
    eventually("everything is published", PATIENCE, || match published(subscriber).len() {
        count if count >= entries => Ok(()),
        count => Err(format!("{count} heard, {:?}", daemon.route("stock"))),
    });
}

/// Kills the daemon again and again while consumers work, and compares what was heard with the stream.
fn killed_under_load(order: Order, more: &str, versions: &[Version]) {
    const ENTRIES: usize = 20_000;
    for &version in versions {
        let server = Server::with(version, Options::default().tcp());
        make_group(&server);
        let subscriber = Subscriber::start(&server, &["stock.*", "acked"]);
        let routes = route("events", order) + more;
        let setup = Setup::new().endpoint("events", &server).routes(&routes);
        let mut daemon = setup.start_ready();
        let workers = [consuming(&server, 3, ENTRIES), vec![adding(&server, ENTRIES)]];
        for kill in 1..=4 {
            eventually("it publishes", PATIENCE, || match published(&subscriber).len() {
                count if count >= kill * ENTRIES / 8 => Ok(()),
                count => Err(format!("{count} heard, {:?}", daemon.route("stock"))),
            });
            daemon.restart();
        }
        workers.into_iter().flatten().for_each(|worker| worker.join().unwrap());
        wait_all(&subscriber, ENTRIES, &daemon);
        finish(&server, &subscriber, ENTRIES, &daemon);
        assert_exact(&server, &subscriber, order, version);
    }
}

/// Publishes one more after everything else, so that nothing can still be under way behind it.
fn finish(server: &Server, subscriber: &Subscriber, entries: usize, daemon: &Daemon) {
    add(server, "last");
    let last = read(server, "consumer-0", 1);
    acknowledge(server, &last[0]);
    wait_all(subscriber, entries + 1, daemon);
}

#[test]
fn killed_under_load_each_entry_is_published_exactly_once_in_stream_order() {
    killed_under_load(Order::Stream, "", &Version::DESTINATIONS);
}

#[test]
fn killed_under_load_each_entry_is_published_exactly_once_in_the_order_of_acknowledgements() {
    killed_under_load(Order::Acknowledgement, "", &Version::DESTINATIONS);
}

#[test]
fn killed_under_load_and_woken_by_the_replication_stream_each_entry_is_published_exactly_once() {
    let more = "mode = \"replication\"";
    killed_under_load(Order::Stream, more, &[Version::Redis70, Version::Valkey91]);
    killed_under_load(Order::Acknowledgement, more, &[Version::Redis82, Version::Valkey80]);
}

#[test]
fn two_instances_publish_each_entry_exactly_once() {
    const ENTRIES: usize = 20_000;
    for (order, version) in [(Order::Stream, Version::Redis70), (Order::Acknowledgement, Version::Valkey91)] {
        let server = Server::start(version);
        make_group(&server);
        let subscriber = Subscriber::start(&server, &["stock.*", "acked"]);
        let mut one = one_server(&server, order).start_ready();
        let mut two = one.twin();
        two.start_again();
        two.wait_ready();
        let workers = [consuming(&server, 3, ENTRIES), vec![adding(&server, ENTRIES)]];
        for kill in 1..=4 {
            eventually("they publish", PATIENCE, || match published(&subscriber).len() {
                count if count >= kill * ENTRIES / 6 => Ok(()),
                count => Err(format!("{count} heard, {:?} {:?}", one.route("stock"), two.route("stock"))),
            });
            if kill % 2 == 0 { one.restart() } else { two.restart() }
        }
        workers.into_iter().flatten().for_each(|worker| worker.join().unwrap());
        wait_all(&subscriber, ENTRIES, &one);
        finish(&server, &subscriber, ENTRIES, &one);
        assert_exact(&server, &subscriber, order, version);
    }
}

#[test]
fn across_servers_each_entry_is_published_at_least_once_and_only_what_was_not_answered_again() {
    const ENTRIES: usize = 10_000;
    const KILLS: usize = 3;
    /// What a session may have under way: four batches, and what one more read brings.
    const UNDER_WAY: usize = 8 * 128 + 128;
    for (order, version) in [(Order::Stream, Version::Redis82), (Order::Acknowledgement, Version::Redis70)] {
        let (events, shop) = (Server::start(version), Server::start(Version::Redis62));
        make_group(&events);
        let subscriber = Subscriber::start(&shop, &["stock.*"]);
        let mut daemon = Setup::new()
            .endpoint("events", &events)
            .endpoint("shop", &shop)
            .routes(&route("shop", order))
            .expects(&[alert::DESTINATION])
            .start_ready();
        let workers = [consuming(&events, 3, ENTRIES), vec![adding(&events, ENTRIES)]];
        for kill in 1..=KILLS {
            eventually("it publishes", PATIENCE, || match published(&subscriber).len() {
                count if count >= kill * ENTRIES / 5 => Ok(()),
                count => Err(format!("{count} heard, {:?}", daemon.route("stock"))),
            });
            daemon.restart();
        }
        workers.into_iter().flatten().for_each(|worker| worker.join().unwrap());
        let all: HashSet<String> = ids(&events).into_iter().collect();
        eventually("each is published", PATIENCE, || {
            let heard: HashSet<String> = published(&subscriber).into_iter().collect();
            if heard == all { Ok(()) } else { Err(format!("{} of {}", heard.len(), all.len())) }
        });
        let repeats = published(&subscriber).len() - all.len();
        assert!(repeats <= KILLS * UNDER_WAY, "{order:?}: {repeats} repeats");
        if order == Order::Stream {
            let mut seen = HashSet::new();
            let first: Vec<_> =
                published(&subscriber).into_iter().filter(|id| seen.insert(id.clone())).collect();
            assert!(first == ids(&events), "in stream order, but for the repeats");
        }
    }
}

/// What waited is read again, a part at a time, and goes out once.
#[test]
fn across_servers_what_was_left_behind_is_published_once() {
    const ENTRIES: usize = 400;
    let (events, shop) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
    make_group(&events);
    let subscriber = Subscriber::start(&shop, &["stock.*"]);
    let setup = Setup::new().endpoint("events", &events).endpoint("shop", &shop);
    let mut daemon = setup.routes(&route("shop", Order::Acknowledgement)).start_ready();
    // One reply holds many of the small ones, and few of the others.
    let payload = |n: usize| "x".repeat(if n.is_multiple_of(3) { 10 } else { 20_000 });
    let all: Vec<String> = (0..ENTRIES).map(|n| add(&events, &payload(n))).collect();
    assert_eq!(read(&events, "one", ENTRIES), all);
    eventually("all are left behind", PATIENCE, || {
        let status = daemon.route("stock")?.acknowledged.ok_or("nothing of acknowledgements")?;
        if status.ack_pending == ENTRIES as u64 { Ok(()) } else { Err(format!("{status:?}")) }
    });
    daemon.kill();
    all.iter().for_each(|id| acknowledge(&events, id));
    daemon.start_again();
    wait_all(&subscriber, ENTRIES, &daemon);
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(published(&subscriber) == all, "each once, the oldest first");
}

/// Consumers delete what they have acknowledged, and two instances compete for it. Whatever both have read while
/// it was pending is published, by one of them.
#[test]
fn two_instances_publish_what_consumers_acknowledge_and_delete() {
    const ROUNDS: usize = 6;
    const ENTRIES: usize = 300;
    const TAKE_AWAY: &str =
        "redis.call('XACK', KEYS[1], 'inventory', ARGV[1]) redis.call('XDEL', KEYS[1], ARGV[1])";
    for order in [Order::Stream, Order::Acknowledgement] {
        let server = Server::start(Version::Redis70);
        make_group(&server);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let one = one_server(&server, order).start_ready();
        let mut two = one.twin();
        two.start_again();
        two.wait_ready();
        let mut connection = server.connection();
        let mut all = Vec::new();
        for round in 1..=ROUNDS {
            let added: Vec<String> = (0..ENTRIES).map(|_| add(&server, "x")).collect();
            assert_eq!(read(&server, "one", ENTRIES), added);
            let last = added.last().cloned();
            for instance in [&one, &two] {
                eventually("it has read them", PATIENCE, || {
                    let status =
                        instance.route("stock")?.acknowledged.ok_or("nothing of acknowledgements")?;
                    if status.read == last { Ok(()) } else { Err(format!("{status:?}")) }
                });
            }
            for id in &added {
                redis::cmd("EVAL").arg(&[TAKE_AWAY, "1", "orders", id]).exec(&mut connection).unwrap();
            }
            all.extend(added);
            eventually("they are published", PATIENCE, || match published(&subscriber).len() {
                count if count >= round * ENTRIES => Ok(()),
                count => Err(format!("{count} of {}, {:?}", round * ENTRIES, one.route("stock"))),
            });
        }
        assert_eq!(server.stream_length("tidegate:stock:dead-letters"), 0, "{order:?}: nothing is missed");
        let mut heard = published(&subscriber);
        if order == Order::Acknowledgement {
            heard.sort_by_key(|id| {
                let (milliseconds, sequence) = id.split_once('-').unwrap();
                (milliseconds.parse::<u64>().unwrap(), sequence.parse::<u64>().unwrap())
            });
        }
        assert!(heard == all, "{order:?}: each id once");
    }
}

#[test]
fn an_entry_that_is_not_acknowledged_holds_up_those_behind_it_and_status_says_which() {
    let server = Server::start(Version::Redis70);
    make_group(&server);
    let subscriber = Subscriber::start(&server, &["stock.*"]);
    let daemon = one_server(&server, Order::Stream).start_ready();
    let all: Vec<String> = ["a", "b", "c"].iter().map(|payload| add(&server, payload)).collect();
    assert_eq!(read(&server, "slow", 1), all[..1]);
    assert_eq!(read(&server, "quick", 2), all[1..]);
    acknowledge(&server, &all[1]);
    acknowledge(&server, &all[2]);
    let blocked = eventually("status names the entry", PATIENCE, || {
        let status = daemon.route("stock")?.acknowledged.ok_or("nothing of acknowledgements")?;
        match status.waiting_for.clone() {
            Some(blocked) if status.pending == 1 && status.buffered == 3 => Ok(blocked),
            _ => Err(format!("{status:?}")),
        }
    });
    assert_eq!(
        (blocked.id.as_str(), blocked.consumer.as_str(), blocked.deliveries),
        (all[0].as_str(), "slow", 1)
    );
    let metrics = daemon.get("/metrics").unwrap().1;
    let age = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tidegate_oldest_unacknowledged_age_seconds{route=\"stock\"} "));
    assert!(age.unwrap().parse::<f64>().unwrap() > 0.0, "{metrics}");
    assert_eq!(published(&subscriber), [] as [String; 0]);
    // As if it had been given out a minute ago.
    let command = ["XCLAIM", "orders", "inventory", "slow", "0", &all[0], "IDLE", "60000"];
    server.ask::<redis::Value>(&command);
    let reason = eventually("it is said why nothing is published", PATIENCE, || {
        let status = daemon.route("stock")?;
        status.reason.clone().ok_or_else(|| format!("{status:?}"))
    });
    assert!(reason.contains(&all[0]) && reason.contains("'slow' 1m"), "{reason}");
    let table = String::from_utf8(daemon.run_command(&["status"]).stdout).unwrap();
    assert!(table.contains(&reason), "{table}");
    acknowledge(&server, &all[0]);
    wait_published(&daemon, &subscriber, &all);
}

#[test]
fn in_the_order_of_acknowledgements_nothing_waits_for_another_entry() {
    let server = Server::start(Version::Valkey80);
    make_group(&server);
    let subscriber = Subscriber::start(&server, &["stock.*"]);
    let mut daemon = one_server(&server, Order::Acknowledgement).start_ready();
    let all: Vec<String> = ["a", "b", "c"].iter().map(|payload| add(&server, payload)).collect();
    assert_eq!(read(&server, "one", 3), all);
    acknowledge(&server, &all[2]);
    wait_published(&daemon, &subscriber, &all[2..]);
    // The holes are remembered by the server.
    daemon.restart();
    daemon.wait_ready();
    acknowledge(&server, &all[0]);
    wait_published(&daemon, &subscriber, &[all[2].clone(), all[0].clone()]);
    acknowledge(&server, &all[1]);
    wait_published(&daemon, &subscriber, &[all[2].clone(), all[0].clone(), all[1].clone()]);
    eventually("no hole is left", PATIENCE, || match daemon.route("stock")?.acknowledged {
        Some(status) if status.ack_pending == 0 && status.pending == 0 => Ok(()),
        status => Err(format!("{status:?}")),
    });
}

#[test]
fn at_the_limit_of_holes_it_stops_and_says_so_until_some_are_acknowledged() {
    let server = Server::start(Version::Redis82);
    make_group(&server);
    let subscriber = Subscriber::start(&server, &["stock.*"]);
    let routes = route("events", Order::Acknowledgement) + "max_ack_pending = 3";
    let daemon =
        Setup::new().endpoint("events", &server).routes(&routes).expects(&[alert::HOLES]).start_ready();
    let all: Vec<String> = (0..5).map(|_| add(&server, "x")).collect();
    assert_eq!(read(&server, "one", 5), all);
    let reason = eventually("it says that it has stopped", PATIENCE, || {
        let status = daemon.route("stock")?;
        let holes = status.acknowledged.as_ref().map(|known| known.ack_pending);
        if holes == Some(3) {
            status.reason.ok_or("no reason".to_owned())
        } else {
            Err(format!("{status:?}"))
        }
    });
    assert!(reason.contains("max_ack_pending"), "{reason}");
    let metrics = daemon.get("/metrics").unwrap().1;
    assert!(metrics.contains("tidegate_ack_pending_entries{route=\"stock\"} 3"), "{metrics}");
    acknowledge(&server, &all[4]);
    acknowledge(&server, &all[1]);
    // Room for one, and what stands behind it is not acknowledged, but for the last.
    wait_published(&daemon, &subscriber, &[all[1].clone()]);
    acknowledge(&server, &all[0]);
    wait_published(&daemon, &subscriber, &[all[1].clone(), all[0].clone(), all[4].clone()]);
    eventually("nothing is said any more", PATIENCE, || match daemon.route("stock")?.reason {
        None => Ok(()),
        Some(reason) => Err(reason),
    });
}

#[test]
fn holes_of_another_order_are_told_and_published_in_that_order() {
    let server = Server::start(Version::Redis82);
    make_group(&server);
    let subscriber = Subscriber::start(&server, &["stock.*"]);
    let mut daemon = one_server(&server, Order::Acknowledgement).expects(&[alert::HOLES_LEFT]).start_ready();
    let ids: Vec<String> = (0..3).map(|_| add(&server, "x")).collect();
    assert_eq!(read(&server, "one", 3), ids);
    acknowledge(&server, &ids[2]);
    wait_published(&daemon, &subscriber, &ids[2..]);
    daemon.reload(&route("events", Order::Stream));
    let line = daemon.wait_alert(alert::HOLES_LEFT);
    assert!(line.text.contains("2 unacknowledged entries were left behind"), "{}", line.text);
    acknowledge(&server, &ids[0]);
    acknowledge(&server, &ids[1]);
    let more = add(&server, "x");
    assert_eq!(read(&server, "one", 1), [more.as_str()]);
    acknowledge(&server, &more);
    wait_published(&daemon, &subscriber, &[ids[2].clone(), more.clone()]);
    daemon.reload(&route("events", Order::Acknowledgement));
    wait_published(&daemon, &subscriber, &[ids[2].clone(), more, ids[0].clone(), ids[1].clone()]);
}

#[test]
fn a_server_that_is_out_of_memory_still_has_its_acknowledged_entries_published() {
    for (order, version) in [
        (Order::Stream, Version::Redis70),
        (Order::Acknowledgement, Version::Redis70),
        (Order::Acknowledgement, Version::Valkey91),
    ] {
        let server = Server::start(version);
        make_group(&server);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let daemon = one_server(&server, order).start_ready();
        let all: Vec<String> = (0..3).map(|_| add(&server, "x")).collect();
        server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
        let refused = server.try_ask::<String>(&["XADD", "orders", "*", "payload", "x"]).unwrap_err();
        assert_eq!(refused.code(), Some("OOM"), "{version}");
        assert_eq!(read(&server, "one", 3), all);
        if order == Order::Acknowledgement {
            acknowledge(&server, &all[2]);
            wait_published(&daemon, &subscriber, &all[2..]);
        }
        acknowledge(&server, &all[0]);
        acknowledge(&server, &all[1]);
        acknowledge(&server, &all[2]);
        eventually("all are published", PATIENCE, || {
            let heard: HashSet<String> = published(&subscriber).into_iter().collect();
            if heard == all.iter().cloned().collect() { Ok(()) } else { Err(format!("{heard:?}")) }
        });
    }
}

/// How often each command was called, but for those of the test itself.
fn commands(server: &Server) -> u64 {
    let stats: String = server.ask(&["INFO", "commandstats"]);
    let own = ["info", "hello", "client|setinfo", "client|setname", "auth", "replconf", "psync", "ping"];
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    let others = lines.filter(|(name, _)| !own.contains(name));
    others.map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn an_idle_route_sends_at_most_five_commands_a_second() {
    for more in ["", "mode = \"replication\""] {
        // What the route waits for: that an entry is acknowledged, that one is added, or given out.
        for (acknowledged, unread) in [(false, 0), (true, 0), (true, 1)] {
            let server = Server::with(Version::Redis70, Options::default().tcp());
            make_group(&server);
            let routes = route("events", Order::Stream) + more;
            let _daemon = Setup::new().endpoint("events", &server).routes(&routes).start_ready();
            add(&server, "x");
            let id = read(&server, "one", 1).remove(0);
            if acknowledged {
                acknowledge(&server, &id);
            }
            (0..unread).for_each(|_| drop(add(&server, "x")));
            // It comes to rest by and by. A slow machine only makes the rate lower.
            eventually("it has come to rest", PATIENCE, || {
                let (before, begin) = (commands(&server), Instant::now());
                let mut now = before;
                while now < before + 12 && begin.elapsed() < PATIENCE {
                    now = commands(&server);
                }
                let (sent, took) = (now - before, begin.elapsed().as_secs_f64());
                let rate = sent as f64 / took;
                // One more than the rate: the window ends with the first command of the next look.
                if sent as f64 <= 5.0 * took + 3.0 { Ok(()) } else { Err(format!("{rate} a second")) }
            });
        }
    }
}

#[test]
fn without_its_replication_link_a_route_polls_and_goes_back_to_it() {
    let server = Server::with(Version::Valkey80, Options::default().tcp());
    make_group(&server);
    let subscriber = Subscriber::start(&server, &["stock.*"]);
    let routes = route("events", Order::Stream) + "mode = \"replication\"";
    let daemon =
        Setup::new().endpoint("events", &server).routes(&routes).expects(&[alert::REPLICATION]).start_ready();
    let links = || {
        let info: String = server.ask(&["INFO", "replication"]);
        info.lines().any(|line| line.trim_end() == "connected_slaves:1")
    };
    let linked = |what: &str| {
        eventually(what, PATIENCE, || if links() { Ok(()) } else { Err("no replica".to_owned()) });
    };
    linked("the link is open");
    let mut all = Vec::new();
    for _ in 0..2 {
        all.push(add(&server, "x"));
        let id = read(&server, "one", 1).remove(0);
        server.ask::<u32>(&["CLIENT", "KILL", "TYPE", "replica"]);
        acknowledge(&server, &id);
        wait_published(&daemon, &subscriber, &all);
        linked("the link is open again");
    }
    daemon.wait_alert(alert::REPLICATION);
}

/// A server that sends no PING for hours and where nothing is written is silent. That is no dead link.
#[test]
fn on_a_quiet_server_the_replication_link_stays_and_goes_on_where_it_was() {
    /// Longer than any silence that was ever taken for a dead link.
    const QUIET_SECONDS: u64 = 40;
    let server = Server::with(Version::Redis70, Options::default().tcp());
    server.ask::<()>(&["CONFIG", "SET", "repl-ping-replica-period", "3600"]);
    make_group(&server);
    let subscriber = Subscriber::start(&server, &["stock.*"]);
    let routes = route("events", Order::Stream) + "mode = \"replication\"";
    let daemon =
        Setup::new().endpoint("events", &server).routes(&routes).expects(&[alert::REPLICATION]).start_ready();
    let of = |section: &str, name: &str| {
        let info: String = server.ask(&["INFO", section]);
        let line = info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.parse::<u64>().ok()).unwrap_or_default()
    };
    let linked = |what: &str| {
        eventually(what, PATIENCE, || match of("replication", "connected_slaves") {
            1 => Ok(()),
            count => Err(format!("{count} replicas")),
        });
    };
    linked("the link is open");
    let begin = of("server", "uptime_in_seconds");
    eventually("the server was quiet for long", PATIENCE, || {
        let seconds = of("server", "uptime_in_seconds") - begin;
        if seconds >= QUIET_SECONDS { Ok(()) } else { Err(format!("{seconds} s")) }
    });
    assert_eq!(of("stats", "sync_full"), 1, "one snapshot, however quiet it is");
    let mut all = vec![add(&server, "x")];
    acknowledge(&server, &read(&server, "one", 1).remove(0));
    wait_published(&daemon, &subscriber, &all);
    server.ask::<u32>(&["CLIENT", "KILL", "TYPE", "replica"]);
    linked("the link is open again");
    all.push(add(&server, "x"));
    acknowledge(&server, &read(&server, "one", 1).remove(0));
    wait_published(&daemon, &subscriber, &all);
    assert_eq!((of("stats", "sync_full"), of("stats", "sync_partial_ok")), (1, 1), "it goes on where it was");
}
