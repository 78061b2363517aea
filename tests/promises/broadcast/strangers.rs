//! Promise: what happens to servers and streams behind a broadcast's back does not lose entries without a word: a
//! destination that becomes a replica, a stream that begins anew, and a group that takes nothing.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{Options, Server, Setup, Subscriber, Version, alert, assert_eventually, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

fn route(destination: &str, lines: &str) -> String {
    format!(
        "[broadcast.stock]\nsource = \"events\"\nstream = \"orders\"\ndestination = \"{destination}\"\nchannel = \"stock\"\n\
         message = \"<id>\"\n{lines}\n"
    )
}

#[test]
fn a_destination_that_is_demoted_in_place_is_left_for_the_new_master() {
    for version in [Version::Redis62, Version::Valkey91] {
        let events = Server::start(Version::Redis70);
        let old = Server::with(version, Options::default().tcp());
        let new = Server::replica_of(&old, version, Options::default());
        let daemon = Setup::new()
            .endpoint("events", &events)
            .deployment("shop", &[&old, &new])
            .routes(&route("shop", "start = \"end\""))
            .expects(&[alert::DESTINATION])
            .start_ready();
        let subscriber = Subscriber::start(&new, &["stock"]);
        let before: String = events.ask(&["XADD", "orders", "*", "n", "0"]);
        assert_eventually("the replica's subscribers hear it", PATIENCE, vec![before], || {
            subscriber.payloads()
        });

        new.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
        let port = new.port().unwrap().to_string();
        old.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
        // From here on the old server's PUBLISH reaches no subscriber of the new one, and succeeds.
        let added: Vec<String> =
            (1..=20).map(|n| events.ask(&["XADD", "orders", "*", "n", &n.to_string()])).collect();
        eventually("each entry reaches the new master's subscribers", PATIENCE, || {
            let heard = subscriber.payloads();
            if added.iter().all(|id| heard.contains(id)) {
                Ok(())
            } else {
                Err(format!("{version}: {heard:?}"))
            }
        });
        daemon.wait_ready();
    }
}

#[test]
fn a_replica_is_refused_and_nothing_counts_as_published() {
    let events = Server::start(Version::Redis70);
    let master = Server::with(Version::Redis82, Options::default().tcp());
    let shop = Server::replica_of(&master, Version::Redis82, Options::default());
    events.ask::<String>(&["XADD", "orders", "*", "n", "1"]);
    let daemon = Setup::new()
        .endpoint("events", &events)
        .endpoint("shop", &shop)
        .routes(&route("shop", "start = \"beginning\""))
        .expects(&[alert::DESTINATION])
        .start();
    let status = daemon.wait_state("stock", RouteState::Waiting);
    assert!(status.reason.as_ref().is_some_and(|reason| reason.contains("replica")), "{status:?}");
    // Named from the start it is refused; so it is when it becomes one while nothing is published.
    shop.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    let subscriber = Subscriber::start(&shop, &["stock"]);
    daemon.wait_ready();
    eventually("it is published now", PATIENCE, || match subscriber.payloads().len() {
        1.. => Ok(()),
        _ => Err("nothing".to_owned()),
    });
    let port = master.port().unwrap().to_string();
    shop.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
    daemon.wait_state("stock", RouteState::Waiting);
    assert_eq!(daemon.get("/readyz").unwrap().0, 503);
}

/// Ids far in the future, as a wrong clock makes them.
const FUTURE: &str = "9999999999999-0";

