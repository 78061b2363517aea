//! Promise: whatever happens to two instances, as long as one of them watches at any time, everything is
//! stored in the exact order, with no gap and nothing twice. And with one instance: nothing twice, and
//! every missing message lies inside a recorded gap; where it reads the replication stream, nothing is missing.
//!
//! One round of faults here; `make soak` sets `TIDEGATE_SOAK` to the number of rounds. `TIDEGATE_SEED` repeats what
//! was done to them, though not when the machine did what.

use std::time::Duration;

use nix::sys::signal::Signal;
use tidegate::status::RouteState;

use crate::pair;
use crate::support::{
    Daemon, Load, Options, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted, assert_exact,
    captured, eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(120);
const ALERTS: &[&[&str]] = &[alert::SOURCE, alert::DESTINATION, &["outdated"]];

fn number(name: &str) -> Option<usize> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

/// How the source is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Subscribe,
    Replication,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Replication => "replication",
        }
    }

    /// What the connections are named by which it is read.
    fn connections(self) -> &'static str {
        match self {
            Self::Subscribe => ":orders:subscribe",
            Self::Replication => ":orders:replicate",
        }
    }

    fn source(self) -> Server {
        Server::with(Version::Redis70, Options::replication_source())
    }
}

fn routes(mode: Mode, batch: usize) -> String {
    // Another list of channels each time: positions count otherwise from the change on.
    pair::routes(mode.as_str(), &format!("returns.{batch}"))
}

/// What is done to the two and to their servers.
#[derive(Clone, Copy)]
enum Fault {
    Kill,
    Pause,
    CutDestination,
    CutSource,
    Failover,
    RollingRestart,
    Reload,
}

/// Everything that is staged, in an order that the seed decides.
fn faults(random: &mut fastrand::Rng) -> Vec<Fault> {
    let mut faults = [
        [Fault::Kill; 3].as_slice(),
        &[Fault::Pause; 3],
        &[Fault::CutDestination; 2],
        &[Fault::CutSource; 2],
        &[Fault::Failover; 8],
        &[Fault::RollingRestart],
        &[Fault::Reload],
    ]
    .concat();
    random.shuffle(&mut faults);
    faults
}

struct Chaos {
    random: fastrand::Rng,
    mode: Mode,
    // Dropped before the servers, whose end they would tell of.
    instances: [Daemon; 2],
    source: Server,
    destination: Server,
    changes: usize,
}

impl Chaos {
    /// Both are ready: whatever happens next, the other one watches.
    #[track_caller]
    fn wait_both(&self) {
        for instance in &self.instances {
            instance.wait_ready();
        }
    }

    #[track_caller]
    fn wait_progress(&self, entries: usize) {
        self.destination.wait_longer("orders", entries);
    }

    fn cut_clients(&self, server: &Server, role: &str, all: bool) {
        let most = if all { usize::MAX } else { 1 };
        for id in server.clients(role).iter().take(most) {
            server.end_client(id);
        }
    }

    fn stage(&mut self, fault: Fault) {
        let which = self.random.usize(..2);
        match fault {
            Fault::Kill => self.instances[which].restart(),
            Fault::Pause => {
                let pause = self.random.u64(..3_000);
                let process = self.instances[which].process();
                process.signal(Signal::SIGSTOP);
                // The pause itself is what is done to it.
                std::thread::park_timeout(Duration::from_millis(pause));
                process.signal(Signal::SIGCONT);
            }
            Fault::CutDestination => self.cut_clients(&self.destination, ":orders:append", true),
            Fault::CutSource => self.cut_clients(&self.source, self.mode.connections(), false),
            Fault::Failover => {
                // What had not come to the replica is lost.
                self.destination.ask::<()>(&["SAVE"]);
                let lost = self.random.usize(..800);
                self.wait_progress(lost);
                self.destination.restart();
            }
            Fault::RollingRestart => {
                for which in 0..2 {
                    assert_eq!(self.instances[which].stop().code(), Some(0));
                    self.instances[which].start_again();
                    self.wait_both();
                }
            }
            Fault::Reload => {
                self.changes += 1;
                let routes = routes(self.mode, self.changes);
                for instance in &mut self.instances {
                    instance.reload(&routes);
                    instance.wait_ready();
                }
            }
        }
    }
}

