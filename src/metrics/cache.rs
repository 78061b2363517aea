//! The handles of a cache's own report.

use metrics::{Counter, Gauge};

use super::live::SeriesGuard;
use super::{Register, catalogue, float};
use crate::status::CacheActivity;

/// What a server does when its memory is full. Words that no server is known to use are one, so that there are not more
/// series than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachePolicy(usize);

impl CachePolicy {
    pub(super) const ALL: [&'static str; 11] = [
        "other",
        "noeviction",
        "allkeys-lru",
        "allkeys-lfu",
        "allkeys-lrm",
        "allkeys-random",
        "volatile-lru",
        "volatile-lfu",
        "volatile-lrm",
        "volatile-random",
        "volatile-ttl",
    ];

    /// The policy that a server names so.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(Self::ALL.iter().position(|known| *known == name).unwrap_or(0))
    }

    /// The name, as the server writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.get(self.0).copied().unwrap_or("other")
    }
}

/// The metrics of a cache. Dropping the last clone ends the rendering of its series.
#[derive(Clone, Debug)]
#[must_use = "the cache's series are rendered only while the handles are alive"]
pub struct CacheMetrics {
    hits: Counter,
    misses: Counter,
    evicted: Counter,
    expired: Counter,
    memory: Gauge,
    limit: [Gauge; CachePolicy::ALL.len()],
    held: SeriesGuard,
}

impl CacheMetrics {
    pub(super) fn new(cache: &Register<'_>, held: SeriesGuard) -> Self {
        let unknown = |gauge: Gauge| {
            gauge.set(f64::NAN);
            gauge
        };
        Self {
            hits: cache.counter(&catalogue::CACHE_HITS),
            misses: cache.counter(&catalogue::CACHE_MISSES),
            evicted: cache.counter(&catalogue::CACHE_EVICTED),
            expired: cache.counter(&catalogue::CACHE_EXPIRED),
            memory: unknown(cache.gauge(&catalogue::CACHE_MEMORY)),
            limit: CachePolicy::ALL
                .map(|policy| unknown(cache.with("policy", policy).gauge(&catalogue::CACHE_MEMORY_LIMIT))),
            held,
        }
    }

    /// A reading: what was done since the one before, if that is known; memory and limit in bytes. Without effect once
    /// another loop has taken over the server's name.
    pub fn read(&self, lately: Option<CacheActivity>, memory: u64, limit: u64, policy: CachePolicy) {
        self.held.if_newest(|| {
            let CacheActivity { hits, misses, evicted, expired, .. } = lately.unwrap_or_default();
            for (counter, count) in [
                (&self.hits, hits),
                (&self.misses, misses),
                (&self.evicted, evicted),
                (&self.expired, expired),
            ] {
                counter.increment(count);
            }
            self.memory.set(float(memory));
            self.show_limit(Some((policy, limit)));
        });
    }

    /// The cache cannot be read now. Without effect once another loop has taken over the server's name.
    pub fn unread(&self) {
        self.held.if_newest(|| {
            self.memory.set(f64::NAN);
            self.show_limit(None);
        });
    }

    fn show_limit(&self, present: Option<(CachePolicy, u64)>) {
        for (number, gauge) in self.limit.iter().enumerate() {
            let limit = present.filter(|(policy, _)| policy.0 == number).map(|(_, limit)| float(limit));
            gauge.set(limit.unwrap_or(f64::NAN));
        }
    }
}
