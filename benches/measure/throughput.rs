//! Throughput and processor time: how close a route comes to what the same server can do at all.
//!
//! The ceilings are ideal clients, that have no bridge logic (`ideal.rs`). All run against a fresh server that
//! is source and destination at once, its append-only file off, in turns, so that a machine whose speed drifts
//! slows all of them. Publishers keep a fixed number of messages on the way: they offer exactly what the route
//! sustains, and the server, not a queue, is what is measured.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::group::Workers;
use crate::ideal::{Ideal, Way};
use crate::ideal_broadcast::{self, Listener};
use crate::load::{ADDED, Load};
use crate::plan::Plan;
use crate::sample::{Sample, Spread, over};
use crate::support::{Daemon, Options, Server, Setup, Version};

/// Pairs of a table; the machine is nobody's alone.
pub(crate) const PAIRS: usize = 7;

/// What a route is measured as: the first of each is a ceiling.
pub(crate) const IDEAL: &str = "ideal client, same script";
pub(crate) const TAP: &str = "ideal client, tapping";
pub(crate) const XADD: &str = "ideal client, plain XADD";
pub(crate) const IDEAL_BROADCAST: &str = "ideal client";
pub(crate) const IDEAL_BESIDE_A_GROUP: &str = "ideal client, beside a group";

/// How broadcasts are configured that are measured: a name, lines of TOML, and whether a group acknowledges.
const BROADCASTS: [(&str, &str, bool); 3] = [
    ("broadcast, added", "after = \"added\"\nstart = \"beginning\"", false),
    ("broadcast, order = stream", ORDER_STREAM, true),
    ("broadcast, order = acknowledgement", ORDER_ACKNOWLEDGEMENT, true),
];
const ORDER_ACKNOWLEDGEMENT: &str = "after = \"workers\"\norder = \"acknowledgement\"\nstart = \"beginning\"";
pub(crate) const ORDER_STREAM: &str = "after = \"workers\"\norder = \"stream\"\nstart = \"beginning\"";
/// How captures are.
const CAPTURES: [(&str, &str); 2] =
    [(SUBSCRIBE, "mode = \"subscribe\""), (REPLICATION, "mode = \"replication\"")];
pub(crate) const SUBSCRIBE: &str = "subscribe";
pub(crate) const REPLICATION: &str = "replication";

/// All runs of one cell, each by each pair.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) cell: Cell,
    /// The ceilings first.
    pub(crate) runs: Vec<Runs>,
}

/// The runs of one client.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Runs {
    pub(crate) name: String,
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    pub(crate) fn of(&self, name: &str) -> Option<&Runs> {
        self.runs.iter().find(|runs| runs.name == name)
    }

    /// What one reached of what another did, pair by pair.
    pub(crate) fn ratio(&self, name: &str, ceiling: &str) -> Option<Spread> {
        let (own, ceiling) = (self.of(name)?, self.of(ceiling)?);
        let pairs = own.samples.iter().zip(&ceiling.samples);
        Some(Spread::of(pairs.map(|(own, ideal)| own.per_second() / ideal.per_second())))
    }
}

impl Runs {
    pub(crate) fn spread(&self, what: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(what))
    }
}

/// Every cell of the captures.
pub(crate) fn captures(plan: Plan) -> Vec<Row> {
    plan.cells()
        .into_iter()
        .map(|cell| capture(cell, plan.pairs(1, PAIRS), plan.seconds(1.5, 10.0)))
        .collect()
}

/// One cell: ideal clients and captures in turns.
fn capture(cell: Cell, pairs: usize, each: Duration) -> Row {
    let mut runners: Vec<Runner<'_>> = vec![
        (IDEAL, Box::new(move || ideal(cell, each, Way::Script))),
        (TAP, Box::new(move || ideal(cell, each, Way::Tap))),
        (XADD, Box::new(move || ideal(cell, each, Way::Xadd))),
    ];
    for (name, mode) in CAPTURES {
        runners.push((name, Box::new(move || run_capture(cell, each, mode))));
    }
    in_turns(cell, pairs, &runners)
}

