//! Promise: with `after = "GROUP"` an entry is published once that group has acknowledged it, and not before:
//! on one server exactly once, however often the daemon is killed; across servers at least once.

use std::collections::HashSet;

use super::consumers::{
    Order, PATIENCE, acknowledge, add, adding, consuming, ids, make_group, one_server, published, read,
    route, wait_all, wait_published,
};
use crate::support::{Daemon, Options, Server, Setup, Subscriber, Version, alert, eventually};

/// Exactly the stream's entries, each once and after its acknowledgement; in the order that was asked for.
#[track_caller]
fn assert_exact(server: &Server, subscriber: &Subscriber, order: Order, version: Version) {
    let expected = ids(server);
    let heard = subscriber.texts();
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
        let mut two = one.start_twin();
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
        let two = one.start_twin();
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
    // A long reason stands in several lines.
    let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(&reason), "{table}");
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
