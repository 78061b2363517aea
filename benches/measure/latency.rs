//! Latency: from publishing to a consumer that waits.
//!
//! ```text
//! publisher ──PUBLISH──▶ server ──▶ daemon ──▶ server ──XREADGROUP BLOCK──▶ consumer
//! publisher ──XADD─────▶ server ───────────────────────XREADGROUP BLOCK──▶ consumer     the same without a bridge
//! consumer ──XACK──────▶ server ──▶ daemon ──▶ server ────────────────────▶ subscriber
//! publisher ──PUBLISH──▶ server ──▶ daemon ──▶ server ──▶ daemon ─UNLINK──▶ server ──event "del"──▶ subscriber
//! ```
//!
//! A message carries the time at which it was due, not at which it left, so a publisher that is held up makes
//! its messages late and not fewer. Each point is a run of its own on a fresh server, in turns.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::group::{self, GROUP};
use crate::load::{ADDED, command};
use crate::plan::Plan;
use crate::support::{Server, Version};
use crate::throughput::{self, ORDER_STREAM, start_capture};

/// Messages a second.
const RATES: [u64; 2] = [1_000, 10_000];
const WARM_UP: Duration = Duration::from_secs(1);
/// Digits of the due time at the front of a payload: nanoseconds since the run began.
const DIGITS: usize = 20;
/// What a plot shows of a distribution.
const QUANTILES: [f64; 12] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0];

pub(crate) const DIRECT: &str = "publisher does XADD itself";
pub(crate) const DIRECT_PUBLISH: &str = "publisher does PUBLISH itself";

/// One way at one rate.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Point {
    pub(crate) name: String,
    /// Messages a second.
    pub(crate) rate: u64,
    /// Whether the rate is half of what the route sustained just before.
    pub(crate) half: bool,
    pub(crate) messages: u64,
    /// Quantile and microseconds.
    pub(crate) micros: Vec<(f64, f64)>,
}

impl Point {
    pub(crate) fn at(&self, quantile: f64) -> f64 {
        self.micros.iter().find(|(known, _)| *known >= quantile).map_or(f64::NAN, |(_, micros)| *micros)
    }
}

