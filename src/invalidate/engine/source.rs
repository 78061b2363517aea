//! Reading the stream: one request at a time.

use std::time::Duration;

use tokio::time::Instant;

use super::{Effect, Engine, SessionState};
use crate::event::InvalidateLoss;
use crate::invalidate::change::keys::{EntryKeys, KeyRejection};
use crate::invalidate::cursor::place::Place;
use crate::invalidate::failure::SessionFailure;
use crate::invalidate::queue::QueuedEntry;
use crate::server::resp::{self, Value};
use crate::server::{Error, Script, script};
use crate::status::RouteEndpoint;
use crate::stream::EntryId;
use crate::stream::counters::{Compared, StreamCounters, ask_counters, is_gone};
use crate::stream::entries::StreamEntries;
use crate::stream::read_size::entries_of_next_read;
use crate::text::plural;

/// Writes dead letters.
const DEAD_LETTERS: Script = script!("dead_letters.lua");
/// Interval between looks at the stream's counts.
const LOOK: Duration = Duration::from_secs(1);
/// How long the server may wait for entries. Meanwhile nothing else can be asked.
const BLOCK: Duration = Duration::from_millis(500);

/// A request to the stream's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceRequest {
    /// Entries after this one; how many at most, and whether the server waits for some.
    Entries { after: EntryId, entries: usize, blocks: bool },
    /// Entries that were applied and are to be held for the second pass, up to the place that the first pass had then.
    Held { after: Place, entries: usize, up_to: Place },
    /// The stream's counts; whether a look at the cursor waits for them.
    Counts { for_look: bool },
    /// The last gap record of a capture.
    Gap,
    /// To write dead letters.
    Letters,
}

impl SourceRequest {
    /// How long the server may take without a fault.
    pub(super) const fn blocks(&self) -> Duration {
        match self {
            Self::Entries { blocks: true, .. } => BLOCK,
            _ => Duration::ZERO,
        }
    }
}

impl Engine {
    /// Appends the next request, if none is under way.
    pub(super) fn ask_source(&mut self, out: &mut Vec<u8>, now: Instant) {
        let unheld = self.unheld();
        let Some(session) = &mut self.session else { return };
        if session.asked.is_some() || session.stopping {
            return;
        }
        let stream = self.settings.stream.as_bytes();
        let looks = session.looked_at_stream.is_none_or(|at| now >= at + LOOK);
        let request = if !session.letters.is_empty() {
            letters(out, &self.dead_letters, stream, &session.letters);
            SourceRequest::Letters
        } else if looks {
            session.looked_at_stream = Some(now);
            if session.gaps_left == 0 {
                (session.gaps_left, session.gaps_found) = (self.settings.gaps.len(), None);
            }
            ask_counters(&self.settings.stream, out);
            SourceRequest::Counts { for_look: session.look.is_some() }
        } else if !session.ready {
            return;
        } else if let Some(key) = session.gaps_left.checked_sub(1).and_then(|at| self.settings.gaps.get(at)) {
            resp::command(out, &[b"XREVRANGE", key.as_bytes(), b"+", b"-", b"COUNT", b"1"]);
            SourceRequest::Gap
        } else if let Some((after, up_to)) = unheld {
            let entries = session.read_entries;
            let begin = format!("({}", after.id);
            let (end, count) = (up_to.id.to_string(), entries.to_string());
            resp::command(
                out,
                &[b"XRANGE", stream, begin.as_bytes(), end.as_bytes(), b"COUNT", count.as_bytes()],
            );
            SourceRequest::Held { after, entries, up_to }
        } else if session.queue.has_room() {
            let (after, entries) = (session.read.id, session.read_entries);
            let (id, count, block) = (after.to_string(), entries.to_string(), BLOCK.as_millis().to_string());
            // With entries in the queue the next call comes soon, and after it another look.
            let collects = session.queue.due(self.settings.collect).is_some_and(|due| due > now);
            let blocks = session.queue.is_empty() || collects;
            let mut command: Vec<&[u8]> = vec![b"XREAD", b"COUNT", count.as_bytes()];
            if blocks {
                command.extend([b"BLOCK".as_slice(), block.as_bytes()]);
            } else if session.end_seen.is_some_and(|(end, _)| end == after) {
                // It was read to its end a moment ago.
                return;
            }
            command.extend([b"STREAMS".as_slice(), stream, id.as_bytes()]);
            resp::command(out, &command);
            SourceRequest::Entries { after, entries, blocks }
        } else {
            return;
        };
        if let Some(session) = &mut self.session {
            session.asked = Some((request, now));
        }
    }

    /// What was applied and is not held for its second pass, if there is room for it.
    fn unheld(&self) -> Option<(Place, Place)> {
        let places = self.places?;
        places.again?;
        let (after, pos) = (self.held.end(), places.pos);
        // A batch under way is held once it is answered.
        (after.id < pos.id && self.held.has_room()).then_some((after, pos))
    }

