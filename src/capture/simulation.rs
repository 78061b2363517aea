//! The capture in a simulated world: instances, a source and a destination, and faults between them, from one seed. The
//! [`Engine`](super::engine) is the one of the daemon; sockets, servers, disks and clocks are simulated.
//!
//! ```text
//! route        one engine: what it wants done is done here, and what happened is told to it
//! instance     one process: its disk, its routes (two while a reload is under way), its life
//! destination  the scripts' model, error replies, lost replies, two masters at once
//! replication  the source's replication stream: its histories, its backlog
//! spooled      what each process has written to its spool, and what was done to the files
//! masters      another master in the source's or the destination's place
//! faults       broken and one-sided links (requests cut at any byte), stalls, pauses, kills, stops, reloads, other
//!              configurations, failovers that lose, lost keys, clocks, full and damaged disks
//! checks       what must hold
//! real         a real server beside the scripts' model
//! ```
//!
//! After every step: stored items were published, are in the source's order and are there once; the ledgers add up;
//! gaps are sound; log lines and windows are bounded. At the end of a history all faults are over: buffered items are
//! stored, missing ones are inside a gap, and those that a living process has received are stored or counted as
//! dropped. In a *gentle* history one instance watches at any time, and then there is no gap at all, unless one has no
//! room.
//!
//! A failure prints its seed; `TIDEGATE_SEED=n cargo test --lib simulation` runs it alone and tells what happens, and
//! `TIDEGATE_SEEDS=n` runs that many.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::append::call::{Append, CaptureKeys};
use super::append::state::StoredState;
use super::append::state::revision::RankedRevision;
use super::engine::handover::Handover;
use super::engine::{Connected, Counters, Effect, Engine, EngineSettings, Flow, Lost, Scripts};
use super::memory_quota::MemoryQuota;
use crate::config::{
    Capture, Condition, Durability, FieldNames, Format, Include, Keep, Mode, OwnKeys, Subject, Test,
};
use crate::metrics::Metrics;
use crate::position::{AnchorId, Epoch, Position};
use crate::rt::Moment;
use crate::seeds;
use crate::server::Error;
use crate::server::resp::{Message, Value};
use crate::source::heartbeat::HeartbeatClock;
use crate::source::item::Item;
use crate::spool::{self, Fsync, Log, MemoryDisk, SpoolDone, SpoolRequest};
use crate::status::RouteState;
use crate::text::template::Template;
use model::{Model, arguments};

use driver::Driver;
use instance::Instance;
use real::Real;
use replication::Stream;
use spooled::Spooled;

mod checks;
mod destination;
mod driver;
mod faults;
mod instance;
mod masters;
#[cfg(test)]
mod model;
mod real;
mod replication;
mod spooled;

const STEPS: usize = 400;
/// The memory of a route: small, so that a history fills it; or large, so that recently stored batches are kept.
const SHARES: [u64; 2] = [12_000, 4 << 20];
const FORCE_AFTER: Duration = Duration::from_secs(5);
/// Between two heartbeats of the source.
const HEARTBEAT_MS: u64 = 500;

pub(super) fn settings(stream: &str, mode: Mode) -> Capture {
    Capture {
        name: "orders".into(),
        source: "shop".into(),
        channels: vec![],
        patterns: vec!["c*".into(), "drop".into()],
        mode,
        destination: "events".into(),
        reserved: "tidegate:".into(),
        own: OwnKeys::default(),
        stream: Template::parse(stream).unwrap(),
        groups: vec!["g".into()],
        groups_start: None,
        keep: Keep::Forever,
        format: Format::Raw,
        include: vec![Include::Id],
        fields: FieldNames::default(),
        add: vec![],
        max_streams: 3,
        conditions: vec![Condition {
            subject: Subject::Channel,
            test: Test::Prefix("c".into()),
            negated: false,
        }],
        origin: None,
        max_message_size: 64 * 1024,
    }
}

/// A message of a source.
#[derive(Debug, Clone, Copy)]
enum SourceMessage {
    Message(u64),
    Anchor(Epoch),
    /// The heartbeat of a process.
    /// Of this instance, sent at this time, in milliseconds.
    Heartbeat(u64, u64),
}

