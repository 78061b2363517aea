//! A broadcast in a simulated world: instances, the stream's server, another server, consumers, and faults between
//! them, from one seed. The engine is the real one; sockets, servers and clocks are simulated.
//!
//! ```text
//! instance   one process: its engine, its connections; frozen, killed, stopped, started again
//! model      a server: the scripts and commands
//! faults     what goes wrong
//! checks     what must hold
//! real       real servers beside the model
//! ```
//!
//! After every step: nothing is published before its acknowledgement, and nothing twice if the cursor has passed it or
//! its sender did not fail. The order of the stream is kept if it is promised, and the ledger adds up. At the end of a
//! history all faults are over, and every entry is published or a dead letter, or was deleted. No more entries are
//! recorded as lost than were deleted unread. In a *gentle* history instances stop in order and nothing fails: then
//! nothing is repeated, on two servers either, and each trimmed entry is recorded.
//!
//! A failure prints its seed; `TIDEGATE_SEED=n cargo test --lib broadcast::simulation` runs it alone, and
//! `TIDEGATE_SEEDS=n` that many. `TIDEGATE_TRACE=1` prints each command and fault.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Acknowledged, After, Broadcast, Endpoint, MessageFormat, Order, Start, Streams};
use crate::seeds;
use crate::stream::EntryId;
use crate::text::template::Template;

mod checks;
mod consumers;
mod faults;
mod instance;
mod model;
mod real;

use checks::Checks;
use faults::Faults;
use instance::Instance;
use model::Model;
use real::Real;

const STEPS: usize = 400;
/// When nothing was learned by then, something hangs.
const CALM_STEPS: usize = 10_000;
/// The servers' clock at the beginning, in milliseconds since 1970.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// One simulated server.
#[derive(Debug, Default)]
struct Server {
    model: Model,
    /// The state that a failover restores.
    before: Model,
    /// It answers nothing until then.
    stalled: Option<Instant>,
    /// How far its clock is off, in milliseconds.
    skew_ms: i64,
}

struct World {
    rng: fastrand::Rng,
    begin: Instant,
    now: Instant,
    settings: Arc<Broadcast>,
    endpoints: [Endpoint; 2],
    servers: Vec<Server>,
    instances: Vec<Instance>,
    gentle: bool,
    faults: Faults,
    checks: Checks,
    real: Option<Real>,
}

fn settings(rng: &mut fastrand::Rng) -> Broadcast {
    let acknowledged =
        |order| After::Acknowledged(Acknowledged { group: "inventory".into(), order, replication: false });
    let after = match rng.u8(..3) {
        0 => After::Added,
        1 => acknowledged(Order::Stream),
        _ => acknowledged(Order::Acknowledgement { max_ack_pending: [3, 1_000][usize::from(rng.bool())] }),
    };
    let channel = if rng.bool() { "stock" } else { "stock.<field:kind>" };
    Broadcast {
        name: "stock".into(),
        source: "events".into(),
        streams: Streams::One("orders".into()),
        after,
        destination: "shop".into(),
        channel: Template::parse(channel).unwrap(),
        message: MessageFormat::Template(Template::parse("<id>").unwrap()),
        conditions: Vec::new(),
        payload_field: "payload".into(),
        origin: None,
        sharded: false,
        rate_limit: None,
        max_deliveries: 3,
        start: Some(Start::Beginning),
        max_message_size: 1024,
    }
}

impl World {
    fn new(seed: u64, real: Option<Real>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // The backoff's jitter.
        fastrand::seed(seed);
        let now = Instant::now();
        let settings = Arc::new(settings(&mut rng));
        let one_server = rng.bool();
        let shop = if one_server { "/a" } else { "/b" };
        let endpoints = [Endpoint::at("events", "/a"), Endpoint::at("shop", shop)];
        let count = rng.usize(1..=3);
        let gentle = rng.u8(..4) == 0;
        let mut world = Self {
            servers: (0..if one_server { 1 } else { 2 }).map(|_| Server::default()).collect(),
            checks: Checks::new(&settings, (one_server, gentle)),
            rng,
            begin: now,
            now,
            settings,
            endpoints,
            instances: Vec::new(),
            gentle,
            faults: Faults::default(),
            real,
        };
        if let After::Acknowledged(_) = world.settings.after {
            world.servers[0].model.group = Some(model::Group::default());
        }
        if let Some(real) = &mut world.real {
            real.begin(world.servers[0].model.group.is_some());
        }
        world.servers[0].before = world.servers[0].model.clone();
        for _ in 0..count {
            let instance = world.instance();
            world.instances.push(instance);
        }
        world
    }

