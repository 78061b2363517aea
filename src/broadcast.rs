//! Broadcast: from a stream to channels.
//!
//! Problem: subscribers of plain channels are to see what is in a stream, each entry once, however
//! often tidegate or its connections die in between.
//!
//! Constraints: PUBLISH leaves nothing behind that could be compared later, so what was published must
//! be remembered in the same step that publishes. XREAD with BLOCK holds its connection.
//!
//! Operation: a *cursor* beside the stream, the hash `P R:cursor`, holds the id of the last entry that
//! was dealt with. A script compares it with what the caller believes, publishes a batch and moves it,
//! all or nothing; so a batch whose outcome is unknown needs no thought: the next session reads the
//! cursor and goes on there. Where channel and stream are on different servers, the messages go out
//! first and the cursor moves when all are answered: at least once. An entry that cannot be published
//! goes to the stream `P R:dead-letters` in the step that moves the cursor over it.
//!
//! ```text
//!            ┌───────────────── session ─────────────────┐
//! stream ──▶ │ entries ──▶ render ──▶ publisher ──▶ call │ ──▶ channels, cursor, dead letters
//!            └──────────────▲────────────────────────────┘
//!      connect, find cursor │ │ any failure
//!                           └─┴─ backoff, or 30 s where a person must act
//! ```
//!
//! Failure: every failure ends the session, and a new one begins at the cursor. Exactly once on one
//! server; only a failover that loses the cursor's last step repeats what it covered.

mod call;
mod entries;
mod failure;
mod follow;
mod gone;
mod hold;
mod id;
mod look;
mod metrics;
mod missed;
mod outbound;
mod publisher;
mod rate;
mod render;
mod rhythm;

pub mod replay;
pub mod requeue;
mod search;
mod session;
mod wake;
mod way;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::{Broadcast, Endpoint, keys};
use crate::logs::Limited;
use crate::metrics::{BroadcastMetrics, EndpointMetrics};
use crate::rt;
use crate::server::{Backoff, Class};
use crate::status::{BlockedEntry, Doubt, Link, RouteState, RouteStatus, Slot};

use call::{Failing, Tally};
use failure::{Failure, Side};
use follow::{Follow, Found};
use outbound::Outbound;
use publisher::REFUSED_IN_A_ROW;
use session::Session;
use wake::Wake;

pub use id::EntryId;
pub use missed::DELETED_UNREAD;

/// How long a parked route waits before it tries again.
const PARKED: Duration = Duration::from_secs(30);
/// How often a waiting route says that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// How much is kept of an error that a server sent.
const ERROR_CHARACTERS: usize = 200;
/// A consumer that has an entry in hand for longer than this is worth a word, where others wait behind it.
const HELD_UP: Duration = Duration::from_secs(30);

/// What a route is made of.
#[derive(Debug)]
pub struct Parts {
    /// What it is to do.
    pub settings: Arc<Broadcast>,
    /// The server that holds the stream.
    pub source: Arc<Endpoint>,
    /// The server on which is published. With the same address as the source it counts as that one,
    /// and the source's user needs the rights to publish.
    pub destination: Arc<Endpoint>,
    /// Its place on the board.
    pub slot: Slot,
    /// Handles of the route's metrics.
    pub metrics: BroadcastMetrics,
    /// Handles of the source's metrics.
    pub source_metrics: EndpointMetrics,
    /// Handles of the destination's metrics.
    pub destination_metrics: EndpointMetrics,
}

/// Runs a route until it is told to stop; then lets what is under way finish, for up to `drain`.
///
/// Cancel safe in effect: wherever it is dropped, the next run begins at the cursor.
pub async fn run(parts: Parts, stop: CancellationToken, drain: Duration) {
    Route::new(parts).run(&stop, drain).await;
}

