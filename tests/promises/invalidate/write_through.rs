//! Promise: with `set`, a key that is there with an older version gets the value of the entry. An older value never takes the
//! place of a newer one, a key that is not there stays away, and what cannot be compared is removed.

use redis::Connection;

use super::{
    CURSOR, cached, route, setup, take_lease, wait_again, wait_applied, wait_count, wait_place, wait_replays,
};
use crate::support::{Server, Version};

pub(super) const SET: &str = "set = { value = \"<pointer:/value>\", version = \"<pointer:/version>\" }";

/// What readers are given to store a value only if they still hold the lease, and it is newer.
const FILL: &str = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
local there = redis.pcall('HGET', KEYS[1], 'version')
local old, new = type(there) == 'string' and string.match(there, '^0*(%d+)$'), string.match(ARGV[4], '^0*(%d+)$')
if old and (#old > #new or #old == #new and old >= new) then return 0 end
redis.call('UNLINK', KEYS[1])
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'version', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

/// Stores what was loaded under a lease, if it is newer.
pub(super) fn fill_newer(connection: &mut Connection, key: &str, token: &str, value: &str) -> bool {
    let lease = format!("{key}:tidegate");
    let mut command = redis::cmd("EVAL");
    command.arg(&[FILL, "2", key, &lease, token, value, "600000", value]);
    command.query(connection).expect("the cache answers")
}

/// Says that a product has changed, with JSON texts of its value and version. Returns the entry's id.
fn change(events: &Server, sku: usize, value: &str, version: &str) -> String {
    let payload = format!("{{\"sku\":{sku},\"value\":{value},\"version\":{version}}}");
    events.ask(&["XADD", "products", "*", "payload", &payload])
}

fn put(cache: &Server, sku: usize, value: &str, version: &str) {
    cache.ask::<()>(&["HSET", &format!("product:{sku}"), "value", value, "version", version]);
}

/// The value and the version of a product in the cache.
fn held(cache: &Server, sku: usize) -> Option<(String, String)> {
    let found: [Option<String>; 2] = cache.ask(&["HMGET", &format!("product:{sku}"), "value", "version"]);
    let [value, version] = found;
    value.zip(version)
}

fn counts(cache: &Server) -> [u64; 4] {
    let names = ["written", "kept", "cleared", "absent"];
    names.map(|name| cache.ask::<Option<u64>>(&["HGET", CURSOR, name]).unwrap_or(0))
}

#[test]
fn a_newer_version_is_stored_and_an_older_one_never() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        let daemon = setup(&events, &cache, &format!("again_after = \"0s\"\n{SET}")).start_ready();
        put(&cache, 1, "old", "008");
        cache.ask::<()>(&["EXPIRE", "product:1", "1000"]);
        let (nines, one_with_zeros) = ("9".repeat(4_095), format!("1{}", "0".repeat(4_095)));
        let steps = [
            ("9", true),
            ("8", false),
            ("9", false),
            ("10", true),
            ("9", false),
            // Numbers that are one as a double.
            ("9007199254740993", true),
            ("9007199254740992", false),
            ("\"0009007199254740994\"", true),
            ("123456789012345678901234567890123456789", true),
            ("99999999999999999999999999999999999999", false),
            ("123456789012345678901234567890123456790", true),
            // As long as one may be.
            (&nines[..], true),
            (&one_with_zeros[..], true),
            (&nines[..], false),
            ("0", false),
        ];
        let mut expected = ("old".to_owned(), "008".to_owned());
        for (at, (number, is_newer)) in steps.into_iter().enumerate() {
            let mut reader = cache.connection();
            take_lease(&mut reader, "product:1").expect("the lease is free");
            let value = format!("{{\"n\": [{at}]}}");
            wait_applied(&cache, &change(&events, 1, &value, number));
            if is_newer {
                let digits = number.trim_matches('"').trim_start_matches('0');
                expected = (value, digits.to_owned());
            }
            assert_eq!(held(&cache, 1).as_ref(), Some(&expected), "{version}: after {number}");
            let leased: u64 = cache.ask(&["EXISTS", "product:1:tidegate"]);
            assert_eq!(leased, 0, "{version}: the lease is removed in any case, by {number}");
        }
        let left: u64 = cache.ask(&["TTL", "product:1"]);
        assert!((1..=1000).contains(&left), "{version}: its life is that of its fill");
        assert_eq!(counts(&cache), [8, 7, 0, 0], "{version}");
        let metrics = ["tidegate_written_through_total", "tidegate_invalidated_kept_total"];
        assert_eq!(metrics.map(|name| daemon.metric("products", name)), [8, 7], "{version}");
        wait_count(&daemon, "written", 8, |status| status.written);
        wait_count(&daemon, "kept", 7, |status| status.kept);
    }
}

