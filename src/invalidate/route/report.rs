//! A route's output: the board, the metrics, the log.

use std::time::Instant;

use super::InvalidateRoute;
use crate::config::IfMissed;
use crate::event::{InvalidateLoss, ReplayTrigger};
use crate::invalidate::cursor::PlaceField;
use crate::invalidate::engine::{Cleared, Effect};
use crate::logs::LogCode;
use crate::metrics;
use crate::rt;
use crate::server::{self, BLOCKED_RETRY, Class};
use crate::status::{InvalidateStatus, RouteEndpoint, RouteState};
use crate::stream::EntryId;

impl InvalidateRoute {
    /// Applies the effects of the engine.
    pub(super) fn tell(&mut self) {
        let mut effects = std::mem::take(self.engine.effects());
        for effect in effects.drain(..) {
            self.tell_one(effect);
        }
        // The room is used again.
        *self.engine.effects() = effects;
    }

    fn tell_one(&mut self, effect: Effect) {
        match effect {
            Effect::Live(pos, suppressed) => self.on_live(pos, suppressed),
            Effect::Outdated(suppressed) => {
                let reason = "another instance runs a newer configuration of this route; this one continues if that one \
                              is gone and takes its cursor along";
                self.state(RouteState::Outdated, Some(reason.to_owned()));
                if let Some(suppressed) = suppressed {
                    let route = &self.parts.settings.name;
                    tracing::warn!(event = LogCode::Outdated.as_str(), %route, suppressed, "{reason}");
                }
            }
            Effect::Counts(counts) => self.show(|status| {
                (status.cleared, status.absent, status.fills_refused) =
                    (counts.cleared, counts.absent, counts.refused);
                (status.written, status.kept) = (counts.written, counts.kept);
            }),
            Effect::Cleared(cleared) => self.on_cleared(cleared),
            Effect::Place(pos, again) => {
                self.parts.slot.update(|status| status.position = Some(pos.to_string()));
                self.show(|status| status.again = again.map(|again| again.to_string()));
            }
            Effect::Filtered(count) => {
                self.parts.metrics.filtered.increment(count);
                self.show(|status| status.filtered += count);
            }
            Effect::Rejected { count, first, why, suppressed } => {
                self.parts.metrics.dead_letters.increment(count);
                self.show(|status| status.rejected += count);
                if let Some(suppressed) = suppressed {
                    tracing::warn!(
                        event = LogCode::DeadLetter.as_str(), route = %self.parts.settings.name,
                        stream = %self.parts.settings.stream, reason = why.reason(), suppressed,
                        "{count} entries become dead letters and clear no key, the first one is {first}: {why}"
                    );
                }
            }
            Effect::Replay { trigger, from, suppressed } => self.on_replay(trigger, from, suppressed),
            Effect::Missed { loss, detail, suppressed } => self.on_missed(loss, &detail, suppressed),
            Effect::Swept(suppressed) => {
                self.parts.metrics.sweeps.increment(1);
                self.show(|status| status.clears += 1);
                if let Some(suppressed) = suppressed {
                    tracing::info!(
                        event = LogCode::InvalidateCleared.as_str(), route = %self.parts.settings.name,
                        server = %self.parts.destination.name, suppressed,
                        "every key of the route was removed from the cache, because changes were missed"
                    );
                }
            }
            Effect::Behind(behind) => {
                self.parts.metrics.behind_seconds.set(behind.map_or(f64::NAN, |behind| behind.as_secs_f64()));
                let behind = behind.map(|behind| u64::try_from(behind.as_millis()).unwrap_or(u64::MAX));
                let held = u64::try_from(self.engine.held_bytes()).unwrap_or(u64::MAX);
                self.parts.slot.update(|status| {
                    status.buffered_bytes = held;
                    if let Some(shown) = &mut status.invalidate {
                        shown.behind_ms = behind;
                    }
                });
            }
            Effect::Answered(side) => {
                let now = Some(rt::unix_ms());
                self.parts.slot.update(|status| status.side(side).last_answer_unix_ms = now);
            }
            Effect::Draining => self.state(RouteState::Stopping, None),
            Effect::Failed { side, class, reason, suppressed } => {
                self.on_failed(side, class, &reason, suppressed);
            }
        }
    }

    fn show(&self, change: impl FnOnce(&mut InvalidateStatus)) {
        self.parts.slot.update(|status| {
            if let Some(shown) = &mut status.invalidate {
                change(shown);
            }
        });
    }

    fn on_live(&mut self, pos: EntryId, suppressed: Option<u64>) {
        if std::mem::replace(&mut self.worked, true) {
            self.parts.source_metrics.reconnects.increment(1);
            self.parts.destination_metrics.reconnects.increment(1);
        }
        self.parts.slot.update(|status| {
            for side in [RouteEndpoint::Source, RouteEndpoint::Destination] {
                let side = status.side(side);
                (side.connected, side.error) = (true, None);
            }
        });
        self.state(RouteState::Live, None);
        if let Some(suppressed) = suppressed {
            let route = &self.parts.settings.name;
            tracing::info!(
                event = LogCode::InvalidateLive.as_str(), %route, stream = %self.parts.settings.stream, position = %pos,
                suppressed, "the route is live: it clears the keys of each entry after this position"
            );
        }
    }

