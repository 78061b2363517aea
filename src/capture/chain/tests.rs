//! Random histories of the chain: whatever happens to source, connection and destination, what is
//! stored is what was published, in order and once, and what is missing lies inside a gap.
//!
//! The seed of a failure is printed; `TIDEGATE_SEED=n cargo test random_histories` runs it alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::append::{Append, Keys, Outcome};
use super::super::batch::{Batch, Builder, Gap, Joint};
use super::super::mapping::{FieldSink as _, RejectReason, Rejection};
use super::super::model::{Model, arguments};
use super::*;
use crate::config::{Capture, Format, Keep, Mode};
use crate::position::Epoch;
use crate::server::resp::{Message, Value};
use crate::template::Template;

const STEPS: usize = 300;

fn settings(stream: &str) -> Capture {
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

/// A source, the chain, and a destination, with everything between them that can go wrong.
struct History {
    rng: fastrand::Rng,
    templated: bool,
    keys: Keys,
    append: Append,
    chain: Chain,
    builder: Builder,
    model: Model,
    earlier: Model,
    real: Option<Real>,
    /// Where something may be missing.
    breaks: Vec<String>,
    window: Option<Position>,
    epochs: u64,
    gap: Option<Gap>,
    published: u64,
    filtered: BTreeSet<u64>,
    /// What was published when this process's first window opened.
    opened: Option<u64>,
    /// The number from which on everything is promised: a clean start misses nothing.
    promised: u64,
    connected: bool,
    out_of_memory: bool,
    requests: VecDeque<Vec<u8>>,
    replies: VecDeque<Value>,
    pushed: u64,
    popped: u64,
}

fn broken(cause: GapCause) -> Gap {
    Gap {
        cause,
        detail: "a test".into(),
        started_unix_ms: 1,
        ended_unix_ms: 2,
        dropped: 0,
        reason: DropReason::MemoryFull,
    }
}

impl History {
    fn new(seed: u64, real: Option<Real>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let templated = rng.bool();
        let settings = settings(if templated { "s:<channel>" } else { "s" });
        let keys = Keys::new("t:", "orders");
        let hash = real.as_ref().map_or([b'0'; 40], |real| real.hash);
        let append = Append::new(hash, keys.clone(), "0000000001-a-b".into(), &settings);
        let mut history = Self {
            rng,
            templated,
            keys,
            append,
            chain: Chain::default(),
            builder: Builder::default(),
            model: Model::default(),
            earlier: Model::default(),
            real,
            breaks: Vec::new(),
            window: None,
            epochs: 0,
            gap: None,
            published: 0,
            filtered: BTreeSet::new(),
            opened: None,
            promised: 0,
            connected: false,
            out_of_memory: false,
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            pushed: 0,
            popped: 0,
        };
        history.replace(Model::default());
        history.open();
        history
    }

    fn epoch(&mut self) -> Epoch {
        self.epochs += 1 + self.rng.u64(..3);
        let anchor = format!("{:016x}", self.rng.u64(..)).parse().unwrap();
        Epoch { number: self.epochs, anchor }
    }

    fn flush(&mut self) {
        if let Some(batch) = self.builder.take() {
            self.push(batch);
        }
    }

    fn push(&mut self, batch: Batch) {
        self.pushed += batch.events;
        self.chain.push(batch);
    }

    fn publish(&mut self) {
        let number = self.published;
        self.published += 1;
        let Some(window) = &mut self.window else { return };
        window.ordinal += 1;
        let (position, now) = (*window, Instant::now());
        let kind = self.rng.u8(..20);
        if kind == 0 {
            self.filtered.insert(number);
            if self.builder.filtered(position, now) {
                self.flush();
            }
            return;
        }
        let payload = number.to_string();
        let stream = if self.templated { format!("s:{}", self.rng.u8(..5)) } else { "s".to_owned() };
        let message = Message { channel: b"orders", pattern: None, payload: payload.as_bytes() };
        let full = self.builder.event(position, &message, payload.len(), now, |sink| {
            if kind == 1 {
                let detail = "a test".to_owned();
                return Err(Rejection { reason: RejectReason::TooLarge, detail });
            }
            sink.stream(stream.as_bytes());
            sink.field(b"position", position.to_string().as_bytes());
            sink.field(b"payload", payload.as_bytes());
            Ok(())
        });
        if full {
            self.flush();
        }
    }

    fn anchor(&mut self) {
        if self.window.is_some() {
            let anchor = self.epoch().at(0);
            self.window = Some(anchor);
            if self.builder.anchor(anchor, Instant::now()) {
                self.flush();
            }
        }
    }

    fn open(&mut self) {
        if self.window.is_none() {
            let anchor = self.epoch().at(0);
            self.flush();
            self.opened.get_or_insert(self.published);
            let joint = self.gap.take().map_or(Joint::Start(2), Joint::Gap);
            self.builder.open_window(anchor, joint, Instant::now());
            self.breaks.push(anchor.to_string());
            self.window = Some(anchor);
        }
    }

    fn lose_window(&mut self) {
        if self.window.take().is_some() {
            self.flush();
            self.gap = Some(broken(GapCause::SourceDisconnected));
        }
    }

    /// The process is killed; what it held is lost.
    fn restart(&mut self) {
        self.disconnect();
        self.chain = Chain::default();
        self.builder = Builder::default();
        (self.window, self.gap, self.opened) = (None, None, None);
        (self.pushed, self.popped) = (0, 0);
    }

    /// What was sent may have arrived, or a part of it; nothing comes back.
    fn disconnect(&mut self) {
        for _ in 0..self.rng.usize(..=self.requests.len()) {
            self.serve();
        }
        self.requests.clear();
        self.replies.clear();
        self.connected = false;
        self.chain.disconnected();
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            let position = self.model.position().parse().ok();
            if position.is_none() && !self.chain.was_read() {
                self.open();
                self.promised = self.opened.unwrap_or_default();
            }
            self.chain.found(position, Some(1), 2);
        }
    }

    fn pump(&mut self) {
        while self.connected && self.chain.awaited() < 8 {
            if !self.chain.has_unsent() {
                if self.chain.awaited() > 0 {
                    return;
                }
                match self.builder.take() {
                    Some(batch) => self.push(batch),
                    None => return,
                }
            }
            let Some((prev, batch)) = self.chain.send() else { return };
            let mut request = Vec::new();
            self.append.write(&mut request, batch, prev, 0);
            self.requests.push_back(request);
        }
    }

    fn serve(&mut self) {
        let Some(request) = self.requests.pop_front() else { return };
        if self.out_of_memory {
            return self.replies.push_back(Value::Error(b"OOM not now".to_vec()));
        }
        let reply = self.model.call(&arguments(&request));
        if let Some(real) = &mut self.real {
            assert_eq!(real.call(&request), shown(&reply), "the script and its model part");
        }
        self.replies.push_back(reply);
    }

    fn deliver(&mut self) {
        let Some(reply) = self.replies.pop_front() else { return };
        match self.chain.replied(Outcome::read(&reply), 3) {
            Step::Stored { batch, stored } => {
                assert!(stored.events() <= batch.events);
                self.popped += batch.events;
            }
            Step::Duplicate { batch } => self.popped += batch.events,
            Step::Again | Step::Ignored | Step::Wait(..) => {}
            step @ (Step::Dropped { .. } | Step::Superseded(_)) => panic!("nobody else writes: {step:?}"),
        }
        assert_eq!(
            self.pushed,
            self.popped + self.chain.held_events(),
            "every event is in hand or dealt with"
        );
    }

    /// With nothing under way the destination is asked where the state stands.
    fn ask(&mut self) {
        let position = self.model.position().parse().ok();
        if self.connected && self.chain.awaited() == 0 && position < self.chain.acked() {
            self.chain.found(position, None, 3);
        }
    }

    /// The destination holds something else from now on.
    fn replace(&mut self, model: Model) {
        self.model = model;
        self.breaks.push(self.model.position());
        if let Some(real) = &mut self.real {
            real.load(&self.model, &self.keys);
        }
    }

    /// A key becomes one of another type, or all are as they should be again.
    fn spoil(&mut self) {
        let mut model = self.model.clone();
        if model.spoiled.is_empty() {
            let keys = [
                &self.keys.gaps,
                &self.keys.dead_letters,
                &self.keys.streams,
                &b"s".to_vec(),
                &b"s:1".to_vec(),
            ];
            let key = keys[self.rng.usize(..keys.len())].clone();
            model.spoiled.insert(key);
        } else {
            model.spoiled.clear();
        }
        self.replace(model);
    }

    fn step(&mut self) {
        match self.rng.u32(..1000) {
            0..300 => self.publish(),
            300..330 => self.flush(),
            330..345 => self.anchor(),
            345..400 => self.open(),
            400..415 => self.lose_window(),
            415..420 => self.restart(),
            420..435 => self.disconnect(),
            435..480 => self.connect(),
            480..620 => self.pump(),
            620..780 => self.serve(),
            780..930 => self.deliver(),
            930..950 => self.ask(),
            950..960 => self.out_of_memory = !self.out_of_memory,
            960..975 => self.spoil(),
            975..985 => self.earlier = self.model.clone(),
            985..992 => {
                let mut earlier = self.earlier.clone();
                earlier.spoiled.clear();
                self.replace(earlier);
            }
            992..994 => self.replace(Model::default()),
            _ => {}
        }
    }

    /// Everything is well again: what is in hand is stored.
    fn settle(&mut self) {
        self.out_of_memory = false;
        let mut model = self.model.clone();
        model.spoiled.clear();
        self.replace(model);
        self.open();
        self.publish();
        for _ in 0..10_000 {
            self.connect();
            self.pump();
            self.serve();
            self.deliver();
            if self.chain.is_empty() && self.builder.open_items() == 0 {
                return;
            }
        }
        panic!("it comes to no end: {:?}", self.chain);
    }

    fn check(&self) {
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        let records = [&self.keys.gaps, &self.keys.dead_letters];
        let field = |entry: &[Vec<u8>], name: &str| {
            let pair = entry.chunks(2).find(|pair| pair[0] == name.as_bytes());
            String::from_utf8(pair.unwrap_or_else(|| panic!("no {name}"))[1].clone()).unwrap()
        };
        let mut appended = 0;
        for (key, entries) in self.model.streams.iter().filter(|(key, _)| **key != self.keys.gaps) {
            let mut before = String::new();
            for entry in entries {
                let position = field(entry, "position");
                assert!(position > before, "{} is in order", String::from_utf8_lossy(key));
                let number = field(entry, "payload").parse().unwrap();
                assert_eq!(found.insert(number, position.clone()), None, "message {number} is stored once");
                before = position;
                appended += u64::from(!records.contains(&key));
            }
        }
        let gaps: Vec<(String, String)> = (self.model.streams.get(&self.keys.gaps).into_iter().flatten())
            .map(|gap| (field(gap, "from"), field(gap, "to")))
            .collect();
        for pair in gaps.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "gaps overlap: {pair:?}");
        }
        for (from, to) in &gaps {
            let real = self.breaks.iter().any(|broken| from <= broken && broken <= to);
            assert!(real && from < to, "nothing was missed between {from} and {to}");
        }
        let mut before = "-";
        let mut next = 0;
        for (number, position) in &found {
            assert!(position.as_str() > before, "positions ascend with what was published");
            if (next.max(self.promised)..*number).any(|missing| !self.filtered.contains(&missing)) {
                let inside = gaps.iter().any(|(from, to)| from.as_str() >= before && to <= position);
                assert!(inside, "{next}..{number} are missing outside a gap: {before} {position} {gaps:#?}");
            }
            before = position;
            next = number + 1;
        }
        let count = |name: &str| self.model.state.get(name).map_or(0, |count| count.parse::<u64>().unwrap());
        assert_eq!(count("appended"), appended, "the ledger counts what is there");
        assert_eq!(count("received"), appended + count("rejected") + count("filtered"), "the ledger adds up");
    }

    fn run(mut self) -> Self {
        for _ in 0..STEPS {
            self.step();
            self.check();
        }
        self.settle();
        self.check();
        let stored = self.model.streams.iter().filter(|(key, _)| **key != self.keys.gaps);
        assert!(stored.count() > 0, "a history in which nothing is stored proves nothing");
        if let Some(real) = &mut self.real {
            real.compare(&self.model, &self.keys);
        }
        self
    }
}

