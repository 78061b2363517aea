//! The ideal client: what a bridge would cost that had nothing to decide.
//!
//! It knows beforehand how long every message is, so it finds the frames by counting bytes, copies
//! channel and payload into the append script's call, and keeps several calls in flight. It checks
//! nothing, remembers nothing and survives nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::load::{CHANNEL, PAYLOAD_BYTES};
use crate::support::Server;

pub(crate) const STREAM: &str = "ideal";

/// Messages in one call.
const BATCH: usize = 128;

/// Calls on the way; with one at a time the server waits for the client between them.
const IN_FLIGHT: usize = 4;

const SCRIPT: &str = include_str!("../../src/capture/append.lua");

/// An epoch as the script reads it; the ideal client lives in one.
const EPOCH: &str = "001764000000000-0000000000000001";

pub(crate) struct Ideal {
    subscription: UnixStream,
    threads: Vec<JoinHandle<()>>,
    ids: Receiver<u32>,
    thread_ids: std::cell::OnceCell<Vec<u32>>,
}

impl Ideal {
    /// Subscribes, and appends what comes.
    pub(crate) fn start(server: &Server, keep_entries: u64) -> Self {
        let hash: String = server.ask(&["SCRIPT", "LOAD", SCRIPT]);
        let mut subscription = UnixStream::connect(server.socket()).expect("the server runs");
        write!(subscription, "SUBSCRIBE {CHANNEL}\r\n").expect("the server takes a subscription");
        let confirmation = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{CHANNEL}\r\n:1\r\n", CHANNEL.len());
        let mut confirmed = vec![0; confirmation.len()];
        subscription.read_exact(&mut confirmed).expect("the server confirms");
        assert_eq!(confirmed, confirmation.as_bytes());

        let writer = UnixStream::connect(server.socket()).expect("the server runs");
        let reader = BufReader::new(writer.try_clone().expect("a second handle"));
        let (slots, answered) = sync_channel(IN_FLIGHT);
        let (tell, ids) = sync_channel(2);
        let threads = vec![
            std::thread::spawn({
                let (subscription, tell) = (subscription.try_clone().expect("a second handle"), tell.clone());
                let appender = Appender::new(&hash, keep_entries);
                move || {
                    tell.send(own_id()).expect("the bench waits");
                    appender.run(subscription, writer, &slots);
                }
            }),
            std::thread::spawn(move || {
                tell.send(own_id()).expect("the bench waits");
                read_replies(reader, &answered);
            }),
        ];
        Self { subscription, threads, ids, thread_ids: std::cell::OnceCell::new() }
    }

    /// Processor time of its two threads; the publishers are threads of the same process.
    pub(crate) fn cpu_time(&self) -> Duration {
        let ids = self.thread_ids.get_or_init(|| self.ids.iter().take(2).collect());
        let ticks: u64 = ids
            .iter()
            .map(|id| std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).expect("the thread runs"))
            .flat_map(|stat| {
                let fields = stat.rsplit_once(')').expect("a name in brackets").1.to_owned();
                fields
                    .split_whitespace()
                    .skip(11)
                    .take(2)
                    .filter_map(|n| n.parse().ok())
                    .collect::<Vec<u64>>()
            })
            .sum();
        Duration::from_millis(ticks * 10)
    }

    pub(crate) fn stop(self) {
        self.subscription.shutdown(std::net::Shutdown::Both).expect("it is connected");
        for thread in self.threads {
            thread.join().expect("the ideal client does not fail");
        }
    }
}

/// The thread's own number in /proc.
fn own_id() -> u32 {
    let link = std::fs::read_link("/proc/thread-self").expect("Linux names the thread");
    link.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok()).expect("a number")
}

struct Appender {
    hash: String,
    keep_entries: u64,
    /// Bytes of one message on the wire, and where `$…channel` begins and `$…payload` begins in it.
    frame: usize,
    channel: std::ops::Range<usize>,
    payload: std::ops::Range<usize>,
    /// What every batch's call has in common: positions of its items and its one run.
    runs: String,
    appended: u64,
}

