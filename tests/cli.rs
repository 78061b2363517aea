//! The command line as a person and a shell meet it: the real program, real servers.
//!
//! `UPDATE_GOLDEN=1 cargo test --test cli` writes the golden files anew; read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "support/mod.rs"]
mod support;

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
    assert!(text(&unknown.stderr).contains("there are: orders, tenants"), "{}", text(&unknown.stderr));
    for command in ["check", "acl", "gaps", "status", "healthcheck", "run"] {
        let absent = tidegate(&[command, "--config", "/nonexistent/tidegate.toml"]);
        printed(&absent, CONFIGURATION);
        assert!(text(&absent.stderr).contains("/nonexistent/tidegate.toml"), "{command}");
    }
}

#[test]
fn the_summary_of_a_configuration_is_as_its_golden_file_says() {
    assert_golden("check-full.txt", &printed(&tidegate(&["check", "--config", FULL]), OK));
}

/// The report without what differs from run to run.
fn without_versions(report: &str, daemon: &Daemon, servers: &[(&str, &Server)]) -> String {
    let mut found = report.to_owned();
    for (name, server) in servers {
        found = found.replace(&server.socket().display().to_string(), &format!("/run/{name}.sock"));
    }
    let directory = daemon.configuration().parent().unwrap().display().to_string();
    found = found.replace(&directory, "/etc/tidegate");
    let lines =
        found.lines().map(|line| match line.strip_prefix("  Redis ").or(line.strip_prefix("  Valkey ")) {
            Some(rest) => format!("  SERVER VERSION,{}\n", rest.split_once(',').unwrap().1),
            None => format!("{line}\n"),
        });
    lines.collect()
}

#[test]
fn check_connect_says_how_what_is_acknowledged_is_trimmed() {
    for to in Version::DESTINATIONS {
        let events = Server::with(to, Options::default().durable());
        let routes = r#"
            [capture.orders]
            source = "events"
            channels = ["orders"]
            destination = "events"
            stream = "orders"
            groups = ["inventory", "catalog"]
            keep = { entries = 1_000, until_acknowledged = ["inventory", "catalog"] }
        "#;
        let daemon = Setup::new().endpoint("events", &events).routes(routes).prepare();
        let report = printed(&daemon.run_command(&["check", "--connect"]), OK);
        let what =
            "  trimming: what inventory and catalog acknowledged; past 1000 entries the oldest, counted\n";
        let how = match to {
            Version::Redis82 => "    with XTRIM ACKED, so also behind an entry that stays pending",
            _ => "    only before the first entry that is pending (XTRIM ACKED needs Redis 8.2)\n",
        };
        assert!(report.contains(&format!("{what}{how}")), "{to}: {report}");
        events.ask::<()>(&["ACL", "SETUSER", "tidegate-events", "-xpending"]);
        let report = printed(&daemon.run_command(&["check", "--connect"]), UNAVAILABLE);
        assert!(report.contains("problem: missing right +xpending on the key orders"), "{to}: {report}");
    }
}

#[test]
fn check_connect_says_what_a_broadcast_waits_for() {
    let events = Server::with(Version::Redis82, Options::default().durable());
    for (lines, pending, noticed) in [
        ("", "an entry that stays pending holds up everything behind it", "by asking"),
        (
            "order = \"acknowledgement\"\nmax_holes = 30\nmode = \"replication\"",
            "up to 30 entries that stay pending are left behind, and then nothing goes on",
            "in the replication stream, and without it by asking",
        ),
    ] {
        let routes = format!(
            r#"
            [broadcast.stock]
            source = "events"
            stream = "orders"
            after = "inventory"
            {lines}
            destination = "events"
            channel = "stock.changed"
            "#
        );
        let daemon = Setup::new().endpoint("events", &events).routes(&routes).prepare();
        let report = printed(&daemon.run_command(&["check", "--connect"]), OK);
        let expected = format!(
            "  waits for: the group inventory; {pending}\n    acknowledgements are noticed {noticed}"
        );
        assert!(report.contains(&expected), "{report}");
    }
}

