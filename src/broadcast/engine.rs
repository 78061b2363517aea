//! The decisions of a broadcast, without I/O: questions, the meaning of answers, messages to publish, the cursor, the
//! leader, the consequence of a failure, and the end.
//!
//! ```text
//!            cursor, begin           on(event)  advance             fail
//! away ─────────────────────▶ at work ─────────────────▶ stopped
//!   ▲                            │ a connection, an answer or a deadline fails
//!   └────────────────────────────┘ the cursor, an entry that failed and the backoff are remembered
//! ```
//!
//! The session owns sockets and timers. It passes events with the time, calls [`Engine::advance`] after them, sends the
//! bytes of [`Engine::outgoing`], and reports [`Engine::effects`]. The simulation does the same with simulated servers.
//!
//! Only [`Core`] outlives a session: the next session reads the cursor and begins there.

mod following;
pub(super) mod leadership;
mod reading;
mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::failure::Half;
use super::failure::{Replaced, SessionFailure};
use super::group::follower::{Follower, GroupEvent};
use super::message::MessageMaker;
use super::publish::call::{self, BroadcastKeys, Tally};
use super::publish::open::{self, CursorPlace, Failing, OPEN, Opened};
use super::publish::publisher::{REFUSED_IN_A_ROW, Settled};
use super::unread_loss::UnreadWatch;
use crate::config::{Broadcast, Endpoint, Start, Streams, redis_keys};
use crate::logs::{Limited, LogCode};
use crate::server::resp::{self, Value};
use crate::server::{BLOCKED_RETRY, Backoff, Class, Error, Hash};
use crate::status::{RouteEndpoint, RouteState};
use crate::stream::EntryId;
use crate::stream::counters::{StreamCounters, ask_counters, is_gone};
use crate::stream::entries::Ranges;

use work::Work;

/// Longest part of a server's error text that is kept.
const ERROR_CHARACTERS: usize = 200;

/// An input of the engine.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// The reader's answer.
    Read(&'a [u8]),
    /// A script's answer.
    Script(Value),
    /// An answer of the other server.
    Answer(Value),
    /// Some time has passed.
    Tick,
    /// The group changed, or its notifier did. True if the notifier will announce the next change.
    Woken(bool),
    /// The route must stop, at this time at the latest.
    Stop(Instant),
}

/// Returned by [`Engine::advance`]: whether the session continues.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It continues.
    Continue,
    /// It stopped, in order.
    Stopped,
}

/// Something to count, show or log. A number is the number of similar lines that were not logged; `None` if this line
/// is not logged either.
#[derive(Debug)]
pub(super) enum Effect {
    /// A session has connected and found this cursor; true if it is not the first session.
    Opened(EntryId, bool),
    /// Totals since the cursor was made, over all instances.
    Ledger(Tally),
    /// Number of entries in the set of holes, which this order does not read.
    HolesLeft(u64, Option<u64>),
    /// This instance publishes, from this entry on.
    Live(EntryId, Option<u64>),
    /// Another instance publishes, or none yet.
    StandsBy(Option<String>, Option<u64>),
    /// The lease ran out before all messages were sent.
    Lapsed(Option<u64>),
    /// Messages that this process sent, and of these those that reached no subscriber.
    Sent(u64, u64),
    /// A call did its work.
    Settled(Settled),
    /// The cursor, and what became of entries up to it by this process.
    Done(EntryId, Tally),
    /// True if the rate limit delays entries.
    RateLimited(bool),
    /// The group was polled. Says why later entries wait, if that is to be logged, and how many lines were held back.
    Group(Option<(String, u64)>),
    /// A look or a count has found something, at this cursor.
    Found(GroupEvent, EntryId, Option<u64>),
    /// A side has answered.
    Answered(RouteEndpoint),
    /// The loop comes round.
    Progressed,
    /// A stop waits for the calls under way.
    Draining,
    /// The stop's time ended before all calls were answered.
    DrainCutShort(Option<EntryId>),
    /// A session has ended, or none could begin.
    Failed { side: RouteEndpoint, class: Class, reason: String, suppressed: Option<u64> },
}

/// The hashes of the scripts on the stream's server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashes {
    pub(super) publish: Hash,
    pub(super) release: Hash,
    pub(super) state: Hash,
    pub(super) lease: Hash,
}

