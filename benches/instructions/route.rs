//! A route inside this process, with everything that it is to work through already waiting.

use std::time::{Duration, Instant};

use tidegate::config;
use tidegate::metrics::Metrics;
use tidegate::status::{Board, RouteState, RouteStatus};
use tidegate::supervisor::Supervisor;
use tokio::runtime::Runtime;

use crate::figures::{Case, Kind};
use crate::support::{Daemon, Options, Server, Setup, Version};

const ROUTE: &str = "bench";
/// Callgrind makes everything some fifty times slower.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at how far the route is; what that costs vanishes beside the messages.
const LOOK: Duration = Duration::from_millis(20);

/// Everything is published in one step: the server does nothing else meanwhile.
const PUBLISH: &str = "for i = 1, tonumber(ARGV[1]) do redis.call('PUBLISH', 'bench', ARGV[2]) end";
/// All different: of payloads that repeat, a broadcast wonders whether they are its own.
const ADD: &str = "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', 'bench', '*', 'payload', \
    string.format('%08d', i) .. string.sub(ARGV[2], 9)) end";

/// A route that has work to do.
pub(crate) struct Loaded {
    runtime: Runtime,
    supervisor: Option<Supervisor>,
    board: Board,
    case: Case,
    /// Only its files are used: the configuration, and the users that it needs.
    #[allow(dead_code, reason = "held")]
    files: Daemon,
    /// Source and destination: in replication mode a server that is both sends back what is appended.
    servers: [Server; 2],
}

impl Loaded {
    pub(crate) fn prepare(case: Case) -> Self {
        let options = Options::default()
            .with("repl-diskless-sync-delay", "0")
            .with("repl-backlog-size", "256mb")
            .with("client-output-buffer-limit", "pubsub 0 0 0 replica 0 0 0");
        let servers = [Server::with(Version::Redis70, options), Server::start(Version::Redis70)];
        let [source, destination] = &servers;
        let setup = match case.kind {
            Kind::Broadcast => Setup::new().endpoint("shop", source),
            _ => Setup::new().endpoint("shop", source).endpoint("events", destination),
        };
        let files = setup.routes(&routes(case.kind)).prepare();
        let loaded =
            config::load(&files.configuration(), Vec::new(), &[]).expect("the configuration is right");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let board = Board::default();
        let supervisor = runtime.block_on(async {
            // No place on disk: what is counted is the way through memory.
            Supervisor::start(loaded.config, 1, None, board.clone(), Metrics::new())
        });
        let loaded = Self { runtime, supervisor: Some(supervisor), board, case, files, servers };
        loaded.wait("the route is live", |status| status.state == RouteState::Live);
        let script = if matches!(case.kind, Kind::Broadcast) { ADD } else { PUBLISH };
        let (count, payload) = (case.messages().to_string(), "x".repeat(case.bytes));
        loaded.servers[0].ask::<()>(&["EVAL", script, "0", &count, &payload]);
        loaded
    }

    /// Works through everything.
    #[inline(never)]
    pub(crate) fn work(self) -> Self {
        let count = self.case.messages() as u64;
        self.wait("everything is worked through", |status| {
            let captured = status.process_counts.as_ref().map_or(0, |ledger| ledger.stored);
            let published = status.broadcast.as_ref().map_or(0, |counts| counts.published);
            captured + published >= count
        });
        self
    }

    fn wait(&self, what: &str, done: impl Fn(&RouteStatus) -> bool) {
        let begun = Instant::now();
        self.runtime.block_on(async {
            loop {
                let status = self.board.slots().first().map(|(_, slot)| slot.read());
                if status.as_ref().is_some_and(&done) {
                    return;
                }
                assert!(begun.elapsed() < PATIENCE, "{what}? {status:?}");
                tokio::time::sleep(LOOK).await;
            }
        });
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            self.runtime.block_on(supervisor.drain());
        }
    }
}

fn routes(kind: Kind) -> String {
    let capture = |mode: &str| {
        format!(
            r#"
            [capture.{ROUTE}]
            source = "shop"
            channels = ["bench"]
            mode = "{mode}"
            destination = "events"
            stream = "captured"
            keep = {{ entries = 1_000 }}
            "#
        )
    };
    match kind {
        Kind::Subscribe => capture("subscribe"),
        Kind::Replication => capture("replication"),
        Kind::Broadcast => format!(
            r#"
            [broadcast.{ROUTE}]
            source = "shop"
            stream = "bench"
            after = "added"
            start = "beginning"
            destination = "shop"
            channel = "bench"
            message = "<field:payload>"
            "#
        ),
    }
}
