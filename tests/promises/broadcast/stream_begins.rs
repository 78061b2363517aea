//! Promise: where a broadcast begins in each of its streams, and that no entry before that place is left out in silence.

use tidegate::status::RouteState;

use super::options::placements;
use super::streams::{PATIENCE, add, heard, ids, route, setup, stream, wait_last, wait_read, wait_route};
use super::unread_loss::wait_look;
use crate::support::{Daemon, Server, Setup, Subscriber, Version, alert, eventually};

#[test]
fn entries_of_a_new_stream_that_are_trimmed_before_the_first_read_are_counted_and_recorded() {
    for version in [Version::Redis70, Version::Valkey91] {
        let events = Server::start(version);
        let subscriber = Subscriber::start(&events, &["queue"]);
        let daemon = setup(&events, None, "start = \"end\"").expects(&[alert::MISSED]).start_ready();
        let mut connection = events.connection();
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for _ in 0..50 {
            pipeline.cmd("XADD").arg(&[&stream("a"), "MAXLEN", "5", "*", "payload", "x"]).ignore();
        }
        pipeline.exec(&mut connection).expect("the server takes entries");
        let heard = wait_last(&events, &subscriber, &["a"]);
        assert_eq!(heard["a"], ids(&events, "a"));
        eventually("the loss is counted", PATIENCE, || {
            match daemon.metric("queues", "tidegate_entries_lost_total") {
                45 => Ok(()),
                count => Err(format!("{count} lost")),
            }
        });
        assert_eq!(events.ask::<u32>(&["XLEN", "tidegate:queues:dead-letters"]), 1, "{version}");
        daemon.wait_alert(alert::MISSED);
    }
}

#[test]
fn the_first_look_outlives_its_cursor_while_the_daemon_runs() {
    for damage in [["DEL", "tidegate:queues:cursor"].as_slice(), &["FLUSHALL"]] {
        let events = Server::start(Version::Redis82);
        let subscriber = Subscriber::start(&events, &["queue"]);
        let _daemon = setup(&events, None, "start = \"end\"").start_ready();
        add(&events, &["first"], 1);
        wait_last(&events, &subscriber, &["first"]);
        let mut connection = events.connection();
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd(damage[0]).arg(&damage[1..]).ignore();
        for _ in 0..5 {
            pipeline.cmd("XADD").arg(&[&stream("later"), "*", "payload", "x"]).ignore();
        }
        pipeline.exec(&mut connection).expect("the server takes entries");
        eventually("the later stream is read", PATIENCE, || {
            match events.ask::<bool>(&["EXISTS", &format!("tidegate:queues:cursor:{}", stream("later"))]) {
                true => Ok(()),
                false => Err("it has no cursor".to_owned()),
            }
        });
        add(&events, &["later"], 1);
        let heard = wait_last(&events, &subscriber, &["later"]);
        assert_eq!(heard["later"], ids(&events, "later"), "{damage:?}");
    }
}

#[test]
fn a_stream_older_than_the_first_look_begins_where_start_says_whenever_it_is_first_read() {
    let events = Server::start(Version::Redis82);
    let subscriber = Subscriber::start(&events, &["queue"]);
    add(&events, &["a", "b", "c", "x"], 3);
    let lines = "start = \"end\"\nmax_streams = 2";
    let only = |pattern: &str| route(&format!("streams = \"{pattern}\""), "events", lines);
    let setup = Setup::new().endpoint("events", &events).routes(&only("bull:[abcd]:events"));
    let mut daemon = setup.expects(&[alert::LEFT_OUT]).start_ready();
    wait_read(&daemon, &["a", "b"]);
    wait_route(&daemon, "a stream is left out", |status| {
        status.streams.as_ref().is_some_and(|streams| streams.left_out == 1)
    });
    // It came after the first look, and is left out at first.
    add(&events, &["d"], 3);
    let old = [ids(&events, "c").len(), ids(&events, "x").len()];
    for (gone, read) in [("a", ["b", "c"]), ("b", ["c", "d"])] {
        events.ask::<u32>(&["DEL", &stream(gone)]);
        wait_read(&daemon, &read);
    }
    assert_eq!(wait_last(&events, &subscriber, &["d"])["d"], ids(&events, "d"));
    // Another pattern finds a stream that was always there.
    events.ask::<u32>(&["DEL", &stream("d")]);
    wait_read(&daemon, &["c"]);
    daemon.reload(&only("bull:[abcdx]:events"));
    wait_read(&daemon, &["c", "x"]);
    add(&events, &["c", "x"], 2);
    let heard_last = wait_last(&events, &subscriber, &["c", "x"]);
    assert_eq!(heard_last["c"], ids(&events, "c")[old[0]..]);
    assert_eq!(heard_last["x"], ids(&events, "x")[old[1]..]);
}

/// Until a daemon has the form of one stream or of many, and does its part.
#[track_caller]
fn wait_form(daemon: &Daemon, many: bool) {
    wait_route(daemon, "the route has its form", |status| {
        let done = matches!(status.state, RouteState::Live | RouteState::Standby);
        done && status.streams.as_ref().map_or(!many, |streams| many && streams.read > 0)
    });
}

