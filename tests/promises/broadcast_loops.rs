//! Promise: a route whose output comes back into its stream, by a way that no configuration shows, parks; one whose
//! application repeats its payloads does not, and loses nothing while that is tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tidegate::status::RouteState;

use crate::broadcast_acknowledged::{self as acknowledged, Order, make_group};
use crate::broadcast_options::{PATIENCE, metric, payloads, placements, setup, wait_counts};
use crate::support::{Daemon, Options, Server, Setup, Subscriber, Version, alert, dead_letters, eventually};

/// The capture that closes the loop, in a daemon of its own: no configuration shows both.
fn way_back(channel: &str) -> String {
    format!(
        r#"
        [capture.orders]
        source = "heard"
        channels = ["{channel}"]
        destination = "added"
        stream = "orders"
        keep = "forever"
        "#
    )
}

/// Starts the daemon of a route, and the one that closes the loop with it; adds some entries, and waits until the
/// route has parked and everything stands still.
#[track_caller]
fn assert_parks(events: &Server, second: Option<&Server>, lines: &str) {
    let mut daemon = setup(events, second, lines).expects(&[alert::LOOP]).start_ready();
    let other = Setup::new()
        .endpoint("heard", second.unwrap_or(events))
        .endpoint("added", events)
        .routes(&way_back("stock"))
        .start_ready();
    for n in 0..5 {
        events.ask::<String>(&["XADD", "orders", "*", "payload", &format!("message {n}")]);
    }
    let reason = daemon.wait_state("stock", RouteState::Parked).reason.unwrap();
    assert!(reason.contains("comes back into its stream"), "{lines}: {reason}");
    assert_eq!(metric(&daemon, "tidegate_loops_total"), 1, "{lines}");
    // The loop stands still: every message came back once, and nothing follows.
    let published = wait_counts(&daemon, "its counts", |_| true).published;
    eventually("the other daemon has added what it heard", PATIENCE, || {
        match events.ask::<u64>(&["XLEN", "orders"]) {
            length if length == published + 5 => Ok(()),
            length => Err(format!("{length}, and {published} published")),
        }
    });
    assert_eq!(other.route("orders").unwrap().state, RouteState::Live, "the other one is innocent");
    assert!(daemon.stop().success(), "a parked route ends at once");
}

#[test]
fn a_route_whose_output_comes_back_through_another_daemon_parks() {
    let plain = "channel = \"stock\"\nmessage = \"<field:payload>\"";
    let growing = "channel = \"stock\"\nmessage = \"+<field:payload>\"";
    let id = "channel = \"stock\"\nmessage = \"<id>\"";
    for (lines, version, servers) in [
        (plain, Version::Redis70, 1),
        (plain, Version::Valkey80, 2),
        (growing, Version::Valkey91, 1),
        (id, Version::Redis82, 2),
    ] {
        for (events, second) in placements(version).into_iter().skip(servers - 1).take(1) {
            assert_parks(&events, second.as_ref(), lines);
        }
    }
}

#[test]
fn payloads_that_an_application_repeats_park_nobody() {
    let events = Server::start(Version::Redis70);
    let subscriber = Subscriber::start(&events, &["stock"]);
    let daemon = setup(&events, None, "channel = \"stock\"").start_ready();
    let mut added = 0;
    eventually("it looks like a loop and is tried", PATIENCE, || {
        for _ in 0..20 {
            events.ask::<String>(&["XADD", "orders", "*", "payload", "tick"]);
            added += 1;
        }
        match metric(&daemon, "tidegate_loop_checks_total") {
            0 => Err(format!("{added} added")),
            _ => Ok(()),
        }
    });
    // While it is tried the application goes on.
    eventually("it publishes again", PATIENCE, || {
        events.ask::<String>(&["XADD", "orders", "*", "payload", "tick"]);
        added += 1;
        match subscriber.count() {
            count if count == added => Ok(()),
            count => Err(format!("{count} of {added}")),
        }
    });
    assert_eq!(daemon.route("stock").unwrap().state, RouteState::Live);
    assert_eq!(metric(&daemon, "tidegate_loops_total"), 0);
    assert_eq!(payloads(&subscriber), vec!["tick"; added]);
}

