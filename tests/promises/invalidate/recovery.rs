//! Promise: whatever sets the cache back sets the cursor back with it, and what was lost is applied again; what the stream
//! no longer has is reported.

use super::{
    CURSOR, cached, change, change_all, fill_all, setup, wait_again, wait_applied, wait_count, wait_missed,
    wait_replays,
};
use crate::support::{Options, Server, Version, alert, eventually};

const KEYS: usize = 300;

#[test]
fn the_cache_fails_over_and_what_it_lost_is_applied_again() {
    let events = Server::start(Version::Redis82);
    let master = Server::with(Version::Redis82, Options::default().tcp());
    let replica = Server::replica_of(&master, Version::Redis82, Options::default().tcp());
    fill_all(&master, 0..KEYS);
    replica.wait_linked();
    let expected = [alert::REPLAY, alert::CACHE];
    let setup = super::Setup::new().endpoint("events", &events).deployment("cache", &[&master, &replica]);
    let daemon = setup.routes(&super::route("")).expects(&expected).start_ready();
    wait_applied(&master, &change(&events, 0));
    replica.wait_caught_up_with(&master);
    // The replica stands still and its link is cut: the rest of the removals is lost with the master.
    replica.freeze();
    assert_eq!(master.ask::<u64>(&["CLIENT", "KILL", "TYPE", "replica"]), 1);
    let last = change_all(&events, 1..KEYS);
    wait_applied(&master, &last);
    let mut master = master;
    master.kill();
    replica.thaw();
    eventually("the replica is the master", super::PATIENCE, || {
        replica.try_ask::<()>(&["REPLICAOF", "NO", "ONE"]).map_err(|error| error.to_string())
    });
    wait_applied(&replica, &last);
    assert_eq!(cached(&replica), [""; 0], "nothing that was lost stays");
    wait_replays(&daemon, "went_back", 1);
}

#[test]
fn the_cache_is_restored_from_an_older_dump() {
    let events = Server::start(Version::Valkey91);
    let mut cache = Server::start(Version::Valkey91);
    fill_all(&cache, 0..KEYS);
    let expected = [alert::REPLAY, alert::CACHE];
    let daemon = setup(&events, &cache, "again_after = \"0s\"").expects(&expected).start_ready();
    wait_applied(&cache, &change(&events, 0));
    cache.ask::<()>(&["SAVE"]);
    let last = change_all(&events, 1..KEYS);
    wait_applied(&cache, &last);
    cache.kill();
    cache.start_again();
    wait_applied(&cache, &last);
    assert_eq!(cached(&cache), [""; 0]);
    wait_replays(&daemon, "went_back", 1);
}

#[test]
fn the_cursor_is_evicted_and_everything_is_applied_again() {
    let (events, cache) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
    let daemon = setup(&events, &cache, "again_after = \"0s\"").start_ready();
    let last = change_all(&events, 0..KEYS);
    wait_applied(&cache, &last);
    fill_all(&cache, 0..KEYS);
    // As an eviction takes it.
    cache.ask::<()>(&["DEL", CURSOR]);
    wait_applied(&cache, &last);
    assert_eq!(cached(&cache), [""; 0]);
    wait_replays(&daemon, "no_cursor", 2);
}

#[test]
fn flushed_under_load_nothing_stays() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    let _daemon = setup(&events, &cache, "again_after = \"500ms\"").start_ready();
    let mut last = String::new();
    for round in 0..5 {
        fill_all(&cache, 0..KEYS);
        last = change_all(&events, 0..KEYS);
        cache.ask::<()>(&["FLUSHALL"]);
        // A reader that was slower than all of it.
        cache.ask::<()>(&["SET", &format!("product:{round}"), "old"]);
    }
    wait_applied(&cache, &last);
    wait_again(&cache, &last);
    assert_eq!(cached(&cache), [""; 0]);
}

#[test]
fn the_stream_is_begun_anew_below_the_cursor() {
    for version in [Version::Redis70, Version::Valkey91] {
        let (events, cache) = (Server::start(version), Server::start(version));
        let expected = [alert::REPLAY, alert::MISSED_CHANGE];
        let daemon = setup(&events, &cache, "again_after = \"500ms\"").expects(&expected).start_ready();
        let last = change_all(&events, 0..KEYS);
        wait_applied(&cache, &last);
        fill_all(&cache, 0..KEYS);
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("DEL").arg("products").ignore();
        for sku in 0..KEYS {
            let (id, payload) = (format!("{}-0", sku + 1), format!("{{\"sku\":{sku}}}"));
            pipeline.cmd("XADD").arg(&["products", &id, "payload", &payload]).ignore();
        }
        pipeline.exec(&mut events.connection()).expect("the server takes entries");
        let last = format!("{KEYS}-0");
        wait_applied(&cache, &last);
        wait_again(&cache, &last);
        assert_eq!(cached(&cache), [""; 0], "{version}");
        wait_missed(&daemon, "stream_anew", 1);
    }
}

