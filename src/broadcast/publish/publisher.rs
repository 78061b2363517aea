//! Publishing in batches, several of them under way, each chained on the one before.
//!
//! ```text
//! same server:   items ──▶ script on the stream's server: compare cursor, PUBLISH …, move cursor
//! other server:  PUBLISH … on the destination, pipelined ──all answered──▶ script: compare, move
//! ```
//!
//! A batch names the cursor that it expects. If the server has another (a second instance, a failover that lost the
//! last step), the batch and all batches chained on it do nothing. That is a *cursor mismatch*: the publisher waits
//! until all calls are answered, and continues at the cursor that the server named last.
//!
//! If one entry is refused, the cursor stops before it, calls under way are completed, and the session ends with that
//! failure. On one server it publishes nothing twice; on two servers, at most the messages under way.
//!
//! The failure's cause decides the next step (`refusals`). A server takes at least [`BATCH_BYTES`] (`proto-max-bulk-len`
//! and `client-query-buffer-limit` go no lower). A larger entry is sent alone, so that its failure can be attributed.

mod refusals;
mod release;
mod remote;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use refusals::Refusals;
use remote::{Note, Published, Remote};

use super::call::{BroadcastKeys, Items, PublishOutcome, Tally};
use super::count::{Counted, CursorCount, StreamCount};
use super::open::Failing;
use crate::broadcast::failure::SessionFailure;
use crate::broadcast::message::withheld::{Unrenderable, Withheld};
use crate::server::resp::{self, Value};
use crate::server::{Error, Hash};
use crate::status::RouteEndpoint;
use crate::stream::EntryId;

/// Entries of one batch. A script of 128 costs 3.7 µs an entry on the server, one of 1 costs 17.
pub(crate) const BATCH_ENTRIES: usize = 128;
/// Bytes of one batch; a larger entry goes alone. The server does nothing else while a script runs.
const BATCH_BYTES: usize = 1024 * 1024;
/// Refused entries in a row that may become dead letters. If more are refused and none is published, the cause is not a
/// single entry.
pub(crate) const REFUSED_IN_A_ROW: u64 = 8;
/// Batches under way at which reading stops. One read adds up to four more.
pub(crate) const BATCHES_UNDER_WAY: usize = 4;

/// An entry's id, and the same as the server writes it.
pub(crate) type Id<'a> = (EntryId, &'a [u8]);

/// A script's call that is not answered yet.
#[derive(Debug)]
pub(crate) struct PendingCall {
    entries: u64,
    /// The entry, if it is larger than a batch.
    large: Option<EntryId>,
    holes: u64,
    /// `entries-added` at the cursor after this call.
    counted: StreamCount,
    release: bool,
    sent: Instant,
}

/// The result of one answered call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settled {
    /// The outcomes of the entries.
    pub(crate) tally: Tally,
    /// Number of entries in the call.
    pub(crate) entries: u64,
    /// Time from the call to its answer.
    pub(crate) took: Duration,
    /// Number of entries that another instance has recorded as lost: the cursor's count is so much higher than expected.
    pub(crate) lost_elsewhere: u64,
}

/// The call that an answer on the stream's connection belongs to.
#[derive(Debug)]
pub(crate) enum Called {
    /// A batch.
    Batch(PendingCall),
    /// The lease.
    Lease,
}

/// The writing half of a session: which commands go out, and what their answers mean. It knows no connection.
///
/// Invariant: `cursor <= end` without a mismatch; `end` is the cursor once everything under way is done.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// Commands to the stream's server.
    out: Vec<u8>,
    other: Option<Remote>,
    hash: Hash,
    /// Hash of `release.lua`; `None` if the route releases no holes.
    release_hash: Option<Hash>,
    keys: BroadcastKeys,
    /// The batch being collected, if the script publishes.
    items: Items,
    /// Number of its items that are holes.
    holes: u64,
    /// The holes being collected, for `release.lua`.
    releases: Items,
    calls: VecDeque<PendingCall>,
    /// Number of calls before the lease's call, and when it was made.
    lease: Option<(usize, Instant)>,
    /// The cursor that the server named last.
    cursor: Option<EntryId>,
    /// The entry before the next batch.
    end: EntryId,
    /// The last entry that was taken into the batch being collected.
    taken: EntryId,
    /// `entries-added` at `taken`.
    counted: StreamCount,
    /// True if `counted` is more than the cursor's count plus the entries taken since, because it was determined anew.
    counted_anew: bool,
    /// Number of entries taken into the batch being collected.
    more: u64,
    /// `entries-added` at the cursor that the server named last.
    counted_there: CursorCount,
    cursor_mismatch: bool,
    /// Entries after the first of these and up to the second were published before: the stream was replaced.
    passes: Option<(EntryId, EntryId)>,
    refusals: Refusals,
    /// The entry of the batch being collected, if it is larger than a batch.
    large: Option<EntryId>,
    /// Most entries of a batch: one, while it is tested whether the server still refuses.
    batch_entries: usize,
    response_timeout: Duration,
}

