//! Promise: an entry has the fields that its readers expect, and what tidegate does with it later knows them too:
//! a broadcast, a replay, and a dead letter that is given back.

use std::time::Duration;

use crate::support::{
    Load, Options, Oracle, Payloads, Published, Server, Setup, Subscriber, Version, alert, dead_letters,
    entries, eventually, gaps, wait_for_last,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// How the source is read.
const MODES: [&str; 2] = ["subscribe", "replication"];

fn source() -> Server {
    Server::with(Version::Redis70, Options::replication_source())
}

fn setup(source: &Server, destination: &Server, mode: &str, route: &str) -> Setup {
    Setup::between(source, destination).routes(&format!(
        "[capture.orders]\nsource = \"shop\"\ndestination = \"events\"\nkeep = \"forever\"\nmode = \"{mode}\"\n{route}"
    ))
}

/// The fields of all entries of a stream, as text.
fn fields(server: &Server, stream: &str) -> Vec<Vec<(String, String)>> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text was published");
    let pairs =
        |fields: Vec<(Vec<u8>, Vec<u8>)>| fields.into_iter().map(|(n, v)| (text(n), text(v))).collect();
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
        let numbers = Subscriber::start(&destination, &["numbers.*"]);
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

            [broadcast.numbers]
            source = "events"
            stream = "orders"
            destination = "events"
            channel = "numbers.<pointer:/n>"
            message = "<pointer:/publisher>"
            payload_field = "data"
            where = [{ field = "publisher", exists = true }]
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

        heard(&numbers, 3_000);
        let of = |message: &Published| {
            let json: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            (format!("numbers.{}", json["n"]), json["publisher"].to_string())
        };
        let json = published.iter().filter(|message| message.payload.starts_with(b"{\"publisher\""));
        assert!(numbers.texts() == json.map(of).collect::<Vec<_>>(), "{mode}: values of the payload");

        // A letter keeps tidegate's own names, whatever the entries are called.
        let letters = dead_letters(&destination, "orders");
        assert_eq!(letters.len(), 1, "{mode}");
        assert_eq!(
            (letters[0].channel.as_slice(), letters[0].size),
            (&b"orders.a"[..], Some(1025)),
            "{mode}"
        );

        let again = Subscriber::start(&destination, &["again.*"]);
        let replay = [
            "replay",
            "orders",
            "--from",
            "0",
            "--channel",
            "again.<field:topic>",
            "--message",
            "<field:data>",
        ];
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
        let message =
            |channel: &str, payload: &str| Published { channel: channel.into(), payload: payload.into() };
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

/// Payloads of three tenants, and such as have none.
fn tenants(oracle: &Oracle) {
    for n in 0..300 {
        let payload = match n % 6 {
            0..3 => format!(r#"{{"tenant":"t{}","trace":{{"parent":"00-{n}"}}}}"#, n % 3),
            3 => format!(r#"{{"trace":{{"parent":"00-{n}"}},"tenant":{n}"#),
            4 => format!(r#"{{"tenant":"t0","n":{n}}}"#),
            _ => format!("no json {n}"),
        };
        oracle.publish_one(b"orders", payload.as_bytes());
    }
}

#[test]
fn a_value_of_the_payload_names_the_stream_and_becomes_a_field() {
    for mode in MODES {
        let source = source();
        let destination = Server::start(Version::Redis70);
        let route = r#"
            channels = ["orders"]
            stream = "by:<pointer:/tenant>"
            include = ["id"]
            add = { traceparent = "<pointer:/trace/parent>", source = "<channel>/<pointer:/tenant>" }
            max_streams = 3
            "#;
        let daemon = setup(&source, &destination, mode, route).expects(&[alert::DEAD_LETTER]).start_ready();
        let oracle = Oracle::new(&source);
        tenants(&oracle);
        oracle.publish_one(b"orders", br#"{"tenant":"one too many","trace":{"parent":""}}"#);
        let ledger = daemon.wait_settled("orders", 301);
        assert_eq!((ledger.stored, ledger.rejected), (150, 151), "{mode}");
        assert_eq!(gaps(&destination, "orders"), [], "{mode}");

        let published = oracle.sequence();
        let whole = |message: &&Published| {
            message.payload.windows(8).any(|part| part == b"trace\":{") && message.payload.ends_with(b"}}")
        };
        let mut good: Vec<_> = published.iter().filter(whole).collect();
        good.pop();
        let mut stored: Vec<_> =
            ["by:t0", "by:t1", "by:t2"].iter().flat_map(|at| fields(&destination, at)).collect();
        let position = |entry: &Vec<(String, String)>| entry[2].1.clone();
        stored.sort_by_key(position);
        assert_eq!(stored.len(), good.len(), "{mode}");
        for (entry, message) in stored.iter().zip(good) {
            let json: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            let (tenant, parent) =
                (json["tenant"].as_str().unwrap(), json["trace"]["parent"].as_str().unwrap());
            let names: Vec<_> = entry.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["channel", "payload", "id", "source", "traceparent"], "{mode}");
            assert_eq!(entry[1].1.as_bytes(), message.payload, "{mode}");
            assert_eq!(
                (entry[3].1.as_str(), entry[4].1.as_str()),
                (format!("orders/{tenant}").as_str(), parent),
                "{mode}"
            );
        }

        let letters = dead_letters(&destination, "orders");
        assert_eq!(letters.last().unwrap().reason, "too_many_streams", "{mode}");
        let (rejected, bad) = (&letters[..150], published.iter().filter(|message| !whole(message)));
        for (letter, message) in rejected.iter().zip(bad) {
            assert_eq!(
                (letter.reason.as_str(), &letter.payload),
                ("missing_variable", &message.payload),
                "{mode}"
            );
            assert!(letter.detail.contains("<pointer:/"), "{mode}: {letter:?}");
        }
    }
}

#[test]
fn a_payload_reaches_no_key_of_tidegate() {
    let server = Server::start(Version::Redis70);
    let route = "channels = [\"a\"]\nstream = \"<pointer:/t>\"";
    let daemon = setup(&server, &server, "subscribe", route).expects(&[alert::DEAD_LETTER]).start_ready();
    let oracle = Oracle::new(&server);
    for name in ["tidegate:orders:gaps", "tidegate:orders:state", "", "fine"] {
        oracle.publish_one(b"a", serde_json::json!({ "t": name }).to_string().as_bytes());
    }
    let ledger = daemon.wait_settled("orders", 4);
    assert_eq!((ledger.stored, ledger.rejected), (1, 3));
    let reasons: Vec<_> = dead_letters(&server, "orders").into_iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, ["reserved_name", "reserved_name", "missing_variable"]);
    assert_eq!(gaps(&server, "orders"), []);
    assert_eq!(entries(&server, "fine").len(), 1);
}
