//! The capture in a made-up world: instances, a source and a destination, and everything between them that
//! can go wrong, from one seed. The chain, the overflow, the standing, the batches and their encoding are the
//! real ones; sockets, servers, disks and clocks are made up here, and the glue of `route` is retold.
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
use super::chain::{Chain, Coverage, Step};
use super::mapping::{FieldSink as _, RejectReason, Rejection};
use super::model::{Model, arguments};
use super::overflow::{Overflow, Room};
use super::standing::{Facts, Standing, Stood, Want};
use super::state::State;
use crate::config::{Capture, Format, Keep, Mode};
use crate::event::GapCause;
use crate::position::{Epoch, Position};
use crate::server::Error;
use crate::server::resp::{Message, Value};
use crate::spool::{Done, Mark, Request, SpoolError};
use crate::status::InHand;
use crate::template::Template;

mod real;

const STEPS: usize = 400;
const REVISION: &str = "0000000001-a-b";
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
    fn anchor(&mut self, floor: u64, id: u64) -> Epoch {
        let number = self.clock_ms.max(self.last_epoch + 1).max(floor);
        self.last_epoch = number;
        let epoch = Epoch { number, anchor: format!("{id:016x}").parse().unwrap() };
        self.items.push(Item::Anchor(epoch));
        epoch
    }
}