    fn instance(&mut self) -> Instance {
        let me = format!("{:016x}", self.rng.u64(..));
        Instance::new(self.settings.clone(), &self.endpoints, me, self.now)
    }

    fn clock_ms(&self, server: usize) -> u64 {
        let since = u64::try_from((self.now - self.begin).as_millis()).unwrap();
        (BEGIN_MS + since).saturating_add_signed(self.servers[server].skew_ms)
    }

    /// Carries out a command on a server. Messages are shown to the checks.
    fn carry_out(&mut self, at: usize, command: &[Vec<u8>], sender: instance::Sender) -> model::CallResult {
        let clock = self.clock_ms(at);
        let model = &mut self.servers[at].model;
        let before = model.position();
        let done = model.carry_out(command, clock);
        let after = model.position();
        let heard = std::mem::take(&mut model.heard);
        if at == 0
            && before != after
            && self.checks.moved(before.unwrap_or_default(), after.unwrap_or_default(), sender)
        {
            // Another session may have begun at the cursor before, and sends its messages again.
            self.everything_is_loose();
        }
        let model = &mut self.servers[at].model;
        if traces() {
            let word = |word: &Vec<u8>| word.escape_ascii().to_string().chars().take(60).collect();
            let words: Vec<String> = command.iter().map(word).collect();
            eprintln!("{:?} session {sender} to server {at}: {}", self.now - self.begin, words.join(" "));
        }
        if let (Some(real), model::CallResult::Reply(reply), 0) = (&mut self.real, &done, at) {
            real.compare(command, reply, model, clock);
        }
        for message in heard {
            let entry = EntryId::parse(message.as_bytes()).unwrap();
            self.checks.heard(entry, sender, &self.servers[0].model);
        }
        done
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(match self.rng.u8(..10) {
            // An instance that gets no processor for as long as a lease lasts is a frozen one.
            0 if self.gentle => self.rng.u64(..60),
            0 => self.rng.u64(..400),
            1..=3 => self.rng.u64(..30),
            _ => self.rng.u64(..3),
        });
        self.notice_starved();
        match self.rng.u8(..10) {
            0 => self.consumer_acts(),
            1 => self.something_goes_wrong(),
            2 if self.gentle => (0..self.instances.len()).for_each(|instance| self.turn(instance)),
            _ => {
                let instance = self.rng.usize(..self.instances.len());
                self.turn(instance);
            }
        }
        self.checks.after_step(&self.servers[0].model, self.now - self.begin);
    }

    /// Everything is well again: all that can come is to come.
    fn calm(&mut self) {
        self.recover();
        let mut steps = 0;
        while !self.checks.is_complete(&self.servers[0].model) {
            self.now += Duration::from_millis(if steps % 10 == 0 { 190 } else { 2 });
            self.acknowledge_all();
            self.begin_those_that_ended();
            for instance in 0..self.instances.len() {
                self.turn(instance);
            }
            self.checks.after_step(&self.servers[0].model, self.now - self.begin);
            steps += 1;
            assert!(
                steps < CALM_STEPS,
                "nothing moves: {:?}\n{:?}\n{:?}",
                self.checks.left(),
                self.servers[0].model.cursor,
                self.instances.iter().map(Instance::shown).collect::<Vec<_>>()
            );
        }
    }

    fn run(mut self) -> Self {
        for _ in 0..STEPS {
            self.step();
        }
        self.calm();
        // The last answers.
        for _ in 0..20 {
            (0..self.instances.len()).for_each(|instance| self.turn(instance));
        }
        let elapsed = self.now - self.begin;
        for instance in &self.instances {
            instance.check_bounds(elapsed, self.faults.count);
        }
        let sent = self.instances.iter().map(|instance| instance.sent).sum();
        self.checks.at_end(&self.servers[0].model, sent);
        self
    }
}

/// Returns whether to print each command and fault.
fn traces() -> bool {
    std::env::var("TIDEGATE_TRACE").is_ok()
}

fn histories(seeds: Range<u64>, real: Option<Real>) {
    seeds::run(seeds, real, |seed, real| World::new(seed, real).run().real);
}

#[test]
fn random_histories() {
    histories(0..2_000, None);
}

#[test]
fn random_histories_on_a_real_server() {
    for version in ["redis-7.0", "redis-8.2", "valkey-8.0", "valkey-9.1"] {
        histories(0..10, Some(Real::start(version)));
    }
}
