//! Promises of invalidations: what a stream says has changed is removed from a cache, and does not come back.

mod by_hand;
mod cache_watch;
mod crashes;
mod exact;
mod instances;
mod obstacles;
mod race;
mod recovery;
mod write_through;

use std::time::Duration;

use redis::Connection;

use crate::support::{Daemon, Server, Setup, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const CURSOR: &str = "tidegate:products:cursor";

/// What readers are given to store a value only if they still hold the lease.
const FILL: &str = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1";

/// A route of the changes of products, with more TOML lines.
fn route(lines: &str) -> String {
    format!(
        r#"
        [invalidate.products]
        source = "events"
        stream = "products"
        destination = "cache"
        keys = ["product:<pointer:/sku>"]
        {lines}
        "#
    )
}

fn setup(events: &Server, cache: &Server, lines: &str) -> Setup {
    Setup::new().endpoint("events", events).endpoint("cache", cache).routes(&route(lines))
}

/// Says that a product has changed. Returns the entry's id.
fn change(events: &Server, sku: usize) -> String {
    events.ask(&["XADD", "products", "*", "payload", &format!("{{\"sku\":{sku}}}")])
}

/// Says that products have changed.
fn change_all(events: &Server, skus: impl Iterator<Item = usize>) -> String {
    let mut pipeline = redis::pipe();
    for sku in skus {
        pipeline.cmd("XADD").arg(&["products", "*", "payload", &format!("{{\"sku\":{sku}}}")]);
    }
    let ids: Vec<String> = pipeline.query(&mut events.connection()).expect("the server takes entries");
    ids.into_iter().next_back().expect("there are entries")
}

/// Puts values of products into the cache.
fn fill_all(cache: &Server, skus: impl Iterator<Item = usize>) {
    let mut pipeline = redis::pipe();
    for sku in skus {
        pipeline.cmd("SET").arg(&[&format!("product:{sku}"), "old"]).ignore();
    }
    pipeline.exec(&mut cache.connection()).expect("the cache takes values");
}

/// Waits until a place of the cursor is at an entry.
#[track_caller]
fn wait_place(cache: &Server, cursor: &str, place: &str, id: &str) {
    eventually(&format!("{place} is at {id}"), PATIENCE, || {
        match cache.try_ask::<Option<String>>(&["HGET", cursor, place]) {
            Ok(Some(found)) if found == id => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
}

#[track_caller]
fn wait_applied(cache: &Server, id: &str) {
    wait_place(cache, CURSOR, "pos", id);
}

#[track_caller]
fn wait_again(cache: &Server, id: &str) {
    wait_place(cache, CURSOR, "again", id);
}

/// The values of products that the cache has.
fn cached(cache: &Server) -> Vec<String> {
    let mut keys: Vec<String> = cache.ask(&["KEYS", "product:*"]);
    keys.sort();
    keys
}

/// Begins a load of a key; returns the token, or nothing where another one loads it.
fn take_lease(connection: &mut Connection, key: &str) -> Option<String> {
    let token = format!("{:016x}", fastrand());
    let lease = format!("{key}:tidegate");
    let mut command = redis::cmd("SET");
    let taken: Option<String> =
        command.arg(&[&lease, &token, "NX", "PX", "10000"]).query(connection).expect("the cache answers");
    taken.map(|_| token)
}

/// Stores what was loaded under a lease; whether it was stored.
fn fill(connection: &mut Connection, key: &str, token: &str, value: &str) -> bool {
    let lease = format!("{key}:tidegate");
    let mut command = redis::cmd("EVAL");
    command.arg(&[FILL, "2", key, &lease, token, value, "600000"]);
    command.query(connection).expect("the cache answers")
}

/// A number that is new in each call.
fn fastrand() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}

#[track_caller]
fn wait_missed(daemon: &Daemon, loss: &str, expected: u64) {
    wait_count(daemon, "missed", expected, |status| status.missed.get(loss).copied().unwrap_or(0));
}

#[track_caller]
fn wait_replays(daemon: &Daemon, trigger: &str, expected: u64) {
    wait_count(daemon, trigger, expected, |status| status.replays.get(trigger).copied().unwrap_or(0));
}

#[track_caller]
fn wait_count(
    daemon: &Daemon,
    what: &str,
    expected: u64,
    count: impl Fn(&tidegate::status::InvalidateStatus) -> u64,
) {
    eventually(what, PATIENCE, || {
        let status = daemon.route("products")?.invalidate.ok_or("no invalidation")?;
        match count(&status) {
            found if found == expected => Ok(()),
            _ => Err(format!("{status:?}")),
        }
    });
}
