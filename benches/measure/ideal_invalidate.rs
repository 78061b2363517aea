//! The ideal client of an invalidation: what removing the keys of a stream's entries would cost that had nothing to decide.
//!
//! It calls the daemon's own script. It finds keys by counting bytes, takes no template, collects nothing, has no second
//! pass and looks at nothing but the replies.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::ideal::Threads;
use crate::ideal_broadcast::{line, number};
use crate::invalidate::STREAM;
use crate::load::command;
use crate::support::Server;

const SCRIPT: &str = include_str!("../../src/invalidate/clear.lua");
/// Entries in one call, as the daemon's.
const BATCH: usize = 128;
/// Calls on the way, so that reading does not wait for removing.
const IN_FLIGHT: usize = 4;
/// Where the key begins in a payload `{"sku":"…"}`, and how many bytes are behind it.
const AROUND: (usize, usize) = (8, 2);

pub(crate) struct IdealInvalidate {
    stop: Arc<AtomicBool>,
    threads: Threads,
}

impl IdealInvalidate {
    pub(crate) const CURSOR: &'static str = "cursor";

    /// Reads the stream from its beginning, and removes the keys that come.
    pub(crate) fn start(events: &Server, cache: &Server) -> Self {
        let hash: String = cache.ask(&["SCRIPT", "LOAD", SCRIPT]);
        cache.ask::<()>(&["HSET", Self::CURSOR, "revision", "r", "pos", "0-0"]);
        let stream = UnixStream::connect(events.socket()).expect("the server runs");
        let writer = UnixStream::connect(cache.socket()).expect("the server runs");
        let replies = BufReader::new(writer.try_clone().expect("a second handle"));
        let stop = Arc::new(AtomicBool::new(false));
        let (slots, answered) = sync_channel(IN_FLIGHT);
        let mut threads = Threads::new();
        let stopped = Arc::clone(&stop);
        threads.start(move || remove(stream, writer, &hash, &slots, &stopped));
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

fn remove(
    mut stream: UnixStream,
    mut writer: UnixStream,
    hash: &str,
    slots: &SyncSender<()>,
    stop: &AtomicBool,
) {
    let mut entries = BufReader::with_capacity(1 << 20, stream.try_clone().expect("a second handle"));
    let (mut read, mut place) = ("0-0".to_owned(), "0-0".to_owned());
    let count = (4 * BATCH).to_string();
    while !stop.load(Ordering::Relaxed) {
        let ask = command(&["XREAD", "COUNT", &count, "BLOCK", "100", "STREAMS", STREAM, &read]);
        stream.write_all(ask.as_bytes()).expect("the server takes a command");
        // `*1 *2 $7 changes *n`, or `*-1` where nothing came.
        if number(&mut entries) != Some(1) {
            continue;
        }
        for _ in 0..3 {
            line(&mut entries);
        }
        let came = number(&mut entries).expect("entries");
        let (mut keys, mut leases) = (Vec::new(), Vec::new());
        for left in (0..came).rev() {
            // `*2 $… id *2 $7 payload $… payload`
            line(&mut entries);
            line(&mut entries);
            read = line(&mut entries);
            for _ in 0..3 {
                line(&mut entries);
            }
            let mut payload = vec![0; number(&mut entries).expect("a payload") + 2];
            entries.read_exact(&mut payload).expect("the payload comes");
            let sku = &payload[AROUND.0..payload.len() - 2 - AROUND.1];
            keys.push([b"product:", sku].concat());
            leases.push([b"product:", sku, b":tidegate"].concat());
            if keys.len() < BATCH && left > 0 {
                continue;
            }
            let call = call(hash, &mut keys, &mut leases, (&place, &read));
            if slots.send(()).is_err() {
                return;
            }
            writer.write_all(&call).expect("the server takes a call");
            place.clone_from(&read);
        }
    }
    writer.shutdown(std::net::Shutdown::Both).expect("it is connected");
}

/// A call as the daemon makes it, without marks.
fn call(hash: &str, keys: &mut Vec<Vec<u8>>, leases: &mut Vec<Vec<u8>>, place: (&str, &str)) -> Vec<u8> {
    let (names, count) = ((1 + 2 * keys.len()).to_string(), keys.len().to_string());
    let mut words: Vec<Vec<u8>> = Vec::with_capacity(2 * keys.len() + 13);
    let text = |words: &mut Vec<Vec<u8>>, some: &[&str]| {
        words.extend(some.iter().map(|word| word.as_bytes().to_vec()));
    };
    text(&mut words, &["EVALSHA", hash, &names, IdealInvalidate::CURSOR]);
    words.append(keys);
    words.append(leases);
    text(&mut words, &["r", "pos", place.0, place.1, &count, "", "", "", ""]);
    let mut call = Vec::with_capacity(words.len() * 40);
    write!(call, "*{}\r\n", words.len()).expect("a Vec takes everything");
    for word in words {
        write!(call, "${}\r\n", word.len()).expect("a Vec takes everything");
        call.extend_from_slice(&word);
        call.extend_from_slice(b"\r\n");
    }
    call
}

/// `*5 :1 $… last :cleared :refused $… time`
fn read_replies(mut replies: BufReader<UnixStream>, slots: &Receiver<()>) {
    let mut first = String::new();
    loop {
        first.clear();
        if replies.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        assert_eq!(first.trim_end(), "*5", "the script refuses a batch of the ideal client");
        for _ in 0..7 {
            line(&mut replies);
        }
        if slots.recv().is_err() {
            return;
        }
    }
}
