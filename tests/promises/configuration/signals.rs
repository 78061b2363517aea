//! Promise: a signal is acted on at once, whatever a reload does, and a stop takes one shutdown timeout.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Daemon, Oracle, Server, Setup, Version, alert, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// Where in the log the first line with this code stands.
#[track_caller]
fn first(daemon: &Daemon, event: &str) -> usize {
    let log = daemon.log();
    let found = log.iter().position(|line| line.event.as_deref() == Some(event));
    found.unwrap_or_else(|| panic!("no event={event} in {log:#?}"))
}

fn captures(source: &str) -> String {
    let one = |name: &str| {
        format!(
            "[capture.{name}]\nsource = \"{source}\"\nchannels = [\"{name}\"]\ndestination = \"events\"\n\
             stream = \"{name}\"\nkeep = \"forever\"\n"
        )
    };
    let other = "[capture.other]\nsource = \"store\"\nchannels = [\"one\", \"two\", \"three\"]\n\
                 destination = \"events\"\nstream = \"other\"\nkeep = \"forever\"\n";
    ["one", "two", "three"].map(one).concat() + other
}

/// Makes a file whose reader gets what a writer gives it, and waits for that.
fn make_fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().expect("mkfifo, of coreutils, is there");
    assert!(made.success(), "mkfifo: {made}");
}

/// The routes end side by side and in the background, so the signal is not behind them.
#[test]
fn a_stop_while_a_reload_ends_three_routes() {
    let source = Server::start(Version::Redis70);
    let store = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = Setup::new()
        .endpoint("shop", &source)
        .endpoint("store", &store)
        .endpoint("events", &destination)
        .daemon("shutdown_timeout = \"5s\"\nspool.limit = \"0B\"")
        .routes(&captures("shop"))
        .expects(&[alert::DESTINATION, alert::DRAIN])
        .start_ready();
    destination.freeze();
    let oracle = Oracle::new(&source);
    for name in ["one", "two", "three"] {
        oracle.publish_one(name.as_bytes(), b"not stored");
        eventually("it is in hand", PATIENCE, || {
            let status = daemon.route(name)?;
            if status.buffered_bytes > 0 { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }
    // Another source server: each of the three ends before the one that replaces it begins.
    daemon.begin_reload(&captures("store"));
    daemon.wait_notified("RELOADING=1");
    assert_eq!(daemon.stop().code(), Some(0));
    let stopping = first(&daemon, "stopping");
    assert!(stopping < first(&daemon, "shutdown_incomplete"), "it waited for a route: {:#?}", daemon.log());
    assert_eq!(daemon.logged("shutdown_incomplete"), 3, "each of the three counts what it loses, once");
    assert_eq!(daemon.logged("shutdown_overrun"), 0);
    assert_eq!(daemon.log().last().and_then(|line| line.event.clone()).as_deref(), Some("stopped"));
    destination.thaw();
}

/// A file that gives nothing stands for a slow disk: the reload does not end.
#[test]
fn a_stop_while_the_configuration_is_read() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = Setup::orders(&source, &destination).start_ready();
    std::fs::remove_file(daemon.configuration()).unwrap();
    make_fifo(&daemon.configuration());
    daemon.process().signal(Signal::SIGHUP);
    daemon.wait_notified("RELOADING=1");
    for _ in 0..20 {
        daemon.process().signal(Signal::SIGHUP);
    }
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(daemon.logged("stopped"), 1);
}

#[test]
fn a_reload_that_is_asked_for_while_one_runs_follows_it() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = Setup::orders(&source, &destination).start_ready();
    let text = std::fs::read(daemon.configuration()).unwrap();
    std::fs::remove_file(daemon.configuration()).unwrap();
    make_fifo(&daemon.configuration());
    daemon.process().signal(Signal::SIGHUP);
    // Opening it waits for the one that reads.
    let mut first = OpenOptions::new().write(true).open(daemon.configuration()).unwrap();
    for _ in 0..20 {
        daemon.process().signal(Signal::SIGHUP);
    }
    first.write_all(&text).unwrap();
    // The next reader of the same file would share what is written, so it gets a new one.
    let next = daemon.configuration().with_extension("next");
    make_fifo(&next);
    std::fs::rename(&next, daemon.configuration()).unwrap();
    drop(first);
    let mut second = OpenOptions::new().write(true).open(daemon.configuration()).unwrap();
    second.write_all(&text).unwrap();
    drop(second);
    eventually("it has read its configuration twice", PATIENCE, || match daemon.logged("reloaded") {
        2.. => Ok(()),
        times => Err(format!("{times} times")),
    });
    assert_eq!(daemon.stop().code(), Some(0));
}
