//! The ideal client of the way back: what publishing a stream's entries would cost that had nothing to decide.
//!
//! Its script does what nobody can leave out who publishes each entry exactly once: it compares a cursor,
//! publishes a batch, and moves the cursor. It takes no template, counts nobody, and has no dead letters.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::cell::Cell;
use crate::ideal::Threads;
use crate::load::{ADDED, command};
use crate::support::Server;

const SCRIPT: &str = include_str!("ideal_publish.lua");
/// Messages in one call, and how many bytes they may be.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 1 << 20;
/// Calls on the way: what several reads bring, so that reading does not wait for publishing.
const IN_FLIGHT: usize = 16;

pub(crate) struct IdealBroadcast {
    stop: Arc<AtomicBool>,
    threads: Threads,
}

impl IdealBroadcast {
    /// Reads the stream from its beginning, and publishes what comes.
    pub(crate) fn start(server: &Server, cell: Cell) -> Self {
        let hash: String = server.ask(&["SCRIPT", "LOAD", SCRIPT]);
        let writer = UnixStream::connect(server.socket()).expect("the server runs");
        let replies = BufReader::new(writer.try_clone().expect("a second handle"));
        let stream = UnixStream::connect(server.socket()).expect("the server runs");
        let stop = Arc::new(AtomicBool::new(false));
        let (slots, answered) = sync_channel(IN_FLIGHT);
        let batch = BATCH.min(BATCH_BYTES / cell.bytes);
        let mut threads = Threads::new();
        let stopped = Arc::clone(&stop);
        threads.start(move || publish(stream, writer, &hash, batch, &slots, &stopped));
        threads.start(move || read_replies(replies, &answered));
        Self { stop, threads }
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        self.threads.cpu_time()
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.join();
    }
}

fn publish(
    mut stream: UnixStream,
    mut writer: UnixStream,
    hash: &str,
    batch: usize,
    slots: &SyncSender<()>,
    stop: &AtomicBool,
) {
    let mut entries = BufReader::with_capacity(1 << 20, stream.try_clone().expect("a second handle"));
    let (mut read, mut cursor) = ("0".to_owned(), "0".to_owned());
    let count = (4 * batch).to_string();
    let (mut messages, mut last, mut held) = (Vec::new(), String::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let ask = command(&["XREAD", "COUNT", &count, "BLOCK", "100", "STREAMS", ADDED, &read]);
        stream.write_all(ask.as_bytes()).expect("the server takes a command");
        // `*1 *2 $5 added *n`, or `*-1` where nothing came.
        if number(&mut entries) == Some(1) {
            for _ in 0..3 {
                line(&mut entries);
            }
            for _ in 0..number(&mut entries).expect("entries") {
                // `*2 $… id *2 $7 payload $… payload`
                line(&mut entries);
                line(&mut entries);
                last = line(&mut entries);
                for _ in 0..3 {
                    line(&mut entries);
                }
                let size = number(&mut entries).expect("a payload");
                write!(messages, "${size}\r\n").expect("a Vec takes everything");
                let begin = messages.len();
                messages.resize(begin + size + 2, 0);
                entries.read_exact(&mut messages[begin..]).expect("the payload comes");
                held += 1;
                if held == batch {
                    let mut call = Vec::with_capacity(messages.len() + 256);
                    write!(call, "*{}\r\n", 6 + held).expect("a Vec takes everything");
                    for word in ["EVALSHA", hash, "1", "cursor", &cursor, &last] {
                        write!(call, "${}\r\n{word}\r\n", word.len()).expect("a Vec takes everything");
                    }
                    call.append(&mut messages);
                    if slots.send(()).is_err() {
                        return;
                    }
                    writer.write_all(&call).expect("the server takes a call");
                    cursor.clone_from(&last);
                    held = 0;
                }
            }
            read.clone_from(&last);
        }
    }
    writer.shutdown(std::net::Shutdown::Both).expect("it is connected");
}

/// A line without its end.
pub(crate) fn line(from: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("the server answers");
    line.truncate(line.trim_end().len());
    line
}

/// The number in a header; none where it is no such thing.
pub(crate) fn number(from: &mut BufReader<UnixStream>) -> Option<usize> {
    line(from)[1..].parse().ok()
}

fn read_replies(mut replies: BufReader<UnixStream>, slots: &Receiver<()>) {
    let mut reply = String::new();
    loop {
        reply.clear();
        if replies.read_line(&mut reply).unwrap_or(0) == 0 {
            return;
        }
        assert_eq!(reply.trim_end(), ":1", "the script refuses a batch of the ideal client");
        if slots.recv().is_err() {
            return;
        }
    }
}

/// Somebody who listens, so that publishing has the same work to do each time; it reads and forgets.
pub(crate) struct Listener {
    socket: UnixStream,
    thread: std::thread::JoinHandle<()>,
}

impl Listener {
    pub(crate) fn start(server: &Server) -> Self {
        let mut socket = UnixStream::connect(server.socket()).expect("the server runs");
        socket.write_all(b"SUBSCRIBE bench\r\n").expect("the server takes a subscription");
        let mut reader = socket.try_clone().expect("a second handle");
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            while reader.read(&mut buffer).is_ok_and(|size| size > 0) {}
        });
        Self { socket, thread }
    }

    pub(crate) fn stop(self) {
        self.socket.shutdown(std::net::Shutdown::Both).expect("it is connected");
        self.thread.join().expect("it does not fail");
    }
}
