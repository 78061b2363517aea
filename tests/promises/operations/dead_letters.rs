//! Promise: a dead letter that is given back is stored, or on one server published, exactly once, and removed in
//! the same step; one that still cannot be dealt with stays.

use std::process::Output;
use std::time::Duration;

use crate::support::{
    Daemon, Oracle, Server, Setup, Subscriber, Version, alert, captured, dead_letters, entries, eventually,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Exit codes, as the module `cli` states them.
const OK: Option<i32> = Some(0);
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(64);

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn run(operator: &Daemon, arguments: &[&str], code: Option<i32>) -> (String, String) {
    let Output { status, stdout, stderr } =
        operator.run_command(&[&["dead-letters"][..], arguments].concat());
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert_eq!(status.code(), code, "{arguments:?}: {stdout}{stderr}");
    (stdout, stderr)
}

fn capture(stream: &str, further: &str) -> String {
    format!(
        "[capture.orders]\nsource = \"events\"\nchannels = [\"a\", \"b\"]\ndestination = \"events\"\n\
         stream = \"{stream}\"\ngroups = [\"billing\"]\nkeep = \"forever\"\n{further}"
    )
}

fn wait_letters(server: &Server, count: usize) {
    eventually("there are dead letters", PATIENCE, || match dead_letters(server, "orders").len() {
        found if found == count => Ok(()),
        found => Err(format!("{found} of {count}")),
    });
}

#[test]
fn what_the_destination_refused_is_stored_once_the_cause_is_gone() {
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        server.ask::<()>(&["SET", "by:b", "not a stream"]);
        let daemon = Setup::new()
            .endpoint("events", &server)
            .routes(&capture("by:<channel>", "include = [\"id\"]"))
            .expects(&[alert::DEAD_LETTER])
            .start_ready();
        let oracle = Oracle::new(&server);
        for payload in [&b"1"[..], b"\xff\x00", b"3"] {
            oracle.publish_one(b"b", payload);
        }
        wait_letters(&server, 3);
        let operator = daemon.operator(&[]);
        let (listed, _) = run(&operator, &["list"], OK);
        assert_eq!(
            listed.lines().filter(|line| line.starts_with("orders ")).count(),
            3,
            "{version}: {listed}"
        );
        assert!(listed.contains("wrong_type") && listed.contains(": \\xff\\u{0}"), "{version}: {listed}");

        // The cause is still there.
        let (_, why) = run(&operator, &["requeue", "orders", "--all", "--yes"], FAILED);
        assert_eq!(
            why.matches(" not requeued: WRONGTYPE the key 'by:b' has another type").count(),
            3,
            "{version}: {why}"
        );
        assert_eq!(dead_letters(&server, "orders").len(), 3, "{version}");

        let positions: Vec<_> =
            dead_letters(&server, "orders").into_iter().map(|letter| letter.position).collect();
        server.ask::<()>(&["DEL", "by:b"]);
        let (did, _) = run(&operator, &["requeue", "orders", "--all", "--yes"], OK);
        assert!(did.contains("orders: 3 requeued, 0 failed"), "{version}: {did}");
        assert_eq!(dead_letters(&server, "orders"), [], "{version}");
        let stored = captured(&server, "by:b");
        let messages: Vec<_> = stored.iter().map(|entry| entry.message.clone()).collect();
        assert_eq!(messages, oracle.sequence(), "{version}: as they were published");
        let kept: Vec<_> = stored.into_iter().map(|entry| entry.position.unwrap()).collect();
        assert_eq!(kept, positions, "{version}: with their own positions");
        // A stream that the letter makes has its groups, from the first entry on.
        let groups: Vec<std::collections::HashMap<String, redis::Value>> =
            server.ask(&["XINFO", "GROUPS", "by:b"]);
        assert_eq!(groups.len(), 1, "{version}");
        assert_eq!(groups[0]["last-delivered-id"], redis::Value::BulkString(b"0-0".to_vec()), "{version}");
        assert!(server.ask::<bool>(&["SISMEMBER", "tidegate:orders:streams", "by:b"]), "{version}");
    }
}

#[test]
fn a_stream_that_was_deleted_makes_room_for_the_one_of_a_letter() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("events", &server)
        .routes(&capture("by:<channel>", "max_streams = 1"))
        .expects(&[alert::DEAD_LETTER])
        .start_ready();
    let oracle = Oracle::new(&server);
    oracle.publish_one(b"a", b"its stream is made");
    oracle.publish_one(b"b", b"one too many");
    wait_letters(&server, 1);
    let operator = daemon.operator(&[]);
    let (_, why) = run(&operator, &["requeue", "orders", "--all", "--yes"], FAILED);
    assert!(why.contains("raise max_streams"), "{why}");
    server.ask::<()>(&["DEL", "by:a"]);
    run(&operator, &["requeue", "orders", "--all", "--yes"], OK);
    let stored = captured(&server, "by:b");
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].message, oracle.sequence()[1]);
    assert_eq!(server.ask::<Vec<String>>(&["SMEMBERS", "tidegate:orders:streams"]), ["by:b"]);
}

