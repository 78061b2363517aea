//! Promise: over TLS everything holds that holds without. A server is believed only by a certificate for a name that
//! the configuration has, a mistake is told with what to do about it, and certificates change without a restart.
//!
//! Debian's server speaks TLS; those of the wheels are built without.

mod files;
mod refusals;

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tidegate::config::{Address, Durability, Endpoint, Reauthenticate, SecretSource, Servers, Tls};
use tidegate::server::connect;
use tidegate::server::resp::command;
use tidegate::status::RouteState;

use crate::support::{
    Authority, Daemon, Load, Options, Oracle, Pair, Payloads, Server, Setup, Version, alert, assert_exact,
    captured, eventually, gaps, put,
};

const PATIENCE: Duration = Duration::from_secs(60);
const HERE: &str = "IP:127.0.0.1";

const ROUTES: &str = r#"
[capture.orders]
source = "shop"
channels = ["orders"]
destination = "events"
stream = "orders"
keep = "forever"
include = ["id"]

[broadcast.back]
source = "events"
stream = "orders"
destination = "shop"
channel = "stored"
message = "<field:payload>"
start = "beginning"
"#;

fn server(authority: &Authority, own: &Pair, clients: &str) -> Server {
    Server::with(Version::Redis70, Options::default().tls(authority, own, clients))
}

/// The table `tls` of an endpoint, in one line.
fn table(authority: &Authority, more: &str) -> String {
    format!("tls = {{ ca_file = \"{}\"{more} }}", authority.certificate().display())
}

fn client(own: &Pair) -> String {
    format!(", cert_file = \"{}\", key_file = \"{}\"", own.certificate.display(), own.key.display())
}

/// Both servers want a certificate; the daemon has one.
struct Mutual {
    authority: Authority,
    own: Pair,
    source: Server,
    destination: Server,
}

impl Mutual {
    fn start() -> Self {
        let authority = Authority::new();
        let certificate = authority.issue("server", HERE);
        let own = authority.issue("tidegate", "DNS:tidegate");
        let source = server(&authority, &certificate, "yes");
        let destination = server(&authority, &certificate, "yes");
        Self { authority, own, source, destination }
    }

    fn setup(&self, routes: &str) -> Setup {
        let tls = table(&self.authority, &client(&self.own));
        Setup::new()
            .endpoint_with("shop", &self.source, &tls)
            .endpoint_with("events", &self.destination, &tls)
            .routes(routes)
    }
}

#[track_caller]
fn assert_captured(oracle: &Oracle, destination: &Server) {
    oracle.publish_last("orders", destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(destination, "orders"));
    assert_eq!(gaps(destination, "orders"), []);
}

