//! `make demo`: what tidegate does, on a private Redis server, with an oracle that counts along.
//!
//! 1. Publishers at work, the daemon captures: nothing may be missing and nothing repeated.
//! 2. The same while the daemon is killed (`kill -9`) and started again: nothing may be repeated,
//!    and what is missing must lie inside a recorded gap.
//! 3. A consumer group reads and acknowledges what was captured, and a broadcast publishes it again.
//!
//! Exits with 1 where the numbers do not fit.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a demo that cannot go on says so by a panic")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use redis::Value;

use support::{
    Captured, Daemon, Load, Options, Oracle, Payloads, Published, Server, Setup, Subscriber, alert,
    assert_nothing_lost_outside_gaps, captured, eventually, gaps, wait_for_last,
};

const CHANNELS: [&str; 3] = ["orders.placed", "orders.paid", "orders.eu.de"];
const MESSAGES: usize = 100_000;
const RATE: usize = 10_000;
const KILLS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);

const ROUTES: &str = r#"
[capture.orders]
source = "demo"
channels = ["orders.placed", "orders.paid"]
patterns = ["orders.eu.*"]
destination = "demo"
stream = "orders"
groups = ["inventory"]
keep = { entries = 1_000_000 }
include = ["id"]

[broadcast.stock]
source = "demo"
stream = "orders"
after = "added"
destination = "demo"
channel = "stock.changed"
message = "<id>"
"#;

fn main() -> ExitCode {
    let Some(program) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: demo PATH-OF-REDIS-SERVER   (make demo finds or installs one)");
        return ExitCode::from(64);
    };
    let server = Server::of_program(program, Options::default());
    let version: String = server.ask(&["INFO", "server"]);
    let line = version.lines().find(|line| line.starts_with("redis_version:")).unwrap_or_default();
    println!(
        "a private server ({line}) on a unix socket; tidegate runs as the user that `tidegate acl` prints\n"
    );

    let subscriber = Subscriber::start(&server, &["stock.*"]);
    let mut daemon =
        Setup::new().endpoint("demo", &server).routes(ROUTES).expects(&[alert::GAP]).start_ready();
    let oracle = Oracle::new(&server);

    let calm = publish_in_peace(&server, &oracle);
    let killed = publish_under_kills(&server, &oracle, &mut daemon);
    let back = consume_and_hear(&server, &subscriber);

    if calm && killed && back {
        println!("\neverything fits.");
        ExitCode::SUCCESS
    } else {
        println!("\nTHE NUMBERS DO NOT FIT.");
        ExitCode::FAILURE
    }
}

/// What XREADGROUP gives of one stream: its name, then ids and fields.
type Read = (String, Vec<(String, Value)>);

/// Published against captured, counted.
struct Count {
    published: usize,
    in_stream: usize,
    repeated: usize,
    lost: usize,
}

impl Count {
    fn of(published: &[Published], stream: &[Captured]) -> Self {
        let mut seen = HashSet::new();
        let repeated = stream
            .iter()
            .filter(|entry| !seen.insert((&entry.message.channel, &entry.message.payload)))
            .count();
        let lost =
            published.iter().filter(|message| !seen.contains(&(&message.channel, &message.payload))).count();
        Self { published: published.len(), in_stream: stream.len(), repeated, lost }
    }

    fn print(&self, title: &str) {
        println!("{title}");
        println!("  published {:>8}", self.published);
        println!("  in stream {:>8}", self.in_stream);
        println!("  repeated  {:>8}", self.repeated);
        println!("  lost      {:>8}", self.lost);
    }
}

fn publish_in_peace(server: &Server, oracle: &Oracle) -> bool {
    oracle.publish(&Load::new(4, MESSAGES, &CHANNELS).payloads(Payloads::Unique));
    oracle.publish_one(b"orders.paid", b"the last of the first part");
    wait_for_last(server, "orders", b"the last of the first part", PATIENCE);
    let (published, stream) = (oracle.sequence(), captured(server, "orders"));
    let count = Count::of(&published, &stream);
    count.print("4 publishers, as fast as the server takes it:");
    let gaps = gaps(server, "orders").len();
    println!("  gaps      {gaps:>8}");
    let in_order = published.iter().eq(stream.iter().map(|entry| &entry.message));
    println!("  byte for byte in the order of publishing: {}", if in_order { "yes" } else { "NO" });
    in_order && count.repeated == 0 && count.lost == 0 && gaps == 0
}

fn publish_under_kills(server: &Server, oracle: &Oracle, daemon: &mut Daemon) -> bool {
    let before = oracle.sequence().len();
    let first = captured(server, "orders").len();
    // Other publishers than before, so that no payload occurs twice.
    let load =
        Load::new(4, usize::MAX / 2, &CHANNELS).payloads(Payloads::Unique).rate(RATE).first_publisher(4);
    let load = oracle.start(&load);
    for kill in 1..=KILLS {
        eventually("the load goes on", PATIENCE, || match load.sent() {
            sent if sent >= kill * RATE => Ok(()),
            sent => Err(format!("{sent} sent")),
        });
        daemon.restart();
        daemon.wait_ready();
    }
    load.stop();
    oracle.publish_one(b"orders.paid", b"the last of the second part");
    wait_for_last(server, "orders", b"the last of the second part", PATIENCE);

    let published = oracle.sequence().split_off(before);
    let stream = captured(server, "orders").split_off(first);
    let count = Count::of(&published, &stream);
    println!();
    count.print(&format!("the same at {RATE} a second, while tidegate is killed (kill -9) {KILLS} times:"));
    let gaps = gaps(server, "orders");
    // Fails, with the place, where something is missing outside the records.
    let inside = assert_nothing_lost_outside_gaps(&published, &stream, &gaps);
    println!("  of these, inside {} recorded gaps: {inside}", gaps.len());
    count.repeated == 0 && count.lost == inside && gaps.len() <= KILLS
}

fn consume_and_hear(server: &Server, subscriber: &Subscriber) -> bool {
    let entries = server.stream_length("orders");
    let mut connection = server.connection();
    let mut acknowledged = 0;
    loop {
        let reply: Option<Vec<Read>> = redis::cmd("XREADGROUP")
            .arg(&["GROUP", "inventory", "demo", "COUNT", "1000", "STREAMS", "orders", ">"])
            .query(&mut connection)
            .expect("the group was made with the stream");
        let Some((_, read)) = reply.into_iter().flatten().next() else { break };
        let ids: Vec<_> = read.into_iter().map(|(id, _)| id).collect();
        acknowledged += redis::cmd("XACK")
            .arg("orders")
            .arg("inventory")
            .arg(&ids)
            .query::<usize>(&mut connection)
            .expect("the group exists");
    }
    eventually("everything is broadcast", PATIENCE, || match subscriber.count() {
        heard if heard >= entries => Ok(()),
        heard => Err(format!("{heard} of {entries}")),
    });
    let heard = subscriber.heard();
    let different: HashSet<_> = heard.iter().map(|message| &message.payload).collect();
    println!("\nthe way back, through the same kills:");
    println!("  in stream                 {entries:>8}");
    println!("  acknowledged by a group   {acknowledged:>8}");
    println!("  broadcast to a subscriber {:>8}", heard.len());
    println!("  of these, repeated        {:>8}", heard.len() - different.len());
    acknowledged == entries && heard.len() == entries && different.len() == entries
}