    /// Takes in a reply of the stream's server.
    ///
    /// # Errors
    /// If it refused: the session ends.
    pub(in crate::invalidate) fn on_source(
        &mut self,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), SessionFailure> {
        self.effects.push(Effect::Answered(RouteEndpoint::Source));
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some((request, _)) = session.asked.take() else {
            return Err(SessionFailure::source(Error::unasked()));
        };
        match request {
            SourceRequest::Entries { after, entries, .. } => self.on_entries(frame, after, entries, now),
            SourceRequest::Held { after, entries, up_to } => self.on_held(frame, after, entries, up_to, now),
            SourceRequest::Counts { .. } | SourceRequest::Gap | SourceRequest::Letters => {
                let value =
                    Value::build(frame, 0).map_err(|error| SessionFailure::source(Error::from(error)))?.0;
                match request {
                    SourceRequest::Counts { for_look } => self.on_counts(&value, for_look, now),
                    SourceRequest::Gap => self.on_gap(&value, now),
                    _ => self.on_letters(&value, now),
                }
            }
        }
    }

    fn on_entries(
        &mut self,
        frame: &[u8],
        after: EntryId,
        asked: usize,
        now: Instant,
    ) -> Result<(), SessionFailure> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let ranges = std::mem::take(&mut session.ranges);
        let mut entries =
            StreamEntries::new(frame, ranges).map_err(|error| stream_failed(error, &self.settings.stream))?;
        let came = entries.left();
        // The place may have moved meanwhile: then it is read again from there.
        let mut filtered = 0;
        if after == session.read.id && session.ready {
            while let Some(entry) = entries.next().map_err(SessionFailure::source)? {
                session.read = session.read.next(entry.id);
                let keys = match self.keys.of(&entry) {
                    EntryKeys::Keys(keys) => keys,
                    EntryKeys::Filtered => {
                        filtered += 1;
                        Vec::new()
                    }
                    EntryKeys::Rejected(why, keys) => {
                        session.letters.push((entry.id, why));
                        keys
                    }
                };
                session.queue.push(QueuedEntry { place: session.read, keys, seen: now });
            }
            if came < asked {
                session.end_seen = Some((session.read.id, now));
            }
        }
        session.ranges = entries.into_ranges();
        session.read_entries = entries_of_next_read(session.read_entries, asked, came, frame.len());
        if filtered > 0 {
            self.effects.push(Effect::Filtered(filtered));
        }
        Ok(())
    }

    /// Entries that another instance applied, or this one before a restart.
    fn on_held(
        &mut self,
        frame: &[u8],
        after: Place,
        asked: usize,
        up_to: Place,
        now: Instant,
    ) -> Result<(), SessionFailure> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let ranges = std::mem::take(&mut session.ranges);
        let mut entries = StreamEntries::of_range(frame, ranges)
            .map_err(|error| stream_failed(error, &self.settings.stream))?;
        let came = entries.left();
        let mut end = after;
        while let Some(entry) = entries.next().map_err(SessionFailure::source)? {
            let keys = match self.keys.of(&entry) {
                EntryKeys::Keys(keys) | EntryKeys::Rejected(_, keys) => keys,
                EntryKeys::Filtered => Vec::new(),
            };
            let due = self.again_clock.map_or(now, |clock| clock.due(&self.marks.0, entry.id, now));
            let last = end.next(entry.id);
            self.held.hold_reread((end.id, last), keys, due);
            end = last;
        }
        let is_whole = came < asked || end.id == up_to.id;
        let lost = end.lacks(up_to).filter(|_| is_whole).unwrap_or(0);
        if lost > 0 || came < asked {
            self.held.lose(up_to, lost, if lost > 0 { now + self.held.after() } else { now });
        }
        session.ranges = entries.into_ranges();
        session.read_entries = entries_of_next_read(session.read_entries, asked, came, frame.len());
        Ok(())
    }

    fn on_counts(&mut self, value: &Value, for_look: bool, now: Instant) -> Result<(), SessionFailure> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let facts = match value {
            Value::Error(text) if is_gone(&Error::reply(text)) => None,
            Value::Error(text) => {
                let stream = &self.settings.stream;
                return Err(SessionFailure::source(Error::reply_at(text, stream)));
            }
            value => Some(StreamCounters::read(value).ok_or_else(|| {
                SessionFailure::source(Error::Refused(
                    "XINFO STREAM does not say how many entries were ever added: the server is too old; an invalidation \
                     needs a stream on Redis 7.0 or later, or Valkey"
                        .to_owned(),
                ))
            })?),
        };
        let ready = session.ready;
        if for_look {
            self.on_look_with(facts, now);
        } else if ready {
            self.compare(facts, now);
        }
        Ok(())
    }

    /// Compares the stream's counts with what was read of it. What follows from a stream that was begun anew waits for a
    /// look at the cursor.
    fn compare(&mut self, facts: Option<StreamCounters>, now: Instant) {
        let Some(session) = &mut self.session else { return };
        let Place { id: read, counted, .. } = session.read;
        if is_anew(facts.as_ref(), self.seen.as_ref(), session.read) {
            (session.ready, session.checked) = (false, false);
            return;
        }
        self.seen = facts;
        let Some(facts) = facts else { return };
        match facts.compare(read, counted) {
            Compared::Counted(added) => {
                (session.read.counted, session.complete) = (Some(added), read);
                self.missed = self.missed.max(session.read.missed().unwrap_or(0));
            }
            Compared::Complete => session.complete = read,
            Compared::Missed(count) => {
                session.read.counted = counted.map(|counted| counted + count);
                session.raised = true;
                let after = std::mem::replace(&mut session.complete, read);
                let missed = session.read.missed();
                let known = self.missed;
                self.missed = known.max(missed.unwrap_or(0));
                let new = missed.map_or(count, |missed| missed.saturating_sub(known).min(count));
                if new == 0 {
                    return;
                }
                let up_to = facts.first.filter(|first| *first > read).map_or(facts.last, EntryId::before);
                let behind = if after < up_to { format!("after {after} and ") } else { String::new() };
                let detail = format!(
                    "{} {behind}up to {up_to}: trimmed or deleted before the route read it",
                    plural::of(new, "entry")
                );
                self.miss(InvalidateLoss::Trimmed, detail, now);
            }
            Compared::Unknown | Compared::Anew(_) | Compared::Below => {}
        }
    }

    /// The last gap record of a capture. After the last capture, it is compared with the one seen before: the first look
    /// ever has nothing to compare with.
    fn on_gap(&mut self, value: &Value, now: Instant) -> Result<(), SessionFailure> {
        if let Value::Error(text) = value {
            let asked = self.session.as_ref().and_then(|session| session.gaps_left.checked_sub(1));
            let key = asked.and_then(|at| self.settings.gaps.get(at)).map_or("", String::as_str);
            return Err(SessionFailure::source(Error::reply_at(text, key)));
        }
        let id = |record: &Value| EntryId::parse(record.elements()?.first()?.bytes()?);
        let last = value.elements().and_then(|records| id(records.first()?));
        let Some(session) = &mut self.session else { return Ok(()) };
        session.gaps_found = session.gaps_found.max(last);
        session.gaps_left = session.gaps_left.saturating_sub(1);
        if session.gaps_left > 0 || !session.ready {
            return Ok(());
        }
        let found = Some(session.gaps_found.unwrap_or_default());
        let seen = self.gaps.0;
        if found > seen {
            self.gaps = (found, true);
            if seen.is_some() {
                let detail = "a capture that writes the stream has recorded a gap (`tidegate gaps` shows it)";
                self.miss(InvalidateLoss::Gap, detail.to_owned(), now);
            }
        }
        Ok(())
    }

    fn on_letters(&mut self, value: &Value, now: Instant) -> Result<(), SessionFailure> {
        if let Value::Error(text) = value {
            return Err(SessionFailure::source(Error::reply_at(text, &self.dead_letters)));
        }
        let written = value.count().ok_or_else(|| SessionFailure::source(DEAD_LETTERS.invalid_reply()))?;
        let Some(session) = &mut self.session else { return Ok(()) };
        let letters = std::mem::take(&mut session.letters);
        for (id, _) in letters.iter().filter(|(_, why)| *why == KeyRejection::TooManyKeys) {
            let detail = format!("the entry {id} makes more keys than are cleared in one step");
            self.miss(InvalidateLoss::TooManyKeys, detail, now);
        }
        if let Some((first, why)) = letters.into_iter().next()
            && written > 0
        {
            let suppressed = self.admit(why.reason(), now);
            self.effects.push(Effect::Rejected { count: written, first, why, suppressed });
        }
        Ok(())
    }
}

