//! Unread loss: entries that are deleted or trimmed before they are read.
//!
//! Problem: an entry that is deleted before it was read leaves no trace in the stream, so a broadcast would pass over
//! it silently.
//!
//! Operation: the server counts all entries ever added (`entries-added`, from Redis 7.0 on). The cursor carries the
//! same count for its place, and each entry adds one. If everything in the stream has been read, or all that was read
//! is gone, the difference is the number of lost entries. The count moves in the step that moves the cursor; the step that
//! records a loss compares both, and raises the count. So one instance records it once, also across a restart.
//!
//! A stream that is deleted takes its count with it. Then the last look gives the number of entries added, and how many
//! of them were read since. The others are lost; entries added after that look may be lost too. A look outlives its
//! session, and each session begins with one: every attempt to reach the other server looks at the stream first. The
//! cursor numbers the streams and keeps the count of the one before ([`CursorCount`]). So another instance that saw the
//! deleted stream does not record its entries again, also if the cursor counts in the next stream by then.
//!
//! Failure: if the count is unknown (an entry was rejected, or the cursor is of an older version), it is set again at
//! the next such place. A loss before that is not noticed.

use std::time::Duration;

use tokio::time::Instant;

use crate::broadcast::publish::call::{self, BroadcastKeys};
use crate::broadcast::publish::count::{CursorCount, StreamCount};
use crate::broadcast::publish::publisher::Publisher;
use crate::server::resp::{self, Value};
use crate::server::{Error, Script, script};
use crate::stream::EntryId;
use crate::stream::counters::{Compared, StreamCounters};

/// Interval between comparisons while entries are read.
const BUSY: Duration = Duration::from_secs(1);
/// Interval while none are read: entries may still be trimmed unread.
const IDLE: Duration = Duration::from_secs(10);

/// The reason of a dead letter for entries that were deleted unread. Its id is that of the entry before them.
pub const DELETED_UNREAD: &str = "deleted_unread";
/// Records it.
const UNREAD_LOSS: Script = script!("unread_loss.lua");

/// A stream that began anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamReset {
    /// Its entries have ids above the cursor, and are read normally.
    Above,
    /// It has entries with ids below the cursor.
    Below,
    /// It was replaced while it was read, and has entries with ids up to this one, the last id read of the old stream.
    /// Later entries were read normally.
    Replaced(EntryId),
}

/// A loss to record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnreadLoss {
    /// Number of entries lost.
    pub(crate) count: u64,
    /// The last one that was read before them.
    pub(crate) after: EntryId,
    /// The last id that was given when they were missed.
    pub(crate) up_to: EntryId,
    /// True if the stream was deleted: then entries after `up_to` may be lost too.
    pub(crate) deleted: bool,
}

impl UnreadLoss {
    /// The text for the dead letter and the log.
    pub(crate) fn detail(&self) -> String {
        let Self { count, after, up_to, deleted } = self;
        if *deleted {
            return format!(
                "at least {count} entries after {after} and up to {up_to} were deleted with their stream before they were read"
            );
        }
        format!(
            "{count} entries after {after} and up to {up_to} were deleted or trimmed before they were read"
        )
    }

    /// Appends the call that records the loss, if the cursor is at this place with this count. `raised` is the count with
    /// the lost entries. The cursor passes them if none is held that was read before them.
    fn write(
        &self,
        out: &mut Vec<u8>,
        keys: &BroadcastKeys,
        (place, counted): (EntryId, CursorCount),
        raised: CursorCount,
    ) {
        let passes = self.after == place && self.up_to > place;
        let (place, counted, raised) = (place.to_string(), counted.to_string(), raised.to_string());
        let (after, detail) = (self.after.to_string(), self.detail());
        let up_to = if passes { self.up_to.to_string() } else { String::new() };
        let command: [&[u8]; 12] = [
            b"EVAL",
            UNREAD_LOSS.source.as_bytes(),
            b"3",
            keys.cursor.as_bytes(),
            keys.dead_letters.as_bytes(),
            keys.stream.as_bytes(),
            place.as_bytes(),
            counted.as_bytes(),
            raised.as_bytes(),
            after.as_bytes(),
            detail.as_bytes(),
            up_to.as_bytes(),
        ];
        resp::command(out, &command);
    }
}

