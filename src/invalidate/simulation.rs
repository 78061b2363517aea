//! An invalidation in a simulated world: instances, the stream's server, the cache, a database, readers and writers, and
//! faults between them, from one seed. The engine is the real one; sockets, servers and clocks are simulated.
//!
//! ```text
//! instance   one process: its engine, its connections; frozen, killed, stopped, started again, with newer keys
//! servers    the stream's server and the cache: the scripts and commands
//! readers    a database, its writers, and readers that fill the cache, with and without leases
//! faults     what goes wrong
//! checks     what must hold
//! real       a real cache beside the model
//! ```
//!
//! At the end of a history all faults are over and every entry is applied. Then nothing in the cache is older than the
//! database, and the second pass left out no entry that was not reported. What a writer did in a gap of the capture, or what was trimmed, may be: but then it was reported as missed, and
//! with `if_missed = "clear"` it may not. Nothing is reported that was not missed. In half of the histories the route stores
//! values: then no version goes back, no key comes by the route, and the second pass removes nothing that is right.
//!
//! A failure prints its seed; `TIDEGATE_SEED=n cargo test --lib invalidate::simulation` runs it alone, and
//! `TIDEGATE_SEEDS=n` that many. `TIDEGATE_TRACE=1` prints each command and fault.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::second_pass::BATCH_ENTRIES;
use crate::config::{Endpoint, IfMissed, Invalidate, SetValue};
use crate::seeds;
use crate::status::RouteEndpoint;
use crate::text::template::Template;

mod checks;
mod faults;
mod instance;
mod readers;
mod real;
mod servers;

use checks::Checks;
use faults::Faults;
use instance::{Command, Instance};
use readers::Readers;
use real::Real;
use servers::{CacheServer, StreamServer};

const MOST_STEPS: usize = 600;
/// When not everything is applied by then, something hangs.
const CALM_STEPS: usize = 20_000;
/// The servers' clock at the beginning, in milliseconds since 1970.
const BEGIN_MS: u64 = 1_700_000_000_000;
const SIDES: [RouteEndpoint; 2] = [RouteEndpoint::Source, RouteEndpoint::Destination];

struct World {
    rng: fastrand::Rng,
    begin: Instant,
    now: Instant,
    /// Of this number of occasions to write, one is taken.
    writes_of: u8,
    /// The older configuration, and one that makes more keys.
    settings: [Arc<Invalidate>; 2],
    /// Most entries of one call: with few, several are under way.
    batch_entries: usize,
    endpoints: [Endpoint; 2],
    stream: StreamServer,
    cache: CacheServer,
    /// The state of the cache that a failover restores.
    before: CacheServer,
    instances: Vec<Instance>,
    /// Commands of connections that broke, which arrive nevertheless.
    orphans: Vec<Command>,
    readers: Readers,
    faults: Faults,
    checks: Checks,
    real: Option<Real>,
}

fn settings(rng: &mut fastrand::Rng) -> [Arc<Invalidate>; 2] {
    let mut older = super::change::keys::tests::settings(&["p:<field:sku>"]);
    older.stream = "products".to_owned();
    older.gaps = vec!["tidegate:products-events:gaps".to_owned()];
    // Without either guard a reader that is slower than a change leaves something stale.
    let guards = rng.u8(..3);
    older.lease = (guards != 0).then(|| Template::parse("<key>:l").unwrap());
    older.again_after = (guards != 1).then_some(Duration::from_secs(2));
    older.collect = Duration::from_millis(if rng.bool() { 0 } else { 100 });
    older.if_missed = if rng.bool() { IfMissed::Record } else { IfMissed::Clear };
    older.set = rng.bool().then(|| {
        let version = Template::parse("<field:version>").unwrap();
        SetValue { value: version.clone(), version }
    });
    let mut newer = older.clone();
    newer.keys.push(Template::parse("q:<field:sku>").unwrap());
    [Arc::new(older), Arc::new(newer)]
}

impl World {
    fn new(seed: u64, real: Option<Real>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // The backoff's jitter.
        fastrand::seed(seed);
        let now = Instant::now();
        let mut settings = settings(&mut rng);
        let faults = Faults::new(&mut rng);
        if faults.deletes {
            // The number of an entry of the new stream is taken for one of the old until all is read: a change of keys in
            // between forgets it.
            settings[0] = settings[1].clone();
        }
        let endpoints = [Endpoint::at("events", "/a"), Endpoint::at("cache", "/b")];
        let count = rng.usize(1..=2);
        let batch_entries = [1, 2, 3, BATCH_ENTRIES][rng.usize(..4)];
        let instance = |_| Instance::new(settings[0].clone(), &endpoints, batch_entries, now);
        Self {
            begin: now,
            now,
            writes_of: rng.u8(1..=8),
            stream: StreamServer::default(),
            cache: CacheServer::default(),
            before: CacheServer::default(),
            instances: (0..count).map(instance).collect(),
            orphans: Vec::new(),
            readers: Readers::new(&settings[1]),
            faults,
            checks: Checks::default(),
            real,
            settings,
            batch_entries,
            endpoints,
            rng,
        }
    }

