//! Promise: a broadcast from every stream that matches a pattern does for each of them what it does for one: exactly
//! once on one server, in order. Streams are found while it runs, and none holds up another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegate::status::{RouteState, RouteStatus};

use super::options::placements;
use crate::support::{Daemon, Server, Setup, Subscriber, Version, alert, entries, eventually};

pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A route with the line that says what it reads, and more TOML lines.
pub(super) fn route(reads: &str, destination: &str, lines: &str) -> String {
    format!(
        r#"
        [broadcast.queues]
        source = "events"
        {reads}
        destination = "{destination}"
        channel = "queue"
        message = "<stream> <id>"
        {lines}
        "#
    )
}

/// A route of every stream of a queue, with more TOML lines.
pub(super) fn setup(events: &Server, shop: Option<&Server>, lines: &str) -> Setup {
    let route = |destination: &str| route("streams = \"bull:*:events\"", destination, lines);
    let setup = Setup::new().endpoint("events", events);
    match shop {
        None => setup.routes(&route("events")),
        Some(shop) => setup.endpoint("shop", shop).routes(&route("shop")),
    }
}

pub(super) fn stream(queue: &str) -> String {
    format!("bull:{queue}:events")
}

/// Adds entries to the stream of each queue in turn.
pub(super) fn add(events: &Server, queues: &[&str], each: usize) {
    let mut connection = events.connection();
    let mut pipeline = redis::pipe();
    for _ in 0..each {
        for queue in queues {
            pipeline.cmd("XADD").arg(&[&stream(queue), "*", "payload", "x"]).ignore();
        }
    }
    pipeline.exec(&mut connection).expect("the server takes entries");
}

/// The ids of a queue's stream.
pub(super) fn ids(events: &Server, queue: &str) -> Vec<String> {
    entries(events, &stream(queue)).into_iter().map(|(id, _)| id).collect()
}

/// What was heard, by queue.
pub(super) fn heard(subscriber: &Subscriber) -> BTreeMap<String, Vec<String>> {
    let mut heard: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in subscriber.payloads() {
        let (stream, id) = message.split_once(' ').expect("a stream and an id");
        let queue = stream.strip_prefix("bull:").and_then(|rest| rest.strip_suffix(":events"));
        heard.entry(queue.expect("a queue's stream").to_owned()).or_default().push(id.to_owned());
    }
    heard
}

/// Waits until the last entry of each queue is heard, and gives all that was.
#[track_caller]
pub(super) fn wait_last(
    events: &Server,
    subscriber: &Subscriber,
    queues: &[&str],
) -> BTreeMap<String, Vec<String>> {
    for queue in queues {
        let last = ids(events, queue).pop().expect("there are entries");
        eventually(&format!("the last entry of {queue} is heard"), PATIENCE, || {
            let heard = heard(subscriber).remove(*queue).unwrap_or_default();
            if heard.contains(&last) { Ok(()) } else { Err(format!("{} heard", heard.len())) }
        });
    }
    heard(subscriber)
}

