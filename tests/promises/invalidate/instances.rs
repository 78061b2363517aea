//! Promise: several instances and several routes work beside each other, and a change of the configuration leaves out no
//! entry.

use tidegate::status::RouteState;

use super::{
    CURSOR, cached, change, change_all, fill_all, route, setup, wait_again, wait_applied, wait_missed,
    wait_place,
};
use crate::support::{Server, Version, alert, eventually};

const KEYS: usize = 2_000;

#[test]
fn keys_that_change_on_a_reload_are_applied_to_the_whole_stream() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    let mut daemon = setup(&events, &cache, "again_after = \"0s\"").start_ready();
    wait_applied(&cache, &change_all(&events, 0..KEYS));
    fill_all(&cache, 0..KEYS);
    let old: String = cache.ask(&["HGET", CURSOR, "revision"]);
    cache.ask::<()>(&["SET", "item:7", "old"]);
    // The users of before may not touch the new keys; a reload does not make users.
    cache.ask::<()>(&["ACL", "SETUSER", "tidegate-cache", "~item:*"]);
    daemon.reload(&route("again_after = \"0s\"").replace("product:<", "item:<"));
    crate::support::assert_eventually("the new keys are cleared", super::PATIENCE, false, || {
        cache.ask::<bool>(&["EXISTS", "item:7"])
    });
    assert_ne!(cache.ask::<String>(&["HGET", CURSOR, "revision"]), old);
    assert_eq!(cached(&cache).len(), KEYS, "the old ones are not cleared any more");
}

#[test]
fn two_instances_of_which_one_reloads() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Valkey91));
    let setup = setup(&events, &cache, "again_after = \"300ms\"").expects(&[alert::OUTDATED]);
    let mut first = setup.start_ready();
    let second = first.start_twin();
    second.wait_ready();
    wait_applied(&cache, &change_all(&events, 0..KEYS));
    cache.ask::<()>(&["ACL", "SETUSER", "tidegate-cache", "~item:*"]);
    first.reload(&route("").replace("product:<", "item:<"));
    second.wait_state("products", RouteState::Outdated);
    // The older instance does not move the cursor over entries whose new keys nobody clears.
    for sku in 0..KEYS {
        cache.ask::<()>(&["SET", &format!("item:{sku}"), "old"]);
    }
    let last = change_all(&events, 0..KEYS);
    wait_applied(&cache, &last);
    wait_again(&cache, &last);
    assert_eq!(cache.ask::<Vec<String>>(&["KEYS", "item:*"]), [""; 0]);
}

#[test]
fn two_instances_count_each_key_once_while_one_is_killed() {
    let (events, cache) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
    let setup = setup(&events, &cache, "again_after = \"200ms\"");
    let mut first = setup.start_ready();
    let second = first.start_twin();
    second.wait_ready();
    let mut last = String::new();
    for round in 0..4 {
        let skus = round * KEYS..(round + 1) * KEYS;
        fill_all(&cache, skus.clone());
        last = change_all(&events, skus);
        first.kill();
        first.start_again();
    }
    wait_applied(&cache, &last);
    wait_again(&cache, &last);
    assert_eq!(cached(&cache), [""; 0]);
    let counts: Vec<usize> = cache.ask(&["HMGET", CURSOR, "cleared", "absent"]);
    assert_eq!(counts, [4 * KEYS, 0]);
}

/// The instance that was killed between the passes cannot read the entry any more, and the other one still holds it.
#[test]
fn a_second_pass_that_the_other_instance_has_done_is_not_lost() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Valkey91));
    let mut first = setup(&events, &cache, "again_after = \"2s\"").start_ready();
    let second = first.start_twin();
    second.wait_ready();
    let last = change(&events, 1);
    wait_applied(&cache, &last);
    // One has applied it, and the other one reads it again to hold it.
    eventually("both hold it", super::PATIENCE, || match events.calls("xrange") {
        0 => Err("nobody has read it again".to_owned()),
        _ => Ok(()),
    });
    first.kill();
    events.ask::<()>(&["XDEL", "products", &last]);
    first.start_again();
    first.wait_ready();
    wait_again(&cache, &last);
    // Each instance writes the cursor once a second.
    let before = cache.calls("evalsha");
    eventually("the lost entry was due", super::PATIENCE, || match cache.calls("evalsha") {
        now if now > before + 8 => Ok(()),
        now => Err(format!("{now}")),
    });
    wait_missed(&first, "second_pass", 0);
    wait_missed(&second, "second_pass", 0);
    let places: Vec<String> = cache.ask(&["HMGET", CURSOR, "read", "again_read"]);
    assert_eq!(places[0], places[1], "every entry had its second pass");
}

#[test]
fn a_clear_whose_instance_is_gone_is_finished_by_one_that_lives() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Valkey91));
    let _daemon = setup(&events, &cache, "again_after = \"0s\"\nif_missed = \"clear\"").start_ready();
    wait_applied(&cache, &change(&events, 0));
    for (step, time) in [("leases", "1"), ("keys again", "1700000000000")] {
        fill_all(&cache, 0..KEYS);
        // As an instance leaves it that was killed in this step long ago.
        cache.ask::<()>(&["HSET", CURSOR, "clearing", step, "clearing_ms", time]);
        wait_place(&cache, CURSOR, "clearing", "none");
        assert_eq!(cached(&cache), [""; 0], "{step}");
    }
}

#[test]
fn two_routes_on_one_key() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    let second =
        route("").replace("invalidate.products", "invalidate.prices").replace("\"products\"", "\"prices\"");
    let routes = format!("{}{second}", route(""));
    let _daemon = setup(&events, &cache, "").routes(&routes).start_ready();
    for stream in ["products", "prices"] {
        fill_all(&cache, 0..1);
        let last: String = events.ask(&["XADD", stream, "*", "payload", "{\"sku\":0}"]);
        wait_place(&cache, &format!("tidegate:{stream}:cursor"), "pos", &last);
        assert_eq!(cached(&cache), [""; 0], "{stream}");
    }
}