    fn on_cleared(&self, done: Cleared) {
        let Cleared { place, last, entries, keys, cleared, refused, written, kept, took } = done;
        // The second pass finds again what the first has found.
        let first = place == PlaceField::Pos;
        let kept = if first { kept } else { 0 };
        let absent = if first { keys.saturating_sub(cleared + written + kept) } else { 0 };
        let handles = &self.parts.metrics;
        handles.cleared.increment(cleared);
        handles.absent.increment(absent);
        handles.written.increment(written);
        handles.kept.increment(kept);
        handles.fills_refused.increment(refused);
        if keys > 0 {
            handles.clear_seconds.record(took.as_secs_f64());
        }
        if entries > 0 {
            handles.batch_events.record(metrics::float(u64::try_from(entries).unwrap_or(u64::MAX)));
        }
        let now = rt::unix_ms();
        self.parts.slot.update(|status| {
            if entries > 0 {
                status.last_progress_unix_ms = Some(now);
            }
            if place == PlaceField::Pos {
                status.position = Some(last.to_string());
            }
            let Some(shown) = &mut status.invalidate else { return };
            shown.cleared += cleared;
            shown.absent += absent;
            shown.written += written;
            shown.kept += kept;
            shown.fills_refused += refused;
            if place == PlaceField::Again {
                shown.again = Some(last.to_string());
            }
        });
    }

    fn on_replay(&self, trigger: ReplayTrigger, from: EntryId, suppressed: Option<u64>) {
        self.parts.metrics.replay(trigger).increment(1);
        self.show(|status| *status.replays.entry(trigger.as_str().to_owned()).or_default() += 1);
        let Some(suppressed) = suppressed else { return };
        let (route, server) = (&self.parts.settings.name, &self.parts.destination.name);
        let what = match trigger {
            ReplayTrigger::WentBack => {
                "the cache has an older cursor than before (a failover, or a restored file)"
            }
            ReplayTrigger::NoCursor => {
                "the cache has no cursor of this route (it is new, was flushed, or evicted it)"
            }
            ReplayTrigger::Revision => "the cursor is of a configuration that makes other keys",
            ReplayTrigger::StreamAnew => "the stream was deleted or begun anew, or went back",
        };
        // That the cache or the stream went back, somebody should look at. The others follow from what somebody did.
        if matches!(trigger, ReplayTrigger::WentBack | ReplayTrigger::StreamAnew) {
            tracing::warn!(
                event = LogCode::InvalidateReplay.as_str(), %route, %server, trigger = trigger.as_str(), position = %from,
                suppressed, "{what}: the entries after this one are applied again"
            );
        } else {
            tracing::info!(
                event = LogCode::InvalidateReplay.as_str(), %route, %server, trigger = trigger.as_str(), position = %from,
                suppressed, "{what}: the entries after this one are applied"
            );
        }
    }

    fn on_missed(&self, loss: InvalidateLoss, detail: &str, suppressed: Option<u64>) {
        self.parts.metrics.missed(loss).increment(1);
        self.show(|status| *status.missed.entry(loss.as_str().to_owned()).or_default() += 1);
        if let Some(suppressed) = suppressed {
            tracing::warn!(
                event = LogCode::InvalidateMissed.as_str(), route = %self.parts.settings.name,
                stream = %self.parts.settings.stream, loss = loss.as_str(), suppressed,
                "{detail}: {}", consequence(self.parts.settings.if_missed)
            );
        }
    }

    /// A session has ended, or none could begin.
    fn on_failed(&self, from: RouteEndpoint, class: Class, reason: &str, suppressed: Option<u64>) {
        let mut reason = reason.to_owned();
        self.parts.slot.update(|status| reason = status.session_failed(from, &reason));
        let blocked = class == Class::Block;
        let state = if blocked { RouteState::Blocked } else { RouteState::Waiting };
        self.state(state, Some(reason.clone()));
        let Some(suppressed) = suppressed else { return };
        let server = match from {
            RouteEndpoint::Source => &self.parts.source.name,
            RouteEndpoint::Destination => &self.parts.destination.name,
        };
        let (route, class) = (&self.parts.settings.name, class.as_str());
        if blocked {
            tracing::error!(
                event = LogCode::InvalidateBlocked.as_str(), %route, %server, class, suppressed,
                "{reason}; no key is cleared until this is fixed; tidegate retries every {} s", BLOCKED_RETRY.as_secs()
            );
        } else if let Some(others) =
            self.parts.outages.admit(LogCode::InvalidateWaiting.as_str(), server, Instant::now())
        {
            let suppressed = suppressed + others;
            tracing::warn!(
                event = LogCode::InvalidateWaiting.as_str(), %route, %server, class, suppressed,
                "{reason}; tidegate retries, and continues after the last entry that it applied"
            );
        }
    }

    /// The loop comes round.
    pub(super) fn on_time(&self) {
        self.parts.slot.progressed(rt::unix_ms());
        let [source, destination] =
            [&self.parts.source, &self.parts.destination].map(|endpoint| server::doubt(endpoint));
        self.parts.slot.update(|status| status.doubt(source, destination));
    }

    pub(super) fn state(&self, state: RouteState, reason: Option<String>) {
        self.parts.slot.set_state(state, reason, rt::unix_ms());
        self.parts.metrics.set_state(state);
    }
}

/// What follows where changes were missed.
fn consequence(if_missed: IfMissed) -> &'static str {
    match if_missed {
        IfMissed::Record => "keys that changed there may stay in the cache until their time to live ends",
        IfMissed::Clear => "every key of the route is removed now",
    }
}
