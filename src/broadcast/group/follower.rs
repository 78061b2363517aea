//! Follows a consumer group: decides when to read which entries, and when to publish them.
//!
//! Problem: Redis emits no event for XACK. Acknowledgements must be polled.
//!
//! Constraints: rare polls delay messages; frequent polls keep an idle server busy. A consumer may delete an entry that
//! it has acknowledged, so entries are read as soon as they are delivered to the group.
//!
//! Operation: a poll tells how far the group was delivered and which entries are pending. Then:
//!
//! ```text
//! order = "stream"            read what was delivered ─▶ buffer ─▶ below the lowest pending: publish
//! order = "acknowledgement"   read what was delivered ─┬▶ acknowledged: publish
//!                                                      └▶ pending: leave a hole, buffer its message
//!                             a poll scans the holes ─▶ acknowledged: release
//! ```
//!
//! While something changes, and for a second after it, the group is polled every few milliseconds, then seldom. If
//! everything is acknowledged, XREAD waits for the next entry: nothing can happen before it. With a replication stream,
//! commands that concern the stream trigger a poll, and otherwise the group is polled once a second.
//!
//! Failure: nothing here outlives the session. Buffered entries are read again, if they still exist.

mod no_group;
mod polling;
mod release;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::ack_state::GroupState;
use super::buffer::EntryBuffer;
use super::holes::deleted::DeletedHoles;
use super::holes::scan::HoleScan;
use super::poll_schedule::PollSchedule;
use crate::broadcast::message::MessageMaker;
use crate::broadcast::message::withheld::Withheld;
use crate::broadcast::publish::call::BroadcastKeys;
use crate::broadcast::publish::egress::Egress;
use crate::broadcast::publish::publisher::{BATCH_ENTRIES, Publisher};
use crate::broadcast::publish::rate::Pace;
use crate::broadcast::unread_loss::{StreamReset, UnreadLoss, UnreadWatch};
use crate::config::{Acknowledged, Order};
use crate::server::resp::{self, Value};
use crate::server::{Error, Hash};
use crate::status::GroupChange;
use crate::stream::EntryId;
use crate::stream::entries::{Ranges, StreamEntries};
use crate::stream::read_size::entries_of_next_read;

/// An entry that a consumer holds for at least this long is reported, if others wait behind it.
const HELD_UP: Duration = Duration::from_secs(30);

/// Pending ids or holes that one look goes through at most: the server does nothing else meanwhile.
const STEP: &str = "512";

/// A question that the server has not answered.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A poll of the group.
    Look,
    /// Entries of a span, at most this many.
    Entries(EntrySpan, usize),
    /// The entries of these holes, one answer for each.
    Holes(VecDeque<EntryId>),
    /// XREAD that waits for an entry.
    Wait,
    /// The record of lost entries.
    Missed,
}

/// Entries after one and up to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntrySpan {
    after: EntryId,
    up_to: EntryId,
}

/// What a poll reports to an operator.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GroupEvent {
    /// There is no such group.
    NoGroup,
    /// The group is there.
    Group,
    /// Something that fakes acknowledgements may have happened.
    GroupChange(GroupChange),
    /// Entries were never read, and that is recorded.
    Missed(UnreadLoss),
    /// The stream was deleted, and another one begun.
    Anew,
    /// The group is there, and its entries are before the cursor: the session ends with it.
    Below,
}

