//! The ideal client: what a bridge would cost that had nothing to decide.
//!
//! It knows beforehand how long every message is, so it finds the frames by counting bytes, copies channel and
//! payload into calls, and keeps several in flight: calls of the append script, exactly as the daemon makes
//! them, or plain pipelined XADDs. It checks nothing, remembers nothing and survives nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cell::Cell;
use crate::support::{Server, eventually};

/// Messages in one call, and how many bytes they may be.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 1 << 20;

/// Calls on the way; with one at a time the server waits for the client between them.
const IN_FLIGHT: usize = 4;

const SCRIPT: &str = include_str!("../../src/capture/append/append.lua");

/// An epoch as the script reads it; the ideal client lives in one.
const EPOCH: &str = "001764000000000-0000000000000001";

/// How it appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the daemon's own script.
    Script,
    /// By one XADD a message, pipelined.
    Xadd,
    /// By the script, from the server's replication stream in place of a subscription.
    Tap,
}

/// How each message begins in the replication stream; nothing else there does.
const PUBLISH: &[u8] = b"*3\r\n$7\r\nPUBLISH\r\n";

/// What a replica says of itself, before it may ask for the stream.
const HANDSHAKE: [&str; 3] = [
    "REPLCONF listening-port 0\r\n",
    "REPLCONF capa eof capa psync2\r\n",
    "REPLCONF rdb-filter-only \"\"\r\n",
];

/// Between acknowledgements; a server sends nothing before the first that it takes.
const ACKNOWLEDGE: Duration = Duration::from_millis(100);

pub(crate) struct Ideal {
    subscription: UnixStream,
    threads: Threads,
}

impl Ideal {
    /// Subscribes, and appends what comes.
    pub(crate) fn start(server: &Server, cell: Cell, way: Way) -> Self {
        let hash: String = server.ask(&["SCRIPT", "LOAD", SCRIPT]);
        let subscription = UnixStream::connect(server.socket()).expect("the server runs");
        if way == Way::Tap {
            introduce(&subscription);
        } else {
            subscribe(&subscription, cell);
        }
        let writer = UnixStream::connect(server.socket()).expect("the server runs");
        let reader = BufReader::new(writer.try_clone().expect("a second handle"));
        let (slots, answered) = sync_channel(IN_FLIGHT);
        let appender = Appender::new(&hash, cell, way);
        let batch = appender.batch;
        let mut threads = Threads::new();
        threads.start({
            let subscription = subscription.try_clone().expect("a second handle");
            move || match way {
                Way::Tap => appender.run_tap(subscription, writer, &slots),
                Way::Script | Way::Xadd => appender.run(subscription, writer, &slots),
            }
        });
        threads.start(move || match way {
            Way::Script | Way::Tap => read_script_replies(reader, &answered),
            Way::Xadd => read_ids(reader, batch, &answered),
        });
        if way == Way::Tap {
            threads.start({
                let tap = subscription.try_clone().expect("a second handle");
                move || acknowledge(tap)
            });
            eventually("the server takes it for a replica", Duration::from_secs(20), || {
                let info: String = server.ask(&["INFO", "replication"]);
                if info.contains("state=online") { Ok(()) } else { Err(info) }
            });
        }
        Self { subscription, threads }
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        self.threads.cpu_time()
    }

    pub(crate) fn stop(self) {
        self.subscription.shutdown(std::net::Shutdown::Both).expect("it is connected");
        self.threads.join();
    }
}

/// Introduces itself as a replica. The answer and the snapshot, which is empty, hold no message and are skipped
/// with everything else that is none.
fn introduce(mut tap: &UnixStream) {
    for command in HANDSHAKE {
        tap.write_all(command.as_bytes()).expect("the server takes a replica");
        let mut answer = [0; 5];
        tap.read_exact(&mut answer).expect("the server answers");
        assert_eq!(&answer, b"+OK\r\n");
    }
    tap.write_all(b"PSYNC ? -1\r\n").expect("the server takes a replica");
}

/// Says that it lives until its connection is shut.
fn acknowledge(mut tap: UnixStream) {
    while tap.write_all(b"REPLCONF ACK 0\r\n").is_ok() {
        std::thread::sleep(ACKNOWLEDGE);
    }
}

fn subscribe(mut subscription: &UnixStream, cell: Cell) {
    let (subscribe, kind, name) = if cell.channels == 1 {
        ("SUBSCRIBE", "subscribe", "bench")
    } else {
        ("PSUBSCRIBE", "psubscribe", "bench.*")
    };
    write!(subscription, "{subscribe} {name}\r\n").expect("the server takes a subscription");
    let confirmation = format!("*3\r\n${}\r\n{kind}\r\n${}\r\n{name}\r\n:1\r\n", kind.len(), name.len());
    let mut confirmed = vec![0; confirmation.len()];
    subscription.read_exact(&mut confirmed).expect("the server confirms");
    assert_eq!(confirmed, confirmation.as_bytes());
}

