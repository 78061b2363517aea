//! A broadcast's life: session after session, and what is told of them on the board, in the metrics and in the log.

mod metrics;
mod session;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Parts;
use super::engine::{Effect, Engine};
use super::entry_id::EntryId;
use super::failure::PARKED;
use super::failure::Side;
use super::group::ack_notifier::AckNotifier;
use super::group::follower::GroupEvent;
use super::publish::call::Tally;
use crate::config::keys;
use crate::logs::Limited;
use crate::position::AnchorId;
use crate::rt;
use crate::server::Class;
use crate::status::{BlockedEntry, Doubt, RouteState, RouteStatus, SideStatus, Slot};
use session::Session;

/// How often a waiting route says that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// A consumer that has an entry in hand for longer than this is worth a word, where others wait behind it.
const HELD_UP: Duration = Duration::from_secs(30);

/// What outlives a session.
#[derive(Debug)]
pub(super) struct BroadcastRoute {
    pub(super) engine: Engine,
    pub(super) parts: Parts,
    /// Where acknowledgements are noticed in the replication stream.
    pub(super) notifier: Option<AckNotifier>,
    log: Limited,
    effects: Vec<Effect>,
}

impl BroadcastRoute {
    pub(super) fn new(parts: Parts) -> Self {
        let me = AnchorId::random().to_string();
        let engine = Engine::new(parts.settings.clone(), &parts.source, &parts.destination, me);
        Self { engine, parts, notifier: None, log: Limited::new(), effects: Vec::new() }
    }

    pub(super) async fn run(mut self, stop: &CancellationToken, drain: Duration) {
        let settings = &self.parts.settings;
        self.notifier =
            settings.acknowledged().filter(|acknowledged| acknowledged.replication).map(|acknowledged| {
                let source = self.parts.source.clone();
                AckNotifier::start(source, settings.name.clone(), &settings.stream, &acknowledged.group)
            });
        let slot = self.parts.slot.clone();
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => Ok(None),
                outcome = living(&slot, Session::open(&mut self)) => outcome.map(Some),
            };
            slot.tried();
            let failure = match outcome {
                Ok(None) => break,
                Ok(Some(session)) => match session.run(stop, drain).await {
                    Ok(()) => break,
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let wait = self.engine.fail(&failure, Instant::now());
            self.tell(0);
            tokio::select! {
                () = stop.cancelled() => break,
                () = living(&slot, sleep(wait)) => {}
            }
        }
        self.state(RouteState::Stopped, None);
    }

