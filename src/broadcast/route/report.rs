//! A route's output: the board, the metrics, the log.

use std::time::Duration;

use super::{BroadcastRoute, metrics};
use crate::broadcast::engine::Effect;
use crate::broadcast::group::follower::GroupEvent;
use crate::broadcast::publish::call::{self, Tally};
use crate::config::redis_keys;
use crate::logs::LogCode;
use crate::rt;
use crate::server::{self, BLOCKED_RETRY, Class};
use crate::status::{GroupChange, RouteEndpoint, RouteState, SideStatus, UnacknowledgedEntry};
use crate::stream::EntryId;

impl BroadcastRoute {
    /// Applies the effects of the engine. `unsent_bytes` wait in the connections.
    pub(super) fn tell(&mut self, unsent_bytes: usize) {
        std::mem::swap(&mut self.effects, self.engine.effects());
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.tell_one(effect, unsent_bytes);
        }
        self.effects = effects;
    }

    fn tell_one(&mut self, effect: Effect, unsent_bytes: usize) {
        match effect {
            Effect::Opened(cursor, again) => self.on_opened(cursor, again),
            Effect::Ledger(tally) => self.counts(|counts| {
                (counts.published, counts.without_subscribers, counts.rejected, counts.filtered) =
                    (tally.published, tally.unheard, tally.rejected, tally.filtered);
            }),
            Effect::HolesLeft(count, suppressed) => self.on_left_behind(count, suppressed),
            Effect::Live(after, suppressed) => self.on_live(after, suppressed),
            Effect::StandsBy(holder, suppressed) => self.on_standby(holder.as_deref(), suppressed),
            Effect::Lapsed(suppressed) => self.on_lapsed(suppressed),
            Effect::Sent(published, unheard) => {
                metrics::sent(&self.parts.metrics, published, unheard, rt::unix_ms());
            }
            Effect::Settled(settled) => metrics::settled(&self.parts.metrics, &settled),
            Effect::Done(cursor, tally) => self.on_done(cursor, tally, unsent_bytes),
            Effect::RateLimited(limited) => {
                self.parts.metrics.rate_limited.set(f64::from(u8::from(limited)));
                self.counts(|counts| counts.rate_limited = limited);
            }
            Effect::Group(full) => self.on_looked(full),
            Effect::Found(found, cursor, suppressed) => self.on_found(found, cursor, suppressed),
            Effect::Answered(side) => self.on_answered(side),
            Effect::Progressed => self.parts.slot.progressed(rt::unix_ms()),
            Effect::Draining => self.state(RouteState::Stopping, None),
            Effect::DrainCutShort(cursor) => tracing::warn!(
                event = LogCode::BroadcastShutdownIncomplete.as_str(),
                route = %self.parts.settings.name, stream = %self.parts.settings.stream(),
                position = cursor.map(tracing::field::display),
                "the last batches were not answered in time; the next start reads from the cursor whether they were published"
            ),
            Effect::Failed { side, class, reason, suppressed } => {
                self.on_failed(side, class, reason, suppressed)
            }
        }
    }

    fn counts(&self, change: impl FnOnce(&mut crate::status::BroadcastCounts)) {
        self.parts.slot.update(|status| {
            if let Some(counts) = &mut status.broadcast {
                change(counts);
            }
        });
    }

    /// A session has connected and found this cursor.
    fn on_opened(&self, cursor: EntryId, again: bool) {
        if again {
            self.parts.source_metrics.reconnects.increment(1);
            if !self.engine.one_server() {
                self.parts.destination_metrics.reconnects.increment(1);
            }
        }
        let now = Some(rt::unix_ms());
        self.parts.slot.update(|status| {
            for link in [&mut status.source, &mut status.destination] {
                link.connected = true;
                link.last_answer_unix_ms = now;
            }
            status.position = Some(cursor.to_string());
        });
    }

    /// Reports holes that this order does not read.
    fn on_left_behind(&self, count: u64, suppressed: Option<u64>) {
        let Some(suppressed) = suppressed else { return };
        let settings = &self.parts.settings;
        let holes = call::own_key(&self.parts.source.key_prefix, settings, redis_keys::HOLES);
        tracing::warn!(
            event = LogCode::BroadcastAckPendingLeft.as_str(), route = %settings.name, stream = %settings.stream(), server = %self.parts.source.name, suppressed,
            "{count} unacknowledged entries were left behind while this route had order = \"acknowledgement\". The present \
             order does not publish them. To publish them, set the old order until tidegate_ack_pending_entries is 0. To \
             give them up, delete {holes}"
        );
    }

    /// This instance publishes.
    fn on_live(&self, after: EntryId, suppressed: Option<u64>) {
        self.works(RouteState::Live, None);
        if let Some(suppressed) = suppressed {
            let route = &self.parts.settings.name;
            tracing::info!(
                event = LogCode::BroadcastLive.as_str(), %route, stream = %self.parts.settings.stream(), position = %after, suppressed, "the broadcast publishes the entries after this one"
            );
        }
    }

    /// Another instance publishes, or none yet.
    fn on_standby(&self, holder: Option<&str>, suppressed: Option<u64>) {
        let reason = match holder {
            Some(holder) => {
                format!("instance {holder} publishes; this instance takes over when that lease ends")
            }
            None => "no instance publishes yet; an instance that already waits goes first".to_owned(),
        };
        self.works(RouteState::Standby, Some(reason.clone()));
        if let Some(suppressed) = suppressed {
            let route = &self.parts.settings.name;
            tracing::info!(event = LogCode::BroadcastStandby.as_str(), %route, stream = %self.parts.settings.stream(), suppressed, "{reason}");
        }
    }

    fn works(&self, state: RouteState, reason: Option<String>) {
        self.parts.slot.update(|status| {
            status.source.error = None;
            status.destination.error = None;
        });
        self.state(state, reason);
    }

    fn on_lapsed(&self, suppressed: Option<u64>) {
        if let Some(suppressed) = suppressed {
            let route = &self.parts.settings.name;
            tracing::info!(
                event = LogCode::BroadcastLeaseLapsed.as_str(), %route, stream = %self.parts.settings.stream(), suppressed,
                "this instance paused for longer than its lease lasts; it drops its unsent messages, and the next holder of \
                 the lease publishes them"
            );
        }
    }

    /// A session has ended, or none could begin.
    fn on_failed(&self, from: RouteEndpoint, class: Class, reason: String, suppressed: Option<u64>) {
        let one_server = self.engine.one_server();
        let mut reason = reason;
        self.parts.slot.update(|status| {
            reason = status.session_failed(from, &reason);
            if one_server {
                let link = status.source.clone();
                status.destination = SideStatus { server: status.destination.server.clone(), ..link };
            }
        });
        let (blocked, is_repaired) = (class == Class::Block, class == Class::Repair);
        self.state(if blocked { RouteState::Blocked } else { RouteState::Waiting }, Some(reason.clone()));
        let Some(suppressed) = suppressed else { return };
        let server = match from {
            RouteEndpoint::Source => &self.parts.source.name,
            RouteEndpoint::Destination => &self.parts.destination.name,
        };
        let (route, class) = (&self.parts.settings.name, class.as_str());
        if blocked {
            tracing::error!(
                event = LogCode::BroadcastBlocked.as_str(), %route, stream = %self.parts.settings.stream(), %server, class, suppressed,
                "{reason}; nothing is published until this is fixed; tidegate retries every {} s", BLOCKED_RETRY.as_secs()
            );
        } else if let Some(others) =
            self.parts.outages.admit(LogCode::BroadcastWaiting.as_str(), server, std::time::Instant::now())
        {
            let suppressed = suppressed + others;
            // A repair's reason names the place where the route continues.
            let then = if is_repaired { "" } else { ", and continues after the last published entry" };
            tracing::warn!(
                event = LogCode::BroadcastWaiting.as_str(), %route, stream = %self.parts.settings.stream(), %server, class, suppressed,
                "{reason}; tidegate retries{then}"
            );
        }
    }

    /// Reports the cursor, and the process's totals up to it.
    fn on_done(&self, cursor: EntryId, tally: Tally, unsent_bytes: usize) {
        let now = rt::unix_ms();
        metrics::done(&self.parts.metrics, tally, cursor, now);
        let held = self.engine.held_bytes() + unsent_bytes;
        self.parts.slot.update(|status| {
            status.position = Some(cursor.to_string());
            status.buffered_bytes = u64::try_from(held).unwrap_or(u64::MAX);
            if tally != Tally::default() {
                status.last_progress_unix_ms = Some(now);
            }
            if let Some(counts) = &mut status.broadcast {
                counts.published += tally.published;
                counts.without_subscribers += tally.unheard;
                counts.rejected += tally.rejected;
                counts.filtered += tally.filtered;
            }
        });
    }

    /// A group was looked at.
    fn on_looked(&self, full: Option<(String, u64)>) {
        let Some(follow) = self.engine.follow() else { return };
        let Some(look) = follow.state() else { return };
        let now_unix_ms = rt::unix_ms();
        let waiting_for = look.lowest.as_ref().map(|lowest| UnacknowledgedEntry {
            id: lowest.id.to_string(),
            age_ms: now_unix_ms.saturating_sub(lowest.id.milliseconds),
            consumer: lowest.consumer.clone(),
            idle_ms: lowest.idle_ms,
            deliveries: lowest.deliveries,
        });
        let first = follow.unacknowledged();
        let age = Duration::from_millis(first.map_or(0, |id| now_unix_ms.saturating_sub(id.milliseconds)));
        self.parts.metrics.oldest_unacknowledged_age_seconds.set(age.as_secs_f64());
        let holes = look.holes;
        self.parts.metrics.ack_pending.set(crate::metrics::float(holes));
        let (entries, bytes) = follow.held();
        let reason = follow.full_reason().or_else(|| follow.held_up_reason());
        self.parts.slot.update(|status| {
            status.buffered_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            if status.state == RouteState::Live {
                status.reason = reason;
            }
            let known = status.acknowledged.get_or_insert_default();
            follow.group().clone_into(&mut known.group);
            known.group_exists = true;
            known.delivered = Some(look.delivered.to_string());
            known.read = Some(follow.end().to_string());
            (known.pending, known.ack_pending, known.waiting_for) = (look.pending, holes, waiting_for);
            known.buffered = u64::try_from(entries).unwrap_or(u64::MAX);
        });
        if let Some((reason, suppressed)) = full {
            let route = &self.parts.settings.name;
            tracing::warn!(event = LogCode::BroadcastAckPendingFull.as_str(), %route, stream = %self.parts.settings.stream(), suppressed, "{reason}. XPENDING shows their consumers; or raise max_ack_pending");
        }
    }

    /// A look at the group has found something that the operator should know.
    fn on_found(&self, found: GroupEvent, cursor: EntryId, suppressed: Option<u64>) {
        let settings = self.parts.settings.clone();
        let (route, stream) = (&settings.name, settings.stream());
        let group =
            settings.acknowledged().map(|acknowledged| acknowledged.group.as_str()).unwrap_or_default();
        match found {
            GroupEvent::Group | GroupEvent::Below => {}
            GroupEvent::Missed(missed) => {
                self.parts.metrics.lost.increment(missed.count);
                self.parts.metrics.dead_letters.increment(1);
                self.parts.slot.update(|status| {
                    if let Some(counts) = &mut status.broadcast {
                        counts.rejected += 1;
                    }
                });
                if let Some(suppressed) = suppressed {
                    tracing::warn!(
                        event = LogCode::BroadcastEntriesLost.as_str(), %route, stream = %self.parts.settings.stream(), position = %cursor, suppressed,
                        "{}: these entries are lost and not published; a dead letter records it", missed.detail()
                    );
                }
            }
            GroupEvent::Anew => {
                if let Some(suppressed) = suppressed {
                    tracing::info!(
                        event = LogCode::BroadcastStreamRecreated.as_str(), %route, stream = %self.parts.settings.stream(), position = %cursor, suppressed,
                        "the stream '{stream}' was deleted and created again: publishing continues with ids after the cursor; \
                         entries that were added and deleted since the last look are not known"
                    );
                }
            }
            GroupEvent::NoGroup => {
                let reason = format!("the stream '{stream}' has no consumer group '{group}'");
                self.state(RouteState::Waiting, Some(reason.clone()));
                self.parts.slot.update(|status| {
                    let known = status.acknowledged.get_or_insert_default();
                    group.clone_into(&mut known.group);
                    known.group_exists = false;
                    (known.delivered, known.read, known.pending, known.waiting_for) = (None, None, 0, None);
                });
                self.parts.metrics.oldest_unacknowledged_age_seconds.set(0.0);
                if let Some(suppressed) = suppressed {
                    tracing::warn!(
                        event = LogCode::BroadcastNoGroup.as_str(), %route, stream = %self.parts.settings.stream(), %group, position = %cursor, suppressed,
                        "{reason}: nothing is published until it exists. Create it with XGROUP CREATE {stream} {group} 0; \
                         entries before its start count as acknowledged"
                    );
                }
            }
            GroupEvent::GroupChange(group_change) => {
                self.parts.metrics.group_change(group_change).increment(1);
                let kind = group_change.as_str();
                self.parts.slot.update(|status| {
                    let known = status.acknowledged.get_or_insert_default();
                    *known.group_changes.entry(kind.to_owned()).or_default() += 1;
                });
                if let Some(suppressed) = suppressed {
                    tracing::warn!(
                        event = LogCode::GroupChanged.as_str(), %route, stream = %self.parts.settings.stream(), %group, kind, position = %cursor, suppressed,
                        "{}", meaning(group_change)
                    );
                }
            }
        }
    }

    /// Shows any doubt that an endpoint's server is still the master.
    pub(super) fn show_doubt(&self) {
        let [source, destination] =
            [&self.parts.source, &self.parts.destination].map(|endpoint| server::doubt(endpoint));
        self.parts.slot.update(|status| status.doubt(source, destination));
    }

    /// Reports an answer of a side.
    fn on_answered(&self, from: RouteEndpoint) {
        let now = Some(rt::unix_ms());
        let one_server = self.engine.one_server();
        self.parts.slot.update(|status| {
            status.side(from).last_answer_unix_ms = now;
            if one_server {
                status.destination.last_answer_unix_ms = now;
            }
        });
    }

    pub(super) fn state(&self, state: RouteState, reason: Option<String>) {
        self.parts.slot.set_state(state, reason, rt::unix_ms());
        self.parts.metrics.set_state(state);
    }
}

/// The consequence of a change of the group for publishing.
fn meaning(group_change: GroupChange) -> &'static str {
    match group_change {
        GroupChange::GroupCreated => {
            "the group was created, and its position is after entries that were not published. Its consumers may have \
             acknowledged them, or it may have begun after them. They count as acknowledged and are published now"
        }
        GroupChange::GroupRecreated => {
            "the group was destroyed and created again; entries that were pending, and entries before its start, count \
             as acknowledged and are published; nothing is published a second time"
        }
        GroupChange::MovedForward => {
            "the group was moved forward, or the server lost count of its reads; the skipped entries count as \
             acknowledged and are published"
        }
        GroupChange::MovedBack => {
            "the group was moved back; entries that were published already are not published again"
        }
        GroupChange::ConsumerDeleted => {
            "a consumer was deleted while entries were pending for it; these count as acknowledged and are published"
        }
    }
}
