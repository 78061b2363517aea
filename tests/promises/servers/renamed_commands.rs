//! Promise: a source that knows some commands by other names only, as managed services do, is captured as far as it can
//! be, and `check --connect` tells what is lost.

use std::time::Duration;

use crate::support::{Options, Server, Setup, Version, alert, entries, eventually};

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
        daemon.wait_settled("orders", 2);
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

/// One that a script calls has no name in the server's answer.
#[test]
fn a_route_that_needs_one_of_them_names_it_or_where_it_is_named() {
    const IN_A_SCRIPT: &str = "`tidegate check --connect` names it";
    for (command, at_source, told) in [
        ("SUBSCRIBE", true, "the command SUBSCRIBE"),
        ("EXEC", true, "the command EXEC"),
        ("SCRIPT", false, "the command SCRIPT"),
        ("EVALSHA", false, "the command EVALSHA"),
        ("HGETALL", false, "the command HGETALL"),
        ("HSET", false, IN_A_SCRIPT),
        ("PEXPIRE", false, IN_A_SCRIPT),
        ("XADD", false, IN_A_SCRIPT),
    ] {
        let (lacks, has) = (without(&[command], Version::Redis70), Server::start(Version::Redis82));
        let (shop, events) = if at_source { (&lacks, &has) } else { (&has, &lacks) };
        let daemon =
            Setup::orders(shop, events).expects(&[alert::SOURCE, alert::DESTINATION, alert::BLOCKED]).start();
        eventually(&format!("it tells {command}"), Duration::from_secs(30), || {
            let _ = shop.ask::<u64>(&["PUBLISH", "orders", "a message"]);
            let status = daemon.route("orders")?;
            let errors = [&status.source.error, &status.destination.error];
            let named = |error: &&String| error.contains(told) && error.contains("UNKNOWNCOMMAND");
            let reason = status.reason.as_ref().is_some_and(|reason| reason.contains(told));
            if reason && errors.into_iter().flatten().any(|error| named(&error)) {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        });
    }
}
