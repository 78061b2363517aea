//! What people use instead: the scripts in `benches/peers/`, with the same work on the same machine.
//!
//! Throughput and processor time as in `throughput.rs`. What is lost is counted by publishing messages that are
//! all different, at a fixed rate, while the destination is killed and started again, or the bridge is. Payloads
//! are text, since ioredis makes text of them. A script that ends is started again at once, as a service manager
//! would. rsyslog is not here: Debian 12's `rsyslog-hiredis` (8.2302) brings omhiredis and no imhiredis, so that
//! rsyslog can write to Redis and not subscribe to it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::load::Load;
use crate::plan::Plan;
use crate::sample::{Sample, over};
use crate::support::{
    self, Daemon, Guarded, Options, Oracle, Payloads, Server, Setup, Version, alert, entries, eventually,
};
use crate::throughput;

/// Messages a second while something is killed.
const RATE: usize = 2_000;
/// Nothing more comes once nothing has come for so long.
const QUIET: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

/// One way to bridge.
#[derive(Debug, Clone, Copy)]
enum Bridge {
    Script { name: &'static str, program: &'static str, file: &'static str },
    Tidegate { name: &'static str, lines: &'static str, instances: usize },
}

const BRIDGES: [Bridge; 6] = [
    Bridge::Script { name: "redis-py, XADD each", program: "python3", file: "redis_py.py" },
    Bridge::Script { name: "redis-py, pipelined", program: "python3", file: "redis_py_pipeline.py" },
    Bridge::Script { name: "ioredis", program: "node", file: "ioredis.js" },
    Bridge::Tidegate { name: "tidegate, subscribe", lines: "mode = \"subscribe\"", instances: 1 },
    Bridge::Tidegate {
        name: "tidegate, subscribe, two instances",
        lines: "mode = \"subscribe\"",
        instances: 2,
    },
    Bridge::Tidegate { name: "tidegate, replication", lines: "mode = \"replication\"", instances: 1 },
];

/// How one bridge did.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// At full speed; none for two instances, which are measured elsewhere.
    pub(crate) sample: Option<Sample>,
    pub(crate) destination_restarted: Damage,
    pub(crate) killed: Damage,
}

/// What became of the messages.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Damage {
    pub(crate) published: usize,
    pub(crate) lost: usize,
    pub(crate) twice: usize,
    /// Gap records that say so.
    pub(crate) gaps: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    DestinationRestarts,
    BridgeKilled,
}

pub(crate) fn measure(plan: Plan) -> Vec<Peer> {
    let each = plan.seconds(1.5, 10.0);
    let around = plan.seconds(1.0, 5.0);
    BRIDGES
        .into_iter()
        .map(|bridge| {
            let peer = Peer {
                name: bridge.name().to_owned(),
                sample: bridge.throughput(each),
                destination_restarted: damage(bridge, Fault::DestinationRestarts, around),
                killed: damage(bridge, Fault::BridgeKilled, around),
            };
            if let Some(sample) = &peer.sample {
                println!(
                    "{}: {:.0}/s, {:.2} µs a message",
                    peer.name,
                    sample.per_second(),
                    sample.client_micros()
                );
            }
            println!(
                "{}: destination restarted {:?}, killed {:?}",
                peer.name, peer.destination_restarted, peer.killed
            );
            peer
        })
        .collect()
}

impl Bridge {
    fn name(self) -> &'static str {
        match self {
            Self::Script { name, .. } | Self::Tidegate { name, .. } => name,
        }
    }

    fn throughput(self, each: Duration) -> Option<Sample> {
        match self {
            Self::Tidegate { lines, instances: 1, .. } => {
                Some(throughput::run_capture(Cell::PLAIN, each, lines))
            }
            Self::Tidegate { .. } => None,
            Self::Script { program, file, .. } => {
                let server = Server::start(Version::Redis70);
                let script = Script::start(program, file, &server, &server);
                wait_subscribed(&server);
                let load = Load::of_messages(&server, &server, Cell::PLAIN);
                let sample =
                    over(each, &server, &load, || script.process.cpu_time().expect("the script runs"));
                load.stop();
                Some(sample)
            }
        }
    }
}

