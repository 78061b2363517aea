//! The capture in a made-up world: instances, a source and a destination, and everything between them that
//! can go wrong, from one seed. The chain, the overflow, the standing, the batches and their encoding are the
//! real ones; sockets, servers, disks and clocks are made up here, and the glue of `route` is retold.
//!
//! ```text
//! route    one instance: reads, batches, stands, appends, spools, follows the newest configuration
//! faults   broken and one-sided links (requests cut at any byte), pauses, kills with another configuration
//!          afterwards, failovers that lose, two masters at once, lost keys, clocks, a full disk
//! checks   what must hold
//! real     a real server beside the scripts' model
//! ```
//!
//! After every step: what is stored was published, is in the source's order and is there once; the ledgers
//! add up; gaps are sound. At the end of a history everything is well again: what is in hand is stored, and
//! what is missing lies inside a gap. In a *gentle* history one instance watches at any time, and then there is
//! no gap at all.
//!
//! A failure prints its seed; `TIDEGATE_SEED=n cargo test --lib simulation` runs it alone, and
//! `TIDEGATE_SEEDS=n` that many.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::Account;
use super::append::{Append, Keys, Outcome, options};
use super::batch::{Builder, Gap, Joint, Read};
use super::chain::{Chain, Counts, Coverage, Step};
use super::mapping::{FieldSink as _, RejectReason, Rejection};
use super::model::{Model, arguments};
use super::overflow::{Overflow, Room};
use super::standing::{Facts, Standing, Stood, Want};
use super::state::{Revision, State};
use super::takeover::Takeover;
use crate::config::{Capture, Format, Keep, Mode};
use crate::event::{DropReason, GapCause};
use crate::position::{AnchorId, Epoch, Position};
use crate::server::Error;
use crate::server::resp::{Limits, Message, Reader, Value};
use crate::spool::{self, Fsync, Log, MemoryDisk, Request};
use crate::status::InHand;
use crate::template::Template;

mod checks;
mod faults;
pub(super) mod real;
mod route;

const STEPS: usize = 400;
/// Small, so that a history fills it.
const ROOM: Room = Room { chain: 6_000, tail: 3_000 };
const FORCE_AFTER: Duration = Duration::from_secs(5);

pub(super) fn settings(stream: &str) -> Capture {
    Capture {
        name: "orders".into(),
        source: "shop".into(),
        channels: vec!["orders".into()],
        patterns: vec![],
        mode: Mode::Subscribe,
        destination: "events".into(),
        reserved: "tidegate:".into(),
        stream: Template::parse(stream).unwrap(),
        groups: vec!["g".into()],
        groups_start: None,
        keep: Keep::Forever,
        format: Format::Raw,
        include: vec![],
        max_streams: 3,
        conditions: Vec::new(),
        max_message_size: 64 * 1024,
    }
}

/// What a source delivers.
#[derive(Debug, Clone, Copy)]
enum Item {
    Message(u64),
    Anchor(Epoch),
}

/// The source: one total order.
#[derive(Debug, Default)]
struct Source {
    items: Vec<Item>,
    last_epoch: u64,
    clock_ms: u64,
    published: u64,
}

impl Source {
    /// anchor.lua.
    fn anchor(&mut self, floor: u64, anchor: AnchorId) -> Epoch {
        let number = self.clock_ms.max(self.last_epoch + 1).max(floor);
        self.last_epoch = number;
        let epoch = Epoch { number, anchor };
        self.items.push(Item::Anchor(epoch));
        epoch
    }
}

/// How the spools are kept: with files of a few records.
const SPOOL: spool::Options = spool::Options {
    limit_bytes: 1 << 20,
    segment_bytes: 4_000,
    fsync: Fsync::Every(Duration::from_secs(1 << 20)),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Batch,
    Stand,
}

/// A connection to the destination.
#[derive(Debug, Default)]
struct Link {
    requests: VecDeque<Vec<u8>>,
    sent: VecDeque<Sent>,
    replies: VecDeque<Value>,
}

