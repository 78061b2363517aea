//! Promise: a message that cannot be appended goes to the dead letters with the reason, and every
//! other message is captured exactly once, in order.

use std::time::Duration;

use crate::support::{
    DeadLetter, LAST, Load, Oracle, Payloads, Published, Server, Setup, Version, alert, assert_exact,
    captured, captured_in_all, dead_letters, entries, eventually, gaps, wait_for_last,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn setup(source: &Server, destination: &Server, route: &str) -> Setup {
    Setup::between(source, destination)
        .routes(&format!(
            "[capture.orders]\nsource = \"shop\"\ndestination = \"events\"\nkeep = \"forever\"\n{route}"
        ))
        .expects(&[alert::DEAD_LETTER])
}

fn messages_of(letters: &[DeadLetter]) -> Vec<Published> {
    let message =
        |letter: &DeadLetter| Published { channel: letter.channel.clone(), payload: letter.payload.clone() };
    letters.iter().map(message).collect()
}

#[test]
fn one_of_several_streams_is_of_another_type() {
    for version in Version::DESTINATIONS {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(version);
        destination.ask::<()>(&["SET", "by:b", "not a stream"]);
        let daemon = setup(
            &source,
            &destination,
            "channels = [\"a\", \"b\", \"c\"]\nstream = \"by:<channel>\"\ninclude = [\"id\"]",
        )
        .start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(4, 9_000, &["a", "b", "c"]).payloads(Payloads::Unique));
        oracle.publish_last("a", &destination, "by:a", PATIENCE);

        let good = oracle.sequence_of(|channel| channel != b"b");
        assert_exact(&good, &captured_in_all(&destination, ["by:a", "by:c"]));
        let bad = oracle.sequence_of(|channel| channel == b"b");
        assert!(!bad.is_empty(), "some were to be refused");
        let letters = dead_letters(&destination, "orders");
        assert_eq!(messages_of(&letters), bad, "{version}");
        for letter in &letters {
            assert_eq!(letter.reason, "wrong_type", "{version}: {letter:?}");
        }
        assert_eq!(gaps(&destination, "orders"), [], "{version}");
        let ledger = daemon.wait_settled("orders", good.len() + bad.len());
        assert_eq!((ledger.stored, ledger.rejected), (good.len() as u64, bad.len() as u64), "{version}");
    }
}