/// The reading half of a session that waits for acknowledgements.
#[derive(Debug)]
pub(crate) struct Follower {
    group: String,
    holes: Option<String>,
    stream: String,
    max_ack_pending: Option<u64>,
    hash: Hash,
    buffer: EntryBuffer,
    /// In the order of the stream: entries after this one are buffered until they are published.
    buffered_from: EntryId,
    /// The last entry read.
    read: EntryId,
    /// The publisher's end at the last comparison. If it differs now, entries were published, or the cursor is elsewhere.
    handed: EntryId,
    /// The last poll; `None` before the first, and without a group.
    state: Option<GroupState>,
    /// True if the group does not exist.
    missing: bool,
    /// Holes that the last look may not have counted.
    holes_since: u64,
    /// Holes that are acknowledged and not published.
    to_release: VecDeque<EntryId>,
    scan: HoleScan,
    /// The entry after which the running poll lists pending entries.
    asked_after: EntryId,
    schedule: PollSchedule,
    /// The stream's last entry, if everything up to it is acknowledged.
    tail: Option<EntryId>,
    /// True if `tail` was asked for since the last change.
    tail_asked: bool,
    /// The first entry that was not delivered to the group, as of the last question.
    ungiven: Option<EntryId>,
    /// COUNT of the next read of entries.
    read_entries: usize,
    /// COUNT of the next read of holes.
    hole_entries: usize,
    /// Number of holes asked for, and bytes of the answers.
    hole_read: (usize, usize),
    /// Acknowledged holes whose entries are deleted and whose messages are not buffered.
    deleted: DeletedHoles,
    watch: UnreadWatch,
    /// True if entries are ready and the rate limit holds them back.
    paced: bool,
    /// True if this instance published when that was last asked.
    led: bool,
}

impl From<StreamReset> for GroupEvent {
    fn from(anew: StreamReset) -> Self {
        match anew {
            // Acknowledgements in the new stream cannot be distinguished from those in the former.
            StreamReset::Above | StreamReset::Replaced(_) => Self::Anew,
            StreamReset::Below => Self::Below,
        }
    }
}

impl Follower {
    /// Begins at the cursor. `replication`: true if a notifier will wake it.
    pub(crate) fn new(
        what: &Acknowledged,
        keys: &BroadcastKeys,
        hash: Hash,
        cursor: EntryId,
        replication: bool,
        now: Instant,
    ) -> Self {
        Self {
            group: what.group.clone(),
            holes: keys.holes.clone(),
            stream: keys.stream.clone(),
            max_ack_pending: match what.order {
                Order::Stream => None,
                Order::Acknowledgement { max_ack_pending } => Some(max_ack_pending),
            },
            hash,
            buffer: EntryBuffer::default(),
            buffered_from: cursor,
            read: cursor,
            handed: cursor,
            state: None,
            missing: false,
            holes_since: 0,
            to_release: VecDeque::new(),
            scan: HoleScan::new(),
            asked_after: cursor,
            schedule: PollSchedule::new(replication, now),
            tail: None,
            tail_asked: false,
            ungiven: None,
            read_entries: 1,
            hole_entries: 1,
            hole_read: (0, 0),
            deleted: DeletedHoles::default(),
            watch: UnreadWatch::new(now),
            paced: false,
            led: false,
        }
    }

    /// The first unacknowledged entry, as far as known: a pending one, or else one that the group was not given.
    pub(crate) fn unacknowledged(&self) -> Option<EntryId> {
        let state = self.state.as_ref()?;
        let ungiven = || self.ungiven.filter(|ungiven| *ungiven > state.delivered);
        state.lowest.as_ref().map(|lowest| lowest.id).or_else(ungiven)
    }

    /// The last entry read.
    pub(crate) fn end(&self) -> EntryId {
        self.read
    }

    /// When the next poll is due, or the rate allows a message. `None` while the calls under way are waited for.
    pub(crate) fn due(&self, pace: &Pace) -> Option<Instant> {
        let due = if self.paced { self.schedule.due().min(pace.next()) } else { self.schedule.due() };
        (!self.waits_to_record()).then_some(due)
    }

    /// Returns whether lost entries are to be recorded before anything else is published.
    fn waits_to_record(&self) -> bool {
        self.led && self.watch.has_missed()
    }

    /// Returns whether the rate holds it back.
    pub(crate) fn is_paced(&self) -> bool {
        self.paced
    }

    /// The group's name.
    pub(crate) fn group(&self) -> &str {
        &self.group
    }