/// The last look at the stream, and what was read since of the entries that it saw.
#[derive(Debug, Clone, Copy)]
struct LastLook {
    /// The stream's counters.
    stream: StreamCounters,
    /// The stream's number, as far as known.
    stream_number: u64,
    /// True if the stream has this number for certain: a part of its entries may be read already, and then its count does
    /// not tell whether it is still the stream that was read before.
    certain: bool,
    /// The cursor at the look, as the server named it, and the stream's entries up to it.
    begin: (EntryId, Option<u64>),
    /// The last entry read, of the entries that the look saw.
    read: EntryId,
    /// The number of that entry, if known.
    counted: Option<u64>,
    /// True if no session has lasted since.
    between: bool,
}

impl LastLook {
    /// The same look with as many entries read as the cursor's count says, and no others. `None` if the cursor or its
    /// count lies before the look's begin, or is of another stream: then it says nothing of this one.
    fn moved(self, cursor: EntryId, count: CursorCount) -> Option<Self> {
        let (begin, number) = self.begin;
        let counted = count.of_stream(self.stream_number)?;
        let here = count.at.stream == self.stream_number;
        let same = cursor >= begin && counted >= number? && (here || self.certain);
        // A cursor in the next stream says nothing of the place in this one.
        let read = if here { cursor.min(self.stream.last) } else { self.read };
        same.then_some(Self { read, counted: Some(counted.min(self.stream.added)), ..self })
    }

    /// Number of entries that were seen and are not read yet, as far as known.
    fn unread(&self) -> u64 {
        self.counted.map_or(0, |counted| self.stream.added.saturating_sub(counted))
    }

    /// Returns whether this may be an earlier state of the stream.
    fn is_restored(&self, facts: &StreamCounters) -> bool {
        facts.first.is_some() && facts.first == self.stream.first
    }

    /// Returns whether this is another stream now. Between two sessions a failover may also have restored an earlier
    /// state: then it is the same stream, with the same first entry.
    fn is_replaced(&self, facts: &StreamCounters, compared: Compared) -> bool {
        let went_back = self.between && self.is_restored(facts);
        let other = matches!(compared, Compared::Anew(_) | Compared::Below);
        !went_back && (other || facts.replaces(&self.stream))
    }

    /// The loss if the stream no longer exists, for a cursor that is here, or will be, with this count.
    fn lost(self, place: EntryId, counted: StreamCount) -> Option<PendingLoss> {
        let (count, after, up_to) = (self.unread(), self.read, self.stream.last);
        let loss = UnreadLoss { count, after, up_to, deleted: true };
        (count > 0).then_some(PendingLoss { loss, place, counted, look: Some(self) })
    }
}

/// A loss that is not recorded yet. Nothing is published until it is.
#[derive(Debug, Clone, Copy)]
struct PendingLoss {
    loss: UnreadLoss,
    /// Where the cursor is, or will be after the calls under way.
    place: EntryId,
    /// The count that it has there.
    counted: StreamCount,
    /// The last look at the stream, if that was deleted.
    look: Option<LastLook>,
}

impl PendingLoss {
    /// The loss as of this cursor. A deleted stream also loses entries that were read and not published, but no entries
    /// that another instance has published or recorded. In a trimmed stream the next comparison finds the loss again.
    fn moved(self, cursor: EntryId, counted: CursorCount) -> Option<Self> {
        if (cursor, counted.at) == (self.place, self.counted) {
            return Some(self);
        }
        self.look?.moved(cursor, counted)?.lost(cursor, counted.at)
    }

    /// The number of the stream that lost the entries.
    fn stream_number(&self) -> u64 {
        self.look.map_or(self.counted.stream, |look| look.stream_number)
    }
}

/// Decides when to compare, and what to record.
#[derive(Debug)]
pub(crate) struct UnreadWatch {
    last: Instant,
    /// The last entry read at the last comparison.
    read: EntryId,
    seen: Option<LastLook>,
    /// The stream was replaced, and the new one has entries at or before this place.
    replaced: Option<EntryId>,
    missed: Option<PendingLoss>,
    /// The loss in the call under way, and the cursor's count with it.
    recording: Option<(UnreadLoss, CursorCount)>,
}