/// What the gate looks at.
pub(crate) fn subscribe_only(pairs: usize, each: Duration) -> Row {
    let cell = Cell::PLAIN;
    let [(name, mode), _] = CAPTURES;
    let runners: [Runner<'_>; 2] = [
        (IDEAL, Box::new(move || ideal(cell, each, Way::Script))),
        (name, Box::new(move || run_capture(cell, each, mode))),
    ];
    in_turns(cell, pairs, &runners)
}

/// Every size of the broadcasts.
pub(crate) fn broadcasts(plan: Plan) -> Vec<Row> {
    let cells = plan.cells().into_iter().filter(|cell| cell.channels == 1);
    let each = plan.seconds(1.5, 10.0);
    cells
        .map(|cell| {
            let mut runners: Vec<Runner<'_>> = vec![
                (IDEAL_BROADCAST, Box::new(move || ideal_broadcast(cell, each, false))),
                (IDEAL_BESIDE_A_GROUP, Box::new(move || ideal_broadcast(cell, each, true))),
            ];
            for (name, lines, group) in BROADCASTS {
                runners.push((name, Box::new(move || run_broadcast(cell, each, lines, group))));
            }
            in_turns(cell, plan.pairs(1, PAIRS), &runners)
        })
        .collect()
}

/// What a tap spends on writes that are nobody's, in µs for each.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unrelated {
    pub(crate) writes: f64,
    /// Messages a second, where there are some.
    pub(crate) messages: f64,
    /// Of an ideal client that taps, and hears of nothing else.
    pub(crate) ideal: Spread,
    /// Of the daemon, the same.
    pub(crate) alone: Spread,
    /// How much more the daemon takes for messages and writes than for the messages.
    pub(crate) beside: Spread,
}

/// Writes that are nobody's, and messages beside them, a second each.
const WRITES: u64 = 100_000;
const MESSAGES: u64 = 10_000;

pub(crate) fn unrelated(plan: Plan) -> Unrelated {
    let each = plan.seconds(2.0, 5.0);
    let writing = |server: &Server, client: &dyn Fn() -> Duration| {
        let load = Load::of_writes(server, WRITES);
        let sample = over(each, server, &load, client);
        load.stop();
        sample
    };
    let (mut ideals, mut alones, mut besides) = (Vec::new(), Vec::new(), Vec::new());
    let (mut writes, mut messages) = (0.0, 0.0);
    for _ in 0..plan.pairs(1, PAIRS) {
        let server = capture_server();
        let ideal = Ideal::start(&server, Cell::PLAIN, Way::Tap);
        ideals.push(writing(&server, &|| ideal.cpu_time()).client_micros());
        ideal.stop();
        let (server, daemon) = start_capture(Cell::PLAIN, "mode = \"replication\"");
        let alone = writing(&server, &|| cpu(&daemon));
        alones.push(alone.client_micros());
        let load = Load::of_messages_at(&server, MESSAGES);
        let without = over(each, &server, &load, || cpu(&daemon));
        let with = writing(&server, &|| cpu(&daemon));
        load.stop();
        besides.push((with.client_share() - without.client_share()) * 1e6 / with.per_second());
        (writes, messages) = (alone.per_second(), without.per_second());
    }
    let [ideal, alone, beside] = [ideals, alones, besides].map(Spread::of);
    println!(
        "a write of {writes:.0}/s: ideal {:.3} µs, replication {:.3} µs, beside {messages:.0} messages/s {:.3} µs",
        ideal.median, alone.median, beside.median
    );
    Unrelated { writes, messages, ideal, alone, beside }
}

pub(crate) type Runner<'a> = (&'static str, Box<dyn Fn() -> Sample + 'a>);

