//! The reads of a session whose entries are broadcast as they are added: the stream behind the publisher's end, and
//! from time to time its counters.

use tokio::time::Instant;

use super::Core;
use super::work::{BLOCK, PendingRead, ReadKind, Work};
use crate::broadcast::failure::{Replaced, SessionFailure};
use crate::broadcast::group::follower::GroupEvent;
use crate::broadcast::publish::egress::Egress;
use crate::broadcast::unread_loss::StreamReset;
use crate::server::Error;
use crate::server::resp::{self, Value};
use crate::stream::counters::{StreamCounters, ask_counters, is_gone};
use crate::stream::entries::StreamEntries;
use crate::stream::read_size::entries_of_next_read;

impl Work {
    /// Asks for the next entries, if the publisher has room for them.
    pub(super) fn read_added(&mut self, core: &Core, now: Instant) {
        if self.read.is_some() || self.paced.is_some() {
            return;
        }
        let leads = self.leads(now);
        // The first read proves that the stream can be read, also on a standby.
        if self.reads && !leads {
            return;
        }
        let live = self.reads && self.publishes;
        let stream = core.settings.stream().as_bytes();
        let after = self.publisher.end();
        if leads && self.watch.has_missed() {
            // Later entries wait for the record.
            self.record_missed(now);
            return;
        }
        if live && self.watch.is_due(after, now) {
            self.count(core, now);
            return;
        }
        if !self.publisher.has_room() {
            return;
        }
        let wanted = if self.publisher.is_careful() { 1 } else { self.read_entries };
        let allowed = if leads { self.pace.messages(now) } else { 0 };
        if leads && allowed == 0 {
            let next = self.pace.next();
            self.paced = Some(next.min(now + BLOCK));
            if next <= now + BLOCK {
                return;
            }
        }
        let entries = wanted.min(allowed);
        let (count, after_text) = (entries.max(1).to_string(), after.to_string());
        let block = BLOCK.as_millis().to_string();
        let mut command: Vec<&[u8]> = vec![b"XREAD", b"COUNT", count.as_bytes()];
        if live && entries > 0 {
            command.extend([b"BLOCK", block.as_bytes()]);
        }
        command.extend([b"STREAMS", stream, after_text.as_bytes()]);
        resp::command(&mut self.out, &command);
        let limited = leads && allowed < wanted;
        self.read = Some(PendingRead { after, entries, limited, sent: now, what: ReadKind::Entries });
    }

    /// Before a stop: checks a last time a stream that had unread entries, since it may be deleted with them. Returns
    /// whether an answer is awaited.
    pub(super) fn look_back(&mut self, core: &Core, now: Instant) -> bool {
        if self.follow.is_some() || !self.leads(now) || !self.publisher.takes() {
            return false;
        }
        let matters = self.watch.saw_unread() || self.watch.has_missed() || self.looked_back;
        let awaits = self.read.is_some() && matters;
        if awaits || self.record_missed(now) {
            return true;
        }
        let looks = self.watch.saw_unread() && !std::mem::replace(&mut self.looked_back, true);
        if looks {
            self.count(core, now);
        }
        looks
    }

    /// Asks to record lost entries, if it is time.
    fn record_missed(&mut self, now: Instant) -> bool {
        let records = self.watch.record(&mut self.out, &self.publisher);
        if records {
            self.ask(ReadKind::Missed, now);
        }
        records
    }

    /// Asks how many entries were ever added.
    fn count(&mut self, core: &Core, now: Instant) {
        ask_counters(core.settings.stream(), &mut self.out);
        self.ask(ReadKind::Count, now);
    }

    fn ask(&mut self, what: ReadKind, now: Instant) {
        let after = self.publisher.end();
        self.read = Some(PendingRead { after, entries: 0, limited: false, sent: now, what });
    }

    /// Takes in the result of a read.
    pub(super) fn on_added(
        &mut self,
        core: &mut Core,
        reply: &[u8],
        now: Instant,
    ) -> Result<(), SessionFailure> {
        let Some(read) = self.read.take() else {
            return Err(SessionFailure::source(Error::unasked()));
        };
        if read.what != ReadKind::Entries {
            let value = Value::build(reply, 0).map_err(|error| SessionFailure::source(Error::from(error)))?.0;
            return self.on_counted(core, read, &value, now);
        }
        let ranges = std::mem::take(&mut core.ranges);
        let reply_bytes = reply.len();
        let mut entries = StreamEntries::new(reply, ranges)
            .map_err(|error| SessionFailure::source(error.at(&[core.settings.stream()])))?;
        let count = entries.left();
        let begin = self.publisher.end();
        let draining = self.is_draining();
        let leads = self.leads(now);
        let mut egress = Egress { publisher: &mut self.publisher, pace: &mut self.pace, leads };
        let taken = read.entries > 0 && !draining && egress.leads && egress.publisher.takes();
        // A read from before a rewind is useful only if it overlaps with the next entries.
        if taken && read.after <= begin {
            while let Some(entry) = entries.next().map_err(SessionFailure::source)? {
                if entry.id <= begin {
                    continue;
                }
                if egress.publisher.pass(entry.id) {
                    continue;
                }
                egress.publish(entry.id(), core.outbound.of(&entry), now);
                self.watch.on_read(entry.id, egress.publisher.counted());
            }
            egress.publisher.flush(now);
        }
        core.ranges = entries.into_ranges();
        self.reads = true;
        self.publishes |= count == 0 || !self.publisher.is_careful();
        core.rate_limited(read.limited && count >= read.entries.max(1));
        // A full reply says nothing if the rate limited the read.
        let came = if read.limited { 0 } else { count };
        if read.entries > 0 {
            self.read_entries = entries_of_next_read(self.read_entries, read.entries, came, reply_bytes);
        }
        Ok(())
    }

    /// Takes in how many entries were ever added, or that some were missed.
    fn on_counted(
        &mut self,
        core: &mut Core,
        read: PendingRead,
        value: &Value,
        now: Instant,
    ) -> Result<(), SessionFailure> {
        let found = if read.what == ReadKind::Missed {
            let missed = self.watch.recorded(value, &mut self.publisher).map_err(SessionFailure::source)?;
            missed.map(GroupEvent::Missed)
        } else {
            let end = (self.publisher.end(), 0);
            let facts = StreamCounters::read(value).filter(|_| read.after == end.0);
            if matches!(value, Value::Error(text) if is_gone(&Error::reply(text))) {
                self.watch.on_gone(end.0, &self.publisher, now);
            }
            let counted = self.publisher.counted_there();
            let anew = facts.and_then(|facts| self.watch.compare(&facts, end, &mut self.publisher, now));
            if let Some(StreamReset::Replaced(after)) = anew
                && counted.at.added.is_some()
                && core.begins_before_cursor()
            {
                let stream = core.settings.stream().to_owned();
                let replaced = Replaced { cursor: end.0, counted, after };
                return Err(SessionFailure::StreamReplaced { stream, replaced });
            }
            anew.map(GroupEvent::from)
        };
        match found {
            Some(found) => core.on_group_event(found, self.publisher.end(), now),
            None => Ok(()),
        }
    }
}
