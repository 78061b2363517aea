//! Promise: a server that sends what is no RESP, or claims absurd lengths, is left at once; that is
//! reported, memory stays bounded, and the other routes never notice.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{
    Load, Oracle, Server, Setup, Version, alert, assert_eventually, assert_exact, captured, eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// A daemon of a debug build with two routes takes some 30 MiB.
const RESIDENT_KIB: u64 = 96 * 1024;
/// What a hostile server sends of one thing at most; the daemon has gone long before.
const FLOOD_BYTES: usize = 512 * 1024 * 1024;

/// What is sent once a window is open: the beginning, and what follows it for ever.
const ATTACKS: [(&str, &[u8], &[u8]); 6] = [
    ("no RESP", b"HTTP/1.1 400 Bad Request\r\n", b""),
    ("an absurd length", b"$99999999999999999999\r\n", b""),
    ("a huge array of nothing", b"*16777216\r\n", b"_\r\n"),
    ("deep nesting", b"", b"*1\r\n"),
    ("a line without an end", b"+", b"aaaa"),
    ("a reply without an end", b"$4000000000\r\n", b"aaaa"),
];

/// Greets, opens windows as Redis does, and then attacks.
struct Hostile {
    directory: tempfile::TempDir,
    /// How many attacks the daemon has left.
    left: Arc<AtomicUsize>,
    stayed: Arc<Mutex<Vec<&'static str>>>,
}

impl Hostile {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("redis.sock")).unwrap();
        let left = Arc::new(AtomicUsize::new(0));
        let stayed = Arc::new(Mutex::new(Vec::new()));
        let (count, names) = (left.clone(), stayed.clone());
        let windows = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (count, names, windows) = (count.clone(), names.clone(), windows.clone());
                std::thread::spawn(move || serve(stream, &windows, &count, &names));
            }
        });
        Self { directory, left, stayed }
    }
}

fn serve(
    mut stream: UnixStream,
    windows: &AtomicUsize,
    left: &AtomicUsize,
    stayed: &Mutex<Vec<&'static str>>,
) {
    let mut seen = String::new();
    let mut buffer = [0; 64 * 1024];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            return;
        }
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if seen.ends_with("EXEC\r\n") {
            let window = windows.fetch_add(1, Ordering::Relaxed);
            let (name, begin, flood) = ATTACKS[window % ATTACKS.len()];
            let anchor = seen.lines().rev().find(|line| line.len() == 16).expect("the anchor's id");
            let epoch = format!("{:015}", 2_000_000_000_000 + window);
            let text = format!("tidegate1 anchor {epoch} {anchor}");
            let opening = format!(
                "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n\
                 >3\r\n$9\r\nsubscribe\r\n$16\r\ntidegate:control\r\n:1\r\n\
                 >3\r\n$9\r\nsubscribe\r\n$6\r\norders\r\n:2\r\n\
                 >3\r\n$7\r\nmessage\r\n$16\r\ntidegate:control\r\n${}\r\n{text}\r\n$15\r\n{epoch}\r\n",
                text.len()
            );
            let sent = stream.write_all(opening.as_bytes()).and_then(|()| stream.write_all(begin));
            if sent.is_ok() && !leaves(&mut stream, flood) {
                stayed.lock().unwrap().push(name);
            }
            left.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let reply: &[u8] = if seen.contains("HELLO") { b"%0\r\n" } else { b":1\r\n" };
        if !seen.contains("MULTI") {
            seen.clear();
            if stream.write_all(reply).is_err() {
                return;
            }
        }
    }
}

/// Whether the other side closes the connection under what it is sent.
fn leaves(stream: &mut UnixStream, flood: &[u8]) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    if flood.is_empty() {
        return !matches!(stream.read(&mut [0; 1]), Ok(1));
    }
    let piece = flood.repeat(16 * 1024);
    (0..FLOOD_BYTES / piece.len()).any(|_| stream.write_all(&piece).is_err())
}

#[test]
fn as_a_source() {
    let hostile = Hostile::start();
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .raw_endpoint("hostile", &hostile.directory.path().join("redis.sock"))
        .endpoint("shop", &source)
        .endpoint("events", &destination)
        .routes(
            r#"
            [capture.attacked]
            source = "hostile"
            channels = ["orders"]
            destination = "events"
            stream = "attacked"
            keep = "forever"

            [capture.fine]
            source = "shop"
            channels = ["orders"]
            destination = "events"
            stream = "fine"
            keep = "forever"
            "#,
        )
        .expects(&[alert::GAP, alert::SOURCE])
        .start();
    daemon.wait_route_ready("fine");
    let oracle = Oracle::new(&source);
    eventually("the daemon leaves every attack", PATIENCE, || {
        oracle.publish(&Load::new(2, 100, &["orders"]));
        match hostile.left.load(Ordering::Relaxed) {
            left if left >= ATTACKS.len() => Ok(()),
            left => Err(format!("{left} attacks")),
        }
    });
    assert_eq!(*hostile.stayed.lock().unwrap(), [] as [&str; 0], "the daemon stayed");

    oracle.publish_last("orders", &destination, "fine", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&destination, "fine"));
    assert_eq!(gaps(&destination, "fine"), []);
    daemon.wait_settled("fine", oracle.sequence().len());
    assert_eventually("each broken window is a gap", PATIENCE, true, || {
        let gaps = gaps(&destination, "attacked");
        gaps.len() >= ATTACKS.len() - 1 && gaps.iter().all(|gap| gap.cause == "source_broken")
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process().id())).unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    let peak: u64 = peak.parse().unwrap();
    assert!(peak < RESIDENT_KIB, "the daemon took {peak} KiB");
}
