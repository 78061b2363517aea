//! One capture as flags, in place of a configuration file.

use support::{Guarded, Port, program_next_to_tests};

use super::*;

#[test]
fn flags_are_checked_as_a_file_is() {
    let base = ["check", "--source", "redis://u:hunter2@h", "--stream", "orders"];
    let check = |flags: &[&str], code: i32| {
        let output = tidegate(&[&base[..], flags].concat());
        let said = printed(&output, code) + &text(&output.stderr);
        assert!(!said.contains("hunter2"), "{said}");
        said
    };
    let shown = check(&["--pattern", "orders.*", "--keep", "1000000"], OK);
    assert!(
        shown.contains("  warning: --source has a password, which every user of this machine can see"),
        "{shown}"
    );
    let hidden = ["check", "--source", "redis://u@h", "--stream", "orders", "--pattern", "orders.*"];
    assert_golden(
        "check-flags.txt",
        &printed(&tidegate(&[&hidden[..], &["--keep", "1000000"]].concat()), OK),
    );
    let other = ["--channel", "a", "--channel", "[b]", "--destination", "redis://other", "--route", "r"];
    let said = check(&[&other[..], &["--keep", "7d", "--keep", "5"]].concat(), OK);
    assert!(said.contains("capture r: source (a, [b]) → destination, stream orders, no groups"), "{said}");
    assert!(said.contains("keeps at most about 5 entries, 7days by age"), "{said}");
    assert!(check(&["--channel", "a", "--keep", "forever"], OK).contains("keeps everything"));

    let wrong = check(&["--keep", "7x", "--destination", "http://u:hunter2@h"], CONFIGURATION);
    for expected in [
        "command line: capture.orders.keep: expected { entries",
        "command line: capture.orders: names no channel",
        "command line: redis.destination.url: has an unknown scheme",
    ] {
        assert!(wrong.contains(expected), "{expected}: {wrong}");
    }
    assert!(
        check(&["--channel", "a"], CONFIGURATION).contains("command line: capture.orders.keep: is missing")
    );
    let zero = check(&["--channel", "a", "--keep", "0"], CONFIGURATION);
    assert!(zero.contains("command line: capture.orders.keep.entries: expected a whole number"), "{zero}");
    for flags in [
        &["--keep", "5", "--keep", "6"][..],
        &["--keep", "forever", "--keep", "6"],
        &["--config", FULL],
        &["--stream", "orders"],
    ] {
        check(flags, USAGE);
    }
    let grouped = check(&["--channel", "a", "--keep", "5", "--group", "one", "--group", "two"], OK);
    assert!(grouped.contains("groups one, two"), "{grouped}");
    for command in [&["run", "--pattern", "a"][..], &["run", "--source", "redis://h"]] {
        let incomplete = tidegate(command);
        printed(&incomplete, USAGE);
        assert!(text(&incomplete.stderr).contains("needs --source, --stream, "), "{command:?}");
    }
    // A name that begins as a list does is a name.
    let named = ["check", "--source", "redis://h", "--channel", "a", "--keep", "5", "--stream", "{a}:orders"];
    let unnamed = tidegate(&named);
    printed(&unnamed, USAGE);
    assert!(text(&unnamed.stderr).contains("give it one with --route"), "{}", text(&unnamed.stderr));
    let said = printed(&tidegate(&[&named[..], &["--route", "r"]].concat()), OK);
    assert!(said.contains("stream {a}:orders,"), "{said}");
}

/// The environment has the rest, such as where it listens. A reload finds the same flags.
#[test]
fn a_daemon_runs_without_a_file_and_captures() {
    let server = Server::start(Version::Redis70);
    let directory = tempfile::tempdir().unwrap();
    let port = Port::claim();
    let listen = format!("127.0.0.1:{}", port.number());
    let log = directory.path().join("log");
    let file = fs::File::create(&log).unwrap();
    let mut daemon = Guarded::start("tidegate", &program_next_to_tests("tidegate"), |command| {
        command.args([
            "run",
            "--source",
            &server.url("default"),
            "--pattern",
            "orders.*",
            "--stream",
            "orders",
        ]);
        command.args(["--keep", "1000000"]);
        command.env("TIDEGATE_DAEMON__LISTEN", &listen);
        command.env("TIDEGATE_DAEMON__STATE_DIRECTORY", directory.path().join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    });
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(arguments).env("TIDEGATE_DAEMON__LISTEN", &listen).output().unwrap()
    };
    let patience = Duration::from_secs(60);
    eventually("it answers", patience, || {
        let output = ask(&["wait", "--timeout", "30s"]);
        if output.status.success() { Ok(()) } else { Err(fs::read_to_string(&log).unwrap()) }
    });
    daemon.signal(Signal::SIGHUP);
    eventually("the configuration was read again", patience, || {
        let log = fs::read_to_string(&log).unwrap();
        if log.contains("\"event\":\"reloaded\"") { Ok(()) } else { Err(log) }
    });
    server.ask::<u64>(&["PUBLISH", "orders.paid", "5"]);
    eventually("it is stored", patience, || match server.ask::<u64>(&["XLEN", "orders"]) {
        1 => Ok(()),
        count => Err(format!("{count} entries")),
    });
    let status: serde_json::Value = serde_json::from_str(&printed(&ask(&["status", "--json"]), OK)).unwrap();
    assert_eq!(status["configuration"], "command line");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(patience).code(), Some(OK), "{}", fs::read_to_string(&log).unwrap());
}
