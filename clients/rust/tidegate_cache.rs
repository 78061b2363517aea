//! Cache-aside under a lease, for a cache that a tidegate `[invalidate]` route clears. Copy this file; it needs tokio, serde,
//! serde_json and the crate redis with `tokio-comp`. clients/README.md says how to set up the client. Licence: MIT or
//! Apache-2.0, as tidegate.
//!
//! ```text
//! let cache = Cache { ttl: Duration::from_secs(60), ..Cache::new(client) };
//! let product: Product = cache.get("product:42", || load(42)).await?;
//! ```

use std::fmt::Display;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, RedisResult, Script, ToRedisArgs, cmd};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

/// Stores a value and gives the lease back, while the lease is one's own. Without a value it only gives the lease back.
const FILL: &str = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
if ARGV[2] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1";
/// The same for a route with `set`: the key is a hash of value and version, and an older version is not stored over a newer one.
const FILL_VERSIONED: &str = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
if not ARGV[2] then return 1 end
local there = redis.pcall('HGET', KEYS[1], 'version')
local old = type(there) == 'string' and string.match(there, '^0*(%d+)$')
local new = string.match(ARGV[4], '^0*(%d+)$')
if not new or old and (#old > #new or #old == #new and old >= new) then return 0 end
redis.call('UNLINK', KEYS[1])
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'version', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

/// A cache, and how it is read. Clones share the client's connection.
#[derive(Clone, Debug)]
pub struct Cache<C> {
    /// A connection that can be cloned: a `ConnectionManager`, which connects again, or a `MultiplexedConnection`.
    pub client: C,
    /// A value's life.
    pub ttl: Duration,
    /// How long a load may take. A slower one is not stored.
    pub lease: Duration,
    /// How long to wait for the load of another.
    pub wait: Duration,
    /// How long to wait for each answer of the cache.
    pub answer: Duration,
    /// What makes the lease's name of the key's, as `lease` of the route does.
    pub suffix: String,
}

/// What a reader found.
enum Turn<T> {
    Value(T),
    Mine,
    AnotherLoads,
}

impl<C: ConnectionLike + Clone> Cache<C> {
    /// With a life of ten minutes, a lease of 10 s, and waits of 0.1 s for a load and 0.25 s for an answer.
    pub fn new(client: C) -> Self {
        Self {
            client,
            ttl: Duration::from_secs(600),
            lease: Duration::from_secs(10),
            wait: Duration::from_millis(100),
            answer: Duration::from_millis(250),
            suffix: ":tidegate".to_owned(),
        }
    }

    /// The value of the key, or what `load` gives. Values are JSON. One that does not fit `T` counts as a miss and makes way.
    /// One that has no JSON is not stored.
    ///
    /// A future that is dropped, and a load that panics, leave the lease until it ends: others load and do not store until
    /// then.
    ///
    /// # Errors
    ///
    /// Those of `load`. Errors of the cache count as a miss.
    pub async fn get<T, E, F>(&self, key: &str, load: impl FnOnce() -> F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, E>>,
    {
        let read = cmd("GET").arg(key).take();
        self.read(key, read, FILL, async { load().await.map(|value| (value, None)) }).await
    }

    /// The same for a route with `set`: `load` gives the value and its version, a decimal number. Without a version the value
    /// is not stored.
    ///
    /// # Errors
    ///
    /// Those of `load`.
    pub async fn get_versioned<T, V, E, F>(&self, key: &str, load: impl FnOnce() -> F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        V: Display,
        F: Future<Output = Result<(T, Option<V>), E>>,
    {
        let read = cmd("HGET").arg(key).arg("value").take();
        let load = async {
            let (value, version) = load().await?;
            Ok((value, Some(version.map_or_else(String::new, |version| version.to_string()))))
        };
        self.read(key, read, FILL_VERSIONED, load).await
    }

    /// For a writer that wants to see its own change at once, after its commit. The event is needed all the same.
    ///
    /// # Errors
    ///
    /// Those of the cache: then the change is seen when the route has removed the keys.
    pub async fn changed<K: AsRef<str>>(&self, keys: &[K]) -> RedisResult<()> {
        let mut unlink = cmd("UNLINK");
        for key in keys {
            unlink.arg(key.as_ref()).arg(self.lease_of(key.as_ref()));
        }
        if keys.is_empty() { Ok(()) } else { self.ask(&unlink).await }
    }

    async fn read<T: Serialize + DeserializeOwned, E>(
        &self,
        key: &str,
        read: Cmd,
        script: &str,
        load: impl Future<Output = Result<(T, Option<String>), E>>,
    ) -> Result<T, E> {
        let (lease, token) = (self.lease_of(key), token());
        let mine = match self.find_or_take(key, &read, &lease, &token).await {
            Ok(Turn::Value(value)) => return Ok(value),
            Ok(Turn::Mine) => true,
            // Also where the cache does not answer: the database does, and nothing is stored.
            Ok(Turn::AnotherLoads) | Err(_) => false,
        };
        let loaded = load.await;
        if mine {
            let stored = loaded.as_ref().ok().and_then(|(value, version)| {
                let json = serde_json::to_string(value).ok()?;
                Some((json, self.ttl.as_millis().to_string(), version.clone()))
            });
            // After an error the value is right all the same, and the lease ends by itself.
            drop(self.fill(script, key, &lease, &(token, stored)).await);
        }
        loaded.map(|(value, _)| value)
    }

    async fn find_or_take<T: DeserializeOwned>(
        &self,
        key: &str,
        read: &Cmd,
        lease: &str,
        token: &str,
    ) -> RedisResult<Turn<T>> {
        let take = cmd("SET")
            .arg(lease)
            .arg(token)
            .arg("NX")
            .arg("PX")
            .arg(self.lease.as_millis().to_string())
            .take();
        let (mut pause, begun) = (Duration::from_millis(5), Instant::now());
        loop {
            if let Some(value) = self.find(key, read).await? {
                return Ok(Turn::Value(value));
            }
            let taken: Option<String> = self.ask(&take).await?;
            // One's own lease as well, where the client has sent the SET twice.
            if taken.is_some()
                || self.ask::<Option<String>>(cmd("GET").arg(lease)).await?.as_deref() == Some(token)
            {
                return Ok(Turn::Mine);
            }
            if begun.elapsed() >= self.wait {
                return Ok(Turn::AnotherLoads);
            }
            sleep(pause).await;
            pause = Duration::from_millis(40).min(2 * pause);
        }
    }

    async fn find<T: DeserializeOwned>(&self, key: &str, read: &Cmd) -> RedisResult<Option<T>> {
        let found: Option<Vec<u8>> = match self.ask(read).await {
            // A key of another type is from before the route had `set`, or from when it had it.
            Err(error) if error.code() == Some("WRONGTYPE") => None,
            found => found?,
        };
        let Some(json) = found else { return Ok(None) };
        let value = serde_json::from_slice(&json).ok();
        if value.is_none() {
            // Of an earlier type T. A script with versions would not store the same version over it.
            self.ask::<()>(cmd("UNLINK").arg(key)).await?;
        }
        Ok(value)
    }

    async fn fill(
        &self,
        script: &str,
        key: &str,
        lease: &str,
        arguments: &impl ToRedisArgs,
    ) -> RedisResult<()> {
        let call =
            |name, script: &str| cmd(name).arg(script).arg(2).arg(key).arg(lease).arg(arguments).take();
        match self.ask(&call("EVALSHA", Script::new(script).get_hash())).await {
            Err(error) if error.code() == Some("NOSCRIPT") => self.ask(&call("EVAL", script)).await,
            done => done,
        }
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut client = self.client.clone();
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer from the cache");
        timeout(self.answer, command.query_async(&mut client)).await.map_err(late)?
    }

    fn lease_of(&self, key: &str) -> String {
        format!("{key}{}", self.suffix)
    }
}

/// Unique, and no secret: the standard library's hashers have random numbers of the system.
fn token() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}
