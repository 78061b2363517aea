//! Promise: what fakes an acknowledgement, or takes an entry away before it is published, is told where it can be
//! seen, with what was broadcast and what was not; docs/guides/broadcast-after-acknowledgement.md says where it cannot.

use tidegate::status::RouteState;

use super::consumers::{
    Order, PATIENCE, acknowledge, add, make_group, one_server, published, read, route, wait_published,
};
use crate::support::{Daemon, Server, Setup, Subscriber, Version, alert, entries, eventually};

/// Waits until the daemon has looked at the group at least twice more: what it would have published wrongly
/// would be out by then.
#[track_caller]
fn wait_looked(server: &Server) {
    let looks = || server.calls("xinfo|groups");
    let before = looks();
    eventually("it has looked again", PATIENCE, || match looks() {
        now if now >= before + 3 => Ok(()),
        now => Err(format!("{before} looks, and now {now}")),
    });
}

/// Waits until `/status` reports this number of pending entries of the group, and that they are held.
#[track_caller]
fn wait_pending(daemon: &Daemon, pending: u64, held: u64) {
    eventually("the group's pending entries are known", PATIENCE, || {
        let status = daemon.route("stock")?.acknowledged.ok_or("nothing of acknowledgements")?;
        if (status.pending, status.buffered) == (pending, held) { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

/// Waits until a doubt of this kind has been told.
#[track_caller]
fn wait_doubt(daemon: &Daemon, kind: &str) {
    eventually(&format!("the doubt {kind} is told"), PATIENCE, || {
        let status = daemon.route("stock")?.acknowledged.ok_or("nothing of acknowledgements")?;
        if status.group_changes.contains_key(kind) { Ok(()) } else { Err(format!("{status:?}")) }
    });
    let line = daemon.wait_alert(alert::DOUBT);
    assert!(line.text.contains(kind), "{}", line.text);
    let metrics = daemon.get("/metrics").unwrap().1;
    let series = format!("tidegate_group_changes_total{{route=\"stock\",kind=\"{kind}\"}} 1");
    assert!(metrics.contains(&series), "{series} is not in\n{metrics}");
}

/// The reasons and ids of the dead letters.
fn letters(server: &Server) -> Vec<(String, String)> {
    let field = |fields: &[(Vec<u8>, Vec<u8>)], name: &str| {
        let found = fields.iter().find(|(field, _)| field == name.as_bytes());
        String::from_utf8(found.unwrap().1.clone()).unwrap()
    };
    let all = entries(server, "tidegate:stock:dead-letters");
    all.iter().map(|(_, fields)| (field(fields, "reason"), field(fields, "id"))).collect()
}

const BOTH: [Order; 2] = [Order::Stream, Order::Acknowledgement];

#[test]
fn a_group_that_does_not_exist_is_waited_for_and_told() {
    for order in BOTH {
        let server = Server::start(Version::Redis70);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let old = add(&server, "before the group");
        let daemon = one_server(&server, order).expects(&[alert::NO_GROUP, alert::DOUBT]).start();
        let status = daemon.wait_state("stock", RouteState::Waiting);
        assert!(status.reason.unwrap().contains("no consumer group 'inventory'"));
        daemon.wait_alert(alert::NO_GROUP);
        // It begins behind an entry, which therefore counts as acknowledged.
        server.ask::<()>(&["XGROUP", "CREATE", "orders", "inventory", "$"]);
        daemon.wait_ready();
        wait_doubt(&daemon, "group_created");
        wait_published(&daemon, &subscriber, std::slice::from_ref(&old));
        let new = add(&server, "x");
        assert_eq!(read(&server, "one", 1), std::slice::from_ref(&new));
        acknowledge(&server, &new);
        wait_published(&daemon, &subscriber, &[old, new]);
    }
}

/// As the warning advises, for consumers that have been waiting for it.
#[test]
fn a_group_that_is_created_at_the_beginning_raises_no_doubt_though_consumers_read_at_once() {
    for order in BOTH {
        let server = Server::start(Version::Redis82);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let all: Vec<String> = (0..3).map(|_| add(&server, "before the group")).collect();
        let daemon = one_server(&server, order).expects(&[alert::NO_GROUP]).start();
        daemon.wait_alert(alert::NO_GROUP);
        // Between two polls.
        let made = redis::pipe()
            .atomic()
            .cmd("XGROUP")
            .arg(&["CREATE", "orders", "inventory", "0"])
            .ignore()
            .cmd("XREADGROUP")
            .arg(&["GROUP", "inventory", "one", "COUNT", "2", "STREAMS", "orders", ">"])
            .ignore()
            .exec(&mut server.connection());
        made.unwrap();
        daemon.wait_ready();
        wait_pending(&daemon, 2, 2);
        for id in &all[..2] {
            acknowledge(&server, id);
        }
        wait_published(&daemon, &subscriber, &all[..2]);
        assert!(daemon.route("stock").unwrap().acknowledged.unwrap().group_changes.is_empty());
    }
}

#[test]
fn a_consumer_without_acknowledgements_releases_at_once_and_nothing_shows_it() {
    let server = Server::start(Version::Redis82);
    make_group(&server);
    let subscriber = Subscriber::start(&server, &["stock.*"]);
    let daemon = one_server(&server, Order::Stream).start_ready();
    let id = add(&server, "x");
    let command = ["XREADGROUP", "GROUP", "inventory", "one", "NOACK", "STREAMS", "orders", ">"];
    server.ask::<redis::Value>(&command);
    wait_published(&daemon, &subscriber, &[id]);
    assert!(daemon.route("stock").unwrap().acknowledged.unwrap().group_changes.is_empty());
}

#[test]
fn a_deleted_consumers_pending_entries_are_published_and_told() {
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        make_group(&server);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let daemon = one_server(&server, Order::Stream).expects(&[alert::DOUBT]).start_ready();
        let all: Vec<String> = (0..3).map(|_| add(&server, "x")).collect();
        assert_eq!(read(&server, "gone", 2), all[..2]);
        assert_eq!(read(&server, "stays", 1), all[2..]);
        wait_pending(&daemon, 3, 3);
        assert_eq!(server.ask::<u32>(&["XGROUP", "DELCONSUMER", "orders", "inventory", "gone"]), 2);
        wait_published(&daemon, &subscriber, &all[..2]);
        wait_doubt(&daemon, "consumer_deleted");
    }
}

#[test]
fn a_group_set_forward_publishes_what_it_jumps_over_and_one_set_back_repeats_nothing() {
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        make_group(&server);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let daemon = one_server(&server, Order::Stream).expects(&[alert::DOUBT]).start_ready();
        let all: Vec<String> = (0..4).map(|_| add(&server, "x")).collect();
        assert_eq!(read(&server, "one", 1), all[..1]);
        wait_pending(&daemon, 1, 1);
        acknowledge(&server, &all[0]);
        wait_published(&daemon, &subscriber, &all[..1]);
        server.ask::<()>(&["XGROUP", "SETID", "orders", "inventory", &all[2]]);
        wait_published(&daemon, &subscriber, &all[..3]);
        wait_doubt(&daemon, "moved_forward");
        server.ask::<()>(&["XGROUP", "SETID", "orders", "inventory", "0"]);
        eventually("the doubt set_back is told", PATIENCE, || {
            let status = daemon.route("stock")?.acknowledged.ok_or("nothing of acknowledgements")?;
            if status.group_changes.contains_key("moved_back") { Ok(()) } else { Err(format!("{status:?}")) }
        });
        assert_eq!(read(&server, "one", 9), all);
        all.iter().for_each(|id| acknowledge(&server, id));
        wait_published(&daemon, &subscriber, &all);
    }
}

/// What comes is behind the place that the group was set to, so it counts as acknowledged.
#[test]
fn a_group_set_beyond_the_end_of_the_stream_publishes_what_comes() {
    for order in BOTH {
        let server = Server::start(Version::Redis82);
        make_group(&server);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let daemon = one_server(&server, order).expects(&[alert::DOUBT]).start_ready();
        let mut all = vec![add(&server, "x")];
        assert_eq!(read(&server, "one", 1), all);
        acknowledge(&server, &all[0]);
        wait_published(&daemon, &subscriber, &all);
        server.ask::<()>(&["XGROUP", "SETID", "orders", "inventory", "99999999999999-0"]);
        wait_looked(&server);
        for _ in 0..3 {
            all.push(add(&server, "x"));
            wait_published(&daemon, &subscriber, &all);
        }
        // Long enough for what is missed to be counted.
        wait_looked(&server);
        server.ask::<()>(&["XGROUP", "SETID", "orders", "inventory", &all[3]]);
        all.push(add(&server, "x"));
        assert_eq!(read(&server, "one", 1), all[4..]);
        acknowledge(&server, &all[4]);
        wait_published(&daemon, &subscriber, &all);
        assert_eq!(letters(&server), []);
    }
}

#[test]
fn a_destroyed_group_stops_publishing_and_one_made_again_is_what_counts() {
    for order in BOTH {
        let server = Server::start(Version::Valkey91);
        make_group(&server);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let setup = one_server(&server, order).expects(&[alert::DOUBT, alert::NO_GROUP]);
        let daemon = setup.start_ready();
        let all: Vec<String> = (0..3).map(|_| add(&server, "x")).collect();
        assert_eq!(read(&server, "one", 2), all[..2]);
        wait_pending(&daemon, 2, 2);
        assert_eq!(server.ask::<u32>(&["XGROUP", "DESTROY", "orders", "inventory"]), 1);
        daemon.wait_state("stock", RouteState::Waiting);
        // From the beginning: nothing is acknowledged by that, and everything is given out again.
        make_group(&server);
        daemon.wait_ready();
        wait_looked(&server);
        assert_eq!(published(&subscriber), [] as [String; 0]);
        assert_eq!(read(&server, "one", 2), all[..2]);
        acknowledge(&server, &all[0]);
        wait_published(&daemon, &subscriber, &all[..1]);
        wait_pending(&daemon, 1, 1);
        // Destroyed and made again at the end before anybody can look.
        let script = "redis.call('XGROUP', 'DESTROY', KEYS[1], 'inventory') \
                      redis.call('XGROUP', 'CREATE', KEYS[1], 'inventory', '$')";
        server.ask::<()>(&["EVAL", script, "1", "orders"]);
        eventually("everything counts as acknowledged", PATIENCE, || {
            let mut heard = published(&subscriber);
            heard.sort();
            if heard == all { Ok(()) } else { Err(format!("{heard:?}, {:?}", daemon.route("stock"))) }
        });
        wait_doubt(&daemon, "group_recreated");
    }
}

#[test]
fn consumers_that_acknowledge_and_delete_have_their_entries_published_from_memory() {
    for order in BOTH {
        for take_away in [
            "redis.call('XACK', KEYS[1], 'inventory', ARGV[1]) redis.call('XDEL', KEYS[1], ARGV[1])",
            "redis.call('XDEL', KEYS[1], ARGV[1]) redis.call('XACK', KEYS[1], 'inventory', ARGV[1])",
            "redis.call('XTRIM', KEYS[1], 'MAXLEN', 0) redis.call('XACK', KEYS[1], 'inventory', ARGV[1])",
        ] {
            let server = Server::start(Version::Redis70);
            make_group(&server);
            let subscriber = Subscriber::start(&server, &["stock.*"]);
            let daemon = one_server(&server, order).start_ready();
            let id = add(&server, "x");
            assert_eq!(read(&server, "one", 1), std::slice::from_ref(&id));
            wait_pending(&daemon, 1, 1);
            server.ask::<()>(&["EVAL", take_away, "1", "orders", &id]);
            assert_eq!(server.stream_length("orders"), 0);
            wait_published(&daemon, &subscriber, &[id]);
        }
    }
}

#[test]
fn a_pending_entry_that_is_deleted_while_nobody_holds_it_is_told_as_lost() {
    let lost = |order: Order, reason: &str| {
        let server = Server::start(Version::Redis82);
        make_group(&server);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let setup = one_server(&server, order).expects(&[alert::MISSED, alert::DEAD_LETTER]);
        let mut daemon = setup.start_ready();
        let all: Vec<String> = (0..3).map(|_| add(&server, "x")).collect();
        assert_eq!(read(&server, "one", 3), all);
        acknowledge(&server, &all[0]);
        wait_pending(&daemon, 2, 2);
        wait_published(&daemon, &subscriber, &all[..1]);
        daemon.kill();
        assert_eq!(server.ask::<u32>(&["XDEL", "orders", &all[1]]), 1);
        daemon.start_again();
        daemon.wait_ready();
        acknowledge(&server, &all[1]);
        acknowledge(&server, &all[2]);
        wait_published(&daemon, &subscriber, &[all[0].clone(), all[2].clone()]);
        eventually("it is in the dead letters", PATIENCE, || match letters(&server).as_slice() {
            [(found, _)] if found == reason => Ok(()),
            letters => Err(format!("{letters:?}, {:?}", daemon.route("stock"))),
        });
        if order == Order::Stream {
            daemon.wait_alert(alert::MISSED);
        }
    };
    // Nobody knows its id any more, but that one is missing.
    lost(Order::Stream, "deleted_unread");
    // As a hole, its id is remembered.
    lost(Order::Acknowledgement, "deleted");
}

#[test]
fn entries_deleted_or_trimmed_before_they_were_read_are_counted_and_told() {
    let added = route("events", Order::Stream).replace("after = \"inventory\"", "after = \"added\"");
    let added = added.replace("order = \"stream\"", "");
    for version in Version::DESTINATIONS {
        for (routes, waits) in [(added.clone(), false), (route("events", Order::Stream), true)] {
            let server = Server::start(version);
            make_group(&server);
            let subscriber = Subscriber::start(&server, &["stock.*"]);
            let setup = Setup::new().endpoint("events", &server).routes(&routes);
            let mut daemon = setup.expects(&[alert::MISSED]).start_ready();
            let first = add(&server, "x");
            if waits {
                acknowledge(&server, &read(&server, "one", 1)[0]);
            }
            wait_published(&daemon, &subscriber, std::slice::from_ref(&first));
            daemon.stop();
            let all: Vec<String> = (0..6).map(|_| add(&server, "x")).collect();
            // The first, and two of those that nobody has read; then one from between the others.
            assert_eq!(server.ask::<u32>(&["XTRIM", "orders", "MAXLEN", "=", "4"]), 3);
            assert_eq!(server.ask::<u32>(&["XDEL", "orders", &all[4]]), 1);
            daemon.start_again();
            daemon.wait_ready();
            let rest = [all[2].clone(), all[3].clone(), all[5].clone()];
            if waits {
                let given = read(&server, "one", 9);
                assert_eq!(given, rest);
                given.iter().for_each(|id| acknowledge(&server, id));
            }
            let expected: Vec<String> = [first.clone()].into_iter().chain(rest).collect();
            wait_published(&daemon, &subscriber, &expected);
            eventually("three are counted as missed", PATIENCE, || {
                let metrics = daemon.get("/metrics")?.1;
                let line = metrics.lines().find(|line| line.starts_with("tidegate_entries_lost_total{"));
                if line.is_some_and(|line| line.ends_with(" 3")) { Ok(()) } else { Err(format!("{line:?}")) }
            });
            daemon.wait_alert(alert::MISSED);
            let told = letters(&server);
            assert!(told.iter().all(|(reason, _)| reason == "deleted_unread"), "{version}");
            // The entry that such a letter names was published: it is not published again.
            let requeued =
                daemon.operator(&[]).run_command(&["dead-letters", "requeue", "stock", "--all", "--yes"]);
            assert_eq!(requeued.status.code(), Some(1), "{version}: {requeued:?}");
            assert_eq!((letters(&server), published(&subscriber)), (told, expected.clone()), "{version}");
            // It is recorded: the next start finds nothing missing.
            daemon.restart();
            daemon.wait_ready();
            let last = add(&server, "x");
            if waits {
                acknowledge(&server, &read(&server, "one", 1)[0]);
            }
            let expected: Vec<String> = expected.into_iter().chain([last]).collect();
            wait_published(&daemon, &subscriber, &expected);
            let metrics = daemon.get("/metrics").unwrap().1;
            assert!(
                metrics.contains("tidegate_entries_lost_total{route=\"stock\"} 0"),
                "{version}\n{metrics}"
            );
        }
    }
}

#[test]
fn xackdel_is_an_acknowledgement_whatever_it_does_with_other_references() {
    for order in BOTH {
        let server = Server::start(Version::Redis82);
        make_group(&server);
        server.ask::<()>(&["XGROUP", "CREATE", "orders", "other", "0"]);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let daemon = one_server(&server, order).start_ready();
        let all: Vec<String> = (0..4).map(|_| add(&server, "x")).collect();
        assert_eq!(read(&server, "one", 4), all);
        server.ask::<redis::Value>(&["XREADGROUP", "GROUP", "other", "one", "STREAMS", "orders", ">"]);
        wait_pending(&daemon, 4, 4);
        for (policy, id) in ["KEEPREF", "DELREF", "ACKED"].iter().zip(&all) {
            server.ask::<Vec<i32>>(&["XACKDEL", "orders", "inventory", policy, "IDS", "1", id]);
        }
        wait_published(&daemon, &subscriber, &all[..3]);
        // With ACKED the entry stays as long as another group has not acknowledged it.
        let left: Vec<String> = entries(&server, "orders").into_iter().map(|(id, _)| id).collect();
        assert_eq!(left, all[2..]);
        // Another group's DELREF takes the reference away too: this shows nowhere.
        server.ask::<Vec<i32>>(&["XACKDEL", "orders", "other", "DELREF", "IDS", "1", &all[3]]);
        wait_published(&daemon, &subscriber, &all);
        assert!(daemon.route("stock").unwrap().acknowledged.unwrap().group_changes.is_empty());
    }
}