/// What survives the process.
#[derive(Debug, Default)]
struct Disk {
    records: VecDeque<(Mark, Vec<u8>)>,
    read: usize,
    full: bool,
}

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
    /// Stopped, as by SIGSTOP, or cut off from a side.
    paused: bool,
    no_source: bool,
    no_destination: bool,
    chain: Chain,
    overflow: Overflow,
    builder: Builder,
    standing: Standing,
    account: Account,
    disk: Disk,
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
    keys: Keys,
    append: Append,
    source: Source,
    model: Model,
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
            append: Append::new(hash, keys.clone(), REVISION.into()),
            keys,
            source: Source { clock_ms: 1_000, ..Source::default() },
            model: Model::default(),
            earlier: Model::default(),
            instances: Vec::new(),
            filtered: BTreeSet::new(),
            promised: None,
            forgot: false,
            epoch_lost: false,
            changed: true,
            rng,
            real,
        };
        for number in 0..count {
            let instance = world.process(number, Disk::default());
            world.instances.push(instance);
        }
        world.replace(Model::default());
        world
    }

    fn now(&self) -> Instant {
        self.base + Duration::from_millis(self.now_ms)
    }

    fn process(&self, number: usize, mut disk: Disk) -> Instance {
        disk.read = 0;
        let last = disk.records.back().map(|(mark, _)| Position::from_bytes(*mark));
        let settings = settings(if self.templated { "s:<channel>" } else { "s" });
        Instance {
            number,
            up: true,
            paused: false,
            no_source: false,
            no_destination: false,
            chain: Chain::default(),
            overflow: Overflow::with_spool(last, disk.records.len() as u64),
            builder: Builder::new(Arc::new(options(&settings))),
            standing: Standing::new(format!("i{number}"), FORCE_AFTER, self.now()),
            account: Account::default(),
            disk,
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

    fn flush(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        if let Some(batch) = instance.builder.take() {
            instance.overflow.push(batch, &mut instance.chain, ROOM);
        }
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

    fn open(&mut self, which: usize) {
        let instance = &self.instances[which];
        if instance.window.is_some() || instance.no_source {
            return;
        }
        let epoch = self.source.anchor(instance.floor, self.rng.u64(..));
        let anchor = epoch.at(0);
        let read = self.read();
        let at = self.source.items.len();
        self.flush(which);
        let instance = &mut self.instances[which];
        instance.floor = instance.floor.max(epoch.number + 1);
        let joint = match instance.gap.take() {
            Some(gap) => Joint::Gap(gap),
            None => Joint::Start,
        };
        instance.builder.open_window(anchor, joint, read);
        instance.window = Some((at, anchor, anchor));
        instance.standing.hurry();
    }

    fn lose_window(&mut self, which: usize, cause: GapCause) {
        if self.instances[which].window.is_some() {
            self.flush(which);
            let instance = &mut self.instances[which];
            instance.window = None;
            instance.gap = Some(broken(cause));
            instance.standing.hurry();
        }
    }

    /// Reads some of what the source has sent.
    fn read_source(&mut self, which: usize, most: usize) {
        for _ in 0..most {
            let instance = &self.instances[which];
            let Some((at, anchor, last)) = instance.window else { return };
            if self.gentle && instance.overflow.full(&instance.chain, ROOM).is_some() {
                // The disk is slower here than any is: the socket's buffer waits for it.
                return;
            }
            let Some(item) = self.source.items.get(at).copied() else { return };
            let read = self.read();
            let templated = self.templated;
            let instance = &mut self.instances[which];
            let position = match item {
                Item::Anchor(epoch) if epoch.number > last.epoch.number => {
                    instance.floor = instance.floor.max(epoch.number + 1);
                    instance.builder.anchor(epoch.at(0), read);
                    epoch.at(0)
                }
                // It is refused, by every instance.
                Item::Anchor(_) => last,
                Item::Message(number) => {
                    let position = last.epoch.at(last.ordinal + 1);
                    instance.account.received(1);
                    let full = take(&mut instance.builder, number, position, templated, read);
                    instance.window = Some((at + 1, anchor, position));
                    if full || number % 13 == 0 {
                        self.flush(which);
                    }
                    position
                }
            };
            let instance = &mut self.instances[which];
            instance.window = Some((at + 1, anchor, position));
            if matches!(item, Item::Anchor(_)) {
                self.flush(which);
            }
            let instance = &self.instances[which];
            if let Some(cause) = instance.overflow.full(&instance.chain, ROOM)
                && !self.gentle
            {
                return self.lose_window(which, cause);
            }
        }
    }

    fn facts(&self, which: usize) -> Facts {
        let instance = &self.instances[which];
        Facts {
            coverage: instance.chain.coverage(instance.window.map(|(_, anchor, _)| anchor)),
            first: instance.chain.first(),
            waits_since: instance.chain.waits_since(),
            able: true,
            lost: instance.chain.is_lost(),
        }
    }

    fn connect(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        if instance.link.is_some() || instance.no_destination {
            return;
        }
        instance.link = Some(Link::default());
        instance.chain.disconnected();
        instance.standing.disconnected();
        let state = State::read(&self.model.state_reply()).unwrap();
        instance.floor = instance.floor.max(state.highest_epoch() + 1);
        self.found(which, &state);
    }

    /// What was sent may have arrived, or a part of it; nothing comes back.
    fn disconnect(&mut self, which: usize) {
        if let Some(link) = &self.instances[which].link {
            for _ in 0..self.rng.usize(..=link.requests.len()) {
                self.serve(which);
            }
        }
        let instance = &mut self.instances[which];
        instance.link = None;
        instance.chain.disconnected();
        instance.standing.disconnected();
    }

    fn found(&mut self, which: usize, state: &State) {
        let now = self.now();
        let instance = &mut self.instances[which];
        instance.account.found(&state.ledger);
        let passed = instance.chain.found(state.position, &state.epochs, Some(1), 2);
        instance.account.passed(passed);
        let facts = self.facts(which);
        let instance = &mut self.instances[which];
        instance.standing.observe(instance.chain.checkpoint(), &facts, now);
    }

    fn pump(&mut self, which: usize) {
        if self.instances[which].link.is_none() {
            return;
        }
        self.stand(which);
        let now = self.now();
        let instance = &self.instances[which];
        if instance.chain.is_empty() && instance.overflow.is_empty() {
            self.flush(which);
        }
        if !self.instances[which].standing.is_leader() {
            return;
        }
        let force = self.instances[which].standing.may_force(&self.facts(which), now);
        let append = self.append.clone();
        let instance = &mut self.instances[which];
        while instance.chain.awaited() < 8 {
            let Some((prev, gap, batch)) = instance.chain.send(force, 3) else { return };
            let mut request = Vec::new();
            append.write(&mut request, batch, prev, gap);
            let link = instance.link.as_mut().unwrap();
            link.requests.push_back(request);
            link.sent.push_back(Sent::Batch);
        }
    }

    fn stand(&mut self, which: usize) {
        let (now, facts) = (self.now(), self.facts(which));
        let instance = &self.instances[which];
        if instance.link.as_ref().unwrap().sent.contains(&Sent::Stand)
            || instance.standing.due(&facts).is_some_and(|due| due > now)
        {
            return;
        }
        self.flush(which);
        let facts = self.facts(which);
        let instance = &mut self.instances[which];
        instance.standing.observe(instance.chain.checkpoint(), &facts, now);
        let want = instance.standing.want(&facts, now);
        instance.standing.asked(now);
        self.ask(which, want, &facts);
    }

    fn ask(&mut self, which: usize, want: Want, facts: &Facts) {
        let instance = &mut self.instances[which];
        let mut request = Vec::new();
        let keys = [self.keys.state.as_slice(), self.keys.lease.as_slice()];
        instance.standing.write(&mut request, &[b'1'; 40], keys, want, facts);
        let link = instance.link.as_mut().unwrap();
        link.requests.push_back(request);
        link.sent.push_back(Sent::Stand);
    }

    /// The destination carries out what a connection has sent first.
    fn serve(&mut self, which: usize) {
        let Some(link) = &mut self.instances[which].link else { return };
        let Some(request) = link.requests.pop_front() else { return };
        let command = arguments(&request);
        let reply = if command[1] == [b'1'; 40] {
            self.model.stand(&command, self.server_ms)
        } else {
            let before = self.model.position();
            let reply = self.model.call(&command);
            self.changed = true;
            if before == "-" && self.model.position() != "-" && self.promised.is_none() {
                self.promised = Some(self.first_stored());
            }
            if let Some(real) = &mut self.real {
                assert_eq!(real.call(&request), real::shown(&reply), "the script and its model");
            }
            reply
        };
        if let Some(link) = &mut self.instances[which].link {
            link.replies.push_back(reply);
        }
    }

    fn deliver(&mut self, which: usize) {
        let now = self.now();
        let Some(link) = &mut self.instances[which].link else { return };
        let Some(reply) = link.replies.pop_front() else { return };
        if link.sent.pop_front() == Some(Sent::Stand) {
            return self.stood(which, &reply);
        }
        let instance = &mut self.instances[which];
        match instance.chain.replied(Outcome::read(&reply), 3) {
            Step::Stored { counts, stored, gap } => {
                instance.account.stored(&stored);
                instance.account.deduplicated(counts.events - stored.events());
                instance.account.recorded(gap.map_or(0, |gap| gap.dropped));
            }
            Step::Duplicate { counts, gap } => {
                instance.account.deduplicated(counts.events);
                instance.account.recorded(gap.map_or(0, |gap| gap.dropped));
                instance.standing.hurry();
            }
            Step::Dropped { events } => {
                instance.account.dropped(events);
                instance.standing.hurry();
            }
            Step::Again { rewound } => {
                instance.account.rewound(rewound);
                instance.standing.hurry();
            }
            Step::Ignored | Step::Wait(Error::Reply(_), None) => {}
            // A part is counted in the script; the rest follows.
            Step::Wait(_, Some(_)) => unreachable!("no key is spoiled where accounts are kept"),
            step => panic!("{step:?}"),
        }
        let _ = now;
    }

    fn stood(&mut self, which: usize, reply: &Value) {
        let now = self.now();
        let (stood, state) = Stood::read(reply).unwrap();
        let state = State::read(state).unwrap();
        self.instances[which].standing.stood(stood, now);
        self.found(which, &state);
        let instance = &mut self.instances[which];
        if instance.chain.is_behind() && instance.standing.is_alone(now) && instance.window.is_some() {
            let given_up = instance.chain.clear() + instance.overflow.clear();
            instance.account.dropped(given_up);
            instance.floor = instance.floor.max(state.highest_epoch() + 1);
            let open = instance.builder.take().map_or(0, |batch| batch.events);
            self.instances[which].account.dropped(open);
            self.instances[which].window = None;
            self.instances[which].gap = Some(Gap { dropped: given_up + open, ..broken(GapCause::EpochLost) });
        }
    }

    /// The spool: asks, works, answers.
    fn keep(&mut self, which: usize) {
        let now = self.now();
        let instance = &mut self.instances[which];
        // Not by size here: what a failover may lose is what has been stored since `earlier`.
        instance.chain.retire_old(now, Duration::from_secs(2), usize::MAX);
        instance.overflow.refill(&mut instance.chain, ROOM);
        let durable = instance.chain.checkpoint();
        if instance.request.is_none() {
            instance.request = instance.overflow.request(&instance.chain, durable, ROOM, now);
        } else if let Some(request) = instance.request.take() {
            let done = work(&mut instance.disk, request);
            let outcome = instance.overflow.done(done, &mut instance.chain, ROOM, now);
            assert!(!outcome.lost, "a disk that works gives back what it was given");
            instance.account.received(outcome.recovered);
        }
    }

    fn kill(&mut self, which: usize) {
        self.disconnect(which);
        let disk = std::mem::take(&mut self.instances[which].disk);
        let mut instance = self.process(which, disk);
        instance.up = false;
        self.instances[which] = instance;
    }

    /// The destination holds something else from now on.
    fn replace(&mut self, model: Model) {
        for which in 0..self.instances.len() {
            self.disconnect(which);
        }
        self.model = model;
        if self.model.position() == "-" {
            // A process that starts now cannot know that something was stored before.
            self.promised = None;
        }
        if let Some(real) = &mut self.real {
            real.load(&self.model, &self.keys);
        }
    }

    /// A failover: everything that a replica had not got yet is lost.
    fn fail_over(&mut self) {
        self.replace(self.earlier.clone());
    }

    /// Something goes wrong.
    fn fault(&mut self) {
        let which = self.rng.usize(..self.instances.len());
        match self.rng.u32(..100) {
            0..15 => self.lose_window(which, GapCause::SourceDisconnected),
            15..30 => self.disconnect(which),
            30..42 => self.kill(which),
            42..52 => self.instances[which].paused = true,
            52..60 => self.instances[which].no_source = true,
            60..68 => self.instances[which].no_destination = true,
            68..78 => self.fail_over(),
            78..84 => self.instances[which].disk.full = true,
            84..89 => self.source.clock_ms = self.source.clock_ms.saturating_add(self.rng.u64(..10_000)),
            89..94 => self.server_ms = (self.server_ms + 500_000).saturating_sub(self.rng.u64(..1_000_000)),
            94..97 if !self.gentle && !self.forgot && self.is_remembered() => {
                // The source's epoch is lost, and its clock is behind; the state remembers. Where that is
                // lost, too, nobody is left who knows how high the epochs were.
                self.earlier = self.model.clone();
                self.epoch_lost = true;
                self.source.last_epoch = 0;
                self.source.clock_ms = self.rng.u64(1..2_000);
                for which in 0..self.instances.len() {
                    self.lose_window(which, GapCause::SourceDisconnected);
                }
            }
            97..100 if !self.gentle && !self.epoch_lost => {
                // FLUSHALL. (Where only the state is deleted, what was stored and not answered yet is stored
                // again: nobody is left who knows.)
                let model = Model::default();
                self.earlier = model.clone();
                self.forgot = true;
                self.replace(model);
            }
            _ => {}
        }
    }

    /// Whether the state knows of every epoch in which anything is held; one instance knows its own.
    fn is_remembered(&self) -> bool {
        let empty = |one: &Instance| {
            one.chain.is_empty() && one.builder.open_items() == 0 && one.disk.records.is_empty()
        };
        self.model.position() != "-" && (self.instances.len() == 1 || self.instances.iter().all(empty))
    }

    fn mend(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        instance.up = true;
        instance.paused = false;
        instance.no_source = false;
        instance.no_destination = false;
        instance.disk.full = false;
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
        for which in 0..self.instances.len() {
            self.mend(which);
        }
        for round in 0..4_000 {
            for which in 0..self.instances.len() {
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
            .map(|one| format!("{:?}\n{:?}\n{:?}\n", one.chain, one.overflow, one.standing))
            .collect();
        panic!("it comes to no end: {:?}\n{}", self.model.state, instances.join("\n"));
    }

    /// Whether every instance reads, has nothing in hand, and could go on.
    fn is_settled(&self) -> bool {
        (0..self.instances.len()).all(|which| {
            let instance = &self.instances[which];
            let at_end = instance.window.is_some_and(|(at, ..)| at == self.source.items.len());
            let stored = instance.chain.is_empty() && instance.overflow.is_empty();
            at_end
                && stored
                && instance.builder.open_items() == 0
                && self.facts(which).coverage == Coverage::Watching
        })
    }

    /// The number of the first message that is stored.
    fn first_stored(&self) -> u64 {
        let first = self.model.state["epochs"][..32].to_owned();
        let mut begun = false;
        for item in &self.source.items {
            match item {
                Item::Anchor(epoch) => begun |= epoch.to_string() == first,
                Item::Message(number) if begun => return *number,
                Item::Message(_) => {}
            }
        }
        self.source.published
    }

    fn check(&mut self) {
        for instance in &self.instances {
            let process = instance.account.process(held(instance));
            assert!(process.adds_up(), "instance {}: {process:?}", instance.number);
        }
        if std::mem::take(&mut self.changed) {
            self.check_what_is_stored();
        }
    }

    fn check_what_is_stored(&self) {
        let field = |entry: &[Vec<u8>], name: &str| {
            let pair = entry.chunks(2).find(|pair| pair[0] == name.as_bytes());
            String::from_utf8(pair.unwrap_or_else(|| panic!("no {name}"))[1].clone()).unwrap()
        };
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        for (key, entries) in self.model.streams.iter().filter(|(key, _)| **key != self.keys.gaps) {
            let mut before = String::new();
            for entry in entries {
                let position = field(entry, "position");
                let number = field(entry, "payload").parse().unwrap();
                let twice = found.insert(number, position.clone());
                assert!(twice.is_none(), "message {number} is stored twice: {twice:?} and {position}");
                assert!(position > before, "{} is in order", String::from_utf8_lossy(key));
                before = position;
            }
        }
        let mut before = String::new();
        for position in found.values() {
            assert!(*position > before, "positions ascend with what was published");
            before.clone_from(position);
        }
    }

    /// At the end, when everything is well.
    fn check_nothing_is_missing(&self) {
        let field = |entry: &[Vec<u8>], name: &str| {
            let pair = entry.chunks(2).find(|pair| pair[0] == name.as_bytes()).unwrap();
            String::from_utf8(pair[1].clone()).unwrap()
        };
        let gaps: Vec<(String, String)> = (self.model.streams.get(&self.keys.gaps).into_iter().flatten())
            .map(|gap| (field(gap, "from"), field(gap, "to")))
            .collect();
        for pair in gaps.windows(2) {
            assert!(pair[0].1 <= pair[1].0 || self.forgot, "gaps overlap: {pair:?}");
        }
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        for (_, entries) in self.model.streams.iter().filter(|(key, _)| **key != self.keys.gaps) {
            for entry in entries {
                found.insert(field(entry, "payload").parse().unwrap(), field(entry, "position"));
            }
        }
        let promised = self.promised.unwrap_or(self.source.published);
        let (mut before, mut next) = ("-".to_owned(), promised);
        for (number, position) in found.range(promised..) {
            if (next..*number).any(|missing| !self.filtered.contains(&missing)) {
                assert!(!self.gentle, "{next}..{number} are missing although somebody watched: {gaps:#?}");
                // A state that was lost does not say where it stood.
                let inside = gaps.iter().any(|(from, to)| (from == "-" || *from >= before) && to <= position);
                assert!(inside, "{next}..{number} are missing outside a gap: {before} {position} {gaps:#?}");
            }
            before.clone_from(position);
            next = number + 1;
        }
        if (next..self.source.published).any(|missing| !self.filtered.contains(&missing)) {
            let inside = gaps.iter().any(|(from, _)| from == "-" || *from >= before);
            assert!(
                inside,
                "{next}..{} are missing outside a gap: {before} {gaps:#?}",
                self.source.published
            );
        }
        if self.gentle {
            assert_eq!(gaps, [], "somebody watched at any time");
        }
        assert_ne!(self.model.position(), "-", "a history in which nothing is stored proves nothing");
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

/// What an instance has in hand, counted where it is.
fn held(instance: &Instance) -> InHand {
    let sent = instance.chain.sent_events();
    InHand {
        ring: instance.chain.held_events() - sent
            + instance.overflow.tail_events()
            + instance.builder.open_events(),
        in_flight: sent,
        spool: instance.overflow.disk_events(),
    }
}

/// The mapping and the filter: of some messages a dead letter, of some nothing.
fn take(builder: &mut Builder, number: u64, position: Position, templated: bool, read: Read) -> bool {
    if number % 17 == 3 {
        return builder.filtered(position, read);
    }
    let payload = number.to_string();
    let stream = if templated { format!("s:{}", number % 5) } else { "s".to_owned() };
    let message = Message { channel: b"orders", pattern: None, payload: payload.as_bytes() };
    builder.event(position, &message, payload.len(), read, |sink| {
        if number % 29 == 5 {
            return Err(Rejection { reason: RejectReason::TooLarge, detail: "a test".to_owned() });
        }
        sink.stream(stream.as_bytes());
        sink.field(b"position", position.to_string().as_bytes());
        sink.field(b"payload", payload.as_bytes());
        Ok(())
    })
}

/// The log, with records as its segments.
fn work(disk: &mut Disk, request: Request) -> Done {
    match request {
        Request::Write(records) if disk.full => {
            let error = SpoolError::Full { directory: "disk".into(), limit_bytes: 0 };
            let written = records.len() / 2;
            disk.records.extend(records.into_iter().take(written));
            Done::WriteFailed { error, written }
        }
        Request::Write(records) => {
            disk.records.extend(records);
            Done::Written { bytes: disk.records.len() as u64 }
        }
        Request::Read { max_bytes } => {
            let mut records = Vec::new();
            let mut bytes = 0;
            while bytes < max_bytes
                && let Some((mark, body)) = disk.records.get(disk.read)
            {
                bytes += body.len();
                disk.read += 1;
                records.push((*mark, body.clone()));
            }
            Done::Read(records)
        }
        Request::Release(upto) => {
            while disk.records.front().is_some_and(|(mark, _)| *mark <= upto) {
                disk.records.pop_front();
                disk.read = disk.read.saturating_sub(1);
            }
            Done::Released { bytes: disk.records.len() as u64 }
        }
    }
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
