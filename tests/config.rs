//! The configuration as a person meets it: the commented file and the examples load, every error is
//! printed as its golden file says, the layers override each other, and revisions stay what they are.
//!
//! `UPDATE_GOLDEN=1 cargo test --test config` writes the golden files anew; read the difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use tidegate::config::{self, Condition, Config, Loaded, Problems, Scalar, SecretSource, Subject, Test};
use tidegate::pointer::Pointer;

const GOLDEN: &str = "tests/golden/config";
const EXAMPLES: &str = "config/examples";
const COMMENTED: &str = "config/tidegate.toml";

fn load(path: &Path) -> Result<Loaded, Problems> {
    config::load(path, [], &[])
}

fn load_good(path: &Path) -> Config {
    load(path).unwrap_or_else(|problems| panic!("{} is refused:\n{problems}", path.display())).config
}

/// `*.toml` in a directory, and `tidegate.toml` of each directory in it.
fn main_files(directory: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { path.join("tidegate.toml") } else { path })
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml") && path.is_file())
        .collect();
    found.sort();
    found
}

/// Compares a text with its golden file, or writes the file.
fn assert_golden(path: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, expected, "{} differs; UPDATE_GOLDEN=1 writes it anew", path.display());
}

/// A directory with files, and what they load to.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("tidegate.toml")
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        config::load(&self.path(), environment, &[])
            .map(|loaded| loaded.config)
            .map_err(|problems| problems.to_string())
    }
}

const ORDERS: &str = r#"
[redis.main]
url = "redis://localhost"

[capture.orders]
source = "main"
channels = ["orders"]
destination = "main"
stream = "orders"
keep = { entries = 1000 }
"#;

#[test]
fn every_error_is_printed_as_its_golden_file_says() {
    let cases = main_files(GOLDEN);
    assert!(cases.len() >= 15, "only {} cases in {GOLDEN}", cases.len());
    for path in cases {
        let problems = load(&path).err().unwrap_or_else(|| panic!("{} is accepted", path.display()));
        let text = format!("{problems}\n");
        assert!(!text.contains("hunter2") && !text.contains("12345678"), "{} tells a secret", path.display());
        assert_golden(&path.with_extension("expected"), &text);
    }
}

#[test]
fn the_commented_file_loads_and_shows_the_defaults() {
    let commented = load_good(Path::new(COMMENTED));
    let bare = Files::new(&[(
        "tidegate.toml",
        r#"
        [redis.main]
        url = "redis://localhost:6379"
        [capture.orders]
        source = "main"
        channels = ["orders.placed", "orders.paid"]
        destination = "main"
        stream = "orders"
        keep = { entries = 1_000_000, age = "7d" }
        [broadcast.stock]
        source = "main"
        stream = "stock"
        destination = "main"
        channel = "stock.changed"
        "#,
    )]);
    let bare = bare.load(&[]).unwrap();
    assert_eq!(commented.daemon, bare.daemon);
    assert_eq!(commented.redis, bare.redis);
    assert_eq!(commented.capture, bare.capture);
    assert_eq!(commented.broadcast, bare.broadcast);
}

#[test]
fn the_commented_file_names_every_option() {
    let text = fs::read_to_string(COMMENTED).unwrap();
    let mut options = Vec::new();
    let schema = config::schema();
    let definitions = schema["$defs"].as_object().unwrap();
    for (name, definition) in definitions {
        let Some(properties) = definition["properties"].as_object() else { continue };
        options.extend(properties.keys().map(|option| (name, option)));
    }
    assert!(options.len() > 30, "only {} options in the schema", options.len());
    for (table, option) in options {
        let named = text.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{option} ="))
                || line.contains(&format!("{{ {option} ="))
                || line.contains(&format!(", {option} ="))
        });
        assert!(named, "{COMMENTED} does not name {option} of {table}");
    }
}

#[test]
fn every_example_loads() {
    let examples = main_files(EXAMPLES);
    assert!(examples.len() >= 7, "only {} examples in {EXAMPLES}", examples.len());
    for path in examples {
        let config = load_good(&path);
        assert!(
            !config.capture.is_empty() || !config.broadcast.is_empty(),
            "{} has no route",
            path.display()
        );
    }
}