    /// The result of the last poll.
    pub(crate) fn state(&self) -> Option<&GroupState> {
        self.state.as_ref()
    }

    /// Entries and bytes that are held.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.buffer.len(), self.buffer.bytes())
    }

    /// Returns whether entries that are not acknowledged are left behind.
    fn leaves_holes(&self) -> bool {
        self.max_ack_pending.is_some()
    }

    /// Returns whether reading has stopped since as many holes as are allowed wait for acknowledgement.
    fn is_full(&self) -> bool {
        self.state.is_some() && self.holes_left() == 0
    }

    /// Says why later entries wait, if reading has stopped so.
    pub(crate) fn full_reason(&self) -> Option<String> {
        self.is_full().then(|| {
            format!(
                "max_ack_pending is reached: that many entries wait for the group '{}' to acknowledge them; later entries \
                 are not published until it acknowledges some",
                self.group
            )
        })
    }

    /// Says which entry holds up later ones, if a consumer has held it for long.
    pub(crate) fn held_up_reason(&self) -> Option<String> {
        let lowest = self.state.as_ref()?.lowest.as_ref().filter(|_| !self.leaves_holes())?;
        let idle = Duration::from_secs(lowest.idle_ms / 1_000);
        (idle >= HELD_UP).then(|| {
            format!(
                "entry {} is not acknowledged and holds up later entries: delivered {} times, last to consumer '{}' {} ago",
                lowest.id,
                lowest.deliveries,
                lowest.consumer,
                humantime::format_duration(idle)
            )
        })
    }

    /// The group or its notifier changed; `up` if the notifier will announce the next change.
    pub(crate) fn wake(&mut self, up: bool, now: Instant) {
        self.schedule.wake(up, now);
    }

    /// The watch for entries that are lost unread.
    pub(crate) fn watch(&mut self) -> &mut UnreadWatch {
        &mut self.watch
    }

    fn holes_left(&self) -> u64 {
        match (self.max_ack_pending, &self.state) {
            (None, _) => u64::MAX,
            (Some(_), None) => 0,
            (Some(most), Some(state)) => most.saturating_sub(state.holes + self.holes_since),
        }
    }

    /// Asks the next useful question, and publishes what needs no question.
    pub(crate) fn ask(&mut self, egress: &mut Egress<'_>, out: &mut Vec<u8>, now: Instant) -> Option<Asked> {
        if !egress.publisher.takes() {
            return None;
        }
        self.paced = false;
        self.align(egress, now);
        if self.waits_to_record() {
            return self.watch.record(out, egress.publisher).then_some(Asked::Missed);
        }
        self.publish_held(egress, now);
        if egress.leads {
            self.retry_deleted(now);
        }
        if egress.leads
            && !self.to_release.is_empty()
            && egress.publisher.has_room()
            && !egress.publisher.is_releasing()
            && self.allowed(egress.pace, now) > 0
            && let Some(asked) = self.release(egress, out, now)
        {
            return Some(asked);
        }
        let up_to = self.readable(egress.publisher);
        // Entries that are read into the buffer wait for the rate there.
        let allowed = match self.max_ack_pending {
            Some(_) if up_to.is_some() && egress.leads => self.allowed(egress.pace, now),
            _ => usize::MAX,
        };
        if let Some(up_to) = up_to.filter(|_| allowed > 0) {
            let holes_left = usize::try_from(self.holes_left()).unwrap_or(usize::MAX);
            let count = self.read_entries.min(holes_left).min(allowed);
            let count = if egress.publisher.is_careful() { 1 } else { count };
            let (begin, end, number) = (format!("({}", self.read), up_to.to_string(), count.to_string());
            let stream = self.stream.as_bytes();
            resp::command(
                out,
                &[b"XRANGE", stream, begin.as_bytes(), end.as_bytes(), b"COUNT", number.as_bytes()],
            );
            return Some(Asked::Entries(EntrySpan { after: self.read, up_to }, count));
        }
        if now >= self.schedule.due() {
            self.ask_state(egress, out, now);
            return Some(Asked::Look);
        }
        let tail = self.tail.filter(|_| !self.schedule.is_woken())?;
        let after = tail.to_string();
        let stream = self.stream.as_bytes();
        resp::command(
            out,
            &[b"XREAD", b"COUNT", b"1", b"BLOCK", b"1000", b"STREAMS", stream, after.as_bytes()],
        );
        Some(Asked::Wait)
    }

    /// The last entry that may be read now.
    fn readable(&self, publisher: &Publisher) -> Option<EntryId> {
        let state = self.state.as_ref()?;
        let (end, room) = match self.max_ack_pending {
            None => (state.delivered, self.buffer.has_room()),
            Some(_) => (state.complete, publisher.has_room() && self.holes_left() > 0),
        };
        (room && self.read < end).then_some(end)
    }

    /// Continues at the cursor, if another instance has moved it.
    fn align(&mut self, egress: &Egress<'_>, now: Instant) {
        let publisher = &egress.publisher;
        let in_order = self.max_ack_pending.is_none();
        if std::mem::replace(&mut self.led, egress.leads) != egress.leads && egress.leads {
            // While it did not publish, it read ahead, and handed nothing over.
            if !in_order {
                self.begin_at(publisher.end(), now);
                self.handed = publisher.end();
            }
            self.schedule.now(now);
        }
        if let Some(cursor) = publisher.cursor().filter(|_| in_order) {
            self.buffer.drop_up_to(cursor);
            // A server that goes back to before this has to be read again.
            self.buffered_from = self.buffered_from.max(cursor);
        }
        let end = publisher.end();
        if end == self.handed {
            return;
        }
        if in_order && end >= self.buffered_from {
            // Later entries are buffered, or are read next.
            self.read = self.read.max(end);
        } else if in_order {
            self.forget(end);
            self.schedule.now(now);
        } else if egress.leads || end < self.handed {
            self.begin_at(end, now);
        }
        self.handed = end;
        let counted = publisher.counted().map(|counted| counted + self.unhanded());
        self.watch.on_read(self.read, counted);
    }

    /// In the order of acknowledgements: continues from here. The buffer stays valid, since a hole does not depend on
    /// the cursor.
    fn begin_at(&mut self, end: EntryId, now: Instant) {
        self.to_release.clear();
        self.scan.restart();
        self.read = end;
        // Pending entries after this one were not asked for.
        if let Some(state) = &mut self.state {
            state.complete = EntryId::default();
        }
        self.schedule.now(now);
    }

    /// In the order of the stream: reads again from here.
    fn forget(&mut self, read: EntryId) {
        self.buffer.clear();
        self.read = read;
        self.buffered_from = read;
    }

    /// In the order of the stream: number of buffered entries that the publisher has not got. In the other order it has
    /// got all of them.
    fn unhanded(&self) -> u64 {
        let held = if self.max_ack_pending.is_none() { self.buffer.count_after(self.handed) } else { 0 };
        u64::try_from(held).unwrap_or(u64::MAX)
    }

    /// In the order of the stream: whether something is held that was not handed over.
    fn holds_back(&self) -> bool {
        self.buffer.after(self.handed).is_some()
    }

    /// Publishes acknowledged entries of the buffer, as long as there is room.
    fn publish_held(&mut self, egress: &mut Egress<'_>, now: Instant) {
        let (None, Some(limit)) = (self.max_ack_pending, self.state.as_ref().map(GroupState::limit)) else {
            return;
        };
        while egress.publisher.has_room()
            && egress.leads
            && self.buffer.after(self.handed).is_some_and(|id| id <= limit)
        {
            let allowed = self.allowed(egress.pace, now);
            if allowed == 0 {
                break;
            }
            let mut last = self.handed;
            for _ in 0..egress.budget(BATCH_ENTRIES.min(allowed)) {
                let Some(id) = self.buffer.after(last).filter(|id| *id <= limit) else { break };
                self.buffer.show(id, |id, rendered| egress.publish(id, rendered, now));
                last = id;
            }
            egress.publisher.flush(now);
            self.handed = egress.publisher.end();
        }
    }

    /// Number of messages that the rate allows now; notes if there are none.
    fn allowed(&mut self, pace: &Pace, now: Instant) -> usize {
        let allowed = pace.messages(now);
        self.paced |= allowed == 0;
        allowed
    }

    /// Takes in entries.
    ///
    /// # Errors
    /// If the reply is none of entries.
    pub(crate) fn entries(
        &mut self,
        (span, count): (EntrySpan, usize),
        reply: &[u8],
        (outbound, egress): (&mut MessageMaker, &mut Egress<'_>),
        ranges: Ranges,
        now: Instant,
    ) -> Result<Ranges, Error> {
        let mut entries = StreamEntries::of_range(reply, ranges)?;
        let came = entries.left();
        self.align(egress, now);
        let limit = self.state.as_ref().map(GroupState::limit).unwrap_or_default();
        // Answers from before a rewind, or while nothing can be published, are read again.
        let takes = egress.publisher.takes() && self.state.is_some() && span.after <= self.read;
        let mut held_back = self.holds_back();
        let mut last = self.read;
        let mut held = self.unhanded();
        while let Some(entry) = entries.next()? {
            if !takes || entry.id <= last {
                continue;
            }
            last = entry.id;
            let id = entry.id();
            let rendered = outbound.of(&entry);
            if self.max_ack_pending.is_none() {
                let goes = egress.leads
                    && !held_back
                    && entry.id <= limit
                    && !egress.publisher.is_careful()
                    && egress.pace.messages(now) > 0;
                match rendered {
                    Ok(_) if goes => {
                        egress.publish(id, rendered, now);
                        self.buffered_from = entry.id;
                    }
                    rendered => {
                        self.buffer.add(id, rendered);
                        held_back = true;
                        held += 1;
                    }
                }
            } else if rendered != Err(Withheld::Filtered)
                && self.state.as_ref().is_some_and(|state| state.open.contains(&entry.id))
            {
                if egress.leads {
                    egress.publisher.leave(id, now);
                    self.holes_since += 1;
                }
                // A dropped entry is read again, if it still exists; the oldest has waited longest.
                while !self.buffer.has_room() {
                    self.buffer.drop_first();
                }
                self.buffer.add(id, rendered);
            } else if egress.leads {
                egress.publish(id, rendered, now);
            }
            self.watch.on_read(last, egress.publisher.counted().map(|counted| counted + held));
        }
        self.buffer.close();
        egress.publisher.flush(now);
        self.handed = egress.publisher.end();
        if takes {
            self.read = if came < count { span.up_to.max(last) } else { last };
            if self.max_ack_pending.is_some() {
                self.changed(now);
            }
        }
        self.read_entries = entries_of_next_read(self.read_entries, count, came, reply.len());
        Ok(entries.into_ranges())
    }

    /// Takes in whether an entry came.
    ///
    /// # Errors
    /// If the reply is an error.
    pub(crate) fn on_waited(&mut self, reply: &Value, now: Instant) -> Result<(), Error> {
        if let Value::Error(text) = reply {
            return Err(Error::reply(text));
        }
        self.schedule.now(now);
        if !matches!(reply, Value::Null) {
            self.changed(now);
        }
        Ok(())
    }

    /// Takes in whether the loss is recorded.
    ///
    /// # Errors
    /// If it could not be recorded.
    pub(crate) fn recorded(
        &mut self,
        reply: &Value,
        publisher: &mut Publisher,
    ) -> Result<Vec<GroupEvent>, Error> {
        Ok(self.watch.recorded(reply, publisher)?.map(GroupEvent::Missed).into_iter().collect())
    }

    fn changed(&mut self, now: Instant) {
        self.schedule.on_change(now);
        self.tail = None;
        self.tail_asked = false;
    }
}