#[test]
fn an_object_of_four_thousand_members() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = setup(&source, &destination, "channels = [\"a\"]\nstream = \"orders\"\nformat = \"fields\"")
        .start_ready();
    let oracle = Oracle::new(&source);
    let members: Vec<_> = (0..4_000).map(|n| format!("\"member{n}\":{n}")).collect();
    let large = format!("{{{}}}", members.join(","));
    oracle.publish(&Load::new(2, 500, &["a"]).payloads(Payloads::Json));
    oracle.publish_one(b"a", large.as_bytes());
    oracle.publish_one(b"a", b"no object");
    oracle.publish(&Load::new(2, 500, &["a"]).payloads(Payloads::Json));
    oracle.publish_one(b"a", br#"{"last":"the last message"}"#);
    wait_for_last(&destination, "orders", LAST, PATIENCE);

    let letters = dead_letters(&destination, "orders");
    let reasons: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(reasons, ["too_many_fields", "not_json_object"]);
    assert_eq!(letters[0].size, Some(large.len()));
    assert_eq!(letters[1].payload, b"no object");

    // Objects become fields, in their order, and come back as they were.
    let seen: Vec<_> = entries(&destination, "orders")
        .into_iter()
        .map(|(_, fields)| {
            fields.into_iter().map(|(name, value)| [name, value].map(|b| String::from_utf8(b).unwrap()))
        })
        .map(|fields| fields.collect::<Vec<_>>())
        .collect();
    let published = oracle.sequence();
    let good: Vec<_> = published
        .iter()
        .filter(|message| message.payload.starts_with(b"{") && message.payload.len() < 1_000)
        .map(|message| {
            serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&message.payload).unwrap()
        })
        .map(|object| {
            let text =
                |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            object.into_iter().map(|(name, value)| [name, text(value)]).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(good.len(), 1_001);
    assert_eq!(seen, good);
    assert_eq!(gaps(&destination, "orders"), []);
    assert_eq!(daemon.wait_settled("orders", oracle.sequence().len()).rejected, 2);
}

#[test]
fn a_message_over_the_size_limit() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon =
        setup(&source, &destination, "channels = [\"a\"]\nstream = \"orders\"\nmax_message_size = \"64KiB\"")
            .start_ready();
    let oracle = Oracle::new(&source);
    let just_fits = vec![b'f'; 64 * 1024];
    let over: Vec<u8> = (0..=64 * 1024).map(|n: u32| n.to_le_bytes()[0]).collect();
    // Redis itself drops a subscriber for whom more than 32 MB wait.
    let far_over: Vec<u8> = (0..20 * 1024 * 1024).map(|n: u32| n.to_le_bytes()[1]).collect();
    for payload in [&b"before"[..], &just_fits, &over, b"between", &far_over, LAST] {
        oracle.publish_one(b"a", payload);
    }
    wait_for_last(&destination, "orders", LAST, PATIENCE);

    let fitting: Vec<_> =
        oracle.sequence().into_iter().filter(|message| message.payload.len() <= 64 * 1024).collect();
    assert_eq!(fitting.len(), 4);
    assert_exact(&fitting, &captured(&destination, "orders"));
    let letters = dead_letters(&destination, "orders");
    assert_eq!(letters.len(), 2);
    for (letter, payload) in letters.iter().zip([&over, &far_over]) {
        assert_eq!((letter.reason.as_str(), letter.size), ("too_large", Some(payload.len())));
        assert!(!letter.payload.is_empty() && letter.payload.len() < payload.len(), "only the first bytes");
        assert!(payload.starts_with(&letter.payload));
    }
    assert_eq!(gaps(&destination, "orders"), []);
    assert_eq!(daemon.wait_settled("orders", oracle.sequence().len()).rejected, 2);
}

#[test]
fn more_streams_than_the_route_may_make() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(
        &source,
        &destination,
        "patterns = [\"*\"]\nstream = \"by:<channel>\"\nmax_streams = 3\ninclude = [\"id\"]",
    )
    .expects(&[alert::GAP])
    .start_ready();
    let oracle = Oracle::new(&source);
    let channels = ["a", "b", "c", "d", "e"];
    for channel in channels {
        oracle.publish_one(channel.as_bytes(), b"the first of its channel");
    }
    oracle.publish(&Load::new(2, 5_000, &channels));
    oracle.publish_last("a", &destination, "by:a", PATIENCE);

    // The first three channels got their streams.
    let within = |channel: &[u8]| channel < b"d".as_slice();
    assert_exact(&oracle.sequence_of(within), &captured_in_all(&destination, ["by:a", "by:b", "by:c"]));
    let letters = dead_letters(&destination, "orders");
    assert_eq!(messages_of(&letters), oracle.sequence_of(|channel| !within(channel)));
    assert!(letters.iter().all(|letter| letter.reason == "too_many_streams"));
    for stream in ["by:d", "by:e"] {
        assert_eq!(destination.ask::<usize>(&["EXISTS", stream]), 0, "{stream}");
    }

    // The limit is the route's, not the process's: another start does not forget the three.
    assert_eq!(daemon.stop().code(), Some(0));
    daemon.start_again();
    daemon.wait_ready();
    oracle.publish_one(b"e", b"still one too many");
    oracle.publish_one(b"a", b"after the restart");
    wait_for_last(&destination, "by:a", b"after the restart", PATIENCE);
    eventually("it is a dead letter again", PATIENCE, || {
        let letters = dead_letters(&destination, "orders");
        let last = letters.last().map(|letter| letter.payload.clone());
        if last.as_deref() == Some(b"still one too many") { Ok(()) } else { Err(format!("{last:?}")) }
    });
}