impl Appender {
    fn new(hash: &str, keep_entries: u64) -> Self {
        let head = "*3\r\n$7\r\nmessage\r\n".len();
        let channel = format!("${}\r\n{CHANNEL}\r\n", CHANNEL.len()).len();
        let payload = format!("${PAYLOAD_BYTES}\r\n\r\n").len() + PAYLOAD_BYTES;
        Self {
            hash: hash.to_owned(),
            keep_entries,
            frame: head + channel + payload,
            channel: head..head + channel,
            payload: head + channel..head + channel + payload,
            runs: format!("{BATCH:06}{:05}{:05}", 1, 4),
            appended: 0,
        }
    }

    fn run(mut self, mut subscription: UnixStream, mut writer: UnixStream, slots: &SyncSender<()>) {
        let mut buffer = vec![0; 256 * 1024];
        let mut filled = 0;
        let mut call = Vec::new();
        loop {
            let size = subscription.read(&mut buffer[filled..]).expect("the server sends messages");
            if size == 0 {
                // The bench has had enough. Nothing is read any more, and the replies' reader ends too.
                writer.shutdown(std::net::Shutdown::Both).expect("it is connected");
                return;
            }
            filled += size;
            let mut used = 0;
            while filled - used >= self.frame * BATCH {
                call.clear();
                self.call(&buffer[used..used + self.frame * BATCH], &mut call);
                used += self.frame * BATCH;
                if slots.send(()).is_err() {
                    return;
                }
                writer.write_all(&call).expect("the server takes a call");
            }
            buffer.copy_within(used..filled, 0);
            filled -= used;
        }
    }

    /// One call of the append script, exactly as the daemon makes it.
    fn call(&mut self, frames: &[u8], out: &mut Vec<u8>) {
        let first = self.appended + 1;
        let prev = if first == 1 { "-".to_owned() } else { format!("{EPOCH}-{:020}", first - 1) };
        self.appended += BATCH as u64;
        let last = format!("{EPOCH}-{:020}", self.appended);
        let positions: String = (first..=self.appended).map(|ordinal| format!("00{ordinal:020}")).collect();
        let keep = self.keep_entries.to_string();
        let epochs = format!("{EPOCH} ");
        let words = [
            "EVALSHA",
            &self.hash,
            "5",
            "{i}:state",
            "{i}:gaps",
            "{i}:dead-letters",
            "{i}:streams",
            STREAM,
            "1",
            &prev,
            &last,
            &epochs,
            "0",
            "0",
            &keep,
            "10000",
            "0",
            "0",
            &positions,
            &self.runs,
        ];
        write!(out, "*{}\r\n", words.len() + 4 * BATCH).expect("a Vec takes everything");
        for word in words {
            write!(out, "${}\r\n{word}\r\n", word.len()).expect("a Vec takes everything");
        }
        for frame in frames.chunks_exact(self.frame) {
            out.extend_from_slice(b"$7\r\nchannel\r\n");
            out.extend_from_slice(&frame[self.channel.clone()]);
            out.extend_from_slice(b"$7\r\npayload\r\n");
            out.extend_from_slice(&frame[self.payload.clone()]);
        }
    }
}

/// `*5`, `$2`, `OK`, `$53`, position, three counts: eight lines, or an error.
fn read_replies(mut replies: BufReader<UnixStream>, slots: &Receiver<()>) {
    let mut line = String::new();
    loop {
        for expected in ["*5", "$2", "OK", "$53"] {
            line.clear();
            if replies.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            assert_eq!(line.trim_end(), expected, "the script refuses a batch of the ideal client");
        }
        for _ in 0..4 {
            line.clear();
            if replies.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
        if slots.recv().is_err() {
            return;
        }
    }
}
