//! A route's status and counts.

pub(super) mod notice;

use super::chain::PassedCounts;
use super::ending::Ending;
use super::reading::ReaderOpening;
use super::{Engine, Notice};
use crate::capture::append::call::Stored;
use crate::capture::batch::gap::Gap;
use crate::config::Durability;
use crate::event::DropReason;
use crate::logs::LogCode;
use crate::metrics::float;
use crate::position::Position;
use crate::rt::{self, Moment};
use crate::status::{Buffered, Ledger, RouteState};

/// The status beside the ledger.
#[derive(Debug, Default)]
pub(super) struct ReportState {
    /// Done by calls that stopped half way through the front batch.
    pub(super) part: u64,
    last_append_unix_ms: Option<u64>,
    state: Option<(RouteState, u64)>,
    was_live: bool,
    changed: bool,
}

/// A route's status, for the board and the gauges.
#[derive(Debug)]
pub(in crate::capture) struct CaptureSnapshot {
    pub(in crate::capture) state: RouteState,
    /// Why it is not live, for the operator.
    pub(in crate::capture) reason: Option<String>,
    pub(in crate::capture) since_unix_ms: u64,
    pub(in crate::capture) source: ServerView,
    pub(in crate::capture) destination: ServerView,
    /// The checkpoint.
    pub(in crate::capture) position: Option<Position>,
    pub(in crate::capture) durable: Option<Position>,
    /// Messages that are not known to be durable.
    pub(in crate::capture) durable_lag: u64,
    pub(in crate::capture) held: Buffered,
    /// Bytes in memory, without the sockets' buffers.
    pub(in crate::capture) held_bytes: usize,
    pub(in crate::capture) spool_bytes: u64,
    /// True if an end now would lose nothing.
    pub(in crate::capture) spooled_all: bool,
    pub(in crate::capture) leader: bool,
    pub(in crate::capture) eligible: bool,
    /// Other instances that were seen lately.
    pub(in crate::capture) others: u64,
    pub(in crate::capture) gap_open_since_unix_ms: Option<u64>,
    pub(in crate::capture) last_append_unix_ms: Option<u64>,
    /// True if the state has been read, so that its ledger is more than an assumption.
    pub(in crate::capture) was_read: bool,
    /// The counts of all instances.
    pub(in crate::capture) route: Ledger,
    /// The counts of this process.
    pub(in crate::capture) process: Ledger,
    /// True if both servers have been tried once.
    pub(in crate::capture) tried: bool,
    /// True if a successor shows the route's state by now.
    pub(in crate::capture) ends: bool,
    /// The revision under which this instance may trim, if it may.
    pub(in crate::capture) trims_under: Option<String>,
}

/// The connection to one of the two servers.
#[derive(Debug)]
pub(in crate::capture) struct ServerView {
    pub(in crate::capture) connected: bool,
    pub(in crate::capture) error: Option<String>,
    pub(in crate::capture) answered_unix_ms: Option<u64>,
}

impl Engine {
    /// Something that is shown has changed.
    pub(super) fn changed(&mut self) {
        self.report.changed = true;
    }

