//! The command line as an operator and a shell meet it: the real program, real servers.
//!
//! `UPDATE_GOLDEN=1 cargo test --test cli` writes the golden files anew; read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod asking;
mod cases;
mod connect;
mod explaining;
mod init;
mod output;
mod rights;
mod route_flags;

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

/// Invalidations of a server `main`: with keys alone, and with a value.
const INVALIDATIONS: &str = r#"
[invalidate.cache]
source = "main"
stream = "products"
destination = "main"
keys = ["product:<pointer:/sku>", "by:<field:name>"]
[invalidate.written]
source = "main"
stream = "products"
destination = "main"
keys = ["product:<pointer:/sku>"]
set = { value = "<pointer:/product>", version = "<pointer:/version>" }
"#;

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
        "report",
        "try a",
        "test",
    ];
    let mut tried: BTreeSet<&str> = ["completions", "explain", "init", "man"].into();
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
