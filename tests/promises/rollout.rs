//! Promise: of two instances with different configurations the one with the older configuration deletes nothing.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Load, Oracle, Server, Setup, Version, assert_exact, captured, eventually, gaps, wait_for_last,
};

const LAST: &[u8] = b"the last message";
const PATIENCE: Duration = Duration::from_secs(60);

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
    let older = Setup::new()
        .endpoint("shop", &source)
        .endpoint("events", &destination)
        .routes(&format!("{}{}", route("orders", age), route("mark", age)))
        .expects(&[&["superseded", "superseded_no_more"]])
        .start_ready();
    let mut newer = older.twin();
    newer.set_routes(&route("orders", "\"forever\""));
    newer.start_again();
    let oracle = Oracle::new(&source);
    // It takes over at a message.
    let load = oracle.start(&Load::new(1, usize::MAX / 2, &["orders"]).rate(500));
    newer.wait_leader("orders");
    older.wait_state("orders", RouteState::Superseded);
    load.stop();
    oracle.publish(&Load::new(2, MESSAGES, &["orders"]));
    oracle.publish_one(b"orders", LAST);
    wait_for_last(&destination, "orders", LAST, PATIENCE);
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
