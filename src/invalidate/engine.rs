//! An invalidation between its events: what an answer means, and what is asked next.
//!
//! ```text
//! source   XREAD after the last entry read ─▶ keys ─▶ queue        one request at a time; once a second its counts
//! cache    look, adopt, or clear                                   several that move a place, in order; else one
//! ```
//!
//! The engine opens no socket and reads no clock. Nothing that it believes needs to be true: each call compares, and a
//! call that was refused is followed by a look. What is uncertain is applied once more.

mod adoption;
mod cache;
mod source;
mod taken;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::change::keys::{KeyMaker, KeyRejection};
use super::cursor::place::Place;
use super::cursor::{Counts, CursorCalls, CursorLook, PlaceField};
use super::failure::SessionFailure;
use super::queue::Queue;
use super::second_pass::{BATCH_ENTRIES, HeldBatches, Marks};
use super::sweep::Sweep;
use crate::config::{Endpoint, IfMissed, Invalidate, redis_keys};
use crate::event::{InvalidateLoss, ReplayTrigger};
use crate::logs::{Limited, LogCode};
use crate::server::{BLOCKED_RETRY, Backoff, Class, Error, Hash};
use crate::status::RouteEndpoint;
use crate::stream::EntryId;
use crate::stream::counters::StreamCounters;
use adoption::Adoption;
use cache::{CacheClock, SentCall};
use source::SourceRequest;

/// Interval at which the cursor is written when nothing else moves it: a cache that evicts would drop one that is never
/// used, and another instance's moves are noticed by it.
const IDLE: Duration = Duration::from_secs(1);
/// How long a cursor must be missing before an instance with an older configuration makes one: the newer one goes first.
const OUTDATED_WAITS: Duration = Duration::from_secs(10);

/// What the route is to show.
#[derive(Debug)]
pub(super) enum Effect {
    /// Both servers are connected, and the cursor is known.
    Live(EntryId, Option<u64>),
    /// Another instance runs a newer configuration.
    Outdated(Option<u64>),
    /// The counts of all instances.
    Counts(Counts),
    /// A call of the script was answered.
    Cleared(Cleared),
    /// The place moved without this instance, or was read.
    Place(EntryId, Option<EntryId>),
    /// This many entries were left out by the filter.
    Filtered(u64),
    /// These entries are dead letters; the first one and why, for the log.
    Rejected { count: u64, first: EntryId, why: KeyRejection, suppressed: Option<u64> },
    /// Entries are applied once more.
    Replay { trigger: ReplayTrigger, from: EntryId, suppressed: Option<u64> },
    /// Changes may have been missed.
    Missed { loss: InvalidateLoss, detail: String, suppressed: Option<u64> },
    /// Every key was removed.
    Swept(Option<u64>),
    /// The stream was applied to its end so long ago.
    Behind(Option<Duration>),
    /// A side has answered.
    Answered(RouteEndpoint),
    /// The route was asked to stop.
    Draining,
    /// A session has ended, or none could begin.
    Failed { side: RouteEndpoint, class: Class, reason: String, suppressed: Option<u64> },
}

/// What a call of the script did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cleared {
    pub(super) place: PlaceField,
    pub(super) last: EntryId,
    pub(super) entries: usize,
    pub(super) keys: u64,
    pub(super) cleared: u64,
    pub(super) refused: u64,
    pub(super) written: u64,
    pub(super) kept: u64,
    pub(super) took: Duration,
}

/// What this instance believes of the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Places {
    pos: Place,
    again: Option<Place>,
}

/// The hashes of the scripts on the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashes {
    pub(super) clear: Hash,
    pub(super) adopt: Hash,
}

/// Whether another configuration works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// No look has succeeded yet: another revision is an older one.
    New,
    /// The cursor is ours.
    Ours,
    /// Another instance runs a newer configuration; since when its cursor has been missing.
    Outdated(Option<Instant>),
}

/// Settings, and what outlives a session.
#[derive(Debug)]
pub(super) struct Engine {
    settings: Arc<Invalidate>,
    calls: CursorCalls,
    dead_letters: String,
    timeouts: (Duration, Duration),
    keys: KeyMaker,
    /// Most entries of one call of the script.
    batch_entries: usize,
    standing: Standing,
    places: Option<Places>,
    /// The marks, and whether the cursor lacks some.
    marks: (Marks, bool),
    held: HeldBatches,
    /// The cache's time at the last look.
    again_clock: Option<CacheClock>,
    /// When our configuration took over, by the cache's clock: a cursor of another one that did so before is an old one.
    began: u64,
    /// The last gap record that was seen of the captures that write the stream, and whether the cursor lacks it.
    gaps: (Option<EntryId>, bool),
    /// The one in the call under way, and the one that the cursor is known to have had.
    gaps_written: (Option<EntryId>, Option<EntryId>),
    /// The clear of all keys, where it is configured.
    sweep: Option<Sweep>,
    /// The last look at the stream.
    seen: Option<StreamCounters>,
    /// How many entries of the stream are known to be missed. Another instance may move the place without their number:
    /// then the difference of its counts is seen once more.
    missed: u64,
    /// True if what an adoption gives up was reported, until the cursor is known to be ours.
    reported: bool,
    /// When it was last known that everything was applied.
    applied: Option<Instant>,
    backoff: Backoff,
    log: Limited,
    effects: Vec<Effect>,
    session: Option<SessionState>,
}

