//! The load generator: pipelined PUBLISH over plain sockets, held back to what is being appended.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::Server;

pub(crate) const CHANNEL: &str = "bench";
pub(crate) const PAYLOAD_BYTES: usize = 128;

const PUBLISHERS: u64 = 2;

/// PUBLISHes in one write.
const PIPELINE: u64 = 64;

/// Messages on the way, published and not yet appended: many batches, so that nobody waits for work,
/// and far from every buffer limit of the server.
const WINDOW: u64 = 16_384;

/// How often the publishers' lead over the stream is looked at: some WINDOW / 10 at full speed.
const TICK: Duration = Duration::from_millis(5);

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    captured: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts publishing, held back to what reaches `stream`.
    pub(crate) fn start(server: &Server, stream: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let captured = Arc::new(AtomicU64::new(0));
        let allowed = Arc::new(AtomicU64::new(WINDOW / PUBLISHERS));
        let mut threads = Vec::new();
        for _ in 0..PUBLISHERS {
            let socket = UnixStream::connect(server.socket()).expect("the server runs");
            let (stop, allowed) = (Arc::clone(&stop), Arc::clone(&allowed));
            let done = Arc::new(AtomicU64::new(0));
            let one = command(&["PUBLISH", CHANNEL, &"x".repeat(PAYLOAD_BYTES)]);
            threads.push(std::thread::spawn(move || send(socket, &one, &stop, &allowed, &done)));
        }
        let watcher = Watcher { stop: Arc::clone(&stop), captured: Arc::clone(&captured), allowed };
        let connection = server.connection();
        threads.push(std::thread::spawn(move || watcher.run(connection, stream)));
        Self { stop, captured, threads }
    }

    /// Starts small writes that nobody listens for, as many as the server takes.
    #[allow(dead_code, reason = "each bench uses its own part")]
    pub(crate) fn of_writes(server: &Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let captured = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for _ in 0..PUBLISHERS {
            let socket = UnixStream::connect(server.socket()).expect("the server runs");
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&captured));
            let one = command(&["SET", "unrelated", &"x".repeat(PAYLOAD_BYTES)]);
            threads.push(std::thread::spawn(move || {
                send(socket, &one, &stop, &AtomicU64::new(u64::MAX), &done)
            }));
        }
        Self { stop, captured, threads }
    }

    /// Entries that the stream has ever taken, or writes that the server has.
    pub(crate) fn captured(&self) -> u64 {
        self.captured.load(Ordering::Relaxed)
    }

    /// Waits until the stream has taken that many.
    #[allow(dead_code, reason = "each bench uses its own part")]
    pub(crate) fn wait_until(&self, count: u64) {
        let mut last = (self.captured(), Instant::now());
        while self.captured() < count {
            std::thread::sleep(TICK);
            if self.captured() > last.0 {
                last = (self.captured(), Instant::now());
            }
            assert!(
                last.1.elapsed() < Duration::from_secs(30),
                "nothing is appended any more, at {}",
                last.0
            );
        }
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("publishers do not fail");
        }
    }
}

/// Sees how much has been appended, and lets the publishers go on.
struct Watcher {
    stop: Arc<AtomicBool>,
    captured: Arc<AtomicU64>,
    allowed: Arc<AtomicU64>,
}

impl Watcher {
    fn run(self, mut connection: redis::Connection, stream: &str) {
        while !self.stop.load(Ordering::Relaxed) {
            // Counts also what has been trimmed since; an error means that there is no stream yet.
            let info: redis::RedisResult<std::collections::HashMap<String, redis::Value>> =
                redis::cmd("XINFO").arg("STREAM").arg(stream).query(&mut connection);
            if let Ok(info) = info {
                let added = info.get("entries-added").expect("Redis 7.0 counts them").clone();
                let added: u64 = redis::from_redis_value(added).expect("a number");
                self.captured.store(added, Ordering::Relaxed);
                self.allowed.store((added + WINDOW) / PUBLISHERS, Ordering::Relaxed);
            }
            std::thread::sleep(TICK);
        }
    }
}

fn command(words: &[&str]) -> String {
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*3\r\n{words}")
}

/// Sends a command again and again, a burst at a time, and counts what the server has answered.
fn send(mut socket: UnixStream, one: &str, stop: &AtomicBool, allowed: &AtomicU64, done: &AtomicU64) {
    let burst = one.repeat(usize::try_from(PIPELINE).expect("it is small"));
    let mut replies = [0; 4096];
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        if sent + PIPELINE > allowed.load(Ordering::Relaxed) {
            std::thread::sleep(TICK / 5);
            continue;
        }
        socket.write_all(burst.as_bytes()).expect("the server takes commands");
        let mut answered = 0;
        while answered < PIPELINE {
            let size = socket.read(&mut replies).expect("the server answers");
            assert!(size > 0, "the server closed a publisher's connection");
            assert_ne!(replies[0], b'-', "the server refuses a command");
            answered += replies[..size].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        sent += PIPELINE;
        done.fetch_add(PIPELINE, Ordering::Relaxed);
    }
}
