//! The faults: errors, lost answers and connections, stalls, freezes, kills, failovers, clocks, stops and starts.

use std::time::Duration;

use tokio::time::Instant;

use super::{World, traces};
use crate::broadcast::engine::leadership::TERM;

/// Errors that a server may answer to any command.
const ERRORS: [&str; 10] = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Redis is configured to save RDB snapshots",
    "READONLY You can't write against a read only replica.",
    "NOREPLICAS Not enough good replicas to write.",
    "BUSY Redis is busy running a script.",
    "LOADING Redis is loading the dataset in memory",
    "NOSCRIPT No matching script.",
    "NOPERM this user has no permissions",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR unknown command",
];

/// The present faults.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Which server answers so, to how many of ten commands, until when.
    error: Option<(usize, &'static str, u8, Instant)>,
    /// Until then a lease may be held twice: the server has lost one, or its clock has jumped.
    leases_doubtful: Option<Instant>,
    over: bool,
    pub(super) count: u64,
}

impl World {
    pub(super) fn is_stalled(&self, server: usize) -> bool {
        self.servers[server].stalled.is_some_and(|until| self.now < until)
    }

    /// The error that a server has for a command, in the place of an answer.
    pub(super) fn error_for(&mut self, server: usize, _command: &[Vec<u8>]) -> Option<String> {
        let (at, error, of_ten, until) = self.faults.error?;
        (at == server && self.now < until && self.rng.u8(..10) < of_ten).then(|| error.to_owned())
    }

    /// Returns whether a connection that is just being opened fails.
    pub(super) fn loses_an_answer(&mut self) -> bool {
        let loses = !self.gentle && !self.faults.over && self.rng.u8(..12) == 0;
        self.faults.count += u64::from(loses);
        loses
    }

    /// Returns whether an instance stops here, between a decision and its effect.
    pub(super) fn freezes(&mut self, at: usize) -> bool {
        if self.gentle || self.faults.over || self.rng.u8(..60) > 0 {
            return false;
        }
        self.faults.count += 1;
        let millis = if self.rng.bool() { self.rng.u64(..300) } else { self.rng.u64(..6_000) };
        self.instances[at].frozen = Some(self.now + Duration::from_millis(millis));
        self.session_ends(at);
        true
    }

    pub(super) fn something_goes_wrong(&mut self) {
        let at = self.rng.usize(..self.instances.len());
        let server = self.rng.usize(..self.servers.len());
        if !self.instances[at].is_running() {
            let me = format!("{:016x}", self.rng.u64(..));
            let now = self.now;
            return self.instances[at].begin_again(&self.endpoints, me, now);
        }
        if self.gentle {
            if self.rng.u8(..3) == 0 {
                self.stop(at, Duration::from_secs(3_600));
            }
            return;
        }
        self.faults.count += 1;
        let soon = |rng: &mut fastrand::Rng, most: u64| Duration::from_millis(rng.u64(1..most));
        let k = self.rng.u8(..11);
        if traces() {
            let session = self.instances[at].session;
            eprintln!("{:?} fault {k} at {at}, session {session}", self.now - self.begin);
        }
        match k {
            0 | 1 => self.break_link(at),
            2 => {
                // A kill: the bytes in the sockets still arrive.
                self.session_ends(at);
                self.cut(at);
                self.instances[at].end();
            }
            3 => {
                // A reload, or a stop that may not take long enough.
                let drain = soon(&mut self.rng, 5_000);
                self.session_ends(at);
                self.stop(at, drain);
            }
            4 => {
                let until = self.now + soon(&mut self.rng, 4_000);
                self.servers[server].stalled = Some(until);
                self.everything_is_loose();
            }
            5 | 6 => {
                let error = ERRORS[self.rng.usize(..ERRORS.len())];
                let until = self.now + soon(&mut self.rng, 1_500);
                self.faults.error = Some((server, error, self.rng.u8(1..=10), until));
            }
            7 => {
                // PUBLISH is refused inside the script, as where a right is missing.
                let refuses = &mut self.servers[0].model.refuses;
                *refuses =
                    if refuses.is_some() { None } else { Some("NOPERM no right to the channel".into()) };
            }
            8 => self.servers[0].before = self.servers[0].model.clone(),
            9 if self.real.is_none() => self.fail_over(),
            10 => {
                let jump = self.rng.i64(-5_000..5_000);
                self.servers[0].skew_ms += jump;
                self.checks.forgets = true;
                self.leases_are_doubtful();
            }
            _ => self.break_link(at),
        }
    }

    /// The stream's server is another one now, which has not got the last writes.
    fn fail_over(&mut self) {
        // If the cursor itself is lost, an instance continues at its last known one, and the holes are lost with it: no
        // promise covers that.
        if self.servers[0].before.position().is_none() {
            return;
        }
        self.leases_are_doubtful();
        for at in 0..self.instances.len() {
            self.cut(at);
            self.break_link(at);
        }
        let before = self.servers[0].before.clone();
        let model = &mut self.servers[0].model;
        // Entries stay: a stream that goes back is another one, which other tests cover by counting.
        let stream = (std::mem::take(&mut model.stream), model.last, model.added, model.group.take());
        *model = before;
        (model.stream, model.last, model.added, model.group) = stream;
        self.checks.failed_over(&self.servers[0].model);
    }

    /// The messages of a session may have no known effect.
    pub(super) fn session_ends(&mut self, at: usize) {
        let session = self.instances[at].session;
        self.checks.loose(session, &self.servers[0].model);
    }

    /// The holder of a lease continues for its time, and the next one may have begun.
    fn leases_are_doubtful(&mut self) {
        self.faults.leases_doubtful = Some(self.now + TERM);
        self.everything_is_loose();
    }

    /// A session begins. Its lease may be held by another instance too.
    pub(super) fn session_begins(&mut self, at: usize) {
        if self.faults.leases_doubtful.is_some_and(|until| self.now < until) {
            self.session_ends(at);
        }
    }

    pub(super) fn everything_is_loose(&mut self) {
        (0..self.instances.len()).for_each(|at| self.session_ends(at));
    }

    /// Nothing goes wrong any more.
    pub(super) fn recover(&mut self) {
        self.faults.over = true;
        self.faults.error = None;
        self.servers.iter_mut().for_each(|server| {
            server.stalled = None;
            server.model.refuses = None;
        });
        self.instances.iter_mut().for_each(|instance| instance.frozen = None);
        self.begin_those_that_ended();
    }

    pub(super) fn begin_those_that_ended(&mut self) {
        for at in 0..self.instances.len() {
            if !self.instances[at].is_running() {
                let me = format!("{:016x}", self.rng.u64(..));
                let now = self.now;
                self.instances[at].begin_again(&self.endpoints, me, now);
            }
        }
    }
}