impl UnreadWatch {
    pub(crate) fn new(now: Instant) -> Self {
        let (read, seen, replaced, missed) = (EntryId::default(), None, None, None);
        Self { last: now, read, seen, replaced, missed, recording: None }
    }

    /// Returns whether the last look saw entries that are not read yet.
    pub(crate) fn saw_unread(&self) -> bool {
        self.seen.is_some_and(|seen| seen.unread() > 0)
    }

    /// Returns whether to ask the stream: rarely if nothing was read since.
    pub(crate) fn is_due(&self, read: EntryId, now: Instant) -> bool {
        let idle = read == self.read && !self.saw_unread() && self.replaced.is_none();
        let interval = if idle { IDLE } else { BUSY };
        self.missed.is_none() && now.saturating_duration_since(self.last) >= interval
    }

    /// Takes in that an entry was read, and its number, if known.
    pub(crate) fn on_read(&mut self, id: EntryId, counted: Option<u64>) {
        if let Some(seen) = self.seen.as_mut().filter(|seen| id <= seen.stream.last) {
            (seen.read, seen.counted) = (id, counted);
        }
    }

    /// A session ended, and another may begin at the cursor, which has this count. Entries that were read and not
    /// published are read again.
    pub(crate) fn on_session(&mut self, cursor: (EntryId, CursorCount), now: Instant) {
        (self.last, self.read, self.replaced, self.recording) = (now, cursor.0, None, None);
        self.on_moved(cursor);
        if let Some(seen) = &mut self.seen {
            seen.between = true;
        }
    }

    /// Reading continues at the cursor, which has this count. Another instance may have moved it, or recorded a loss.
    pub(crate) fn on_moved(&mut self, (cursor, counted): (EntryId, CursorCount)) {
        self.replaced = self.replaced.filter(|replaced| cursor >= *replaced);
        self.seen = self.seen.and_then(|seen| seen.moved(cursor, counted));
        self.missed = self.missed.and_then(|missed| missed.moved(cursor, counted));
    }

    /// This number of the entries that the last look saw is recorded as lost.
    pub(crate) fn on_recorded(&mut self, count: u64) {
        if let Some(seen) = &mut self.seen {
            seen.counted = seen.counted.map(|counted| (counted + count).min(seen.stream.added));
        }
    }

    /// A look between two sessions, at a cursor with this count; without counters there is no stream.
    pub(crate) fn look_between(
        &mut self,
        facts: Option<&StreamCounters>,
        (cursor, counted): (EntryId, CursorCount),
    ) {
        if let Some(missed) = self.missed {
            let restored = |look: &LastLook| facts.is_some_and(|facts| look.is_restored(facts));
            if !missed.look.as_ref().is_some_and(restored) {
                return;
            }
            self.missed = None;
        }
        let compared = facts.map(|facts| (facts, facts.compare(cursor, counted.at.added)));
        let gone = compared
            .is_none_or(|(facts, compared)| self.seen.is_some_and(|seen| seen.is_replaced(facts, compared)));
        if gone {
            self.miss_deleted(cursor, counted.at);
        }
        let Some((facts, compared)) = compared.filter(|_| self.missed.is_none()) else { return };
        let number = compared.number(counted.at.added);
        self.seen = Some(LastLook {
            stream: *facts,
            stream_number: counted.at.stream + u64::from(compared.is_anew()),
            certain: self.is_certain(facts, compared, counted.at.stream),
            begin: (cursor, number),
            read: cursor,
            counted: number,
            between: true,
        });
    }

