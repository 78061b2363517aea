//! Promise: a message that the destination does not take blocks the route with its name, and not behind the network's; it
//! is stored once the destination takes it.

use std::time::Duration;

use tidegate::status::RouteState;

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