#[test]
fn a_stream_that_is_deleted_is_not_believed_to_be_the_old_one() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    let expected = [alert::REPLAY, alert::MISSED_CHANGE];
    let daemon = setup(&events, &cache, "").expects(&expected).start_ready();
    wait_applied(&cache, &change_all(&events, 0..KEYS));
    events.ask::<()>(&["DEL", "products"]);
    wait_missed(&daemon, "stream_anew", 1);
    wait_applied(&cache, "0-0");
    // Lower ids than before are read.
    fill_all(&cache, 0..1);
    events.ask::<String>(&["XADD", "products", "5-0", "payload", "{\"sku\":0}"]);
    wait_applied(&cache, "5-0");
    assert_eq!(cached(&cache), [""; 0]);
}

/// A clear of all keys beats a load that is under way, and touches no other key.
#[test]
fn trimmed_unread_clears_every_key_where_that_is_configured() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        let setup = setup(&events, &cache, "again_after = \"500ms\"\nif_missed = \"clear\"");
        let mut daemon = setup.expects(&[alert::MISSED_CHANGE]).start_ready();
        // Both passes are over, so that only one loss begins a clear.
        let first = change(&events, 0);
        wait_applied(&cache, &first);
        wait_again(&cache, &first);
        assert!(daemon.stop().success());
        change_all(&events, 0..KEYS);
        events.ask::<()>(&["XTRIM", "products", "MAXLEN", "1"]);
        fill_all(&cache, KEYS..10 * KEYS);
        cache.ask::<()>(&["SET", "other:1", "kept"]);
        let mut reader = cache.connection();
        let token = super::take_lease(&mut reader, "product:x").expect("nobody loads it");
        daemon.start_again();
        wait_count(&daemon, "clears", 1, |status| status.clears);
        assert_eq!(cached(&cache), [""; 0], "{version}");
        assert!(!super::fill(&mut reader, "product:x", &token, "old"), "{version}: its lease is gone");
        assert!(cache.ask::<bool>(&["EXISTS", "other:1"]), "{version}");
        wait_missed(&daemon, "trimmed", 1);
        super::wait_place(&cache, CURSOR, "clearing", "none");
    }
}

/// What was published in a gap of the capture is a change that no entry names.
#[test]
fn a_gap_clears() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    let routes = super::route("again_after = \"0s\"\nif_missed = \"clear\"")
        .replace("stream = \"products\"", "channels = [\"product.changed\"]");
    let setup = setup(&events, &cache, "").routes(&routes).expects(&[alert::GAP, alert::MISSED_CHANGE]);
    let mut daemon = setup.start_ready();
    for sku in [0, 1] {
        events.ask::<u64>(&["PUBLISH", "product.changed", &format!("{{\"sku\":{sku}}}")]);
    }
    eventually("both are stored", super::PATIENCE, || {
        match events.stream_length("tidegate:products:events") {
            2 => Ok(()),
            length => Err(format!("{length}")),
        }
    });
    // The first look at the gap records has been, so the cursor has one.
    eventually("the cursor has it", super::PATIENCE, || {
        match cache.ask::<Option<String>>(&["HGET", CURSOR, "gaps"]) {
            Some(_) => Ok(()),
            None => Err("none".to_owned()),
        }
    });
    fill_all(&cache, 5..9);
    daemon.kill();
    events.ask::<u64>(&["PUBLISH", "product.changed", "{\"sku\":5}"]);
    daemon.start_again();
    daemon.wait_ready();
    // The gap is recorded with the first message after it.
    events.ask::<u64>(&["PUBLISH", "product.changed", "{\"sku\":0}"]);
    wait_missed(&daemon, "gap", 1);
    wait_count(&daemon, "clears", 1, |status| status.clears);
    assert_eq!(cached(&cache), [""; 0]);
}