#[test]
fn a_stream_that_begins_anew_below_the_cursor_goes_on_as_start_says() {
    for how in ["DEL", "RENAME", "XSETID"] {
        let events = Server::start(Version::Redis82);
        let subscriber = Subscriber::start(&events, &["stock"]);
        let daemon = Setup::new()
            .endpoint("events", &events)
            .routes(&route("events", "start = \"beginning\""))
            .expects(&[alert::DESTINATION, &["broadcast_stream_recreated"]])
            .start_ready();
        events.ask::<String>(&["XADD", "orders", FUTURE, "n", "0"]);
        assert_eventually("it is published", PATIENCE, vec![FUTURE.to_owned()], || subscriber.payloads());
        match how {
            "DEL" => events.ask::<()>(&["DEL", "orders"]),
            "RENAME" => {
                events.ask::<String>(&["XADD", "other", "1-0", "n", "0"]);
                events.ask::<()>(&["RENAME", "other", "orders"]);
            }
            _ => {
                events.ask::<()>(&["XTRIM", "orders", "MAXLEN", "0"]);
                events.ask::<()>(&["XSETID", "orders", "1-0"]);
            }
        }
        let mut added: Vec<String> = if how == "RENAME" { vec!["1-0".to_owned()] } else { Vec::new() };
        added.extend((0..4).map(|n| events.ask::<String>(&["XADD", "orders", "*", "n", &n.to_string()])));
        let expected: Vec<String> = std::iter::once(FUTURE.to_owned()).chain(added).collect();
        assert_eventually(how, PATIENCE, expected, || subscriber.payloads());
        let letters: u64 = events.ask(&["XLEN", "tidegate:stock:dead-letters"]);
        assert_eq!(letters, 0, "{how}: nothing that stands in the stream is called deleted");
        daemon.wait_ready();
    }
}

#[test]
fn a_stream_that_begins_anew_parks_a_route_that_does_not_say_where_to_begin() {
    let events = Server::start(Version::Valkey91);
    let subscriber = Subscriber::start(&events, &["stock"]);
    let mut daemon = Setup::new()
        .endpoint("events", &events)
        .routes(&route("events", ""))
        .expects(&[alert::BLOCKED, alert::DESTINATION])
        .start_ready();
    events.ask::<String>(&["XADD", "orders", FUTURE, "n", "0"]);
    assert_eventually("it is published", PATIENCE, vec![FUTURE.to_owned()], || subscriber.payloads());
    events.ask::<()>(&["DEL", "orders"]);
    let added: String = events.ask(&["XADD", "orders", "*", "n", "1"]);
    let status = daemon.wait_state("stock", RouteState::Blocked);
    assert!(status.reason.as_ref().is_some_and(|reason| reason.contains("below the cursor")), "{status:?}");
    daemon.reload_settings(&route("events", "start = \"beginning\""));
    assert_eventually("it goes on", PATIENCE, vec![FUTURE.to_owned(), added], || subscriber.payloads());
}

#[test]
fn entries_that_no_consumer_takes_have_an_age() {
    let events = Server::start(Version::Redis70);
    // A minute ago, by its id.
    let minute: u64 = 60_000;
    let (seconds, _): (u64, u64) = events.ask(&["TIME"]);
    let id = format!("{}-0", seconds * 1_000 - minute);
    events.ask::<String>(&["XADD", "orders", &id, "n", "0"]);
    events.ask::<()>(&["XGROUP", "CREATE", "orders", "inventory", "0"]);
    let daemon = Setup::new()
        .endpoint("events", &events)
        .routes(&route("events", "start = \"beginning\"\nafter = \"inventory\""))
        .start_ready();
    eventually("the age is told", PATIENCE, || {
        let metrics = daemon.get("/metrics")?.1;
        let name = "tidegate_oldest_unacknowledged_age_seconds{route=\"stock\"} ";
        let age = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<f64>().ok());
        if age.is_some_and(|age| age >= 60.0) { Ok(()) } else { Err(format!("{age:?}")) }
    });
}

#[test]
fn a_replay_does_not_take_tidegates_own_patterns_for_a_strangers() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("events", &server)
        .routes(
            "[capture.orders]\nsource = \"events\"\npatterns = [\"orders.*\"]\ndestination = \"events\"\n\
             stream = \"orders\"\nkeep = \"forever\"\n",
        )
        .expects(&[alert::GAP])
        .start_ready();
    server.ask::<String>(&["XADD", "orders", "*", "payload", "x"]);
    let replay = |channel: &str| {
        let operator = daemon.operator(&[channel]);
        let output = operator.run_command(&["replay", "orders", "--from", "0", "--channel", channel]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = replay("again");
    assert_eq!(code, Some(0), "{said}");
    // A capture that would hear it, and a stranger, are told as before.
    let (code, said) = replay("orders.again");
    assert!(code == Some(64) && said.contains("capture.orders listens"), "{said}");
    let _stranger = Subscriber::start(&server, &["other.*"]);
    let (code, said) = replay("again2");
    assert!(code == Some(64) && said.contains("1 patterns"), "{said}");
}
