//! What a route says of itself.

use std::time::Instant;

use super::super::append::Stored;
use super::super::batch::Gap;
use super::super::chain::Counts;
use super::{Ending, Route};
use crate::event::DropReason;
use crate::metrics::float;
use crate::rt;
use crate::spool::Spool;
use crate::status::RouteState;

/// What is shown beside the ledger.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Done by calls that stopped half way through the front batch.
    pub(super) part: u64,
    pub(super) last_append_unix_ms: Option<u64>,
    state: Option<(RouteState, u64)>,
    was_live: bool,
}

impl Route {
    /// Shows on the board and in the gauges where the route stands.
    pub(super) fn publish(&mut self) {
        let now_unix_ms = rt::unix_ms();
        let (state, reason) = self.state();
        self.report.was_live |= matches!(state, RouteState::Live | RouteState::Standby);
        let since = match self.report.state {
            Some((before, since)) if before == state => since,
            _ => {
                // The route that takes over has the gauge.
                if !matches!(self.ending, Ending::HandingOver(_) | Ending::HandedOver) {
                    self.parts.metrics.set_state(state);
                }
                now_unix_ms
            }
        };
        self.report.state = Some((state, since));
        let held = self.in_hand();
        let in_hand_bytes = self.held_bytes() as u64;
        let (leader, eligible) = (self.standing.is_leader(), self.is_eligible());
        let writes = leader && self.ending == Ending::Running;
        let writes_as = self.revision.as_ref().filter(|_| writes).map(ToString::to_string);
        self.writes_as.send_if_modified(|known| {
            let changed = *known != writes_as;
            *known = writes_as;
            changed
        });
        let others = self.standing.others(Instant::now()) as u64;
        let metrics = &self.parts.metrics;
        metrics.in_hand_events.set(float(held.total()));
        metrics.in_hand_bytes_memory.set(float(in_hand_bytes));
        metrics.in_hand_bytes_spool.set(float(self.overflow.disk_bytes()));
        // Without a durability to wait for, what is stored is as durable as it will be known to be.
        let kept = if self.durable.is_some() { self.chain.kept_events() } else { 0 };
        metrics.durable_lag_events.set(float(held.total() + kept));
        let gap_since = self.gap.as_ref().map(|gap| gap.started_unix_ms);
        let gap_since = gap_since.into_iter().chain(self.chain.unrecorded_since_unix_ms()).min();
        metrics.gap_open.set(if gap_since.is_some() { 1.0 } else { 0.0 });
        metrics.leader.set(if leader { 1.0 } else { 0.0 });
        metrics.standby_eligible.set(if !leader && eligible { 1.0 } else { 0.0 });
        let position = self.chain.checkpoint().map(|position| position.to_string());
        let durable = self.known_durable.map(|position| position.to_string());
        let spool_bytes = self.overflow.disk_bytes();
        let last = self.builder.last().or(self.chain.last());
        let spooled_all = self.overflow.has_written(last);
        let (ledger, process) = (self.account.route(held), self.account.process(held));
        if self.chain.was_read() {
            self.parts.metrics.ledger(&ledger);
        }
        let spool_error = self.spool.as_ref().and_then(Spool::unavailable);
        self.parts.metrics.spool_unavailable.set(if spool_error.is_some() { 1.0 } else { 0.0 });
        let replication = self.replication_status();
        let (source, destination) = (&self.source, &self.destination);
        self.parts.slot.update(|status| {
            status.state = state;
            status.since_unix_ms = since;
            status.reason = reason;
            status.source.connected = source.is_open();
            status.source.error.clone_from(&source.error);
            status.source.last_answer_unix_ms = source.heartbeat_unix_ms;
            status.destination.connected = destination.is_up();
            status.destination.error.clone_from(&destination.error);
            status.destination.last_answer_unix_ms = destination.answered_unix_ms;
            status.position = position;
            status.in_hand_bytes = in_hand_bytes;
            status.spool_bytes = spool_bytes;
            status.spooled_all = spooled_all;
            status.spool_error = spool_error;
            status.replication = replication;
            status.durable = durable;
            status.leader = leader;
            status.other_instances = others;
            status.gap_open_since_unix_ms = gap_since;
            status.last_progress_unix_ms = self.report.last_append_unix_ms;
            status.ledger = Some(ledger);
            status.process = Some(process);
        });
        if self.source.was_tried() && self.destination.was_tried() {
            self.parts.slot.tried();
        }
        self.parts.slot.progressed(now_unix_ms);
    }

    /// Counts events in hand that will not be stored, because of where the state stands.
    pub(super) fn give_up(&mut self, events: u64) {
        self.parts.metrics.dropped(DropReason::Stale).increment(events);
        self.account.dropped(DropReason::Stale, events);
    }