    /// Tells what the engine has to tell. So many bytes wait in the connections.
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
            Effect::Opened(cursor, again) => self.opened(cursor, again),
            Effect::Ledger(tally) => self.counts(|counts| {
                (counts.published, counts.unheard, counts.rejected, counts.filtered) =
                    (tally.published, tally.unheard, tally.rejected, tally.filtered);
            }),
            Effect::HolesLeft(count, suppressed) => self.left_behind(count, suppressed),
            Effect::Live(after, suppressed) => self.live(after, suppressed),
            Effect::StandsBy(holder, suppressed) => self.stands_by(holder.as_deref(), suppressed),
            Effect::Lapsed(suppressed) => self.lapsed(suppressed),
            Effect::Sent(published, unheard) => {
                metrics::sent(&self.parts.metrics, published, unheard, rt::unix_ms());
            }
            Effect::Settled(settled) => metrics::settled(&self.parts.metrics, &settled),
            Effect::Done(cursor, tally) => self.done(cursor, tally, unsent_bytes),
            Effect::RateLimited(limited) => {
                self.parts.metrics.rate_limited.set(f64::from(u8::from(limited)));
                self.counts(|counts| counts.rate_limited = limited);
            }
            Effect::Group => self.looked(Instant::now()),
            Effect::Found(found, cursor, suppressed) => self.found(found, cursor, suppressed),
            Effect::Answered(side) => self.answered(side),
            Effect::Progressed => self.parts.slot.progressed(rt::unix_ms()),
            Effect::Draining => self.state(RouteState::Draining, None),
            Effect::DrainCutShort(cursor) => tracing::warn!(
                event = "broadcast_drain_cut_short",
                route = %self.parts.settings.name,
                position = cursor.map(tracing::field::display),
                "the last batches were not answered in time; the next start finds in the cursor whether they were published"
            ),
            Effect::Failed { side, class, reason, suppressed } => {
                self.failed(side, class, reason, suppressed)
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
    fn opened(&self, cursor: EntryId, again: bool) {
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

    /// Entries stand in the set of holes, which this order does not look at.
    fn left_behind(&self, count: u64, suppressed: Option<u64>) {
        let Some(suppressed) = suppressed else { return };
        let settings = &self.parts.settings;
        let holes = keys::of_route(&self.parts.source.key_prefix, &settings.name, keys::HOLES);
        tracing::warn!(
            event = "broadcast_holes_left", route = %settings.name, endpoint = %self.parts.source.name, suppressed,
            "{count} entries were left behind when this route had order = \"acknowledgement\", and are not published \
             now, acknowledged or not: give it that order until tidegate_broadcast_holes is 0, or delete {holes} to \
             do without them"
        );
    }

    /// This instance publishes.
    fn live(&self, after: EntryId, suppressed: Option<u64>) {
        self.works(RouteState::Live, None);
        if let Some(suppressed) = suppressed {
            let route = &self.parts.settings.name;
            tracing::info!(
                event = "broadcast_live", %route, position = %after, suppressed, "publishing after this entry"
            );
        }
    }

    /// Another instance publishes, or none yet.
    fn stands_by(&self, holder: Option<&str>, suppressed: Option<u64>) {
        let reason = match holder {
            Some(holder) => {
                format!("the instance {holder} publishes; this one takes over when its lease ends")
            }
            None => "no instance publishes yet: one that waited before goes first".to_owned(),
        };
        self.works(RouteState::Standby, Some(reason.clone()));
        if let Some(suppressed) = suppressed {
            let route = &self.parts.settings.name;
            tracing::info!(event = "broadcast_standby", %route, suppressed, "{reason}");
        }
    }

    fn works(&self, state: RouteState, reason: Option<String>) {
        self.parts.slot.update(|status| {
            status.source.error = None;
            status.destination.error = None;
        });
        self.state(state, reason);
    }

    fn lapsed(&self, suppressed: Option<u64>) {
        if let Some(suppressed) = suppressed {
            let route = &self.parts.settings.name;
            tracing::info!(
                event = "broadcast_lease_lapsed", %route, suppressed,
                "this instance stopped for longer than its lease lasts: what it had not sent is dropped, and the \
                 holder of the lease publishes it"
            );
        }
    }

    /// A session has ended, or none could begin.
    fn failed(&self, from: Side, class: Class, reason: String, suppressed: Option<u64>) {
        let one_server = self.engine.one_server();
        self.parts.slot.update(|status| {
            let link = side(status, from);
            link.error = Some(reason.clone());
            link.connected = false;
            if one_server {
                let link = status.source.clone();
                status.destination = SideStatus { endpoint: status.destination.endpoint.clone(), ..link };
            }
        });
        let parked = class == Class::Park;
        self.state(if parked { RouteState::Parked } else { RouteState::Waiting }, Some(reason.clone()));
        let Some(suppressed) = suppressed else { return };
        let endpoint = match from {
            Side::Source => &self.parts.source.name,
            Side::Destination => &self.parts.destination.name,
        };
        let (route, class) = (&self.parts.settings.name, class.as_str());
        if parked {
            tracing::error!(
                event = "broadcast_parked", %route, %endpoint, class, suppressed,
                "{reason}; nothing is published until this is put right; trying again every {} s", PARKED.as_secs()
            );
        } else if let Some(others) =
            self.parts.outages.admit("broadcast_waiting", endpoint, std::time::Instant::now())
        {
            let suppressed = suppressed + others;
            tracing::warn!(
                event = "broadcast_waiting", %route, %endpoint, class, suppressed,
                "{reason}; trying again, and then going on after the last published entry"
            );
        }
    }

    /// Where the cursor is, and what this process has done up to it.
    fn done(&self, cursor: EntryId, tally: Tally, unsent_bytes: usize) {
        let now = rt::unix_ms();
        metrics::done(&self.parts.metrics, tally, cursor, now);
        let held = self.engine.held_bytes() + unsent_bytes;
        self.parts.slot.update(|status| {
            status.position = Some(cursor.to_string());
            status.in_hand_bytes = u64::try_from(held).unwrap_or(u64::MAX);
            if tally != Tally::default() {
                status.last_progress_unix_ms = Some(now);
            }
            if let Some(counts) = &mut status.broadcast {
                counts.published += tally.published;
                counts.unheard += tally.unheard;
                counts.rejected += tally.rejected;
                counts.filtered += tally.filtered;
            }
        });
    }

    /// A group was looked at.
    fn looked(&mut self, now: Instant) {
        let Some(follow) = self.engine.follow() else { return };
        let Some(look) = follow.state() else { return };
        let now_unix_ms = rt::unix_ms();
        let blocked = look.lowest.as_ref().map(|lowest| BlockedEntry {
            id: lowest.id.to_string(),
            age_ms: now_unix_ms.saturating_sub(lowest.id.milliseconds),
            consumer: lowest.consumer.clone(),
            idle_ms: lowest.idle_ms,
            deliveries: lowest.deliveries,
        });
        let first = follow.unacknowledged();
        let age = Duration::from_millis(first.map_or(0, |id| now_unix_ms.saturating_sub(id.milliseconds)));
        self.parts.metrics.blocked_entry_age_seconds.set(age.as_secs_f64());
        let holes = look.holes;
        self.parts.metrics.holes.set(crate::metrics::float(holes));
        let (entries, bytes) = follow.held();
        let full = follow.is_full().then(|| {
            format!(
                "as many entries as max_holes allows were left behind, since the group '{}' has not acknowledged them: nothing after them is published before it acknowledges some",
                follow.group()
            )
        });
        let held_up = blocked
            .as_ref()
            .filter(|blocked| !follow.leaves_holes() && Duration::from_millis(blocked.idle_ms) >= HELD_UP);
        let held_up = held_up.map(|blocked| {
            let BlockedEntry { id, consumer, deliveries, idle_ms, .. } = blocked;
            let since = Duration::from_secs(idle_ms / 1_000);
            format!(
                "the entry {id} holds up those behind it: it was given out {deliveries} times, last to the consumer '{consumer}' {} ago",
                humantime::format_duration(since)
            )
        });
        self.parts.slot.update(|status| {
            status.in_hand_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            if status.state == RouteState::Live {
                status.reason = full.clone().or(held_up);
            }
            let known = status.acknowledged.get_or_insert_default();
            follow.group().clone_into(&mut known.group);
            known.group_exists = true;
            known.delivered = Some(look.delivered.to_string());
            known.read = Some(follow.end().to_string());
            (known.pending, known.holes, known.blocked) = (look.pending, holes, blocked);
            known.held = u64::try_from(entries).unwrap_or(u64::MAX);
        });
        if let Some(reason) = full
            && let Some(suppressed) = self.log.admit("broadcast_holes_full", now.into_std())
        {
            let route = &self.parts.settings.name;
            tracing::warn!(event = "broadcast_holes_full", %route, suppressed, "{reason}; see who has them with XPENDING, or raise max_holes");
        }
    }

    /// A look at the group has found something that a person should know.
    fn found(&self, found: GroupEvent, cursor: EntryId, suppressed: Option<u64>) {
        let settings = self.parts.settings.clone();
        let (route, stream) = (&settings.name, &settings.stream);
        let group =
            settings.acknowledged().map(|acknowledged| acknowledged.group.as_str()).unwrap_or_default();
        match found {
            GroupEvent::Group | GroupEvent::Below => {}
            GroupEvent::Missed(missed) => {
                self.parts.metrics.missed.increment(missed.count);
                self.parts.metrics.dead_letters.increment(1);
                self.parts.slot.update(|status| {
                    if let Some(counts) = &mut status.broadcast {
                        counts.rejected += 1;
                    }
                });
                if let Some(suppressed) = suppressed {
                    tracing::warn!(
                        event = "broadcast_missed", %route, position = %cursor, suppressed,
                        "{}: they are not published; the dead letters say so", missed.detail()
                    );
                }
            }
            GroupEvent::Anew => {
                if let Some(suppressed) = suppressed {
                    tracing::warn!(
                        event = "broadcast_stream_anew", %route, position = %cursor, suppressed,
                        "the stream '{stream}' was deleted and begun again: what it held and was not read is not \
                         published; going on with ids after the cursor"
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
                    (known.delivered, known.read, known.pending, known.blocked) = (None, None, 0, None);
                });
                self.parts.metrics.blocked_entry_age_seconds.set(0.0);
                if let Some(suppressed) = suppressed {
                    tracing::warn!(
                        event = "broadcast_no_group", %route, %group, position = %cursor, suppressed,
                        "{reason}: nothing is published until it is made (XGROUP CREATE {stream} {group} 0);                          what it is not given, because it begins later, will count as acknowledged"
                    );
                }
            }
            GroupEvent::Doubt(doubt) => {
                self.parts.metrics.doubt(doubt).increment(1);
                let kind = doubt.as_str();
                self.parts.slot.update(|status| {
                    let known = status.acknowledged.get_or_insert_default();
                    *known.doubts.entry(kind.to_owned()).or_default() += 1;
                });
                if let Some(suppressed) = suppressed {
                    tracing::warn!(
                        event = "acknowledgement_doubt", %route, %group, kind, position = %cursor, suppressed,
                        "{}", meaning(doubt)
                    );
                }
            }
        }
    }

    /// A side has answered.
    fn answered(&self, from: Side) {
        let now = Some(rt::unix_ms());
        let one_server = self.engine.one_server();
        self.parts.slot.update(|status| {
            side(status, from).last_answer_unix_ms = now;
            if one_server {
                status.destination.last_answer_unix_ms = now;
            }
        });
    }

    fn state(&self, state: RouteState, reason: Option<String>) {
        self.parts.slot.update(|status| {
            if status.state != state {
                status.state = state;
                status.since_unix_ms = rt::unix_ms();
            }
            status.reason = reason;
            status.leader = state == RouteState::Live;
        });
        self.parts.metrics.set_state(state);
    }
}

/// What a doubt means for what is broadcast.
fn meaning(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::GroupMade => {
            "the group was made, and begins after entries that were not published: these count as acknowledged \
             and are published now"
        }
        Doubt::GroupMadeAgain => {
            "the group was destroyed and made again: what was pending, and what it now begins behind, counts as \
             acknowledged and is published; what it is given again and was published already is not published \
             again"
        }
        Doubt::SetForward => {
            "the group was set forward, or the server has lost count of what it has read: what it jumped over \
             counts as acknowledged and is published"
        }
        Doubt::SetBack => {
            "the group was set back: what it is given again and was published already is not published again"
        }
        Doubt::ConsumerDeleted => {
            "a consumer was deleted and fewer entries are pending than before: those that it had pending count as \
             acknowledged and are published"
        }
    }
}

fn side(status: &mut RouteStatus, side: Side) -> &mut SideStatus {
    match side {
        Side::Source => &mut status.source,
        Side::Destination => &mut status.destination,
    }
}

/// Waits for something, and says meanwhile that the loop is alive.
async fn living<F: Future>(slot: &Slot, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        slot.progressed(rt::unix_ms());
        tokio::select! {
            output = &mut future => return output,
            () = sleep(SIGN_OF_LIFE) => {}
        }
    }
}
