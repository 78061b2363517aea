//! Promise: killed again and again under load, nothing stale stays. The control, without both guards, leaves something.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::write_through::{SET, fill_newer};
use super::{change, fill, setup, take_lease, wait_again, wait_applied};
use crate::support::{Server, Version, eventually};

const KEYS: usize = 40;
const READERS: usize = 6;

/// A database: the version of each product.
type Database = Arc<Vec<AtomicU64>>;

/// How readers fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fills {
    /// As they like.
    Plain,
    /// Every second reader under a lease.
    Leased,
    /// The same, with the version beside the value.
    Versioned,
}

/// Readers and a writer, until it is stopped.
struct Load {
    database: Database,
    /// Of the readers, and of the writer, who ends first.
    stops: [Arc<AtomicBool>; 2],
    readers: Vec<JoinHandle<()>>,
    writer: JoinHandle<String>,
}

impl Load {
    fn start(events: &Server, cache: &Server, fills: Fills) -> Self {
        let database: Database = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
        let stops = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let readers = (0..READERS).map(|number| {
            let mut connection = cache.connection();
            let (database, stop) = (database.clone(), stops[0].clone());
            let holds = fills != Fills::Plain && number % 2 == 0;
            std::thread::spawn(move || {
                for turn in 0_usize.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (sku, slow) = ((number * 7 + turn * 13) % KEYS, turn % 5 == 0);
                    read(&mut connection, &database, sku, (fills, holds), slow);
                }
            })
        });
        let readers = readers.collect();
        let (mut connection, mut evicting) = (events.connection(), cache.connection());
        let writer = std::thread::spawn({
            let (database, stop) = (database.clone(), stops[1].clone());
            move || {
                let mut last = String::new();
                let mut ends = 0;
                for turn in 0_usize.. {
                    if stop.load(Ordering::Relaxed) {
                        ends += 1;
                    }
                    if ends > KEYS {
                        break;
                    }
                    let sku = turn * 3 % KEYS;
                    // What is written through makes nobody load, so the cache evicts keys. At the end that is so for each
                    // product, and no later change heals what is stored then.
                    if fills == Fills::Versioned && (turn % 4 == 0 || ends > 0) {
                        let mut evict = redis::cmd("UNLINK");
                        evict.arg(format!("product:{sku}")).exec(&mut evicting).expect("the cache answers");
                        std::thread::park_timeout(Duration::from_millis(5));
                    }
                    // Twice in quick succession: the first removal makes everybody load.
                    for _ in 0..2 {
                        let version = database[sku].fetch_add(1, Ordering::SeqCst) + 1;
                        let payload = format!("{{\"sku\":{sku},\"value\":{version},\"version\":{version}}}");
                        let mut add = redis::cmd("XADD");
                        add.arg(&["products", "*", "payload", &payload]);
                        last = add.query(&mut connection).expect("the server takes entries");
                        std::thread::park_timeout(Duration::from_millis(2));
                    }
                }
                last
            }
        });
        Self { database, stops, readers, writer }
    }

    /// Ends all of them. Returns the database and the last entry.
    fn end(self) -> (Database, String) {
        let [readers, writer] = self.stops;
        writer.store(true, Ordering::Relaxed);
        let last = self.writer.join().expect("the writer ends");
        readers.store(true, Ordering::Relaxed);
        for reader in self.readers {
            reader.join().expect("the reader ends");
        }
        (self.database, last)
    }
}

/// Reads a product as applications do: from the cache, or else from the database.
fn read(
    connection: &mut redis::Connection,
    database: &Database,
    sku: usize,
    (fills, lease): (Fills, bool),
    slow: bool,
) {
    let key = format!("product:{sku}");
    let versioned = fills == Fills::Versioned;
    let get: &[&str] = if versioned { &["HGET", &key, "value"] } else { &["GET", &key] };
    let found: Option<String> =
        redis::cmd(get[0]).arg(&get[1..]).query(connection).expect("the cache answers");
    if found.is_some() {
        std::thread::park_timeout(Duration::from_millis(1));
        return;
    }
    let token = if lease { take_lease(connection, &key) } else { None };
    let value = database[sku].load(Ordering::SeqCst).to_string();
    std::thread::park_timeout(Duration::from_millis(if slow { 40 } else { 1 }));
    match token {
        Some(token) if versioned => _ = fill_newer(connection, &key, &token, &value),
        Some(token) => _ = fill(connection, &key, &token, &value),
        None if lease => {}
        None => {
            let set: &[&str] = if versioned {
                &["HSET", &key, "value", &value, "version", &value]
            } else {
                &["SET", &key, &value]
            };
            redis::cmd(set[0]).arg(&set[1..]).exec(connection).expect("the cache answers");
        }
    }
}