/// A message's channel: one that the filter leaves out, or one of five.
fn channel(number: u64) -> String {
    if is_filtered(number) { "drop".to_owned() } else { format!("c{}", number % 5) }
}

fn is_filtered(number: u64) -> bool {
    number % 17 == 3
}

/// Returns whether a configuration with this numbering subscribes to a message's channel.
fn subscribes(numbering: u64, number: u64) -> bool {
    numbering.is_multiple_of(2) || !is_of_some(number)
}

/// Returns whether only some configurations subscribe to a message's channel.
fn is_of_some(number: u64) -> bool {
    number % 11 == 4
}

/// The source: one total order.
#[derive(Debug, Default)]
struct Source {
    sent: Vec<SourceMessage>,
    last_epoch: u64,
    clock_ms: u64,
    published: u64,
    /// When what reached no session was published, while the sessions read another server.
    unheard: BTreeMap<u64, u64>,
    beaten_ms: u64,
    /// It answers no client for now, and keeps every connection.
    stalled: bool,
    /// The replication stream, if it is read.
    stream: Option<Stream>,
}

impl Source {
    /// open_session.lua.
    fn anchor(&mut self, floor: u64, anchor: AnchorId) -> Epoch {
        let number = self.clock_ms.max(self.last_epoch + 1).max(floor);
        self.last_epoch = number;
        let epoch = Epoch { number, anchor };
        self.sent.push(SourceMessage::Anchor(epoch));
        epoch
    }
}

/// How the spools are kept: with files of a few records, each synced when it is full, or after every request.
const SPOOLS: [spool::Options; 2] = {
    let seldom = Fsync::Every(Duration::from_secs(1 << 20));
    let options = spool::Options { limit_bytes: 1 << 20, segment_bytes: 4_000, fsync: seldom };
    [options, spool::Options { fsync: Fsync::Always, ..options }]
};

/// The hashes of a configuration: a later one is newer. Offsets of a replication stream count the same under all of
/// them.
fn hashes(configuration: u64, replicated: bool) -> String {
    let numbering = numbering(configuration);
    if replicated {
        format!("offsets-{numbering:016x}{configuration:016x}")
    } else {
        format!("{numbering:016x}-{configuration:016x}")
    }
}

/// How a configuration numbers: those with the same numbering may continue where the other one stopped.
fn numbering(configuration: u64) -> u64 {
    configuration >> 16
}

struct World {
    rng: fastrand::Rng,
    gentle: bool,
    /// True if the routes read the source's replication stream.
    replicated: bool,
    roomy: bool,
    templated: bool,
    spool: spool::Options,
    /// Sentinels say which server is the source.
    sentinels: bool,
    base: Instant,
    now_ms: u64,
    server_ms: u64,
    /// The scripts' hashes, as a server knows them: `append.lua`, `histories.lua`.
    hash: [u8; 40],
    history: [u8; 40],
    keys: CaptureKeys,
    counters: Counters,
    source: Source,
    model: Model,
    /// A former master that does not know of the new one: data written to it is lost.
    old_model: Option<Model>,
    /// The call that the destination refuses for now, and the error.
    refusal: Option<(destination::Call, &'static str)>,
    /// The present configuration, which every instance gets in the end.
    configuration: u64,
    /// All configurations so far, ascending.
    configurations: Vec<u64>,
    /// The state that a failover may restore; and the one of the next failover, before that is stored again.
    earlier: Model,
    earliest: Model,
    instances: Vec<Instance>,
    /// The number from which on everything is promised: a clean start misses nothing.
    promised: Option<u64>,
    /// The state was lost once: earlier items may not be known to be stored.
    forgot: bool,
    /// An instance's clock was set once.
    clock_set: bool,
    /// The source's epoch was lost once.
    epoch_lost: bool,
    /// The destination lost something once that it had acknowledged.
    went_back: bool,
    /// An instance that could have continued has ended without a stop, after the last stop.
    killed_since_stop: bool,
    /// The stored data has changed since the last check.
    changed: bool,
    looked: checks::StoredSoFar,
    /// True if the history is printed: for a single seed.
    tells: bool,
    real: Option<Real>,
}

impl World {
    fn new(seed: u64, real: Option<Real>) -> Self {
        // Jitter and anchors' ids.
        fastrand::seed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let templated = rng.bool();
        let count = if real.is_some() { 1 } else { rng.usize(1..=3) };
        let gentle = count > 1 && rng.bool();
        let roomy = rng.bool();
        let replicated = rng.u8(..3) == 0;
        let spool = SPOOLS[usize::from(rng.bool())];
        let sentinels = !replicated && rng.bool();
        let hash = real.as_ref().map_or([b'0'; 40], |real| real.hash);
        let history = real.as_ref().map_or([b'2'; 40], |real| real.history);
        let metrics = Metrics::new();
        let mut world = Self {
            gentle,
            replicated,
            roomy,
            templated,
            spool,
            sentinels,
            base: Instant::now(),
            now_ms: 0,
            server_ms: 1_000_000,
            hash,
            history,
            keys: CaptureKeys::new("t:", "orders"),
            counters: Counters {
                route: metrics.capture("orders"),
                source: metrics.endpoint("shop"),
                destination: metrics.endpoint("events"),
            },
            source: Source { clock_ms: 1_000, stream: replicated.then(Stream::begin), ..Source::default() },
            model: Model::default(),
            old_model: None,
            refusal: None,
            configuration: 0,
            configurations: vec![0],
            earlier: Model::default(),
            earliest: Model::default(),
            instances: Vec::new(),
            promised: None,
            forgot: false,
            clock_set: false,
            epoch_lost: false,
            went_back: false,
            killed_since_stop: false,
            changed: true,
            looked: checks::StoredSoFar::default(),
            tells: std::env::var_os("TIDEGATE_SEED").is_some(),
            rng,
            real,
        };
        for number in 0..count {
            let instance = Instance::start(&world, number, 0, MemoryDisk::new(), Spooled::default());
            world.instances.push(instance);
        }
        world.replace(Model::default());
        world.went_back = false;
        world
    }

