//! Promise: an operator removes keys while the daemon runs, as the user of `tidegate acl --operator`, and the route's
//! position stays.

use std::process::Output;

use nix::sys::signal::Signal;

use super::{CURSOR, PATIENCE, cached, change, change_all, fill, fill_all, setup, take_lease, wait_applied};
use crate::support::{Daemon, Server, Setup, Version, alert, eventually};

/// Exit codes, as the module `cli` states them.
const OK: Option<i32> = Some(0);
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(64);
const UNAVAILABLE: Option<i32> = Some(69);

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn run(operator: &Daemon, arguments: &[&str], code: Option<i32>) -> (String, String) {
    let Output { status, stdout, stderr } = operator.run_command(arguments);
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert_eq!(status.code(), code, "{arguments:?}: {stdout}{stderr}");
    (stdout, stderr)
}

/// What the cursor holds.
fn cursor(cache: &Server) -> Vec<(String, String)> {
    cache.ask(&["HGETALL", CURSOR])
}

#[test]
fn keys_go_with_their_leases_and_the_position_stays() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        // No daemon moves the cursor meanwhile.
        let operator = setup(&events, &cache, "").prepare().operator(&[]);
        cache.ask::<()>(&["HSET", CURSOR, "pos", "5-0"]);
        fill_all(&cache, 0..3);
        let mut reader = cache.connection();
        let token = take_lease(&mut reader, "product:1").unwrap();
        let dry = ["invalidate", "products", "--dry-run", "--key", "product:0", "product:1"];
        let (would, _) = run(&operator, &dry, OK);
        assert!(would.contains("would remove product:0 and product:0:tidegate\n"), "{version}: {would}");
        assert_eq!(cached(&cache).len(), 4, "{version}: nothing is removed by a dry run");
        let keys = ["invalidate", "products", "--key", "product:0", "product:1", "--key", "product:7"];
        let (did, _) = run(&operator, &keys, OK);
        let expected = "products: 3 keys, 2 of them were in the cache, 1 load refused\n";
        assert_eq!(did, expected, "{version}");
        assert_eq!(cached(&cache), ["product:2"], "{version}");
        assert!(!fill(&mut reader, "product:1", &token, "old"), "{version}: the load under way is refused");
        assert_eq!(cursor(&cache), [("pos".to_owned(), "5-0".to_owned())], "{version}");
    }
}

#[test]
fn keys_that_the_route_cannot_make_are_refused() {
    let server = Server::start(Version::Redis82);
    let operator = setup(&server, &server, "").prepare().operator(&[]);
    fill_all(&server, 0..1);
    let long = format!("product:{}", "x".repeat(5000));
    for (key, why) in [
        ("price:1", "the key 'price:1' would not be made by keys = [\"product:<pointer:/sku>\"]"),
        (CURSOR, "would begin with 'tidegate:', as those of tidegate do"),
        (&long, "would have 5008 bytes; at most 4096"),
    ] {
        let (_, said) = run(&operator, &["invalidate", "products", "--key", "product:0", key], USAGE);
        assert!(said.contains(why) && said.contains("nothing was removed"), "{said}");
    }
    assert_eq!(cached(&server), ["product:0"], "one key in a list that is refused is not removed either");
    for (route, why) in [("products-x", "is no route"), ("orders", "is no route")] {
        let (_, said) = run(&operator, &["invalidate", route, "--key", "product:0"], USAGE);
        assert!(said.contains(why) && said.contains("invalidations: products"), "{said}");
    }
    run(&operator, &["invalidate", "products"], USAGE);
    run(&operator, &["invalidate", "products", "--missed", "--key", "product:0"], USAGE);
}

