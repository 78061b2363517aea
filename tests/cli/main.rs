//! The command line as an operator and a shell meet it: the real program, real servers.
//!
//! `UPDATE_GOLDEN=1 cargo test --test cli` writes the golden files anew; read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod asking;
mod connect;
mod output;
mod rights;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use clap::CommandFactory;
use nix::sys::signal::Signal;
use support::{Daemon, Options, Server, Setup, Version, alert, eventually};
use tidegate::cli::Cli;

const GOLDEN: &str = "tests/golden/cli";
const FULL: &str = "config/examples/full/tidegate.toml";

/// Exit codes, as the module `cli` states them.
const OK: i32 = 0;
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const CONFIGURATION: i32 = 78;

const ROUTES: &str = r#"
[capture.orders]
source = "shop"
channels = ["orders.placed"]
patterns = ["orders.eu.*"]
destination = "events"
stream = "orders"
groups = ["inventory"]
keep = { entries = 1_000, age = "7d" }

[capture.tenants]
source = "shop"
patterns = ["tenant.*"]
destination = "events"
stream = "tenant:<1>"
groups = ["billing"]
keep = { age = "30d" }
format = "fields"

[broadcast.stock]
source = "events"
stream = "stock"
destination = "shop"
channel = "stock.changed"
message = "<field:sku>"
start = "beginning"

[broadcast.local]
source = "events"
stream = "stock"
destination = "events"
channel = "stock.local"
message = "<field:sku>"
start = "end"
"#;

fn tidegate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        // The width of a help text must not depend on who runs the test.
        .env_remove("COLUMNS")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a command printed, which ended with this code.
#[track_caller]
fn printed(output: &Output, code: i32) -> String {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    text(&output.stdout)
}

/// Compares a text with its golden file, or writes the file.
#[track_caller]
fn assert_golden(name: &str, found: &str) {
    let path = Path::new(GOLDEN).join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(GOLDEN).unwrap();
        fs::write(path, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, expected, "{} differs; UPDATE_GOLDEN=1 writes it anew", path.display());
}

fn commands() -> Vec<String> {
    let names: Vec<String> = Cli::command().get_subcommands().map(|one| one.get_name().to_owned()).collect();
    assert!(names.len() >= 8, "only {names:?}");
    names
}

#[test]
fn the_help_of_every_command_is_as_its_golden_file_says() {
    assert_golden("help.txt", &printed(&tidegate(&["--help"]), OK));
    for name in commands() {
        assert_golden(&format!("help-{name}.txt"), &printed(&tidegate(&[&name, "--help"]), OK));
        let command = Cli::command();
        for inner in command.find_subcommand(&name).unwrap().get_subcommands() {
            let inner = inner.get_name();
            let help = printed(&tidegate(&[&name, inner, "--help"]), OK);
            assert_golden(&format!("help-{name}-{inner}.txt"), &help);
        }
    }
}

#[test]
fn completions_and_the_manual_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&tidegate(&["completions", shell]), OK);
        for name in commands() {
            assert!(script.contains(&name), "the completions for {shell} do not name {name}");
        }
        if shell == "bash" {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("tidegate.bash");
            fs::write(&path, &script).unwrap();
            let checked = Command::new("bash").arg("-n").arg(&path).output().unwrap();
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        }
    }
    let manual = printed(&tidegate(&["man"]), OK);
    assert!(manual.lines().any(|line| line.starts_with(".TH tidegate 1")), "{manual}");
    for name in commands() {
        let escaped = name.replace('-', "\\-");
        assert!(manual.contains(&format!("tidegate\\-{escaped}(1)")), "the manual does not name {name}");
        // What it names is there.
        let page = printed(&tidegate(&["man", &name]), OK);
        assert!(page.contains(&format!(".TH tidegate-{name} 1")), "{page}");
        assert!(page.contains("\\-\\-config"), "{name}: {page}");
    }
    let page = printed(&tidegate(&["man", "dead-letters", "requeue"]), OK);
    assert!(page.contains(".TH tidegate-dead-letters-requeue 1"), "{page}");
    printed(&tidegate(&["man", "no-such"]), USAGE);
}

