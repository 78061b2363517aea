//! Promise: two servers are bridged both ways without an echo, where the messages carry an origin. A loop that no
//! configuration shows as a whole ends where it began.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Daemon, Server, Setup, Subscriber, Version, alert, entries, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// One direction: a capture of one server, and a broadcast on the other. The stream is on the first.
fn direction(from: &str, to: &str, captured: &str, published: &str) -> String {
    format!(
        r#"
        [capture.of-{from}]
        source = "{from}"
        channels = ["orders"]
        destination = "{from}"
        stream = "bridge-{from}"
        keep = "forever"
        {captured}

        [broadcast.on-{to}]
        source = "{from}"
        stream = "bridge-{from}"
        destination = "{to}"
        channel = "orders"
        {published}
        "#
    )
}

const ORIGIN: &str = "origin = \"bridge\"";

struct Sides {
    // Dropped before the servers, whose end they would tell of.
    heard_a: Subscriber,
    heard_b: Subscriber,
    a: Server,
    b: Server,
}

impl Sides {
    fn start() -> Self {
        let (a, b) = (Server::start(Version::Redis82), Server::start(Version::Valkey91));
        let (heard_a, heard_b) = (Subscriber::start(&a, &["orders"]), Subscriber::start(&b, &["orders"]));
        Self { heard_a, heard_b, a, b }
    }

    fn daemon(&self, routes: &str) -> Daemon {
        self.named_daemon(["a", "b"], routes)
    }

    /// A further daemon has users of its own, which are named after its endpoints.
    fn named_daemon(&self, [a, b]: [&str; 2], routes: &str) -> Daemon {
        let setup = Setup::new().endpoint(a, &self.a).endpoint(b, &self.b).routes(routes);
        setup.expects(&[alert::DESTINATION]).start_ready()
    }