/// A second instance of the same daemon with a cursor that was lost or is of other keys: what it replays does not have what
/// was published in the gap.
#[test]
fn a_gap_at_a_restart_that_replays_clears() {
    for lost in [true, false] {
        let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
        let lines = "again_after = \"0s\"\nif_missed = \"clear\"";
        let routes = super::route(lines).replace("stream = \"products\"", "channels = [\"product.changed\"]");
        let setup = setup(&events, &cache, "").routes(&routes).expects(&[
            alert::GAP,
            alert::MISSED_CHANGE,
            alert::REPLAY,
        ]);
        let mut daemon = setup.start_ready();
        events.ask::<u64>(&["PUBLISH", "product.changed", "{\"sku\":0}"]);
        eventually("the cursor knows the gaps", super::PATIENCE, || {
            match cache.ask::<Option<String>>(&["HGET", CURSOR, "gaps"]) {
                Some(_) => Ok(()),
                None => Err("none".to_owned()),
            }
        });
        fill_all(&cache, 5..9);
        daemon.kill();
        if lost {
            cache.ask::<()>(&["DEL", CURSOR]);
        } else {
            // As one that was written for other keys.
            cache.ask::<()>(&["HSET", CURSOR, "revision", "another"]);
        }
        events.ask::<u64>(&["PUBLISH", "product.changed", "{\"sku\":5}"]);
        daemon.start_again();
        daemon.wait_ready();
        events.ask::<u64>(&["PUBLISH", "product.changed", "{\"sku\":0}"]);
        wait_missed(&daemon, "gap", 1);
        eventually("every key is removed", super::PATIENCE, || match cached(&cache) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        });
    }
}

/// Killed between the passes, and the entries trimmed before they are read again: their keys were removed once, and a
/// reader without a lease may have put an old value back.
#[test]
fn a_second_pass_that_is_lost_is_reported_and_clears() {
    for (version, clear) in [(Version::Redis70, true), (Version::Redis82, false), (Version::Valkey91, true)] {
        let (events, cache) = (Server::start(version), Server::start(version));
        let lines = if clear { "if_missed = \"clear\"" } else { "" };
        let setup = setup(&events, &cache, &format!("again_after = \"2s\"\n{lines}"));
        let mut daemon = setup.expects(&[alert::MISSED_CHANGE]).start_ready();
        let last = change_all(&events, 0..KEYS);
        wait_applied(&cache, &last);
        daemon.kill();
        let again: String = cache.ask(&["HGET", CURSOR, "again"]);
        assert_eq!(again, "0-0", "{version}: killed between the passes");
        events.ask::<()>(&["XTRIM", "products", "MAXLEN", "100"]);
        fill_all(&cache, 0..KEYS);
        daemon.start_again();
        wait_missed(&daemon, "second_pass", 1);
        wait_again(&cache, &last);
        if clear {
            wait_count(&daemon, "clears", 1, |status| status.clears);
            assert_eq!(cached(&cache), [""; 0], "{version}");
        } else {
            assert_eq!(
                cached(&cache).len(),
                KEYS - 100,
                "{version}: only those that are there had a second pass"
            );
        }
        // It is told once: the next crash between the passes finds nothing missing.
        let next = change(&events, 1);
        wait_applied(&cache, &next);
        daemon.kill();
        daemon.start_again();
        wait_again(&cache, &next);
        wait_missed(&daemon, "second_pass", 0);
    }
}

#[test]
fn a_clear_survives_a_crash() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    let mut daemon = setup(&events, &cache, "again_after = \"0s\"\nif_missed = \"clear\"").start_ready();
    wait_applied(&cache, &change(&events, 0));
    for step in ["leases", "keys", "keys again"] {
        daemon.kill();
        // As a daemon leaves it that is killed in this step.
        cache.ask::<()>(&["HSET", CURSOR, "clearing", step]);
        fill_all(&cache, 0..KEYS);
        daemon.start_again();
        super::wait_place(&cache, CURSOR, "clearing", "none");
        assert_eq!(cached(&cache), [""; 0], "{step}");
    }
}

#[test]
fn trimmed_unread_is_reported_once() {
    for version in [Version::Redis70, Version::Valkey91] {
        let events = Server::start(version);
        let mut cache = Server::start(version);
        let expected = [alert::CACHE, alert::MISSED_CHANGE];
        let mut daemon = setup(&events, &cache, "again_after = \"0s\"").expects(&expected).start_ready();
        wait_applied(&cache, &change_all(&events, 0..KEYS));
        cache.ask::<()>(&["SAVE"]);
        cache.kill();
        change_all(&events, 0..KEYS);
        events.ask::<()>(&["XTRIM", "products", "MAXLEN", "10"]);
        cache.start_again();
        let last = change(&events, 1);
        wait_applied(&cache, &last);
        wait_missed(&daemon, "trimmed", 1);
        eventually("the count is in the cursor", super::PATIENCE, || {
            match cache.ask::<u64>(&["HGET", CURSOR, "counted"]) {
                counted if counted == 2 * KEYS as u64 + 1 => Ok(()),
                counted => Err(format!("{counted}")),
            }
        });
        daemon.restart();
        daemon.wait_ready();
        wait_applied(&cache, &change(&events, 2));
        let looks = events.calls("xinfo|stream");
        eventually("it has looked at the stream", super::PATIENCE, || match events.calls("xinfo|stream") {
            now if now > looks + 2 => Ok(()),
            now => Err(format!("{now}")),
        });
        wait_missed(&daemon, "trimmed", 0);
    }
}