/// State that outlives a session.
#[derive(Debug)]
pub(super) struct Core {
    settings: Arc<Broadcast>,
    /// The cursor and the lease in them are those that the open script named last.
    keys: BroadcastKeys,
    /// The prefix of the keys on the stream's server.
    prefix: String,
    /// Tells this route of this process from every other instance.
    me: String,
    one_server: bool,
    source_timeout: Duration,
    destination_timeout: Duration,
    outbound: MessageMaker,
    ranges: Ranges,
    /// The cursor as last seen. The route continues here if the server has lost the cursor.
    remembered: Option<EntryId>,
    /// The cursor, if the stream's ids are below it. The next session checks that, and starts from the first entry.
    below: Option<EntryId>,
    /// The stream was replaced by one with entries before the cursor: the next session begins anew, if the cursor is
    /// unchanged.
    replaced: Option<Replaced>,
    /// The last session's view of the stream, until the next begins. Only if entries are broadcast as they are added.
    watch: Option<UnreadWatch>,
    /// An entry that failed for its own sake, and the error, as text. The next session counts it.
    failed: Option<(String, String)>,
    /// Attempts counted for the last entry that failed.
    failing: Option<Failing>,
    /// True if the next session begins with a single entry, to test whether the server still refuses it.
    careful: bool,
    backoff: Backoff,
    log: Limited,
    /// True if the rate limit was reported last.
    limited: bool,
    effects: Vec<Effect>,
}

/// A broadcast, between its events.
#[derive(Debug)]
pub(super) struct Engine {
    core: Core,
    /// The result of `open.lua`, until a session begins with it.
    opened: Option<Opened>,
    work: Option<Work>,
}

impl Engine {
    pub(super) fn new(
        settings: Arc<Broadcast>,
        source: &Endpoint,
        destination: &Endpoint,
        me: String,
    ) -> Self {
        let core = Core {
            keys: BroadcastKeys::new(&source.key_prefix, &settings),
            prefix: source.key_prefix.clone(),
            outbound: MessageMaker::new(&settings),
            settings,
            me,
            one_server: source.is_same_server(destination),
            source_timeout: source.response_timeout,
            destination_timeout: destination.response_timeout,
            ranges: Vec::new(),
            remembered: None,
            below: None,
            replaced: None,
            watch: None,
            failed: None,
            failing: None,
            careful: false,
            backoff: Backoff::default(),
            log: Limited::new(),
            limited: false,
            effects: Vec::new(),
        };
        Self { core, opened: None, work: None }
    }

    /// Returns whether stream and channels are on one server.
    pub(super) fn one_server(&self) -> bool {
        self.core.one_server
    }

    /// The key of holes that this route may have left under another order; `None` if its order reads them.
    pub(super) fn holes_left_key(&self, prefix: &str) -> Option<String> {
        let looked_at = self.core.keys.holes.is_some();
        (!looked_at).then(|| call::own_key(prefix, &self.core.settings, redis_keys::HOLES))
    }

    /// Appends the call that finds the cursor, or makes it.
    pub(super) fn ask_cursor(&self, out: &mut Vec<u8>) {
        let Core { keys, remembered, settings, failed, below, replaced, prefix, one_server, .. } = &self.core;
        let [cursor, lease] = call::keys_of_place(prefix, &settings.name, None);
        let found = matches!(settings.streams, Streams::Found(_));
        let many: &[u8] = if found { b"1" } else { b"" };
        // After a stream began anew, the remembered place is void. A stream that was found is a new one.
        let anew = below.or(replaced.map(|replaced| replaced.cursor));
        let start = if found && anew.is_some() { Some(Start::New) } else { settings.start };
        let begin = remembered
            .filter(|_| anew.is_none())
            .map_or_else(|| open::start_argument(start), |id| id.to_string());
        let below = anew.map(|id| id.to_string()).unwrap_or_default();
        let (counted, after) = replaced
            .map(|replaced| (replaced.counted.to_string(), replaced.after.to_string()))
            .unwrap_or_default();
        let (entry, error) = failed.as_ref().map(|(entry, error)| (&**entry, &**error)).unwrap_or_default();
        let number: &[u8] = if *one_server { b"2" } else { b"3" };
        let mut arguments: Vec<&[u8]> = vec![b"EVAL", OPEN.source.as_bytes(), number];
        arguments.extend([cursor.as_bytes(), keys.stream.as_bytes()]);
        if !one_server {
            arguments.push(lease.as_bytes());
        }
        arguments.extend([begin.as_bytes(), entry.as_bytes(), error.as_bytes(), below.as_bytes(), many]);
        arguments.extend([counted.as_bytes(), after.as_bytes()]);
        resp::command(out, &arguments);
    }