    /// Takes in the stream's counters, after `read` was read and while this many of its entries are buffered. Returns
    /// what to report if it is another stream.
    pub(crate) fn compare(
        &mut self,
        facts: &StreamCounters,
        (read, held): (EntryId, u64),
        publisher: &mut Publisher,
        now: Instant,
    ) -> Option<StreamReset> {
        if self.missed.is_some() || !publisher.takes() {
            return None;
        }
        let read_before = std::mem::replace(&mut self.read, read);
        self.last = now;
        let counted = publisher.counted().map(|counted| counted + held);
        let compared = facts.compare(read, counted);
        if self.seen.is_some_and(|seen| !seen.between && facts.replaces(&seen.stream))
            && compared != Compared::Below
            && facts.first.is_some_and(|first| first <= read_before)
        {
            self.replaced = Some(read_before);
        }
        if self.seen.is_some_and(|seen| seen.is_replaced(facts, compared))
            && self.miss_deleted(publisher.end(), publisher.count_at_end())
        {
            return None;
        }
        if self.replaced.is_some() && !publisher.is_idle() {
            return None;
        }
        if let Some(after) = self.replaced.take() {
            return Some(StreamReset::Replaced(after));
        }
        let number = compared.number(counted);
        if let Compared::Counted(added) | Compared::Anew(added) = compared {
            publisher.set_counted(added.checked_sub(held));
        }
        // The cursor counts in the stream before, if this one is met for the first time.
        let there = publisher.counted_there().at;
        let there = if there.stream == publisher.stream() { there.added } else { Some(0) };
        let begin = publisher.cursor().map_or((read, number), |cursor| (cursor, there));
        let stream_number = publisher.stream();
        let certain = self.is_certain(facts, compared, stream_number);
        self.seen = Some(LastLook {
            stream: *facts,
            stream_number,
            certain,
            begin,
            read,
            counted: number,
            between: false,
        });
        match compared {
            Compared::Unknown | Compared::Complete | Compared::Counted(_) => None,
            Compared::Missed(count) => {
                let before_first = facts.first.filter(|first| *first > read).map(EntryId::before);
                let up_to = before_first.unwrap_or(facts.last);
                let loss = UnreadLoss { count, after: read, up_to, deleted: false };
                let place = publisher.end();
                let counted = publisher.count_at_end();
                self.missed = Some(PendingLoss { loss, place, counted, look: None });
                None
            }
            Compared::Anew(_) => Some(StreamReset::Above),
            Compared::Below => Some(StreamReset::Below),
        }
    }

    /// Notes that the stream does not exist; `read` is the last entry read.
    pub(crate) fn on_gone(&mut self, read: EntryId, publisher: &Publisher, now: Instant) {
        if self.missed.is_none() && publisher.takes() {
            (self.last, self.read) = (now, read);
            self.miss_deleted(publisher.end(), publisher.count_at_end());
        }
    }

    /// Returns whether a stream with these counters has this number for certain.
    fn is_certain(&self, facts: &StreamCounters, compared: Compared, number: u64) -> bool {
        let as_before =
            |seen: &LastLook| seen.certain && seen.stream_number == number && !facts.replaces(&seen.stream);
        compared != Compared::Unknown || self.seen.as_ref().is_some_and(as_before)
    }

    /// The stream seen last no longer exists. Notes its unread entries, for a cursor here with this count; returns
    /// whether there are any.
    fn miss_deleted(&mut self, place: EntryId, counted: StreamCount) -> bool {
        self.missed = self.seen.take().and_then(|seen| seen.lost(place, counted));
        self.missed.is_some()
    }

    /// Returns whether a loss is to be recorded before anything else is published.
    pub(crate) fn has_missed(&self) -> bool {
        self.missed.is_some()
    }

    /// Appends the call that records the loss, if no call is under way.
    pub(crate) fn record(&mut self, out: &mut Vec<u8>, publisher: &Publisher) -> bool {
        if !publisher.is_idle() {
            return false;
        }
        let (place, counted) = (publisher.end(), publisher.cursor_count());
        self.missed = self.missed.and_then(|missed| missed.moved(place, counted));
        // Only a count that rises tells another instance that the loss is recorded.
        self.missed = self.missed.filter(|missed| counted.of_stream(missed.stream_number()).is_some());
        let Some(missed) = self.missed else { return false };
        let raised = counted.with_lost(missed.stream_number(), missed.loss.count);
        missed.loss.write(out, publisher.keys(), (place, publisher.counted_there()), raised);
        self.recording = Some((missed.loss, raised));
        true
    }