fn two_instances_lose_nothing(mode: Mode) {
    let seed = number("TIDEGATE_SEED").unwrap_or_else(|| fastrand::usize(..));
    let rounds = number("TIDEGATE_SOAK").unwrap_or(1);
    eprintln!("TIDEGATE_SEED={seed}");
    let source = mode.source();
    let destination = Server::start(Version::Redis82);
    let first = Setup::between(&source, &destination).routes(&routes(mode, 0)).expects(ALERTS).start_ready();
    let second = first.start_twin();
    let oracle = Oracle::new(&source);
    let mut chaos = Chaos {
        random: fastrand::Rng::with_seed(seed as u64),
        mode,
        source,
        destination,
        instances: [first, second],
        changes: 0,
    };
    chaos.wait_both();
    let load = oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).rate(5_000));
    for _ in 0..rounds {
        for fault in faults(&mut chaos.random) {
            chaos.wait_progress(200);
            chaos.stage(fault);
            chaos.wait_both();
        }
    }
    load.stop();
    oracle.publish_last("orders", &chaos.destination, "orders", PATIENCE);
    assert_eq!(gaps(&chaos.destination, "orders"), []);
    assert_exact(&oracle.sequence(), &captured(&chaos.destination, "orders"));
    for instance in &chaos.instances {
        instance.wait_settled("orders", oracle.sequence().len());
    }
}

fn one_instance_records_what_it_missed(mode: Mode) {
    let seed = number("TIDEGATE_SEED").unwrap_or_else(|| fastrand::usize(..));
    let rounds = 8 * number("TIDEGATE_SOAK").unwrap_or(1);
    eprintln!("TIDEGATE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed as u64);
    let source = mode.source();
    let mut destination = Server::start(Version::Redis70);
    let setup = Setup::between(&source, &destination);
    let setup = setup.routes(&routes(mode, 0)).expects(ALERTS);
    let mut daemon = match mode {
        Mode::Subscribe => setup.expects(&[alert::GAP]),
        Mode::Replication => setup,
    }
    .start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    let load = Load::new(3, usize::MAX / 2, &["orders"]).payloads(Payloads::Unique);
    let load = oracle.start(&load.rate(5_000));
    for _ in 0..rounds {
        daemon.wait_state("orders", RouteState::Live);
        destination.wait_longer("orders", 200);
        match random.usize(..3) {
            0 => daemon.restart(),
            1 => {
                drop(source.try_ask::<usize>(&["CLIENT", "KILL", "USER", "tidegate-shop"]));
                // The route still says that it is live; what is published now, the last message too, is missed.
                eventually("it listens again", PATIENCE, || {
                    if source.clients(mode.connections()).is_empty() {
                        Err("nobody listens".to_owned())
                    } else {
                        Ok(())
                    }
                });
            }
            _ => {
                destination.ask::<()>(&["SAVE"]);
                destination.restart();
            }
        }
    }
    daemon.wait_state("orders", RouteState::Live);
    load.stop();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    let gaps = gaps(&destination, "orders");
    if mode == Mode::Replication {
        assert_eq!(gaps, []);
        return assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    }
    let seen = [daemon.seen("orders").of_a_destination_that_goes_back()];
    let causes = ["restart", "source_disconnected"];
    assert_accounted(&oracle.sequence(), &captured(&destination, "orders"), &gaps, &seen, &causes);
    assert!(gaps.len() <= rounds, "at most one gap for each time: {gaps:#?}");
}

#[test]
fn two_instances_that_subscribe() {
    two_instances_lose_nothing(Mode::Subscribe);
}

#[test]
fn two_instances_that_read_the_replication_stream() {
    two_instances_lose_nothing(Mode::Replication);
}

#[test]
fn one_instance_that_subscribes() {
    one_instance_records_what_it_missed(Mode::Subscribe);
}

#[test]
fn one_instance_that_reads_the_replication_stream() {
    one_instance_records_what_it_missed(Mode::Replication);
}
