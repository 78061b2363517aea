//! Who knows the exact order: publishers whose every message is one script that publishes it and
//! appends it to a list, in one atomic step of the source.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::Client;

use super::server::Server;
use super::stream::{last_entry, wait_for_last_after};

/// The list that holds what was published.
const LIST: &str = "oracle:published";

/// What is published after everything else.
pub(crate) const LAST: &[u8] = b"the last message";

/// Messages in one write; large enough to press, small enough that publishers interleave.
const PIPELINE: usize = 32;

/// Channel and payload are stored together; no channel of the tests holds a zero byte.
const SCRIPT: &str = "redis.call('PUBLISH', ARGV[1], ARGV[2])
redis.call('RPUSH', KEYS[1], ARGV[1] .. '\\0' .. ARGV[2])
return 1";

/// One message, as the source took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) channel: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// What payloads look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payloads {
    /// Many identical, some empty, some binary: for tests of exact equality.
    Mixed,
    /// Each one different, binary too: for tests that must say *which* message is missing.
    Unique,
    /// JSON objects, each one different.
    Json,
    /// Text of 500 bytes, each one different, as [`numbered`] makes it: to be found again in a file.
    Numbered,
}

/// What each payload of [`Payloads::Numbered`] begins with.
pub(crate) const NUMBERED: &str = "message number ";

/// The `n`th payload of a publisher with [`Payloads::Numbered`].
pub(crate) fn numbered(publisher: usize, n: usize) -> Vec<u8> {
    format!("{:.<500}", format!("{NUMBERED}{publisher}/{n} ")).into_bytes()
}

/// What is to be published.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) publishers: usize,
    /// Messages of all publishers together.
    pub(crate) messages: usize,
    pub(crate) channels: Vec<Vec<u8>>,
    pub(crate) payloads: Payloads,
    /// Messages a second of all publishers together; none is as fast as the source takes them.
    pub(crate) rate: Option<usize>,
    /// Number of the first publisher: unique payloads carry it.
    pub(crate) first_publisher: usize,
}

impl Load {
    /// As fast as the source takes them, with mixed payloads.
    pub(crate) fn new(publishers: usize, messages: usize, channels: &[&str]) -> Self {
        let channels = channels.iter().map(|channel| channel.as_bytes().to_vec()).collect();
        Self { publishers, messages, channels, payloads: Payloads::Mixed, rate: None, first_publisher: 0 }
    }

    #[must_use]
    pub(crate) fn payloads(mut self, payloads: Payloads) -> Self {
        self.payloads = payloads;
        self
    }

    /// Counts publishers from another number on, so that a second load repeats no unique payload.
    #[must_use]
    pub(crate) fn first_publisher(mut self, number: usize) -> Self {
        self.first_publisher = number;
        self
    }

    /// At most `rate` messages a second.
    #[must_use]
    pub(crate) fn rate(mut self, rate: usize) -> Self {
        self.rate = Some(rate);
        self
    }
}

/// How long the list's length may take to be read: the source may be frozen on purpose.
const COUNT_DEADLINE: Duration = Duration::from_millis(100);

/// The list on one source.
#[derive(Debug, Clone)]
pub(crate) struct Oracle {
    client: Client,
}

/// Publishers at work.
#[derive(Debug)]
pub(crate) struct Loading {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    publishers: Vec<JoinHandle<()>>,
}

impl Oracle {
    /// The oracle of a source; the list begins where it is.
    pub(crate) fn new(source: &Server) -> Self {
        Self { client: source.client() }
    }

    /// Publishes everything and returns when the source has taken it.
    pub(crate) fn publish(&self, load: &Load) {
        self.start(load).join();
    }

    /// Publishes one message.
    pub(crate) fn publish_one(&self, channel: &[u8], payload: &[u8]) {
        let mut connection = self.client.get_connection().expect("the source runs");
        redis::cmd("EVAL")
            .arg(SCRIPT)
            .arg(1)
            .arg(LIST)
            .arg(channel)
            .arg(payload)
            .exec(&mut connection)
            .expect("the source takes a message");
    }

    /// Publishes one more on a channel, and waits until it is in its stream. The source's order is total: by then
    /// everything before it has been dealt with.
    #[track_caller]
    pub(crate) fn publish_last(&self, channel: &str, destination: &Server, stream: &str, within: Duration) {
        // A destination that does not answer yet has nothing to be told apart from.
        let before = last_entry(destination, stream).ok().flatten().map(|(id, _)| id);
        self.publish_one(channel.as_bytes(), LAST);
        wait_for_last_after(destination, stream, LAST, before.as_deref(), within);
    }