/// Which way messages go, and who waits for them.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// XADD, and a consumer.
    Added,
    /// PUBLISH, a capture in this mode, and a consumer.
    Captured(&'static str),
    /// PUBLISH, and a subscriber.
    Published,
    /// XADD, a broadcast, and a subscriber.
    Broadcast(&'static str),
    /// XACK of entries that are there already, a broadcast that waits for it in this way, and a subscriber.
    Acknowledged(&'static str),
    /// PUBLISH, a capture in this mode, an invalidation of its stream, and a subscriber that hears of removed keys.
    Cleared(&'static str),
}

/// Names of captures and of broadcasts, with what they are compared with first.
const CAPTURES: [(&str, Way); 3] = [
    (DIRECT, Way::Added),
    ("subscribe", Way::Captured("mode = \"subscribe\"")),
    ("replication", Way::Captured("mode = \"replication\"")),
];
const BROADCASTS: [(&str, Way); 4] = [
    (DIRECT_PUBLISH, Way::Published),
    ("broadcast, added", Way::Broadcast("after = \"added\"\nstart = \"beginning\"")),
    ("XACK to receipt, polling", Way::Acknowledged("poll")),
    ("XACK to receipt, replication", Way::Acknowledged("replication")),
];
const INVALIDATIONS: [(&str, Way); 2] = [
    ("PUBLISH to removal, subscribe", Way::Cleared("subscribe")),
    ("PUBLISH to removal, replication", Way::Cleared("replication")),
];
/// What the names of ways begin with that end in a cache.
pub(crate) const CLEARED: &str = "PUBLISH to removal";
/// What the names of ways begin with that are measured from XACK on.
pub(crate) const ACKNOWLEDGED: &str = "XACK";

pub(crate) fn points(plan: Plan) -> Vec<Point> {
    let each = plan.seconds(1.0, 60.0);
    // Half of what a capture in subscribe mode sustains here and now.
    let sustained = throughput::run_capture(Cell::PLAIN, plan.seconds(1.0, 10.0), "mode = \"subscribe\"");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive")]
    let half = sustained.per_second() as u64 / 2;
    let mut points = Vec::new();
    let rates = RATES.into_iter().map(|rate| (rate, false)).chain([(half, true)]);
    for (rate, is_half) in rates {
        for (name, way) in CAPTURES.into_iter().chain(BROADCASTS).chain(INVALIDATIONS) {
            // What is to be acknowledged or removed has to fit into memory beforehand.
            if is_half && matches!(way, Way::Acknowledged(_) | Way::Cleared(_)) {
                continue;
            }
            points.push(show(name, rate, is_half, &run(way, rate, each)));
        }
    }
    points
}

fn show(name: &str, rate: u64, half: bool, latencies: &Histogram<u64>) -> Point {
    let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{rate:>8}/s {name:>28}: p50 {:>8.0} µs, p99 {:>8.0} µs, p99.9 {:>8.0} µs  ({} messages)",
        micros(0.5),
        micros(0.99),
        micros(0.999),
        latencies.len()
    );
    Point {
        name: name.to_owned(),
        rate,
        half,
        messages: latencies.len(),
        micros: QUANTILES.into_iter().map(|quantile| (quantile, micros(quantile))).collect(),
    }
}

fn run(way: Way, rate: u64, each: Duration) -> Histogram<u64> {
    match way {
        Way::Added => {
            let server = Server::start(Version::Redis70);
            measure(&server, &add("captured"), consume(&server), rate, each)
        }
        Way::Captured(mode) => {
            let (server, _daemon) = start_capture(Cell::PLAIN, mode);
            measure(&server, &["PUBLISH".to_owned(), "bench".to_owned()], consume(&server), rate, each)
        }
        Way::Published => {
            let server = Server::start(Version::Redis70);
            measure(&server, &["PUBLISH".to_owned(), "bench".to_owned()], listen(&server), rate, each)
        }
        Way::Broadcast(lines) => {
            let server = Server::start(Version::Redis70);
            let _daemon = throughput::start_broadcast(&server, lines);
            measure(&server, &add(ADDED), listen(&server), rate, each)
        }
        Way::Acknowledged(mode) => acknowledged(mode, rate, each),
        Way::Cleared(mode) => cleared(mode, rate, each),
    }
}

/// Everything is added and given to a consumer first; then each entry is acknowledged when its payload says.
fn acknowledged(mode: &str, rate: u64, each: Duration) -> Histogram<u64> {
    let server = throughput::capture_server();
    group::make(&server);
    let step = 1_000_000_000 / rate;
    let count = nanos(each + WARM_UP) / step;
    let mut connection = server.connection();
    let fill = "x".repeat(Cell::PLAIN.bytes - DIGITS);
    for first in (0..count).step_by(1_000) {
        let mut pipeline = redis::pipe();
        for number in first..count.min(first + 1_000) {
            pipeline
                .cmd("XADD")
                .arg(&[ADDED, "*", "payload"])
                .arg(format!("{:0DIGITS$}{fill}", number * step));
            pipeline.ignore();
        }
        pipeline.exec(&mut connection).expect("the server takes entries");
    }
    let mut socket = UnixStream::connect(server.socket()).expect("the server runs");
    let mut answers = BufReader::new(socket.try_clone().expect("a second handle"));
    let (mut ids, mut some) = (Vec::new(), Vec::new());
    while (ids.len() as u64) < count {
        group::read(&mut socket, &mut answers, "1000", &mut some);
        ids.append(&mut some);
    }
    let _daemon = throughput::start_broadcast(&server, &format!("{ORDER_STREAM}\nmode = \"{mode}\""));
    let acknowledge = |number: u64| {
        let id = usize::try_from(number).ok().and_then(|number| ids.get(number))?;
        Some(command(&["XACK", ADDED, GROUP, id]))
    };
    receive(&server, listen(&server), |socket, begun| send_each(socket, rate, begun, &acknowledge))
}

/// Every key is there first; its name begins with the time at which its change is due.
fn cleared(mode: &str, rate: u64, each: Duration) -> Histogram<u64> {
    let server =
        Server::with(Version::Redis70, throughput::served_at_once().with("notify-keyspace-events", "Eg"));
    let step = 1_000_000_000 / rate;
    let count = nanos(each + WARM_UP) / step;
    // Behind the template's own digit, so that the key is as long as a payload and begins with digits.
    let changed = |number: u64| {
        let due = format!("{:0width$}", number * step, width = DIGITS - 1);
        due + &"x".repeat(Cell::PLAIN.bytes - DIGITS)
    };
    let mut connection = server.connection();
    for first in (0..count).step_by(1_000) {
        let mut pipeline = redis::pipe();
        for number in first..count.min(first + 1_000) {
            pipeline.cmd("SET").arg(format!("0{}", changed(number))).arg("old").ignore();
        }
        pipeline.exec(&mut connection).expect("the server takes values");
    }
    let _daemon = throughput::start_invalidation(&server, mode);
    let removed = Receiver::new(&server, Some("SUBSCRIBE __keyevent@0__:del\r\n"), None);
    let publish = |number: u64| (number < count).then(|| command(&["PUBLISH", "bench", &changed(number)]));
    receive(&server, removed, |socket, begun| send_each(socket, rate, begun, &publish))
}

fn add(stream: &str) -> Vec<String> {
    ["XADD", stream, "MAXLEN", "~", "100000", "*", "payload"].map(str::to_owned).to_vec()
}

/// Waits for messages; gives payloads one by one, blocking, until its connection is shut.
struct Receiver {
    reader: BufReader<UnixStream>,
    ask: Option<String>,
}

/// A consumer that hears of what is new at once, as most are written.
fn consume(server: &Server) -> Receiver {
    server.ask::<()>(&["XGROUP", "CREATE", "captured", "waiting", "$", "MKSTREAM"]);
    let ask = [
        "XREADGROUP",
        "GROUP",
        "waiting",
        "one",
        "COUNT",
        "1000",
        "BLOCK",
        "1000",
        "NOACK",
        "STREAMS",
        "captured",
        ">",
    ];
    Receiver::new(server, None, Some(command(&ask)))
}

fn listen(server: &Server) -> Receiver {
    Receiver::new(server, Some("SUBSCRIBE bench\r\n"), None)
}

impl Receiver {
    fn new(server: &Server, first: Option<&str>, ask: Option<String>) -> Self {
        let mut socket = UnixStream::connect(server.socket()).expect("the server runs");
        socket.set_read_timeout(Some(Duration::from_millis(1500))).expect("a time-out can be set");
        if let Some(first) = first {
            socket.write_all(first.as_bytes()).expect("the server takes a subscription");
        }
        Self { reader: BufReader::with_capacity(1 << 18, socket), ask }
    }

    /// Calls `take` with the due time of each message until it is told to stop.
    fn run(mut self, stop: &AtomicBool, mut take: impl FnMut(u64)) {
        let mut line = Vec::new();
        // Every bulk string that is as long as a payload is one; nothing else here is.
        let header = format!("${}\r\n", Cell::PLAIN.bytes).into_bytes();
        let mut payload = vec![0; Cell::PLAIN.bytes + 2];
        while !stop.load(Ordering::Relaxed) {
            if let Some(ask) = &self.ask {
                self.reader.get_mut().write_all(ask.as_bytes()).expect("the server takes a command");
                // One answer: nothing, or the entries of one stream.
                if self.line(&mut line) != Some(b"*1\r\n".as_slice()) {
                    continue;
                }
                for _ in 0..3 {
                    self.line(&mut line);
                }
                let entries = self.line(&mut line).and_then(count).expect("a number of entries");
                for _ in 0..entries {
                    self.payload(&header, &mut line, &mut payload, &mut take);
                }
            } else {
                self.payload(&header, &mut line, &mut payload, &mut take);
            }
        }
    }

    /// Reads up to and with the next payload; nothing where none comes.
    fn payload(&mut self, header: &[u8], line: &mut Vec<u8>, payload: &mut [u8], take: &mut impl FnMut(u64)) {
        loop {
            match self.line(line) {
                None => return,
                Some(text) if text == header => break,
                Some(_) => {}
            }
        }
        self.reader.read_exact(payload).expect("a payload comes whole");
        let digits = std::str::from_utf8(&payload[..DIGITS]).expect("digits");
        take(digits.parse().expect("a number"));
    }

    /// A line; none where nothing comes for a while.
    fn line<'l>(&mut self, line: &'l mut Vec<u8>) -> Option<&'l [u8]> {
        line.clear();
        match self.reader.read_until(b'\n', line) {
            Ok(size) if size > 0 => Some(line),
            _ => None,
        }
    }
}

