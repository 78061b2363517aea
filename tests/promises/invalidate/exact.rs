//! Promise: each key that an entry names is removed with its lease, each entry counts once, and what names no key is
//! recorded and holds up nothing.

use super::{
    CURSOR, cached, change, change_all, fill_all, route, setup, wait_again, wait_applied, wait_count,
    wait_missed,
};
use crate::support::{Options, Server, Setup, Version, alert, eventually};

const ENTRIES: usize = 10_000;

#[test]
fn each_key_is_removed_and_counted_once() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        fill_all(&cache, 0..ENTRIES / 2);
        cache.ask::<()>(&["SET", "product:7:tidegate", "token"]);
        cache.ask::<()>(&["SET", "product:other", "kept"]);
        let daemon = setup(&events, &cache, "again_after = \"200ms\"").start_ready();
        let last = change_all(&events, 0..ENTRIES);
        wait_applied(&cache, &last);
        wait_again(&cache, &last);
        assert_eq!(cached(&cache), ["product:other"], "{version}");
        let counts: Vec<u64> = cache.ask(&["HMGET", CURSOR, "cleared", "absent", "refused", "counted"]);
        let (entries, half) = (ENTRIES as u64, ENTRIES as u64 / 2);
        assert_eq!(counts, [half, half, 1, entries], "{version}");
        let metrics = [
            "tidegate_invalidated_total",
            "tidegate_invalidated_absent_total",
            "tidegate_fills_refused_total",
        ];
        assert_eq!(metrics.map(|name| daemon.metric("products", name)), [half, half, 1], "{version}");
    }
}

/// Calls that were under way as it died are carried out in part, and none twice.
#[test]
fn each_key_is_removed_and_counted_once_while_the_daemon_is_killed() {
    const ROUND: usize = 5_000;
    const KILLS: usize = 20;
    let (events, cache) = (Server::start(Version::Redis70), Server::start(Version::Valkey91));
    fill_all(&cache, 0..KILLS * ROUND);
    let mut daemon = setup(&events, &cache, "again_after = \"200ms\"").start_ready();
    let mut last = String::new();
    for round in 0..KILLS {
        let place = || cache.ask::<Option<String>>(&["HGET", CURSOR, "pos"]);
        let before = place();
        last = change_all(&events, round * ROUND..(round + 1) * ROUND);
        eventually("the cursor moves", super::PATIENCE, || match place() {
            now if now != before => Ok(()),
            now => Err(format!("{now:?}")),
        });
        daemon.kill();
        daemon.start_again();
    }
    wait_applied(&cache, &last);
    wait_again(&cache, &last);
    assert_eq!(cached(&cache), [""; 0]);
    let counts: Vec<u64> = cache.ask(&["HMGET", CURSOR, "cleared", "absent", "refused", "counted", "read"]);
    let entries = (KILLS * ROUND) as u64;
    assert_eq!(counts, [entries, 0, 0, entries, entries]);
}

#[test]
fn a_cursor_that_nothing_moves_is_written_each_second() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Valkey91));
    let _daemon = setup(&events, &cache, "").start_ready();
    wait_applied(&cache, &change(&events, 1));
    let before = cache.calls("hset");
    eventually("it is written", super::PATIENCE, || match cache.calls("hset") {
        now if now >= before + 3 => Ok(()),
        now => Err(format!("{} times", now - before)),
    });
}

/// The usual application publishes what has changed, and has no stream.
#[test]
fn what_is_published_on_a_channel_is_removed() {
    for version in [Version::Redis70, Version::Valkey91] {
        let events = Server::with(version, Options::replication_source());
        let cache = Server::start(version);
        fill_all(&cache, 0..3);
        let routes = route("mode = \"replication\"")
            .replace("stream = \"products\"", "patterns = [\"product.*.changed\"]");
        let routes = routes.replace("<pointer:/sku>", "<1>");
        let setup = Setup::new().endpoint("events", &events).endpoint("cache", &cache);
        let daemon = setup.routes(&routes).expects(&[alert::DEAD_LETTER]).start_ready();
        for channel in ["product.1.changed", "product..changed", "product.2.changed"] {
            events.ask::<u64>(&["PUBLISH", channel, ""]);
        }
        eventually("the keys are removed", super::PATIENCE, || match cached(&cache) {
            left if left == ["product:0"] => Ok(()),
            left => Err(format!("{left:?}")),
        });
        assert_eq!(daemon.wait_settled("products-events", 3).stored, 3, "{version}: it is a capture");
        wait_count(&daemon, "rejected", 1, |status| status.rejected);
    }
}

#[test]
fn collected_changes_are_cleared_once() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    let daemon = setup(&events, &cache, "again_after = \"0s\"\ncollect = \"1s\"").start_ready();
    let last = change_all(&events, std::iter::repeat_n(1, 50));
    wait_applied(&cache, &last);
    let counts: Vec<u64> = cache.ask(&["HMGET", CURSOR, "cleared", "absent"]);
    assert_eq!(counts, [0, 1], "the key was cleared once");
    assert_eq!(daemon.metric("products", "tidegate_invalidated_absent_total"), 1);
}

#[test]
fn what_names_no_key_is_recorded_and_holds_up_nothing() {
    let (events, cache) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
    fill_all(&cache, 0..3);
    let many: Vec<String> = (0..1001).map(|sku| sku.to_string()).collect();
    let mut routes = route("where = [{ entry = \"kind\", exists = false }]");
    routes = routes.replace("<pointer:/sku>", "<pointer:/sku/*>");
    let expected = [alert::DEAD_LETTER, alert::MISSED_CHANGE];
    let daemon = setup(&events, &cache, "").routes(&routes).expects(&expected).start_ready();
    for payload in ["{\"sku\":[0]}", "no json", "{\"sku\":[]}", &format!("{{\"sku\":[{}]}}", many.join(","))]
    {
        events.ask::<String>(&["XADD", "products", "*", "payload", payload]);
    }
    events.ask::<String>(&["XADD", "products", "*", "kind", "x", "payload", "{\"sku\":[1]}"]);
    let last: String = events.ask(&["XADD", "products", "*", "payload", "{\"sku\":[2]}"]);
    wait_applied(&cache, &last);
    assert_eq!(cached(&cache), ["product:1"], "one was filtered, three are dead letters");
    wait_missed(&daemon, "too_many_keys", 1);
    wait_count(&daemon, "filtered", 1, |status| status.filtered);
    wait_count(&daemon, "rejected", 3, |status| status.rejected);
    let letters: Vec<(String, Vec<String>)> =
        events.ask(&["XRANGE", "tidegate:products:dead-letters", "-", "+"]);
    let reasons: Vec<&str> = letters.iter().map(|(_, fields)| fields[5].as_str()).collect();
    assert_eq!(reasons, ["no_key", "no_key", "too_many_keys"]);
    // A cache that begins anew makes no letter a second time.
    cache.ask::<()>(&["FLUSHALL"]);
    wait_applied(&cache, &last);
    assert_eq!(events.stream_length("tidegate:products:dead-letters"), 3);
}