#[test]
fn a_key_that_is_not_there_stays_away_also_when_all_is_applied_again() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Valkey91));
    let daemon = setup(&events, &cache, &format!("again_after = \"200ms\"\n{SET}")).start_ready();
    put(&cache, 2, "old", "2");
    let mut last = String::new();
    for version in ["1", "2", "3"] {
        change(&events, 1, "1", version);
        last = change(&events, 2, "1", version);
    }
    wait_again(&cache, &last);
    assert_eq!(cached(&cache), ["product:2"]);
    assert_eq!(held(&cache, 2), Some(("1".to_owned(), "3".to_owned())));
    cache.ask::<()>(&["FLUSHALL"]);
    put(&cache, 2, "new", "4");
    wait_replays(&daemon, "no_cursor", 2);
    let end = change(&events, 3, "1", "1");
    wait_again(&cache, &end);
    assert_eq!(cached(&cache), ["product:2"], "a replay shows no old version");
    assert_eq!(held(&cache, 2), Some(("new".to_owned(), "4".to_owned())));
}

#[test]
fn what_cannot_be_compared_is_removed() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        let _daemon = setup(&events, &cache, &format!("again_after = \"0s\"\n{SET}")).start_ready();
        for (key, command) in [
            ("product:1", &["SET", "product:1", "7"][..]),
            ("product:2", &["RPUSH", "product:2", "7"]),
            ("product:3", &["HSET", "product:3", "value", "x"]),
            ("product:4", &["HSET", "product:4", "version", "1.5"]),
            ("product:5", &["HSET", "product:5", "version", ""]),
        ] {
            cache.ask::<redis::Value>(command);
            assert_eq!(cached(&cache), [key], "{version}");
            let sku = key.strip_prefix("product:").expect("a product").parse().expect("a number");
            wait_applied(&cache, &change(&events, sku, "1", "9"));
            assert_eq!(cached(&cache), [""; 0], "{version}: {key}");
        }
        let too_long = "9".repeat(4_097);
        for (value, number) in [
            ("null", "9"),
            ("1", "null"),
            ("1", "-9"),
            ("1", "-0"),
            ("1", "9.0"),
            ("1", "9e1"),
            ("1", "[9]"),
            ("1", "true"),
            ("1", "\"\""),
            ("1", "\" 9\""),
            ("1", "\"9\\n\""),
            ("1", "\"\u{0669}\""),
            ("\"\"", "9"),
            ("1", &too_long[..]),
        ] {
            put(&cache, 1, "old", "8");
            wait_applied(&cache, &change(&events, 1, value, number));
            assert_eq!(cached(&cache), [""; 0], "{version}: {value} {number}");
        }
        // In one batch, too, a removal wins, whatever is before and behind it.
        put(&cache, 1, "old", "8");
        let mut batch = redis::pipe();
        batch.atomic();
        for fields in ["\"value\":1,\"version\":9", "\"value\":null", "\"value\":2,\"version\":10"] {
            batch.cmd("XADD").arg(&["products", "*", "payload", &format!("{{\"sku\":1,{fields}}}")]);
        }
        let ids: Vec<String> = batch.query(&mut events.connection()).expect("the server takes entries");
        wait_applied(&cache, &ids[2]);
        assert_eq!(cached(&cache), [""; 0], "{version}");
    }
}

#[test]
fn the_second_pass_removes_what_is_older_and_leaves_the_right_value() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        let _daemon = setup(&events, &cache, &format!("again_after = \"1s\"\n{SET}")).start_ready();
        for sku in 1..=5 {
            put(&cache, sku, "old", "1");
        }
        let mut last = String::new();
        for sku in 1..=5 {
            last = change(&events, sku, "\"right\"", "2");
        }
        wait_applied(&cache, &last);
        // Readers that read a replica, and come after the first pass.
        put(&cache, 2, "old", "1");
        cache.ask::<()>(&["UNLINK", "product:3"]);
        cache.ask::<()>(&["SET", "product:3", "old"]);
        put(&cache, 4, "newer", "10");
        let mut reader = cache.connection();
        let token = take_lease(&mut reader, "product:5").expect("nobody loads it");
        assert_eq!(cache.ask::<Option<String>>(&["HGET", CURSOR, "again"]).as_deref(), Some("0-0"));
        wait_again(&cache, &last);
        assert_eq!(cached(&cache), ["product:1", "product:4", "product:5"], "{version}");
        let right = Some(("right".to_owned(), "2".to_owned()));
        assert_eq!([held(&cache, 1), held(&cache, 5)], [right.clone(), right], "{version}");
        assert_eq!(held(&cache, 4), Some(("newer".to_owned(), "10".to_owned())), "{version}");
        assert!(
            !fill_newer(&mut reader, "product:5", &token, "1"),
            "{version}: the lease was removed as well"
        );
    }
}