    /// Returns whether something that is shown has changed since this was asked.
    pub(in crate::capture) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.report.changed)
    }

    /// The route's status.
    pub(in crate::capture) fn view(&mut self, now: Moment) -> CaptureSnapshot {
        let (state, reason) = self.state();
        self.report.was_live |= matches!(state, RouteState::Live | RouteState::Standby);
        let since_unix_ms = match self.report.state {
            Some((before, since)) if before == state => since,
            _ => now.unix_ms,
        };
        self.report.state = Some((state, since_unix_ms));
        let held = self.in_hand();
        let leader = self.leadership.is_leader();
        let gap_since = self.gap.as_ref().map(|gap| gap.started_unix_ms);
        let silent_since =
            self.reading.open.as_ref().filter(|open| open.silent).map(|open| open.heard.unix_ms);
        let losses = [self.chain.unrecorded_since_unix_ms(), self.spill.unrecorded_since_unix_ms()];
        let unrecorded = losses.into_iter().chain([self.builder.open_loss_since_unix_ms()]).flatten();
        // Without a required durability, stored items are as durable as they will be known to be.
        let waits = self.settings.durability != Durability::Applied;
        let kept = if waits { self.chain.kept_events() } else { 0 };
        let (reading, writing) = (&self.reading, &self.writing);
        CaptureSnapshot {
            state,
            reason,
            since_unix_ms,
            source: ServerView {
                connected: reading.is_open(),
                error: reading.error.clone(),
                answered_unix_ms: reading.heartbeat_unix_ms,
            },
            destination: ServerView {
                connected: writing.is_up(),
                error: writing.error.clone(),
                answered_unix_ms: writing.answered.map(|answered| answered.unix_ms),
            },
            position: self.chain.checkpoint(),
            durable: self.known_durable,
            durable_lag: held.total() + kept,
            held,
            held_bytes: self.chain.held_bytes() + self.chain.kept_bytes() + self.spill.held_bytes(),
            spool_bytes: self.spill.disk_bytes(),
            spooled_all: self.spill.has_written(self.builder.last().or(self.chain.last())),
            leader,
            eligible: self.is_eligible(),
            others: self.leadership.others(now.at) as u64,
            gap_open_since_unix_ms: gap_since.into_iter().chain(unrecorded).chain(silent_since).min(),
            last_append_unix_ms: self.report.last_append_unix_ms,
            was_read: self.chain.was_read(),
            route: self.ledger.route(self.held_uncounted(held)),
            process: self.ledger.process(held),
            tried: reading.was_tried() && writing.was_tried(),
            ends: matches!(self.ending, Ending::HandingOver(_) | Ending::HandedOver),
            trims_under: self.trims_under().map(ToString::to_string),
        }
    }

    /// The buffered messages that the state's ledger has not counted. Another instance may be ahead of this one's
    /// reading.
    fn held_uncounted(&self, held: Buffered) -> Buffered {
        if self.chain.is_foreign() {
            // It does not compare with the state, so it is not known whether another instance has stored it.
            return Buffered::default();
        }
        let as_of = self.ledger.as_of();
        let (waiting, sent) = self.chain.events_up_to(as_of);
        let waiting = waiting + self.builder.open_events_up_to(as_of);
        Buffered { memory: held.memory - waiting, in_flight: held.in_flight - sent, ..held }
    }

    /// Counts buffered events that will not be stored, because of the checkpoint.
    pub(super) fn give_up(&mut self, events: u64) {
        self.counters.route.dropped(DropReason::Stale).increment(events);
        self.ledger.dropped(DropReason::Stale, events);
    }

    pub(super) fn count_stored(&mut self, counts: &PassedCounts, stored: &Stored, now: Moment) {
        self.count_part(stored, now);
        let metrics = &self.counters.route;
        // Items that the script skipped were stored already, or were counted when the call stopped half way.
        let before = std::mem::take(&mut self.report.part);
        let skipped = counts.events.saturating_sub(stored.events() + before + counts.lost);
        metrics.deduplicated.increment(skipped);
        self.ledger.deduplicated(skipped);
        metrics.capture_lag_seconds.record(now.at.saturating_duration_since(counts.opened).as_secs_f64());
        metrics.batch_events.record(float(counts.events));
        if stored.rejected > 0 {
            let text = format!(
                "some messages could not become entries; each is a dead letter in {} with its reason",
                String::from_utf8_lossy(&self.settings.keys.dead_letters)
            );
            self.log(Notice::warn(LogCode::DeadLetter, text).events(stored.rejected), now);
        }
    }

    /// Counts the result of a call; a call that stopped half way is followed by one for the rest.
    pub(super) fn count_part(&mut self, stored: &Stored, now: Moment) {
        let metrics = &self.counters.route;
        metrics.stored.increment(stored.appended);
        metrics.rejected.increment(stored.rejected);
        metrics.dead_letters.increment(stored.rejected);
        metrics.filtered.increment(stored.filtered);
        if stored.appended > 0 {
            metrics.last_stored_timestamp_seconds.set(float(now.unix_ms) / 1000.0);
            self.report.last_append_unix_ms = Some(now.unix_ms);
        }
        self.ledger.stored(stored);
    }

    /// Counts messages stored by another instance, or by an earlier call whose reply never came. The state's ledger has
    /// counted them already.
    pub(super) fn count_duplicate(&mut self, counts: &PassedCounts) {
        let before = std::mem::take(&mut self.report.part);
        let events = counts.events.saturating_sub(before + counts.lost);
        self.counters.route.deduplicated.increment(events);
        self.ledger.deduplicated(events);
    }

    /// Tells of the gap that a batch carried, once it is recorded.
    pub(super) fn tell_gap(&mut self, counts: &PassedCounts, gap: Option<&Gap>, now: Moment) {
        self.count_lost(counts, gap.is_some() || counts.recorded);
        if let Some(gap) = gap {
            self.ledger.recorded(gap.reason(), gap.dropped);
            self.ledger.gap(gap.ended_unix_ms);
            self.counters.route.gap(gap.cause).increment(1);
            let text = format!(
                "messages published between {} and {} may be lost: {}; recorded in {}",
                rt::rfc3339(gap.started_unix_ms),
                rt::rfc3339(gap.ended_unix_ms),
                gap.detail,
                String::from_utf8_lossy(&self.settings.keys.gaps)
            );
            let notice =
                Notice::warn(LogCode::Gap, text).cause(gap.cause.as_str()).position(Some(counts.first));
            self.log(notice.span(gap.started_unix_ms, gap.ended_unix_ms).always(), now);
        }
    }

    /// Counts messages that a damaged spool lost, and that are in a recorded gap.
    pub(super) fn count_corrupt(&mut self, events: u64) {
        self.counters.route.dropped(DropReason::SpoolCorrupt).increment(events);
        self.ledger.dropped(DropReason::SpoolCorrupt, events);
    }

    /// Counts messages lost with a damaged spool: given up with their record, or stored by another instance.
    fn count_lost(&mut self, counts: &PassedCounts, recorded: bool) {
        if counts.lost_before == 0 {
            return;
        }
        if recorded {
            self.count_corrupt(counts.lost_before);
        } else {
            self.counters.route.deduplicated.increment(counts.lost_before);
            self.ledger.deduplicated(counts.lost_before);
        }
    }

    fn state(&self) -> (RouteState, Option<String>) {
        let (source, destination) = (&self.reading, &self.writing);
        match self.ending {
            Ending::Draining(_) => return (RouteState::Stopping, Some("graceful shutdown".to_owned())),
            Ending::HandingOver(_) | Ending::HandedOver => {
                return (RouteState::Stopping, Some("replaced by a new configuration".to_owned()));
            }
            Ending::Running => {}
        }
        if self.rollout.is_outdated() {
            let why = "another instance has a newer configuration of this route; reload this one".to_owned();
            return (RouteState::Outdated, Some(why));
        }
        if destination.blocked && destination.error.is_some() {
            return (RouteState::Blocked, destination.error.clone());
        }
        if matches!(source.opening, ReaderOpening::UsedUp) {
            return (RouteState::Blocked, source.error.clone());
        }
        if let Some(doubt) = &source.heartbeat.doubt {
            return (RouteState::Waiting, Some(format!("source: {doubt}")));
        }
        let why = destination.error.as_ref().map(|error| format!("destination: {error}"));
        let why = why.or_else(|| source.error.as_ref().map(|error| format!("source: {error}")));
        let up = source.watched_from().is_some() && destination.is_up() && destination.error.is_none();
        match (up, self.report.was_live) {
            (true, _) if self.waits_for_durability() => {
                let why = "stored messages are not durable yet, so nothing more is stored; check the destination's replicas or its \
                           append-only file";
                (RouteState::Waiting, Some(why.to_owned()))
            }
            (true, _) if self.leadership.is_leader() => (RouteState::Live, None),
            (true, _) if self.is_eligible() && self.leadership.is_told_of_a_leader() => {
                (RouteState::Standby, None)
            }
            (true, was_live) if !self.leadership.is_told_of_a_leader() && was_live => {
                (RouteState::Waiting, Some("no instance is active at the moment".to_owned()))
            }
            (true, _) => (RouteState::CatchingUp, Some(self.why_catching_up())),
            (false, true) => (RouteState::Waiting, why),
            (false, false) => (RouteState::Connecting, why),
        }
    }

    /// The missing part, and how long another instance may still provide it.
    fn why_catching_up(&self) -> String {
        let patience = humantime::format_duration(self.settings.force_after);
        format!(
            "messages after the last stored one are still missing here; another instance has up to {patience} to continue"
        )
    }
}
