//! Another master takes a place: the source's, while sessions still read the old one; or the destination's, twice,
//! before the first loss is recorded.

use super::destination::Call;
use super::*;
use crate::capture::engine::{HeartbeatReport, Side};

impl World {
    /// The report of an instance's heartbeat: when the sentinels last named the master that this instance reads.
    pub(super) fn heartbeat_report(&self, which: usize) -> HeartbeatReport {
        let confirmed = self.instances[which].confirmed_ms.filter(|_| self.sentinels);
        let confirmed = confirmed.map(|at| self.base + Duration::from_millis(at));
        HeartbeatReport { confirmed, ..HeartbeatReport::default() }
    }

    /// Sentinels make another server the source's master, and publishers follow at once. The old one continues.
    pub(super) fn move_source(&mut self) {
        for which in 0..self.instances.len() {
            for route in 0..self.instances[which].routes.len() {
                self.lose_opened(which, route);
                // All sent messages have arrived: the state is dated by when they were read.
                let end = self.source.sent.len();
                self.read_source(which, route, end);
                let now = self.now(which);
                let one = &mut self.instances[which].routes[route];
                one.leave_behind(end, now);
                self.drive(which, route);
                if !self.instances[which].routes[route].is_at(end) {
                    self.lose_window(which, route);
                }
            }
            self.instances[which].left_behind = true;
        }
        self.tell(|| "the source has another master".to_owned());
        for _ in 0..self.rng.u32(1..40) {
            let passed = self.rng.u64(..300);
            self.pass(passed);
            if self.rng.bool() {
                self.publish();
            }
            let which = self.rng.usize(..self.instances.len());
            self.turn(which);
        }
        if self.rng.bool() {
            let which = self.rng.usize(..self.instances.len());
            self.hear_of_move(which);
        }
    }

    /// An instance hears that its source has another master, and lets the old one go.
    pub(super) fn hear_of_move(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        if !std::mem::take(&mut instance.left_behind) {
            return;
        }
        for route in 0..self.instances[which].routes.len() {
            let now = self.now(which);
            self.instances[which].routes[route].engine.on_master_moved(Side::Source, now);
            self.drive(which, route);
            if self.rng.bool() {
                // A session that waits for its spool notices later. The sentinels confirm the new master meanwhile.
                let passed = self.rng.u64(..1_000);
                self.pass(passed);
                self.tick_route(which, route);
            }
            if self.instances[which].routes[route].left_behind.take().is_some() {
                self.lose_window(which, route);
            }
        }
    }

    /// Returns whether a message published now reaches no open session. A replication link brings it later.
    pub(super) fn is_unheard(&self) -> bool {
        !self.replicated && self.instances.iter().flat_map(|one| &one.routes).all(Driver::is_deaf)
    }

    /// A failover, and another one before the first loss is recorded.
    pub(super) fn fail_over_twice(&mut self) {
        let earliest = self.earliest.clone();
        self.fail_over();
        if self.real.is_none() {
            self.refusal = Some((Call::Append, "OOM command not allowed when used memory > 'maxmemory'."));
        }
        // Recently stored batches are kept for two seconds.
        let longest = if self.gentle { 10 } else { 60 };
        for _ in 0..self.rng.u32(..120) {
            let passed = self.rng.u64(..longest);
            self.pass(passed);
            let which = self.rng.usize(..self.instances.len());
            self.turn(which);
        }
        self.refusal = None;
        self.earlier = earliest;
        self.fail_over();
    }

    /// A replica has everything until now.
    pub(super) fn replicate(&mut self) {
        self.earliest = std::mem::replace(&mut self.earlier, self.model.clone());
    }

    /// No failover takes the destination back to before now.
    pub(super) fn replicate_everywhere(&mut self) {
        self.replicate();
        self.replicate();
    }
}
