//! Promise: on one server, each entry is published exactly once, in stream order, however often the
//! daemon is killed; across servers at least once.

use std::time::Duration;

use crate::support::{Server, Setup, Subscriber, Version, alert, entries, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

fn route(destination: &str) -> String {
    format!(
        r#"
        [broadcast.stock]
        source = "events"
        stream = "orders"
        after = "added"
        destination = "{destination}"
        channel = "stock.<field:kind>"
        message = "<id>"
        start = "beginning"
        "#
    )
}

/// Adds entries in a thread: `kind` is even or odd.
fn add(server: &Server, entries: usize) -> std::thread::JoinHandle<()> {
    let kind = |number: usize| if number.is_multiple_of(2) { "even" } else { "odd" };
    server.adding("orders", entries, move |number| ["kind", kind(number), "payload", "x"].map(str::to_owned))
}

fn ids(server: &Server) -> Vec<(String, String)> {
    let kind = |fields: &[(Vec<u8>, Vec<u8>)]| String::from_utf8(fields[0].1.clone()).unwrap();
    entries(server, "orders")
        .into_iter()
        .map(|(id, fields)| (format!("stock.{}", kind(&fields)), id))
        .collect()
}

#[test]
fn killed_under_load_each_entry_is_published_exactly_once() {
    const ENTRIES: usize = 60_000;
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let mut daemon = Setup::new().endpoint("events", &server).routes(&route("events")).start_ready();
        let adding = add(&server, ENTRIES);
        for kill in 1..=5 {
            eventually("it publishes", PATIENCE, || match subscriber.count() {
                count if count >= kill * ENTRIES / 8 => Ok(()),
                count => Err(format!("{count} heard")),
            });
            daemon.restart();
        }
        adding.join().unwrap();
        eventually("everything is published", PATIENCE, || match subscriber.count() {
            count if count >= ENTRIES => Ok(()),
            count => Err(format!("{count} heard")),
        });
        daemon.wait_ready();
        // Published after everything else, so nothing can still be under way behind it.
        server.ask::<String>(&["XADD", "orders", "*", "kind", "last"]);
        eventually("the last entry is published", PATIENCE, || match subscriber.texts().last() {
            Some((channel, _)) if channel == "stock.last" => Ok(()),
            last => Err(format!("{last:?}")),
        });
        let expected = ids(&server);
        assert_eq!(expected.len(), ENTRIES + 1, "{version}");
        assert!(subscriber.texts() == expected, "{version}: each id once, in stream order");
    }
}

#[test]
fn across_servers_each_entry_is_published_at_least_once() {
    const ENTRIES: usize = 20_000;
    let events = Server::start(Version::Redis70);
    let shop = Server::start(Version::Redis62);
    let subscriber = Subscriber::start(&shop, &["stock.*"]);
    let mut daemon = Setup::new()
        .endpoint("events", &events)
        .endpoint("shop", &shop)
        .routes(&route("shop"))
        .expects(&[alert::DESTINATION])
        .start_ready();
    let adding = add(&events, ENTRIES);
    for kill in 1..=3 {
        eventually("it publishes", PATIENCE, || match subscriber.count() {
            count if count >= kill * ENTRIES / 5 => Ok(()),
            count => Err(format!("{count} heard")),
        });
        daemon.restart();
    }
    adding.join().unwrap();
    events.ask::<String>(&["XADD", "orders", "*", "kind", "last"]);
    eventually("the last entry is published", PATIENCE, || match subscriber.texts().last() {
        Some((channel, _)) if channel == "stock.last" => Ok(()),
        last => Err(format!("{last:?}")),
    });
    // Without the repeats it is the stream, in order: a repeat starts again at an earlier entry.
    let mut seen = std::collections::HashSet::new();
    let first_times: Vec<_> =
        subscriber.texts().into_iter().filter(|message| seen.insert(message.clone())).collect();
    assert!(first_times == ids(&events), "each id, in stream order");
}

#[test]
fn an_entry_that_cannot_be_published_becomes_a_dead_letter() {
    let server = Server::start(Version::Redis70);
    let subscriber = Subscriber::start(&server, &["stock.*"]);
    let _daemon = Setup::new()
        .endpoint("events", &server)
        .routes(&route("events"))
        .expects(&[alert::DEAD_LETTER])
        .start_ready();
    server.ask::<String>(&["XADD", "orders", "*", "kind", "one"]);
    let bad: String = server.ask(&["XADD", "orders", "*", "other", "field"]);
    server.ask::<String>(&["XADD", "orders", "*", "kind", "two"]);
    eventually("both good ones are published", PATIENCE, || match subscriber.count() {
        2 => Ok(()),
        count => Err(format!("{count} heard")),
    });
    let channels: Vec<_> = subscriber.texts().into_iter().map(|(channel, _)| channel).collect();
    assert_eq!(channels, ["stock.one", "stock.two"]);
    let letters = entries(&server, "tidegate:stock:dead-letters");
    assert_eq!(letters.len(), 1);
    assert!(letters[0].1.iter().any(|(_, value)| value == bad.as_bytes()), "it names the entry: {letters:?}");
}