#[test]
fn check_connect_says_on_every_server_what_it_found_and_what_is_guaranteed() {
    let pairs = Version::SOURCES.into_iter().zip(Version::DESTINATIONS.into_iter().cycle());
    for (from, to) in pairs {
        let shop = Server::start(from);
        let events = Server::with(to, Options::default().durable());
        let daemon =
            Setup::new().endpoint("shop", &shop).endpoint("events", &events).routes(ROUTES).prepare();
        events.ask::<()>(&["ACL", "SETUSER", "tidegate-events", "+config|get"]);
        let before: u64 = events.ask(&["DBSIZE"]);
        let output = daemon.run_command(&["check", "--connect"]);
        let report = printed(&output, OK);
        let (program, version) = match to {
            Version::Valkey80 => ("Valkey", "8.0."),
            Version::Valkey91 => ("Valkey", "9.1."),
            Version::Redis82 => ("Redis", "8.2."),
            _ => ("Redis", "7.0."),
        };
        assert!(report.contains(&format!("  {program} {version}")), "{to}: {report}");
        let found = without_versions(&report, &daemon, &[("shop", &shop), ("events", &events)]);
        assert_golden("check-connect.txt", &found);
        assert_eq!(events.ask::<u64>(&["DBSIZE"]), before, "{to}: checking writes nothing");
    }
}

#[test]
fn check_connect_names_what_stands_in_the_way_and_is_69() {
    let shop = Server::start(Version::Redis70);
    let events = Server::with(Version::Redis62, Options::default().with("maxmemory-policy", "allkeys-lru"));
    let daemon = Setup::new()
        .endpoint("shop", &shop)
        .endpoint("events", &events)
        .dead_endpoint("gone")
        .routes(&format!(
            "{ROUTES}\n[capture.lost]\nsource = \"gone\"\nchannels = [\"a\"]\ndestination = \"events\"\n\
             stream = \"lost\"\nkeep = \"forever\"\n"
        ))
        .prepare();
    shop.ask::<()>(&["ACL", "SETUSER", "tidegate-shop", "-psubscribe", "resetchannels", "&tidegate:control"]);
    let report = printed(&daemon.run_command(&["check", "--connect"]), UNAVAILABLE);
    for told in [
        "problem: cannot be used: No such file or directory",
        "problem: missing right +psubscribe on the channel orders.eu.*: NOPERM",
        "problem: missing right +subscribe on the channel orders.placed: NOPERM",
        "problem: missing right +publish on the channel stock.changed: NOPERM",
        "is too old: what holds streams must be Redis 7.0 or newer",
        "warning: maxmemory-policy is allkeys-lru",
        "warning: appendonly is no",
    ] {
        assert!(report.contains(told), "no {told:?} in\n{report}");
    }
    assert!(
        !report.contains("+subscribe on the channel tidegate:control"),
        "what is allowed is not told: {report}"
    );
}

#[test]
fn check_connect_says_why_a_server_takes_no_writes() {
    let shop = Server::start(Version::Redis82);
    let events = Server::start(Version::Valkey91);
    let daemon = Setup::new().endpoint("shop", &shop).endpoint("events", &events).routes(ROUTES).prepare();
    shop.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    events.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let report = printed(&daemon.run_command(&["check", "--connect"]), UNAVAILABLE);
    for told in [
        "problem: the server is a replica, and takes no writes: name the master in the url",
        "OOM command not allowed when used memory > 'maxmemory'. (raise maxmemory, trim streams",
    ] {
        assert!(report.contains(told), "no {told:?} in\n{report}");
    }
    assert_eq!(report.matches("OOM").count(), 1, "it is said once:\n{report}");
}

