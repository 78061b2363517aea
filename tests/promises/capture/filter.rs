//! Promise: with a filter, the stream is exactly those of the published messages that it wants, in
//! order, and each of the others is counted: received = appended + filtered + rejected, also across
//! restarts. A reload may change the filter, at one point of the sequence and not around it.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    LAST as LAST_TEXT, Load, Options, Oracle, Payloads, Published, Server, Setup, Version, alert,
    assert_exact, captured, dead_letters, eventually, gaps, wait_for_last,
};

const LAST: &[u8] = br#"{"publisher":1,"text":"a","last":0}"#;
const PATIENCE: Duration = Duration::from_secs(60);

fn routes(conditions: &str) -> String {
    format!(
        r#"
        [capture.orders]
        source = "shop"
        patterns = ["*"]
        where = [{conditions}]
        destination = "events"
        stream = "orders"
        keep = "forever"
        include = ["id"]
        max_message_size = "16KiB"
        "#
    )
}

fn setup(source: &Server, destination: &Server, conditions: &str) -> Setup {
    Setup::between(source, destination).routes(&routes(conditions))
}

/// The publisher that a JSON payload names.
fn publisher(message: &Published) -> Option<u64> {
    serde_json::from_slice::<Value>(&message.payload).ok()?.get("publisher")?.as_u64()
}

fn wanted(message: &Published) -> bool {
    message.channel.starts_with(b"orders.") && matches!(publisher(message), Some(1 | 3))
}

#[test]
fn only_the_wanted_messages_and_the_others_are_counted() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(
        &source,
        &destination,
        r#"{ channel = true, prefix = "orders." }, { field = "publisher", in = [1, 3] },
           { pointer = "/text", prefix = "a" }, { pointer = "/text/b", exists = false }"#,
    )
    .expects(&[alert::GAP, alert::DEAD_LETTER])
    .start_ready();
    let oracle = Oracle::new(&source);
    let channels = ["orders.placed", "orders.paid", "stock"];
    let large = vec![b'x'; 16 * 1024 + 1];
    let mut filtered_before = 0;
    for round in 0..3 {
        oracle.publish(&Load::new(4, 8_000, &channels).payloads(Payloads::Json));
        oracle.publish(&Load::new(2, 2_000, &channels));
        oracle.publish_one(b"stock", &large);
        oracle.publish_one(b"orders.paid", LAST);

        let published = oracle.sequence();
        let ledger = daemon.wait_settled("orders", published.len());
        let (expected, others): (Vec<_>, Vec<_>) = published.into_iter().partition(wanted);
        assert!(expected.len() > 2_000 * (round + 1), "only {} are wanted", expected.len());
        assert_exact(&expected, &captured(&destination, "orders"));
        let rejected = round as u64 + 1;
        assert_eq!(ledger.stored, expected.len() as u64);
        assert_eq!((ledger.rejected, ledger.deduplicated), (rejected, 0));
        assert_eq!(ledger.filtered, others.len() as u64 - rejected);
        let reasons: Vec<_> =
            dead_letters(&destination, "orders").into_iter().map(|letter| letter.reason).collect();
        assert_eq!(reasons, vec!["too_large"; round + 1], "what is too large is not filtered");
        // The ledger continues where it was; a process counts its own.
        assert_eq!(
            daemon.metric("orders", "tidegate_events_filtered_total"),
            ledger.filtered - filtered_before
        );
        filtered_before = ledger.filtered;
        match round {
            0 => {
                assert_eq!(daemon.stop().code(), Some(0));
                daemon.start_again();
            }
            1 => daemon.restart(),
            _ => continue,
        }
        daemon.wait_ready();
    }
    // Nobody watched while it was away, and nothing was published then.
    assert_eq!(gaps(&destination, "orders").len(), 2);
}

#[test]
fn a_filter_that_wants_nothing_keeps_up_all_the_same() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon =
        setup(&source, &destination, r#"{ channel = true, equals = "never published" }"#).start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(4, 20_000, &["a", "b"]));
    let ledger = daemon.wait_settled("orders", 20_000);
    assert_eq!((ledger.filtered, ledger.stored), (20_000, 0));
    assert_eq!(destination.ask::<usize>(&["EXISTS", "orders"]), 0);
}