    /// Takes in the cursor.
    ///
    /// # Errors
    /// If the script failed, or neither the configuration nor the cursor says where to begin.
    pub(super) fn on_cursor(&mut self, reply: &Value) -> Result<(), SessionFailure> {
        if let Value::Error(text) = reply {
            return Err(self.no_cursor(Error::reply(text)));
        }
        let opened = open::opened(reply).map_err(SessionFailure::source)?;
        self.core.take_place(&opened)?;
        // It is counted now.
        self.core.failed = None;
        self.core.failing.clone_from(&opened.failing);
        if opened.cursor.is_none() {
            if let Some(cursor) = self.core.below {
                return Err(self.core.stream_below(cursor));
            }
            let settings = &self.core.settings;
            let (stream, route) = (settings.stream().to_owned(), settings.name.clone());
            return Err(SessionFailure::StartUnsaid { stream, route });
        }
        (self.core.below, self.core.replaced) = (None, None);
        self.opened = Some(opened);
        Ok(())
    }

    /// The failure of a session that could not look for its cursor.
    pub(super) fn no_cursor(&self, error: Error) -> SessionFailure {
        SessionFailure::source(error.at(&[&self.core.keys.cursor]))
    }

    /// Appends the question about the stream. It is asked before connecting to the destination, so entries that are
    /// deleted unread while the destination is down are counted. Returns whether it was appended.
    pub(super) fn ask_stream(&self, out: &mut Vec<u8>) -> bool {
        let asks = !self.core.one_server && self.core.settings.acknowledged().is_none();
        if asks {
            ask_counters(self.core.settings.stream(), out);
        }
        asks
    }

    /// Takes in the stream's counters. A rejected question is reported where entries are read.
    ///
    /// # Errors
    /// If the server did not answer.
    pub(super) fn on_stream(
        &mut self,
        answer: Result<Value, Error>,
        now: Instant,
    ) -> Result<(), SessionFailure> {
        let facts = match answer {
            Ok(reply) => StreamCounters::read(&reply),
            Err(error) if is_gone(&error) => None,
            Err(error) if error.code().is_some() => return Ok(()),
            Err(error) => return Err(SessionFailure::source(error)),
        };
        if let Some(Opened { cursor: Some(cursor), counted, .. }) = self.opened {
            let watch = self.core.watch.get_or_insert_with(|| UnreadWatch::new(now));
            watch.on_session((cursor, counted), now);
            watch.look_between(facts.as_ref(), (cursor, counted));
        }
        Ok(())
    }

    /// Begins a session on connections that hold. `left` is how many holes another order left behind; `woken`,
    /// whether acknowledgements will be announced.
    pub(super) fn begin(&mut self, hashes: &Hashes, left: Option<u64>, woken: bool, now: Instant) {
        let Some(Opened { cursor: Some(cursor), counted, passes, tally, .. }) = self.opened.take() else {
            return;
        };
        let core = &mut self.core;
        let again = core.remembered.replace(cursor).is_some();
        // The status gets the totals before the cursor.
        core.effects.push(Effect::Ledger(tally));
        core.effects.push(Effect::Opened(cursor, again));
        if let Some(left) = left.filter(|left| *left > 0) {
            let suppressed = core.admit(LogCode::BroadcastAckPendingLeft.as_str(), now);
            core.effects.push(Effect::HolesLeft(left, suppressed));
        }
        let mut work = Work::new(core, hashes, (cursor, counted), woken, now);
        work.publisher.set_passes(passes);
        work.read_on(core, now);
        self.work = Some(work);
    }

    /// Takes in what happened. [`Self::advance`] is to follow, after one event or several.
    ///
    /// # Errors
    /// What ends the session.
    pub(super) fn on(&mut self, event: Event<'_>, now: Instant) -> Result<(), SessionFailure> {
        let Self { core, work: Some(work), .. } = self else { return Ok(()) };
        match event {
            Event::Read(frame) => work.on_read(core, frame, now),
            Event::Script(value) => work.on_script(core, &value, now),
            Event::Answer(value) => work.on_answer(core, &value, now),
            Event::Tick => work.on_tick(core, now),
            Event::Woken(up) => {
                work.on_woken(up, now);
                Ok(())
            }
            Event::Stop(until) => {
                work.on_stop(core, until);
                Ok(())
            }
        }
    }