#[test]
fn a_mistake_on_the_command_line_is_64_and_one_in_the_file_78() {
    let none = printed(&tidegate(&["check", "--conect"]), USAGE);
    assert_eq!(none, "", "a mistake is not told on standard output");
    printed(&tidegate(&[]), USAGE);
    let unknown = tidegate(&["gaps", "oders", "--config", FULL]);
    printed(&unknown, USAGE);
    assert!(text(&unknown.stderr).contains("known: orders, tenants"), "{}", text(&unknown.stderr));
    for command in ["check", "acl", "gaps", "run"] {
        let absent = tidegate(&[command, "--config", "/nonexistent/tidegate.toml"]);
        printed(&absent, CONFIGURATION);
        assert!(text(&absent.stderr).contains("/nonexistent/tidegate.toml"), "{command}");
    }
}

#[test]
fn the_environment_names_the_configuration_where_no_option_does() {
    let run = |arguments: &[&str], file: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(arguments).env("TIDEGATE_CONFIG", file).output().unwrap()
    };
    assert_golden("check-full.txt", &printed(&run(&["check"], FULL), OK));
    // Those that only ask the daemon continue without it, and say so.
    let asking: &[&str] = &["status", "healthcheck", "wait --timeout 0s"];
    let reading = [
        "check",
        "config",
        "acl",
        "gaps",
        "run",
        "dead-letters list",
        "dead-letters show a 1-0",
        "dead-letters requeue a 1-0",
        "dead-letters drop a 1-0",
        "tap a",
        "replay a --from 0 --channel b",
        "invalidate a --missed",
        "spool verify",
        "try a",
    ];
    let mut tried: BTreeSet<&str> = ["completions", "explain", "man"].into();
    for command in reading.iter().chain(asking) {
        let words: Vec<&str> = command.split(' ').collect();
        tried.insert(words[0]);
        let absent = run(&words, "/nonexistent/named.toml");
        printed(&absent, if asking.contains(command) { UNAVAILABLE } else { CONFIGURATION });
        assert!(text(&absent.stderr).contains("/nonexistent/named.toml"), "{command}");
    }
    assert_eq!(tried.len(), commands().len(), "a command is missing here: {:?}", commands());
    printed(&run(&["check", "--config", FULL], "/nonexistent/named.toml"), OK);
}

#[test]
fn the_summary_of_a_configuration_is_as_its_golden_file_says() {
    assert_golden("check-full.txt", &printed(&tidegate(&["check", "--config", FULL]), OK));
}

#[test]
fn a_code_is_explained_in_each_of_its_meanings_and_an_unknown_one_has_similar_ones() {
    let explain = |code: &str| tidegate(&["explain", code]);
    assert_golden("explain-stale.txt", &printed(&explain("stale"), OK));
    assert_golden("explain-log-event.txt", &printed(&explain("source-silent"), OK));
    assert_golden("explain-metric.txt", &printed(&explain("tidegate_append_seconds"), OK));
    let misspelt = explain("soruce_lots");
    assert_eq!(printed(&misspelt, USAGE), "");
    assert!(text(&misspelt.stderr).contains("similar: source_lost"), "{}", text(&misspelt.stderr));
    let part = explain("spool");
    printed(&part, USAGE);
    assert!(text(&part.stderr).contains("spool_corrupt, "), "{}", text(&part.stderr));
    printed(&explain("\u{1b}[2J"), USAGE);
    let all = printed(&tidegate(&["explain"]), OK);
    for listed in ["log event:\n", "state of a route:\n", "\n  broadcast_live\n", "\n  deleted_unread\n"] {
        assert!(all.contains(listed), "{listed} is missing: {all}");
    }
}

