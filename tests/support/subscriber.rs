//! A subscriber that writes down what it hears, in a thread of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::oracle::Published;
use super::server::Server;

#[derive(Debug)]
pub(crate) struct Subscriber {
    heard: Arc<Mutex<Vec<Published>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    /// Where the reader waits without a time-out.
    socket: Option<UnixStream>,
}

impl Subscriber {
    /// Subscribes to patterns, and returns once the server has confirmed it.
    pub(crate) fn start(server: &Server, patterns: &[&str]) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (confirm, confirmed) = sync_channel(1);
        let mut connection = server.connection();
        let patterns: Vec<_> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let reader = std::thread::spawn({
            let (heard, stop) = (Arc::clone(&heard), Arc::clone(&stop));
            move || {
                let mut subscriber = connection.as_pubsub();
                subscriber.psubscribe(&patterns).expect("the server takes a subscription");
                // So that the reader looks at `stop` now and then.
                subscriber.set_read_timeout(Some(Duration::from_millis(100))).expect("a valid time-out");
                confirm.send(()).expect("the test waits");
                while !stop.load(Ordering::Relaxed) {
                    let message = match subscriber.get_message() {
                        Ok(message) => message,
                        Err(error) if error.is_timeout() => continue,
                        Err(error) => panic!("the subscriber lost its connection: {error}"),
                    };
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(Published {
                        channel: message.get_channel_name().as_bytes().to_vec(),
                        payload: message.get_payload_bytes().to_vec(),
                    });
                }
            }
        });
        confirmed.recv().expect("the subscription is confirmed");
        Self { heard, stop, reader: Some(reader), socket: None }
    }

    /// Subscribes to shard channels, and returns once the server has confirmed it. On a socket of its own:
    /// the client crate knows no shard channels outside a cluster.
    pub(crate) fn start_sharded(server: &Server, channels: &[&str]) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (confirm, confirmed) = sync_channel(1);
        let mut socket = UnixStream::connect(server.socket()).expect("the server listens");
        for channel in channels {
            let command = redis::cmd("SSUBSCRIBE").arg(channel).get_packed_command();
            socket.write_all(&command).expect("the server takes a subscription");
        }
        let ending = socket.try_clone().expect("a second handle of the same socket");
        let awaited = channels.len();
        let reader = std::thread::spawn({
            let heard = Arc::clone(&heard);
            move || {
                let mut from = BufReader::new(socket);
                let mut subscribed = 0;
                // Until the other handle shuts the socket down.
                while let Some([kind, channel, payload]) = three(&mut from) {
                    if kind == b"smessage" {
                        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                        heard.push(Published { channel, payload });
                    } else {
                        assert_eq!(kind, b"ssubscribe");
                        subscribed += 1;
                        if subscribed == awaited {
                            confirm.send(()).expect("the test waits");
                        }
                    }
                }
            }
        });
        confirmed.recv().expect("the subscription is confirmed");
        Self { heard, stop, reader: Some(reader), socket: Some(ending) }
    }

    /// How much has been heard so far.
    pub(crate) fn count(&self) -> usize {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What has been heard so far, in order.
    pub(crate) fn heard(&self) -> Vec<Published> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(socket) = &self.socket {
            drop(socket.shutdown(Shutdown::Both));
        }
        if let Some(reader) = self.reader.take() {
            let ended = reader.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the subscriber failed");
        }
    }
}

/// An array of three: strings, or a number as its digits. `None` where the socket has ended.
fn three(from: &mut BufReader<UnixStream>) -> Option<[Vec<u8>; 3]> {
    let header = line(from)?;
    assert_eq!(header, "*3");
    let mut value = || {
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
    };
    Some([value()?, value()?, value()?])
}

fn line(from: &mut BufReader<UnixStream>) -> Option<String> {
    let mut line = String::new();
    from.read_line(&mut line).ok().filter(|length| *length > 0)?;
    Some(line.trim_end().to_owned())
}