    /// Starts publishing, in threads.
    pub(crate) fn start(&self, load: &Load) -> Loading {
        assert!(load.publishers > 0 && !load.channels.is_empty(), "a load publishes something");
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicUsize::new(0));
        let publishers = (0..load.publishers)
            .map(|number| {
                let share =
                    load.messages / load.publishers + usize::from(number < load.messages % load.publishers);
                let publisher = Publisher {
                    number: load.first_publisher + number,
                    share,
                    load: load.clone(),
                    stop: Arc::clone(&stop),
                    sent: Arc::clone(&sent),
                };
                let client = self.client.clone();
                std::thread::spawn(move || publisher.run(&client))
            })
            .collect();
        Loading { stop, sent, publishers }
    }

    /// Number of messages published so far; `None` where the source does not answer at once.
    pub(crate) fn count(&self) -> Option<usize> {
        let mut connection = self.client.get_connection_with_timeout(COUNT_DEADLINE).ok()?;
        connection.set_read_timeout(Some(COUNT_DEADLINE)).ok()?;
        redis::cmd("LLEN").arg(LIST).query(&mut connection).ok()
    }

    /// Everything that was published, in the source's order.
    pub(crate) fn sequence(&self) -> Vec<Published> {
        const CHUNK: isize = 10_000;
        let mut connection = self.client.get_connection().expect("the source runs");
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            let chunk: Vec<Vec<u8>> = redis::cmd("LRANGE")
                .arg(LIST)
                .arg(from)
                .arg(from + CHUNK - 1)
                .query(&mut connection)
                .expect("the oracle's list can be read");
            if chunk.is_empty() {
                return all;
            }
            from += CHUNK;
            all.extend(chunk.into_iter().map(|item| {
                let zero = item.iter().position(|byte| *byte == 0).expect("channel, zero, payload");
                Published { channel: item[..zero].to_vec(), payload: item[zero + 1..].to_vec() }
            }));
        }
    }

    /// What was published on channels that `wanted` accepts, in the source's order.
    pub(crate) fn sequence_of(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Published> {
        let mut all = self.sequence();
        all.retain(|message| wanted(&message.channel));
        all
    }
}

impl Loading {
    /// Messages that the source has taken so far.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.publishers.iter().all(JoinHandle::is_finished)
    }

    /// Waits until everything has been published.
    pub(crate) fn join(mut self) {
        for publisher in self.publishers.drain(..) {
            publisher.join().expect("a publisher does not fail");
        }
    }

    /// Waits until every publisher has failed, because the source is gone. What it took is in its list.
    pub(crate) fn fail(mut self) {
        for publisher in self.publishers.drain(..) {
            assert!(publisher.join().is_err(), "a publisher did not notice that the source is gone");
        }
    }

    /// Ends the load early, and returns when what was under way has been taken.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        // A test that fails must not leave publishers behind.
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Publisher {
    number: usize,
    share: usize,
    load: Load,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
}

impl Publisher {
    fn run(self, client: &Client) {
        let mut connection = client.get_connection().expect("the source runs");
        let hash: String = redis::cmd("SCRIPT")
            .arg("LOAD")
            .arg(SCRIPT)
            .query(&mut connection)
            .expect("the source takes a script");
        let mut random = fastrand::Rng::with_seed(self.number as u64);
        let begun = Instant::now();
        let mut done = 0;
        while done < self.share && !self.stop.load(Ordering::Relaxed) {
            let batch = PIPELINE.min(self.share - done);
            let mut pipeline = redis::Pipeline::with_capacity(batch);
            for n in done..done + batch {
                let channel = &self.load.channels[random.usize(..self.load.channels.len())];
                let payload = self.load.payloads.make(self.number, n, &mut random);
                pipeline.cmd("EVALSHA").arg(&hash).arg(1).arg(LIST).arg(channel).arg(payload).ignore();
            }
            pipeline.exec(&mut connection).expect("the source takes messages");
            done += batch;
            self.sent.fetch_add(batch, Ordering::Relaxed);
            if let Some(rate) = self.load.rate {
                let seconds = done as f64 * self.load.publishers as f64 / rate as f64;
                let ahead = Duration::from_secs_f64(seconds).saturating_sub(begun.elapsed());
                // Pacing, not waiting for something: park_timeout returns early at worst.
                std::thread::park_timeout(ahead);
            }
        }
    }
}

impl Payloads {
    fn make(self, publisher: usize, n: usize, random: &mut fastrand::Rng) -> Vec<u8> {
        match self {
            Self::Mixed => mixed(publisher, n, random),
            Self::Unique => {
                let mut payload = format!("{publisher}/{n}\r\n").into_bytes();
                payload.extend(noise(100, random));
                payload
            }
            Self::Json => format!("{{\"publisher\":{publisher},\"n\":{n},\"text\":\"a b\"}}").into_bytes(),
            Self::Numbered => numbered(publisher, n),
        }
    }
}

fn mixed(publisher: usize, n: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    match n % 8 {
        0..3 => b"the same message again".to_vec(),
        3 => Vec::new(),
        4 => b"$-1\r\n*2\r\n\0\r\n".to_vec(),
        5 => vec![0xff, 0xfe, 0x00, 0x80, b'\n', 0xc3],
        6 => format!("{publisher}/{n}").into_bytes(),
        _ => noise(300, random),
    }
}

/// Fewer than `limit` bytes of any value.
fn noise(limit: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let size = random.usize(..limit);
    std::iter::repeat_with(|| random.u8(..)).take(size).collect()
}