#[test]
fn a_capture_and_a_broadcast_under_load_with_certificates_on_both_sides() {
    let mutual = Mutual::start();
    let daemon = mutual.setup(ROUTES).start_ready();
    let oracle = Oracle::new(&mutual.source);
    oracle.publish(&Load::new(4, 40_000, &["orders"]).payloads(Payloads::Unique));
    assert_captured(&oracle, &mutual.destination);
    eventually("the broadcast has published everything", PATIENCE, || {
        let published = daemon.get("/metrics")?.1;
        let line = format!("tidegate_published_total{{route=\"back\"}} {}", oracle.sequence().len());
        if published.contains(&line) { Ok(()) } else { Err(published) }
    });
    let metrics = daemon.get("/metrics").unwrap().1;
    let now: f64 = mutual.source.ask::<(String, String)>(&["TIME"]).0.parse().unwrap();
    for side in ["client", "server"] {
        let series =
            format!("tidegate_tls_certificate_expiry_timestamp_seconds{{server=\"shop\",side=\"{side}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap();
        let days = (value.parse::<f64>().unwrap() - now) / 86_400.0;
        assert!((364.0..=365.0).contains(&days), "{side}: {value} is {days} days away");
    }
    // The command line connects alike.
    for command in [&["check", "--connect"] as &[&str], &["gaps", "orders"]] {
        let output = daemon.run_command(command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(daemon.wait_state("orders", RouteState::Live).state, RouteState::Live);
}

/// TLS keeps what it has encrypted in a buffer of its own: what waits there is not sent.
#[test]
fn what_counts_as_sent_has_left_the_buffer_of_tls() {
    let mutual = Mutual::start();
    let server = &mutual.destination;
    let tls = Tls {
        ca_file: Some(mutual.authority.certificate()),
        client: Some((mutual.own.certificate.clone(), mutual.own.key.clone())),
        ..Tls::default()
    };
    let endpoint = Endpoint {
        name: "events".to_owned(),
        servers: Servers::One(Address::Tcp { host: "127.0.0.1".to_owned(), port: server.port().unwrap() }),
        username: None,
        password: SecretSource::None,
        database: 0,
        key_prefix: "tidegate:".to_owned(),
        connect_timeout: PATIENCE,
        response_timeout: PATIENCE,
        durability: Durability::default(),
        address_map: Vec::new(),
        reauthenticate: Reauthenticate::default(),
        tls: Some(tls),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut connection = runtime.block_on(connect(&endpoint, "test")).unwrap();
    server.freeze();
    let sent = runtime.block_on(async {
        let mut sent = 0;
        loop {
            command(connection.out(), &[b"ECHO", &[b'x'; 10_000]]);
            match poll_fn(|cx| Poll::Ready(connection.poll_flush(cx))).await {
                Poll::Ready(flushed) => flushed.unwrap(),
                Poll::Pending => return sent,
            }
            sent += 1;
            // What a task may read and write before others come in is limited.
            tokio::task::yield_now().await;
        }
    });
    assert!(connection.unsent_bytes() > 0);
    server.thaw();
    eventually("the server has all that counts as sent", PATIENCE, || {
        let calls = server.calls("echo");
        if calls == sent as u64 { Ok(()) } else { Err(format!("{calls} of {sent}")) }
    });
    // And the rest goes by waiting for replies alone.
    let replies = async {
        for _ in 0..=sent {
            connection.reply().await.unwrap();
        }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, replies).await }).unwrap();
}

#[test]
fn large_messages_to_a_server_that_stops_now_and_then() {
    const MESSAGES: usize = 100;
    let mutual = Mutual::start();
    let daemon = mutual.setup(ROUTES).expects(&[alert::DESTINATION]).start_ready();
    let oracle = Oracle::new(&mutual.source);
    for round in 1..=5 {
        // More than the buffers of both sockets hold.
        mutual.destination.freeze();
        for number in 0..MESSAGES {
            oracle.publish_one(b"orders", format!("{round} {number} {}", "x".repeat(100_000)).as_bytes());
        }
        mutual.destination.thaw();
        daemon.wait_settled("orders", round * MESSAGES);
    }
    assert_captured(&oracle, &mutual.destination);
}

/// `tls-replication yes`: replica and master speak TLS with each other as well, and the daemon reads the replica.
#[test]
fn the_replication_stream_is_read_over_tls() {
    let authority = Authority::new();
    let certificate = authority.issue("server", HERE);
    let own = authority.issue("tidegate", "DNS:tidegate");
    let options =
        || Options::replication_source().tls(&authority, &certificate, "yes").with("tls-replication", "yes");
    let master = Server::with(Version::Redis70, options());
    let replica = Server::replica_of(&master, Version::Redis70, options());
    let destination = Server::start(Version::Redis70);
    let routes = ROUTES.split("[broadcast").next().unwrap();
    let routes = routes.replace("channels =", "mode = \"replication\"\nchannels =");
    let daemon = Setup::new()
        .deployment("shop", &[&master, &replica])
        .with_settings(&table(&authority, &client(&own)))
        .endpoint("events", &destination)
        .routes(&routes)
        .expects(&[alert::SOURCE])
        .start_ready();
    let tapped = daemon.route("orders").unwrap().replication.unwrap();
    assert_eq!(tapped.address, format!("127.0.0.1:{}", replica.port().unwrap()));
    let oracle = Oracle::new(&master);
    let load =
        oracle.start(&Load::new(3, 30_000, &["orders", "other"]).payloads(Payloads::Unique).rate(10_000));
    destination.wait_longer("orders", 2_000);
    // A link that ends is followed by one that continues at the same place.
    replica.ask::<usize>(&["CLIENT", "KILL", "TYPE", "replica"]);
    load.join();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence_of(|channel| channel == b"orders"), &captured(&destination, "orders"));
    assert_eq!(gaps(&destination, "orders"), []);
}