#[track_caller]
pub(super) fn wait_route(daemon: &Daemon, what: &str, done: impl Fn(&RouteStatus) -> bool) -> RouteStatus {
    eventually(what, PATIENCE, || {
        let status = daemon.route("queues")?;
        if done(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
}

#[track_caller]
pub(super) fn wait_read(daemon: &Daemon, expected: &[&str]) -> RouteStatus {
    let expected: BTreeSet<String> = expected.iter().map(|queue| stream(queue)).collect();
    wait_route(daemon, "these streams are read", |status| {
        let read = status.streams.iter().flat_map(|streams| &streams.streams);
        let read: BTreeSet<String> = read.map(|stream| stream.stream.clone()).collect();
        status.state == RouteState::Live && read == expected
    })
}

#[test]
fn streams_are_found_while_it_runs_and_killed_under_load_each_entry_is_published_once() {
    const EACH: usize = 2_000;
    for (events, second) in placements(Version::Redis82) {
        let shop = second.as_ref().unwrap_or(&events);
        let subscriber = Subscriber::start(shop, &["queue"]);
        let mut queues = vec!["a", "b"];
        add(&events, &queues, EACH);
        let setup = setup(&events, second.as_ref(), "start = \"beginning\"");
        let mut daemon = setup.expects(&[alert::DESTINATION]).start_ready();
        for new in ["c", "d", "e"] {
            queues.push(new);
            add(&events, &queues, EACH);
            eventually("the new stream is published", PATIENCE, || {
                let count = heard(&subscriber).get(new).map_or(0, Vec::len);
                if count > EACH / 4 { Ok(()) } else { Err(format!("{count} heard")) }
            });
            daemon.restart();
        }
        add(&events, &queues, 1);
        let found = wait_last(&events, &subscriber, &queues);
        for queue in &queues {
            let (mut heard, expected) = (found[*queue].clone(), ids(&events, queue));
            if second.is_some() {
                let mut seen = BTreeSet::new();
                heard.retain(|id| seen.insert(id.clone()));
            }
            assert!(
                heard == expected,
                "{queue}: {} heard of {}, each once, in order",
                heard.len(),
                expected.len()
            );
        }
        let status = wait_read(&daemon, &queues);
        let total: usize = queues.iter().map(|queue| ids(&events, queue).len()).sum();
        let published = status.broadcast.expect("it is a broadcast").published;
        assert!(published == total as u64 || second.is_some(), "{published} of {total}");
        assert_eq!(daemon.metric("queues", "tidegate_broadcast_streams"), queues.len() as u64);
        // Each has a cursor of its own, where its stream ends.
        for queue in &queues {
            let cursor: String =
                events.ask(&["HGET", &format!("tidegate:queues:cursor:{}", stream(queue)), "pos"]);
            assert_eq!(Some(cursor), ids(&events, queue).pop());
        }
    }
}

#[test]
fn start_counts_for_streams_of_the_first_look_and_a_later_one_is_read_from_its_first_entry_on() {
    let events = Server::start(Version::Redis70);
    let subscriber = Subscriber::start(&events, &["queue"]);
    add(&events, &["old"], 10);
    let before = ids(&events, "old");
    let mut daemon = setup(&events, None, "start = \"end\"").start_ready();
    add(&events, &["new"], 10);
    wait_last(&events, &subscriber, &["new"]);
    assert!(daemon.stop().success());
    // Ids that say nothing of the time.
    events.ask::<String>(&["XADD", &stream("while-away"), "1-1", "payload", "x"]);
    add(&events, &["old"], 10);
    daemon.start_again();
    let heard = wait_last(&events, &subscriber, &["old", "new", "while-away"]);
    assert_eq!(heard["old"], ids(&events, "old")[before.len()..]);
    assert_eq!((&heard["new"], heard["while-away"].len()), (&ids(&events, "new"), 1));
}

#[test]
fn a_stream_that_is_gone_makes_room_and_one_that_begins_anew_is_new() {
    let events = Server::start(Version::Valkey91);
    let subscriber = Subscriber::start(&events, &["queue"]);
    add(&events, &["a", "b", "c"], 5);
    let setup = setup(&events, None, "start = \"beginning\"\nmax_streams = 2");
    let daemon = setup.expects(&[alert::LEFT_OUT]).start_ready();
    let status = wait_read(&daemon, &["a", "b"]);
    let reason = wait_route(&daemon, "what is left out is told", |status| status.reason.is_some()).reason;
    let reason = reason.expect("it was waited for");
    assert!(
        reason.contains("are not published: about 1;") && reason.contains("max_streams is 2"),
        "{reason}"
    );
    assert_eq!(status.streams.expect("there are several").max_streams, 2);
    assert_eq!(daemon.metric("queues", "tidegate_broadcast_streams_left_out"), 1);
    wait_last(&events, &subscriber, &["a", "b"]);

    events.ask::<u32>(&["DEL", &stream("a")]);
    let heard = wait_last(&events, &subscriber, &["c"]);
    assert_eq!(heard["c"], ids(&events, "c"));
    wait_read(&daemon, &["b", "c"]);
    // Nothing is left of it but what it counted.
    let left: Vec<String> = events.ask(&["KEYS", "tidegate:queues:*:bull:a:*"]);
    assert!(left.is_empty(), "{left:?}");
    wait_route(&daemon, "what was published stays counted", |status| {
        status.broadcast.as_ref().is_some_and(|counts| counts.published == 15)
    });

    events.ask::<u32>(&["DEL", &stream("b")]);
    wait_read(&daemon, &["c"]);
    eventually("it is forgotten", PATIENCE, || {
        match events.ask::<u32>(&["SCARD", "tidegate:queues:streams"]) {
            1 => Ok(()),
            count => Err(format!("{count} streams")),
        }
    });
    // Its ids are below those before.
    events.ask::<String>(&["XADD", &stream("b"), "1-1", "payload", "x"]);
    eventually("the stream that began anew is published", PATIENCE, || match subscriber.payloads().last() {
        Some(last) if *last == format!("{} 1-1", stream("b")) => Ok(()),
        last => Err(format!("{last:?}")),
    });
    wait_read(&daemon, &["b", "c"]);
}

#[test]
fn a_stream_that_waits_or_is_blocked_holds_up_no_other() {
    let events = Server::start(Version::Redis70);
    let subscriber = Subscriber::start(&events, &["queue"]);
    add(&events, &["unsaid"], 1_000);
    let daemon = setup(&events, None, "rate_limit = \"1/h\"").expects(&[alert::BLOCKED]).start();
    let status = daemon.wait_state("queues", RouteState::Blocked);
    let reason = status.reason.expect("it is blocked");
    assert!(reason.contains("1 of 1 streams, such as 'bull:unsaid:events'"), "{reason}");
    assert!(reason.contains("set start in [broadcast.queues]"), "{reason}");
    // The first of these takes all that the rate allows it.
    add(&events, &["many"], 1_000);
    wait_route(&daemon, "the rate holds one up", |status| {
        status.broadcast.as_ref().is_some_and(|counts| counts.published == 1 && counts.rate_limited)
    });
    add(&events, &["one"], 1);
    let heard = wait_last(&events, &subscriber, &["one"]);
    assert_eq!((heard["one"].len(), heard["many"].len()), (1, 1));
    assert!(!heard.contains_key("unsaid"));
    let status = daemon.wait_state("queues", RouteState::Blocked);
    assert!(status.reason.expect("it is blocked").contains("1 of 3 streams"));
}

#[test]
fn what_is_no_stream_or_tidegates_own_is_not_read() {
    let events = Server::start(Version::Redis82);
    let subscriber = Subscriber::start(&events, &["*"]);
    let daemon = Setup::new()
        .endpoint("events", &events)
        .routes(
            r#"
            [broadcast.all]
            source = "events"
            streams = "*"
            destination = "events"
            channel = "<stream>"
            message = "<field:payload>"
            start = "beginning"
            "#,
        )
        .expects(&[alert::LEFT_OUT])
        .start_ready();
    for name in ["string", "stream", "other"] {
        if name == "string" {
            events.ask::<()>(&["SET", name, "x"]);
        } else {
            events.ask::<String>(&["XADD", name, "*", "payload", name]);
        }
    }
    // It becomes a dead letter, which is an entry of a stream too.
    events.ask::<String>(&["XADD", "other", "*", "none", "x"]);
    let mut connection = events.connection();
    let mut odd = redis::cmd("XADD");
    odd.arg(b"not\xffutf8").arg(&["*", "payload", "x"]).exec(&mut connection).expect("any bytes are a name");
    eventually("the letter is written, and the odd name told", PATIENCE, || {
        let status = daemon.route("all")?;
        let counts = status.broadcast.clone().ok_or("no broadcast")?;
        let reason = status.reason.clone().unwrap_or_default();
        let done = counts.rejected == 1 && counts.published == 2 && reason.contains("UTF-8");
        if done { Ok(()) } else { Err(format!("{status:?}")) }
    });
    let heard: BTreeSet<String> = subscriber.payloads().into_iter().collect();
    assert_eq!(heard, BTreeSet::from(["stream".to_owned(), "other".to_owned()]));
    let read: BTreeSet<String> = events.ask(&["SMEMBERS", "tidegate:all:streams"]);
    assert_eq!(read, BTreeSet::from(["stream".to_owned(), "other".to_owned()]));
    // The letter names the stream of its entry, and is published once the entry can be.
    let operator = daemon.operator(&[]);
    let requeued = operator.run_command(&["dead-letters", "requeue", "all", "--all", "--yes"]);
    let said = String::from_utf8_lossy(&[requeued.stdout, requeued.stderr].concat()).into_owned();
    assert!(said.contains("the configuration still rejects it"), "{said}");
}

#[test]
fn while_nothing_can_be_looked_for_the_known_streams_go_on() {
    let events = Server::start(Version::Redis70);
    let subscriber = Subscriber::start(&events, &["queue"]);
    add(&events, &["known"], 5);
    let mut daemon = setup(&events, None, "start = \"beginning\"").expects(&[alert::BLOCKED]).start_ready();
    wait_last(&events, &subscriber, &["known"]);
    events.ask::<()>(&["ACL", "SETUSER", "tidegate-events", "-scan"]);
    daemon.restart();
    let status = daemon.wait_state("queues", RouteState::Blocked);
    let reason = status.reason.expect("it is blocked");
    assert!(reason.contains("cannot look for streams") && reason.contains("NOPERM"), "{reason}");
    add(&events, &["known"], 5);
    let heard = wait_last(&events, &subscriber, &["known"]);
    assert_eq!(heard["known"], ids(&events, "known"));
}

#[test]
fn without_a_stream_the_route_is_ready_while_both_servers_answer() {
    for (events, second) in placements(Version::Valkey80) {
        let daemon = setup(&events, second.as_ref(), "").expects(&[alert::DESTINATION]).start_ready();
        let answered = |after: u64| {
            wait_route(&daemon, "both servers answer again", |status| {
                [&status.source, &status.destination]
                    .into_iter()
                    .all(|side| side.connected && side.last_answer_unix_ms.is_some_and(|at| at > after))
            })
        };
        let before = answered(0);
        let last = [before.source, before.destination].map(|side| side.last_answer_unix_ms);
        answered(last.into_iter().flatten().max().expect("they have answered"));
        daemon.wait_route_ready("queues");
        let Some(mut shop) = second else { continue };
        shop.kill();
        eventually("it is not ready", PATIENCE, || match daemon.get("/readyz") {
            Ok((503, body)) if body.contains("destination shop: ") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        shop.start_again();
        daemon.wait_route_ready("queues");
    }
}

#[test]
fn a_foreign_member_of_the_set_costs_only_itself() {
    let events = Server::start(Version::Valkey80);
    let subscriber = Subscriber::start(&events, &["queue"]);
    add(&events, &["a"], 5);
    let mut daemon = setup(&events, None, "start = \"beginning\"").start_ready();
    wait_last(&events, &subscriber, &["a"]);
    assert!(daemon.stop().success());
    let mut connection = events.connection();
    let mut members = redis::cmd("SADD");
    members.arg("tidegate:queues:streams").arg(b"bull:\xff:events").arg(&["", "other"]);
    members.exec(&mut connection).expect("any bytes are a member");
    add(&events, &["a", "b"], 5);
    daemon.start_again();
    let heard = wait_last(&events, &subscriber, &["a", "b"]);
    assert_eq!((&heard["a"], &heard["b"]), (&ids(&events, "a"), &ids(&events, "b")));
    let left: BTreeSet<String> = events.ask(&["SMEMBERS", "tidegate:queues:streams"]);
    assert_eq!(left, BTreeSet::from([stream("a"), stream("b")]));
}

#[test]
fn a_server_that_is_too_old_blocks_the_route_in_words() {
    let events = Server::start(Version::Redis62);
    let daemon = setup(&events, None, "start = \"end\"").expects(&[alert::BLOCKED]).start();
    let reason = daemon.wait_state("queues", RouteState::Blocked).reason.expect("it is blocked");
    assert!(reason.contains("a server with streams must be Redis 7.0 or newer"), "{reason}");
}

/// What other streams have published stays in the route's totals, though the route reads them no more.
#[test]
fn a_total_does_not_fall_when_fewer_streams_are_read() {
    for (events, second) in placements(Version::Redis82) {
        let queues = ["a", "b", "c"];
        add(&events, &queues, 10);
        let setup = setup(&events, second.as_ref(), "start = \"beginning\"\nmax_streams = 3");
        let mut daemon = setup.expects(&[alert::LEFT_OUT]).start_ready();
        let published = |status: &RouteStatus| status.broadcast.as_ref().map(|counts| counts.published);
        wait_route(&daemon, "everything is published", |status| published(status) == Some(30));
        let destination = if second.is_some() { "shop" } else { "events" };
        let lines = "start = \"beginning\"\nmax_streams = 1";
        daemon.reload(&route("streams = \"bull:*:events\"", destination, lines));
        let least = std::cell::Cell::new(u64::MAX);
        wait_route(&daemon, "one stream is read", |status| {
            // A route that has not looked yet knows no total.
            let looked = status.streams.as_ref().is_some_and(|streams| streams.read > 0);
            least.set(least.get().min(published(status).filter(|_| looked).unwrap_or(u64::MAX)));
            let streams = status.streams.as_ref().map(|streams| (streams.read, streams.left_out));
            status.state == RouteState::Live && streams == Some((1, 2))
        });
        assert_eq!(least.get(), 30);
        add(&events, &["a"], 1);
        wait_route(&daemon, "and it counts on", |status| published(status) == Some(31));
        // Another one takes the place of the one that is gone.
        events.ask::<u32>(&["DEL", &stream("a")]);
        wait_read(&daemon, &["b"]);
        add(&events, &["b"], 1);
        wait_route(&daemon, "the total has all three", |status| published(status) == Some(32));
    }
}
