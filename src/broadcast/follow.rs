//! Following a consumer group: what is read, when, and what becomes of it.
//!
//! Problem: Redis emits no event for XACK. Whether an entry is acknowledged can only be asked.
//!
//! Constraints: asked too seldom, messages are late; asked too often, an idle server is kept busy. A consumer
//! may delete what it has acknowledged, so entries are read once they were given to the group.
//!
//! Operation: a *look* says how far the group was given entries and which of them are pending. Then:
//!
//! ```text
//! order = "stream"            read up to what was given ─▶ hold ─▶ below the lowest pending: publish
//! order = "acknowledgement"   read up to what was given ─┬▶ acknowledged: publish
//!                                                        └▶ pending: leave a hole, hold its message
//!                             a look goes through the holes ─▶ acknowledged: release
//! ```
//!
//! While something changes, and for a second after it, there is a look every few milliseconds; then seldom.
//! Where everything is acknowledged, XREAD waits for the next entry, before which nothing can happen. With a
//! replication stream, commands that concern the stream wake it, and it looks once a second otherwise.
//!
//! Failure: nothing here outlives the session. What was held is read again, where it still is.

mod release;

use std::collections::VecDeque;

use tokio::time::Instant;

use super::call::Keys;
use super::egress::Egress;
use super::entries::{Entries, Ranges, entries_of_next_read};
use super::gone::Gone;
use super::hold::Hold;
use super::id::EntryId;
use super::look::{self, Look};
use super::missed::{Anew, Missed, Watch};
use super::outbound::Outbound;
use super::publisher::{BATCH_ENTRIES, Publisher};
use super::rate::Pace;
use super::render::Withheld;
use super::rhythm::Rhythm;
use super::search::Search;
use crate::config::{Acknowledged, Order};
use crate::server::resp::{self, Value};
use crate::server::{Error, Hash};
use crate::status::GroupChange;

/// Pending ids or holes that one look goes through at most: the server does nothing else meanwhile.
const STEP: &str = "512";

/// What was asked of the server, and is not answered.
#[derive(Debug)]
pub(super) enum Asked {
    /// How far the group is.
    Look,
    /// Entries of a span, at most so many.
    Entries(Span, usize),
    /// The entries of these holes, one answer for each.
    Holes(VecDeque<EntryId>),
    /// Whether an entry comes.
    Wait,
    /// That something missed is recorded.
    Missed,
}

/// Entries after one and up to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    after: EntryId,
    up_to: EntryId,
}

/// What a look is to be told to a person about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no such group.
    NoGroup,
    /// The group is there.
    Group,
    /// Something that fakes acknowledgements may have happened.
    GroupChange(GroupChange),
    /// Entries were never read, and that is recorded.
    Missed(Missed),
    /// The stream was deleted, and another one begun.
    Anew,
    /// The same, and what it holds stands before the cursor: the session ends with it.
    Below,
}

/// The reading half of a session that waits for acknowledgements.
#[derive(Debug)]
pub(super) struct Follow {
    group: String,
    holes: Option<String>,
    stream: String,
    max_ack_pending: Option<u64>,
    hash: Hash,
    hold: Hold,
    /// In the order of the stream: what was read after this one is held until it is published.
    held_from: EntryId,
    /// Up to where was read.
    read: EntryId,
    /// What the publisher was given last; it is elsewhere where the cursor turned out to be elsewhere.
    handed: EntryId,
    /// The last look; `None` before the first, and where there was no group.
    look: Option<Look>,
    missing: bool,
    /// Holes that the last look may not have counted.
    holes_since: u64,
    /// Holes that are acknowledged and not published.
    to_release: VecDeque<EntryId>,
    search: Search,
    /// After which entry the look that is under way tells what is pending.
    looks_after: EntryId,
    rhythm: Rhythm,
    /// The stream's last entry, where everything up to it is acknowledged.
    tail: Option<EntryId>,
    /// Whether a look was asked for it since something changed.
    tail_asked: bool,
    /// The first entry that the group was not given, when that was last asked for.
    ungiven: Option<EntryId>,
    /// How many entries the next read asks for.
    read_entries: usize,
    /// The same of holes.
    hole_entries: usize,
    /// How many holes were asked for, and how many bytes that has brought.
    hole_read: (usize, usize),
    /// Acknowledged holes whose entries are gone and whose messages are not held.
    gone: Gone,
    watch: Watch,
    /// Whether something is ready and the rate lets nothing through.
    paced: bool,
    /// Whether this instance published when that was last asked.
    led: bool,
}

