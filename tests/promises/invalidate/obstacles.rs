//! Promise: a cache that is full, an entry with very many keys, readers that follow the cache, and a cache that is away are
//! no obstacle.

use tidegate::status::RouteState;

use super::{cached, change, change_all, fill_all, route, setup, wait_again, wait_applied};
use crate::support::{Server, Setup, Version, alert, eventually};

#[test]
fn a_cache_that_is_out_of_memory_is_cleared() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        fill_all(&cache, 0..200);
        let _daemon = setup(&events, &cache, "again_after = \"200ms\"").start_ready();
        wait_applied(&cache, &change(&events, 0));
        cache.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
        assert!(cache.try_ask::<()>(&["SET", "product:0", "x"]).is_err(), "{version}: it is full");
        let last = change_all(&events, 0..200);
        wait_applied(&cache, &last);
        wait_again(&cache, &last);
        assert_eq!(cached(&cache), [""; 0], "{version}");
    }
}

#[test]
fn one_entry_of_1000_keys() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        fill_all(&cache, 0..1000);
        let routes = route("again_after = \"200ms\"").replace("<pointer:/sku>", "<pointer:/*>");
        let _daemon = setup(&events, &cache, "").routes(&routes).start_ready();
        let all: Vec<String> = (0..1000).map(|sku| sku.to_string()).collect();
        let payload = format!("[{}]", all.join(","));
        let last: String = events.ask(&["XADD", "products", "*", "payload", &payload]);
        wait_applied(&cache, &last);
        assert_eq!(cached(&cache), [""; 0], "{version}");
        wait_again(&cache, &last);
    }
}

/// The removal by the script is told to clients that keep copies in their memory.
#[test]
fn tracking_clients_hear_it() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    fill_all(&cache, 1..2);
    let (mut follower, mut reader) = (cache.connection(), cache.connection());
    let id: i64 = redis::cmd("CLIENT").arg("ID").query(&mut follower).expect("it answers");
    let mut heard = follower.as_pubsub();
    heard.subscribe("__redis__:invalidate").expect("it subscribes");
    let tracking = ["TRACKING", "ON", "REDIRECT", &id.to_string()];
    redis::cmd("CLIENT").arg(&tracking).exec(&mut reader).expect("it tracks");
    redis::cmd("GET").arg("product:1").exec(&mut reader).expect("it answers");
    let _daemon = setup(&events, &cache, "").start_ready();
    change(&events, 1);
    heard.set_read_timeout(Some(super::PATIENCE)).expect("a time");
    let keys: Vec<String> =
        heard.get_message().expect("the removal is told").get_payload().expect("a list of keys");
    assert_eq!(keys, ["product:1"]);
}

#[test]
fn a_dead_cache_holds_up_no_other_route() {
    let (events, cache) = (Server::start(Version::Valkey80), Server::start(Version::Valkey80));
    let dead = route("").replace("invalidate.products", "invalidate.away").replace("\"cache\"", "\"gone\"");
    let routes = format!("{}{dead}", route(""));
    let setup = Setup::new().endpoint("events", &events).endpoint("cache", &cache).dead_endpoint("gone");
    let daemon = setup.routes(&routes).expects(&[alert::CACHE]).start();
    daemon.wait_route_ready("products");
    fill_all(&cache, 0..10);
    wait_applied(&cache, &change_all(&events, 0..10));
    assert_eq!(cached(&cache), [""; 0]);
    let away = daemon.wait_state("away", RouteState::Waiting);
    assert!(!away.destination.connected && away.reason.is_some(), "{away:?}");
    let (code, _) = daemon.get("/readyz").expect("it answers");
    assert_eq!(code, 503);
}

#[test]
fn a_cursor_of_another_type_or_without_a_right_blocks_the_route_and_nothing_is_cleared() {
    let (events, cache) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
    fill_all(&cache, 0..10);
    cache.ask::<()>(&["SET", super::CURSOR, "no hash"]);
    let mut daemon = setup(&events, &cache, "").expects(&[alert::BLOCKED]).start();
    change_all(&events, 0..10);
    let blocked = daemon.wait_state("products", RouteState::Blocked);
    assert!(blocked.reason.as_ref().is_some_and(|reason| reason.contains("WRONGTYPE")), "{blocked:?}");
    cache.ask::<()>(&["DEL", super::CURSOR]);
    cache.ask::<()>(&["ACL", "SETUSER", "tidegate-cache", "-unlink"]);
    daemon.kill();
    daemon.start_again();
    let blocked = daemon.wait_state("products", RouteState::Blocked);
    assert!(blocked.reason.as_ref().is_some_and(|reason| reason.contains("NOPERM")), "{blocked:?}");
    assert_eq!(cached(&cache).len(), 10);
    cache.ask::<()>(&["ACL", "SETUSER", "tidegate-cache", "+unlink"]);
    daemon.kill();
    daemon.start_again();
    eventually("everything is cleared", super::PATIENCE, || match cached(&cache) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
}
