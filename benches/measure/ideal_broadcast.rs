//! The ideal client of the way back: what publishing a stream's entries would cost that had nothing to decide.
//!
//! Its script does what nobody can leave out who publishes each entry exactly once: it compares a cursor,
//! publishes a batch, and moves the cursor. It takes no template, counts nobody, and has no dead letters.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::cell::Cell;
use crate::ideal_stream::{IdealStream, Sender};
use crate::load::ADDED;
use crate::support::Server;

const SCRIPT: &str = include_str!("ideal_publish.lua");
/// Messages in one call, and how many bytes they may be.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 1 << 20;
/// Calls on the way: what several reads bring.
const IN_FLIGHT: usize = 16;

/// Reads the stream from its beginning, and publishes what comes.
pub(crate) fn start(server: &Server, cell: Cell) -> IdealStream {
    let hash: String = server.ask(&["SCRIPT", "LOAD", SCRIPT]);
    let batch = BATCH.min(BATCH_BYTES / cell.bytes);
    let take_answer = |_: &mut _, first: &str| {
        assert_eq!(first, ":1", "the script refuses a batch of the ideal client");
    };
    IdealStream::start((server, server), IN_FLIGHT, move |sender| publish(sender, &hash, batch), take_answer)
}

fn publish(sender: Sender, hash: &str, batch: usize) {
    let mut cursor = "0".to_owned();
    let (mut messages, mut held) = (Vec::new(), 0);
    sender.run(ADDED, 4 * batch, |id, (entries, size), _| {
        write!(messages, "${size}\r\n").expect("a Vec takes everything");
        let begin = messages.len();
        messages.resize(begin + size + 2, 0);
        entries.read_exact(&mut messages[begin..]).expect("the payload comes");
        held += 1;
        (held == batch).then(|| {
            let mut call = Vec::with_capacity(messages.len() + 256);
            write!(call, "*{}\r\n", 6 + held).expect("a Vec takes everything");
            for word in ["EVALSHA", hash, "1", "cursor", &cursor, id] {
                write!(call, "${}\r\n{word}\r\n", word.len()).expect("a Vec takes everything");
            }
            call.append(&mut messages);
            id.clone_into(&mut cursor);
            held = 0;
            call
        })
    });
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