    pub(super) fn count_stored(&mut self, counts: &Counts, stored: &Stored, now: Instant) {
        self.count_part(stored);
        let metrics = &self.parts.metrics;
        // What the script skipped was there already, or was counted when the call stopped half way.
        let before = std::mem::take(&mut self.report.part);
        let skipped = counts.events.saturating_sub(stored.events() + before);
        metrics.deduplicated.increment(skipped);
        self.account.deduplicated(skipped);
        metrics.capture_lag_seconds.record(now.duration_since(counts.opened).as_secs_f64());
        metrics.batch_events.record(float(counts.events));
        if stored.rejected > 0
            && let Some(suppressed) = self.log.admit("dead_letter", now)
        {
            tracing::warn!(
                event = "dead_letter",
                route = self.parts.capture.name,
                events = stored.rejected,
                suppressed,
                "messages could not become entries; each is in {} with its reason",
                String::from_utf8_lossy(&self.keys.dead_letters)
            );
        }
    }

    /// Counts what a call did; a call that stopped half way is followed by one that does the rest.
    pub(super) fn count_part(&mut self, stored: &Stored) {
        let metrics = &self.parts.metrics;
        metrics.appended.increment(stored.appended);
        metrics.rejected.increment(stored.rejected);
        metrics.dead_letters.increment(stored.rejected);
        metrics.filtered.increment(stored.filtered);
        let now_unix_ms = rt::unix_ms();
        if stored.appended > 0 {
            metrics.last_append_timestamp_seconds.set(float(now_unix_ms) / 1000.0);
            self.report.last_append_unix_ms = Some(now_unix_ms);
        }
        self.account.stored(stored);
    }

    /// What an earlier call stored whose reply never came, or another instance. The state's ledger has
    /// counted it there already.
    pub(super) fn count_duplicate(&mut self, counts: &Counts) {
        let before = std::mem::take(&mut self.report.part);
        let events = counts.events.saturating_sub(before);
        self.parts.metrics.deduplicated.increment(events);
        self.account.deduplicated(events);
    }

    /// Tells of the gap that a batch carried, once it is recorded.
    pub(super) fn tell_gap(&mut self, counts: &Counts, gap: Option<&Gap>) {
        self.count_lost(counts, gap.is_some());
        if let Some(gap) = gap {
            self.account.recorded(gap.reason(), gap.dropped);
            self.account.gap(gap.ended_unix_ms);
            self.parts.metrics.gap(gap.cause).increment(1);
            tracing::warn!(
                event = "gap",
                route = self.parts.capture.name,
                cause = gap.cause.as_str(),
                since_unix_ms = gap.started_unix_ms,
                until_unix_ms = gap.ended_unix_ms,
                position = %counts.first,
                "what was published between {} and {} may be missing: {}; recorded in {}",
                rt::rfc3339(gap.started_unix_ms),
                rt::rfc3339(gap.ended_unix_ms),
                gap.detail,
                String::from_utf8_lossy(&self.keys.gaps)
            );
        }
    }

    /// Counts what was lost with a damaged spool: given up with its record, or stored by another instance.
    fn count_lost(&mut self, counts: &Counts, recorded: bool) {
        if counts.lost_before == 0 {
            return;
        }
        if recorded {
            self.parts.metrics.dropped(DropReason::SpoolCorrupt).increment(counts.lost_before);
            self.account.dropped(DropReason::SpoolCorrupt, counts.lost_before);
        } else {
            self.parts.metrics.deduplicated.increment(counts.lost_before);
            self.account.deduplicated(counts.lost_before);
        }
    }

    fn state(&self) -> (RouteState, Option<String>) {
        let (source, destination) = (&self.source, &self.destination);
        match self.ending {
            Ending::Draining(_) => return (RouteState::Draining, Some("told to stop".to_owned())),
            Ending::HandingOver(_) | Ending::HandedOver => {
                return (RouteState::Draining, Some("replaced by a new configuration".to_owned()));
            }
            Ending::Running => {}
        }
        if self.superseded.is_some() {
            let why = "another instance runs a newer configuration of this route".to_owned();
            return (RouteState::Superseded, Some(why));
        }
        if destination.parked && destination.error.is_some() {
            return (RouteState::Parked, destination.error.clone());
        }
        let why = destination.error.as_ref().map(|error| format!("destination: {error}"));
        let why = why.or_else(|| source.error.as_ref().map(|error| format!("source: {error}")));
        let up = source.is_open() && destination.is_up() && destination.error.is_none();
        match (up, self.report.was_live) {
            (true, _) if self.waits_for_durability() => {
                let why = "what is stored is not known to be durable, so no more is stored for now: look at the \
                           destination's replicas, or at its append-only file";
                (RouteState::Waiting, Some(why.to_owned()))
            }
            (true, _) if self.standing.is_leader() => (RouteState::Live, None),
            (true, _) if self.is_eligible() && self.standing.is_told_of_a_leader() => {
                (RouteState::Standby, None)
            }
            (true, was_live) if !self.standing.is_told_of_a_leader() && was_live => {
                (RouteState::Waiting, Some("nobody writes for the moment".to_owned()))
            }
            (true, _) => (
                RouteState::Joining,
                Some("what follows the checkpoint is not all in hand here yet".to_owned()),
            ),
            (false, true) => (RouteState::Waiting, why),
            (false, false) => (RouteState::Connecting, why),
        }
    }
}