impl SessionState {
    /// Reading continues after this place.
    pub(super) fn read_from(&mut self, pos: Place) {
        (self.read, self.complete) = (pos, pos.id);
        self.raised = false;
        self.queue.clear();
        self.letters.clear();
        self.end_seen = None;
    }
}

fn stream_failed(error: Error, stream: &str) -> SessionFailure {
    SessionFailure::source(error.at(&[stream]))
}

/// Returns whether a stream is another one than that which was read up to here. A stream that is gone counts as such once
/// anything was read of it: the next one begins below the cursor, or with few entries.
pub(super) fn is_anew(facts: Option<&StreamCounters>, seen: Option<&StreamCounters>, read: Place) -> bool {
    let Some(facts) = facts else { return read.id > EntryId::default() };
    let below = read.id > facts.last;
    let fewer = matches!(facts.compare(read.id, read.counted), Compared::Anew(_) | Compared::Below);
    below || fewer || seen.is_some_and(|seen| facts.replaces(seen))
}

fn letters(out: &mut Vec<u8>, key: &str, stream: &[u8], letters: &[(EntryId, KeyRejection)]) {
    resp::header(out, 5 + letters.len() * 3);
    for word in [b"EVAL", DEAD_LETTERS.source.as_bytes(), b"1", key.as_bytes(), stream] {
        resp::argument(out, word);
    }
    for (id, why) in letters {
        resp::argument(out, id.to_string().as_bytes());
        resp::argument(out, why.reason().as_bytes());
        resp::argument(out, why.to_string().as_bytes());
    }
}
