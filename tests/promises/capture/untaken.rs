//! Promise: a message that the destination does not take blocks the route with its name, and not behind the network's; it
//! is stored once the destination takes it.

use std::time::Duration;

use tidegate::status::{Ledger, RouteState};

use crate::support::{Options, Server, Setup, Version, alert, assert_eventually, eventually, gaps};

/// A blocked route tries again every 30 s.
const NEXT_TRY: Duration = Duration::from_secs(90);

#[test]
fn a_message_that_the_destination_does_not_take_is_named_and_stored_later() {
    for (setting, version) in [
        ("proto-max-bulk-len", Version::Redis70),
        ("client-query-buffer-limit", Version::Redis82),
        ("proto-max-bulk-len", Version::Valkey91),
    ] {
        let shop = Server::start(Version::Redis70);
        let events = Server::with(version, Options::default().with(setting, "1mb"));
        let daemon =
            Setup::orders(&shop, &events).expects(&[alert::DESTINATION, alert::BLOCKED]).start_ready();
        let mut connection = shop.connection();
        let mut publish = |payload: &[u8]| {
            redis::cmd("PUBLISH").arg("orders").arg(payload).exec(&mut connection).unwrap();
        };
        publish(b"first");
        daemon.wait_settled("orders", 1);
        publish(b"second");
        publish(&vec![b'p'; 3 << 20]);
        publish(b"last");
        let reason = daemon.wait_state("orders", RouteState::Blocked).reason.unwrap();
        assert!(reason.contains("a message of 31") && reason.contains("the stream orders"), "{reason}");
        assert!(reason.contains(setting), "{reason}");
        assert_eq!(events.stream_length("orders"), 2, "what stands before it is stored");
        events.ask::<()>(&["CONFIG", "SET", setting, "512mb"]);
        assert_eventually("it is stored", NEXT_TRY, 4, || events.stream_length("orders"));
        daemon.wait_ready();
        assert_eq!(gaps(&events, "orders"), []);
    }
}

/// A full server and a message that no trimming makes room for are refused in the same words.
#[test]
fn a_message_larger_than_the_memory_of_the_destination_is_named_and_a_full_destination_is_waited_for() {
    for version in [Version::Redis82, Version::Valkey91] {
        let shop = Server::start(Version::Redis70);
        let events = Server::with(version, Options::default().with("maxmemory", "8mb"));
        let daemon =
            Setup::orders(&shop, &events).expects(&[alert::DESTINATION, alert::BLOCKED]).start_ready();
        let mut connection = shop.connection();
        let mut publish = |payload: &[u8]| {
            redis::cmd("PUBLISH").arg("orders").arg(payload).exec(&mut connection).unwrap();
        };
        publish(b"first");
        daemon.wait_settled("orders", 1);
        events.ask::<()>(&["SETRANGE", "filler", "6000000", "f"]);
        publish(&vec![b'p'; 1 << 20]);
        eventually(&format!("{version}: it waits for room"), NEXT_TRY, || {
            let status = daemon.route("orders")?;
            let told = status.destination.error.as_deref().is_some_and(|error| error.contains("OOM"));
            if told { Ok(()) } else { Err(format!("{status:?}")) }
        });
        assert_ne!(daemon.route("orders").unwrap().state, RouteState::Blocked, "{version}: room can be made");
        events.ask::<()>(&["DEL", "filler"]);
        assert_eventually("it is stored", NEXT_TRY, 2, || events.stream_length("orders"));

        publish(&vec![b'p'; 5 << 20]);
        publish(b"last");
        let reason = daemon.wait_state("orders", RouteState::Blocked).reason.unwrap();
        for said in ["has no room for a message of 524", "the stream orders", "maxmemory is 8388608 bytes"] {
            assert!(reason.contains(said), "{version}: {reason}");
        }
        assert_eq!(events.stream_length("orders"), 2, "{version}: what stands before it is stored");
        events.ask::<()>(&["CONFIG", "SET", "maxmemory", "100mb"]);
        assert_eventually("it is stored", NEXT_TRY, 4, || events.stream_length("orders"));
        daemon.wait_ready();
        assert_eq!(gaps(&events, "orders"), [], "{version}");
    }
}

/// Messages that have room one by one are stored, though they wait together and are too large together.
#[test]
fn messages_that_are_too_large_together_are_stored_and_only_one_that_is_too_large_alone_is_named() {
    const TOGETHER: u64 = 30;
    for version in [Version::Redis70, Version::Valkey91] {
        let shop = Server::start(Version::Redis70);
        let events = Server::start(version);
        let daemon = Setup::between(&shop, &events)
            .routes(
                "[capture.orders]\nsource = \"shop\"\nchannels = [\"orders\"]\ndestination = \"events\"\n\
                 stream = \"orders\"\nkeep = { entries = 3 }\n",
            )
            .expects(&[alert::DESTINATION, alert::BLOCKED])
            .start_ready();
        let mut connection = shop.connection();
        let mut publish = |payload: &[u8]| {
            redis::cmd("PUBLISH").arg("orders").arg(payload).exec(&mut connection).unwrap();
        };
        publish(b"first");
        daemon.wait_settled("orders", 1);
        // Room for a few of the next ones, and none for now: what waits behind the second message is one batch.
        events.limit_memory(800_000);
        events.ask::<()>(&["SETRANGE", "filler", "900000", "f"]);
        publish(b"second");
        eventually(&format!("{version}: it waits for room"), NEXT_TRY, || {
            let status = daemon.route("orders")?;
            if status.destination.error.is_some() { Ok(()) } else { Err(format!("{status:?}")) }
        });
        for _ in 0..TOGETHER {
            publish(&[b'p'; 30 << 10]);
        }
        publish(&vec![b'p'; 2 << 20]);
        publish(b"last");
        let counted = |what: &str, reached: fn(&Ledger) -> u64, expected: u64| {
            assert_eventually(&format!("{version}: {what}"), NEXT_TRY, expected, || {
                daemon.route("orders").unwrap().counts.as_ref().map_or(0, reached)
            });
        };
        counted("all of them wait", |counts| counts.received, TOGETHER + 4);
        events.ask::<()>(&["DEL", "filler"]);
        counted("those that have room are stored", |counts| counts.stored, TOGETHER + 2);
        let reason = daemon.wait_state("orders", RouteState::Blocked).reason.unwrap();
        assert!(reason.contains("has no room for a message of 2097"), "{version}: {reason}");
        events.ask::<()>(&["CONFIG", "SET", "maxmemory", "100mb"]);
        counted("all are stored", |counts| counts.stored, TOGETHER + 4);
        daemon.wait_ready();
        assert_eq!(gaps(&events, "orders"), [], "{version}");
    }
}