    fn clock_ms(&self) -> u64 {
        BEGIN_MS + u64::try_from((self.now - self.begin).as_millis()).unwrap()
    }

    fn trace(&self, text: impl FnOnce() -> String) {
        if traces() {
            eprintln!("{:?} {}", self.now - self.begin, text());
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(match self.rng.u8(..20) {
            0 => self.rng.u64(..700),
            1..=5 => self.rng.u64(..60),
            _ => self.rng.u64(..3),
        });
        match self.rng.u8(..20) {
            // Each change heals what came before of its product: in most histories there are few.
            0 | 1 if self.rng.u8(..self.writes_of) == 0 => self.somebody_writes(),
            0 | 1 => {}
            2..=5 => self.somebody_reads(),
            6 => self.something_goes_wrong(),
            7 => self.an_orphan_arrives(),
            8..=12 => {
                let at = self.rng.usize(..self.instances.len());
                self.turn(at);
            }
            _ => {
                let at = self.rng.usize(..self.instances.len());
                let side = SIDES[self.rng.usize(..2)];
                self.serve(at, side);
            }
        }
    }

    /// A command that was in a socket when its sender died.
    fn an_orphan_arrives(&mut self) {
        if !self.orphans.is_empty() {
            let command = self.orphans.remove(0);
            self.carry_out(RouteEndpoint::Destination, &command);
        }
    }

    /// Everything is well again: all that can come is to come.
    fn calm(&mut self) {
        self.recover();
        let mut steps = 0;
        let mut quiet_since = self.now;
        while self.now < quiet_since + Duration::from_secs(4) {
            self.now += Duration::from_millis(20);
            self.an_orphan_arrives();
            self.finish_loads();
            for at in 0..self.instances.len() {
                SIDES.into_iter().for_each(|side| self.serve(at, side));
                self.turn(at);
                if self.is_outdated(at) {
                    self.end(at);
                }
            }
            if !self.is_quiet() {
                quiet_since = self.now;
            }
            steps += 1;
            assert!(
                steps < CALM_STEPS,
                "it does not come to an end: {:?} {:?} {:?}\n{:?}",
                self.stream.last,
                self.cache.cursor,
                self.orphans,
                self.instances.iter().map(Instance::shown).collect::<Vec<_>>()
            );
        }
    }

    /// Returns whether every entry is applied, by both passes, and nothing is being cleared.
    fn is_quiet(&self) -> bool {
        let is_at_end = |place| self.cache.place(place) == self.stream.last;
        let again = self.settings[1].again_after.is_none() || is_at_end("again");
        let clears = !matches!(self.cache.field("clearing"), "" | "none");
        is_at_end("pos") && again && !clears && self.orphans.is_empty() && self.readers.are_done()
    }

    fn run(mut self) -> Option<Real> {
        for _ in 0..self.rng.usize(60..MOST_STEPS) {
            self.step();
        }
        self.calm();
        let stale = self.readers.stale(&self.cache);
        self.trace(|| format!("stale: {stale:?}, {:?}", self.checks));
        self.checks.at_end(&stale, self.settings[1].if_missed);
        self.real
    }
}

/// Returns whether to print each command and fault.
fn traces() -> bool {
    std::env::var("TIDEGATE_TRACE").is_ok()
}

fn histories(seeds: Range<u64>, real: Option<Real>) {
    seeds::run(seeds, real, |seed, real| World::new(seed, real).run());
}

/// Full batches follow each other, and what is left over waits for their answers.
#[test]
fn several_calls_are_under_way() {
    for (batch_entries, most) in [(1, 4), (3, 3), (BATCH_ENTRIES, 1)] {
        let mut world = World::new(0, None);
        (world.batch_entries, world.faults.over) = (batch_entries, true);
        world.end(0);
        world.instances.truncate(1);
        (0..10).for_each(|_| world.add(None));
        let mut found = 0;
        while world.cache.place("pos") != world.stream.last {
            world.now += Duration::from_millis(1);
            world.turn(0);
            found = found.max(world.instances[0].calls_under_way());
            world.serve(0, RouteEndpoint::Source);
            // The stream is faster.
            if world.now.duration_since(world.begin).as_millis().is_multiple_of(10) {
                (0..most).for_each(|_| world.serve(0, RouteEndpoint::Destination));
            }
        }
        assert_eq!(found, most, "with batches of {batch_entries}");
    }
}

#[test]
fn random_histories() {
    histories(0..2_000, None);
}

#[test]
fn random_histories_on_a_real_server() {
    for version in ["redis-7.0", "redis-8.2", "valkey-8.0", "valkey-9.1"] {
        histories(0..40, Some(Real::start(version)));
    }
}
