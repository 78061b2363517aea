//! A cache's own `INFO`, read now and then: one task for each server, shared by its routes.
//!
//! Problem: a cache that is too small evicts what readers want, and nothing else in tidegate sees that.
//!
//! Operation: counts are compared with those of the reading before. Counts that fell, or those of another run of the server
//! (a restart, a failover, `CONFIG RESETSTAT`), are compared with nothing: what was done in between is not known.
//!
//! Failure: the routes do not need it. A server that refuses is asked again, and the log reports it once.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::Endpoint;
use crate::logs::LogCode;
use crate::metrics::{CacheMetrics, CachePolicy};
use crate::rt;
use crate::server::{Class, Connection, Error, connect, redacted};
use crate::status::{CacheActivity, CacheSlot};

/// Interval between two readings.
const EVERY: Duration = Duration::from_secs(10);

/// Keeps a cache watched, until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct CacheWatch(Arc<DropGuard>);

/// A watch that others keep going.
#[derive(Debug, Clone)]
pub struct WeakCacheWatch(Weak<DropGuard>);

impl WeakCacheWatch {
    /// The watch, while a [`CacheWatch`] is left.
    #[must_use]
    pub fn upgrade(&self) -> Option<CacheWatch> {
        self.0.upgrade().map(CacheWatch)
    }
}

impl CacheWatch {
    /// Starts to watch a cache.
    #[must_use]
    pub fn start(endpoint: Arc<Endpoint>, slot: CacheSlot, metrics: CacheMetrics) -> Self {
        let stop = CancellationToken::new();
        let alive = Arc::new(stop.clone().drop_guard());
        rt::spawn("cache watch", async move {
            let watch = Watched { endpoint, slot, metrics, last: None, told: false };
            tokio::select! {
                () = stop.cancelled() => {}
                () = watch.run() => {}
            }
        });
        Self(alive)
    }

    /// A handle to the same watch that does not keep it going.
    #[must_use]
    pub fn downgrade(&self) -> WeakCacheWatch {
        WeakCacheWatch(Arc::downgrade(&self.0))
    }
}

struct Watched {
    endpoint: Arc<Endpoint>,
    slot: CacheSlot,
    metrics: CacheMetrics,
    /// The last reading, and when it was.
    last: Option<(CacheInfo, Instant)>,
    /// True once the log says that the server refuses.
    told: bool,
}

impl Watched {
    async fn run(mut self) {
        loop {
            // A server that cannot be reached is reported by the routes.
            match connect(&self.endpoint, "cache-info").await {
                Err(error) => self.show(&error),
                Ok(connection) => {
                    if let Err(error) = self.session(connection).await {
                        self.refused(&error);
                    }
                }
            }
            sleep(EVERY).await;
        }
    }

    /// Reads for ever, over one connection.
    async fn session(&mut self, mut connection: Connection) -> Result<(), Error> {
        loop {
            let reply = connection.ask(self.endpoint.response_timeout, "reading INFO", &[b"INFO"]).await?;
            let info = String::from_utf8_lossy(reply.bytes().unwrap_or_default()).into_owned();
            let Some(reading) = CacheInfo::of(&info) else {
                return Err(Error::Refused("the reply to INFO has no statistics".to_owned()));
            };
            self.take(reading, Instant::now());
            sleep(EVERY).await;
        }
    }

    fn take(&mut self, reading: CacheInfo, now: Instant) {
        self.told = false;
        let lately = self.last.take().and_then(|(last, at)| {
            let over_ms = u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
            Some(CacheActivity { over_ms, ..reading.since(&last)? })
        });
        self.metrics.read(lately, reading.memory, reading.limit, reading.policy);
        self.slot.update(|status| {
            (status.read_unix_ms, status.error) = (Some(rt::unix_ms()), None);
            (status.memory_bytes, status.memory_limit_bytes) = (reading.memory, reading.limit);
            status.policy = reading.policy.as_str().to_owned();
            status.lately = lately;
        });
        self.last = Some((reading, now));
    }