impl Publisher {
    pub(crate) fn new(
        hash: Hash,
        keys: BroadcastKeys,
        (cursor, counted): (EntryId, CursorCount),
        response_timeout: Duration,
    ) -> Self {
        Self {
            out: Vec::new(),
            other: None,
            hash,
            release_hash: None,
            keys,
            items: Items::default(),
            holes: 0,
            releases: Items::default(),
            calls: VecDeque::new(),
            lease: None,
            cursor: Some(cursor),
            end: cursor,
            taken: cursor,
            counted: counted.at,
            counted_anew: false,
            more: 0,
            counted_there: counted,
            cursor_mismatch: false,
            passes: None,
            refusals: Refusals::none(),
            large: None,
            batch_entries: BATCH_ENTRIES,
            response_timeout,
        }
    }

    /// Publishes holes by this script.
    pub(crate) fn with_release(mut self, hash: Hash) -> Self {
        self.release_hash = Some(hash);
        self
    }

    /// Publishes on another server than the stream's.
    pub(crate) fn with_other(mut self, response_timeout: Duration) -> Self {
        let (current, releasing) =
            (Published::default(), Published { release: true, ..Published::default() });
        let waiting = VecDeque::new();
        let (out, release_out) = (Vec::new(), Vec::new());
        let ping = None;
        self.other = Some(Remote { out, current, releasing, release_out, waiting, ping, response_timeout });
        self
    }

    /// Sets how refused entries are handled; `failing` is the last of them.
    pub(crate) fn with_refusals(
        mut self,
        channels_differ: bool,
        failing: Option<&Failing>,
        max_deliveries: u64,
    ) -> Self {
        self.refusals = Refusals::new(channels_differ, failing, max_deliveries);
        self
    }

    /// Begins with a single entry, to test whether the server still refuses it.
    pub(crate) fn careful(mut self) -> Self {
        self.batch_entries = 1;
        self
    }

    /// Commands that are to be sent: to the stream's server, and to the other one.
    pub(crate) fn outgoing(&mut self) -> (&mut Vec<u8>, Option<&mut Vec<u8>>) {
        (&mut self.out, self.other.as_mut().map(|other| &mut other.out))
    }

    /// Asks for the lease behind the earlier calls. `write` appends the command if it is due.
    pub(crate) fn ask_lease(&mut self, now: Instant, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        if self.lease.is_none() && write(&mut self.out) {
            self.lease = Some((self.calls.len(), now));
        }
    }

    /// Returns whether messages for the other server may be unsent or unanswered. Behind a refusal nothing waits for
    /// answers, but messages may still be unsent.
    pub(crate) fn is_sending(&self) -> bool {
        let waits = |other: &Remote| other.waiting.iter().any(|batch| !batch.ids.is_empty());
        self.other.as_ref().is_some_and(|other| self.refusals.has_one() || waits(other))
    }

    /// Continues from this cursor, which another instance or the record of a loss has moved, if no call is under way. Returns
    /// whether it does.
    pub(crate) fn continue_at(&mut self, cursor: EntryId, counted: CursorCount) -> bool {
        if !self.is_idle() || !self.takes() {
            return false;
        }
        self.cursor = Some(cursor);
        (self.end, self.taken) = (cursor, cursor);
        (self.counted, self.counted_anew, self.more) = (counted.at, false, 0);
        self.counted_there = counted;
        true
    }

