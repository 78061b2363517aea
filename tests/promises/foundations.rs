//! What everything stands on, and what the other tests take for granted: that every server delivers
//! one total order, that the oracle knows it, and that the comparisons can fail.

use std::time::Duration;

use crate::support::{
    Captured, Gap, Load, Options, Oracle, Published, Server, Version, assert_exact,
    assert_nothing_lost_outside_gaps, difference,
};

#[test]
fn every_server_delivers_to_every_subscriber_in_the_order_of_the_oracle() {
    for version in Version::SOURCES {
        let source = Server::start(version);
        let mut subscribers: Vec<_> = (0..2).map(|_| source.connection()).collect();
        let mut subscribers: Vec<_> = subscribers
            .iter_mut()
            .map(|connection| {
                let mut subscriber = connection.as_pubsub();
                subscriber.psubscribe("news.*").unwrap();
                subscriber.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                subscriber
            })
            .collect();

        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(4, 4_000, &["news.one", "news.two"]));

        let sequence = oracle.sequence();
        assert_eq!(sequence.len(), 4_000, "{version}");
        for subscriber in &mut subscribers {
            for (number, expected) in sequence.iter().enumerate() {
                let message = subscriber.get_message().unwrap_or_else(|error| panic!("{version}: {error}"));
                assert_eq!(
                    message.get_channel_name().as_bytes(),
                    expected.channel,
                    "{version}: number {number}"
                );
                assert_eq!(message.get_payload_bytes(), expected.payload, "{version}: number {number}");
            }
        }
    }
}

#[test]
fn a_durable_server_keeps_its_data_and_its_users_when_it_is_killed() {
    for version in Version::DESTINATIONS {
        let mut server = Server::with(version, Options::default().durable());
        server.ask::<()>(&["ACL", "SETUSER", "someone", "on", ">secret"]);
        server.ask::<()>(&["ACL", "SAVE"]);
        server.ask::<String>(&["XADD", "orders", "*", "payload", "1"]);
        server.restart();
        assert_eq!(server.stream_length("orders"), 1, "{version}");
        let users: Vec<String> = server.ask(&["ACL", "USERS"]);
        assert!(users.contains(&"someone".to_owned()), "{version}: {users:?}");
    }
}

/// What a crash in the middle of a write leaves behind. Without the repair, three of the servers execute it later on.
#[test]
fn half_a_transaction_at_the_end_of_the_file_is_never_executed() {
    const HALF: &[u8] = b"*1\r\n$5\r\nMULTI\r\n*5\r\n$4\r\nXADD\r\n$6\r\norders\r\n$15\r\n9000000000000-0\r\n$1\r\na\r\n$1\r\n1\r\n*4\r\n$4\r\nHS";
    for version in Version::DESTINATIONS {
        let mut server = Server::with(version, Options::default().durable());
        server.kill();
        let directory = server.directory().join("appendonlydir");
        let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
        let file = files.into_iter().find(|path| path.to_string_lossy().contains(".incr.")).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
        std::io::Write::write_all(&mut file, HALF).unwrap();
        server.start_again();
        server.ask::<()>(&["EVAL", "redis.call('SET', 'a', 1) redis.call('SET', 'b', 1)", "0"]);
        server.restart();
        assert_eq!(server.stream_length("orders"), 0, "{version}");
        assert_eq!(server.ask::<usize>(&["EXISTS", "a", "b"]), 2, "{version}");
    }
}

#[test]
fn a_frozen_server_answers_again_once_it_is_thawed() {
    let server = Server::with(Version::Redis70, Options::default().tcp());
    server.freeze();
    server.thaw();
    assert_eq!(server.ask::<String>(&["PING"]), "PONG");
    assert!(server.url("someone").starts_with("redis://someone@127.0.0.1:"));
}

fn message(payload: &str) -> Published {
    Published { channel: b"news".to_vec(), payload: payload.as_bytes().to_vec() }
}

fn entry(payload: &str, position: &str) -> Captured {
    Captured { message: message(payload), pattern: None, position: Some(position.to_owned()) }
}

fn gap(from: &str, to: &str) -> Gap {
    Gap {
        from: from.to_owned(),
        to: to.to_owned(),
        started_at: 1,
        ended_at: 2,
        cause: "restart".to_owned(),
        planned: false,
        dropped: 0,
    }
}

#[test]
fn the_exact_comparison_sees_every_kind_of_difference() {
    let expected = ["a", "b", "c"].map(message);
    let of = |payloads: &[&str]| -> Vec<_> { payloads.iter().map(|payload| entry(payload, "1")).collect() };
    assert_eq!(difference(&expected, &of(&["a", "b", "c"])), None);
    for wrong in [&["a", "b"][..], &["a", "c", "b"], &["a", "b", "c", "c"], &["a", "B", "c"], &[]] {
        let report = difference(&expected, &of(wrong)).unwrap();
        assert!(report.contains("first difference at number"), "{report}");
    }
}

#[test]
#[should_panic(expected = "positions ascend strictly")]
fn the_exact_comparison_refuses_a_position_that_goes_back() {
    assert_exact(&["a", "b"].map(message), &[entry("a", "2"), entry("b", "1")]);
}

#[test]
fn missing_messages_inside_a_gap_are_counted() {
    let expected = ["a", "b", "c", "d"].map(message);
    let captured = [entry("a", "1"), entry("d", "5")];
    assert_eq!(assert_nothing_lost_outside_gaps(&expected, &captured, &[gap("1", "4")]), 2);
    assert_eq!(assert_nothing_lost_outside_gaps(&expected, &captured[..1], &[gap("2", "4")]), 3);
}

#[test]
#[should_panic(expected = "outside every gap record")]
fn missing_messages_outside_the_gap_are_found() {
    let captured = [entry("a", "1"), entry("c", "3"), entry("d", "5")];
    assert_nothing_lost_outside_gaps(&["a", "b", "c", "d"].map(message), &captured, &[gap("3", "5")]);
}

#[test]
#[should_panic(expected = "captured twice")]
fn a_message_that_stands_twice_is_found() {
    let captured = [entry("a", "1"), entry("a", "2"), entry("b", "3")];
    assert_nothing_lost_outside_gaps(&["a", "b"].map(message), &captured, &[gap("1", "2")]);
}

#[test]
#[should_panic(expected = "an entry stands inside")]
fn a_gap_over_what_was_captured_is_found() {
    let captured = [entry("a", "1"), entry("b", "2"), entry("c", "3")];
    assert_nothing_lost_outside_gaps(&["a", "b", "c"].map(message), &captured, &[gap("1", "3")]);
}