    /// Acts on the events, and asks for the next data.
    ///
    /// # Errors
    /// The failure that ends the session.
    pub(super) fn advance(&mut self, now: Instant) -> Result<Next, SessionFailure> {
        match self {
            Self { core, work: Some(work), .. } => work.advance(core, now),
            _ => Ok(Next::Continue),
        }
    }

    /// Returns the failure for the end of a connection.
    pub(super) fn on_broken(&mut self, half: Half, error: Error) -> SessionFailure {
        match (half, &mut self.work) {
            (Half::Writer | Half::Other, Some(work)) => work.publisher.on_broken(half.side(), error),
            _ => SessionFailure::Server { side: half.side(), error },
        }
    }

    /// A session has ended, or none could begin. Returns how long to wait before the next.
    pub(super) fn fail(&mut self, failure: &SessionFailure, now: Instant) -> Duration {
        self.opened = None;
        let core = &mut self.core;
        if let Some(work) = self.work.take() {
            core.watch = Some(work.watch);
        }
        if matches!(failure, SessionFailure::StreamBelow { .. } | SessionFailure::StreamReplaced { .. }) {
            // The next one begins elsewhere, in another stream.
            core.watch = None;
        }
        core.careful = matches!(failure, SessionFailure::Refused { .. });
        if let SessionFailure::StreamBelow { cursor, .. } = failure {
            core.below = Some(*cursor);
        }
        if let SessionFailure::StreamReplaced { replaced, .. } = failure {
            core.replaced = Some(*replaced);
        }
        if matches!(failure, SessionFailure::LeaseLapsed) {
            let suppressed = core.admit(LogCode::BroadcastLeaseLapsed.as_str(), now);
            core.effects.push(Effect::Lapsed(suppressed));
            return core.backoff.next_wait();
        }
        let reason = core.reason(failure);
        let (side, class) = (failure.side(), failure.class());
        let code = if class == Class::Block {
            LogCode::BroadcastBlocked.as_str()
        } else {
            LogCode::BroadcastWaiting.as_str()
        };
        let suppressed = core.log.admit_of(code, side.as_str(), now.into_std());
        core.effects.push(Effect::Failed { side, class, reason, suppressed });
        if class == Class::Block { BLOCKED_RETRY } else { core.backoff.next_wait() }
    }

    /// Sentinels report another master while the next attempt is waited for: it is made now.
    pub(super) fn on_master_moved(&mut self) {
        self.core.backoff.reset();
    }

    /// Commands that are to be sent on a connection.
    pub(super) fn outgoing(&mut self, half: Half) -> Option<&mut Vec<u8>> {
        let work = self.work.as_mut()?;
        match half {
            Half::Reader => Some(&mut work.out),
            Half::Writer => Some(work.publisher.outgoing().0),
            Half::Other => work.publisher.outgoing().1,
        }
    }

    /// Time until which messages for the other server may be sent; `None` if no message waits.
    pub(super) fn sends_until(&self) -> Option<Instant> {
        self.work.as_ref().and_then(Work::sends_until)
    }

    /// When to call [`Self::advance`] if no event comes before.
    pub(super) fn due(&self) -> Option<Instant> {
        self.work.as_ref().and_then(Work::due)
    }

    /// Effects in order. The receiver removes them.
    pub(super) fn effects(&mut self) -> &mut Vec<Effect> {
        &mut self.core.effects
    }

    /// Bytes that are held until they are handed over.
    pub(super) fn held_bytes(&self) -> usize {
        self.work.as_ref().map_or(0, |work| work.publisher.held_bytes())
    }

    /// The group's follower, if entries wait for a group.
    pub(super) fn follow(&self) -> Option<&Follower> {
        self.work.as_ref().and_then(|work| work.follow.as_ref())
    }
}

impl Core {
    /// Returns how many lines of this code were held back since the last, if this one may be logged.
    fn admit(&mut self, code: &'static str, now: Instant) -> Option<u64> {
        self.log.admit(code, now.into_std())
    }

    /// # Errors
    /// If it ends the session.
    fn on_group_event(
        &mut self,
        found: GroupEvent,
        cursor: EntryId,
        now: Instant,
    ) -> Result<(), SessionFailure> {
        let code = match &found {
            GroupEvent::Group => return Ok(()),
            GroupEvent::Below => return Err(self.stream_below(cursor)),
            GroupEvent::NoGroup => LogCode::BroadcastNoGroup.as_str(),
            GroupEvent::GroupChange(group_change) => group_change.as_str(),
            GroupEvent::Missed(_) => LogCode::BroadcastEntriesLost.as_str(),
            GroupEvent::Anew => LogCode::BroadcastStreamRecreated.as_str(),
        };
        let suppressed = self.admit(code, now);
        self.effects.push(Effect::Found(found, cursor, suppressed));
        Ok(())
    }