fn count(line: &[u8]) -> Option<usize> {
    std::str::from_utf8(line.get(1..)?).ok()?.trim_end().parse().ok()
}

/// Sends at a rate for a while; returns how long each message took.
fn measure(
    server: &Server,
    words: &[String],
    receiver: Receiver,
    rate: u64,
    each: Duration,
) -> Histogram<u64> {
    let head: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    let head = format!("*{}\r\n{head}${}\r\n", words.len() + 1, Cell::PLAIN.bytes);
    let fill = "x".repeat(Cell::PLAIN.bytes - DIGITS);
    let step = 1_000_000_000 / rate;
    let message = |number: u64| {
        let due = number * step;
        (due < nanos(each + WARM_UP)).then(|| format!("{head}{due:0DIGITS$}{fill}\r\n"))
    };
    receive(server, receiver, |socket, begun| send_each(socket, rate, begun, &message))
}

/// How long each message took from when it was due, in what `send` sends.
fn receive(server: &Server, receiver: Receiver, send: impl FnOnce(UnixStream, Instant)) -> Histogram<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let warm = nanos(WARM_UP);
    let receiving = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            // One microsecond to a minute, three digits.
            let mut latencies =
                Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3).expect("right bounds");
            receiver.run(&stop, |due| {
                if due >= warm {
                    latencies.saturating_record(nanos(begun.elapsed()).saturating_sub(due));
                }
            });
            latencies
        }
    });
    let socket = UnixStream::connect(server.socket()).expect("the server runs");
    send(socket, begun);
    // What is under way arrives.
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    receiving.join().expect("the receiver does not fail")
}

/// Sends each command when it is due, until there is none.
fn send_each(mut socket: UnixStream, rate: u64, begun: Instant, commands: &dyn Fn(u64) -> Option<String>) {
    let mut replies = socket.try_clone().expect("a second handle");
    let reading = std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while replies.read(&mut buffer).is_ok_and(|size| size > 0) {}
    });
    let step = 1_000_000_000 / rate;
    let (mut number, mut out, mut over) = (0, String::new(), false);
    while !over {
        out.clear();
        let now = nanos(begun.elapsed());
        while number * step <= now {
            let Some(command) = commands(number) else {
                over = true;
                break;
            };
            out += &command;
            number += 1;
        }
        socket.write_all(out.as_bytes()).expect("the server takes commands");
        let now = nanos(begun.elapsed());
        std::thread::sleep(Duration::from_nanos((number * step).saturating_sub(now)));
    }
    socket.shutdown(std::net::Shutdown::Both).expect("it is connected");
    reading.join().expect("it does not fail");
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a bench does not run for centuries")
}
