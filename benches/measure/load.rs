//! The load generator: pipelined commands over plain sockets, held back to what is being dealt with.
//!
//! ```text
//! publishers ──▶ server ──▶ ideal client, daemon or peer ──▶ server
//!     └── wait while sent − done > window ────────────────────┘
//! ```
//!
//! What is done is read from the server's own counts of commands, which count those of scripts too and cost
//! the same for each worker.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cell::Cell;
use crate::support::Server;

const PUBLISHERS: usize = 2;

/// Commands in one write, and how many bytes they may be.
const PIPELINE: usize = 64;
const PIPELINE_BYTES: usize = 256 * 1024;

/// How often the publishers' lead is looked at: some window / 12 at full speed.
const TICK: Duration = Duration::from_millis(5);

/// The stream that [`Load::of_entries`] adds to.
pub(crate) const ADDED: &str = "added";

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// What holds publishers back.
#[derive(Debug, Clone, Copy)]
enum Held {
    /// This number more than are dealt with.
    ToWindow(u64),
    /// This number a second.
    ToRate(u64),
}

impl Load {
    /// Publishes, held back to what becomes entries of `destination`.
    pub(crate) fn of_messages(source: &Server, destination: &Server, cell: Cell) -> Self {
        let payload = "x".repeat(cell.bytes);
        let commands = (0..cell.channels).map(|n| command(&["PUBLISH", &cell.channel(n), &payload]));
        Self::start(source, destination, "xadd", Held::ToWindow(cell.window()), &commands.collect::<Vec<_>>())
    }

    /// Adds entries to a stream, held back to what is published of them.
    pub(crate) fn of_entries(server: &Server, cell: Cell) -> Self {
        let keep = (4 * cell.window()).to_string();
        let payload = "x".repeat(cell.bytes);
        let add = command(&["XADD", ADDED, "MAXLEN", "~", &keep, "*", "payload", &payload]);
        Self::start(server, server, "publish", Held::ToWindow(cell.window()), &[add])
    }

    /// Publishes this number of messages a second.
    pub(crate) fn of_messages_at(server: &Server, rate: u64) -> Self {
        let publish = command(&["PUBLISH", &Cell::PLAIN.channel(0), &"x".repeat(Cell::PLAIN.bytes)]);
        Self::start(server, server, "publish", Held::ToRate(rate), &[publish])
    }

    /// Writes that nobody listens for, this number a second: as fast as a server takes them, its buffer for the tap
    /// would be what is measured.
    pub(crate) fn of_writes(server: &Server, rate: u64) -> Self {
        let set = command(&["SET", "unrelated", &"x".repeat(Cell::PLAIN.bytes)]);
        Self::start(server, server, "set", Held::ToRate(rate), &[set])
    }

    fn start(
        server: &Server,
        worked_on: &Server,
        counted: &'static str,
        held: Held,
        commands: &[String],
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let publishers = PUBLISHERS as u64;
        let begun = Instant::now();
        let (window, allows) = match held {
            Held::ToWindow(window) => (window, None),
            // Twice what is sent between two looks at the clock.
            Held::ToRate(rate) => (rate / 100, Some(rate)),
        };
        let allowed = Arc::new(AtomicU64::new(window / publishers));
        let mut threads = Vec::new();
        for number in 0..PUBLISHERS {
            let socket = UnixStream::connect(server.socket()).expect("the server runs");
            let bursts = Bursts::new(commands, number * commands.len() / PUBLISHERS, window);
            let (stop, allowed) = (Arc::clone(&stop), Arc::clone(&allowed));
            threads.push(std::thread::spawn(move || bursts.send(socket, &stop, &allowed)));
        }
        let mut connection = worked_on.connection();
        let (stopped, counts) = (Arc::clone(&stop), Arc::clone(&done));
        threads.push(std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let count = calls(&mut connection, counted);
                counts.store(count, Ordering::Relaxed);
                let most = match allows {
                    None => count + window,
                    Some(rate) => {
                        rate * u64::try_from(begun.elapsed().as_millis()).expect("some time") / 1_000
                    }
                };
                allowed.store(most / publishers, Ordering::Relaxed);
                std::thread::sleep(TICK);
            }
        }));
        Self { stop, done, threads }
    }

    /// How often the server has done what the load waits for.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until it has done it that often.
    pub(crate) fn wait_until(&self, count: u64) {
        let mut last = (self.done(), Instant::now());
        while self.done() < count {
            std::thread::sleep(TICK);
            if self.done() > last.0 {
                last = (self.done(), Instant::now());
            }
            assert!(last.1.elapsed() < Duration::from_secs(60), "nothing goes on any more, at {}", last.0);
        }
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("publishers do not fail");
        }
    }
}

/// How often a server has carried out a command, by whomever.
pub(crate) fn calls(connection: &mut redis::Connection, name: &str) -> u64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(connection).expect("the server answers");
    let prefix = format!("cmdstat_{name}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&prefix));
    line.map_or(0, |rest| rest.split(',').next().and_then(|n| n.parse().ok()).expect("a number"))
}

pub(crate) fn command(words: &[&str]) -> String {
    let arguments: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{arguments}", words.len())
}

/// Commands of equal length in a ring, some in one write.
struct Bursts {
    text: String,
    each: usize,
    commands: usize,
    burst: usize,
    next: usize,
}

impl Bursts {
    fn new(commands: &[String], first: usize, window: u64) -> Self {
        let each = commands[0].len();
        assert!(commands.iter().all(|command| command.len() == each), "commands are equally long");
        let fits = usize::try_from(window / 8).unwrap_or(PIPELINE).min(PIPELINE_BYTES / each);
        let burst = PIPELINE.min(fits).max(1);
        let text = commands.iter().cycle().take(commands.len() + burst).cloned().collect();
        Self { text, each, commands: commands.len(), burst, next: first % commands.len() }
    }

    /// Sends bursts as far as it is allowed to, each after the answer to the one before.
    fn send(mut self, mut socket: UnixStream, stop: &AtomicBool, allowed: &AtomicU64) {
        let mut replies = [0; 4096];
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            if sent + self.burst as u64 > allowed.load(Ordering::Relaxed) {
                std::thread::sleep(TICK / 5);
                continue;
            }
            let begin = self.next * self.each;
            let burst = &self.text.as_bytes()[begin..begin + self.burst * self.each];
            socket.write_all(burst).expect("the server takes commands");
            self.next = (self.next + self.burst) % self.commands;
            let (mut answered, mut status) = (0, true);
            while answered < self.burst {
                let size = socket.read(&mut replies).expect("the server answers");
                assert!(size > 0, "the server closed a publisher's connection");
                assert!(!(status && replies[0] == b'-'), "the server refuses a command");
                // An id is two lines: its length, and itself.
                for byte in &replies[..size] {
                    match byte {
                        b'$' => status = false,
                        b'\n' if status => answered += 1,
                        b'\n' => status = true,
                        _ => {}
                    }
                }
            }
            sent += self.burst as u64;
        }
    }
}