/// An ideal client's threads: publishers are threads of the same process.
pub(crate) struct Threads {
    handles: Vec<JoinHandle<()>>,
    ids: Vec<u32>,
}

impl Threads {
    pub(crate) fn new() -> Self {
        Self { handles: Vec::new(), ids: Vec::new() }
    }

    pub(crate) fn start(&mut self, work: impl FnOnce() + Send + 'static) {
        let (tell, id) = sync_channel(1);
        self.handles.push(std::thread::spawn(move || {
            tell.send(own_id()).expect("the bench waits");
            work();
        }));
        self.ids.push(id.recv().expect("it tells its number"));
    }

    /// Processor time of them all.
    pub(crate) fn cpu_time(&self) -> Duration {
        let ticks: u64 = self.ids.iter().map(|id| ticks_of(*id)).sum();
        Duration::from_millis(ticks * 10)
    }

    pub(crate) fn join(self) {
        for thread in self.handles {
            thread.join().expect("the ideal client does not fail");
        }
    }
}

/// A thread's processor time, in hundredths of a second.
fn ticks_of(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).expect("the thread runs");
    let fields = stat.rsplit_once(')').expect("a name in brackets").1;
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// The thread's own number in /proc.
fn own_id() -> u32 {
    let link = std::fs::read_link("/proc/thread-self").expect("Linux names the thread");
    link.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok()).expect("a number")
}

struct Appender {
    hash: String,
    cell: Cell,
    way: Way,
    keep: String,
    /// Messages in one call.
    batch: usize,
    /// Bytes of one message on the wire, and where `$…channel` begins and `$…payload` begins in it.
    frame: usize,
    channel: Range<usize>,
    payload: Range<usize>,
    appended: u64,
    /// Which of the call's streams each channel has in this call.
    places: Vec<usize>,
}

impl Appender {
    fn new(hash: &str, cell: Cell, way: Way) -> Self {
        let head = if way == Way::Tap {
            PUBLISH.len()
        } else if cell.channels == 1 {
            "*3\r\n$7\r\nmessage\r\n".len()
        } else {
            "*4\r\n$8\r\npmessage\r\n$7\r\nbench.*\r\n".len()
        };
        let name = cell.channel(0);
        let channel = format!("${}\r\n{name}\r\n", name.len()).len();
        let payload = format!("${}\r\n\r\n", cell.bytes).len() + cell.bytes;
        Self {
            hash: hash.to_owned(),
            cell,
            way,
            keep: cell.keep().to_string(),
            batch: BATCH.min(BATCH_BYTES / cell.bytes),
            frame: head + channel + payload,
            channel: head..head + channel,
            payload: head + channel..head + channel + payload,
            appended: 0,
            places: vec![0; cell.channels],
        }
    }