    /// This moment, by the clock of one instance.
    fn now(&self, which: usize) -> Moment {
        Moment {
            at: self.base + Duration::from_millis(self.now_ms),
            unix_ms: 1_000_000 + self.now_ms + self.instances.get(which).map_or(0, |one| one.clock_ahead_ms),
        }
    }

    /// Prints a step, for a single seed.
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            eprintln!("{:>7} ms: {}", self.now_ms, what());
        }
    }

    fn publish(&mut self) {
        let unheard = self.is_unheard();
        for _ in 0..self.rng.usize(1..12) {
            if unheard {
                self.source.unheard.insert(self.source.published, self.now_ms);
            }
            self.source.sent.push(SourceMessage::Message(self.source.published));
            self.source.published += 1;
        }
    }

    /// One turn of an instance.
    fn turn(&mut self, which: usize) {
        let instance = &self.instances[which];
        if !instance.up || instance.paused {
            return;
        }
        let route = self.rng.usize(..instance.routes.len());
        match self.rng.u32(..100) {
            0..25 => {
                let most = self.rng.usize(..20);
                self.read_source(which, route, most);
            }
            25..30 => self.open(which, route),
            30..35 => self.connect(which, route),
            35..50 => self.tick_route(which, route),
            50..70 => self.serve(which, route),
            70..90 => self.deliver(which, route),
            _ => self.work_disk(which, route),
        }
        self.change_over(which);
    }

    /// An instance does everything that it can.
    fn full_turn(&mut self, which: usize) {
        for route in 0..self.instances[which].routes.len() {
            self.open(which, route);
            self.connect(which, route);
            self.read_source(which, route, 50);
            self.tick_route(which, route);
            for _ in 0..4 {
                self.serve(which, route);
                self.deliver(which, route);
            }
            self.work_disk(which, route);
            self.work_disk(which, route);
        }
        self.change_over(which);
    }

    /// Time passes, everywhere.
    fn pass(&mut self, millis: u64) {
        self.now_ms += millis;
        self.server_ms += millis;
        self.source.clock_ms += millis;
        for instance in &mut self.instances {
            if instance.up && !instance.paused && !instance.left_behind {
                instance.confirmed_ms = Some(self.now_ms);
            }
        }
        if !self.source.stalled && self.now_ms - self.source.beaten_ms >= HEARTBEAT_MS {
            self.source.beaten_ms = self.now_ms;
            for instance in &self.instances {
                if instance.up && !instance.paused && !instance.no_source {
                    self.source.sent.push(SourceMessage::Heartbeat(instance.number as u64, self.now_ms));
                }
            }
        }
    }

    fn tick(&mut self) {
        let passed = self.rng.u64(..60);
        self.pass(passed);
        if self.rng.u8(..30) == 0 {
            // A replica has everything until now, and nothing is durable that it has not.
            self.replicate();
        }
    }

    /// Everything is well: turns, until everything that was published is stored or given up.
    fn settle(&mut self) {
        self.heal();
        for which in 0..self.instances.len() {
            self.mend(which);
        }
        let (windows, lines) = self.noise();
        for round in 0..2_000 {
            for which in 0..self.instances.len() {
                // In turn.
                let turn = round % 100 == 99 && round / 100 % self.instances.len() == which;
                if turn && !self.is_rolled_out(which) {
                    self.restart(which, self.configuration);
                }
                self.full_turn(which);
            }
            let passed = self.rng.u64(..200);
            self.pass(passed);
            if round > 20 && self.is_settled() && self.are_ranks_known() {
                self.check_noise(windows, lines, 40);
                return;
            }
        }
        panic!("it comes to no end: {:?}\n{}", self.model.state, self.described());
    }

    fn described(&self) -> String {
        let routes = self.instances.iter().flat_map(|one| {
            one.routes.iter().map(move |route| {
                format!("instance {} with configuration {}: {route:?}", one.number, route.configuration)
            })
        });
        routes.collect::<Vec<_>>().join("\n")
    }

    /// One instance is removed for good. The others keep their configuration.
    fn take_one_away(&mut self) {
        if !self.gentle && self.instances.len() > 1 && self.rng.u8(..4) == 0 {
            self.instances.pop();
            self.configuration = self.instances[0].configuration;
        }
    }

    fn run(mut self) -> Self {
        if self.gentle {
            self.settle();
        }
        for _ in 0..STEPS {
            match self.rng.u32(..100) {
                0..10 => self.publish(),
                10..18 => self.tick(),
                18..20 if self.gentle => {
                    // Only one at a time, and not before the others could continue without it.
                    self.settle();
                    self.replicate_everywhere();
                    self.publish();
                    // Some of it is stored, and a failover loses that.
                    for _ in 0..self.rng.usize(..150) {
                        let which = self.rng.usize(..self.instances.len());
                        self.turn(which);
                    }
                    self.fault();
                }
                18..20 => self.fault(),
                20..26 if !self.gentle => {
                    let which = self.rng.usize(..self.instances.len());
                    self.mend(which);
                    self.heal();
                }
                _ => {
                    let which = self.rng.usize(..self.instances.len());
                    self.turn(which);
                }
            }
            self.check();
        }
        self.publish();
        self.take_one_away();
        self.settle();
        while self.model.streams.is_empty() {
            // All of it was lost, and the last messages came before a session was open.
            self.publish();
            self.settle();
        }
        self.check();
        self.check_one_trims();
        self.check_nothing_is_missing();
        self.check_what_was_received();
        if let Some(real) = &mut self.real {
            real.compare(&self.model, &self.keys);
        }
        self
    }
}

fn histories(seeds: Range<u64>, real: Option<Real>) {
    seeds::run(seeds, real, |seed, real| World::new(seed, real).run().real);
}

/// Several tests, so that they run side by side.
mod random_histories {
    #[test]
    fn first() {
        super::histories(0..2_000, None);
    }

    #[test]
    fn second() {
        super::histories(2_000..4_000, None);
    }

    #[test]
    fn third() {
        super::histories(4_000..6_000, None);
    }

    #[test]
    fn fourth() {
        super::histories(6_000..8_000, None);
    }

    #[test]
    fn fifth() {
        super::histories(8_000..10_000, None);
    }
}

/// Rare histories: each found a fault beyond the seeds above.
#[test]
fn rare_histories() {
    for seed in
        [50_333, 59_796, 65_979, 76_437, 102_916, 157_524, 191_801, 207_706, 222_846, 237_535, 240_835]
    {
        histories(seed..seed + 1, None);
    }
}

#[test]
fn random_histories_on_a_real_server() {
    for version in ["redis-7.0", "redis-8.2", "valkey-8.0", "valkey-9.1"] {
        histories(0..30, Some(Real::start(version)));
    }
}
