//! Removes keys for an operator, beside the running route.
//!
//! Problem: keys must go now, although nothing changed: a value is known to be old, entries were filtered by a
//! mistaken condition, changes were missed where `if_missed` only records.
//!
//! Operation: plain `UNLINK`. The route's cursor is neither read nor moved, so the daemon may run meanwhile. Leases go
//! before keys: a load under way is then refused, or its value is removed.
//!
//! Failure: any ends the command. To remove a key twice is harmless, so it can be given again.

pub mod everything;
pub mod range;

use std::sync::Arc;
use std::time::Duration;

use super::change::MOST_KEYS;
use super::change::keys::unusable;
use super::change::lease::around;
use super::sweep::pattern;
use crate::config::{Endpoint, Invalidate};
use crate::server::resp::Value;
use crate::server::{Connection, Error, connect};
use crate::text::glob;

/// Name of its connections in CLIENT LIST.
const CLIENT: &str = "invalidate";

/// At which endpoint something failed, and why.
pub type EndpointError = (String, Error);

/// What was asked to be removed, and what was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Keys asked for. Those of each batch count once.
    pub keys: u64,
    /// Keys that were there and were removed.
    pub cleared: u64,
    /// Leases that were there and were removed: loads under way that may not store what they read.
    pub refused: u64,
}

impl std::ops::AddAssign for Removed {
    fn add_assign(&mut self, other: Self) {
        self.keys += other.keys;
        self.cleared += other.cleared;
        self.refused += other.refused;
    }
}

/// A connection to the cache of a route.
#[derive(Debug)]
pub struct Removal {
    cache: Connection,
    settings: Arc<Invalidate>,
    /// What stands before and behind a key in its lease.
    lease: Option<(Vec<u8>, Vec<u8>)>,
    name: String,
    deadline: Duration,
}

impl Removal {
    /// Connects to the cache. Cancel safe.
    ///
    /// # Errors
    /// If the cache cannot be used, or is a replica.
    pub async fn open(settings: &Arc<Invalidate>, cache: &Endpoint) -> Result<Self, EndpointError> {
        let failed = |error: Error| (cache.name.clone(), error);
        let connection = connect(cache, CLIENT).await.map_err(failed)?;
        if connection.is_replica {
            return Err(failed(Error::Reply(
                "READONLY the server is a replica; keys are removed on its master".to_owned(),
            )));
        }
        Ok(Self {
            cache: connection,
            lease: settings.lease.as_ref().map(around),
            settings: Arc::clone(settings),
            name: cache.name.clone(),
            deadline: cache.response_timeout,
        })
    }

    /// Removes keys, each with its lease. Not cancel safe: a dropped future leaves replies without a reader.
    ///
    /// # Errors
    /// If the cache fails or refuses. Then some of the keys may have been removed.
    pub async fn remove<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<Removed, EndpointError> {
        let mut removed = Removed::default();
        for some in keys.chunks(MOST_KEYS) {
            let leases = some.iter().filter_map(|key| lease_of(self.lease.as_ref(), key.as_ref()));
            let leases: Vec<Vec<u8>> = leases.collect();
            removed.refused += self.unlink(&leases).await?;
            removed.cleared += self.unlink(some).await?;
            removed.keys += some.len() as u64;
        }
        Ok(removed)
    }

    /// Removes keys alone. Returns how many were there.
    async fn unlink<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<u64, EndpointError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let mut command: Vec<&[u8]> = vec![b"UNLINK"];
        command.extend(keys.iter().map(AsRef::as_ref));
        let reply = self.ask("removing keys", &command).await?;
        let invalid = || (self.name.clone(), Error::Protocol("the reply to UNLINK is not valid".to_owned()));
        reply.count().ok_or_else(invalid)
    }

    async fn ask(&mut self, doing: &'static str, command: &[&[u8]]) -> Result<Value, EndpointError> {
        let reply = self.cache.ask(self.deadline, doing, command).await;
        reply.map_err(|error| (self.name.clone(), error))
    }
}

/// The lease of a key, if the route has leases.
#[must_use]
pub fn lease(settings: &Invalidate, key: &[u8]) -> Option<Vec<u8>> {
    lease_of(settings.lease.as_ref().map(around).as_ref(), key)
}

fn lease_of(around: Option<&(Vec<u8>, Vec<u8>)>, key: &[u8]) -> Option<Vec<u8>> {
    around.map(|(before, behind)| [before, key, behind].concat())
}

/// Why the route can never make this key: what it would do. `None` if it can.
#[must_use]
pub fn foreign(settings: &Invalidate, key: &[u8]) -> Option<String> {
    let why = unusable(&settings.reserved, key);
    why.or_else(|| {
        let made = settings.keys.iter().any(|template| glob::matches(&pattern(template), key));
        let templates: Vec<String> = settings.keys.iter().map(|key| format!("\"{key}\"")).collect();
        (!made).then(|| format!("not be made by keys = [{}]", templates.join(", ")))
    })
}