/// What belongs to one session.
#[derive(Debug)]
struct SessionState {
    hashes: Hashes,
    /// The request to the source under way, and since when.
    asked: Option<(SourceRequest, Instant)>,
    /// The calls to the cache under way, oldest first, and when the last one was answered.
    calls: VecDeque<SentCall>,
    answered: Instant,
    /// True once the cursor is known to be ours and where it is believed to be.
    ready: bool,
    /// A look at the cursor that waits for the stream's counts.
    look: Option<CursorLook>,
    /// True once a look of this session was compared with the stream.
    checked: bool,
    /// True from a look at the cursor until the next call.
    fresh: bool,
    /// The cursor is to be put so.
    adopting: Option<Adoption>,
    /// True once the session has reported that it works.
    live: bool,
    /// True if the second pass has its turn.
    again_next: bool,
    /// True if a clear of all keys has its turn.
    sweep_next: bool,
    /// True if the cursor lacks a mark that must not wait.
    marks_at_once: bool,
    looked_at_stream: Option<Instant>,
    /// The captures whose gap records are to be looked at in this round, and the last record that was found in it.
    gaps_left: usize,
    gaps_found: Option<EntryId>,
    looked_at_cursor: Option<Instant>,
    queue: Queue,
    /// The last entry read.
    read: Place,
    /// Up to here, every entry that was ever added was read or is known to be missed.
    complete: EntryId,
    /// COUNT of the next read.
    read_entries: usize,
    /// Dead letters to be written before what follows is applied.
    letters: Vec<(EntryId, KeyRejection)>,
    /// Up to here the stream had ended, at that time.
    end_seen: Option<(EntryId, Instant)>,
    /// When the cursor was last written.
    written: Instant,
    /// True once the route was asked to stop.
    stopping: bool,
    ranges: crate::stream::entries::Ranges,
    /// The counter to be raised with the next call, at this place.
    raised: bool,
}

/// Whether a session continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    Stopped,
}

impl Engine {
    pub(super) fn new(settings: Arc<Invalidate>, source: &Endpoint, cache: &Endpoint, now: Instant) -> Self {
        let key = redis_keys::of_route(&cache.key_prefix, &settings.name, redis_keys::CURSOR);
        Self {
            calls: CursorCalls::new(key, settings.revision(), settings.lease.as_ref()),
            dead_letters: redis_keys::of_route(&source.key_prefix, &settings.name, "dead-letters"),
            timeouts: (source.response_timeout, cache.response_timeout),
            keys: KeyMaker::new(&settings),
            batch_entries: BATCH_ENTRIES,
            standing: Standing::New,
            places: None,
            marks: (Marks::default(), false),
            held: HeldBatches::new(settings.again_after.unwrap_or_default()),
            again_clock: None,
            began: 0,
            gaps: (None, false),
            gaps_written: (None, None),
            sweep: (settings.if_missed == IfMissed::Clear).then(|| Sweep::new(&settings, now)),
            seen: None,
            missed: 0,
            reported: false,
            applied: None,
            backoff: Backoff::default(),
            log: Limited::new(),
            effects: Vec::new(),
            session: None,
            settings,
        }
    }

    /// Begins a session on connections that hold.
    pub(super) fn begin(&mut self, hashes: Hashes, now: Instant) {
        if let Some(sweep) = &mut self.sweep {
            sweep.on_session(now);
        }
        self.session = Some(SessionState {
            hashes,
            asked: None,
            calls: VecDeque::new(),
            answered: now,
            ready: false,
            look: None,
            checked: false,
            fresh: false,
            adopting: None,
            live: false,
            again_next: false,
            sweep_next: false,
            marks_at_once: false,
            looked_at_stream: None,
            gaps_left: 0,
            gaps_found: None,
            looked_at_cursor: None,
            queue: Queue::default(),
            read: Place::default(),
            complete: EntryId::default(),
            read_entries: 1,
            letters: Vec::new(),
            end_seen: None,
            written: now,
            stopping: false,
            ranges: Vec::new(),
            raised: false,
        });
    }