/// The products whose cached value is older than the database.
fn stale(cache: &Server, database: &Database, fills: Fills) -> Vec<usize> {
    let is_stale = |sku: &usize| {
        let key = format!("product:{sku}");
        let get: &[&str] = if fills == Fills::Versioned { &["HGET", &key, "value"] } else { &["GET", &key] };
        let cached: Option<u64> = cache.ask(get);
        cached.is_some_and(|cached| cached != database[*sku].load(Ordering::SeqCst))
    };
    (0..KEYS).filter(is_stale).collect()
}

/// Kills the daemon twenty times under load. Returns the cache, once everything is applied, and what is stale in it.
fn killed_under_load(lines: &str, fills: Fills, moves: &str) -> (Server, Vec<usize>) {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Valkey91));
    let mut daemon = setup(&events, &cache, lines).start_ready();
    let load = Load::start(&events, &cache, fills);
    let moved = || cache.ask::<Option<u64>>(&["HGET", super::CURSOR, moves]).unwrap_or(0);
    for _ in 0..20 {
        let before = moved();
        eventually("it works under load", super::PATIENCE, || match moved() {
            now if now > before + 50 => Ok(()),
            now => Err(format!("{now}")),
        });
        daemon.kill();
        daemon.start_again();
    }
    let (database, last) = load.end();
    wait_applied(&cache, &last);
    wait_again(&cache, &last);
    let stale = stale(&cache, &database, fills);
    (cache, stale)
}

#[test]
fn killed_under_load_nothing_stays() {
    assert_eq!(killed_under_load("", Fills::Leased, "cleared").1, [0; 0]);
}

#[test]
fn killed_under_load_nothing_stays_of_what_is_written_through() {
    let (cache, stale) = killed_under_load(SET, Fills::Versioned, "written");
    assert_eq!(stale, [0; 0]);
    assert!(!super::cached(&cache).is_empty(), "right values are left where they are");
}

/// The same load without a kill, without a lease and with one pass: without this, the promise above would say nothing.
#[test]
fn without_both_guards_something_stays() {
    let (events, cache) = (Server::start(Version::Redis82), Server::start(Version::Valkey91));
    let unguarded = setup(&events, &cache, "lease = \"\"\nagain_after = \"0s\"");
    let _daemon = unguarded.expects(&[&["configuration_warning"]]).start_ready();
    let left = Mutex::new(Vec::new());
    eventually("a stale value stays", super::PATIENCE, || {
        let load = Load::start(&events, &cache, Fills::Plain);
        std::thread::park_timeout(Duration::from_millis(500));
        let (database, last) = load.end();
        wait_applied(&cache, &last);
        let found = stale(&cache, &database, Fills::Plain);
        cache.ask::<()>(&["FLUSHALL"]);
        *left.lock().expect("no panic") = found.clone();
        if found.is_empty() { Err("none".to_owned()) } else { Ok(()) }
    });
}

/// The second pass of a batch comes even if no process lives as long as `again_after`.
#[test]
fn the_second_pass_comes_also_when_killed_every_second() {
    let (events, cache) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
    let mut daemon = setup(&events, &cache, "again_after = \"3s\"").start_ready();
    let last = change(&events, 1);
    wait_applied(&cache, &last);
    cache.ask::<()>(&["SET", "product:1", "old"]);
    let begun = std::time::Instant::now();
    while cache.ask::<Option<String>>(&["HGET", super::CURSOR, "again"]).as_ref() != Some(&last) {
        assert!(begun.elapsed() < super::PATIENCE, "the second pass has not come");
        daemon.kill();
        daemon.start_again();
        daemon.wait_ready();
        std::thread::park_timeout(Duration::from_secs(1));
    }
    assert_eq!(super::cached(&cache), [""; 0]);
}