fn wait_subscribed(server: &Server) {
    eventually("the script has subscribed", PATIENCE, || {
        let counts: Vec<redis::Value> = server.ask(&["PUBSUB", "NUMSUB", "bench"]);
        if counts.last() == Some(&redis::Value::Int(1)) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
}

/// A script, and what it takes to start it again.
struct Script {
    program: PathBuf,
    arguments: [PathBuf; 3],
    process: Guarded,
}

impl Script {
    fn start(program: &str, file: &str, source: &Server, destination: &Server) -> Self {
        let path = std::env::var_os("PATH").expect("there is a PATH");
        let program =
            std::env::split_paths(&path).map(|directory| directory.join(program)).find(|at| at.exists());
        let program = program.expect("the scripts' programs are installed: scripts/servers.sh clients");
        let script = crate::repository().join("benches/peers").join(file);
        let arguments = [script, source.socket(), destination.socket()];
        let process = launch(&program, &arguments);
        Self { program, arguments, process }
    }

    /// As a service manager does.
    fn start_again_if_ended(&mut self) {
        if self.process.has_ended().is_some() {
            self.process = launch(&self.program, &self.arguments);
        }
    }
}

fn launch(program: &Path, arguments: &[PathBuf]) -> Guarded {
    let clients = clients();
    Guarded::start("script", program, |command| {
        command.args(arguments);
        command.env("PYTHONPATH", clients.join("python")).env("NODE_PATH", clients.join("node/node_modules"));
        // Its complaints while the destination is away are no news.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    })
}

/// Where `scripts/servers.sh clients` put the libraries.
fn clients() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own path");
    let found =
        own.ancestors().map(|directory| directory.join("clients")).find(|directory| directory.exists());
    found.expect("the client libraries are not installed: run scripts/servers.sh")
}

/// What runs while messages are published.
enum Running {
    Script(Script),
    Tidegate(Vec<Daemon>),
}

impl Running {
    fn start(bridge: Bridge, source: &Server, destination: &Server) -> Self {
        match bridge {
            Bridge::Script { program, file, .. } => {
                let script = Script::start(program, file, source, destination);
                wait_subscribed(source);
                Self::Script(script)
            }
            Bridge::Tidegate { lines, instances, .. } => {
                let first = Setup::new()
                    .endpoint("shop", source)
                    .endpoint("events", destination)
                    .routes(&format!(
                        r#"
                        [capture.bench]
                        source = "shop"
                        channels = ["bench"]
                        {lines}
                        destination = "events"
                        stream = "captured"
                        keep = "forever"
                        "#
                    ))
                    .expects(&[alert::DESTINATION, alert::GAP, &["backlog_short"]])
                    .start_ready();
                let mut all = vec![first];
                for _ in 1..instances {
                    let twin = all[0].start_twin();
                    twin.wait_state("bench", tidegate::status::RouteState::Standby);
                    all.push(twin);
                }
                Self::Tidegate(all)
            }
        }
    }

    fn kill_and_start_again(&mut self) {
        match self {
            Self::Script(script) => {
                script.process.kill();
                script.start_again_if_ended();
            }
            Self::Tidegate(all) => {
                // The one that writes, where there are several.
                let leader =
                    all.iter().position(|daemon| daemon.route("bench").is_ok_and(|route| route.leader));
                all[leader.unwrap_or(0)].restart();
            }
        }
    }

    fn keep_alive(&mut self) {
        if let Self::Script(script) = self {
            script.start_again_if_ended();
        }
    }
}

fn damage(bridge: Bridge, fault: Fault, around: Duration) -> Damage {
    let source = Server::with(Version::Redis70, Options::default().with("repl-diskless-sync-delay", "0"));
    // So that what is lost was lost on the way, and not by the destination.
    let mut destination = Server::with(Version::Redis70, Options::default().durable());
    let mut running = Running::start(bridge, &source, &destination);
    let oracle = Oracle::new(&source);
    let load = support::Load::new(2, usize::MAX / 2, &["bench"]).payloads(Payloads::Json).rate(RATE);
    let load = oracle.start(&load);
    let mut live_for = |time: Duration| {
        let begun = Instant::now();
        while begun.elapsed() < time {
            running.keep_alive();
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    live_for(around);
    match fault {
        Fault::DestinationRestarts => {
            destination.kill();
            // As long as a restart of a server with some data takes.
            live_for(Duration::from_millis(500));
            destination.start_again();
        }
        Fault::BridgeKilled => running.kill_and_start_again(),
    }
    let begun = Instant::now();
    while begun.elapsed() < around + Duration::from_secs(2) {
        running.keep_alive();
        std::thread::sleep(Duration::from_millis(20));
    }
    load.stop();
    let mut last = (0, Instant::now());
    while last.1.elapsed() < QUIET {
        running.keep_alive();
        let length = destination.stream_length("captured");
        if length != last.0 {
            last = (length, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let gaps = destination.stream_length("tidegate:bench:gaps");
    let published = oracle.sequence();
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    for (_, fields) in entries(&destination, "captured") {
        let payload = fields.into_iter().find(|(name, _)| name == b"payload").expect("a payload");
        *seen.entry(payload.1).or_default() += 1;
    }
    Damage {
        published: published.len(),
        lost: published.iter().filter(|message| !seen.contains_key(&message.payload)).count(),
        twice: seen.values().map(|times| times - 1).sum(),
        gaps,
    }
}
