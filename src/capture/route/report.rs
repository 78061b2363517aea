//! A route's output: the board, the gauges, the log.

use super::CaptureRoute;
use crate::capture::append::durability::DurabilityWatch;
use crate::capture::engine::{CaptureSnapshot, Notice, Severity, Side};
use crate::config::missing_notifications;
use crate::metrics::float;
use crate::rt::Moment;
use crate::server;
use crate::spool::Spool;

impl CaptureRoute {
    /// Writes the route's status to the board and the gauges.
    pub(super) fn show_status(&mut self, now: Moment) {
        let view = self.engine.view(now);
        let bytes = (view.held_bytes + self.source.held_bytes() + self.destination.held_bytes()) as u64;
        self.trims_under.send_if_modified(|known| {
            let changed = *known != view.trims_under;
            known.clone_from(&view.trims_under);
            changed
        });
        let metrics = &self.parts.metrics;
        // The route that takes over has the gauge.
        if !view.ends && self.shown != Some(view.state) {
            metrics.set_state(view.state);
        }
        self.shown = Some(view.state);
        metrics.buffered_events.set(float(view.held.total()));
        metrics.buffered_bytes_memory.set(float(bytes));
        metrics.buffered_bytes_spool.set(float(view.spool_bytes));
        metrics.durable_lag_events.set(float(view.durable_lag));
        metrics.gap_open.set(if view.gap_open_since_unix_ms.is_some() { 1.0 } else { 0.0 });
        metrics.leader.set(if view.leader { 1.0 } else { 0.0 });
        metrics.standby_eligible.set(if !view.leader && view.eligible { 1.0 } else { 0.0 });
        if view.was_read {
            metrics.ledger(&view.route);
        }
        let spool_error = self.spool.as_ref().and_then(Spool::unavailable);
        metrics.spool_unavailable.set(if spool_error.is_some() { 1.0 } else { 0.0 });
        let durability_error = self.durable.as_ref().and_then(DurabilityWatch::error);
        metrics.not_durable.set(if durability_error.is_some() { 1.0 } else { 0.0 });
        let replication = self.replication_status();
        let notifications = self.parts.heartbeat.notifications();
        let missing = notifications.map(|setting| missing_notifications(&self.parts.capture, &setting));
        let source_doubt = self.parts.heartbeat.doubt();
        let destination_doubt = server::doubt(&self.parts.destination);
        let CaptureSnapshot { source, destination, .. } = view;
        self.parts.slot.update(|status| {
            status.state = view.state;
            status.since_unix_ms = view.since_unix_ms;
            status.reason = view.reason.or_else(|| durability_error.clone());
            status.source.connected = source.connected;
            status.source.error = source.error;
            status.source.last_answer_unix_ms = source.answered_unix_ms;
            status.destination.connected = destination.connected;
            status.destination.error = destination.error;
            status.destination.last_answer_unix_ms = destination.answered_unix_ms;
            status.doubt(source_doubt, destination_doubt);
            status.position = view.position.map(|position| position.to_string());
            status.buffered_bytes = bytes;
            status.spool_bytes = view.spool_bytes;
            status.spooled_all = view.spooled_all;
            status.spool_error = spool_error;
            status.durability_error = durability_error;
            status.replication = replication;
            status.missing_notifications = missing.unwrap_or_default();
            status.durable = view.durable.map(|position| position.to_string());
            status.leader = view.leader;
            status.other_instances = view.others;
            status.gap_open_since_unix_ms = view.gap_open_since_unix_ms;
            status.last_progress_unix_ms = view.last_append_unix_ms;
            status.counts = Some(view.route);
            status.process_counts = Some(view.process);
        });
        if view.tried {
            self.parts.slot.tried();
        }
        self.parts.slot.progressed(now.unix_ms);
    }

    /// Writes a log line. Of the routes that report the same outage, one logs it.
    pub(super) fn log(&self, notice: &Notice, now: Moment) {
        let server = notice.side.map(|side| match side {
            Side::Source => self.parts.source.name.as_str(),
            Side::Destination => self.parts.destination.name.as_str(),
        });
        if let Some(server) = server.filter(|_| notice.of_an_outage)
            && self.parts.outages.admit(notice.event.as_str(), server, now.at).is_none()
        {
            return;
        }
        write(notice, &self.parts.capture.name, server);
    }
}

/// Writes a log line of a route.
pub(super) fn write(notice: &Notice, route: &str, server: Option<&str>) {
    let Notice { event, class, cause, events, suppressed, text, .. } = notice;
    let event = event.as_str();
    let (position, by) = (notice.position.as_deref(), notice.by.as_deref());
    let (since_unix_ms, until_unix_ms) = notice.span.unzip();
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                event,
                route,
                server,
                class,
                cause,
                position,
                by,
                events,
                since_unix_ms,
                until_unix_ms,
                suppressed,
                "{text}"
            )
        };
    }
    match notice.severity {
        Severity::Info => line!(info),
        Severity::Warn => line!(warn),
        Severity::Error => line!(error),
    }
}
