//! A way to a server that breaks, or takes long: connections through it end after a number of bytes, or bring nothing
//! for a while.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::server::Server;

/// Forwards to a server's unix socket until it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    state: Arc<ProxyState>,
}

#[derive(Debug)]
struct ProxyState {
    target: PathBuf,
    breaks: AtomicBool,
    ended: AtomicBool,
    cuts: AtomicUsize,
    held: Mutex<bool>,
    released: Condvar,
    random: Mutex<fastrand::Rng>,
}

impl Proxy {
    /// Begins to forward; while it `breaks`, each connection ends after a random number of bytes.
    pub(crate) fn start(server: &Server, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it listens").port();
        let state = Arc::new(ProxyState {
            target: server.socket(),
            breaks: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            cuts: AtomicUsize::new(0),
            held: Mutex::new(false),
            released: Condvar::new(),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
        });
        let serving = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if serving.ended.load(Ordering::Relaxed) {
                    return;
                }
                if let (Ok(client), Ok(server)) = (client, UnixStream::connect(&serving.target)) {
                    serving.clone().forward(client, server);
                }
            }
        });
        Self { port, state }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether connections that are made from now on end early.
    pub(crate) fn breaks(&self, breaks: bool) {
        self.state.breaks.store(breaks, Ordering::Relaxed);
    }

    /// Holds back whatever the server says, until it is released.
    pub(crate) fn hold(&self) {
        *self.state.held.lock().expect("nobody panics with it") = true;
    }

    /// Passes on what was held back, and all that follows.
    pub(crate) fn release(&self) {
        *self.state.held.lock().expect("nobody panics with it") = false;
        self.state.released.notify_all();
    }

    /// How many connections it has ended.
    pub(crate) fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.release();
        // Wakes the thread that accepts.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl ProxyState {
    fn forward(self: Arc<Self>, client: TcpStream, server: UnixStream) {
        let (mut from_client, mut to_server) =
            (client.try_clone().expect("a handle"), server.try_clone().expect("a handle"));
        std::thread::spawn(move || {
            drop(std::io::copy(&mut from_client, &mut to_server));
            drop(to_server.shutdown(Shutdown::Both));
        });
        std::thread::spawn(move || self.answer(client, server));
    }

    /// Forwards what the server says, perhaps not all of it.
    fn answer(&self, mut client: TcpStream, mut server: UnixStream) {
        let breaks = self.breaks.load(Ordering::Relaxed);
        let mut left = if breaks {
            self.random.lock().expect("nobody panics with it").usize(1..400_000)
        } else {
            usize::MAX
        };
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = server.read(&mut buffer) {
            let held = self.held.lock().expect("nobody panics with it");
            drop(self.released.wait_while(held, |held| *held).expect("nobody panics with it"));
            let passed = count.min(left);
            left -= passed;
            if client.write_all(&buffer[..passed]).is_err() {
                break;
            }
            if left == 0 {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        drop(client.shutdown(Shutdown::Both));
        drop(server.shutdown(Shutdown::Both));
    }
}
