//! One session's decisions: reads, messages and questions, from the cursor on until it fails or stops.

use std::time::Duration;

use tokio::time::Instant;

use super::leadership::{Leadership, LeadershipChange, LeaseReply};
use super::{Core, Effect, Hashes, Next};
use crate::broadcast::failure::SessionFailure;
use crate::broadcast::group::follower::{Asked, Follower};
use crate::broadcast::publish::count::CursorCount;
use crate::broadcast::publish::egress::Egress;
use crate::broadcast::publish::publisher::{Called, Publisher};
use crate::broadcast::publish::rate::Pace;
use crate::broadcast::unread_loss::UnreadWatch;
use crate::server::Error;
use crate::server::resp::Value;
use crate::status::RouteEndpoint;
use crate::status::RouteState;
use crate::stream::EntryId;

/// How long XREAD waits for an entry. The answer is also the sign that the server is alive, so a stopped one is noticed
/// after this and the response timeout.
pub(super) const BLOCK: Duration = Duration::from_secs(1);

/// A read that is not answered yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingRead {
    pub(super) after: EntryId,
    /// 0 if the rate allows nothing, and the answer is only a sign of life.
    pub(super) entries: usize,
    /// True if the rate allowed no more.
    pub(super) limited: bool,
    pub(super) sent: Instant,
    pub(super) what: ReadKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadKind {
    Entries,
    /// The stream's counters.
    Count,
    /// The record of lost entries.
    Missed,
}

/// The state of a session.
#[derive(Debug)]
pub(super) struct Work {
    /// Commands of the reader.
    pub(super) out: Vec<u8>,
    pub(super) publisher: Publisher,
    /// The lease, if the channel is on another server.
    pub(super) leadership: Option<Leadership>,
    pub(super) read: Option<PendingRead>,
    /// The group's follower, if the route waits for acknowledgements.
    pub(super) follow: Option<Follower>,
    pub(super) watch: UnreadWatch,
    pub(super) asked: Option<(Asked, Instant)>,
    /// COUNT of the next read: from 1 up, so that no reply is larger than expected.
    pub(super) read_entries: usize,
    pub(super) pace: Pace,
    /// Until when nothing is read, since the rate lets nothing through.
    pub(super) paced: Option<Instant>,
    /// True if the stream was read.
    pub(super) reads: bool,
    /// True if an entry was published after a refusal, or there was none to publish.
    pub(super) publishes: bool,
    /// Its last reported status, with the instance that publishes.
    told: Option<(RouteState, Option<String>)>,
    /// The lease's holder, by the last reply.
    standing: Option<LeadershipChange>,
    /// The deadline of a stop for the calls under way.
    drain_until: Option<Instant>,
    releases: bool,
    /// True if unread entries have been checked a last time.
    pub(super) looked_back: bool,
}

impl Work {
    pub(super) fn new(
        core: &mut Core,
        hashes: &Hashes,
        cursor: (EntryId, CursorCount),
        woken: bool,
        now: Instant,
    ) -> Self {
        let settings = &core.settings;
        let follow = settings.acknowledged();
        let follow = follow.map(|what| Follower::new(what, &core.keys, hashes.state, cursor.0, woken, now));
        let mut publisher = Publisher::new(hashes.publish, core.keys.clone(), cursor, core.source_timeout)
            .with_release(hashes.release)
            .with_refusals(
                settings.channel.literal().is_none(),
                core.failing.as_ref(),
                settings.max_deliveries,
            );
        let mut leadership = None;
        if !core.one_server {
            publisher = publisher.with_other(core.destination_timeout);
            let (me, key) = (core.me.clone(), core.keys.lease.clone());
            leadership = Some(Leadership::new(me, key, hashes.lease, now));
        }
        if core.careful {
            publisher = publisher.careful();
        }
        let mut watch = core.watch.take().unwrap_or_else(|| UnreadWatch::new(now));
        watch.on_session(cursor, now);
        Self {
            out: Vec::new(),
            publisher,
            leadership,
            read: None,
            follow,
            watch,
            asked: None,
            read_entries: 1,
            pace: Pace::new(settings.rate_limit, now),
            paced: None,
            reads: false,
            publishes: false,
            told: None,
            standing: None,
            drain_until: None,
            releases: false,
            looked_back: false,
        }
    }

