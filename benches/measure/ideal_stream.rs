//! What the ideal clients of a stream share: reading its entries, and waiting for answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::ideal::Threads;
use crate::load::command;
use crate::support::Server;

/// Two threads: one reads a stream and sends calls, the other one takes the answers.
pub(crate) struct IdealStream {
    stop: Arc<AtomicBool>,
    threads: Threads,
}

/// What the first thread has.
pub(crate) struct Sender {
    stream: UnixStream,
    writer: UnixStream,
    slots: SyncSender<()>,
    stop: Arc<AtomicBool>,
}

impl IdealStream {
    /// `in_flight` calls are on the way at most, so that reading does not wait for answers.
    pub(crate) fn start(
        (events, destination): (&Server, &Server),
        in_flight: usize,
        send: impl FnOnce(Sender) + Send + 'static,
        take_answer: impl FnMut(&mut BufReader<UnixStream>, &str) + Send + 'static,
    ) -> Self {
        let stream = UnixStream::connect(events.socket()).expect("the server runs");
        let writer = UnixStream::connect(destination.socket()).expect("the server runs");
        let replies = BufReader::new(writer.try_clone().expect("a second handle"));
        let stop = Arc::new(AtomicBool::new(false));
        let (slots, answered) = sync_channel(in_flight);
        let mut threads = Threads::new();
        let sender = Sender { stream, writer, slots, stop: Arc::clone(&stop) };
        threads.start(move || send(sender));
        threads.start(move || read_replies(replies, &answered, take_answer));
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

impl Sender {
    /// Reads the stream from its beginning, `count` entries at a time, until it is stopped. `each` is given an entry's id,
    /// where its payload is read, how many bytes that has, and how many entries of this reading are left. It appends a
    /// call where one is due.
    pub(crate) fn run(
        mut self,
        stream: &str,
        count: usize,
        mut each: impl FnMut(&str, (&mut BufReader<UnixStream>, usize), usize) -> Option<Vec<u8>>,
    ) {
        let mut entries =
            BufReader::with_capacity(1 << 20, self.stream.try_clone().expect("a second handle"));
        let (mut read, count) = ("0-0".to_owned(), count.to_string());
        while !self.stop.load(Ordering::Relaxed) {
            let ask = command(&["XREAD", "COUNT", &count, "BLOCK", "100", "STREAMS", stream, &read]);
            self.stream.write_all(ask.as_bytes()).expect("the server takes a command");
            // `*1 *2 $… stream *n`, or `*-1` where nothing came.
            if number(&mut entries) != Some(1) {
                continue;
            }
            for _ in 0..3 {
                line(&mut entries);
            }
            for left in (0..number(&mut entries).expect("entries")).rev() {
                // `*2 $… id *2 $7 payload $… payload`
                line(&mut entries);
                line(&mut entries);
                read = line(&mut entries);
                for _ in 0..3 {
                    line(&mut entries);
                }
                let size = number(&mut entries).expect("a payload");
                if let Some(call) = each(&read, (&mut entries, size), left) {
                    if self.slots.send(()).is_err() {
                        return;
                    }
                    self.writer.write_all(&call).expect("the server takes a call");
                }
            }
        }
        self.writer.shutdown(std::net::Shutdown::Both).expect("it is connected");
    }
}

/// A line without its end.
pub(crate) fn line(from: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("the server answers");
    line.truncate(line.trim_end().len());
    line
}

/// The number in a header; none where it is no such thing.
fn number(from: &mut BufReader<UnixStream>) -> Option<usize> {
    line(from)[1..].parse().ok()
}

fn read_replies(
    mut replies: BufReader<UnixStream>,
    slots: &Receiver<()>,
    mut take: impl FnMut(&mut BufReader<UnixStream>, &str),
) {
    let mut first = String::new();
    loop {
        first.clear();
        if replies.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        take(&mut replies, first.trim_end());
        if slots.recv().is_err() {
            return;
        }
    }
}
