//! Promise: `tidegate tap` shows what comes into a route's streams, disturbs nobody who consumes it, and reads
//! no more than it may.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Daemon, Guarded, Server, Setup, Version, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

fn routes(stream: &str) -> String {
    format!(
        "[capture.orders]\nsource = \"events\"\nchannels = [\"a\", \"b\"]\ndestination = \"events\"\n\
         stream = \"{stream}\"\ngroups = [\"billing\"]\nkeep = \"forever\"\n"
    )
}

/// A tap that has begun, and what it prints.
struct Tap {
    process: Guarded,
    file: PathBuf,
}

impl Tap {
    fn start(operator: &Daemon, arguments: &[&str]) -> Self {
        let file = operator.configuration().with_file_name("output");
        let process = operator.start_command(&[&["tap", "orders"][..], arguments].concat(), &file);
        let tap = Self { process, file };
        tap.wait_for("Ctrl-C to stop");
        tap
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }

    fn wait_for(&self, text: &str) {
        eventually(&format!("it says {text}"), PATIENCE, || {
            let said = self.said();
            if said.contains(text) { Ok(()) } else { Err(said) }
        });
    }
}

#[test]
fn entries_are_shown_as_they_come_and_no_group_notices() {
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        let daemon = Setup::new().endpoint("events", &server).routes(&routes("orders")).start_ready();
        server.ask::<u64>(&["PUBLISH", "a", "before it began"]);
        daemon.wait_settled("orders", 1);
        let groups = || server.ask::<Vec<HashMap<String, redis::Value>>>(&["XINFO", "GROUPS", "orders"]);
        let before = groups();
        let operator = daemon.operator(&[]);
        let mut tap = Tap::start(&operator, &["--width", "12"]);
        for payload in ["first", "\x1b[31m and then very long"] {
            server.ask::<u64>(&["PUBLISH", "a", payload]);
        }
        tap.wait_for(" channel=a payload=first\n");
        tap.wait_for(" payload=\\u{1b}[31m a…(+17 bytes)\n");
        assert!(!tap.said().contains("before it began"), "{version}: {}", tap.said());
        let (before, after) = (before, groups());
        for what in ["consumers", "pending", "last-delivered-id"] {
            assert_eq!(before[0][what], after[0][what], "{version}: {what}");
        }
        tap.process.signal(Signal::SIGINT);
        assert_eq!(tap.process.wait(PATIENCE).code(), Some(0), "{version}: {}", tap.said());
    }
}

#[test]
fn streams_that_a_template_makes_meanwhile_are_shown_too() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new().endpoint("events", &server).routes(&routes("by:<channel>")).start_ready();
    let operator = daemon.operator(&[]);
    let mut tap = Tap::start(&operator, &["--json", "--count", "2"]);
    server.ask::<u64>(&["PUBLISH", "a", "1"]);
    tap.wait_for("\"by:a\"");
    server.ask::<u64>(&["PUBLISH", "b", "2"]);
    assert_eq!(tap.process.wait(PATIENCE).code(), Some(0), "{}", tap.said());
    let said = tap.said();
    let lines: Vec<serde_json::Value> =
        said.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = lines.iter().map(|line| (&line["stream"], &line["fields"][1][1])).collect();
    assert_eq!(seen, [(&"by:a".into(), &"1".into()), (&"by:b".into(), &"2".into())]);
}

#[test]
fn of_many_entries_a_sample_is_shown_and_the_rest_is_not_read() {
    let server = Server::start(Version::Redis82);
    let operator = Setup::new().endpoint("events", &server).routes(&routes("orders")).prepare().operator(&[]);
    let add = |from: usize, count: usize| {
        let script = "for n = ARGV[1], ARGV[1] + ARGV[2] - 1 do redis.call('XADD', KEYS[1], '*', 'n', n) end";
        server.ask::<()>(&["EVAL", script, "1", "orders", &from.to_string(), &count.to_string()]);
    };
    let mut tap = Tap::start(&operator, &["--sample", "5", "--count", "4"]);
    add(1, 20);
    assert_eq!(tap.process.wait(PATIENCE).code(), Some(0));
    let numbers = |said: &str| -> Vec<usize> {
        let after = said.lines().filter_map(|line| line.rsplit_once(" n="));
        after.map(|(_, number)| number.parse().unwrap()).collect()
    };
    assert_eq!(numbers(&tap.said()), [5, 10, 15, 20]);

    // More than may be shown: what lies between is not even read.
    server.ask::<()>(&["CONFIG", "RESETSTAT"]);
    let mut tap = Tap::start(&operator, &["--rate", "3", "--count", "4"]);
    add(1, 10_000);
    tap.wait_for("some are skipped");
    add(10_001, 1);
    assert_eq!(tap.process.wait(PATIENCE).code(), Some(0), "{}", tap.said());
    assert_eq!(numbers(&tap.said()), [1, 2, 3, 10_001]);
    let reads = server.calls("xread");
    assert!((1..100).contains(&reads), "of 16 entries each, not all of 10,000: {reads} reads");
}

#[test]
fn a_route_that_is_not_there_is_64_and_a_server_that_is_away_69() {
    let mut server = Server::start(Version::Redis70);
    let operator = Setup::new().endpoint("events", &server).routes(&routes("orders")).prepare().operator(&[]);
    let output = operator.run_command(&["tap", "oders"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("known: orders"));
    let mut tap = Tap::start(&operator, &[]);
    server.kill();
    assert_eq!(tap.process.wait(PATIENCE).code(), Some(69), "{}", tap.said());
    assert_eq!(operator.run_command(&["tap", "orders"]).status.code(), Some(69));
}