    fn show(&mut self, error: &Error) {
        self.last = None;
        self.metrics.unread();
        let why = error.with_hint();
        self.slot.update(|status| (status.lately, status.error) = (None, Some(why)));
    }

    fn refused(&mut self, error: &Error) {
        self.show(error);
        if error.class() == Class::Block && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                event = LogCode::CacheInfoRefused.as_str(), server = %self.endpoint.name,
                "{}; keys are removed all the same, but hits, evictions and memory of the cache are not known; tidegate asks \
                 again every {} s", error.with_hint(), EVERY.as_secs()
            );
        }
    }
}

/// What matters of a reply to INFO.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CacheInfo {
    /// The run of the server, if it reports one.
    run: String,
    hits: u64,
    misses: u64,
    evicted: u64,
    expired: u64,
    memory: u64,
    limit: u64,
    policy: CachePolicy,
}

impl CacheInfo {
    /// None where nothing of it is there.
    fn of(info: &str) -> Option<Self> {
        let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
        let get = |name: &str| fields.get(name).map(|value| value.trim());
        let number = |name: &str| get(name).and_then(|value| value.parse::<u64>().ok());
        let (hits, memory) = (number("keyspace_hits"), number("used_memory"));
        hits.or(memory)?;
        Some(Self {
            run: get("run_id").map(|run| redacted(run.as_bytes())).unwrap_or_default(),
            hits: hits.unwrap_or(0),
            misses: number("keyspace_misses").unwrap_or(0),
            evicted: number("evicted_keys").unwrap_or(0),
            expired: number("expired_keys").unwrap_or(0),
            memory: memory.unwrap_or(0),
            limit: number("maxmemory").unwrap_or(0),
            policy: CachePolicy::of(get("maxmemory_policy").unwrap_or_default()),
        })
    }

    /// What was done since an earlier reading, without the time; `None` if it is of another run, or counts fell.
    fn since(&self, before: &Self) -> Option<CacheActivity> {
        if self.run != before.run {
            return None;
        }
        Some(CacheActivity {
            over_ms: 0,
            hits: self.hits.checked_sub(before.hits)?,
            misses: self.misses.checked_sub(before.misses)?,
            evicted: self.evicted.checked_sub(before.evicted)?,
            expired: self.expired.checked_sub(before.expired)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:8.2.0\r\nrun_id:abc\r\n# Memory\r\nused_memory:1000\r\nmaxmemory:4000\r\n\
                        maxmemory_policy:allkeys-lru\r\n# Stats\r\nexpired_keys:4\r\nevicted_keys:3\r\nkeyspace_hits:20\r\n\
                        keyspace_misses:10\r\n";

    #[test]
    fn counts_of_one_run_are_compared_and_no_others() {
        let first = CacheInfo::of(INFO).unwrap();
        assert_eq!((first.memory, first.limit, first.policy.as_str()), (1000, 4000, "allkeys-lru"));
        let later = INFO.replace("hits:20", "hits:25").replace("evicted_keys:3", "evicted_keys:10");
        let expected = CacheActivity { over_ms: 0, hits: 5, misses: 0, evicted: 7, expired: 0 };
        assert_eq!(CacheInfo::of(&later).unwrap().since(&first), Some(expected));
        let fell = INFO.replace("misses:10", "misses:9").replace("hits:20", "hits:99");
        assert_eq!(CacheInfo::of(&fell).unwrap().since(&first), None, "CONFIG RESETSTAT");
        let other = later.replace("run_id:abc", "run_id:def");
        assert_eq!(CacheInfo::of(&other).unwrap().since(&first), None, "another run");
    }

    #[test]
    fn a_server_may_report_little_or_anything() {
        assert_eq!(CacheInfo::of(""), None);
        assert_eq!(CacheInfo::of("nothing\r\nkeyspace_hits:x\r\n"), None);
        let little = CacheInfo::of("keyspace_hits:1\r\nmaxmemory_policy:\u{1b}[2J\r\n").unwrap();
        assert_eq!((little.hits, little.limit, little.policy.as_str()), (1, 0, "other"));
    }
}