#[test]
fn the_acl_lines_of_every_example_are_as_their_golden_file_says() {
    let mut text = String::new();
    for path in main_files(EXAMPLES) {
        text.push_str(&format!("## {}\n", path.display()));
        for user in config::acl::users(&load_good(&path)) {
            text.push_str(&format!("{user}\n"));
        }
    }
    assert_golden(&Path::new(GOLDEN).join("acl.txt"), &text);
}

#[test]
fn the_schema_describes_every_key() {
    let schema = config::schema();
    assert_eq!(schema["title"], "tidegate");
    assert_eq!(schema["additionalProperties"], false);
    let capture = &schema["$defs"]["Capture"];
    let required: Vec<&str> =
        capture["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(required, ["source", "destination", "stream", "keep"]);
    assert_eq!(capture["properties"]["max_message_size"]["default"], "16MiB");
    let definitions = schema["$defs"].as_object().unwrap();
    for (table, definition) in definitions {
        for (key, property) in definition["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{table}.{key} has no description");
        }
    }
}

#[test]
fn a_missing_main_file_is_named() {
    let problems = load(Path::new("/nonexistent/tidegate.toml")).unwrap_err().to_string();
    assert!(problems.starts_with("/nonexistent/tidegate.toml: cannot be read: No such file"), "{problems}");
}

#[test]
fn later_layers_override_earlier_ones() {
    let files = Files::new(&[
        ("tidegate.toml", "[daemon]\nlisten = \"127.0.0.1:1\"\nmemory_limit = \"32MiB\""),
        ("conf.d/20.toml", "[daemon]\nlisten = \"127.0.0.1:3\""),
        ("conf.d/10.toml", "[daemon]\nlisten = \"127.0.0.1:2\"\nshutdown_timeout = \"3s\""),
        ("conf.d/30.txt", "not read"),
    ]);
    let listen = |config: &Config| config.daemon.listen.to_string();
    let config = files.load(&[]).unwrap();
    assert_eq!(listen(&config), "127.0.0.1:3");
    assert_eq!(config.daemon.memory_limit, 32 << 20);
    assert_eq!(config.daemon.shutdown_timeout.as_secs(), 3);
    let variable = ("TIDEGATE_DAEMON__LISTEN", "[::1]:4");
    assert_eq!(listen(&files.load(&[variable]).unwrap()), "[::1]:4");
    let flag = [("daemon.listen".to_owned(), "127.0.0.1:5".to_owned())];
    let environment = [(variable.0.to_owned(), variable.1.to_owned())];
    let loaded = config::load(&files.path(), environment, &flag).unwrap();
    assert_eq!(listen(&loaded.config), "127.0.0.1:5");
    let names: Vec<_> = loaded.files.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(names, ["tidegate.toml", "10.toml", "20.toml"]);
}