#[test]
fn a_range_is_applied_once_more_while_the_daemon_runs() {
    const KEYS: usize = 3_000;
    for version in [Version::Redis70, Version::Valkey91] {
        let (events, cache) = (Server::start(version), Server::start(version));
        let lines = "again_after = \"0s\"\nwhere = [{ entry = \"shop\", exists = false }]";
        let expects = [alert::DEAD_LETTER];
        let daemon = setup(&events, &cache, lines).expects(&expects).start_ready();
        let operator = daemon.operator(&[]);
        let (_, said) = run(&operator, &["invalidate", "products", "--from", "-1h"], FAILED);
        assert!(said.contains("has no stream 'products'"), "{version}: {said}");
        let first = change(&events, 100_000);
        change_all(&events, 0..KEYS);
        change_all(&events, 0..KEYS);
        events.ask::<String>(&["XADD", "products", "*", "shop", "b", "payload", "{\"sku\":\"other\"}"]);
        let last: String = events.ask(&["XADD", "products", "*", "payload", "{}"]);
        wait_applied(&cache, &last);
        fill_all(&cache, 0..KEYS);
        fill_all(&cache, 100_000..100_001);
        let mut reader = cache.connection();
        take_lease(&mut reader, "product:9").unwrap();
        let before: String = cache.ask(&["HGET", CURSOR, "cleared"]);

        let dry = ["invalidate", "products", "--from", "-1h", "--dry-run"];
        let (would, _) = run(&operator, &dry, OK);
        assert!(would.contains("keys would be removed; nothing was removed"), "{version}: {would}");
        assert_eq!(cached(&cache).len(), KEYS + 2, "{version}");

        // From the entry after the first one.
        let after = format!("{}-{}", first.split_once('-').unwrap().0, u64::MAX);
        let (did, said) = run(&operator, &["invalidate", "products", "--from", &after, "--json"], OK);
        let did: serde_json::Value = serde_json::from_str(&did).unwrap();
        assert_eq!(did["entries"], 2 * KEYS + 2, "{version}: {did}");
        assert_eq!((&did["filtered"], &did["rejected"]), (&1.into(), &1.into()), "{version}: {did}");
        assert_eq!((&did["cleared"], &did["refused"]), (&KEYS.into(), &1.into()), "{version}: {did}");
        assert_eq!((&did["position"], &did["finished"]), (&last.as_str().into(), &true.into()), "{version}");
        assert!(said.contains(&format!("skipped {last}: the payload has no text")), "{version}: {said}");
        assert_eq!(cached(&cache), ["product:100000"], "{version}");
        // The counts are the route's own, and so is the place.
        assert_eq!(cache.ask::<String>(&["HGET", CURSOR, "cleared"]), before, "{version}");
        assert_eq!(cache.ask::<String>(&["HGET", CURSOR, "pos"]), last, "{version}");
    }
}

#[test]
fn all_keys_of_the_route_are_found_and_loads_under_way_are_beaten() {
    const KEYS: usize = 2_500;
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        let daemon = setup(&events, &cache, "again_after = \"300ms\"").start_ready();
        let operator = daemon.operator(&[]);
        fill_all(&cache, 0..KEYS);
        cache.ask::<()>(&["SET", "another:1", "stays"]);
        let mut reader = cache.connection();
        let token = take_lease(&mut reader, "product:9999").unwrap();
        let (_, said) = run(&operator, &["invalidate", "products", "--missed"], USAGE);
        assert!(said.contains("confirm with --yes"), "{version}: {said}");
        let (would, _) = run(&operator, &["invalidate", "products", "--missed", "--dry-run"], OK);
        assert!(would.contains("would be removed; nothing was removed"), "{version}: {would}");
        assert_eq!(cached(&cache).len(), KEYS + 1, "{version}");
        let (did, said) = run(&operator, &["invalidate", "products", "--missed", "--yes", "--json"], OK);
        let did: serde_json::Value = serde_json::from_str(&did).unwrap();
        assert_eq!((&did["cleared"], &did["refused"]), (&KEYS.into(), &1.into()), "{version}: {did}");
        let order: Vec<&str> = said.lines().collect();
        let expected =
            ["looking for leases", "looking for keys", "", "looking for leases", "looking for keys"];
        assert_eq!(order.len(), expected.len(), "{version}: {said}");
        assert!(order[2].ends_with("lease removed; once more in 1s"), "{version}: {said}");
        assert!(order.iter().zip(expected).all(|(found, line)| line.is_empty() || *found == line), "{said}");
        assert!(!fill(&mut reader, "product:9999", &token, "old"), "{version}");
        assert_eq!(cached(&cache), [""; 0], "{version}");
        assert_eq!(cache.ask::<String>(&["GET", "another:1"]), "stays", "{version}");
        assert!(cache.ask::<bool>(&["EXISTS", CURSOR]), "{version}: the daemon's cursor stays");
    }
}