    /// The cursor is not where it was expected, but here. Once nothing is under way, this instance continues there.
    pub(crate) fn on_elsewhere(&mut self, cursor: Option<EntryId>, counted: CursorCount) {
        (self.cursor, self.counted_there, self.cursor_mismatch) = (cursor, counted, true);
    }

    /// The cursor has vanished; the session ends once nothing is under way.
    pub(crate) fn on_cursor_vanished(&mut self) {
        (self.cursor, self.cursor_mismatch) = (None, true);
    }

    /// After which entry to read on.
    pub(crate) fn end(&self) -> EntryId {
        self.end
    }

    /// The cursor that the server named last; `None` if it named none.
    pub(crate) fn cursor(&self) -> Option<EntryId> {
        self.cursor
    }

    /// `entries-added` at the last entry taken, if known.
    pub(crate) fn counted(&self) -> Option<u64> {
        self.counted.added
    }

    /// The number of the stream that is counted.
    pub(crate) fn stream(&self) -> u64 {
        self.counted.stream
    }

    /// The count at the cursor that the server named last.
    pub(crate) fn counted_there(&self) -> CursorCount {
        self.counted_there
    }

    /// The count at the last entry taken.
    pub(crate) fn count_at_end(&self) -> StreamCount {
        self.counted
    }

    /// The count at the cursor, with a redetermined count applied. Call it only while no call is under way.
    pub(crate) fn cursor_count(&self) -> CursorCount {
        match self.counted.added {
            Some(added) if self.counted_anew => self.counted_there.anew(added),
            _ => self.counted_there,
        }
    }

    /// Sets the count, whatever the cursor has: that of another stream, or one that was not known.
    pub(crate) fn set_counted(&mut self, added: Option<u64>) {
        let stream = self.counted.stream.saturating_sub(u64::from(self.counted_anew));
        self.counted_anew = added.is_some();
        self.counted = StreamCount { added, stream: stream.saturating_add(u64::from(self.counted_anew)) };
    }

    /// The route's keys.
    pub(crate) fn keys(&self) -> &BroadcastKeys {
        &self.keys
    }