#[test]
fn what_tidegate_refused_is_mapped_by_the_configuration_as_it_is_now() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("events", &server)
        .routes(&capture("orders", "format = \"fields\"\nmax_message_size = \"64KiB\""))
        .expects(&[alert::DEAD_LETTER])
        .start_ready();
    let oracle = Oracle::new(&server);
    oracle.publish_one(b"a", b"no object");
    oracle.publish_one(b"b", &vec![b'x'; 65 * 1024]);
    wait_letters(&server, 2);
    let (_, why) = run(&daemon.operator(&[]), &["requeue", "orders", "--all", "--yes"], FAILED);
    assert!(why.contains("the configuration still rejects it") && why.contains("(not_json_object)"), "{why}");
    drop(daemon);

    let operator = Setup::new().endpoint("events", &server).routes(&capture("orders", "")).prepare();
    let operator = operator.operator(&[]);
    let (did, why) = run(&operator, &["requeue", "orders", "--all", "--yes"], FAILED);
    assert!(did.contains("stored in orders as ") && did.contains("1 requeued, 1 failed"), "{did}");
    assert!(why.contains("only the first 1024 of the message's 66560 bytes were kept"), "{why}");
    assert_eq!(captured(&server, "orders")[0].message, oracle.sequence()[0]);
    assert_eq!(dead_letters(&server, "orders").len(), 1, "the one of which too little was kept");
}

#[test]
fn killed_again_and_again_each_letter_becomes_one_entry() {
    const LETTERS: usize = 8_000;
    const KILLS: usize = 4;
    let server = Server::start(Version::Valkey91);
    let script = "for n = 0, ARGV[1] - 1 do redis.call('XADD', KEYS[1], '*', 'position', n, 'reason', 'refused', \
                  'detail', 'a test', 'stream', 'by:a', 'channel', 'a', 'payload', n) end";
    server.ask::<()>(&["EVAL", script, "1", "tidegate:orders:dead-letters", &LETTERS.to_string()]);
    let operator =
        Setup::new().endpoint("events", &server).routes(&capture("by:<channel>", "")).prepare().operator(&[]);
    let output = operator.configuration().with_file_name("output");
    for kill in 1..=KILLS {
        let arguments = ["dead-letters", "requeue", "orders", "--all", "--yes"];
        let mut requeue = operator.start_command(&arguments, &output);
        let enough = kill * LETTERS / (KILLS + 6);
        eventually("letters become entries", PATIENCE, || match server.stream_length("by:a") {
            length if length >= enough => Ok(()),
            length => Err(format!("{length} of {enough}")),
        });
        requeue.kill();
    }
    assert!(server.stream_length("tidegate:orders:dead-letters") > 0, "it was killed in the middle");
    run(&operator, &["requeue", "orders", "--all", "--yes"], OK);
    let stored: Vec<_> =
        captured(&server, "by:a").into_iter().map(|entry| text(&entry.message.payload)).collect();
    let all: Vec<_> = (0..LETTERS).map(|number| number.to_string()).collect();
    assert!(stored == all, "each once, in order");
    assert_eq!(server.stream_length("tidegate:orders:dead-letters"), 0);
}

fn broadcast(destination: &str, message: &str) -> String {
    format!(
        "[broadcast.stock]\nsource = \"events\"\nstream = \"stock\"\nafter = \"added\"\n\
         destination = \"{destination}\"\nchannel = \"stock.changed\"\nmessage = \"{message}\"\n\
         start = \"beginning\"\n"
    )
}

#[test]
fn an_entry_that_could_not_be_published_is_published_once_the_template_fits() {
    for destination in ["events", "shop"] {
        let events = Server::start(Version::Redis70);
        let shop = Server::start(Version::Redis62);
        let hears = if destination == "shop" { &shop } else { &events };
        let setup = || {
            let setup = Setup::new().endpoint("events", &events);
            if destination == "shop" { setup.endpoint("shop", &shop) } else { setup }
        };
        let _daemon = setup().routes(&broadcast(destination, "<field:sku>")).start_ready();
        let ids: Vec<String> =
            ["one", "two"].map(|name| events.ask(&["XADD", "stock", "*", "name", name])).into();
        let letters = || entries(&events, "tidegate:stock:dead-letters");
        eventually("there are dead letters", PATIENCE, || match letters().len() {
            2 => Ok(()),
            count => Err(format!("{count}")),
        });
        let operator = setup().routes(&broadcast(destination, "<field:name>")).prepare().operator(&[]);
        let (listed, _) = run(&operator, &["list", "stock"], OK);
        assert!(listed.contains(&format!("stock {}: the entry has no field 'sku'", ids[1])), "{listed}");
        let subscriber = Subscriber::start(hears, &["stock.*"]);
        // One entry is not there any more: there is nothing to publish.
        events.ask::<u64>(&["XDEL", "stock", &ids[0]]);
        let (did, why) = run(&operator, &["requeue", "stock", "--all", "--yes"], FAILED);
        assert!(did.contains("published on stock.changed to 1 subscribers"), "{did}");
        assert!(why.contains(&format!("its entry {} is no longer in the stream", ids[0])), "{why}");
        let left = letters();
        assert_eq!(left.len(), 1, "only that one stays");
        eventually("it is heard", PATIENCE, || match subscriber.count() {
            1 => Ok(()),
            count => Err(format!("{count}")),
        });
        assert_eq!(text(&subscriber.heard()[0].payload), "two");

        // Removed by its id; a second time there is nothing to remove.
        let (did, _) = run(&operator, &["drop", "stock", &left[0].0], OK);
        assert_eq!(did, "stock: 1 removed\n");
        let (_, why) = run(&operator, &["drop", "stock", &left[0].0], FAILED);
        assert_eq!(why, format!("stock has no dead letter {}\n", left[0].0));
    }
}