#[test]
fn plain_text_is_filtered_by_its_beginning_and_by_what_it_is_not() {
    const SAME: &[u8] = b"the same message again";
    for mode in ["subscribe", "replication"] {
        let source = Server::with(Version::Redis70, Options::replication_source());
        let destination = Server::start(Version::Redis70);
        let conditions = r#"{ channel = true, equals = "stock", not = true },
            { payload = true, prefix = "the " }, { payload = true, in = ["the other", "the same message again"], not = true }"#;
        let text = routes(conditions).replace("keep =", &format!("mode = \"{mode}\"\n        keep ="));
        let daemon = Setup::between(&source, &destination).routes(&text).start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(4, 4_000, &["orders", "stock"]));
        oracle.publish_one(b"orders", b"the other");
        oracle.publish_one(b"stock", LAST_TEXT);
        oracle.publish_one(b"orders", b"the \xff");
        oracle.publish_one(b"orders", b" the last message");
        oracle.publish_last("orders", &destination, "orders", PATIENCE);

        let published = oracle.sequence();
        let (expected, others): (Vec<_>, Vec<_>) = published.iter().cloned().partition(|message| {
            message.channel == b"orders" && {
                let payload = message.payload.as_slice();
                payload.starts_with(b"the ") && payload != b"the other" && payload != SAME
            }
        });
        assert_eq!(expected.len(), 2, "{mode}");
        assert!(others.iter().any(|message| message.payload == SAME), "{mode}");
        assert_exact(&expected, &captured(&destination, "orders"));
        let ledger = daemon.wait_settled("orders", published.len());
        assert_eq!((ledger.stored, ledger.filtered), (2, others.len() as u64), "{mode}");
    }
}

#[test]
fn a_reload_changes_it_at_one_point_of_the_sequence() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let of = |publisher: u64| format!("{{ field = \"publisher\", equals = {publisher} }}");
    let mut daemon = setup(&source, &destination, &of(0)).start_ready();
    let oracle = Oracle::new(&source);
    let load = Load::new(2, usize::MAX / 2, &["orders"]).payloads(Payloads::Json);
    let load = oracle.start(&load.rate(5_000));
    let count = |wanted: u64| {
        let stream = captured(&destination, "orders");
        stream.iter().filter(|entry| publisher(&entry.message) == Some(wanted)).count()
    };
    let grows = |wanted: u64| {
        eventually("messages of the publisher come", PATIENCE, || match count(wanted) {
            found if found > 500 => Ok(()),
            found => Err(format!("{found} of publisher {wanted}")),
        });
    };
    grows(0);
    daemon.reload(&routes(&of(1)));
    grows(1);
    load.stop();
    oracle.publish_one(b"orders", LAST);
    wait_for_last(&destination, "orders", LAST, PATIENCE);

    let published = oracle.sequence();
    let (first, second) = (count(0), count(1));
    // The point lies behind the last that the old filter let pass, before the first of the new one.
    let nth = |publisher_wanted: u64, number: usize| {
        let mut found =
            (0..published.len()).filter(|at| publisher(&published[*at]) == Some(publisher_wanted));
        found.nth(number).expect("what is captured was published")
    };
    let all_second = published.iter().filter(|message| publisher(message) == Some(1)).count();
    let (end, begin) = (nth(0, first - 1), nth(1, all_second - second));
    assert!(end < begin, "number {end} passed the old filter, number {begin} the new one");
    let mut expected: Vec<Published> = published[..=end].to_vec();
    expected.retain(|message| publisher(message) == Some(0));
    expected.extend(published[begin..].iter().filter(|message| publisher(message) == Some(1)).cloned());
    assert_exact(&expected, &captured(&destination, "orders"));
    // Between the two lie those that the old filter left out, and then those that the new one did.
    let between: Vec<_> = published[end + 1..begin].iter().map(publisher).collect();
    assert!(between.is_sorted_by(|left, right| left >= right), "{between:?}");
    assert_eq!(gaps(&destination, "orders"), []);
    let ledger = daemon.wait_settled("orders", published.len());
    assert_eq!(ledger.stored, expected.len() as u64);
    assert_eq!(ledger.filtered, (published.len() - expected.len()) as u64);
}