/// What outlives a session.
#[derive(Debug)]
struct Route {
    outbound: Outbound,
    parts: Parts,
    /// The cursor as it was seen last. Where the server has lost it, this is where to go on.
    remembered: Option<EntryId>,
    backoff: Backoff,
    log: Limited,
    /// An entry that failed for its own sake, as text, and what was said: to be counted by the next session.
    failed: Option<(String, String)>,
    /// What is counted of the last such entry.
    failing: Option<Failing>,
    /// Whether the rate holds it back, as it was said last.
    limited: bool,
    /// Where acknowledgements are noticed in the replication stream.
    wake: Option<Wake>,
}

impl Route {
    fn new(parts: Parts) -> Self {
        Self {
            outbound: Outbound::new(&parts.settings),
            parts,
            remembered: None,
            backoff: Backoff::default(),
            log: Limited::new(),
            failed: None,
            failing: None,
            limited: false,
            wake: None,
        }
    }

    async fn run(mut self, stop: &CancellationToken, drain: Duration) {
        let mut careful = false;
        let settings = &self.parts.settings;
        self.wake =
            settings.acknowledged().filter(|acknowledged| acknowledged.replication).map(|acknowledged| {
                let source = self.parts.source.clone();
                Wake::start(source, settings.name.clone(), &settings.stream, &acknowledged.group)
            });
        loop {
            let slot = self.parts.slot.clone();
            let outcome = tokio::select! {
                () = stop.cancelled() => Ok(None),
                outcome = living(&slot, Session::open(&mut self, careful)) => outcome.map(Some),
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
            careful = matches!(failure, Failure::Refused { .. });
            let wait = self.failed(&failure);
            tokio::select! {
                () = stop.cancelled() => break,
                () = living(&slot, sleep(wait)) => {}
            }
        }
        self.state(RouteState::Stopped, None);
    }

    /// Whether stream and channels are on one server.
    fn one_server(&self) -> bool {
        self.parts.source.is_same_server(&self.parts.destination)
    }

    /// A session has connected and found this cursor.
    fn opened(&mut self, cursor: EntryId, tally: Tally) {
        if self.remembered.replace(cursor).is_some() {
            self.parts.source_metrics.reconnects.increment(1);
            if !self.one_server() {
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
            if let Some(counts) = &mut status.broadcast {
                (counts.published, counts.unheard, counts.rejected, counts.filtered) =
                    (tally.published, tally.unheard, tally.rejected, tally.filtered);
            }
        });
    }

    /// Entries stand in the set of holes, which this order does not look at.
    fn left_behind(&mut self, count: u64) {
        let Some(suppressed) = self.log.admit("broadcast_holes_left", std::time::Instant::now()) else {
            return;
        };
        let settings = &self.parts.settings;
        let holes = keys::of_route(&self.parts.source.key_prefix, &settings.name, keys::HOLES);
        tracing::warn!(
            event = "broadcast_holes_left", route = %settings.name, endpoint = %self.parts.source.name, suppressed,
            "{count} entries were left behind when this route had order = \"acknowledgement\", and are not published \
             now, acknowledged or not: give it that order until tidegate_broadcast_holes is 0, or delete {holes} to \
             do without them"
        );
    }

    /// A session does its work from this entry on. Only now is the failure before it over: a session
    /// that opens and fails at once counts as the same failure.
    fn live(&mut self, after: EntryId) {
        self.backoff.reset();
        self.parts.slot.update(|status| {
            status.source.error = None;
            status.destination.error = None;
        });
        self.state(RouteState::Live, None);
        let route = &self.parts.settings.name;
        tracing::info!(event = "broadcast_live", %route, position = %after, "publishing after this entry");
    }

    /// A session has ended, or none could begin. Returns how long to wait before the next.
    fn failed(&mut self, failure: &Failure) -> Duration {
        let parked = failure.class() == Class::Park;
        let reason = self.reason(failure);
        self.parts.slot.update(|status| {
            let one_server = self.one_server();
            let link = side(status, failure.side());
            link.error = Some(reason.clone());
            link.connected = false;
            if one_server {
                let link = status.source.clone();
                status.destination = Link { endpoint: status.destination.endpoint.clone(), ..link };
            }
        });
        let state = if parked { RouteState::Parked } else { RouteState::Waiting };
        self.state(state, Some(reason.clone()));
        let endpoint = match failure.side() {
            Side::Source => &self.parts.source.name,
            Side::Destination => &self.parts.destination.name,
        };
        let route = &self.parts.settings.name;
        let class = failure.class().as_str();
        let now = std::time::Instant::now();
        if parked {
            if let Some(suppressed) = self.log.admit("broadcast_parked", now) {
                tracing::error!(
                    event = "broadcast_parked", %route, %endpoint, class, suppressed,
                    "{reason}; nothing is published until this is put right; trying again every 30 s"
                );
            }
        } else if let Some(suppressed) = self.log.admit("broadcast_waiting", now) {
            tracing::warn!(
                event = "broadcast_waiting", %route, %endpoint, class, suppressed,
                "{reason}; trying again, and then going on after the last published entry"
            );
        }
        if parked { PARKED } else { self.backoff.next_wait() }
    }

    /// What a person reads of a failure. An entry's own is noted to be counted.
    fn reason(&mut self, failure: &Failure) -> String {
        let reason = failure.for_a_person();
        match failure {
            Failure::Refused { own: true, entry: Some(entry), error, .. } => {
                let before = self.failing.as_ref().filter(|failing| failing.entry == *entry);
                let times = before.map_or(0, |failing| failing.failures) + 1;
                // It is kept in the cursor and in the dead letter, and comes from the server.
                let said = error.to_string().chars().take(ERROR_CHARACTERS).collect();
                self.failed = Some((entry.to_string(), said));
                let most = self.parts.settings.max_deliveries;
                format!("{reason}; delivery {times} of {most}, after which it becomes a dead letter")
            }
            Failure::Refused { entry: Some(_), .. }
                if self.failing.as_ref().is_some_and(|failing| failing.row > REFUSED_IN_A_ROW) =>
            {
                format!(
                    "{reason}; {REFUSED_IN_A_ROW} entries before it became dead letters for the like, and none \
                     was published between, so it is no single entry's fault"
                )
            }
            _ => reason,
        }
    }

    /// Entries were dealt with up to this cursor.
    fn done(&mut self, cursor: EntryId, tally: Tally, held_bytes: usize) {
        self.remembered = Some(cursor);
        let now = rt::unix_ms();
        metrics::done(&self.parts.metrics, tally, cursor, now);
        self.parts.slot.update(|status| {
            status.position = Some(cursor.to_string());
            status.in_hand_bytes = u64::try_from(held_bytes).unwrap_or(u64::MAX);
            status.last_progress_unix_ms = Some(now);
            if let Some(counts) = &mut status.broadcast {
                counts.published += tally.published;
                counts.unheard += tally.unheard;
                counts.rejected += tally.rejected;
                counts.filtered += tally.filtered;
            }
        });
    }

    /// Whether the rate holds it back.
    fn rate_limited(&mut self, limited: bool) {
        if std::mem::replace(&mut self.limited, limited) != limited {
            self.parts.metrics.rate_limited.set(f64::from(u8::from(limited)));
            self.parts.slot.update(|status| {
                if let Some(counts) = &mut status.broadcast {
                    counts.rate_limited = limited;
                }
            });
        }
    }

    /// A group was looked at.
    fn followed(&mut self, follow: &Follow) {
        let Some(look) = follow.look() else { return };
        let now = rt::unix_ms();
        let blocked = look.lowest.as_ref().map(|lowest| BlockedEntry {
            id: lowest.id.to_string(),
            age_ms: now.saturating_sub(lowest.id.milliseconds),
            consumer: lowest.consumer.clone(),
            idle_ms: lowest.idle_ms,
            deliveries: lowest.deliveries,
        });
        let age = Duration::from_millis(blocked.as_ref().map_or(0, |blocked| blocked.age_ms));
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
            && let Some(suppressed) = self.log.admit("broadcast_holes_full", std::time::Instant::now())
        {
            let route = &self.parts.settings.name;
            tracing::warn!(event = "broadcast_holes_full", %route, suppressed, "{reason}; see who has them with XPENDING, or raise max_holes");
        }
    }

    /// A look at the group has found something that a person should know.
    fn found(&mut self, found: Found, cursor: EntryId) {
        let settings = self.parts.settings.clone();
        let (route, stream) = (&settings.name, &settings.stream);
        let group =
            settings.acknowledged().map(|acknowledged| acknowledged.group.as_str()).unwrap_or_default();
        match found {
            Found::Group => {}
            Found::Missed(missed) => {
                self.parts.metrics.missed.increment(missed.count);
                self.parts.metrics.dead_letters.increment(1);
                self.parts.slot.update(|status| {
                    if let Some(counts) = &mut status.broadcast {
                        counts.rejected += 1;
                    }
                });
                if let Some(suppressed) = self.log.admit("broadcast_missed", std::time::Instant::now()) {
                    tracing::warn!(
                        event = "broadcast_missed", %route, position = %cursor, suppressed,
                        "{}: they are not published; the dead letters say so", missed.detail()
                    );
                }
            }
            Found::Anew => {
                if let Some(suppressed) = self.log.admit("broadcast_stream_anew", std::time::Instant::now()) {
                    tracing::warn!(
                        event = "broadcast_stream_anew", %route, position = %cursor, suppressed,
                        "the stream '{stream}' was deleted and begun again: what it held and was not read is not \
                         published; going on with ids after the cursor"
                    );
                }
            }
            Found::NoGroup => {
                let reason = format!("the stream '{stream}' has no consumer group '{group}'");
                self.state(RouteState::Waiting, Some(reason.clone()));
                self.parts.slot.update(|status| {
                    let known = status.acknowledged.get_or_insert_default();
                    group.clone_into(&mut known.group);
                    known.group_exists = false;
                    (known.delivered, known.read, known.pending, known.blocked) = (None, None, 0, None);
                });
                self.parts.metrics.blocked_entry_age_seconds.set(0.0);
                if let Some(suppressed) = self.log.admit("broadcast_no_group", std::time::Instant::now()) {
                    tracing::warn!(
                        event = "broadcast_no_group", %route, %group, position = %cursor, suppressed,
                        "{reason}: nothing is published until it is made (XGROUP CREATE {stream} {group} 0);                          what it is not given, because it begins later, will count as acknowledged"
                    );
                }
            }
            Found::Doubt(doubt) => {
                self.parts.metrics.doubt(doubt).increment(1);
                let kind = doubt.as_str();
                self.parts.slot.update(|status| {
                    let known = status.acknowledged.get_or_insert_default();
                    *known.doubts.entry(kind.to_owned()).or_default() += 1;
                });
                if let Some(suppressed) = self.log.admit(kind, std::time::Instant::now()) {
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
        let one_server = self.one_server();
        self.parts.slot.update(|status| {
            side(status, from).last_answer_unix_ms = now;
            if one_server {
                status.destination.last_answer_unix_ms = now;
            }
        });
    }

    fn progressed(&self) {
        self.parts.slot.progressed(rt::unix_ms());
    }

    fn draining(&self) {
        self.state(RouteState::Draining, None);
    }

    fn state(&self, state: RouteState, reason: Option<String>) {
        self.parts.slot.update(|status| {
            if status.state != state {
                status.state = state;
                status.since_unix_ms = rt::unix_ms();
            }
            status.reason = reason;
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

fn side(status: &mut RouteStatus, side: Side) -> &mut Link {
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
