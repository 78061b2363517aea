//! Promise: entries that are deleted with their stream before they are read are counted and recorded, whatever else is
//! read or away meanwhile.

use super::options::placements;
use super::streams::{PATIENCE, add, heard, route, setup, stream, wait_last, wait_route};
use crate::support::{Daemon, Server, Setup, Subscriber, Version, alert, eventually};

/// How often the stream was asked what it has.
fn looks(events: &Server) -> u64 {
    let stats: String = events.ask(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_xinfo|stream:calls="));
    line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().expect("a number"))
}

/// Waits until the stream was asked that once more.
#[track_caller]
pub(super) fn wait_look(events: &Server) {
    let before = looks(events);
    eventually("the stream is looked at", PATIENCE, || match looks(events) {
        now if now > before => Ok(()),
        now => Err(format!("{before} then {now} looks")),
    });
}

#[track_caller]
fn wait_lost(daemon: &Daemon, expected: u64) {
    eventually("the loss is counted", PATIENCE, || {
        match daemon.metric("queues", "tidegate_entries_lost_total") {
            count if count == expected => Ok(()),
            count => Err(format!("{count} lost")),
        }
    });
}

/// What the dead letters say of each loss.
#[track_caller]
fn assert_recorded(events: &Server, expected: &[&str]) {
    let letters: Vec<(String, Vec<String>)> =
        events.ask(&["XRANGE", "tidegate:queues:dead-letters", "-", "+"]);
    let said = |(letter, detail): (&(String, Vec<String>), &&str)| {
        letter.1.iter().any(|text| text.starts_with(*detail))
    };
    assert!(
        letters.len() == expected.len() && letters.iter().zip(expected).all(said),
        "{letters:?} and not {expected:?}"
    );
}

#[test]
fn entries_that_are_deleted_unread_with_their_stream_are_counted_and_recorded_once() {
    for (events, second) in placements(Version::Redis82) {
        for reads in ["stream = \"bull:a:events\"", "streams = \"bull:*:events\""] {
            events.ask::<()>(&["FLUSHALL"]);
            let setup = Setup::new().endpoint("events", &events);
            let (setup, destination) = match &second {
                None => (setup, "events"),
                Some(shop) => (setup.endpoint("shop", shop), "shop"),
            };
            let setup = setup.routes(&route(reads, destination, "rate_limit = \"1/h\"\nstart = \"end\""));
            let daemon = setup.expects(&[alert::MISSED, alert::DESTINATION]).start_ready();
            add(&events, &["a"], 10);
            wait_route(&daemon, "the rate holds it up", |status| {
                status.broadcast.as_ref().is_some_and(|counts| counts.published == 1)
            });
            wait_look(&events);
            events.ask::<u32>(&["DEL", &stream("a")]);
            wait_lost(&daemon, 9);
            let forgotten = || !events.ask::<bool>(&["EXISTS", "tidegate:queues:streams"]);
            eventually("it is forgotten", PATIENCE, || {
                if forgotten() { Ok(()) } else { Err("it is known".to_owned()) }
            });
            assert_recorded(&events, &["at least 9 entries"]);
        }
    }
}

/// Deletes the stream of a queue, and adds entries to it at once.
fn begin_anew(events: &Server, queue: &str, entries: usize) {
    let mut connection = events.connection();
    let mut pipeline = redis::pipe();
    pipeline.atomic().cmd("DEL").arg(stream(queue)).ignore();
    for _ in 0..entries {
        pipeline.cmd("XADD").arg(&[&stream(queue), "*", "payload", "new"]).ignore();
    }
    pipeline.exec(&mut connection).expect("the server takes entries");
}

#[test]
fn a_new_stream_that_is_read_at_once_does_not_hide_what_was_lost_with_the_former() {
    const OLD: usize = 60;
    for version in [Version::Redis70, Version::Valkey91] {
        // One that is shorter than what is lost, and one that is longer than the former stream.
        for new in [5, OLD + 10] {
            let events = Server::start(version);
            let subscriber = Subscriber::start(&events, &["queue"]);
            let setup = setup(&events, None, "rate_limit = \"10/s\"\nstart = \"beginning\"");
            let daemon = setup.expects(&[alert::MISSED, alert::DESTINATION]).start_ready();
            add(&events, &["a"], OLD);
            // The script that finds the cursor looks as well.
            wait_route(&daemon, "it publishes", |status| {
                status.broadcast.as_ref().is_some_and(|counts| counts.published > 0)
            });
            wait_look(&events);
            begin_anew(&events, "a", new);
            wait_last(&events, &subscriber, &["a"]);
            let lost = OLD + new - heard(&subscriber)["a"].len();
            assert!(lost > 0, "the rate lets few entries through");
            wait_lost(&daemon, lost.try_into().expect("a count"));
            assert_recorded(&events, &[&format!("at least {lost} entries after")]);
        }
    }
}

#[test]
fn a_stream_that_is_lost_while_the_other_server_is_away_is_counted() {
    const LOST: u64 = 20;
    for reads in ["stream = \"bull:a:events\"", "streams = \"bull:*:events\""] {
        let (events, mut shop) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
        let setup = Setup::new().endpoint("events", &events).endpoint("shop", &shop);
        let setup = setup.routes(&route(reads, "shop", "start = \"beginning\""));
        let daemon = setup.expects(&[alert::MISSED, alert::DESTINATION]).start_ready();
        add(&events, &["a"], 5);
        wait_route(&daemon, "the first entries are published", |status| {
            status.broadcast.as_ref().is_some_and(|counts| counts.published == 5)
        });
        shop.kill();
        wait_route(&daemon, "the other server is missed", |status| !status.destination.connected);
        add(&events, &["a"], LOST.try_into().expect("a count"));
        wait_look(&events);
        begin_anew(&events, "a", 10);
        shop.start_again();
        wait_lost(&daemon, LOST);
        assert_recorded(&events, &[&format!("at least {LOST} entries after")]);
        wait_route(&daemon, "the new entries are published", |status| {
            status.broadcast.as_ref().is_some_and(|counts| counts.published == 15)
        });
        assert_eq!(daemon.metric("queues", "tidegate_entries_lost_total"), LOST);
    }
}