/// A full cache that evicts nothing takes the value all the same: the cursor moves in that step.
#[test]
fn a_cache_that_is_out_of_memory_takes_the_new_value() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        let _daemon = setup(&events, &cache, &format!("again_after = \"200ms\"\n{SET}")).start_ready();
        put(&cache, 1, "old", "1");
        cache.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
        assert!(cache.try_ask::<()>(&["SET", "product:2", "x"]).is_err(), "{version}: it is full");
        wait_again(&cache, &change(&events, 1, "\"new\"", "2"));
        assert_eq!(held(&cache, 1), Some(("new".to_owned(), "2".to_owned())), "{version}");
        assert_eq!(cached(&cache), ["product:1"], "{version}");
    }
}

/// The stream of one says what is new, that of the other only that something is.
#[test]
fn a_route_that_removes_and_one_that_stores_share_a_key() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    let routes = |lines: &str| {
        let removes = route(lines)
            .replace("invalidate.products", "invalidate.prices")
            .replace("\"products\"", "\"prices\"");
        format!("{}{removes}", route(&format!("{lines}\n{SET}")))
    };
    let mut daemon = setup(&events, &cache, "").routes(&routes("")).start_ready();
    let price = || events.ask::<String>(&["XADD", "prices", "*", "payload", "{\"sku\":1}"]);
    let wait = |place: &str, id: &str| wait_place(&cache, "tidegate:prices:cursor", place, id);
    put(&cache, 1, "old", "1");
    wait_applied(&cache, &change(&events, 1, "\"new\"", "2"));
    assert_eq!(held(&cache, 1), Some(("new".to_owned(), "2".to_owned())));
    let removal = price();
    wait("pos", &removal);
    assert_eq!(cached(&cache), [""; 0]);
    wait_applied(&cache, &change(&events, 1, "\"newer\"", "3"));
    assert_eq!(cached(&cache), [""; 0], "what was removed is not shown again by an event");
    // What a reader fills before the second pass of the removal goes with it, whatever its version; a reload in between
    // forgets none of this.
    put(&cache, 1, "right", "3");
    daemon.reload_settings(&routes("collect = \"1ms\""));
    wait("again", &removal);
    assert_eq!(cached(&cache), [""; 0]);
    put(&cache, 1, "right", "3");
    let last = change(&events, 1, "\"newest\"", "4");
    wait_again(&cache, &last);
    assert_eq!(held(&cache, 1), Some(("newest".to_owned(), "4".to_owned())));
}

/// A process that begins anew has no values, and reads the entries once more.
#[test]
fn the_second_pass_leaves_the_right_value_also_after_a_restart() {
    let (events, cache) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
    let mut daemon = setup(&events, &cache, &format!("again_after = \"2s\"\n{SET}")).start_ready();
    (1..=2).for_each(|sku| put(&cache, sku, "old", "1"));
    change(&events, 1, "\"right\"", "2");
    let last = change(&events, 2, "\"right\"", "2");
    wait_applied(&cache, &last);
    daemon.kill();
    put(&cache, 2, "old", "1");
    daemon.start_again();
    wait_again(&cache, &last);
    assert_eq!(cached(&cache), ["product:1"]);
    assert_eq!(held(&cache, 1), Some(("right".to_owned(), "2".to_owned())));
}

/// Bytes, and not entries, bound what is under way.
#[test]
fn large_values_are_stored() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Valkey80));
    let _daemon = setup(&events, &cache, &format!("again_after = \"0s\"\n{SET}")).start_ready();
    let value = "x".repeat(900_000);
    (0..20).for_each(|sku| put(&cache, sku, "old", "1"));
    let mut last = String::new();
    for sku in 0..20 {
        last = change(&events, sku, &format!("\"{value}\""), "2");
    }
    wait_applied(&cache, &last);
    for sku in 0..20 {
        assert!(held(&cache, sku) == Some((value.clone(), "2".to_owned())), "{sku}");
    }
    let too_large = "x".repeat(1_100_000);
    wait_applied(&cache, &change(&events, 0, &format!("\"{too_large}\""), "3"));
    assert_eq!(held(&cache, 0), None, "it is removed");
}