struct Instance {
    number: usize,
    up: bool,
    /// Its configuration; a later one is newer.
    configuration: u64,
    /// What that is to the state; `None` before it connected.
    revision: Option<Revision>,
    /// A newer configuration writes.
    superseded: bool,
    /// A newer configuration has announced where it begins.
    yields: bool,
    takeover: Takeover,
    /// Where two servers take themselves for the master: whether it talks to the one that is given up.
    with_the_old: bool,
    /// Stopped, as by SIGSTOP, or cut off from a side.
    paused: bool,
    no_source: bool,
    no_destination: bool,
    chain: Chain,
    overflow: Overflow,
    builder: Builder,
    standing: Standing,
    account: Account,
    /// What survives the process, and the log on it.
    disk: MemoryDisk,
    log: Log<MemoryDisk>,
    request: Option<Request>,
    /// Where the open window has come to in the source's items, its anchor, and the last position.
    window: Option<(usize, Position, Position)>,
    gap: Option<Gap>,
    floor: u64,
    link: Option<Link>,
}

struct World {
    rng: fastrand::Rng,
    gentle: bool,
    templated: bool,
    base: Instant,
    now_ms: u64,
    server_ms: u64,
    hash: [u8; 40],
    keys: Keys,
    source: Source,
    model: Model,
    /// A master that does not know yet that another took its place: what it takes is lost.
    old_model: Option<Model>,
    /// The newest configuration.
    configuration: u64,
    /// What a failover may take the destination back to.
    earlier: Model,
    instances: Vec<Instance>,
    filtered: BTreeSet<u64>,
    /// The number from which on everything is promised: a clean start misses nothing.
    promised: Option<u64>,
    /// The state was lost once: what was stored before may not be known to be.
    forgot: bool,
    /// The source's epoch was lost once.
    epoch_lost: bool,
    /// Messages that every instance has counted as lost with a damaged spool.
    damaged: bool,
    /// What is stored has changed since it was last looked at.
    changed: bool,
    real: Option<real::Real>,
}

fn broken(cause: GapCause) -> Gap {
    Gap { cause, detail: "a test".into(), started_unix_ms: 1, ended_unix_ms: 2, dropped: 0, published: None }
}

impl World {
    fn new(seed: u64, real: Option<real::Real>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let templated = rng.bool();
        let count = if real.is_some() { 1 } else { rng.usize(1..=3) };
        let gentle = count > 1 && rng.bool();
        let hash = real.as_ref().map_or([b'0'; 40], |real| real.hash);
        let keys = Keys::new("t:", "orders");
        let mut world = Self {
            gentle,
            templated,
            base: Instant::now(),
            now_ms: 0,
            server_ms: 1_000_000,
            hash,
            keys,
            source: Source { clock_ms: 1_000, ..Source::default() },
            model: Model::default(),
            old_model: None,
            configuration: 0,
            earlier: Model::default(),
            instances: Vec::new(),
            filtered: BTreeSet::new(),
            promised: None,
            forgot: false,
            epoch_lost: false,
            damaged: false,
            changed: true,
            rng,
            real,
        };
        for number in 0..count {
            let instance = world.process(number, 0, MemoryDisk::new());
            world.instances.push(instance);
        }
        world.replace(Model::default());
        world
    }

    fn now(&self) -> Instant {
        self.base + Duration::from_millis(self.now_ms)
    }

    fn process(&self, number: usize, configuration: u64, disk: MemoryDisk) -> Instance {
        disk.heal();
        let (log, recovered) = Log::over(disk.clone(), SPOOL).unwrap();
        let last = recovered.last.map(Position::from_bytes);
        let settings = settings(if self.templated { "s:<channel>" } else { "s" });
        Instance {
            number,
            up: true,
            configuration,
            revision: None,
            superseded: false,
            yields: false,
            takeover: Takeover::None,
            with_the_old: false,
            paused: false,
            no_source: false,
            no_destination: false,
            chain: Chain::default(),
            overflow: Overflow::with_spool(last, recovered.bytes),
            builder: Builder::new(Arc::new(options(&settings))),
            standing: Standing::new(format!("i{number}"), FORCE_AFTER, self.now()),
            account: Account::default(),
            disk,
            log,
            request: None,
            window: None,
            gap: None,
            floor: last.map_or(0, |last| last.epoch.number + 1),
            link: None,
        }
    }