#[test]
fn a_route_that_changes_from_one_stream_to_many_or_back_keeps_its_place() {
    const FORMS: [&str; 2] = ["stream = \"bull:a:events\"", "streams = \"bull:*:events\""];
    for (events, second) in placements(Version::Redis82) {
        let shop = second.as_ref().unwrap_or(&events);
        for first in [0, 1] {
            events.ask::<()>(&["FLUSHALL"]);
            let subscriber = Subscriber::start(shop, &["queue"]);
            let setup = Setup::new().endpoint("events", &events);
            let (setup, destination) = match &second {
                None => (setup, "events"),
                Some(shop) => (setup.endpoint("shop", shop), "shop"),
            };
            let form = |form: usize| route(FORMS[form], destination, "start = \"end\"");
            add(&events, &["a"], 3);
            // The place is looked for again where the other form has taken it over.
            let setup = setup.routes(&form(first)).expects(&[alert::DESTINATION]);
            let mut one = setup.start_ready();
            let mut other = one.start_twin();
            wait_form(&other, first == 1);
            let check = || {
                add(&events, &["a"], 3);
                let heard = wait_last(&events, &subscriber, &["a"]);
                assert_eq!(heard["a"], ids(&events, "a")[3..], "{first} {destination}");
            };
            check();
            // One after the other, to the other form and back.
            for form_now in [1 - first, first, 1 - first] {
                for daemon in [&mut one, &mut other] {
                    daemon.reload(&form(form_now));
                    wait_form(daemon, form_now == 1);
                    check();
                }
            }
            // What comes while none runs is published by the form that comes next.
            assert!(one.stop().success() && other.stop().success());
            add(&events, &["a"], 3);
            one.set_routes(&form(first));
            one.start_again();
            wait_form(&one, first == 1);
            check();
            let published = ids(&events, "a").len() as u64 - 3;
            wait_route(&one, "every entry is counted once", |status| {
                status.broadcast.as_ref().is_some_and(|counts| counts.published == published)
            });
        }
    }
}

#[test]
fn a_cursor_that_may_not_be_used_blocks_the_route_and_says_what_to_do() {
    let events = Server::start(Version::Valkey91);
    add(&events, &["a"], 3);
    for (form, written, expected) in [
        ("streams = \"bull:*:events\"", ["pos", "1-1"], "does not say of which stream it is"),
        ("streams = \"bull:*:events\"", ["format", "2"], "a newer release wrote the cursor"),
        ("stream = \"bull:a:events\"", ["format", "2"], "a newer release wrote the cursor"),
    ] {
        events.ask::<u32>(&["HSET", "tidegate:queues:cursor", written[0], written[1]]);
        let setup = Setup::new().endpoint("events", &events);
        let setup = setup.routes(&route(form, "events", "start = \"end\"")).expects(&[alert::BLOCKED]);
        let mut daemon = setup.start();
        let reason = daemon.wait_state("queues", RouteState::Blocked).reason.expect("it is blocked");
        assert!(reason.contains(expected) && reason.contains("delete"), "{reason}");
        assert!(daemon.stop().success());
        events.ask::<u32>(&["DEL", "tidegate:queues:cursor", "tidegate:queues:streams"]);
    }
}

#[track_caller]
fn assert_another_stream(reads: &str, start: &str) {
    const REPLACED: &[&[&str]] =
        &[&["RENAME", "tmp", "bull:a:events"], &["XADD", "bull:a:events", "*", "n", "x"]];
    const BELOW: &[&[&str]] = &[&["DEL", "bull:a:events"], &["XADD", "bull:a:events", "5-5", "n", "x"]];
    const BOTH: &[&[&str]] = &[BELOW[0], BELOW[1], &["XADD", "bull:a:events", "*", "n", "x"]];
    const ABOVE: &[&[&str]] = &[&["DEL", "bull:a:events"], &["XADD", "bull:a:events", "*", "n", "x"]];
    for how in [REPLACED, BELOW, BOTH, ABOVE] {
        let events = Server::start(Version::Redis82);
        for _ in 0..5 {
            events.ask::<String>(&["XADD", "tmp", "*", "n", "x"]);
        }
        let subscriber = Subscriber::start(&events, &["queue"]);
        let setup = Setup::new().endpoint("events", &events).routes(&route(reads, "events", start));
        // A session ends with what it found.
        let daemon = setup.expects(&[alert::DESTINATION]).start_ready();
        let twin = daemon.start_twin();
        twin.wait_ready();
        add(&events, &["a"], 10);
        let mut expected = wait_last(&events, &subscriber, &["a"])["a"].clone();
        wait_look(&events);
        let mut connection = events.connection();
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for command in how {
            pipeline.cmd(command[0]).arg(&command[1..]).ignore();
        }
        pipeline.exec(&mut connection).expect("the server takes commands");
        expected.extend(ids(&events, "a"));
        eventually("the new stream is published", PATIENCE, || {
            let mut heard = heard(&subscriber).remove("a").unwrap_or_default();
            heard.sort();
            let mut wanted = expected.clone();
            wanted.sort();
            if heard == wanted { Ok(()) } else { Err(format!("{heard:?} and not {wanted:?}")) }
        });
        add(&events, &["a"], 2);
        let heard = wait_last(&events, &subscriber, &["a"])["a"].len();
        assert_eq!(heard, expected.len() + 2, "{how:?}");
        assert_eq!(daemon.metric("queues", "tidegate_entries_lost_total"), 0, "{how:?}");
        assert!(!events.ask::<bool>(&["EXISTS", "tidegate:queues:dead-letters"]), "{how:?}");
    }
}

#[test]
fn a_stream_that_is_replaced_at_once_is_read_from_where_start_says() {
    assert_another_stream("stream = \"bull:a:events\"", "start = \"beginning\"");
}

#[test]
fn a_stream_of_many_that_is_replaced_at_once_is_a_new_stream() {
    assert_another_stream("streams = \"bull:*:events\"", "start = \"end\"");
}
