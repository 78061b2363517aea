//! What is a loop of routes, and what only looks like one.

use super::*;

#[test]
fn routes_that_do_not_meet_are_no_loop() {
    let loops = [
        // Another stream.
        (r#"stream = "other""#, r#"channel = "orders""#),
        // Another channel.
        (r#"stream = "orders""#, r#"channel = "changed""#),
    ];
    for (stream, channel) in loops {
        let broadcast =
            format!("[broadcast.out]\nsource = \"main\"\ndestination = \"main\"\n{stream}\n{channel}\n");
        let files = Files::new(&[("tidegate.toml", &format!("{ORDERS}{broadcast}"))]);
        files.load(&[]).unwrap_or_else(|problems| panic!("{stream} {channel}:\n{problems}"));
    }
}

/// A capture leaves out what a broadcast with the same origin has published.
#[test]
fn an_origin_on_both_sides_of_a_channel_is_no_loop() {
    let config = |captured: &str, published: &str| {
        let routes = capture(
            "orders",
            &format!("channels = [\"orders\"]\ndestination = \"main\"\nstream = \"s\"\n{captured}"),
        ) + &broadcast("out", &format!("stream = \"s\"\nchannel = \"orders\"\n{published}"));
        Files::new(&[("tidegate.toml", &format!("{SERVERS}{routes}"))]).load(&[]).map(drop)
    };
    let (one, other) = ("origin = \"one\"", "origin = \"other\"");
    config(one, one).unwrap_or_else(|problems| panic!("{problems}"));
    for (captured, published) in [("", ""), (one, ""), ("", one), (one, other)] {
        let problems = config(captured, published).expect_err("it is a loop");
        assert!(
            problems.contains("would repeat its own messages") && problems.contains("same origin"),
            "{problems}"
        );
    }
    for message in ["<id>", "plain <field:payload>"] {
        let problems =
            config(one, &format!("{one}\nmessage = \"{message}\"")).expect_err("it cannot carry one");
        assert!(problems.contains("broadcast.out.origin: cannot travel with this message"), "{problems}");
    }
    config(one, &format!("{one}\nmessage = '{{\"p\":<field:payload>}}'"))
        .unwrap_or_else(|problems| panic!("{problems}"));
}

/// A capture of `main`, with the lines that say what it reads and where it writes.
fn capture(name: &str, lines: &str) -> String {
    format!("[capture.{name}]\nsource = \"main\"\nkeep = \"forever\"\n{lines}\n")
}

fn broadcast(name: &str, lines: &str) -> String {
    format!("[broadcast.{name}]\nsource = \"main\"\ndestination = \"main\"\n{lines}\n")
}

/// One server by two names, another database of it, and another one.
pub(super) const SERVERS: &str = r#"
    [redis.main]
    url = "redis://main:6379"
    [redis.again]
    url = "redis://other:6379"
    addresses = ["MAIN:6379"]
    [redis.second]
    url = "redis://main:6379/2"
    [redis.elsewhere]
    url = "redis://elsewhere:6379"
"#;

/// What is a loop, and what only looks like one: captures and broadcasts, and the arrow that the error names.
#[test]
fn loops_are_told_from_what_only_looks_like_one() {
    let orders =
        |lines: &str| capture("orders", &format!("destination = \"main\"\nstream = \"orders\"\n{lines}"));
    let out = |lines: &str| broadcast("out", &format!("stream = \"orders\"\n{lines}"));
    let written = |pattern: &str| {
        capture("orders", &format!("destination = \"main\"\nstream = \"t:<1>\"\npatterns = [\"{pattern}\"]"))
    };
    let tap = |lines: &str| orders(&format!("mode = \"replication\"\npatterns = [\"*\"]\n{lines}"));
    let cases: [(&str, String, Option<&str>); 24] = [
        (
            "a pattern",
            orders("patterns = [\"a*\"]") + &out("channel = \"ab\""),
            Some("read by the pattern \"a*\""),
        ),
        ("another pattern", orders("patterns = [\"a?\"]") + &out("channel = \"abc\""), None),
        ("a class", orders("patterns = [\"a[b-c]\"]") + &out("channel = \"a<field:x>\""), Some("\"a[b-c]\"")),
        (
            "a template",
            orders("channels = [\"x.y\"]") + &out("channel = \"<field:a>.y\""),
            Some("read by the channel"),
        ),
        ("another template", orders("channels = [\"x.y\"]") + &out("channel = \"<field:a>.z\""), None),
        (
            "a template of the stream",
            capture("orders", "destination = \"main\"\nstream = \"o:<channel>\"\nchannels = [\"a\"]")
                + &broadcast("out", "stream = \"o:b\"\nchannel = \"a\""),
            Some("stream \"o:b\" on main"),
        ),
        (
            "the names of streams that no pattern matches",
            written("ch.*") + &broadcast("out", "streams = \"t:*\"\nchannel = \"<stream>\""),
            None,
        ),
        (
            "the names of streams that a pattern may match",
            written("[st]:a*") + &broadcast("out", "streams = \"t:*\"\nchannel = \"<stream>\""),
            Some("channel \"<stream>\" on main, read by the pattern \"[st]:a*\""),
        ),
        (
            "a name of a stream, and more",
            written("t:*") + &broadcast("out", "stream = \"t:a\"\nchannel = \"from:<stream>\""),
            None,
        ),
        (
            "an address among others",
            orders("channels = [\"a\"]").replace("source = \"main\"", "source = \"again\"")
                + &out("channel = \"a\""),
            Some("channel \"a\" on main"),
        ),
        (
            "a filter changes nothing",
            orders("channels = [\"a\"]\nwhere = [{ field = \"x\", exists = true }]")
                + &out("channel = \"a\"\nwhere = [{ entry = \"y\", exists = true }]"),
            Some("channel \"a\""),
        ),
        (
            "another database has other streams, and the same channels",
            orders("channels = [\"a\"]").replace("destination = \"main\"", "destination = \"second\"")
                + &out("channel = \"a\""),
            None,
        ),
        (
            "shard channels are not heard by SUBSCRIBE",
            orders("patterns = [\"*\"]") + &out("channel = \"a\"\nsharded = true"),
            None,
        ),
        (
            "nor in a replication stream that is not asked for them",
            tap("") + &out("channel = \"a\"\nsharded = true"),
            None,
        ),
        (
            "but in one that is",
            tap("sharded = true") + &out("channel = \"a\"\nsharded = true"),
            Some("read by the pattern \"*\""),
        ),
        (
            "plain ones are in every replication stream",
            tap("") + &out("channel = \"a\""),
            Some("read by the pattern \"*\""),
        ),
        (
            "its own dead letters",
            broadcast("out", "stream = \"tidegate:out:dead-letters\"\nchannel = \"a\""),
            Some("broadcast.out: would repeat"),
        ),
        (
            "another's dead letters",
            broadcast("out", "stream = \"tidegate:other:dead-letters\"\nchannel = \"a\"")
                + &broadcast("other", "stream = \"x\"\nchannel = \"b\""),
            None,
        ),
        (
            "a capture's dead letters, published to it",
            orders("channels = [\"a\"]")
                + &broadcast("out", "stream = \"tidegate:orders:dead-letters\"\nchannel = \"a\""),
            Some("stream \"tidegate:orders:dead-letters\""),
        ),
        (
            "notifications of its stream",
            orders("patterns = [\"__keyspace@0__:o*\"]"),
            Some("notifications of its keys on main"),
        ),
        (
            "notifications of its writing",
            orders("channels = [\"__keyevent@0__:xadd\"]"),
            Some("\"__keyevent@0__:xadd\""),
        ),
        (
            "notifications of the keys that it writes",
            orders("channels = [\"__keyevent@0__:zrem\"]"),
            Some("\"__keyevent@0__:zrem\""),
        ),
        ("notifications of what it does not do", orders("channels = [\"__keyevent@0__:expired\"]"), None),
        (
            "notifications elsewhere",
            orders("patterns = [\"__key*\"]")
                .replace("destination = \"main\"", "destination = \"elsewhere\""),
            None,
        ),
    ];
    for (what, routes, expected) in cases {
        // The broadcasts stand in a file of their own, as another team's would.
        let at = routes.find("[broadcast").unwrap_or(routes.len());
        let files = Files::new(&[
            ("tidegate.toml", &format!("{SERVERS}{}", &routes[..at])),
            ("conf.d/more.toml", &routes[at..]),
        ]);
        match (files.load(&[]), expected) {
            (Ok(_), None) => {}
            (Err(problems), Some(arrow)) => {
                assert!(problems.contains("forever") && problems.contains(arrow), "{what}:\n{problems}");
            }
            (Ok(_), Some(_)) => panic!("{what}: the loop is not found"),
            (Err(problems), None) => panic!("{what}: this is no loop\n{problems}"),
        }
    }
}
