//! A database, its writers, and readers that fill the cache with what they read of it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::World;
use super::servers::{CacheServer, Event, version_of, versioned};
use crate::config::Invalidate;
use crate::stream::EntryId;

const PRODUCTS: u8 = 6;

/// A reader that missed, and loads.
#[derive(Debug)]
struct Load {
    product: u8,
    key: String,
    /// What it holds, if it does.
    token: Option<String>,
    begun: Instant,
    /// The version that it has read.
    version: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Readers {
    /// The version of each product in the database.
    database: [u64; PRODUCTS as usize],
    /// Changes that were committed and not announced yet.
    unannounced: VecDeque<Event>,
    loads: Vec<Load>,
    leases: bool,
    /// True if the route stores values: readers then put the version beside theirs.
    versions: bool,
    /// How long a reader without a lease may take: the second pass comes so long after the first.
    patience: Option<Duration>,
    tokens: u64,
}

impl Readers {
    pub(super) fn new(settings: &Invalidate) -> Self {
        Self {
            database: [0; PRODUCTS as usize],
            unannounced: VecDeque::new(),
            loads: Vec::new(),
            leases: settings.lease.is_some(),
            versions: settings.set.is_some(),
            patience: settings.again_after,
            tokens: 0,
        }
    }

    pub(super) fn are_done(&self) -> bool {
        self.loads.is_empty() && self.unannounced.is_empty()
    }

    /// Products of which the cache has an older version than the database.
    pub(super) fn stale(&self, cache: &CacheServer) -> BTreeSet<u8> {
        let is_stale = |(key, value): (&String, &String)| {
            let product: u8 = key.split(':').nth(1)?.parse().ok()?;
            let version = version_of(value).or_else(|| value.parse().ok())?;
            (version < self.database[usize::from(product)]).then_some(product)
        };
        cache.keys.iter().filter(|(key, _)| !key.ends_with(":l")).filter_map(is_stale).collect()
    }
}

impl World {
    pub(super) fn somebody_writes(&mut self) {
        match self.rng.u8(..20) {
            0 => self.add(None),
            1 if self.faults.gaps => self.writes_in_a_gap(),
            2..=11 => {
                let product = self.rng.u8(..PRODUCTS);
                // A reader that has just read the old version is what all of this is about.
                if self.rng.bool() && self.begin_load(product) {
                    self.go_on(self.readers.loads.len() - 1);
                }
                let version = &mut self.readers.database[usize::from(product)];
                *version += 1;
                // Some entries say nothing of the value.
                let version = Some(*version).filter(|_| self.rng.u8(..4) > 0);
                self.readers.unannounced.push_back(Event { product, version });
            }
            _ => self.announce(),
        }
    }

    fn announce(&mut self) {
        if let Some(event) = self.readers.unannounced.pop_front() {
            self.add(Some(event));
        }
    }

    pub(super) fn announce_all(&mut self) {
        while !self.readers.unannounced.is_empty() {
            self.announce();
        }
    }

    pub(super) fn add(&mut self, event: Option<Event>) {
        let clock = self.clock_ms();
        let last = self.stream.last;
        // Ids are no times: an application may number its entries.
        let id = if self.faults.numbers {
            EntryId { milliseconds: last.milliseconds + 1, sequence: 0 }
        } else {
            last.next(clock)
        };
        (self.stream.last, self.stream.added) = (id, self.stream.added + 1);
        self.stream.entries.insert(id, event);
        self.checks.added(id, event);
        self.trace(|| format!("added {id} of {event:?}"));
    }

    /// A change that the capture does not receive.
    fn writes_in_a_gap(&mut self) {
        let product = self.rng.u8(..PRODUCTS);
        if self.begin_load(product) {
            self.go_on(self.readers.loads.len() - 1);
        }
        self.readers.database[usize::from(product)] += 1;
        let milliseconds = self.clock_ms().max(self.stream.gap.map_or(0, |gap| gap.milliseconds + 1));
        self.stream.gap = Some(EntryId { milliseconds, sequence: 0 });
        self.checks.gap(product);
        self.trace(|| format!("gap, of {product}"));
    }

    pub(super) fn somebody_reads(&mut self) {
        if !self.readers.loads.is_empty() && self.rng.u8(..3) > 0 {
            let at = self.rng.usize(..self.readers.loads.len());
            // Most time passes between what is read and what is stored of it.
            if self.readers.loads[at].version.is_none() || self.rng.u8(..4) == 0 {
                self.go_on(at);
            }
            return;
        }
        let product = self.rng.u8(..PRODUCTS);
        self.begin_load(product);
    }

    /// A reader misses. Returns whether it loads.
    fn begin_load(&mut self, product: u8) -> bool {
        // Both are read all the time: the older configuration does not know one of them.
        let kind = ["p", "q"][usize::from(self.rng.bool())];
        let key = format!("{kind}:{product}");
        if self.cache.keys.contains_key(&key) {
            return false;
        }
        let plain = self.readers.patience.is_some() && self.rng.bool();
        if !plain && !self.readers.leases {
            return false;
        }
        let token = (!plain).then(|| {
            self.readers.tokens += 1;
            format!("t{}", self.readers.tokens)
        });
        if let Some(token) = &token {
            let lease = format!("{key}:l");
            if self.cache.keys.contains_key(&lease) {
                return false;
            }
            self.cache.keys.insert(lease, token.clone());
        }
        let begun = self.now;
        self.readers.loads.push(Load { product, key, token, begun, version: None });
        true
    }

    /// A reader reads the database, or fills.
    fn go_on(&mut self, at: usize) {
        let load = &mut self.readers.loads[at];
        let Some(version) = load.version else {
            load.version = Some(self.readers.database[usize::from(load.product)]);
            return;
        };
        let load = self.readers.loads.swap_remove(at);
        // What does not know of versions is another type of key.
        let knows = self.readers.versions && (load.token.is_some() || self.rng.u8(..4) > 0);
        let value = if knows { versioned(version) } else { version.to_string() };
        let key = load.key;
        match load.token {
            Some(token) => {
                let lease = format!("{key}:l");
                if self.cache.keys.get(&lease) == Some(&token) {
                    self.cache.keys.remove(&lease);
                    let there = self.cache.keys.get(&key).and_then(|held| version_of(held));
                    if there.is_some_and(|there| there >= version) {
                        return;
                    }
                    self.trace(|| format!("{key} is {value}, under a lease"));
                    self.cache.keys.insert(key, value);
                }
            }
            None if self.readers.patience.is_some_and(|patience| self.now < load.begun + patience) => {
                self.trace(|| format!("{key} is {value}"));
                self.cache.keys.insert(key, value);
            }
            None => {}
        }
    }

    pub(super) fn finish_loads(&mut self) {
        if !self.readers.loads.is_empty() && self.rng.u8(..30) == 0 {
            self.go_on(0);
        }
    }
}