/// Works in the group `inventory` until it is dropped: acknowledges what it is given, a read at a time.
struct Consumer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Consumer {
    fn start(server: &Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut connection, told) = (server.connection(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let ids = acknowledged::given_out(&mut connection, "one", &["COUNT", "40", "BLOCK", "10"]);
                if !ids.is_empty() {
                    redis::cmd("XACK").arg("orders").arg("inventory").arg(ids).exec(&mut connection).unwrap();
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()), "the consumer failed");
    }
}

#[test]
fn a_loop_with_a_consumer_group_on_the_way_parks() {
    let stream = "after = \"inventory\"";
    let acknowledgement = "after = \"inventory\"\norder = \"acknowledgement\"";
    let woken = "after = \"inventory\"\nmode = \"replication\"";
    for (after, message, version, servers) in [
        (stream, "<field:payload>", Version::Redis70, 1),
        (stream, "<id>", Version::Valkey91, 2),
        (acknowledgement, "+<field:payload>", Version::Redis82, 1),
        (acknowledgement, "<field:payload>", Version::Valkey80, 2),
        (woken, "<field:payload>", Version::Redis82, 1),
    ] {
        let start = || Server::with(version, Options::default().tcp());
        let (events, second) = (start(), (servers == 2).then(start));
        make_group(&events);
        let consumer = Consumer::start(&events);
        let lines = format!("channel = \"stock\"\nmessage = \"{message}\"\n{after}");
        assert_parks(&events, second.as_ref(), &lines);
        drop(consumer);
    }
}

/// Adds some entries, gives them out, and acknowledges and deletes them once the daemon has read them.
fn work_through(server: &Server, daemon: &Daemon, first: usize, count: usize) {
    let ids: Vec<String> = (first..first + count)
        .map(|n| server.ask(&["XADD", "orders", "*", "payload", &(n % 3).to_string()]))
        .collect();
    assert_eq!(acknowledged::read(server, "one", count), ids);
    eventually("the entries are read", PATIENCE, || {
        let status = daemon.route("stock")?;
        let read = status.acknowledged.as_ref().and_then(|known| known.read.as_ref());
        if read == ids.last() { Ok(()) } else { Err(format!("{status:?}")) }
    });
    for command in [&["XACK", "orders", "inventory"][..], &["XDEL", "orders"]] {
        let done: usize =
            server.ask(&[command, &ids.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        assert_eq!(done, count);
    }
}

#[test]
fn payloads_that_repeat_and_are_acknowledged_park_nobody_and_none_is_lost() {
    const AT_ONCE: usize = 20;
    for (order, more) in [
        (Order::Stream, ""),
        (Order::Acknowledgement, ""),
        // There is hardly room to keep anything while it is tried.
        (Order::Acknowledgement, "\nmax_holes = 40"),
    ] {
        let events = Server::start(Version::Redis82);
        let subscriber = Subscriber::start(&events, &["stock"]);
        make_group(&events);
        let order_line = match order {
            Order::Stream => "order = \"stream\"",
            Order::Acknowledgement => "order = \"acknowledgement\"",
        };
        let lines = format!("channel = \"stock\"\nafter = \"inventory\"\n{order_line}{more}");
        let daemon = setup(&events, None, &lines).start_ready();
        let mut added = 0;
        let mut work = || {
            work_through(&events, &daemon, added, AT_ONCE);
            added += AT_ONCE;
            added
        };
        eventually("it looks like a loop and is tried", PATIENCE, || {
            let added = work();
            match metric(&daemon, "tidegate_loop_checks_total") {
                0 => Err(format!("{added} added")),
                _ => Ok(()),
            }
        });
        let added = eventually("it publishes again", PATIENCE, || {
            let (before, added) = (subscriber.count(), work());
            match before + AT_ONCE == added {
                true => Ok(added),
                false => Err(format!("{before} of {added}")),
            }
        });
        eventually("all are heard", PATIENCE, || match subscriber.count() {
            count if count == added => Ok(()),
            count => Err(format!("{count} of {added}")),
        });
        assert_eq!(daemon.route("stock").unwrap().state, RouteState::Live);
        assert_eq!(metric(&daemon, "tidegate_loops_total"), 0);
        assert_eq!(dead_letters(&events, "stock").len(), 0);
        let (mut heard, mut expected) = (payloads(&subscriber), Vec::new());
        expected.extend((0..added).map(|n| (n % 3).to_string()));
        if order == Order::Acknowledgement {
            heard.sort_unstable();
            expected.sort_unstable();
        }
        assert_eq!(heard, expected, "{lines}: each once");
    }
}