    /// Returns whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way() == 0
    }

    /// Returns whether more entries may be read ahead.
    pub(crate) fn has_room(&self) -> bool {
        let most = if self.batch_entries == 1 { 1 } else { BATCHES_UNDER_WAY };
        !self.cursor_mismatch && !self.refusals.has_one() && self.under_way() < most
    }

    /// Returns whether entries that arrive now can be taken.
    pub(crate) fn takes(&self) -> bool {
        !self.cursor_mismatch && !self.refusals.has_one()
    }

    /// Returns whether a single entry is tried alone.
    pub(crate) fn is_careful(&self) -> bool {
        self.batch_entries == 1
    }

    /// Bytes that are held until they are sent.
    pub(crate) fn held_bytes(&self) -> usize {
        let other = |other: &Remote| other.out.len() + other.release_out.capacity();
        let other = self.other.as_ref().map_or(0, other);
        self.out.len() + self.items.bytes() + self.releases.bytes() + other
    }

    fn under_way(&self) -> usize {
        self.calls.len() + self.other.as_ref().map_or(0, |other| other.waiting.len())
    }

    /// Takes an entry that is to be published.
    pub(crate) fn publish(&mut self, (id, text): Id<'_>, channel: &[u8], message: &[u8], now: Instant) {
        if let Some(why) = self.refusals.take_given_up(id) {
            return self.reject((id, text), why, now);
        }
        let bytes = text.len() + channel.len() + message.len();
        self.make_room(bytes, now);
        self.large = (bytes > BATCH_BYTES).then_some(id);
        match &mut self.other {
            None => self.items.message(text, channel, message),
            Some(other) => {
                resp::command(&mut other.out, &[self.keys.command.as_bytes(), channel, message]);
                other.current.ids.push(id);
            }
        }
        self.count_taken(id);
    }

    /// Takes an entry that is not published.
    pub(crate) fn withhold(&mut self, id: Id<'_>, why: Withheld, now: Instant) {
        match why {
            Withheld::Filtered => self.filter(id.0),
            Withheld::Unrenderable(why) => self.reject(id, why, now),
        }
    }

    /// Takes an entry that cannot be published.
    fn reject(&mut self, (id, text): Id<'_>, why: Unrenderable, now: Instant) {
        self.make_room(0, now);
        match &mut self.other {
            None => self.items.dead_letter(text, &why),
            Some(other) => other.current.noted.push((id, Note::Dead(why))),
        }
        self.count_taken(id);
    }

    fn count_taken(&mut self, id: EntryId) {
        self.taken = id;
        self.counted = self.counted.plus(1);
        self.more += 1;
    }

    /// Takes an entry that the route's filter leaves out. It costs no message, so a batch may have any
    /// number of them: as many as were read.
    pub(crate) fn filter(&mut self, id: EntryId) {
        match &mut self.other {
            None => self.items.filtered(1),
            Some(other) => other.current.filtered.push(id),
        }
        self.count_taken(id);
    }

    /// Says which entries were published before.
    pub(crate) fn set_passes(&mut self, passes: Option<(EntryId, EntryId)>) {
        self.passes = passes;
    }

    /// Takes an entry if it was published before; whether it was.
    pub(crate) fn pass(&mut self, id: EntryId) -> bool {
        let passes = self.passes.is_some_and(|(after, up_to)| after < id && id <= up_to);
        if passes {
            self.count_taken(id);
        }
        passes
    }

    fn make_room(&mut self, bytes: usize, now: Instant) {
        let (entries, held) = match &self.other {
            None => (self.items.count(), self.items.bytes()),
            // Each PUBLISH is a command of its own there, so bytes together do not hold the server up.
            Some(other) => (other.current.ids.len() + other.current.noted.len(), 0),
        };
        let full = held + bytes > BATCH_BYTES || self.large.is_some();
        if entries >= self.batch_entries || (entries > 0 && full) {
            self.flush(now);
        }
    }

    /// Sends the batch that was collected, if there is one.
    pub(crate) fn flush(&mut self, now: Instant) {
        let span = (self.end, self.taken);
        if self.taken == self.end {
            return;
        }
        let large = self.large.take();
        let more = std::mem::take(&mut self.more);
        let count = match (self.counted.added, std::mem::take(&mut self.counted_anew)) {
            (None, _) => Counted::Unknown,
            (Some(counted), true) => Counted::Anew(counted, more),
            (Some(_), false) => Counted::More(more),
        };
        match &mut self.other {
            None => {
                let entries = u64::try_from(self.items.count()).unwrap_or(u64::MAX);
                let span = (span.0, span.1, count);
                self.items.write(&mut self.out, &self.hash, &self.keys, span, Tally::default());
                let holes = std::mem::take(&mut self.holes);
                let counted = self.counted;
                self.calls.push_back(PendingCall {
                    entries,
                    large,
                    holes,
                    counted,
                    release: false,
                    sent: now,
                });
            }
            Some(other) => {
                let mut batch = std::mem::take(&mut other.current);
                batch.span = span;
                batch.counted = self.counted;
                batch.count = count;
                batch.large = large;
                batch.sent = Some(now);
                other.send(batch);
            }
        }
        self.end = self.taken;
        // A batch of dead letters alone waits for no answer of the other server.
        self.move_published(now);
    }

    /// The call that the next answer on the stream's connection belongs to.
    ///
    /// # Errors
    /// If no call is open.
    pub(crate) fn on_call_reply(&mut self) -> Result<Called, SessionFailure> {
        if let Some((behind, _)) = &mut self.lease {
            if *behind == 0 {
                self.lease = None;
                return Ok(Called::Lease);
            }
            *behind -= 1;
        }
        let call = self.calls.pop_front();
        call.map(Called::Batch).ok_or_else(|| SessionFailure::source(Error::unasked()))
    }

    /// Takes in the script's answer to a batch; `None` if the script did nothing.
    ///
    /// # Errors
    /// If the script failed.
    pub(crate) fn on_settled(
        &mut self,
        call: &PendingCall,
        reply: &Value,
        now: Instant,
    ) -> Result<Option<Settled>, SessionFailure> {
        let outcome = match PublishOutcome::read(reply) {
            Ok(outcome) => outcome,
            Err(error) => {
                let error = error.at(&[&self.keys.cursor]);
                return Err(self.refusals.of_script(call.large, error));
            }
        };
        match outcome {
            PublishOutcome::Elsewhere(cursor, counted, passes) => {
                self.passes = passes;
                self.on_elsewhere(cursor, counted);
                Ok(None)
            }
            PublishOutcome::Moved { cursor, counted, tally, refused } => {
                let mut lost_elsewhere = 0;
                // Cursor and count must be from one answer, also if an earlier batch was refused and this one fitted
                // the cursor of another instance. The reply of `release.lua` has a cursor and no count.
                if !call.release {
                    self.cursor = Some(cursor);
                    self.counted_there = counted;
                    if counted.at != call.counted {
                        let there = counted.at.added.zip(call.counted.added);
                        let raised = there.and_then(|(there, mine)| there.checked_sub(mine));
                        let waiting = self.other.iter_mut().flat_map(|other| &mut other.waiting);
                        let expected = self.calls.iter_mut().map(|call| &mut call.counted);
                        let expected = expected.chain(waiting.map(|batch| &mut batch.counted));
                        for count in expected.chain([&mut self.counted]) {
                            count.added = count.added.zip(raised).map(|(count, raised)| count + raised);
                            count.stream = counted.at.stream;
                        }
                        self.counted_anew = false;
                        lost_elsewhere = raised.unwrap_or_default();
                    }
                }
                if let Some((error, entry)) = refused {
                    // Only PUBLISH has an entry.
                    let keys = [Some(&self.keys.dead_letters), self.keys.holes.as_ref()];
                    let keys: Vec<&String> = keys.into_iter().flatten().collect();
                    self.refusals.on_script_refused(entry, error.at(&keys));
                } else {
                    self.batch_entries = BATCH_ENTRIES;
                }
                let took = now.saturating_duration_since(call.sent);
                Ok(Some(Settled { tally, entries: call.entries, took, lost_elsewhere }))
            }
        }
    }

    /// Returns the failure for a connection that ended or was given up. An entry larger than a batch may be the reason,
    /// if it was being published.
    pub(crate) fn on_broken(&mut self, side: RouteEndpoint, error: Error) -> SessionFailure {
        if let Some(refused) = self.refusals.take() {
            return refused;
        }
        let large = match (side, &self.other) {
            (RouteEndpoint::Source, None) => self.calls.front().and_then(|call| call.large),
            (RouteEndpoint::Destination, Some(other)) => {
                other.waiting.front().filter(|batch| batch.answered == 0).and_then(|batch| batch.large)
            }
            _ => None,
        };
        self.refusals.of_connection(side, large, error)
    }

    /// After all in-flight calls are answered: reports a rejection, or continues at the server's cursor if another
    /// instance has moved it. Returns whether it does that.
    ///
    /// # Errors
    /// The refusal that ended this session, or that the cursor has vanished.
    pub(crate) fn settle_after_rejection(&mut self) -> Result<bool, SessionFailure> {
        if !self.is_idle() {
            return Ok(false);
        }
        if let Some(refused) = self.refusals.take() {
            return Err(refused);
        }
        if !self.cursor_mismatch {
            return Ok(false);
        }
        let Some(cursor) = self.cursor else {
            return Err(SessionFailure::CursorVanished { key: self.keys.cursor.clone() });
        };
        self.cursor_mismatch = false;
        Ok(self.continue_at(cursor, self.counted_there))
    }

    /// Checks whether an answer is overdue.
    ///
    /// # Errors
    /// If one is: the outcome is unknown, and the next session finds it in the cursor.
    pub(crate) fn check_deadlines(&mut self, now: Instant) -> Result<(), SessionFailure> {
        let overdue = |sent: Instant, limit: Duration| now.saturating_duration_since(sent) > limit;
        if let Some(other) = &self.other
            && let Some(sent) = other.ping.or_else(|| other.waiting.front()?.sent)
            && overdue(sent, other.response_timeout)
        {
            let error = Error::Timeout(other.response_timeout, "publishing");
            return Err(self.on_broken(RouteEndpoint::Destination, error));
        }
        let limit =
            self.response_timeout + self.other.as_ref().map_or(Duration::ZERO, |o| o.response_timeout);
        let call = self.calls.front().map(|call| call.sent);
        if call.or(self.lease.map(|(_, sent)| sent)).is_some_and(|sent| overdue(sent, limit)) {
            return Err(self.on_broken(RouteEndpoint::Source, Error::Timeout(limit, "moving the cursor")));
        }
        Ok(())
    }
}