/// Runs histories and says which one failed.
fn histories(seeds: u64, mut real: Option<Real>) {
    let seeds = match std::env::var("TIDEGATE_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("TIDEGATE_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..seeds,
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
        real = History::new(seed, real.take()).run().real;
    }
}

#[test]
fn random_histories() {
    histories(300, None);
}

#[test]
fn random_histories_on_a_real_server() {
    for version in ["redis-7.0", "redis-8.2", "valkey-9.1"] {
        histories(10, Some(Real::start(version)));
    }
}

/// A real server with the script.
struct Real {
    process: Child,
    connection: redis::Connection,
    hash: [u8; 40],
    _directory: tempfile::TempDir,
}

impl Drop for Real {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A reply without what the server says beside the code of an error.
fn shown(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) | Value::Error(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            text.split(' ').next().unwrap_or_default().to_owned()
        }
        Value::Integer(number) => number.to_string(),
        Value::Array(all) => all.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

impl Real {
    fn start(version: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        let program = own.ancestors().map(|above| above.join("servers").join(version).join("server"));
        let program = program.into_iter().find(|path| path.exists());
        let program = program.unwrap_or_else(|| panic!("{version} is not installed: scripts/servers.sh"));
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        let process = Command::new(program)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let client = redis::Client::open(format!("redis+unix://{}", socket.display())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut connection = loop {
            match client.get_connection() {
                Ok(connection) => break connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let script = super::super::append::APPEND.source;
        let hash: String = redis::cmd("SCRIPT").arg("LOAD").arg(script).query(&mut connection).unwrap();
        Self { process, connection, hash: hash.into_bytes().try_into().unwrap(), _directory: directory }
    }

    fn call(&mut self, request: &[u8]) -> String {
        use redis::ConnectionLike as _;
        fn text(value: &redis::Value) -> String {
            match value {
                redis::Value::BulkString(bytes) => shown(&Value::Bytes(bytes.clone())),
                redis::Value::Int(number) => number.to_string(),
                redis::Value::ServerError(error) => error.code().to_owned(),
                redis::Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(" "),
                other => format!("{other:?}"),
            }
        }
        match self.connection.req_packed_command(request) {
            Ok(value) => text(&value),
            Err(error) => panic!("{error}"),
        }
    }

    fn load(&mut self, model: &Model, keys: &Keys) {
        let mut pipe = redis::pipe();
        pipe.cmd("FLUSHALL").ignore();
        for (key, entries) in model.streams.iter().filter(|(key, _)| !model.spoiled.contains(*key)) {
            for entry in entries {
                pipe.cmd("XADD").arg(key).arg("*").arg(entry).ignore();
            }
        }
        for key in &model.spoiled {
            pipe.cmd("SET").arg(key).arg("no stream").ignore();
        }
        for (field, value) in &model.state {
            pipe.cmd("HSET").arg(&keys.state).arg(field).arg(value).ignore();
        }
        for stream in model.made.iter().filter(|_| !model.spoiled.contains(&keys.streams)) {
            pipe.cmd("SADD").arg(&keys.streams).arg(stream).ignore();
        }
        pipe.exec(&mut self.connection).unwrap();
    }

    fn compare(&mut self, model: &Model, keys: &Keys) {
        let state: BTreeMap<String, String> =
            redis::cmd("HGETALL").arg(&keys.state).query(&mut self.connection).unwrap();
        assert_eq!(state, model.state);
        assert!(!model.streams.is_empty());
        for (key, expected) in &model.streams {
            let entries: Vec<(String, Vec<Vec<u8>>)> =
                redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(&mut self.connection).unwrap();
            let entries: Vec<_> = entries.into_iter().map(|(_, fields)| fields).collect();
            assert_eq!(&entries, expected, "{}", String::from_utf8_lossy(key));
        }
        let made: BTreeSet<Vec<u8>> =
            redis::cmd("SMEMBERS").arg(&keys.streams).query(&mut self.connection).unwrap();
        assert_eq!(made, model.made);
    }
}

fn batch(epoch: u64, ordinals: std::ops::Range<u64>, joint: Joint) -> Batch {
    let epoch = Epoch { number: epoch, anchor: "00000000000000aa".parse().unwrap() };
    let mut builder = Builder::default();
    builder.open_window(epoch.at(ordinals.start), joint, Instant::now());
    for ordinal in ordinals.skip(1) {
        builder.filtered(epoch.at(ordinal), Instant::now());
    }
    builder.take().unwrap()
}

#[test]
fn a_gap_of_what_is_cut_off_is_handed_over() {
    let mut chain = Chain::default();
    chain.found(None, None, 1);
    chain.push(batch(1, 0..5, Joint::Start(1)));
    // The window broke, and the next one opened beyond where a successor begins.
    chain.push(batch(5, 0..5, Joint::Gap(broken(GapCause::SourceDisconnected))));
    chain.push(batch(6, 0..5, Joint::Gap(broken(GapCause::SourceSilent))));
    let border = batch(3, 0..1, Joint::Follows).first;
    let (events, gap) = chain.cut(border);
    assert_eq!(events, 8);
    assert_eq!(gap.map(|gap| gap.cause), Some(GapCause::SourceDisconnected), "the one that spans the border");
    assert_eq!(chain.held_events(), 4);
}

#[test]
fn what_is_owed_without_a_batch_is_handed_over() {
    let mut chain = Chain::default();
    let position = batch(1, 0..1, Joint::Follows).first;
    chain.found(Some(position), Some(1), 2);
    assert_eq!(chain.take_owed().map(|gap| gap.cause), Some(GapCause::Restart));
    let mut successor = Chain::default();
    successor.push(batch(2, 0..3, Joint::Start(7)));
    successor.inherit(Some(position), Some(broken(GapCause::Restart)));
    successor.found(Some(position), None, 8);
    let (prev, first) = successor.send().unwrap();
    assert_eq!(prev, Some(position));
    assert!(matches!(&first.joint, Joint::Gap(gap) if gap.ended_unix_ms == 7), "{:?}", first.joint);
}

#[test]
fn a_stale_batch_leaves_its_gap_to_the_next() {
    let mut chain = Chain::default();
    let known = batch(1, 0..1, Joint::Follows).first;
    chain.found(Some(known), Some(1), 2);
    chain.push(batch(2, 0..5, Joint::Start(3)));
    chain.push(batch(3, 0..5, Joint::Follows));
    assert!(chain.send().is_some() && chain.send().is_some());
    let beyond = batch(2, 90..91, Joint::Follows).first;
    let step = chain.replied(Ok(Outcome::Stale(beyond)), 9);
    assert!(matches!(step, Step::Dropped { .. }), "{step:?}");
    assert!(matches!(chain.replied(Ok(Outcome::Stale(beyond)), 9), Step::Ignored));
    let (_, next) = chain.send().unwrap();
    let Joint::Gap(gap) = &next.joint else { panic!("{:?}", next.joint) };
    assert_eq!((gap.cause, gap.dropped, gap.started_unix_ms), (GapCause::Stale, 4, 1));
    // The state is beyond what was dropped: the gap is measured from there.
    assert!(matches!(chain.replied(Ok(Outcome::Behind(Some(beyond))), 9), Step::Again));
    assert_eq!(chain.send().map(|(prev, _)| prev), Some(Some(beyond)));
}