    /// Takes in whether the loss was recorded. Returns the recorded loss, to report it.
    ///
    /// # Errors
    /// If it could not be recorded.
    pub(crate) fn recorded(
        &mut self,
        reply: &Value,
        publisher: &mut Publisher,
    ) -> Result<Option<UnreadLoss>, Error> {
        if let Value::Error(text) = reply {
            return Err(Error::reply(text));
        }
        let recording = self.recording.take();
        match reply.elements() {
            Some([Value::Integer(1), cursor]) => {
                let cursor = call::written_cursor(cursor)?.flatten();
                let cursor = cursor.ok_or_else(|| UNREAD_LOSS.invalid_reply())?;
                self.missed = None;
                if let Some((loss, raised)) = recording {
                    publisher.continue_at(cursor, raised);
                    self.on_recorded(loss.count);
                }
                Ok(recording.map(|(loss, _)| loss))
            }
            Some([Value::Integer(0), cursor, counted]) => {
                let cursor = call::written_cursor(cursor)?.ok_or_else(|| UNREAD_LOSS.invalid_reply())?;
                publisher.on_elsewhere(cursor, CursorCount::read(counted));
                Ok(None)
            }
            _ => Err(UNREAD_LOSS.invalid_reply()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(milliseconds: u64) -> EntryId {
        EntryId { milliseconds, sequence: 0 }
    }

    fn count(added: u64, stream: u64, before: Option<u64>) -> CursorCount {
        CursorCount { at: StreamCount { added: Some(added), stream }, before }
    }

    fn trimmed(place: u64, counted: u64) -> PendingLoss {
        let loss = UnreadLoss { count: 3, after: id(place), up_to: id(9), deleted: false };
        PendingLoss { loss, place: id(place), counted: count(counted, 0, None).at, look: None }
    }

    /// A deleted stream that had entries 1 to `added`, of which one was read.
    fn deleted(added: u64) -> PendingLoss {
        let stream = StreamCounters { added, length: added, last: id(added), first: Some(id(1)) };
        let begin = (id(1), Some(1));
        let look = LastLook {
            stream,
            stream_number: 0,
            certain: true,
            begin,
            read: id(1),
            counted: Some(1),
            between: false,
        };
        look.lost(id(1), count(1, 0, None).at).unwrap()
    }

    #[test]
    fn a_loss_is_forgotten_once_the_cursor_has_the_same_number_at_another_place() {
        assert!(trimmed(5, 14).moved(id(5), count(14, 0, None)).is_some());
        let less = trimmed(5, 14).moved(id(4), count(14, 0, None));
        assert!(less.is_none(), "another instance came less far, by more entries");
        assert!(trimmed(5, 14).moved(id(5), count(17, 0, None)).is_none(), "another instance recorded it");
    }

    #[test]
    fn a_deleted_stream_is_recorded_once_whatever_the_next_one_counts() {
        let lost = |place, count| deleted(20).moved(id(place), count).map(|lost| lost.loss);
        assert_eq!(deleted(20).loss.count, 19);
        // Another instance published up to the third last entry, and then eight of the next stream.
        let found = lost(40, count(8, 1, Some(17))).unwrap();
        assert_eq!((found.count, found.after, found.up_to), (3, id(1), id(20)));
        assert_eq!(lost(40, count(300, 1, Some(17))).map(|loss| loss.count), Some(3));
        // The same, and it recorded what it had seen.
        assert_eq!(lost(40, count(8, 1, Some(20))), None);
        assert_eq!(lost(40, count(8, 1, Some(18))).map(|loss| loss.count), Some(2), "it saw less");
        assert_eq!(lost(40, count(8, 2, Some(4))), None, "that is the count of a stream after this one");
        assert_eq!(count(8, 1, Some(17)).with_lost(0, 3), count(8, 1, Some(20)));
    }

    #[test]
    fn a_look_at_a_stream_that_may_be_the_next_one_says_nothing_of_the_one_before() {
        let look = LastLook { certain: false, ..deleted(10).look.unwrap() };
        assert!(look.moved(id(40), count(24, 1, Some(7))).is_none(), "7 were read of the stream before");
        assert!(look.moved(id(40), count(7, 0, None)).is_some());
    }
}