impl From<Anew> for Found {
    fn from(anew: Anew) -> Self {
        match anew {
            Anew::Above => Self::Anew,
            Anew::Below => Self::Below,
        }
    }
}

impl Follow {
    /// Begins at the cursor. `replication` says whether it will be woken.
    pub(super) fn new(
        what: &Acknowledged,
        keys: &Keys,
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
            hold: Hold::default(),
            held_from: cursor,
            read: cursor,
            handed: cursor,
            look: None,
            missing: false,
            holes_since: 0,
            to_release: VecDeque::new(),
            search: Search::new(),
            looks_after: cursor,
            rhythm: Rhythm::new(replication, now),
            tail: None,
            tail_asked: false,
            ungiven: None,
            read_entries: 1,
            hole_entries: 1,
            hole_read: (0, 0),
            gone: Gone::default(),
            watch: Watch::new(now),
            paced: false,
            led: false,
        }
    }

    /// The first entry that is not acknowledged, as far as is known: one that is pending, or else one that the group was
    /// not given.
    pub(super) fn unacknowledged(&self) -> Option<EntryId> {
        let look = self.look.as_ref()?;
        let ungiven = || self.ungiven.filter(|ungiven| *ungiven > look.delivered);
        look.lowest.as_ref().map(|lowest| lowest.id).or_else(ungiven)
    }

    /// Up to where was read.
    pub(super) fn end(&self) -> EntryId {
        self.read
    }

    /// When the next look is due, or the rate lets something through.
    pub(super) fn due(&self, pace: &Pace) -> Instant {
        if self.paced { self.rhythm.due().min(pace.next()) } else { self.rhythm.due() }
    }

    /// Whether the rate holds it back.
    pub(super) fn is_paced(&self) -> bool {
        self.paced
    }

    /// The group's name.
    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// What the last look found.
    pub(super) fn look(&self) -> Option<&Look> {
        self.look.as_ref()
    }

    /// Entries and bytes that are held.
    pub(super) fn held(&self) -> (usize, usize) {
        (self.hold.len(), self.hold.bytes())
    }

    /// Whether entries that are not acknowledged are left behind.
    pub(super) fn leaves_holes(&self) -> bool {
        self.max_ack_pending.is_some()
    }

    /// Whether reading has stopped since as many holes as are allowed wait for acknowledgement.
    pub(super) fn is_full(&self) -> bool {
        self.look.is_some() && self.holes_left() == 0
    }

    /// Something has happened to the group, or to what tells of it: `up` where it will be told of the next.
    pub(super) fn wake(&mut self, up: bool, now: Instant) {
        self.rhythm.wake(up, now);
    }

    fn holes_left(&self) -> u64 {
        match (self.max_ack_pending, &self.look) {
            (None, _) => u64::MAX,
            (Some(_), None) => 0,
            (Some(most), Some(look)) => most.saturating_sub(look.holes + self.holes_since),
        }
    }

    /// Asks for what is of use now, and hands over what needs no asking.
    pub(super) fn ask(&mut self, egress: &mut Egress<'_>, out: &mut Vec<u8>, now: Instant) -> Option<Asked> {
        if !egress.publisher.takes() {
            return None;
        }
        self.paced = false;
        self.align(egress, now);
        self.publish_held(egress, now);
        if egress.leads {
            self.take_up_gone(now);
        }
        if egress.leads && self.watch.record(out, egress.publisher) {
            return Some(Asked::Missed);
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
        // What is read to be held waits for the rate there.
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
            return Some(Asked::Entries(Span { after: self.read, up_to }, count));
        }
        if now >= self.rhythm.due() {
            self.ask_look(egress, out, now);
            return Some(Asked::Look);
        }
        let tail = self.tail.filter(|_| !self.rhythm.is_woken())?;
        let after = tail.to_string();
        let stream = self.stream.as_bytes();
        resp::command(
            out,
            &[b"XREAD", b"COUNT", b"1", b"BLOCK", b"1000", b"STREAMS", stream, after.as_bytes()],
        );
        Some(Asked::Wait)
    }

    fn ask_look(&mut self, egress: &Egress<'_>, out: &mut Vec<u8>, now: Instant) {
        let publisher = &egress.publisher;
        self.rhythm.sent();
        self.looks_after = self.read;
        // Their calls may be done before the look or after it.
        self.holes_since = publisher.holes_under_way();
        let after = self.read.to_string();
        // While holes are being published they would be found once more.
        let may = egress.leads
            && self.max_ack_pending.is_some()
            && !publisher.is_releasing()
            && self.to_release.is_empty();
        let scan = self.search.send(may, self.rhythm.is_active(now));
        let scan = scan.map(|id| id.to_string()).unwrap_or_default();
        // Asked once when it comes to rest: from then on XREAD may wait.
        let rests = self.is_at_rest() && !self.tail_asked && !self.rhythm.is_active(now);
        let tells: &[u8] = if rests || self.watch.is_due(self.read, now) { b"1" } else { b"" };
        let (stream, group) = (self.stream.as_bytes(), self.group.as_bytes());
        let mut command: Vec<&[u8]> = vec![b"EVALSHA", &self.hash];
        match &self.holes {
            None => command.extend([b"1", stream]),
            Some(holes) => command.extend([b"2", stream, holes.as_bytes()]),
        }
        command.extend([group, after.as_bytes(), scan.as_bytes(), STEP.as_bytes(), tells]);
        resp::command(out, &command);
    }

    /// Up to where entries are to be read now.
    fn readable(&self, publisher: &Publisher) -> Option<EntryId> {
        let look = self.look.as_ref()?;
        let (end, room) = match self.max_ack_pending {
            None => (look.delivered, self.hold.has_room()),
            Some(_) => (look.complete, publisher.has_room() && self.holes_left() > 0),
        };
        (room && self.read < end).then_some(end)
    }

    /// Goes on where the cursor is, where that is elsewhere than was believed: another instance published.
    fn align(&mut self, egress: &Egress<'_>, now: Instant) {
        let publisher = &egress.publisher;
        let in_order = self.max_ack_pending.is_none();
        if std::mem::replace(&mut self.led, egress.leads) != egress.leads && egress.leads {
            // While it did not publish, it read ahead, and handed nothing over.
            if !in_order {
                self.begin_at(publisher.end(), now);
                self.handed = publisher.end();
            }
            self.rhythm.now(now);
        }
        if let Some(cursor) = publisher.cursor().filter(|_| in_order) {
            self.hold.drop_up_to(cursor);
            // A server that goes back to before this has to be read again.
            self.held_from = self.held_from.max(cursor);
        }
        let end = publisher.end();
        if end == self.handed {
            return;
        }
        if in_order && end >= self.held_from {
            // What follows is held, or is read next.
            self.read = self.read.max(end);
        } else if in_order {
            self.forget(end);
            self.rhythm.now(now);
        } else if egress.leads || end < self.handed {
            self.begin_at(end, now);
        }
        self.handed = end;
    }

    /// In the order of acknowledgements: goes on from here. What is held stays of use: a hole is one wherever the
    /// cursor stands.
    fn begin_at(&mut self, end: EntryId, now: Instant) {
        self.to_release.clear();
        self.search.restart();
        self.read = end;
        // What is pending from here on was not asked for.
        if let Some(look) = &mut self.look {
            look.complete = EntryId::default();
        }
        self.rhythm.now(now);
    }

    /// In the order of the stream: reads anew from here.
    fn forget(&mut self, read: EntryId) {
        self.hold.clear();
        self.read = read;
        self.held_from = read;
    }

    /// In the order of the stream: whether something is held that was not handed over.
    fn holds_back(&self) -> bool {
        self.hold.after(self.handed).is_some()
    }

    /// Publishes what is held and acknowledged, as long as there is room.
    fn publish_held(&mut self, egress: &mut Egress<'_>, now: Instant) {
        let (None, Some(limit)) = (self.max_ack_pending, self.look.as_ref().map(Look::limit)) else { return };
        while egress.publisher.has_room()
            && egress.leads
            && self.hold.after(self.handed).is_some_and(|id| id <= limit)
        {
            let allowed = self.allowed(egress.pace, now);
            if allowed == 0 {
                break;
            }
            let mut last = self.handed;
            for _ in 0..egress.budget(BATCH_ENTRIES.min(allowed)) {
                let Some(id) = self.hold.after(last).filter(|id| *id <= limit) else { break };
                self.hold.show(id, |id, rendered| egress.publish(id, rendered, now));
                last = id;
            }
            egress.publisher.flush(now);
            self.handed = egress.publisher.end();
        }
    }

    /// How many messages the rate lets through now; notes where it is none.
    fn allowed(&mut self, pace: &Pace, now: Instant) -> usize {
        let allowed = pace.messages(now);
        self.paced |= allowed == 0;
        allowed
    }

    /// Takes in entries.
    ///
    /// # Errors
    /// Where the reply is none of entries.
    pub(super) fn entries(
        &mut self,
        (span, count): (Span, usize),
        reply: &[u8],
        (outbound, egress): (&mut Outbound, &mut Egress<'_>),
        ranges: Ranges,
        now: Instant,
    ) -> Result<Ranges, Error> {
        let mut entries = Entries::of_range(reply, ranges)?;
        let came = entries.left();
        self.align(egress, now);
        let limit = self.look.as_ref().map(Look::limit).unwrap_or_default();
        // What was asked before a rewind, or comes while nothing can be handed over, is read again.
        let takes = egress.publisher.takes() && self.look.is_some() && span.after <= self.read;
        let mut held_back = self.holds_back();
        let mut last = self.read;
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
                        self.held_from = entry.id;
                    }
                    rendered => {
                        self.hold.add(id, rendered);
                        held_back = true;
                    }
                }
            } else if rendered != Err(Withheld::Filtered)
                && self.look.as_ref().is_some_and(|look| look.open.contains(&entry.id))
            {
                if egress.leads {
                    egress.publisher.leave(id, now);
                    self.holes_since += 1;
                }
                // What is not held is read again, if it is still there; the oldest has waited longest.
                while !self.hold.has_room() {
                    self.hold.drop_first();
                }
                self.hold.add(id, rendered);
            } else if egress.leads {
                egress.publish(id, rendered, now);
            }
        }
        self.hold.close();
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
    /// Where the reply is an error.
    pub(super) fn waited(&mut self, reply: &Value, now: Instant) -> Result<(), Error> {
        if let Value::Error(text) = reply {
            return Err(Error::reply(text));
        }
        self.rhythm.now(now);
        if !matches!(reply, Value::Null) {
            self.changed(now);
        }
        Ok(())
    }

    /// Takes in whether what was missed is recorded.
    ///
    /// # Errors
    /// Where it could not be.
    pub(super) fn recorded(&mut self, reply: &Value, publisher: &mut Publisher) -> Result<Vec<Found>, Error> {
        Ok(self.watch.recorded(reply, publisher)?.map(Found::Missed).into_iter().collect())
    }

    /// Takes in a look. Returns what a person should know.
    ///
    /// # Errors
    /// Where the script failed.
    pub(super) fn looked(
        &mut self,
        reply: &Value,
        egress: &mut Egress<'_>,
        now: Instant,
    ) -> Result<Vec<Found>, Error> {
        // What another instance did since the look was asked for, the look knows.
        self.align(egress, now);
        let leads = egress.leads;
        let publisher = &mut *egress.publisher;
        let Some(mut look) = Look::read(reply)? else {
            // What was read was not acknowledged, and a group that is made again is given it again. Holes stay.
            if self.max_ack_pending.is_none() {
                self.forget(publisher.end());
            }
            self.read = publisher.end();
            self.look = None;
            self.tail = None;
            self.rhythm.slow(now);
            let found = if self.missing { Vec::new() } else { vec![Found::NoGroup] };
            self.missing = true;
            return Ok(found);
        };
        let mut found = Vec::new();
        if self.look.is_none() {
            found.push(Found::Group);
        }
        if std::mem::take(&mut self.missing) && look.delivered > publisher.end() {
            found.push(Found::GroupChange(GroupChange::GroupCreated));
        }
        let gone = &self.gone;
        if leads {
            // A hole behind the end is one of another instance that has moved the cursor: the next batch finds that,
            // and the search begins anew there. Published from here, it would be published once more as an entry.
            let end = publisher.end();
            let found = look.acknowledged.drain(..).filter(|id| *id <= end && !gone.contains(*id));
            self.to_release.extend(found);
        }
        // An instance that stands by holds also what is not left behind yet.
        let passed = leads || self.read <= publisher.end();
        if self.max_ack_pending.is_some() && look.holes == 0 && self.holes_since == 0 && passed {
            // Another instance has published them.
            self.hold.clear();
            self.gone.clear();
        }
        let before = self.look.take();
        if let Some(before) = &before {
            found.extend(look::group_change(before, &look).map(Found::GroupChange));
        }
        let state = |look: &Look| (look.delivered, look.pending, look.limit());
        let same = before.as_ref().is_some_and(|before| state(before) == state(&look));
        self.search.came_to(look.scanned, same);
        if let Some(ungiven) = look.ungiven {
            self.ungiven = ungiven;
        }
        if let Some(facts) = look.stream {
            let all = facts.last == look.delivered
                && look.pending == 0
                && !self.holds_back()
                // No XREAD may keep the connection waiting at a take-over.
                && (leads || publisher.end() >= facts.last);
            self.tail = (all && self.read >= look.delivered).then_some(facts.last);
            self.tail_asked = true;
            if leads && self.looks_after == self.read {
                // In the other order what is held has been handed over as well.
                let held =
                    if self.max_ack_pending.is_none() { self.hold.count_after(self.handed) } else { 0 };
                let held = u64::try_from(held).unwrap_or(u64::MAX);
                let anew = self.watch.compare(&facts, (self.read, held), publisher, now);
                found.extend(anew.map(Found::from));
            }
        }
        self.look = Some(look);
        if !same {
            self.changed(now);
        }
        self.rhythm.looked(same, now);
        if self.tail.is_some() && !self.rhythm.is_woken() {
            self.rhythm.leave(now);
        }
        if let Some(look) = self.look.as_mut().filter(|_| self.looks_after > self.read) {
            look.complete = EntryId::default();
            self.rhythm.now(now);
        }
        if self.search.goes_on() || !self.to_release.is_empty() {
            self.rhythm.hurry(now);
        }
        Ok(found)
    }

    /// Whether nothing is left to be acknowledged of what the group was given.
    fn is_at_rest(&self) -> bool {
        self.look.as_ref().is_some_and(|look| look.pending == 0 && self.read >= look.delivered)
    }

    fn changed(&mut self, now: Instant) {
        self.rhythm.changed(now);
        self.tail = None;
        self.tail_asked = false;
    }
}