    /// A session has ended, or none could begin. Returns how long to wait before the next.
    pub(super) fn fail(&mut self, failure: &SessionFailure, now: Instant) -> Duration {
        self.session = None;
        let class = failure.class();
        let blocked = class == Class::Block;
        let code = if blocked { LogCode::InvalidateBlocked } else { LogCode::InvalidateWaiting };
        let (side, reason) = (failure.side, failure.with_hint());
        let suppressed = self.log.admit_of(code.as_str(), side.as_str(), now.into_std());
        self.effects.push(Effect::Failed { side, class, reason, suppressed });
        self.show_behind(now);
        if blocked { BLOCKED_RETRY } else { self.backoff.next_wait() }
    }

    /// Sentinels report another master while the next attempt is waited for: it is made now.
    pub(super) fn on_master_moved(&mut self) {
        self.backoff.reset();
    }

    /// Effects in order. The receiver removes them.
    pub(super) fn effects(&mut self) -> &mut Vec<Effect> {
        &mut self.effects
    }

    /// When our configuration took over, by the cache's clock.
    #[cfg(test)]
    pub(super) const fn began(&self) -> u64 {
        self.began
    }

    /// Lets one call of the script cover at most this number of entries.
    #[cfg(test)]
    pub(super) const fn with_batches_of(mut self, entries: usize) -> Self {
        self.batch_entries = entries;
        self
    }

    /// Bytes that are held in memory.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.bytes()
            + self.session.as_ref().map_or(0, |session| session.queue.bytes() + session.bytes_under_way())
    }

    /// The route is to stop: nothing more is read, and the call under way is waited for.
    pub(super) fn stop(&mut self) {
        if let Some(session) = &mut self.session {
            session.stopping = true;
            session.queue.clear();
        }
        self.effects.push(Effect::Draining);
    }

    /// Appends what is to be asked now of both servers.
    ///
    /// # Errors
    /// If an answer is overdue.
    pub(super) fn advance(
        &mut self,
        source: &mut Vec<u8>,
        cache: &mut Vec<u8>,
        now: Instant,
    ) -> Result<Next, SessionFailure> {
        self.overdue(now)?;
        self.ask_source(source, now);
        self.ask_cache(cache, now);
        let Some(session) = &mut self.session else { return Ok(Next::Continue) };
        let stopped = session.stopping && session.calls.is_empty();
        if session.is_applied(self.places) {
            self.applied = self.applied.max(session.end_seen.map(|(_, at)| at));
        }
        self.show_behind(now);
        Ok(if stopped { Next::Stopped } else { Next::Continue })
    }

    /// How long ago everything was applied: as long as the source has not answered, or the cache.
    pub(super) fn show_behind(&mut self, now: Instant) {
        let behind = self.applied.map(|applied| now.saturating_duration_since(applied));
        self.effects.push(Effect::Behind(behind));
    }

    /// When to call [`Self::advance`] if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        let session = self.session.as_ref()?;
        if !session.calls.is_empty() {
            return None;
        }
        if !session.ready {
            let rests = matches!(self.standing, Standing::Outdated(_));
            return session.looked_at_cursor.filter(|_| rests).map(|at| at + IDLE);
        }
        // Without dead letters to be written first.
        let first = session.queue.due(self.settings.collect).filter(|_| session.letters.is_empty());
        let sweep = self.sweep.as_ref().and_then(Sweep::due);
        [first, sweep, self.held.due(), Some(session.written + IDLE)].into_iter().flatten().min()
    }

    fn overdue(&self, now: Instant) -> Result<(), SessionFailure> {
        let Some(session) = &self.session else { return Ok(()) };
        let (source, cache) = self.timeouts;
        if let Some((request, since)) = &session.asked
            && now >= *since + source + request.blocks()
        {
            return Err(SessionFailure::source(Error::Timeout(source, "reading the stream")));
        }
        // The server begins with a call when the one before is done.
        if let Some((_, since)) = session.calls.front()
            && now >= session.answered.max(*since) + cache
        {
            return Err(SessionFailure::cache(Error::Timeout(cache, "clearing keys")));
        }
        Ok(())
    }

    /// Returns how many lines of this code were held back since the last, if this one may be logged.
    fn admit(&mut self, code: &'static str, now: Instant) -> Option<u64> {
        self.log.admit(code, now.into_std())
    }

    fn miss(&mut self, loss: InvalidateLoss, detail: String, now: Instant) {
        if let Some(sweep) = &mut self.sweep {
            if loss == InvalidateLoss::SecondPass {
                sweep.begin_again(now);
            } else {
                sweep.begin(now);
            }
        }
        let suppressed = self.admit(loss.as_str(), now);
        self.effects.push(Effect::Missed { loss, detail, suppressed });
    }
}

impl SessionState {
    /// Returns whether everything is applied up to where the stream was seen to end.
    fn is_applied(&self, places: Option<Places>) -> bool {
        let (Some((end, _)), Some(places)) = (self.end_seen, places) else { return false };
        self.ready && places.pos.id >= end
    }
}
