//! Promise: a source that knows some commands by other names only, as managed services do, is captured as far as it can
//! be, and `check --connect` tells what is lost.

use crate::support::{Options, Server, Setup, Version, alert, entries};

/// What a source can do without. HELLO, SUBSCRIBE, PUBLISH, MULTI and EXEC it cannot.
const DISPENSABLE: [&str; 4] = ["INFO", "CONFIG", "CLIENT", "EVAL"];

fn without(commands: &[&str], version: Version) -> Server {
    let options = commands.iter().fold(Options::default(), |options, command| options.renamed(command));
    Server::with(version, options.tcp())
}

#[test]
fn a_source_without_them_is_captured() {
    for version in Version::SOURCES {
        let shop = without(&DISPENSABLE, version);
        let events = Server::start(Version::Redis82);
        let mut daemon =
            Setup::orders(&shop, &events).expects(&[&["marker_rejected"], alert::GAP]).start_ready();
        shop.ask::<u64>(&["PUBLISH", "orders", "first"]);
        daemon.wait_settled("orders", 1);
        let line = daemon.wait_alert(&["marker_rejected"]);
        assert!(line.text.contains("EVAL"), "{}", line.text);
        daemon.restart();
        daemon.wait_ready();
        shop.ask::<u64>(&["PUBLISH", "orders", "second"]);
        daemon.wait_settled("orders", 1);
        assert_eq!(entries(&events, "orders").len(), 2, "{version}");
    }
}

#[test]
fn check_tells_what_is_lost_without_them() {
    for version in [Version::Redis62, Version::Redis70, Version::Valkey91] {
        for (command, told) in [
            ("INFO", "the server does not report its version"),
            (
                "CONFIG",
                "notify-keyspace-events of server shop is unknown, since CONFIG GET is rejected; \"__keyevent@0__:expired\" needs \"Ex\"",
            ),
            ("EVAL", "without a standby"),
        ] {
            let shop = without(&[command], version);
            let events = Server::start(Version::Redis82);
            let daemon = Setup::between(&shop, &events)
                .routes(
                    "[capture.orders]\nsource = \"shop\"\nchannels = [\"orders\", \"__keyevent@0__:expired\"]\n\
                     destination = \"events\"\nstream = \"orders\"\nkeep = \"forever\"\n",
                )
                .prepare();
            let output = daemon.run_command(&["check", "--connect"]);
            let report = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{version} {command}: {report}");
            assert!(report.contains(told), "{version} {command}: {report}");
        }
    }
}

/// The replication stream cannot be chosen without it.
#[test]
fn check_refuses_replication_mode_where_the_source_has_no_info() {
    let shop = without(&["INFO"], Version::Redis82);
    let events = Server::start(Version::Redis82);
    let daemon = Setup::between(&shop, &events)
        .routes(
            "[capture.orders]\nsource = \"shop\"\nchannels = [\"orders\"]\nmode = \"replication\"\n\
             destination = \"events\"\nstream = \"orders\"\nkeep = \"forever\"\n",
        )
        .prepare();
    let output = daemon.run_command(&["check", "--connect"]);
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(69), "{report}");
    assert!(report.contains("problem: mode = \"replication\" needs INFO"), "{report}");
}
