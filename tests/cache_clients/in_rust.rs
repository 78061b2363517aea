//! What the contract has no words for: readers that are futures, and values that have a type. The helper for Rust runs in
//! this process.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::helper::PATIENCE;
use crate::support::{Server, Version, eventually};
use crate::tidegate_cache::Cache;

/// A cache whose readers wait for each other and for answers as long as it takes.
async fn patient(server: &Server) -> Cache<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let client = server.client().get_multiplexed_async_connection_with_config(&config).await.unwrap();
    Cache { lease: PATIENCE, wait: PATIENCE, answer: PATIENCE, ..Cache::new(client) }
}

#[test]
fn a_reader_that_is_dropped_or_panics_during_its_load_leaves_its_lease() {
    let server = Server::start(Version::Redis82);
    Runtime::new().unwrap().block_on(async {
        let cache = Cache { wait: Duration::ZERO, ..patient(&server).await };
        for panics in [false, true] {
            let (begin, begun) = oneshot::channel();
            let reader = cache.clone();
            let mut readers = JoinSet::new();
            readers.spawn(async move {
                let load = || async {
                    begin.send(()).unwrap();
                    assert!(!panics, "as this load does");
                    pending::<Result<u32, ()>>().await
                };
                reader.get("product:1", load).await
            });
            begun.await.unwrap();
            if !panics {
                readers.abort_all();
            }
            assert_eq!(readers.join_next().await.unwrap().unwrap_err().is_panic(), panics);
            assert_eq!(server.ask::<u32>(&["EXISTS", "product:1:tidegate"]), 1);

            let next = async || cache.get("product:1", async || Ok::<u32, ()>(5)).await;
            assert_eq!(next().await, Ok(5));
            assert_eq!(server.ask::<u32>(&["EXISTS", "product:1"]), 0);
            assert_eq!(server.ask::<u32>(&["UNLINK", "product:1:tidegate"]), 1, "the lease ends");
            assert_eq!(next().await, Ok(5));
            assert_eq!(server.ask::<u32>(&["UNLINK", "product:1", "product:1:tidegate"]), 1);
        }
    });
}

#[test]
fn of_a_thousand_readers_one_loads_while_it_has_the_lease() {
    const READERS: u64 = 1_000;
    let server = Server::start(Version::Redis82);
    Runtime::new().unwrap().block_on(async {
        let cache = patient(&server).await;
        let (loads, under_way) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let (cache, loads, under_way) = (cache.clone(), Arc::clone(&loads), Arc::clone(&under_way));
            readers.spawn(async move {
                let load = || async {
                    loads.fetch_add(1, Ordering::SeqCst);
                    under_way.acquire().await.unwrap().forget();
                    Ok::<_, ()>("loaded".to_owned())
                };
                cache.get("product:1", load).await
            });
        }
        eventually("all have asked for the lease, and again", PATIENCE, || {
            let asked = server.calls("set");
            if asked >= 2 * READERS { Ok(()) } else { Err(format!("{asked} times")) }
        });
        assert_eq!(loads.load(Ordering::SeqCst), 1);

        // A reader that has missed just before the value was stored takes the lease just after it.
        under_way.add_permits(Semaphore::MAX_PERMITS / 2);
        let values = readers.join_all().await;
        assert!(values.iter().all(|value| value.as_deref() == Ok("loaded")), "{values:?}");
        let hit: Result<String, &str> = cache.get("product:1", async || Err("a load")).await;
        assert_eq!(hit.as_deref(), Ok("loaded"));
    });
}

#[test]
fn an_answer_that_comes_too_late_is_not_taken_for_that_of_the_next() {
    let server = Server::start(Version::Redis82);
    server.ask::<()>(&["MSET", "product:1", "1", "product:2", "2"]);
    Runtime::new().unwrap().block_on(async {
        let patient = patient(&server).await;
        let hasty = Cache { answer: Duration::from_millis(20), ..patient.clone() };
        server.freeze();
        assert_eq!(hasty.get("product:1", async || Ok::<u32, &str>(9)).await, Ok(9));
        server.thaw();
        assert_eq!(patient.get("product:2", async || Err("a load")).await, Ok(2));
        assert_eq!(server.ask::<u32>(&["GET", "product:1"]), 1);
    });
}

#[test]
fn a_value_of_another_type_is_a_miss_and_makes_way() {
    let server = Server::start(Version::Redis82);
    server.ask::<()>(&["SET", "product:1", "{\"price\":4}"]);
    server.ask::<()>(&["HSET", "product:2", "value", "{\"price\":4}", "version", "7"]);
    Runtime::new().unwrap().block_on(async {
        let cache = patient(&server).await;
        assert_eq!(cache.get("product:1", async || Ok::<u32, ()>(4)).await, Ok(4));
        let versioned = cache.get_versioned("product:2", async || Ok::<_, ()>((4_u32, Some(7)))).await;
        assert_eq!(versioned, Ok(4));
    });
    assert_eq!(server.ask::<u32>(&["GET", "product:1"]), 4);
    assert_eq!(server.ask::<u32>(&["HGET", "product:2", "value"]), 4);
}

#[test]
fn a_value_without_json_is_returned_and_gives_the_lease_back() {
    let server = Server::start(Version::Redis82);
    Runtime::new().unwrap().block_on(async {
        let cache = patient(&server).await;
        // Names in JSON are texts.
        let value = BTreeMap::from([((1_u8, 2_u8), 3_u8)]);
        assert_eq!(cache.get("product:1", async || Ok::<_, ()>(value.clone())).await, Ok(value));
    });
    assert_eq!(server.ask::<u32>(&["EXISTS", "product:1", "product:1:tidegate"]), 0);
}