#[test]
fn the_environment_overrides_with_lists_tables_and_numbers() {
    let files = Files::new(&[("tidegate.toml", ORDERS)]);
    let config = files
        .load(&[
            ("TIDEGATE_CAPTURE__ORDERS__CHANNELS", r#"["a", "b.c"]"#),
            ("TIDEGATE_CAPTURE__ORDERS__MAX_STREAMS", "7"),
            ("TIDEGATE_CAPTURE__ORDERS__STREAM", "0123"),
            ("TIDEGATE_CAPTURE__ORDERS__KEEP__ENTRIES", "12"),
            ("TIDEGATE_CAPTURE__ORDERS__GROUPS_START", "0"),
            ("TIDEGATE_CAPTURE__ORDERS__GROUPS", r#"["g"]"#),
            ("TIDEGATE_PORT", "tcp://10.0.0.1:7380"),
            ("TIDEGATE_PORT_7380_TCP", "tcp://10.0.0.1:7380"),
            ("OTHER__NAME", "x"),
        ])
        .unwrap();
    let orders = &config.capture["orders"];
    assert_eq!(orders.channels, ["a", "b.c"]);
    assert_eq!(orders.max_streams, 7);
    assert_eq!(orders.stream.literal(), Some("0123"));
    assert_eq!(orders.keep, config::Keep::Limits { entries: Some(12), age: None });
    assert_eq!(orders.groups_start, Some(config::GroupsStart::Beginning));
}

#[test]
fn an_error_in_the_environment_names_the_variable() {
    let files = Files::new(&[("tidegate.toml", ORDERS)]);
    let problems = files.load(&[("TIDEGATE_CAPTURE__ORDERS__MAX_STREAMS", "many")]).unwrap_err();
    let expected = "environment variable TIDEGATE_CAPTURE__ORDERS__MAX_STREAMS: capture.orders.max_streams: \
                    expected a whole number, at least 1, found \"many\"";
    assert!(problems.starts_with(expected), "{problems}");
    let problems = files.load(&[("TIDEGATE_CAPTURE__ORDERS__CHANELS", "[\"x\"]")]).unwrap_err();
    assert!(problems.contains("did you mean \"channels\"?"), "{problems}");
    let problems = files.load(&[("TIDEGATE_CAPTURE__ORDERS", "x")]).unwrap_err();
    let expected =
        "environment variable TIDEGATE_CAPTURE__ORDERS: capture.orders: expected a table, found \"x\"";
    assert!(problems.starts_with(expected), "{problems}");
}

#[test]
fn a_password_of_the_environment_stays_as_it_is_and_is_never_shown() {
    let files = Files::new(&[("tidegate.toml", ORDERS)]);
    for password in ["0123", "[1, 2]", "{x", "true", "pass word"] {
        let variable = ("TIDEGATE_REDIS__MAIN__PASSWORD", password);
        let config = files.load(&[variable]).unwrap();
        match &config.redis["main"].password {
            SecretSource::Inline(secret) => assert_eq!(secret.reveal(), password),
            other => panic!("{other:?}"),
        }
        assert!(!format!("{config:?}").contains(password), "the password is in the debug output");
        let broken = ("TIDEGATE_REDIS__MAIN__URL", "redis://:0123@h?x=hunter2");
        let problems = files.load(&[variable, broken]).unwrap_err();
        assert!(!problems.contains(password) && !problems.contains("hunter2"), "{problems}");
    }
    let problems = files.load(&[("TIDEGATE_REDIS__MAIN__PASSWORD", "")]).unwrap_err();
    assert!(problems.contains("redis.main.password: is empty"), "{problems}");
}

#[test]
fn a_password_file_is_looked_for_among_the_credentials_first() {
    let text = "[redis.main]\nurl = \"redis://h\"\npassword_file = \"main.pass\"";
    let files =
        Files::new(&[("tidegate.toml", text), ("main.pass", "x\n"), ("credentials/main.pass", "y\n")]);
    let directory = files.0.path().join("credentials");
    let found = |environment: &[(&str, &str)]| match &files.load(environment).unwrap().redis["main"].password
    {
        SecretSource::File(path) => path.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found(&[]), files.0.path().join("main.pass"));
    let credentials = ("CREDENTIALS_DIRECTORY", directory.to_str().unwrap());
    assert_eq!(found(&[credentials]), directory.join("main.pass"));
    fs::remove_file(directory.join("main.pass")).unwrap();
    assert_eq!(found(&[credentials]), files.0.path().join("main.pass"));
}

/// Known hashes. A route's revision is in its state: where one of these changes, every running pair
/// would hold the two versions for different configurations.
#[test]
fn revisions_stay_what_they_are() {
    let revision = |text: &str| {
        let config = Files::new(&[("tidegate.toml", text)]).load(&[]).unwrap();
        config.capture["orders"].revision()
    };
    let minimal = revision(ORDERS);
    let full = revision(
        r#"
        [redis.main]
        url = "redis://elsewhere:7000/3"
        [capture.orders]
        source = "main"
        channels = ["b", "a"]
        patterns = ["p.*"]
        destination = "main"
        stream = "orders:<channel>"
        groups = ["g2", "g1"]
        groups_start = "$"
        keep = { age = "7d" }
        format = "cloudevents"
        cloudevents = { source = "/s", type = "t.<channel>" }
        include = ["id", "received_at"]
        max_streams = 5
        max_message_size = "1MiB"
        "#,
    );
    assert_eq!(
        [&minimal.numbering, &minimal.mapping, &full.numbering, &full.mapping],
        ["e643f58cb9150bb2", "0a06d0bec27bd4fd", "1d1db461a97baee1", "40670e0fef15e1b6"]
    );
    let keep = "{ entries = 1000, until_acknowledged = [\"g\"] }";
    let until = revision(&ORDERS.replace("{ entries = 1000 }", keep));
    assert_eq!([&until.numbering, &until.mapping], ["e643f58cb9150bb2", "a9c987217f9bf5f8"]);
}

#[test]
fn a_filter_written_in_another_way_is_the_same_revision() {
    let mapping = |conditions: &str| {
        let text = format!("{ORDERS}where = [{conditions}]\n");
        Files::new(&[("tidegate.toml", &text)]).load(&[]).unwrap().capture["orders"].revision().mapping
    };
    let known = mapping(r#"{ field = "a/b", in = ["x", 2, 0.5, true] }, { channel = true, prefix = "o" }"#);
    assert_eq!(known, "b5e940e34028c4eb");
    let other_way = r#"{ channel = true, prefix = "o" }, { pointer = "/a~1b", in = [0.5, true, "x", 2] }"#;
    assert_eq!(mapping(other_way), known);
    assert_ne!(mapping(r#"{ channel = true, prefix = "o" }"#), known);
}

#[test]
fn conditions_can_stand_in_tables_and_in_the_environment() {
    let expected = vec![
        Condition { subject: Subject::Channel, test: Test::Prefix("o".to_owned()) },
        Condition {
            subject: Subject::Payload(Pointer::member("n")),
            test: Test::OneOf(vec![Scalar::Integer(-5), Scalar::Float(0.5), Scalar::Text("05".to_owned())]),
        },
        Condition {
            subject: Subject::Payload(Pointer::parse("/a/0").unwrap()),
            test: Test::OneOf(vec![Scalar::Bool(true)]),
        },
        Condition { subject: Subject::Payload(Pointer::parse("").unwrap()), test: Test::Exists(false) },
    ];
    let tables = r#"
        [[capture.orders.where]]
        channel = true
        prefix = "o"
        [[capture.orders.where]]
        field = "n"
        in = [-5, 0.5, "05"]
        [[capture.orders.where]]
        pointer = "/a/0"
        equals = true
        [[capture.orders.where]]
        pointer = ""
        exists = false
    "#;
    let config = Files::new(&[("tidegate.toml", &format!("{ORDERS}{tables}"))]).load(&[]).unwrap();
    assert_eq!(config.capture["orders"].conditions, expected);
    let variable = (
        "TIDEGATE_CAPTURE__ORDERS__WHERE",
        r#"[{channel=true, prefix="o"}, {field="n", in=[-5, 0.5, "05"]}, {pointer="/a/0", equals=true}, {pointer="", exists=false}]"#,
    );
    let config = Files::new(&[("tidegate.toml", ORDERS)]).load(&[variable]).unwrap();
    assert_eq!(config.capture["orders"].conditions, expected);
}

#[test]
fn a_revision_follows_what_the_route_does_and_nothing_else() {
    let revision = |text: &str| {
        let config = Files::new(&[("tidegate.toml", text)]).load(&[]).unwrap();
        config.capture["orders"].revision()
    };
    let base = revision(ORDERS);
    let defaults =
        "max_streams = 10_000\nmax_message_size = \"16MiB\"\nmode = \"subscribe\"\nformat = \"raw\"\n";
    assert_eq!(revision(&format!("{ORDERS}{defaults}")), base, "a default that is written out");
    assert_eq!(revision(&ORDERS.replace("localhost", "elsewhere:7000")), base, "the server moved");
    let channels = |list: &str| revision(&ORDERS.replace("[\"orders\"]", list));
    let more = channels("[\"orders\", \"a\"]");
    assert_ne!(more.numbering, base.numbering);
    assert_eq!(more.mapping, base.mapping);
    assert_eq!(channels("[\"a\", \"orders\"]"), more, "the order of channels means nothing");
    for option in [
        "groups = [\"g\"]",
        "format = \"fields\"",
        "format = \"cloudevents\"",
        "include = [\"id\"]",
        "where = [{ channel = true, prefix = \"o\" }]",
        "where = [{ field = \"a\", equals = 1 }]",
        "where = [{ field = \"a\", equals = \"1\" }]",
        "where = [{ field = \"a\", exists = false }]",
        "max_streams = 3",
        "max_message_size = \"1KiB\"",
    ] {
        let changed = revision(&format!("{ORDERS}{option}\n"));
        assert_eq!(changed.numbering, base.numbering, "{option}");
        assert_ne!(changed.mapping, base.mapping, "{option}");
    }
    let keep = |keep: &str| revision(&ORDERS.replace("{ entries = 1000 }", keep));
    let plain = keep("{ entries = 5 }");
    let until = keep("{ entries = 5, until_acknowledged = [\"b\", \"a\"] }");
    assert_eq!(keep("{ entries = 5, until_acknowledged = [\"a\", \"b\"] }"), until, "nor that of groups");
    assert_eq!(keep("{ entries = 5, until_acknowledged = [] }"), plain);
    assert_eq!(until.numbering, plain.numbering);
    assert_ne!(until.mapping, plain.mapping);
}

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

/// A capture of `main`, with the lines that say what it reads and where it writes.
fn capture(name: &str, lines: &str) -> String {
    format!("[capture.{name}]\nsource = \"main\"\nkeep = \"forever\"\n{lines}\n")
}

fn broadcast(name: &str, lines: &str) -> String {
    format!("[broadcast.{name}]\nsource = \"main\"\ndestination = \"main\"\n{lines}\n")
}

const SERVERS: &str = r#"
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
    let tap = |lines: &str| orders(&format!("mode = \"replication\"\npatterns = [\"*\"]\n{lines}"));
    let cases: [(&str, String, Option<&str>); 20] = [
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
                assert!(problems.contains("for ever") && problems.contains(arrow), "{what}:\n{problems}");
            }
            (Ok(_), Some(_)) => panic!("{what}: the loop is not found"),
            (Err(problems), None) => panic!("{what}: this is no loop\n{problems}"),
        }
    }
}

#[test]
fn one_user_of_one_server_has_one_acl_line() {
    let files = Files::new(&[(
        "tidegate.toml",
        r#"
        [redis.one]
        url = "redis://me@h"
        [redis.two]
        url = "redis://me@h:6379"
        [redis.unused]
        url = "redis://me@other"
        [capture.in]
        source = "one"
        patterns = ["a b*", "a.*"]
        destination = "two"
        stream = "in:<pattern>"
        keep = "forever"
        "#,
    )]);
    let users = config::acl::users(&files.load(&[]).unwrap());
    assert_eq!(users.len(), 1, "{users:?}");
    let rules = users[0].rules(Some("secret"));
    for rule in ["reset", "on", ">secret", "~in:*", "~tidegate:in:state", "~tidegate:epoch", "+psubscribe"] {
        assert!(rules.iter().any(|found| found == rule), "{rule} is missing in {rules:?}");
    }
    assert!(rules.contains(&"allchannels".to_owned()), "a pattern with a space cannot be named: {rules:?}");
    assert!(users[0].rules(None).contains(&"nopass".to_owned()));
    let printed = users[0].to_string();
    assert!(printed.contains("ACL SETUSER me reset on >PASSWORD "), "{printed}");
    assert!(!printed.contains("secret"), "{printed}");
}

#[test]
fn lists_do_not_fill_tables() {
    for (text, key) in [
        ("daemon = [\"127.0.0.1:1\"]", "daemon"),
        ("capture = [1]", "capture"),
        ("redis.main = [\"redis://h\"]", "redis.main"),
        ("[capture.a]\ncloudevents = [\"x\"]", "capture.a.cloudevents"),
    ] {
        let problems = Files::new(&[("tidegate.toml", text)]).load(&[]).unwrap_err();
        assert!(problems.contains(&format!(": {key}: expected a table, found a list")), "{problems}");
    }
}