#[test]
fn of_a_sharded_broadcast_it_goes_to_the_shard_channel() {
    let server = Server::start(Version::Redis82);
    let key = "tidegate:stock:dead-letters";
    let id: String = server.ask(&["XADD", "stock", "*", "name", "one"]);
    let letter = ["stream", "stock", "id", &id, "reason", "missing_field", "detail", "why"];
    server.ask::<String>(&[&["XADD", key, "1-0"][..], &letter].concat());
    let routes = broadcast("events", "<field:name>") + "sharded = true\n";
    let operator = Setup::new().endpoint("events", &server).routes(&routes).prepare().operator(&[]);
    let subscriber = Subscriber::start_sharded(&server, &["stock.changed"]);
    let (did, _) = run(&operator, &["requeue", "stock", "1-0"], OK);
    assert!(did.contains("published on stock.changed to 1 subscribers"), "{did}");
    eventually("it is heard", PATIENCE, || match subscriber.count() {
        1 => Ok(()),
        count => Err(format!("{count}")),
    });
    assert_eq!(server.stream_length(key), 0);
}

#[test]
fn letters_are_shown_to_people_and_to_programs_and_all_of_them_only_after_a_yes() {
    let server = Server::start(Version::Redis70);
    let operator =
        Setup::new().endpoint("events", &server).routes(&capture("by:<channel>", "")).prepare().operator(&[]);
    let payload = "long \x1b[31m".repeat(20);
    for n in 1..=25 {
        let id = format!("{n}-0");
        let key = "tidegate:orders:dead-letters";
        server.ask::<String>(&[
            "XADD",
            key,
            &id,
            "position",
            "p",
            "reason",
            "too_large",
            "detail",
            "why",
            "channel",
            "a",
            "size",
            "9",
            "payload",
            &payload,
        ]);
    }
    let (listed, note) = run(&operator, &["list", "orders", "--limit", "12", "--width", "10"], OK);
    assert_eq!(listed.lines().count(), 13);
    assert!(listed.contains("orders 25-0 "), "the newest is there: {listed}");
    assert!(listed.ends_with("channel a: why: long …(+195 bytes)\n"), "{listed}");
    assert!(!listed.contains('\x1b'), "a terminal is not told what to do: {listed}");
    assert_eq!(note, "orders: 12 of 25 shown; --limit shows more\n");

    let (shown, _) = run(&operator, &["show", "orders", "3-0"], OK);
    assert!(shown.starts_with("orders 3-0 (1970-01-01T00:00:00.003Z)\n  position: p\n"), "{shown}");
    assert_eq!(shown.matches("long \\u{1b}[31m").count(), 20, "the whole payload: {shown}");
    let (json, _) = run(&operator, &["show", "orders", "3-0", "--json"], OK);
    let letter: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&letter["id"], &letter["fields"][5][1]), (&"3-0".into(), &payload.as_str().into()));
    let (lines, _) = run(&operator, &["list", "--json"], OK);
    assert_eq!(lines.lines().count(), 25);

    for command in ["drop", "requeue"] {
        let (_, why) = run(&operator, &[command, "orders", "--all"], USAGE);
        assert!(why.contains("all 25 dead letters of orders?") && why.contains("--yes"), "{why}");
    }
    run(&operator, &["drop", "orders"], USAGE);
    run(&operator, &["drop", "orders", "x"], USAGE);
    let (_, why) = run(&operator, &["list", "oders"], USAGE);
    assert!(why.contains("known: orders"), "{why}");
    assert_eq!(server.stream_length("tidegate:orders:dead-letters"), 25, "nothing was done");
    let (did, _) = run(&operator, &["drop", "orders", "--all", "--yes"], OK);
    assert_eq!(did, "orders: 25 removed\n");
    assert_eq!(server.stream_length("tidegate:orders:dead-letters"), 0);
    run(&operator, &["requeue", "orders", "--all"], OK);
}