    fn run(mut self, mut subscription: UnixStream, mut writer: UnixStream, slots: &SyncSender<()>) {
        let whole = self.frame * self.batch;
        let mut buffer = vec![0; (2 * whole).max(256 * 1024)];
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
            while filled - used >= whole {
                call.clear();
                let frames = &buffer[used..used + whole];
                match self.way {
                    Way::Script | Way::Tap => self.call(frames, &mut call),
                    Way::Xadd => self.xadds(frames, &mut call),
                }
                used += whole;
                if slots.send(()).is_err() {
                    return;
                }
                writer.write_all(&call).expect("the server takes a call");
            }
            buffer.copy_within(used..filled, 0);
            filled -= used;
        }
    }

    /// Looks for messages in everything that a replica is sent.
    fn run_tap(mut self, mut tap: UnixStream, mut writer: UnixStream, slots: &SyncSender<()>) {
        let whole = self.frame * self.batch;
        let mut buffer = vec![0; (4 * self.frame).max(256 * 1024)];
        let (mut frames, mut call, mut filled) = (Vec::with_capacity(whole), Vec::new(), 0);
        let finder = memchr::memmem::Finder::new(PUBLISH);
        loop {
            let size = tap.read(&mut buffer[filled..]).expect("the server sends its writes");
            if size == 0 {
                writer.shutdown(std::net::Shutdown::Both).expect("it is connected");
                return;
            }
            filled += size;
            let mut used = 0;
            loop {
                let Some(found) = finder.find(&buffer[used..filled]) else {
                    // A head may have come in part.
                    used = used.max(filled.saturating_sub(PUBLISH.len() - 1));
                    break;
                };
                used += found;
                if filled - used < self.frame {
                    break;
                }
                frames.extend_from_slice(&buffer[used..used + self.frame]);
                used += self.frame;
                if frames.len() == whole {
                    call.clear();
                    self.call(&frames, &mut call);
                    frames.clear();
                    if slots.send(()).is_err() {
                        return;
                    }
                    writer.write_all(&call).expect("the server takes a call");
                }
            }
            buffer.copy_within(used..filled, 0);
            filled -= used;
        }
    }

    /// The number in a channel's name.
    fn number(&self, frame: &[u8]) -> usize {
        if self.cell.channels == 1 {
            return 0;
        }
        let digits = &frame[self.channel.end - 7..self.channel.end - 2];
        digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
    }

    fn xadds(&self, frames: &[u8], out: &mut Vec<u8>) {
        for frame in frames.chunks_exact(self.frame) {
            let words: &[u8] = if self.cell.channels == 1 { b"*10\r\n" } else { b"*12\r\n" };
            out.extend_from_slice(words);
            out.extend_from_slice(b"$4\r\nXADD\r\n");
            self.stream(frame, out);
            write!(out, "$6\r\nMAXLEN\r\n$1\r\n~\r\n${}\r\n{}\r\n$1\r\n*\r\n", self.keep.len(), self.keep)
                .expect("a Vec takes everything");
            self.fields(frame, out);
        }
    }

    fn stream(&self, frame: &[u8], out: &mut Vec<u8>) {
        if self.cell.streams == 1 {
            out.extend_from_slice(b"$8\r\ncaptured\r\n");
        } else {
            out.extend_from_slice(b"$20\r\ncaptured:");
            out.extend_from_slice(&frame[self.channel.end - 13..self.channel.end]);
        }
    }

    fn fields(&self, frame: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"$7\r\nchannel\r\n");
        out.extend_from_slice(&frame[self.channel.clone()]);
        if self.cell.channels > 1 {
            out.extend_from_slice(b"$7\r\npattern\r\n$7\r\nbench.*\r\n");
        }
        out.extend_from_slice(b"$7\r\npayload\r\n");
        out.extend_from_slice(&frame[self.payload.clone()]);
    }

    /// One call of the append script, exactly as the daemon makes it.
    fn call(&mut self, frames: &[u8], out: &mut Vec<u8>) {
        let first = self.appended + 1;
        let prev = if first == 1 { "-".to_owned() } else { format!("{EPOCH}-{:020}", first - 1) };
        self.appended += self.batch as u64;
        let last = format!("{EPOCH}-{:020}", self.appended);
        let positions: String = (first..=self.appended).map(|ordinal| format!("00{ordinal:020}")).collect();
        let epochs = format!("{EPOCH} ");
        let arguments = if self.cell.channels == 1 { 4 } else { 6 };
        // The call's streams, and runs of items that go to the same.
        let (mut streams, mut runs, mut last_run) = (Vec::new(), String::new(), (0, 0));
        for frame in frames.chunks_exact(self.frame) {
            let number = if self.cell.streams == 1 { 0 } else { self.number(frame) };
            if streams.get(self.places[number]).map(|(known, _)| *known) != Some(number) {
                self.places[number] = streams.len();
                streams.push((number, frame));
            }
            let target = self.places[number] + 1;
            if last_run.1 != target && last_run.0 > 0 {
                runs += &format!("{:06}{:05}{arguments:05}", last_run.0, last_run.1);
                last_run.0 = 0;
            }
            last_run = (last_run.0 + 1, target);
        }
        runs += &format!("{:06}{:05}{arguments:05}", last_run.0, last_run.1);
        let templated = if self.cell.streams == 1 { "0" } else { "1" };
        let keys = (4 + streams.len()).to_string();
        let before =
            ["EVALSHA", &self.hash, &keys, "{i}:state", "{i}:gaps", "{i}:dead-letters", "{i}:streams"];
        let behind =
            ["1", &prev, &last, &epochs, "0", templated, &self.keep, "10000", "0", "0", &positions, &runs];
        let words = before.len() + streams.len() + behind.len();
        write!(out, "*{}\r\n", words + arguments * self.batch).expect("a Vec takes everything");
        words_into(out, &before);
        for (_, frame) in streams {
            self.stream(frame, out);
        }
        words_into(out, &behind);
        for frame in frames.chunks_exact(self.frame) {
            self.fields(frame, out);
        }
    }
}

/// Words as a command's arguments.
fn words_into(out: &mut Vec<u8>, words: &[&str]) {
    for word in words {
        write!(out, "${}\r\n{word}\r\n", word.len()).expect("a Vec takes everything");
    }
}

/// Two lines a reply: the id's length, and the id.
fn read_ids(mut replies: BufReader<UnixStream>, batch: usize, slots: &Receiver<()>) {
    let (mut lines, mut fresh) = (0, true);
    loop {
        let Ok(come) = replies.fill_buf() else { return };
        if come.is_empty() {
            return;
        }
        assert!(!(fresh && come[0] == b'-'), "{}", String::from_utf8_lossy(come));
        fresh = come.ends_with(b"\n");
        lines += come.iter().filter(|byte| **byte == b'\n').count();
        let size = come.len();
        replies.consume(size);
        while lines >= 2 * batch {
            lines -= 2 * batch;
            if slots.recv().is_err() {
                return;
            }
        }
    }
}

/// `*5`, `$2`, `OK`, `$53`, position, three counts: eight lines, or an error.
fn read_script_replies(mut replies: BufReader<UnixStream>, slots: &Receiver<()>) {
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