    /// Publishes numbered messages on both sides in turn.
    fn publish(&self, messages: u64) {
        for n in 0..messages {
            for (side, server) in [("a", &self.a), ("b", &self.b)] {
                server.ask::<u64>(&["PUBLISH", "orders", &format!(r#"{{"side":"{side}","n":{n}}}"#)]);
            }
        }
    }
}

/// The side and the number of each message, and whether it carries an origin.
fn numbered(subscriber: &Subscriber) -> Vec<(String, u64, bool)> {
    let read = |payload: String| {
        let message: Value = serde_json::from_str(&payload).expect("it is JSON");
        let side = message["side"].as_str().expect("it has a side").to_owned();
        let origin = message.get("tidegateorigin").map(|origin| assert_eq!(origin, "bridge"));
        (side, message["n"].as_u64().expect("it has a number"), origin.is_some())
    };
    subscriber.payloads().into_iter().map(read).collect()
}

/// Waits until a capture has left out as many as were published on its side by the bridge.
#[track_caller]
fn wait_filtered(daemon: &Daemon, route: &str, messages: u64) {
    eventually(&format!("{route} has left out every echo"), PATIENCE, || {
        let status = daemon.route(route)?;
        let counts = status.counts.clone().ok_or("no capture")?;
        if counts.filtered == messages { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

/// Each side hears each message once, its own as they were published and the others with the mark.
#[track_caller]
fn assert_no_echo(sides: &Sides, messages: u64) {
    for (own, other, subscriber) in [("a", "b", &sides.heard_a), ("b", "a", &sides.heard_b)] {
        let heard = numbered(subscriber);
        for (side, marked) in [(own, false), (other, true)] {
            let found: Vec<u64> = heard
                .iter()
                .filter(|message| message.0 == side && message.2 == marked)
                .map(|m| m.1)
                .collect();
            assert!(found.iter().copied().eq(0..messages), "{own} heard of {side}: {found:?}");
        }
        assert_eq!(heard.len() as u64, 2 * messages, "{own} heard nothing else");
    }
}

#[test]
fn both_ways_in_one_daemon_without_an_echo() {
    const MESSAGES: u64 = 500;
    let sides = Sides::start();
    let both = direction("a", "b", ORIGIN, ORIGIN) + &direction("b", "a", ORIGIN, ORIGIN);
    let daemon = sides.daemon(&both);
    sides.publish(MESSAGES);
    // An echo would have to pass here.
    wait_filtered(&daemon, "of-a", MESSAGES);
    wait_filtered(&daemon, "of-b", MESSAGES);
    assert_no_echo(&sides, MESSAGES);
    for (server, stream) in [(&sides.a, "bridge-a"), (&sides.b, "bridge-b")] {
        assert_eq!(entries(server, stream).len() as u64, MESSAGES, "nothing but its own is stored");
    }
}

#[test]
fn both_ways_by_two_daemons_without_an_echo() {
    const MESSAGES: u64 = 500;
    let sides = Sides::start();
    let there = sides.daemon(&direction("a", "b", ORIGIN, ORIGIN));
    let back = sides.named_daemon(["aa", "bb"], &direction("bb", "aa", ORIGIN, ORIGIN));
    sides.publish(MESSAGES);
    wait_filtered(&there, "of-a", MESSAGES);
    wait_filtered(&back, "of-bb", MESSAGES);
    assert_no_echo(&sides, MESSAGES);
}

#[test]
fn a_loop_through_another_daemon_ends_where_it_began() {
    const MESSAGES: u64 = 200;
    let sides = Sides::start();
    // Only the way there knows of an origin, and its capture takes everything.
    let there = sides.daemon(&direction("a", "b", "", ORIGIN));
    let _back = sides.named_daemon(["aa", "bb"], &direction("bb", "aa", "", ""));
    for n in 0..MESSAGES {
        sides.a.ask::<u64>(&["PUBLISH", "orders", &format!(r#"{{"side":"a","n":{n}}}"#)]);
    }
    eventually("every echo has come back once, and was left out", PATIENCE, || {
        let status = there.route("on-b")?;
        let counts = status.broadcast.clone().ok_or("no broadcast")?;
        let done = (counts.published, counts.filtered) == (MESSAGES, MESSAGES);
        if done { Ok(()) } else { Err(format!("{status:?}")) }
    });
    let marked = |marked: bool| numbered(&sides.heard_a).iter().filter(|message| message.2 == marked).count();
    assert_eq!((marked(false), marked(true)), (200, 200), "once, and its echo once");
    assert_eq!(numbered(&sides.heard_b).len(), 200);
}

#[test]
fn a_message_that_cannot_carry_an_origin_becomes_a_dead_letter_and_an_envelope_always_can() {
    let sides = Sides::start();
    let daemon = sides.daemon(&direction("a", "b", ORIGIN, ORIGIN));
    for payload in ["plain", r#"{"side":"a","n":0}"#, "[1]"] {
        sides.a.ask::<u64>(&["PUBLISH", "orders", payload]);
    }
    eventually("each is dealt with", PATIENCE, || {
        let counts = daemon.route("on-b")?.broadcast.ok_or("no broadcast")?;
        if (counts.published, counts.rejected) == (1, 2) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    assert_eq!(numbered(&sides.heard_b), [("a".to_owned(), 0, true)]);
    let letters = entries(&sides.a, "tidegate:on-b:dead-letters");
    let reasons: BTreeSet<Vec<u8>> = letters
        .into_iter()
        .flat_map(|(_, fields)| fields)
        .filter(|(name, _)| name == b"reason")
        .map(|(_, reason)| reason)
        .collect();
    assert_eq!(reasons, BTreeSet::from([b"origin".to_vec()]));
    drop(daemon);

    // Another daemon, with routes and a stream of its own.
    let envelope = format!("{ORIGIN}\nenvelope = \"json\"");
    let daemon = sides.named_daemon(["aa", "bb"], &direction("aa", "bb", ORIGIN, &envelope));
    sides.a.ask::<u64>(&["PUBLISH", "orders", "plain"]);
    let heard = eventually("the envelope is heard", PATIENCE, || match &sides.heard_b.payloads()[1..] {
        [message] => Ok(message.clone()),
        messages => Err(format!("{messages:?}")),
    });
    let message: Value = serde_json::from_str(&heard).expect("it is JSON");
    assert_eq!(
        (&message["tidegateorigin"], &message["fields"]["payload"]),
        (&"bridge".into(), &"plain".into())
    );
    drop(daemon);
}
