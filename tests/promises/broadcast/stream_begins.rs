//! Promise: where a broadcast from many streams begins in each of them, and that nothing before it is left out in silence.

use super::streams::{PATIENCE, add, ids, setup, stream, wait_last};
use crate::support::{Server, Subscriber, Version, alert, eventually};

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