    /// Uses the keys that hold the stream's place.
    ///
    /// # Errors
    /// If an operator must decide which place to use.
    fn take_place(&mut self, opened: &Opened) -> Result<(), SessionFailure> {
        let Broadcast { name, .. } = &*self.settings;
        let of_route = call::keys_of_place(&self.prefix, name, None);
        let of_stream = call::keys_of_place(&self.prefix, name, Some(&self.keys.stream));
        let [key, stream_key] = [&of_route[0], &of_stream[0]];
        let reason = match opened.place {
            CursorPlace::Route => {
                [self.keys.cursor, self.keys.lease] = of_route;
                return Ok(());
            }
            CursorPlace::Stream => {
                [self.keys.cursor, self.keys.lease] = of_stream;
                return Ok(());
            }
            CursorPlace::Unnamed => format!(
                "the cursor {key} does not say of which stream it is: a release before `streams` wrote it. Run this release \
                 with stream = in [broadcast.{name}] once, which notes it; or delete {key}, and streams begin where start says"
            ),
            CursorPlace::Unreadable => format!(
                "the route had many streams before, and the cursor {stream_key} of the stream '{}' cannot be used: {}. Grant \
                 what `tidegate acl` prints for streams = in [broadcast.{name}] until this is over; or delete {key}, and the \
                 route begins where start says",
                self.keys.stream, opened.refused
            ),
            CursorPlace::Newer => {
                call::newer_cursor(if opened.refused.is_empty() { key } else { stream_key })
            }
        };
        Err(SessionFailure::CursorRefused { reason })
    }

    /// The failure of a session whose stream has ids below the cursor.
    fn stream_below(&self, cursor: EntryId) -> SessionFailure {
        SessionFailure::StreamBelow {
            stream: self.settings.stream().to_owned(),
            route: self.settings.name.clone(),
            cursor,
            start: self.settings.start.is_some() || matches!(self.settings.streams, Streams::Found(_)),
        }
    }

    /// Returns whether a stream that replaces another is read from before the cursor.
    fn begins_before_cursor(&self) -> bool {
        matches!(self.settings.streams, Streams::Found(_))
            || matches!(self.settings.start, Some(Start::Beginning | Start::After(..)))
    }

    fn rate_limited(&mut self, limited: bool) {
        if std::mem::replace(&mut self.limited, limited) != limited {
            self.effects.push(Effect::RateLimited(limited));
        }
    }

    /// A session does its work. Only now is the failure before it over: a session that opens and fails at once
    /// counts as the same failure.
    fn on_working(&mut self, state: RouteState, holder: Option<String>, cursor: EntryId, now: Instant) {
        self.backoff.reset();
        if state == RouteState::Live {
            let suppressed = self.admit(LogCode::BroadcastLive.as_str(), now);
            self.effects.push(Effect::Live(cursor, suppressed));
        } else {
            let suppressed = self.admit(LogCode::BroadcastStandby.as_str(), now);
            self.effects.push(Effect::StandsBy(holder, suppressed));
        }
    }

    /// The text of a failure. An entry's own is noted, to be counted.
    fn reason(&mut self, failure: &SessionFailure) -> String {
        let reason = failure.with_hint();
        match failure {
            SessionFailure::Refused { own: true, entry: Some(entry), error, .. } => {
                let before = self.failing.as_ref().filter(|failing| failing.entry == *entry);
                let times = before.map_or(0, |failing| failing.failures) + 1;
                // It is kept in the cursor and in the dead letter, and comes from the server.
                let said = error.to_string().chars().take(ERROR_CHARACTERS).collect();
                self.failed = Some((entry.to_string(), said));
                let most = self.settings.max_deliveries;
                format!("{reason}; attempt {times} of {most}, then it becomes a dead letter")
            }
            SessionFailure::Refused { entry: Some(_), .. }
                if self.failing.as_ref().is_some_and(|failing| failing.row > REFUSED_IN_A_ROW) =>
            {
                format!(
                    "{reason}; {REFUSED_IN_A_ROW} entries before it became dead letters for similar reasons, and none \
                     was published in between; every entry is affected"
                )
            }
            _ => reason,
        }
    }
}