    /// Returns whether this instance publishes.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.leadership.as_ref().is_none_or(|leadership| leadership.leads(now))
    }

    /// The watch for entries that are lost unread: the follower's, if the route waits for acknowledgements.
    fn watch(&mut self) -> &mut UnreadWatch {
        self.follow.as_mut().map(Follower::watch).unwrap_or(&mut self.watch)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain_until.is_some()
    }

    pub(super) fn sends_until(&self) -> Option<Instant> {
        let leadership = self.leadership.as_ref()?;
        self.publisher.is_sending().then(|| leadership.until()).flatten()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let lease = self.leadership.as_ref().and_then(Leadership::due);
        let follow = self.follow.as_ref().filter(|_| self.asked.is_none() && self.publisher.takes());
        let follow = follow.filter(|_| !self.is_draining()).and_then(|follow| follow.due(&self.pace));
        [lease, follow, self.paced].into_iter().flatten().min()
    }

    /// Takes in the reader's answer.
    pub(super) fn on_read(
        &mut self,
        core: &mut Core,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), SessionFailure> {
        core.effects.push(Effect::Answered(RouteEndpoint::Source));
        if self.follow.is_some() {
            self.on_followed(core, frame, now)
        } else {
            self.on_added(core, frame, now)
        }
    }

    /// Takes in a script's answer.
    pub(super) fn on_script(
        &mut self,
        core: &mut Core,
        value: &Value,
        now: Instant,
    ) -> Result<(), SessionFailure> {
        let call = match self.publisher.on_call_reply()? {
            Called::Lease => return self.on_lease(core, value, now),
            Called::Batch(call) => call,
        };
        let settled = self.publisher.on_settled(&call, value, now)?;
        if let Some(cursor) = self.publisher.cursor() {
            core.remembered = Some(cursor);
            let tally = settled.map(|settled| settled.tally).unwrap_or_default();
            core.effects.push(Effect::Done(cursor, tally));
        }
        if let Some(settled) = settled {
            self.watch().on_recorded(settled.lost_elsewhere);
            if self.leadership.is_none() {
                core.effects.push(Effect::Sent(settled.tally.published, settled.tally.unheard));
            }
            core.effects.push(Effect::Settled(settled));
        }
        self.publishes |= !self.publisher.is_careful();
        Ok(())
    }

    /// Takes in who publishes.
    fn on_lease(&mut self, core: &mut Core, value: &Value, now: Instant) -> Result<(), SessionFailure> {
        let Some(leadership) = &mut self.leadership else { return Ok(()) };
        let keys = [core.keys.lease.as_str(), &core.keys.cursor];
        let reply = LeaseReply::read(value).map_err(|error| SessionFailure::source(error.at(&keys)))?;
        core.effects.push(Effect::Answered(RouteEndpoint::Source));
        let change = leadership.on_reply(&reply, now);
        if self.is_draining() {
            return Ok(());
        }
        let leads = self.leads(now);
        match reply.cursor {
            None => self.publisher.on_cursor_vanished(),
            // Another instance has published up to here, by this step, or recorded a loss.
            Some(cursor)
                if !leads
                    || cursor != self.publisher.end()
                    || reply.counted != self.publisher.counted_there() =>
            {
                if self.publisher.continue_at(cursor, reply.counted) {
                    self.watch().on_moved((cursor, reply.counted));
                }
                core.remembered = self.publisher.cursor();
                core.effects.push(Effect::Ledger(reply.tally));
                core.effects.push(Effect::Done(cursor, Default::default()));
            }
            Some(_) => {}
        }
        if change != LeadershipChange::Same {
            self.standing = Some(change);
        }
        Ok(())
    }

    /// Takes in an answer of the other server.
    pub(super) fn on_answer(
        &mut self,
        core: &mut Core,
        value: &Value,
        now: Instant,
    ) -> Result<(), SessionFailure> {
        let (sent, unheard) = self.publisher.on_answer(value, now)?;
        match core.effects.last_mut() {
            // Answers come by the batch: one effect of each kind is enough.
            Some(Effect::Sent(all, of_these)) => {
                *all += sent;
                *of_these += unheard;
            }
            _ => {
                core.effects.push(Effect::Answered(RouteEndpoint::Destination));
                core.effects.push(Effect::Sent(sent, unheard));
            }
        }
        Ok(())
    }

    /// Takes in that time has passed.
    pub(super) fn on_tick(&mut self, core: &mut Core, now: Instant) -> Result<(), SessionFailure> {
        core.effects.push(Effect::Progressed);
        self.publisher.ping(now);
        self.publisher.check_deadlines(now)?;
        let limit = BLOCK + core.source_timeout;
        let sent = self.read.map(|read| read.sent).or(self.asked.as_ref().map(|(_, sent)| *sent));
        if sent.is_some_and(|sent| now.saturating_duration_since(sent) > limit) {
            return Err(SessionFailure::source(Error::Timeout(limit, "reading the stream")));
        }
        Ok(())
    }

    pub(super) fn on_woken(&mut self, up: bool, now: Instant) {
        if let Some(follow) = &mut self.follow {
            follow.wake(up, now);
        }
    }

    pub(super) fn on_stop(&mut self, core: &mut Core, until: Instant) {
        if self.drain_until.is_none() {
            self.drain_until = Some(until);
            core.effects.push(Effect::Draining);
        }
    }

    /// Takes the next steps: asks for the lease and for entries.
    pub(super) fn advance(&mut self, core: &mut Core, now: Instant) -> Result<Next, SessionFailure> {
        if self.publisher.settle_after_rejection()? {
            let place = (self.publisher.end(), self.publisher.counted_there());
            self.watch().on_moved(place);
        }
        if self.paced.is_some_and(|until| now >= until) {
            self.paced = None;
        }
        if let Some(until) = self.drain_until {
            return Ok(self.drain(core, until, now));
        }
        self.ask_lease(core, now);
        self.read_on(core, now);
        self.tell(core, now);
        Ok(Next::Continue)
    }

    /// Waits for the calls under way, and then releases the lease.
    fn drain(&mut self, core: &mut Core, until: Instant, now: Instant) -> Next {
        let idle = self.publisher.is_idle();
        let released = self.leadership.as_ref().is_none_or(Leadership::is_released);
        let records = matches!(self.asked, Some((Asked::Missed, _)));
        let looks = now < until && idle && !self.releases && (records || self.look_back(core, now));
        if idle && released && !looks {
            return Next::Stopped;
        }
        if now >= until {
            if !idle {
                core.effects.push(Effect::DrainCutShort(self.publisher.cursor()));
            }
            return Next::Stopped;
        }
        if idle
            && !looks
            && !std::mem::replace(&mut self.releases, true)
            && let Some(leadership) = &mut self.leadership
        {
            leadership.release(now);
        }
        self.ask_lease(core, now);
        Next::Continue
    }

    fn ask_lease(&mut self, core: &Core, now: Instant) {
        if let Some(leadership) = &mut self.leadership {
            self.publisher.ask_lease(now, |out| leadership.ask(&core.keys.cursor, out, now));
        }
    }

    /// Asks for more entries, if the publisher has room for them.
    pub(super) fn read_on(&mut self, core: &mut Core, now: Instant) {
        if self.follow.is_some() {
            self.ask_followed(core, now);
        } else {
            self.read_added(core, now);
        }
    }

    /// The way out, and what reads for it.
    pub(super) fn egress(&mut self, now: Instant) -> (Egress<'_>, Option<&mut Follower>) {
        let leads = self.leads(now);
        let egress = Egress { publisher: &mut self.publisher, pace: &mut self.pace, leads };
        (egress, self.follow.as_mut())
    }

    /// Says that the route does its work, or that another instance does, when that changes.
    fn tell(&mut self, core: &mut Core, now: Instant) {
        let found = self.follow.as_ref().is_none_or(|follow| follow.state().is_some());
        if !self.reads || !found {
            if !found {
                self.told = None;
            }
            return;
        }
        let state = match &self.standing {
            None if self.leadership.is_some() => return,
            None | Some(LeadershipChange::Leads) if self.publishes => (RouteState::Live, None),
            Some(LeadershipChange::StandsBy(holder)) => (RouteState::Standby, holder.clone()),
            _ => return,
        };
        if self.told.as_ref() != Some(&state) {
            core.on_working(state.0, state.1.clone(), self.publisher.end(), now);
            self.told = Some(state);
        }
    }
}
