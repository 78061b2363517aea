//! Promise: an entry has the fields that its readers expect, and what tidegate does with it later knows them too:
//! a broadcast, a replay, and a dead letter that is given back.

use std::time::Duration;

use crate::support::{
    Load, Options, Oracle, Payloads, Published, Server, Setup, Subscriber, Version, alert, dead_letters, entries,
    eventually, gaps, wait_for_last,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// How the source is read.
const MODES: [&str; 2] = ["subscribe", "replication"];

fn source() -> Server {
    Server::with(Version::Redis70, Options::replication_source())
}

fn setup(source: &Server, destination: &Server, mode: &str, route: &str) -> Setup {
    Setup::new().endpoint("shop", source).endpoint("events", destination).routes(&format!(
        "[capture.orders]\nsource = \"shop\"\ndestination = \"events\"\nkeep = \"forever\"\nmode = \"{mode}\"\n{route}"
    ))
}

/// The fields of all entries of a stream, as text.
fn fields(server: &Server, stream: &str) -> Vec<Vec<(String, String)>> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text was published");
    let pairs = |fields: Vec<(Vec<u8>, Vec<u8>)>| fields.into_iter().map(|(n, v)| (text(n), text(v))).collect();
    entries(server, stream).into_iter().map(|(_, fields)| pairs(fields)).collect()
}

fn heard(subscriber: &Subscriber, count: usize) {
    eventually("it is published", PATIENCE, || match subscriber.count() {
        found if found >= count => Ok(()),
        found => Err(format!("{found} of {count}")),
    });
}

/// What was published, with another beginning of each channel.
fn renamed(published: Vec<Published>, begin: &str) -> Vec<Published> {
    let rename = |message: Published| Published {
        channel: [begin.as_bytes(), &message.channel].concat(),
        payload: message.payload,
    };
    published.into_iter().map(rename).collect()
}

#[test]
fn names_that_readers_expect_go_all_the_way() {
    for mode in MODES {
        let source = source();
        let destination = Server::start(Version::Redis70);
        let out = Subscriber::start(&destination, &["out.*"]);
        let daemon = setup(
            &source,
            &destination,
            mode,
            r#"
            patterns = ["orders.*"]
            stream = "orders"
            max_message_size = "1KiB"
            fields = { payload = "data", channel = "topic", pattern = false }

            [broadcast.back]
            source = "events"
            stream = "orders"
            destination = "events"
            channel = "out.<field:topic>"
            message = "<field:data>"
            payload_field = "data"
            where = [{ field = "n", exists = true }]
            "#,
        )
        .expects(&[alert::DEAD_LETTER])
        .start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(3, 3_000, &["orders.a", "orders.b"]).payloads(Payloads::Json));
        let large = vec![b'x'; 1025];
        oracle.publish_one(b"orders.a", &large);
        oracle.publish_one(b"orders.b", br#"{"n":"the last message"}"#);
        wait_for_last(&destination, "orders", br#"{"n":"the last message"}"#, PATIENCE);

        let mut published = oracle.sequence();
        published.retain(|message| message.payload != large);
        let stored: Vec<_> = entries(&destination, "orders").into_iter().map(|(_, fields)| fields).collect();
        let expected: Vec<_> = published
            .iter()
            .map(|message| {
                vec![
                    (b"topic".to_vec(), message.channel.clone()),
                    (b"data".to_vec(), message.payload.clone()),
                ]
            })
            .collect();
        assert!(stored == expected, "{mode}: each once, in order");
        assert_eq!(gaps(&destination, "orders"), [], "{mode}");
        let ledger = daemon.wait_settled("orders", published.len() + 1);
        assert_eq!((ledger.stored, ledger.rejected), (published.len() as u64, 1), "{mode}");

        heard(&out, published.len());
        assert!(out.heard() == renamed(published.clone(), "out."), "{mode}: and broadcast so");

        // A letter keeps tidegate's own names, whatever the entries are called.
        let letters = dead_letters(&destination, "orders");
        assert_eq!(letters.len(), 1, "{mode}");
        assert_eq!((letters[0].channel.as_slice(), letters[0].size), (&b"orders.a"[..], Some(1025)), "{mode}");

        let again = Subscriber::start(&destination, &["again.*"]);
        let replay = ["replay", "orders", "--from", "0", "--channel", "again.<field:topic>", "--message", "<field:data>"];
        let output = daemon.operator(&["again.*"]).run_command(&[&replay[..], &["--onto-live"]].concat());
        assert_eq!(output.status.code(), Some(0), "{mode}: {output:?}");
        heard(&again, published.len());
        assert!(again.heard() == renamed(published, "again."), "{mode}: and replayed so");
    }
}

#[test]
fn an_entry_of_members_says_where_its_message_came_from() {
    for mode in MODES {
        let source = source();
        let destination = Server::start(Version::Redis70);
        let route = r#"
            channels = ["plain"]
            patterns = ["orders.*"]
            stream = "orders"
            format = "fields"
            include = ["channel", "pattern"]
            fields = { channel = "from" }

            [broadcast.back]
            source = "events"
            stream = "orders"
            destination = "events"
            channel = "out.<field:from>"
            message = "<field:n>"
            "#;
        let out = Subscriber::start(&destination, &["out.*"]);
        let daemon = setup(&source, &destination, mode, route).expects(&[alert::DEAD_LETTER]).start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish_one(b"orders.eu", br#"{"n":1}"#);
        oracle.publish_one(b"plain", b"{}");
        oracle.publish_one(b"orders.eu", b"no object");
        oracle.publish_one(b"plain", br#"{"n":"2","from":"the publisher"}"#);
        let ledger = daemon.wait_settled("orders", 4);
        assert_eq!((ledger.stored, ledger.rejected), (3, 1), "{mode}");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            fields(&destination, "orders"),
            [
                vec![pair("from", "orders.eu"), pair("pattern", "orders.*"), pair("n", "1")],
                vec![pair("from", "plain")],
                vec![pair("from", "plain"), pair("n", "2"), pair("from", "the publisher")],
            ],
            "{mode}"
        );
        heard(&out, 2);
        let message = |channel: &str, payload: &str| Published { channel: channel.into(), payload: payload.into() };
        assert_eq!(out.heard(), [message("out.orders.eu", "1"), message("out.plain", "2")], "{mode}");
    }
}

#[test]
fn a_dead_letter_becomes_an_entry_with_the_names_of_now() {
    let server = Server::start(Version::Redis70);
    let route = |further: &str| format!("channels = [\"a\"]\nstream = \"orders\"\n{further}");
    let daemon = setup(&server, &server, "subscribe", &route("format = \"fields\""))
        .expects(&[alert::DEAD_LETTER])
        .start_ready();
    Oracle::new(&server).publish_one(b"a", b"no object");
    assert_eq!(daemon.wait_settled("orders", 1).rejected, 1);
    drop(daemon);
    let names = "fields = { payload = \"data\", channel = false }";
    let operator = setup(&server, &server, "subscribe", &route(names)).prepare().operator(&[]);
    let output = operator.run_command(&["dead-letters", "requeue", "orders", "--all", "--yes"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(fields(&server, "orders"), [[("data".to_owned(), "no object".to_owned())]]);
}