#[test]
fn gaps_lists_the_records_as_a_table_and_as_lines() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("main", &server)
        .routes(
            "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
             stream = \"orders\"\nkeep = \"forever\"\n\
             [capture.other]\nsource = \"main\"\nchannels = [\"other\"]\ndestination = \"main\"\n\
             stream = \"other\"\nkeep = \"forever\"\n",
        )
        .prepare();
    assert_golden("gaps-none.txt", &printed(&daemon.run_command(&["gaps"]), OK));

    // More than two pages of them, and one that is not the route's.
    let record = "redis.call('XADD', KEYS[1], i .. '-1', 'from', 'a', 'to', 'b', 'started_at', 1000 * i, \
                  'ended_at', 1000 * i + 1, 'cause', 'restart', 'detail', 'tidegate was not running', 'dropped', i)";
    let many = format!("for i = 1, 2001 do {record} end");
    server.ask::<()>(&["EVAL", &many, "1", "tidegate:orders:gaps"]);
    server.ask::<()>(&["EVAL", &format!("local i = 7 {record}"), "1", "tidegate:other:gaps"]);

    let table = printed(&daemon.run_command(&["gaps", "orders"]), OK);
    assert_eq!(table.lines().count(), 1 + 2001);
    let first: Vec<&str> = table.lines().take(3).collect();
    assert_golden("gaps-first.txt", &format!("{}\n", first.join("\n")));
    let recent = printed(&daemon.run_command(&["gaps", "orders", "--since", "1970-01-01T00:33:20Z"]), OK);
    assert_eq!(recent.lines().count(), 1 + 2, "those of the seconds 2000 and 2001: {recent}");
    let last = printed(&daemon.run_command(&["gaps", "orders", "--last", "2"]), OK);
    let dropped: Vec<&str> =
        last.lines().skip(1).map(|line| line.split_whitespace().nth(4).unwrap()).collect();
    assert_eq!(dropped, ["2000", "2001"], "the latest stands last: {last}");
    let verbose = printed(&daemon.run_command(&["gaps", "other", "--verbose"]), OK);
    assert!(verbose.ends_with("  after position a\n  before position b\n"), "{verbose}");

    let lines = printed(&daemon.run_command(&["gaps", "--json"]), OK);
    let gaps: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(gaps.len(), 2002);
    for (number, gap) in gaps[..2001].iter().enumerate() {
        assert_eq!((&gap["route"], &gap["dropped"]), (&"orders".into(), &(number + 1).into()));
    }
    assert_eq!(
        gaps[2001],
        serde_json::json!({
            "route": "other", "started_at": 7000, "ended_at": 7001, "cause": "restart", "dropped": 7,
            "from": "a", "to": "b", "detail": "tidegate was not running"
        })
    );
}

/// For scripts, and for a look at many gaps at once.
#[test]
fn gaps_are_counted_by_cause_and_tell_a_script_that_there_are_some() {
    let server = Server::start(Version::Redis70);
    let route = "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
                 stream = \"orders\"\nkeep = \"forever\"\n";
    let daemon = Setup::new().endpoint("main", &server).routes(route).prepare();
    printed(&daemon.run_command(&["gaps", "--exit-code"]), OK);
    for (number, cause) in [(1, "restart"), (2, "memory_full"), (3, "restart")] {
        let (started, ended) = (number * 1000, number * 1000 + 500);
        server.ask::<String>(&[
            "XADD",
            "tidegate:orders:gaps",
            &format!("{number}-1"),
            "started_at",
            &started.to_string(),
            "ended_at",
            &ended.to_string(),
            "cause",
            cause,
            "dropped",
            "2",
        ]);
    }
    let summary = printed(&daemon.run_command(&["gaps", "--summary"]), OK);
    let rows: Vec<Vec<&str>> = summary.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[1..],
        [
            ["orders", "memory_full", "1", "2", "1970-01-01T00:00:02.500Z", "500ms"],
            ["orders", "restart", "2", "4", "1970-01-01T00:00:03.500Z", "1s"],
        ],
        "{summary}"
    );
    let lines = printed(&daemon.run_command(&["gaps", "--summary", "--json", "--exit-code"]), 1);
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(
        last,
        serde_json::json!({
            "route": "orders", "cause": "restart", "gaps": 2, "milliseconds": 1000, "dropped": 4,
            "last_ended_at": 3500
        })
    );
    // A time without gaps is none to a script, with and without the sign.
    for since in ["1h", "-1h"] {
        printed(&daemon.run_command(&["gaps", "--exit-code", "--since", since]), OK);
    }
    printed(&daemon.run_command(&["gaps", "--since", "yesterday"]), USAGE);
}

