//! Promise: while source and destination stay up, the stream is exactly what was published: every
//! byte, in order, nothing twice, and no gap is recorded where none was.

use std::time::Duration;

use crate::support::{
    Load, Options, Oracle, Server, Setup, Version, assert_exact, captured, captured_in_all, dead_letters,
    gaps,
};

/// Three channels; patterns that match other channels, one of the three again, and each other.
const SUBSCRIPTIONS: &str = r#"
channels = ["orders.placed", "orders.paid", "stock"]
patterns = ["orders.eu.*", "orders.eu.d?", "orders.p*"]
"#;

const CHANNELS: [&str; 7] =
    ["orders.placed", "orders.paid", "stock", "orders.eu.de", "orders.eu.fr", "orders.packed", "weather"];

fn exactly(source: &Server, destination: &Server, publishers: usize, messages: usize) {
    let daemon = Setup::between(source, destination)
        .routes(&format!(
            r#"
            [capture.orders]
            source = "shop"
            {SUBSCRIPTIONS}
            destination = "events"
            stream = "orders"
            groups = ["inventory", "catalog"]
            keep = "forever"
            include = ["id"]
            "#
        ))
        .start_ready();

    let oracle = Oracle::new(source);
    oracle.publish(&Load::new(publishers, messages, &CHANNELS));
    oracle.publish_last("stock", destination, "orders", Duration::from_secs(120));

    let expected = oracle.sequence_of(|channel| channel != b"weather");
    assert!(
        expected.len() > messages / 2 && expected.len() < messages,
        "some are subscribed and some are not"
    );
    let stream = captured(destination, "orders");
    assert_exact(&expected, &stream);
    for entry in &stream {
        let subscribed = ["orders.placed", "orders.paid", "stock"].map(str::as_bytes);
        if subscribed.contains(&entry.message.channel.as_slice()) {
            assert_eq!(entry.pattern, None, "a channel's own subscription comes first: {entry:?}");
        } else {
            assert!(entry.pattern.is_some(), "only a pattern matched: {entry:?}");
        }
    }
    assert_eq!(gaps(destination, "orders"), []);
    assert_eq!(dead_letters(destination, "orders"), []);

    let ledger = daemon.wait_settled("orders", expected.len());
    assert_eq!((ledger.stored, ledger.rejected), (expected.len() as u64, 0), "{ledger:?}");
}

#[test]
fn two_hundred_thousand_at_full_speed() {
    let source = Server::with(Version::Redis70, Options::default().tcp());
    let destination = Server::with(Version::Redis70, Options::default().tcp());
    exactly(&source, &destination, 8, 200_000);
}

#[test]
fn from_every_source() {
    for version in Version::SOURCES {
        exactly(&Server::start(version), &Server::start(Version::Redis70), 4, 10_000);
    }
}

#[test]
fn into_every_destination() {
    for version in Version::DESTINATIONS {
        exactly(&Server::start(Version::Redis70), &Server::start(version), 4, 10_000);
    }
}

#[test]
fn on_one_server_that_is_both() {
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        exactly(&server, &server, 4, 10_000);
    }
}

#[test]
fn into_a_stream_per_channel() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = Setup::between(&source, &destination)
        .routes(
            r#"
            [capture.orders]
            source = "shop"
            patterns = ["orders.*.*"]
            destination = "events"
            stream = "{orders}:<2>:<1>"
            keep = "forever"
            include = ["id"]
            "#,
        )
        .start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(4, 10_000, &["orders.eu.paid", "orders.eu.placed", "orders.us.paid"]));
    oracle.publish_last("orders.us.placed", &destination, "{orders}:placed:us", Duration::from_secs(60));

    let streams = ["{orders}:paid:eu", "{orders}:placed:eu", "{orders}:paid:us", "{orders}:placed:us"];
    assert_exact(&oracle.sequence(), &captured_in_all(&destination, streams));
    assert_eq!(captured(&destination, "{orders}:placed:us").len(), 1);
    assert_eq!(gaps(&destination, "orders"), []);
    daemon.wait_settled("orders", oracle.sequence().len());
}

#[test]
fn channels_of_any_bytes() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let _daemon = Setup::between(&source, &destination)
        .routes(
            r#"
            [capture.all]
            source = "shop"
            patterns = ["*"]
            destination = "events"
            stream = "all"
            keep = "forever"
            "#,
        )
        .start_ready();
    let oracle = Oracle::new(&source);
    // The empty channel is left out: on a real server `*` does not match it.
    for channel in [&b"\xff\xfe\r\n"[..], b" ", b"$-1\r\n", "h\u{e9}".as_bytes(), b"tidegate:controls"] {
        oracle.publish_one(channel, b"");
        oracle.publish_one(channel, b"\r\n\0\xff");
    }
    oracle.publish_last("last", &destination, "all", Duration::from_secs(30));
    assert_exact(&oracle.sequence(), &captured(&destination, "all"));
}

/// A service exists that refuses a command of more than 3,999 arguments.
#[test]
fn more_channels_than_one_command_may_name() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let channels: Vec<String> = (0..4_000).map(|number| format!("orders.{number}")).collect();
    let _daemon = Setup::between(&source, &destination)
        .routes(&format!(
            "[capture.orders]\nsource = \"shop\"\nchannels = {channels:?}\ndestination = \"events\"\n\
             stream = \"orders\"\nkeep = \"forever\"\n"
        ))
        .start_ready();
    assert_eq!(source.calls("subscribe"), 2 * source.calls("multi"), "two commands for each session");
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(2, 1_000, &["orders.0", "orders.3999"]));
    oracle.publish_last("orders.2000", &destination, "orders", Duration::from_secs(30));
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
}
