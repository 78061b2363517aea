//! A subscriber that writes down what it hears, in a thread of its own.
//!
//! On a socket of its own: the client crate knows no shard channels outside a cluster, and a reader that has to look
//! up now and then needs a time-out, with which a read fails where a process is stopped and continues.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::oracle::Published;
use super::server::Server;

#[derive(Debug)]
pub(crate) struct Subscriber {
    heard: Arc<Mutex<Vec<Published>>>,
    /// Set before the socket is shut down: any other end is a failure.
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    socket: UnixStream,
}

impl Subscriber {
    /// Subscribes to patterns, and returns once the server has confirmed it.
    pub(crate) fn start(server: &Server, patterns: &[&str]) -> Self {
        Self::listen(server, "PSUBSCRIBE", patterns)
    }

    /// Subscribes to shard channels, and returns once the server has confirmed it.
    pub(crate) fn start_sharded(server: &Server, channels: &[&str]) -> Self {
        Self::listen(server, "SSUBSCRIBE", channels)
    }

    fn listen(server: &Server, command: &str, names: &[&str]) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (confirm, confirmed) = sync_channel(1);
        let mut socket = UnixStream::connect(server.socket()).expect("the server listens");
        for name in names {
            let command = redis::cmd(command).arg(name).get_packed_command();
            socket.write_all(&command).expect("the server takes a subscription");
        }
        let reading = socket.try_clone().expect("a second handle of the same socket");
        let awaited = names.len();
        let reader = std::thread::spawn({
            let (heard, stop) = (Arc::clone(&heard), Arc::clone(&stop));
            move || {
                let mut from = BufReader::new(reading);
                let mut subscribed = 0;
                // Until the other handle shuts the socket down.
                while let Some(mut pushed) = array(&mut from) {
                    if pushed[0].ends_with(b"message") {
                        let payload = pushed.pop().expect("a payload");
                        let channel = pushed.pop().expect("a channel");
                        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                        heard.push(Published { channel, payload });
                    } else {
                        assert!(pushed[0].ends_with(b"subscribe"), "{pushed:?}");
                        subscribed += 1;
                        if subscribed == awaited {
                            confirm.send(()).expect("the test waits");
                        }
                    }
                }
                assert!(stop.load(Ordering::Relaxed), "the subscriber lost its connection");
            }
        });
        confirmed.recv().expect("the subscription is confirmed");
        Self { heard, stop, reader: Some(reader), socket }
    }

    /// How much has been heard so far.
    pub(crate) fn count(&self) -> usize {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Channels and payloads of what has been heard so far, where all of them are text.
    pub(crate) fn texts(&self) -> Vec<(String, String)> {
        let text = |bytes| String::from_utf8(bytes).expect("it is text");
        self.heard().into_iter().map(|message| (text(message.channel), text(message.payload))).collect()
    }

    /// Payloads of what has been heard so far, where all of them are text.
    pub(crate) fn payloads(&self) -> Vec<String> {
        self.texts().into_iter().map(|(_, payload)| payload).collect()
    }

    /// What has been heard so far, in order.
    pub(crate) fn heard(&self) -> Vec<Published> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.socket.shutdown(Shutdown::Both));
        if let Some(reader) = self.reader.take() {
            let ended = reader.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the subscriber failed");
        }
    }
}

/// An array of strings, and of a number as its digits. `None` where the socket has ended.
fn array(from: &mut BufReader<UnixStream>) -> Option<Vec<Vec<u8>>> {
    let header = line(from)?;
    let count: usize = header.strip_prefix('*').expect("an array").parse().expect("a length");
    (0..count).map(|_| value(from)).collect()
}

fn value(from: &mut BufReader<UnixStream>) -> Option<Vec<u8>> {
    let header = line(from)?;
    match header.split_at(1) {
        ("$", length) => {
            let length: usize = length.parse().expect("a length");
            let mut bytes = vec![0; length + 2];
            from.read_exact(&mut bytes).ok()?;
            bytes.truncate(length);
            Some(bytes)
        }
        (_, number) => Some(number.as_bytes().to_vec()),
    }
}

fn line(from: &mut BufReader<UnixStream>) -> Option<String> {
    let mut line = String::new();
    from.read_line(&mut line).ok().filter(|length| *length > 0)?;
    Some(line.trim_end().to_owned())
}