#[test]
fn each_value_of_the_configuration_is_printed_with_its_place() {
    let all = printed(&tidegate(&["config", "--config", FULL]), OK);
    for line in [
        "daemon.force_after = \"5s\"  # default",
        "capture.tenants.stream = \"tenant:<1>\"  # config/examples/full/conf.d/tenants.toml:",
    ] {
        assert!(all.lines().any(|printed| printed.starts_with(line)), "{line} is missing: {all}");
    }
    let part = printed(&tidegate(&["config", "capture.tenants", "--config", FULL, "--json"]), OK);
    for line in part.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value["key"].as_str().unwrap().starts_with("capture.tenants."), "{line}");
        assert!(value["from"].is_null() || value["from"].as_str().unwrap().contains(".toml:"), "{line}");
    }
    printed(&tidegate(&["config", "capture.tenant", "--config", FULL]), USAGE);
}

/// By the routes' own functions: what is left out, stored, published, removed, or a dead letter.
#[test]
fn a_route_is_tried_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    let routes = r#"
[redis.main]
url = "redis://nowhere.invalid"
[capture.orders]
source = "main"
channels = ["orders.paid"]
patterns = ["orders.*"]
where = [{ field = "kind", equals = "order" }, { pointer = "/test", exists = false }]
origin = "here"
destination = "main"
stream = "o:<channel>:<pointer:/shop>"
keep = "forever"
[broadcast.out]
source = "main"
streams = "stock:*"
destination = "main"
channel = "stock.<field:sku>"
where = [{ entry = "kind", prefix = "st" }]
[invalidate.cache]
source = "main"
stream = "products"
destination = "main"
keys = ["product:<pointer:/sku>", "by:<field:name>"]
"#;
    fs::write(&file, routes).unwrap();
    let tried = |route: &str, arguments: &[&str], code: i32| {
        let command = [&["try", route, "--config", file.to_str().unwrap()], arguments].concat();
        let output = tidegate(&command);
        printed(&output, code) + &text(&output.stderr)
    };
    let message = |channel: &str, payload: &str, code: i32| {
        tried("orders", &["--channel", channel, "--payload", payload], code)
    };
    assert_eq!(
        message("orders.eu", r#"{"kind":"order","shop":7}"#, OK),
        "stored in the stream o:orders.eu:7\n  channel: orders.eu\n  pattern: orders.*\n  \
         payload: {\"kind\":\"order\",\"shop\":7}\n"
    );
    let exact = message("orders.paid", r#"{"kind":"order","shop":7}"#, OK);
    assert!(!exact.contains("pattern"), "the exact name comes first: {exact}");
    for (channel, payload, expected) in [
        ("stock", "{}", "not received: "),
        ("orders.eu", "{}", "left out: where /kind = \"order\"\n"),
        ("orders.eu", r#"{"kind":"order","test":1}"#, "left out: where /test does not exist\n"),
        ("orders.eu", r#"{"kind":"order"}"#, "dead letter missing_variable: "),
    ] {
        let said = message(channel, payload, 1);
        assert!(said.starts_with(expected), "{payload}: {said}");
    }
    let out = |arguments: &[&str], code| tried("out", arguments, code);
    let entry = ["--stream", "stock:eu", "--entry", "kind=stock", "sku=7", "payload=a=b"];
    assert_eq!(out(&entry, OK), "published on the channel stock.7\n  a=b\n");
    let other = out(&["--stream", "stock:eu", "--entry", "kind=other"], 1);
    assert_eq!(other, "left out: where entry field kind begins with \"st\"\n");
    let missing = out(&["--stream", "stock:eu", "--entry", "kind=stock", "payload=x"], 1);
    assert!(missing.starts_with("dead letter missing_field: "), "{missing}");
    for wrong in [&["--entry", "kind=stock"][..], &["--stream", "other", "--entry", "a=b"], &[]] {
        out(wrong, USAGE);
    }
    let half = tried("cache", &["--entry", r#"payload={"sku":5}"#], OK);
    assert!(half.starts_with("removed: the key product:5\ndead letter no_key: "), "{half}");
    tried("cache", &["--entry", "no-value"], USAGE);
    tried("nothing", &["--entry", "a=b"], USAGE);
}

#[test]
fn status_has_rates_on_a_terminal_and_where_they_are_asked_for() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("main", &server)
        .routes(
            "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
             stream = \"orders\"\nkeep = \"forever\"\n",
        )
        .expects(&[alert::GAP])
        .start_ready();
    server.ask::<u64>(&["PUBLISH", "orders", "1"]);
    daemon.wait_settled("orders", 1);
    let words = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let once = words(&printed(&daemon.run_command(&["status"]), OK));
    assert_eq!(once[0][..4].join(" "), format!("tidegate {}, running for", env!("CARGO_PKG_VERSION")));
    assert_eq!(once[1], ["ROUTE", "KIND", "STATE", "DONE", "BUFFERED", "GAPS", "REJECTED", "REASON"]);
    assert_eq!(once[2], ["orders", "capture", "live", "1", "0", "0", "0"]);
    let rates = words(&printed(&daemon.run_command(&["status", "--interval", "100ms"]), OK));
    assert_eq!(rates[1][3..7], ["DONE", "PER", "SECOND", "LAST"]);
    assert_eq!(rates[2][..5], ["orders", "capture", "live", "1", "0"]);
    let (code, shown) = daemon.run_on_terminal(&["status"]);
    assert!(code == Some(OK) && shown.contains("PER SECOND"), "{code:?} {shown}");
    printed(&daemon.run_command(&["status", "--interval", "0s"]), USAGE);

    // Again and again, through a daemon that is away for a while.
    let mut daemon = daemon;
    let file = daemon.configuration().with_file_name("output");
    let mut watch = daemon.start_command(&["status", "--watch", "--interval", "100ms"], &file);
    let sees = |what: &str, times: usize| {
        eventually(&format!("{what}, {times} times"), Duration::from_secs(20), || {
            let said = fs::read_to_string(&file).unwrap();
            if said.matches(what).count() >= times { Ok(()) } else { Err(said) }
        });
    };
    sees(" live ", 3);
    daemon.kill();
    sees("no reply from tidegate", 1);
    // On a terminal as well, and not only until the screen is drawn anew.
    let screens = daemon.configuration().with_file_name("screens");
    let on_terminal = daemon.start_on_terminal(&["status", "--watch", "--interval", "100ms"], &screens);
    eventually("the screen says that the daemon is away", Duration::from_secs(20), || {
        let drawn = fs::read_to_string(&screens).unwrap_or_default();
        let drawn: Vec<&str> = drawn.split("\x1b[H\x1b[J").collect();
        // The last one may be half drawn.
        match drawn.as_slice() {
            [before, whole @ .., _] if !whole.is_empty() => {
                assert!(!before.contains("no reply"), "it is cleared away: {drawn:?}");
                assert!(whole.iter().all(|screen| screen.contains("no reply from tidegate")), "{whole:?}");
                Ok(())
            }
            _ => Err(format!("{drawn:?}")),
        }
    });
    drop(on_terminal);
    let before = fs::read_to_string(&file).unwrap().matches(" live ").count();
    daemon.start_again();
    sees(" live ", before + 2);
    watch.signal(Signal::SIGINT);
    assert_eq!(watch.wait(Duration::from_secs(20)).code(), Some(OK));
    daemon.wait_ready();
}

#[test]
fn a_replay_draws_a_bar_on_a_terminal() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("main", &server)
        .routes(
            "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
             stream = \"orders\"\nkeep = \"forever\"\n",
        )
        .prepare();
    for id in ["1000-0", "2000-0", "2100-0"] {
        server.ask::<String>(&["XADD", "orders", id, "payload", "x"]);
    }
    let operator = daemon.operator(&["again"]);
    let (code, shown) =
        operator.run_on_terminal(&["replay", "orders", "--from", "0", "--channel", "again", "--speed", "2"]);
    assert_eq!(code, Some(OK), "{shown}");
    assert!(shown.contains("% 1 entry published") || shown.contains("% 2 entries published"), "{shown}");
    assert!(shown.contains("3 entries published, 3 without subscribers"), "{shown}");
}

#[test]
fn what_asks_a_daemon_or_a_server_that_is_away_is_69() {
    let mut server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("main", &server)
        .routes(
            "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
             stream = \"orders\"\nkeep = \"forever\"\n",
        )
        .prepare();
    server.kill();
    for command in [&["status"][..], &["healthcheck"], &["gaps"], &["check", "--connect"]] {
        printed(&daemon.run_command(command), UNAVAILABLE);
    }
}
