//! Promise: a capture of keyspace notifications hears those of others, and never those of what tidegate writes itself.

use std::time::Duration;

use crate::support::{Options, Server, Setup, Version, alert, entries, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// The server at which these were seen: each orders a script's notifications and its messages in its own way.
const VERSIONS: [Version; 3] = [Version::Redis70, Version::Redis82, Version::Valkey91];

fn notifying(version: Version) -> Server {
    Server::with(version, Options::default().with("notify-keyspace-events", "KEA"))
}

/// What the entries of a stream hold: the channel and the message, in order.
fn heard(server: &Server, stream: &str) -> Vec<(String, String)> {
    let text = |fields: &[(Vec<u8>, Vec<u8>)], name: &str| {
        let value = fields.iter().find(|(field, _)| field == name.as_bytes());
        value.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    let entries = entries(server, stream);
    entries.iter().map(|(_, fields)| (text(fields, "channel"), text(fields, "payload"))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(channel, payload)| ((*channel).to_owned(), (*payload).to_owned())).collect()
}

/// The script that opens a session writes a key before it publishes the session marker.
#[test]
fn a_session_opens_though_a_pattern_matches_the_notification_of_its_own_key() {
    const BY_KEY: (&str, &str) = ("__keyspace@0__:user:1", "set");
    const BY_EVENT: (&str, &str) = ("__keyevent@0__:set", "user:1");
    for version in VERSIONS {
        let events = Server::start(Version::Redis70);
        for (lines, expected) in [
            ("patterns = [\"__key*__:*\"]", vec![BY_KEY, BY_EVENT]),
            ("patterns = [\"__keyspace@0__:*\"]", vec![BY_KEY]),
            ("patterns = [\"__keyevent@*__:set\"]", vec![BY_EVENT]),
            ("channels = [\"__keyevent@0__:set\"]", vec![BY_EVENT]),
            ("patterns = [\"*\"]", vec![BY_KEY, BY_EVENT]),
        ] {
            let shop = notifying(version);
            let mut daemon = Setup::between(&shop, &events)
                .routes(&format!(
                    "[capture.orders]\nsource = \"shop\"\n{lines}\ndestination = \"events\"\nstream = \"heard\"\n\
                     keep = \"forever\"\n"
                ))
                .expects(&[alert::GAP])
                .start_ready();
            shop.ask::<()>(&["SET", "user:1", "x"]);
            daemon.wait_settled("orders", expected.len());
            // The next session's script writes the key again.
            daemon.restart();
            daemon.wait_ready();
            shop.ask::<()>(&["SET", "user:1", "y"]);
            let both = pairs(&expected.repeat(2));
            eventually("the second session's events are stored", PATIENCE, || {
                match heard(&events, "heard") {
                    stored if stored.len() < both.len() => Err(format!("{version} {lines}: {stored:?}")),
                    _ => Ok(()),
                }
            });
            assert_eq!(heard(&events, "heard"), both, "{version} {lines}");
            events.ask::<()>(&["FLUSHALL"]);
        }
    }
}

/// A pattern for everything hears what is stored as well, on the same server.
#[test]
fn a_capture_of_everything_does_not_feed_itself() {
    for version in VERSIONS {
        for stream in ["all", "all:<pattern>", "<channel>"] {
            let server = notifying(version);
            let daemon = Setup::new()
                .endpoint("main", &server)
                .routes(&format!(
                    "[capture.orders]\nsource = \"main\"\npatterns = [\"*\"]\ndestination = \"main\"\nstream = \"{stream}\"\n\
                     groups = [\"inventory\"]\ngroups_start = \"$\"\nkeep = {{ entries = 100_000, age = \"1h\" }}\n"
                ))
                .start_ready();
            server.ask::<u64>(&["PUBLISH", "orders", "first"]);
            daemon.wait_settled("orders", 1);
            server.ask::<()>(&["SET", "user:1", "x"]);
            daemon.wait_settled("orders", 3);
            server.ask::<u64>(&["PUBLISH", "orders", "last"]);
            daemon.wait_settled("orders", 4);
            let streams: &[&str] = match stream {
                "all" => &["all"],
                "all:<pattern>" => &["all:*"],
                _ => &["orders", "__keyspace@0__:user:1", "__keyevent@0__:set"],
            };
            let mut found: Vec<_> = streams.iter().flat_map(|stream| heard(&server, stream)).collect();
            found.sort();
            let mut expected = pairs(&[
                ("orders", "first"),
                ("__keyspace@0__:user:1", "set"),
                ("__keyevent@0__:set", "user:1"),
                ("orders", "last"),
            ]);
            expected.sort();
            assert_eq!(found, expected, "{version} {stream}");
        }
    }
}

/// Where nothing comes, nobody would miss it: readiness reports it, and for how long as it lasts.
#[test]
fn a_route_is_not_ready_while_the_source_publishes_no_such_notifications() {
    let shop = Server::start(Version::Valkey91);
    let events = Server::start(Version::Redis70);
    let mut daemon = Setup::between(&shop, &events)
        .routes(
            "[capture.expired]\nsource = \"shop\"\nchannels = [\"__keyevent@0__:expired\"]\ndestination = \"events\"\n\
             stream = \"expired\"\nkeep = \"forever\"\n\
             [capture.orders]\nsource = \"shop\"\nchannels = [\"orders\"]\ndestination = \"events\"\n\
             stream = \"orders\"\nkeep = \"forever\"\n",
        )
        .prepare();
    shop.ask::<()>(&["ACL", "SETUSER", "tidegate-shop", "+config|get"]);
    daemon.start_again();
    daemon.wait_route_ready("orders");
    let told = "notify-keyspace-events is \\\"\\\" on server shop";
    eventually("readiness tells what is missing", PATIENCE, || {
        match daemon.get("/readyz?route=expired")? {
            (503, text) if text.contains(told) => Ok(()),
            (code, text) => Err(format!("{code} {text}")),
        }
    });
    shop.ask::<()>(&["CONFIG", "SET", "notify-keyspace-events", "Ex"]);
    daemon.wait_ready();
    shop.ask::<()>(&["SET", "user:1", "x", "PX", "1"]);
    daemon.wait_settled("expired", 1);
    assert_eq!(heard(&events, "expired"), pairs(&[("__keyevent@0__:expired", "user:1")]));
}

/// Two routes that hear everything would feed each other.
#[test]
fn captures_of_everything_do_not_feed_each_other() {
    let server = notifying(Version::Redis82);
    let route = |name: &str| {
        format!(
            "[capture.{name}]\nsource = \"main\"\npatterns = [\"*\"]\ndestination = \"main\"\nstream = \"{name}-stream\"\n\
             keep = \"forever\"\n"
        )
    };
    let daemon = Setup::new()
        .endpoint("main", &server)
        .routes(&format!("{}{}", route("one"), route("two")))
        .start_ready();
    for number in 1..=3 {
        server.ask::<u64>(&["PUBLISH", "orders", "x"]);
        for name in ["one", "two"] {
            daemon.wait_settled(name, number);
            assert_eq!(entries(&server, &format!("{name}-stream")).len(), number);
        }
    }
}
