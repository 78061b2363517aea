//! What the daemon shows: HTTP as a client sees it, and the messages that systemd gets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::metrics::Metrics;
use tidegate::observe::client;
use tidegate::observe::http::{ServedState, serve};
use tidegate::observe::report::{About, StatusReport};
use tidegate::observe::systemd::{Beat, Notifier};
use tidegate::rt::unix_ms;
use tidegate::status::{Board, RouteKind, RouteState, RouteStatus, Slot};
use tokio_util::sync::CancellationToken;

/// How long a test waits for something that must come.
const DEADLINE: Duration = Duration::from_secs(20);

/// A server of the test's own.
struct Served {
    address: SocketAddr,
    view: ServedState,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
    runtime: tokio::runtime::Runtime,
}

impl Served {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let view = ServedState {
            hosts: Vec::new(),
            about: About {
                version: "1.2.3".to_owned(),
                instance: "host-1".to_owned(),
                started_unix_ms: 1_700_000_000_000,
                configuration: "/etc/tidegate/tidegate.toml".into(),
            },
            board: Board::default(),
            metrics: Metrics::new(),
        };
        let stop = CancellationToken::new();
        let server = serve(listener, view.clone(), stop.clone());
        let guard = runtime.enter();
        let ended = tidegate::rt::spawn("http", server);
        drop(guard);
        Self { address, view, stop, ended, runtime }
    }

    fn route(&self, name: &str, kind: RouteKind) -> Slot {
        let slot = self.view.board.place(RouteStatus::new(name, kind, "shop", "events", unix_ms()));
        make_live(&slot);
        slot
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (code, body) = client::get(self.address, path).unwrap();
        (code, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
    }

    /// Sends bytes and reads until the server closes.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // The server may close before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}

fn make_live(slot: &Slot) {
    let now = unix_ms();
    slot.progressed(now);
    slot.update(|status| {
        status.state = RouteState::Live;
        for link in [&mut status.source, &mut status.destination] {
            link.connected = true;
            link.last_answer_unix_ms = Some(now);
        }
    });
}

#[test]
fn metrics_are_served_as_prometheus_reads_them() {
    let served = Served::start();
    let capture = served.view.metrics.capture("orders");
    capture.received.increment(3);
    let answer = served.raw(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(answer.contains("\ntidegate_events_received_total{route=\"orders\"} 3\n"), "{answer}");
}

#[test]
fn health_is_that_the_loops_come_round_whatever_redis_does() {
    let served = Served::start();
    assert_eq!(served.get("/healthz"), (200, json!({"healthy": true, "stuck": []})), "no routes, no loops");
    let slot = served.route("orders", RouteKind::Capture);
    slot.update(|status| {
        status.state = RouteState::Waiting;
        status.source.connected = false;
    });
    assert_eq!(served.get("/healthz").0, 200);

    slot.progressed(1_700_000_000_000);
    assert_eq!(
        served.get("/healthz"),
        (503, json!({"healthy": false, "stuck": [{"route": "orders", "since": "2023-11-14T22:13:20Z"}]}))
    );
}

#[test]
fn readiness_says_which_route_is_not_ready_and_why() {
    let served = Served::start();
    let orders = served.route("orders", RouteKind::Capture);
    let _stock = served.route("stock", RouteKind::Broadcast);
    let (code, body) = served.get("/readyz");
    assert_eq!((code, &body["ready"]), (200, &json!(true)), "{body}");

    orders.update(|status| {
        status.state = RouteState::Waiting;
        status.since_unix_ms = 1_700_000_000_000;
        status.source.connected = false;
        status.source.error = Some("connection refused".to_owned());
    });
    assert_eq!(
        served.get("/readyz"),
        (
            503,
            json!({"ready": false, "routes": [
                {"route": "orders", "ready": false, "reasons": [
                    "waiting since 2023-11-14T22:13:20Z",
                    "source shop: not connected: connection refused"
                ]},
                {"route": "stock", "ready": true, "reasons": []}
            ]})
        )
    );
    assert_eq!(served.get("/readyz?route=orders").0, 503);
    let (code, body) = served.get("/readyz?route=stock");
    assert_eq!((code, body["routes"].as_array().map(Vec::len)), (200, Some(1)), "{body}");
    assert_eq!(
        served.get("/readyz?route=order"),
        (404, json!({"error": "there is no route named \"order\""}))
    );
    assert_eq!(client::get(served.address, "/readyz?rout=stock").unwrap().0, 400, "a misspelt parameter");
}

#[test]
fn other_paths_and_methods_are_refused() {
    let served = Served::start();
    assert_eq!(served.get("/no-such").0, 404);
    let answer = served.raw(b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

/// The page asks nothing of anybody but this server, and a browser is told to hold it to that.
#[test]
fn the_page_is_this_servers_own_and_nothing_else_may_be_loaded() {
    let served = Served::start();
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let answer = served.raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
        assert!(head.contains(&format!("content-type: {kind}; charset=utf-8\r\n")), "{path}: {head}");
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert!(head.contains("x-content-type-options: nosniff"), "{path}: {head}");
        for outside in ["http://", "https://", "//", "innerHTML", "eval("] {
            // A comment of the script is no address.
            let found = body.lines().find(|line| line.contains(outside) && !line.starts_with("// "));
            assert_eq!(found, None, "{path}");
        }
    }
}

#[test]
fn status_keeps_its_shape() {
    let served = Served::start();
    let orders = served.route("orders", RouteKind::Capture);
    orders.update(|status| {
        status.since_unix_ms = 1_700_000_001_000;
        status.source.last_answer_unix_ms = Some(1_700_000_002_000);
        status.destination.last_answer_unix_ms = Some(1_700_000_003_000);
        status.position = Some("0000018bcfe56800-1".to_owned());
        status.buffered_bytes = 512;
        status.last_progress_unix_ms = Some(1_700_000_003_000);
        if let Some(ledger) = &mut status.counts {
            ledger.received = 10;
            ledger.stored = 7;
            ledger.dropped.insert("memory_full".to_owned(), 1);
            ledger.buffered = 2;
        }
    });
    let stock = served.view.board.place(RouteStatus::new(
        "stock",
        RouteKind::Broadcast,
        "events",
        "shop",
        1_700_000_001_000,
    ));
    stock.update(|status| {
        status.state = RouteState::Blocked;
        status.reason = Some("NOPERM: this user has no permissions to run XREAD".to_owned());
        status.source.error = Some("NOPERM".to_owned());
    });
    let (code, body) = served.get("/status");
    assert_eq!(code, 200);
    let shown = serde_json::to_string_pretty(&body).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/observe/status.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &shown).unwrap();
    }
    assert_eq!(shown, std::fs::read_to_string(path).unwrap(), "UPDATE_GOLDEN=1 rewrites {path}");

    let read: StatusReport = serde_json::from_value(body).unwrap();
    assert_eq!(read, StatusReport::new(&served.view.about, &served.view.board), "the commands read it back");
}

#[test]
fn a_request_that_is_too_large_or_no_http_ends_its_connection_only() {
    let served = Served::start();
    let mut large = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ".to_vec();
    large.extend(vec![b'a'; 64 * 1024]);
    let answer = served.raw(&large);
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = served.raw(b"\x16\x03\x01 this is no HTTP\r\n\r\n");
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(served.get("/healthz").0, 200);
}

#[test]
fn each_connection_serves_one_request() {
    let served = Served::start();
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = served.raw(&request.repeat(2));
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
}

/// Many more silent clients than there are places: those that have been silent longest make room, and others are
/// served meanwhile.
#[test]
fn silent_clients_do_not_hold_their_places() {
    let served = Served::start();
    let silent: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(served.address).unwrap()).collect();
    let mut probe = TcpStream::connect(served.address).unwrap();
    probe.set_read_timeout(Some(DEADLINE)).unwrap();
    probe.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    // The newest of them is still there: no time-out has made this room.
    let mut newest = silent.last().unwrap();
    newest.set_nonblocking(true).unwrap();
    assert_eq!(newest.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // And what stays silent is closed without an answer, long before the end of a whole connection.
    newest.set_nonblocking(false).unwrap();
    newest.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    assert_eq!(newest.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn what_asks_by_a_strangers_name_gets_nothing() {
    let served = Served::start();
    for path in ["/healthz", "/status", "/metrics", "/readyz", "/"] {
        let answer = served.raw(format!("GET {path} HTTP/1.1\r\nHost: evil.example:7380\r\n\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
        assert!(
            !answer.contains("tidegate_") && !answer.contains("host-1") && !answer.contains("healthy"),
            "{answer}"
        );
    }
    let absolute = served.raw(b"GET http://evil.example/status HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(absolute.starts_with("HTTP/1.1 421 "), "{absolute}");
    for host in ["Host: localhost:7380\r\n", "Host: tidegate\r\n", "Host: 10.1.2.3:7380\r\n", ""] {
        let answer = served.raw(format!("GET /healthz HTTP/1.1\r\n{host}\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
}

#[test]
fn a_stop_ends_the_server_and_closes_what_is_open() {
    let served = Served::start();
    let mut open = TcpStream::connect(served.address).unwrap();
    assert_eq!(served.get("/healthz").0, 200);
    served.stop.cancel();
    let Served { runtime, ended, .. } = served;
    runtime.block_on(async { tokio::time::timeout(DEADLINE, ended).await.unwrap().unwrap() });
    open.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(matches!(open.read(&mut [0; 16]), Ok(0) | Err(_)), "an idle connection is closed");
}

/// A service manager of the test's own.
struct Manager {
    socket: UnixDatagram,
    notifier: Notifier,
    _directory: tempfile::TempDir,
}

impl Manager {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let notifier = Notifier::to(path.as_os_str()).unwrap();
        Self { socket, notifier, _directory: directory }
    }

    /// What has been sent: a datagram is there as soon as the sender returns. The kernel queues ten.
    fn messages(&self) -> Vec<String> {
        let mut messages = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return messages,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Moves both clocks second by second, with a beat each second.
struct Clock {
    start: Instant,
    start_unix_ms: u64,
    seconds: u64,
}

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now(), start_unix_ms: 1_700_000_000_000, seconds: 0 }
    }

    fn unix_ms(&self) -> u64 {
        self.start_unix_ms + self.seconds * 1_000
    }

    /// What the manager gets meanwhile.
    fn beat(&mut self, manager: &Manager, beat: &mut Beat, seconds: u64, each: impl Fn(u64)) -> Vec<String> {
        let mut messages = Vec::new();
        for _ in 0..seconds {
            each(self.unix_ms());
            beat.tick(self.start + Duration::from_secs(self.seconds), self.unix_ms());
            self.seconds += 1;
            messages.extend(manager.messages());
        }
        messages
    }
}

fn watchdogs(messages: &[String]) -> usize {
    messages.iter().filter(|message| *message == "WATCHDOG=1\n").count()
}

#[test]
fn start_reload_and_stop_are_told() {
    let manager = Manager::start();
    manager.notifier.ready(&Board::default());
    manager.notifier.reloading();
    manager.notifier.ready(&Board::default());
    manager.notifier.stopping();
    let messages = manager.messages();
    assert_eq!(messages.len(), 4, "{messages:?}");
    assert_eq!(messages[0], "READY=1\nSTATUS=0 of 0 routes ready\n");
    let usec = messages[1].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
    assert!(usec.parse::<u64>().unwrap() > 0);
    assert_eq!(messages[2], "READY=1\nSTATUS=0 of 0 routes ready\n");
    assert_eq!(messages[3], "STOPPING=1\n");
}

#[test]
fn an_abstract_socket_works_and_nobody_there_is_no_error_for_the_caller() {
    use std::os::linux::net::SocketAddrExt as _;
    let name = format!("tidegate-test-{}", std::process::id());
    let notifier = Notifier::to(format!("@{name}").as_ref()).unwrap();
    notifier.ready(&Board::default());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    notifier.ready(&Board::default());
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"READY=1\nSTATUS=0 of 0 routes ready\n");
    Notifier::default().ready(&Board::default());
}

#[test]
fn a_redis_that_is_away_for_minutes_does_not_stop_the_watchdog_messages() {
    let manager = Manager::start();
    let board = Board::default();
    let mut clock = Clock::new();
    let slots = ["orders", "stock"].map(|name| {
        let slot = board.place(RouteStatus::new(name, RouteKind::Capture, "shop", "events", clock.unix_ms()));
        slot.update(|status| status.state = RouteState::Waiting);
        slot
    });
    let mut beat = Beat::new(manager.notifier.clone(), Some(Duration::from_secs(30)), board);
    let messages =
        clock.beat(&manager, &mut beat, 180, |now| slots.iter().for_each(|slot| slot.progressed(now)));
    assert_eq!(watchdogs(&messages), 18, "one at each third of the 30 s");
}

#[test]
fn one_stuck_loop_stops_the_watchdog_messages_until_it_comes_round() {
    let manager = Manager::start();
    let board = Board::default();
    let mut clock = Clock::new();
    let [moving, stuck] = ["orders", "stock"].map(|name| {
        board.place(RouteStatus::new(name, RouteKind::Capture, "shop", "events", clock.unix_ms()))
    });
    let mut beat = Beat::new(manager.notifier.clone(), Some(Duration::from_secs(3)), board);
    let messages = clock.beat(&manager, &mut beat, 11, |now| moving.progressed(now));
    assert_eq!(watchdogs(&messages), 11, "10 s are allowed");
    let messages = clock.beat(&manager, &mut beat, 60, |now| moving.progressed(now));
    assert_eq!(watchdogs(&messages), 0);
    stuck.progressed(clock.unix_ms());
    let messages = clock.beat(&manager, &mut beat, 5, |now| moving.progressed(now));
    assert_eq!(watchdogs(&messages), 5);
}

#[test]
fn without_a_watchdog_there_are_no_watchdog_messages() {
    let manager = Manager::start();
    let mut beat = Beat::new(manager.notifier.clone(), None, Board::default());
    assert_eq!(Clock::new().beat(&manager, &mut beat, 60, |_| ()), ["STATUS=0 of 0 routes ready\n"]);
}

#[test]
fn the_status_says_what_is_not_live_and_only_when_that_changes() {
    let manager = Manager::start();
    let board = Board::default();
    let mut clock = Clock::new();
    let slot = board.place(RouteStatus::new("orders", RouteKind::Capture, "shop", "events", clock.unix_ms()));
    let mut beat = Beat::new(manager.notifier.clone(), None, board);
    let answer = |now| {
        slot.update(|status| {
            status.source.last_answer_unix_ms = Some(now);
            status.destination.last_answer_unix_ms = Some(now);
        });
    };
    slot.update(|status| {
        status.state = RouteState::Live;
        status.source.connected = true;
        status.destination.connected = true;
    });
    assert_eq!(clock.beat(&manager, &mut beat, 5, answer), ["STATUS=1 of 1 routes ready\n"]);

    // Nothing answers any more: first the source's bound passes, then the destination's.
    let since = "no answer since 2023-11-14T22:13:24Z";
    assert_eq!(
        clock.beat(&manager, &mut beat, 60, |_| ()),
        [
            format!("STATUS=0 of 1 routes ready; orders: source shop: {since}\n"),
            format!(
                "STATUS=0 of 1 routes ready; orders: source shop: {since}, destination events: {since}\n"
            ),
        ]
    );
    assert_eq!(clock.beat(&manager, &mut beat, 5, answer), ["STATUS=1 of 1 routes ready\n"]);
}

/// The real clock and the real interval: the loop around `tick` feeds the watchdog.
#[test]
fn the_beat_runs_until_it_is_stopped() {
    let manager = Manager::start();
    manager.socket.set_nonblocking(false).unwrap();
    manager.socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let beat = Beat::new(manager.notifier.clone(), Some(Duration::from_millis(30)), Board::default());
    let guard = runtime.enter();
    let running = tidegate::rt::spawn("systemd", beat.run(stop.clone()));
    drop(guard);
    let mut buffer = [0; 64];
    for expected in ["STATUS=0 of 0 routes ready\n", "WATCHDOG=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n"] {
        let length = manager.socket.recv(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..length]), Ok(expected));
    }
    stop.cancel();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, running).await.unwrap().unwrap() });
}
