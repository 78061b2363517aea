//! Promise: a reader that is slower than a change does not leave the old value in the cache: with a lease it is refused,
//! without one its value is removed by the second pass.

use super::{CURSOR, cached, change, fill, setup, take_lease, wait_again, wait_applied};
use crate::support::{Server, Version};

#[test]
fn a_load_from_before_is_refused() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        let _daemon = setup(&events, &cache, "again_after = \"0s\"").start_ready();
        let mut reader = cache.connection();
        let token = take_lease(&mut reader, "product:1").expect("nobody loads it");
        // The reader has read the database here; then the value changes.
        wait_applied(&cache, &change(&events, 1));
        assert!(!fill(&mut reader, "product:1", &token, "old"), "{version}: it was overtaken");
        assert_eq!(cached(&cache), [""; 0], "{version}");
        let token = take_lease(&mut reader, "product:1").expect("the lease is free again");
        assert!(fill(&mut reader, "product:1", &token, "new"), "{version}: nothing has changed since");
        // The control: a plain SET stays, for nothing removes it any more.
        wait_applied(&cache, &change(&events, 2));
        cache.ask::<()>(&["SET", "product:2", "old"]);
        wait_applied(&cache, &change(&events, 3));
        assert_eq!(cached(&cache), ["product:1", "product:2"], "{version}");
    }
}

#[test]
fn the_second_pass_clears_a_plain_fill_and_the_lease_of_one_who_read_a_replica() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Valkey91));
    let _daemon = setup(&events, &cache, "again_after = \"1s\"").start_ready();
    let last = change(&events, 1);
    wait_applied(&cache, &last);
    // Both read what the database said before, and come after the first pass.
    cache.ask::<()>(&["SET", "product:1", "old"]);
    let mut reader = cache.connection();
    let token = take_lease(&mut reader, "product:1").expect("nobody loads it");
    assert_eq!(cache.ask::<Option<String>>(&["HGET", CURSOR, "again"]).as_deref(), Some("0-0"));
    wait_again(&cache, &last);
    assert_eq!(cached(&cache), [""; 0]);
    assert!(!fill(&mut reader, "product:1", &token, "old"), "the lease was removed as well");
}

#[test]
fn the_second_pass_comes_whatever_the_ids_are() {
    let (events, cache) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
    let _daemon = setup(&events, &cache, "again_after = \"1s\"").start_ready();
    // Row numbers, as a relay that repeats itself uses them: by the clock they are from 1970.
    for id in ["1-0", "2-0"] {
        events.ask::<String>(&["XADD", "products", id, "payload", "{\"sku\":1}"]);
        wait_applied(&cache, id);
        cache.ask::<()>(&["SET", "product:1", "old"]);
        assert_eq!(cached(&cache), ["product:1"], "it was not cleared once more at once");
        wait_again(&cache, id);
        assert_eq!(cached(&cache), [""; 0]);
    }
}
