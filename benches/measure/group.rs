//! A consumer group on the stream of a broadcast: what acknowledges, so that a broadcast may publish.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::load::{ADDED, command};
use crate::support::Server;

/// The group's name, as broadcasts wait for it.
pub(crate) const GROUP: &str = "workers";

/// Makes the group, from the stream's beginning.
pub(crate) fn make(server: &Server) {
    server.ask::<()>(&["XGROUP", "CREATE", ADDED, GROUP, "0", "MKSTREAM"]);
}

/// Takes entries, at most `count` with one command, and calls `take` with their ids and the text of the answer.
pub(crate) fn read(
    socket: &mut UnixStream,
    answers: &mut BufReader<UnixStream>,
    count: &str,
    ids: &mut Vec<String>,
) {
    let ask = ["XREADGROUP", "GROUP", GROUP, "one", "COUNT", count, "BLOCK", "100", "STREAMS", ADDED, ">"];
    ids.clear();
    socket.write_all(command(&ask).as_bytes()).expect("the server takes a command");
    // `*1 *2 $5 added *n`, or `*-1` where nothing came.
    if header(answers) != Some(1) {
        return;
    }
    header(answers);
    bulk(answers);
    for _ in 0..header(answers).expect("entries") {
        header(answers);
        ids.push(String::from_utf8(bulk(answers)).expect("an id"));
        for _ in 0..header(answers).expect("fields") {
            bulk(answers);
        }
    }
}

/// The number in a header; none where it is no such thing.
fn header(answers: &mut BufReader<UnixStream>) -> Option<usize> {
    let mut line = String::new();
    answers.read_line(&mut line).expect("the server answers");
    line.get(1..)?.trim_end().parse().ok()
}

fn bulk(answers: &mut BufReader<UnixStream>) -> Vec<u8> {
    let mut bytes = vec![0; header(answers).expect("a string") + 2];
    answers.read_exact(&mut bytes).expect("it comes whole");
    bytes.truncate(bytes.len() - 2);
    bytes
}

/// A consumer that acknowledges everything at once.
pub(crate) struct Workers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Workers {
    pub(crate) fn start(server: &Server) -> Self {
        make(server);
        let mut socket = UnixStream::connect(server.socket()).expect("the server runs");
        let mut answers = BufReader::with_capacity(1 << 20, socket.try_clone().expect("a second handle"));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut ids = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                read(&mut socket, &mut answers, "500", &mut ids);
                if ids.is_empty() {
                    continue;
                }
                let words: Vec<&str> =
                    ["XACK", ADDED, GROUP].into_iter().chain(ids.iter().map(String::as_str)).collect();
                socket.write_all(command(&words).as_bytes()).expect("the server takes a command");
                assert_eq!(header(&mut answers), Some(ids.len()), "all were pending");
            }
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not fail");
    }
}
