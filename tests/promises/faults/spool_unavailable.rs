//! Promise: hundreds of captures have their spools by a few threads, and a spool or a state directory that cannot be
//! used is said wherever one looks, and taken once it can be.

use std::fs;
use std::time::Duration;

use crate::support::{Daemon, Options, Oracle, Server, Setup, Version, alert, eventually, wait_for_last};

const PATIENCE: Duration = Duration::from_secs(60);

fn captures(count: usize) -> String {
    let one = |number: usize| {
        format!(
            "[capture.r{number}]\nsource = \"main\"\nchannels = [\"c{number}\"]\ndestination = \"main\"\n\
             stream = \"s{number}\"\nkeep = \"forever\"\n"
        )
    };
    (0..count).map(one).collect()
}

/// Threads by their names.
fn threads(daemon: &Daemon, prefix: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.process().id())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with(prefix)).count()
}

fn metric(daemon: &Daemon, route: &str) -> Result<String, String> {
    let (_, text) = daemon.get("/metrics")?;
    let line = format!("tidegate_spool_unavailable{{route=\"{route}\"}} ");
    Ok(text.lines().find_map(|found| found.strip_prefix(&line)).ok_or("no such metric")?.to_owned())
}

/// Waits until `/readyz`, STATUS, `/status` and the metric say whether the spool can be used.
#[track_caller]
fn wait_said(daemon: &Daemon, route: &str, available: bool, why: &str) {
    eventually(&format!("the spool is said to be available: {available}"), PATIENCE, || {
        let (code, ready) = daemon.get("/readyz")?;
        let error = daemon.route(route)?.spool_error;
        let status = daemon.last_status().unwrap_or_default();
        let found = format!("{code} {ready} {error:?} {status}");
        let value = metric(daemon, route)?;
        let said = if available {
            code == 200 && error.is_none() && !status.contains("no spool") && value == "0"
        } else {
            code == 503
                && ready.contains(why)
                && error.is_some_and(|error| error.contains(why))
                && status.contains(why)
                && value == "1"
        };
        if said { Ok(()) } else { Err(found) }
    });
}

#[test]
fn many_captures_share_a_few_threads() {
    const CAPTURES: usize = 60;
    let server = Server::start(Version::Redis70);
    let mut daemon = Setup::new().endpoint("main", &server).routes(&captures(CAPTURES)).start_ready();
    let spools = threads(&daemon, "spool");
    assert!((1..=4).contains(&spools), "{spools} threads for {CAPTURES} captures");
    assert_eq!(fs::read_dir(daemon.state_directory().join("spool")).unwrap().count(), CAPTURES);
    assert_eq!(daemon.stop().code(), Some(0));
}

/// A file stands where the directory should be. It is out of the way later, while the destination is away, and what
/// waits in memory then survives a kill.
#[test]
fn a_state_directory_that_cannot_be_used_is_said_and_taken_later() {
    let source = Server::start(Version::Redis70);
    let mut destination = Server::with(Version::Redis70, Options::default().durable());
    let mut daemon = Setup::orders(&source, &destination)
        .expects(&[&["no_state_directory", "spool_unavailable"], alert::DESTINATION, alert::GAP])
        .prepare();
    fs::write(daemon.state_directory(), "in the way").unwrap();
    let checked = daemon.run_command(&["check"]);
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success() && said.contains("warning: daemon.state_directory"), "{said}");
    daemon.start_again();
    wait_said(&daemon, "orders", false, "cannot write to the state directory");

    destination.kill();
    let oracle = Oracle::new(&source);
    oracle.publish_one(b"orders", b"waits in memory");
    fs::remove_file(daemon.state_directory()).unwrap();
    eventually("what waits is on disk", PATIENCE, || {
        let status = daemon.route("orders")?;
        if status.spooled_all && status.spool_bytes > 0 { Ok(()) } else { Err(format!("{status:?}")) }
    });
    assert!(daemon.logged("spool_available") > 0);
    daemon.kill();
    destination.start_again();
    daemon.start_again();
    wait_for_last(&destination, "orders", b"waits in memory", PATIENCE);
    daemon.wait_ready();
    wait_said(&daemon, "orders", true, "");
    let checked = daemon.run_command(&["check"]);
    assert!(!String::from_utf8(checked.stdout).unwrap().contains("warning"));
}

/// What an earlier process left belongs before what this one received: it is not given up, and stored by the next.
#[test]
fn records_in_a_spool_that_opens_late_stay_for_the_next_start() {
    let source = Server::start(Version::Redis70);
    let mut destination = Server::with(Version::Redis70, Options::default().durable());
    let mut daemon = Setup::orders(&source, &destination)
        .expects(&[&["spool_unavailable"], alert::DESTINATION, alert::GAP])
        .start_ready();
    destination.kill();
    Oracle::new(&source).publish_one(b"orders", b"left on disk");
    eventually("it is on disk", PATIENCE, || {
        let status = daemon.route("orders")?;
        if status.spooled_all && status.spool_bytes > 0 { Ok(()) } else { Err(format!("{status:?}")) }
    });
    daemon.kill();
    // Of a newer release, as it seems.
    let spool = daemon.state_directory().join("spool/orders");
    let file = fs::read_dir(&spool).unwrap().next().unwrap().unwrap().path();
    let newer = spool.join(file.file_name().unwrap().to_str().unwrap().replace("-v3-", "-v9-"));
    fs::rename(&file, &newer).unwrap();
    daemon.start_again();
    wait_said(&daemon, "orders", false, "has format 9");
    fs::rename(&newer, &file).unwrap();
    wait_said(&daemon, "orders", false, "Restart tidegate");
    daemon.kill();
    destination.start_again();
    daemon.start_again();
    wait_for_last(&destination, "orders", b"left on disk", PATIENCE);
    wait_said(&daemon, "orders", true, "");
}