#[test]
fn ctrl_c_ends_the_wait_for_the_second_round() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    let operator = setup(&events, &cache, "again_after = \"1h\"").prepare().operator(&[]);
    fill_all(&cache, 0..10);
    let file = operator.configuration().with_file_name("output");
    let mut command = operator.start_command(&["invalidate", "products", "--missed", "--yes"], &file);
    eventually("it waits", PATIENCE, || {
        let said = std::fs::read_to_string(&file).unwrap();
        if said.contains("10 keys and 0 leases removed; once more in 1h") { Ok(()) } else { Err(said) }
    });
    assert_eq!(cached(&cache), [""; 0], "the first round is done");
    command.signal(Signal::SIGINT);
    assert_eq!(command.wait(PATIENCE).code(), FAILED);
    let said = std::fs::read_to_string(&file).unwrap();
    assert!(said.contains("stopped; run the same command again"), "{said}");
}

#[test]
fn a_cache_that_is_away_or_refuses_is_named() {
    let (events, mut cache) = (Server::start(Version::Redis82), Server::start(Version::Redis82));
    let daemon = setup(&events, &cache, "").prepare();
    // The user of the routes may not look for keys.
    let (_, said) = run(&daemon, &["invalidate", "products", "--missed", "--yes"], UNAVAILABLE);
    assert!(said.contains("NOPERM") && said.contains("`tidegate acl --operator`"), "{said}");
    let operator = daemon.operator(&[]);
    cache.kill();
    let (_, said) = run(&operator, &["invalidate", "products", "--key", "product:1"], UNAVAILABLE);
    assert!(said.contains("server cache: "), "{said}");
}

#[test]
fn a_dead_letter_is_applied_once_its_cause_is_fixed() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        let daemon = setup(&events, &cache, "").expects(&[alert::DEAD_LETTER]).start_ready();
        let add = |payload: &str| events.ask::<String>(&["XADD", "products", "*", "payload", payload]);
        let gone = add("{\"id\":7}");
        add("{\"id\":8}");
        let last = add("{}");
        wait_applied(&cache, &last);
        events.ask::<()>(&["XDEL", "products", &gone]);
        let (_, why) =
            run(&daemon.operator(&[]), &["dead-letters", "requeue", "products", "--all", "--yes"], FAILED);
        assert_eq!(why.matches("the configuration still rejects it").count(), 2, "{version}: {why}");
        assert_eq!(why.matches("is no longer in the stream").count(), 1, "{version}: {why}");

        cache.ask::<()>(&["MSET", "product:7", "old", "product:8", "old", "product:8:tidegate", "a token"]);
        let mended = super::route("").replace("/sku", "/id");
        let mended = Setup::new().endpoint("events", &events).endpoint("cache", &cache).routes(&mended);
        let operator = mended.prepare().operator(&[]);
        let pos: String = cache.ask(&["HGET", CURSOR, "pos"]);
        let command = ["dead-letters", "requeue", "products", "--all", "--yes"];
        let (did, why) = run(&operator, &command, FAILED);
        assert!(did.contains(": 1 key, 1 of them was in the cache, 1 load refused"), "{version}: {did}");
        assert!(did.contains("products: 1 requeued, 2 failed"), "{version}: {did}");
        assert!(why.contains("is no longer in the stream") && why.contains("at '/id'"), "{version}: {why}");
        assert_eq!(cached(&cache), ["product:7"], "{version}");
        assert_eq!(cache.ask::<String>(&["HGET", CURSOR, "pos"]), pos, "{version}: the position stays");
        assert_eq!(events.stream_length("tidegate:products:dead-letters"), 2, "{version}");
    }
}