#[test]
fn the_lines_of_acl_are_all_that_the_daemon_needs_on_every_server() {
    let pairs = Version::SOURCES.into_iter().zip(Version::DESTINATIONS.into_iter().cycle());
    for (from, to) in pairs {
        let shop = Server::start(from);
        let events = Server::start(to);
        // A group that is added to streams which are there, one of them made by a template before.
        events.ask::<String>(&["XGROUP", "CREATE", "orders", "other", "0", "MKSTREAM"]);
        events.ask::<u64>(&["SADD", "tidegate:tenants:streams", "tenant:old"]);
        events.ask::<String>(&["XADD", "stock", "*", "sku", "before the start"]);
        for server in [&shop, &events] {
            server.ask::<()>(&["CONFIG", "RESETSTAT"]);
        }
        let mut daemon = Setup::new()
            .endpoint("shop", &shop)
            .endpoint("events", &events)
            .routes(ROUTES)
            .expects(&[alert::GAP, alert::DEAD_LETTER])
            .start_ready();
        for (channel, message) in
            [("orders.placed", "1"), ("tenant.a", r#"{"a":1}"#), ("tenant.a", "no JSON")]
        {
            shop.ask::<u64>(&["PUBLISH", channel, message]);
        }
        for sku in ["4711", ""] {
            events.ask::<String>(&["XADD", "stock", "*", "sku", sku]);
        }
        events.ask::<String>(&["XADD", "stock", "*", "other", "rejected: no such field"]);
        let length = |key: &str| events.stream_length(key);
        eventually(&format!("{from} to {to}: everything is stored"), Duration::from_secs(20), || {
            let keys = ["orders", "tenant:a", "tidegate:tenants:dead-letters"];
            let lengths = keys.map(length);
            let published: Option<u64> = events.ask(&["HGET", "tidegate:local:cursor", "published"]);
            let elsewhere: Option<u64> = events.ask(&["HGET", "tidegate:stock:cursor", "published"]);
            if lengths == [1, 1, 1] && published.is_some() && elsewhere.is_some() {
                Ok(())
            } else {
                Err(format!("{lengths:?} {published:?} {elsewhere:?}"))
            }
        });
        daemon.restart();
        daemon.wait_ready();
        shop.ask::<u64>(&["PUBLISH", "orders.placed", "2"]);
        eventually("a gap is recorded", Duration::from_secs(20), || {
            if length("tidegate:orders:gaps") == 1 { Ok(()) } else { Err("none".to_owned()) }
        });
        printed(&daemon.run_command(&["gaps"]), OK);
        printed(&daemon.run_command(&["check", "--connect"]), OK);
        assert!(daemon.stop().success());

        for (name, server) in [("shop", &shop), ("events", &events)] {
            // They suffice: the optional right is the only one that was refused.
            let log: Vec<HashMap<String, redis::Value>> = server.ask(&["ACL", "LOG", "100"]);
            let refused: BTreeSet<String> = log
                .into_iter()
                .map(|mut entry| redis::from_redis_value(entry.remove("object").unwrap()).unwrap())
                .collect();
            assert!(
                !refused.is_empty() && refused.iter().all(|object| object.starts_with("config")),
                "{from} to {to}: {refused:?}"
            );
            // And none is too much: each was used, what scripts call counted too.
            let granted = granted(&printed(&daemon.run_command(&["acl"]), OK), name);
            assert!(granted.len() > 8, "{granted:?}");
            let used: String = server.ask(&["INFO", "commandstats"]);
            for command in granted {
                let counted = format!("cmdstat_{command}:calls=");
                assert!(used.contains(&counted), "{from} to {to}: {name} never uses {command}\n{used}");
            }
        }
    }
}

/// The commands that the line of an endpoint's user grants.
fn granted(lines: &str, endpoint: &str) -> Vec<String> {
    let users = ["tidegate", "operator"].map(|who| format!("ACL SETUSER {who}-{endpoint} "));
    let line = lines.lines().find(|text| users.iter().any(|user| text.starts_with(user))).unwrap();
    line.split(' ').filter_map(|rule| rule.strip_prefix('+')).map(str::to_owned).collect()
}

#[test]
fn the_lines_of_an_operator_are_as_their_golden_file_says() {
    let command = ["acl", "--operator", "--replay-channel", "again.*", "--config", FULL];
    assert_golden("acl-operator.txt", &printed(&tidegate(&command), OK));
    printed(&tidegate(&["acl", "--replay-channel", "again.*", "--config", FULL]), USAGE);
}

#[test]
fn the_lines_of_an_operator_are_all_that_the_commands_need_on_every_server() {
    let pairs = Version::SOURCES.into_iter().zip(Version::DESTINATIONS.into_iter().cycle());
    for (from, to) in pairs {
        let shop = Server::start(from);
        let events = Server::start(to);
        let daemon =
            Setup::new().endpoint("shop", &shop).endpoint("events", &events).routes(ROUTES).prepare();
        let operator = daemon.operator(&["again.*"]);
        let add = |words: &[&str]| events.ask::<String>(&[&["XADD"][..], words].concat());
        let letter = "position p reason refused detail why stream";
        let letter: Vec<&str> = letter.split(' ').collect();
        let tenant = [&["tidegate:tenants:dead-letters", "1-0"], &letter[..], &["tenant:x", "a", "1"]];
        add(&tenant.concat());
        add(&["orders", "1-0", "channel", "a", "payload", "1"]);
        add(&["stock", "1-0", "sku", "1"]);
        for route in ["stock", "local"] {
            let key = format!("tidegate:{route}:dead-letters");
            add(&[&key, "1-0", "stream", "stock", "id", "1-0", "reason", "missing_field", "detail", "why"]);
            add(&[&key, "2-0", "stream", "stock", "id", "9-0", "reason", "missing_field", "detail", "why"]);
        }
        events.ask::<u64>(&["SADD", "tidegate:tenants:streams", "tenant:old"]);
        for server in [&shop, &events] {
            server.ask::<()>(&["CONFIG", "RESETSTAT"]);
            server.ask::<()>(&["ACL", "LOG", "RESET"]);
        }
        let run = |command: &str| {
            let output = operator.run_command(&command.split(' ').collect::<Vec<_>>());
            assert!(output.status.success(), "{from} to {to}: {command}: {}", text(&output.stderr));
        };
        run("gaps");
        run("dead-letters list --limit 1");
        run("dead-letters show tenants 1-0");
        for route in ["tenants", "stock", "local"] {
            run(&format!("dead-letters requeue {route} 1-0"));
        }
        for route in ["stock", "local"] {
            run(&format!("dead-letters drop {route} 2-0"));
        }
        run("replay orders --from 0 --channel again.1");
        for destination in ["events", "shop"] {
            let onto = format!("--channel again.<field:sku> --message <id> --destination {destination}");
            run(&format!("replay stock --from 0 {onto}"));
        }
        run("replay stock --from 0 --channel again.2 --message <id> --destination shop");
        for route in ["tenants", "stock"] {
            let file = operator.configuration().with_file_name(format!("output-{route}"));
            let mut tap = operator.start_command(&["tap", route], &file);
            eventually("it reads", Duration::from_secs(20), || {
                let said = fs::read_to_string(&file).unwrap();
                if said.contains("Ctrl-C ends") { Ok(()) } else { Err(said) }
            });
            eventually("it waits for entries", Duration::from_secs(20), || {
                let clients: String = events.ask(&["CLIENT", "LIST"]);
                if clients.contains("cmd=xread") { Ok(()) } else { Err(clients) }
            });
            tap.signal(Signal::SIGINT);
            assert_eq!(tap.wait(Duration::from_secs(20)).code(), Some(OK));
        }

        let command = ["acl", "--operator", "--replay-channel", "again.*"];
        let lines = printed(&operator.run_command(&command), OK);
        for (name, server, least) in [("shop", &shop, 3), ("events", &events, 20)] {
            let log: Vec<redis::Value> = server.ask(&["ACL", "LOG", "100"]);
            assert!(log.is_empty(), "{from} to {to}: {name} refused {log:?}");
            let granted = granted(&lines, name);
            assert!(granted.len() > least, "{granted:?}");
            let used: String = server.ask(&["INFO", "commandstats"]);
            for command in granted {
                // Redis 6.2 counts subcommands together.
                let whole = command.split('|').next().unwrap();
                let counted = [&command, whole].map(|name| format!("cmdstat_{name}:calls="));
                let counted = counted.iter().any(|counted| used.contains(counted));
                assert!(counted, "{from} to {to}: {name} never uses {command}\n{used}");
            }
        }
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
                  'ended_at', 1000 * i + 1, 'cause', 'restart', 'detail', 'tidegate was not running', 'dropped', i, \
                  'published', i == 1 and 'unknown' or i)";
    let many = format!("for i = 1, 2001 do {record} end");
    server.ask::<()>(&["EVAL", &many, "1", "tidegate:orders:gaps"]);
    server.ask::<()>(&["EVAL", &format!("local i = 7 {record}"), "1", "tidegate:other:gaps"]);

    let table = printed(&daemon.run_command(&["gaps", "orders"]), OK);
    assert_eq!(table.lines().count(), 1 + 2001);
    let first: Vec<&str> = table.lines().take(3).collect();
    assert_golden("gaps-first.txt", &format!("{}\n", first.join("\n")));

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
            "published": 7,
            "from": "a", "to": "b", "detail": "tidegate was not running"
        })
    );
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
    assert_eq!(once[1], ["orders", "capture", "live", "1", "0"]);
    let rates = words(&printed(&daemon.run_command(&["status", "--interval", "100ms"]), OK));
    assert_eq!(rates[0], ["ROUTE", "KIND", "STATE", "DONE", "PER", "SECOND", "LAST", "IN", "HAND", "WHY"]);
    assert_eq!(rates[1][..5], ["orders", "capture", "live", "1", "0"]);
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
    sees("no answer from tidegate", 1);
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
    assert!(shown.contains("% 1 entries published") || shown.contains("% 2 entries published"), "{shown}");
    assert!(shown.contains("3 entries published, 3 of them to nobody"), "{shown}");
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