pub(crate) fn in_turns(cell: Cell, pairs: usize, runners: &[Runner<'_>]) -> Row {
    println!(
        "{cell}\n{:>34} {:>12} {:>11} {:>10} {:>10}",
        "", "messages/s", "server CPU", "server µs", "client µs"
    );
    let mut row = Row {
        cell,
        runs: runners
            .iter()
            .map(|(name, _)| Runs { name: (*name).to_owned(), samples: Vec::new() })
            .collect(),
    };
    for _ in 0..pairs {
        for ((name, run), runs) in runners.iter().zip(&mut row.runs) {
            let sample = run();
            println!(
                "{name:>34} {:>12.0} {:>9.0} % {:>10.2} {:>10.2}",
                sample.per_second(),
                sample.server_share() * 100.0,
                sample.server_micros(),
                sample.client_micros(),
            );
            runs.samples.push(sample);
        }
    }
    row
}

fn ideal(cell: Cell, each: Duration, way: Way) -> Sample {
    let server = capture_server();
    let ideal = Ideal::start(&server, cell, way);
    let load = Load::of_messages(&server, &server, cell);
    let sample = over(each, &server, &load, || ideal.cpu_time());
    load.stop();
    ideal.stop();
    sample
}

pub(crate) fn run_capture(cell: Cell, each: Duration, mode: &str) -> Sample {
    let (server, daemon) = start_capture(cell, mode);
    let load = Load::of_messages(&server, &server, cell);
    let sample = over(each, &server, &load, || cpu(&daemon));
    load.stop();
    sample
}

fn ideal_broadcast(cell: Cell, each: Duration, group: bool) -> Sample {
    let server = Server::start(Version::Redis70);
    let listener = Listener::start(&server);
    let workers = group.then(|| Workers::start(&server));
    let ideal = ideal_broadcast::start(&server, cell);
    let load = Load::of_entries(&server, cell);
    let sample = over(each, &server, &load, || ideal.cpu_time());
    load.stop();
    ideal.stop();
    workers.into_iter().for_each(Workers::stop);
    listener.stop();
    sample
}

fn run_broadcast(cell: Cell, each: Duration, lines: &str, group: bool) -> Sample {
    let server = Server::start(Version::Redis70);
    let workers = group.then(|| Workers::start(&server));
    let daemon = start_broadcast(&server, lines);
    let listener = Listener::start(&server);
    let load = Load::of_entries(&server, cell);
    let sample = over(each, &server, &load, || cpu(&daemon));
    load.stop();
    workers.into_iter().for_each(Workers::stop);
    listener.stop();
    sample
}

/// A daemon with one broadcast on a server.
pub(crate) fn start_broadcast(server: &Server, lines: &str) -> Daemon {
    Setup::new()
        .endpoint("bench", server)
        .routes(&format!(
            r#"
            [broadcast.bench]
            source = "bench"
            stream = "{ADDED}"
            {lines}
            destination = "bench"
            channel = "bench"
            message = "<field:payload>"
            "#
        ))
        // The server's own default is not made for such a rate.
        .expects(&[&["backlog_short"]])
        .start_ready()
}

/// A daemon with one invalidation on a server, which is its cache as well: of the keys "0" and a payload.
pub(crate) fn start_invalidation(server: &Server, mode: &str) -> Daemon {
    Setup::new()
        .endpoint("bench", server)
        .routes(&format!(
            r#"
            [invalidate.bench]
            source = "bench"
            channels = ["bench"]
            mode = "{mode}"
            destination = "bench"
            keys = ["0<field:payload>"]
            "#
        ))
        // The server's own default is not made for such a rate.
        .expects(&[&["backlog_short"]])
        .start_ready()
}

pub(crate) fn cpu(daemon: &Daemon) -> Duration {
    daemon.process().cpu_time().expect("the daemon runs")
}

/// A replica is served at once.
pub(crate) fn served_at_once() -> Options {
    Options::default().with("repl-diskless-sync-delay", "0")
}

pub(crate) fn capture_server() -> Server {
    Server::with(Version::Redis70, served_at_once())
}

/// A server, and a daemon with one capture on it.
pub(crate) fn start_capture(cell: Cell, mode: &str) -> (Server, Daemon) {
    let server = capture_server();
    let daemon = start_capture_on(&server, "", cell, mode);
    (server, daemon)
}

/// A daemon with one capture on a server, and further settings of it.
pub(crate) fn start_capture_on(server: &Server, settings: &str, cell: Cell, mode: &str) -> Daemon {
    Setup::new()
        .endpoint_with("bench", server, settings)
        .routes(&format!(
            r#"
            [capture.bench]
            source = "bench"
            {}
            {mode}
            destination = "bench"
            stream = "{}"
            keep = {{ entries = {} }}
            "#,
            cell.subscriptions(),
            cell.stream(),
            cell.keep()
        ))
        // The server's own default is not made for such a rate.
        .expects(&[&["backlog_short"]])
        .start_ready()
}
