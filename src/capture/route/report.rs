//! What a route says of itself.

use std::time::Instant;

use super::super::append::Stored;
use super::super::batch::{Batch, Joint};
use super::{Ending, Route};
use crate::event::DropReason;
use crate::metrics::float;
use crate::rt;
use crate::status::{Ledger, RouteState};

/// What is counted for the status.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The state's ledger when it was read, and what was added since.
    pub(super) ledger: Ledger,
    /// Done by calls that stopped half way through the front batch, or by the one that ended it.
    pub(super) part: u64,
    pub(super) last_append_unix_ms: Option<u64>,
    state: Option<(RouteState, u64)>,
    was_live: bool,
}

impl Report {
    pub(super) fn dropped(&mut self, reason: DropReason, events: u64) {
        if events > 0 {
            *self.ledger.dropped.entry(reason.as_str().to_owned()).or_default() += events;
            self.ledger.received += events;
        }
    }
}

impl Route {
    /// Shows on the board and in the gauges where the route stands.
    pub(super) fn publish(&mut self, _now: Instant) {
        let now_unix_ms = rt::unix_ms();
        let (state, reason) = self.state();
        self.report.was_live |= state == RouteState::Live;
        let since = match self.report.state {
            Some((before, since)) if before == state => since,
            _ => {
                // The route that takes over has the gauge.
                if !matches!(self.ending, Ending::HandingOver(_)) {
                    self.parts.metrics.set_state(state);
                }
                now_unix_ms
            }
        };
        self.report.state = Some((state, since));
        let in_hand = self.chain.held_events() + self.builder.open_events();
        let in_hand_bytes = self.held_bytes() as u64;
        let metrics = &self.parts.metrics;
        metrics.in_hand_events.set(float(in_hand));
        metrics.in_hand_bytes_memory.set(float(in_hand_bytes));
        metrics.durable_lag_events.set(float(self.chain.held_events()));
        metrics.gap_open.set(if self.gap.is_some() { 1.0 } else { 0.0 });
        metrics.leader.set(if state == RouteState::Superseded { 0.0 } else { 1.0 });
        metrics.standby_eligible.set(0.0);
        let position = self.chain.acked().map(|position| position.to_string());
        let mut ledger = self.report.ledger.clone();
        ledger.in_hand = in_hand;
        // What is in hand is in the state's ledger only once it is stored.
        ledger.received += in_hand;
        let (source, destination, gap) = (&self.source, &self.destination, &self.gap);
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
            status.gap_open_since_unix_ms = gap.as_ref().map(|gap| gap.started_unix_ms);
            status.last_progress_unix_ms = self.report.last_append_unix_ms;
            status.ledger = Some(ledger);
        });
        if self.source.was_tried() && self.destination.was_tried() {
            self.parts.slot.tried();
        }
        self.parts.slot.progressed(now_unix_ms);
    }

    /// Counts events in hand that will not be stored, because of where the state stands.
    pub(super) fn give_up(&mut self, events: u64) {
        self.parts.metrics.dropped(DropReason::Stale).increment(events);
        self.report.dropped(DropReason::Stale, events);
    }

    pub(super) fn count_stored(&mut self, batch: &Batch, stored: &Stored, now: Instant) {
        self.count_part(stored);
        let metrics = &self.parts.metrics;
        // What the script skipped was there already, or was counted when the call stopped half way.
        let before = std::mem::take(&mut self.report.part);
        let skipped = batch.events.saturating_sub(stored.events() + before);
        metrics.deduplicated.increment(skipped);
        metrics.capture_lag_seconds.record(now.duration_since(batch.opened).as_secs_f64());
        metrics.batch_events.record(float(batch.events));
        self.tell_gap(batch);
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
        let ledger = &mut self.report.ledger;
        ledger.appended += stored.appended;
        ledger.rejected += stored.rejected;
        ledger.filtered += stored.filtered;
        ledger.received += stored.events();
    }

    /// What an earlier call stored whose reply never came, or another instance. The state's ledger has
    /// counted it there already.
    pub(super) fn count_duplicate(&mut self, batch: &Batch) {
        let before = std::mem::take(&mut self.report.part);
        self.parts.metrics.deduplicated.increment(batch.events.saturating_sub(before));
        self.tell_gap(batch);
    }

    /// Tells of the gap that a batch carried, once it is recorded.
    fn tell_gap(&self, batch: &Batch) {
        if let Joint::Gap(gap) = &batch.joint {
            self.parts.metrics.gap(gap.cause).increment(1);
            tracing::warn!(
                event = "gap",
                route = self.parts.capture.name,
                cause = gap.cause.as_str(),
                since_unix_ms = gap.started_unix_ms,
                until_unix_ms = gap.ended_unix_ms,
                position = %batch.first,
                "what was published between {} and {} may be missing: {}; recorded in {}",
                rt::rfc3339(gap.started_unix_ms),
                rt::rfc3339(gap.ended_unix_ms),
                gap.detail,
                String::from_utf8_lossy(&self.keys.gaps)
            );
        }
    }

    fn state(&self) -> (RouteState, Option<String>) {
        let (source, destination) = (&self.source, &self.destination);
        match self.ending {
            Ending::Draining(_) => return (RouteState::Draining, Some("told to stop".to_owned())),
            Ending::HandingOver(_) => {
                return (RouteState::Draining, Some("replaced by a new configuration".to_owned()));
            }
            Ending::Running => {}
        }
        if destination.superseded.is_some() {
            let why = "another instance runs a newer configuration of this route".to_owned();
            return (RouteState::Superseded, Some(why));
        }
        if destination.parked {
            return (RouteState::Parked, destination.error.clone());
        }
        let why = destination.error.as_ref().map(|error| format!("destination: {error}"));
        let why = why.or_else(|| source.error.as_ref().map(|error| format!("source: {error}")));
        match (source.is_open() && destination.is_up() && destination.error.is_none(), self.report.was_live) {
            (true, _) => (RouteState::Live, None),
            (false, true) => (RouteState::Waiting, why),
            (false, false) => (RouteState::Connecting, why),
        }
    }
}