    fn read(&self) -> Read {
        Read { at: self.now(), unix_ms: 1 + self.now_ms }
    }

    fn publish(&mut self) {
        for _ in 0..self.rng.usize(1..12) {
            let number = self.source.published;
            self.source.published += 1;
            // The same for whoever reads it.
            if number % 17 == 3 {
                self.filtered.insert(number);
            }
            self.source.items.push(Item::Message(number));
        }
    }

    /// One turn of an instance's loop.
    fn turn(&mut self, which: usize) {
        let instance = &self.instances[which];
        if !instance.up || instance.paused {
            return;
        }
        match self.rng.u32(..100) {
            0..25 => {
                let most = self.rng.usize(..20);
                self.read_source(which, most);
            }
            25..30 => self.open(which),
            30..35 => self.connect(which),
            35..60 => self.pump(which),
            60..75 => self.serve(which),
            75..90 => self.deliver(which),
            _ => self.keep(which),
        }
    }

    fn tick(&mut self) {
        let passed = self.rng.u64(..60);
        self.now_ms += passed;
        self.server_ms += passed;
        self.source.clock_ms += passed;
        if self.rng.u8(..30) == 0 {
            // A replica has everything until now, and nothing is durable that it has not.
            self.earlier = self.model.clone();
        }
    }

    /// Everything is well: turns, until everything that was published is stored or given up.
    fn settle(&mut self) {
        self.heal();
        for which in 0..self.instances.len() {
            self.mend(which);
        }
        for round in 0..4_000 {
            for which in 0..self.instances.len() {
                if self.instances[which].superseded && round % 100 == 99 {
                    // Somebody rolls the newest configuration out.
                    self.restart(which, self.configuration);
                }
                self.open(which);
                self.connect(which);
                self.read_source(which, 50);
                self.pump(which);
                for _ in 0..4 {
                    self.serve(which);
                    self.deliver(which);
                }
                self.keep(which);
            }
            self.tick();
            if round > 50 && self.is_settled() {
                return;
            }
        }
        let instances: Vec<String> = (self.instances.iter())
            .map(|one| {
                format!(
                    "{}: configuration {} as {:?}, superseded {}, yields {}, {:?}, window {:?}, holds {:?} to {:?}, {:?}",
                    one.number,
                    one.configuration,
                    one.revision.as_ref().map(ToString::to_string),
                    one.superseded,
                    one.yields,
                    one.takeover,
                    one.window,
                    one.chain.first(),
                    one.chain.last(),
                    one.standing
                )
            })
            .collect();
        panic!("it comes to no end: {:?}\n{}", self.model.state, instances.join("\n"));
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
                    // One at a time, and not before the others could go on without it.
                    self.settle();
                    self.earlier = self.model.clone();
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
        self.settle();
        self.check();
        self.check_nothing_is_missing();
        if let Some(real) = &mut self.real {
            real.compare(&self.model, &self.keys);
        }
        self
    }
}

fn anchor_id(rng: &mut fastrand::Rng) -> AnchorId {
    format!("{:016x}", rng.u64(..)).parse().unwrap()
}

/// Runs histories and says which one failed.
fn histories(seeds: u64, mut real: Option<real::Real>) {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
    let seeds = match (number("TIDEGATE_SEED"), number("TIDEGATE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) if real.is_none() => 0..seeds,
        _ => 0..seeds,
    };
    for seed in seeds {
        /// Says the seed where the history panics.
        struct Seed(u64);
        impl Drop for Seed {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("again with TIDEGATE_SEED={}", self.0);
                }
            }
        }
        let _seed = Seed(seed);
        real = World::new(seed, real.take()).run().real;
    }
}

#[test]
fn random_histories() {
    histories(2_000, None);
}

#[test]
fn random_histories_on_a_real_server() {
    for version in ["redis-7.0", "redis-8.2", "valkey-8.0", "valkey-9.1"] {
        histories(10, Some(real::Real::start(version)));
    }
}
