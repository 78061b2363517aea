//! Items that do not fit in memory, or that must survive a crash: the decisions between the chain and the spool,
//! without any I/O.
//!
//! ```text
//!  chain (memory, oldest first)      on disk only          tail (memory)
//! ─●──────────────────────────┼──────────────────────┼──────────────────── newest
//!  └────────── written, too ─────────────────────────┘
//! ```
//!
//! While the destination keeps up, nothing is written. Once something has waited for a second, or the chain is over its
//! limit, everything that waits is written: first the chain, so that nothing is missing before it in the spool, then what
//! follows. Written items that do not fit in the chain are released, and read again, in order, when there is room. Once
//! everything is back in memory and the destination keeps up, writing ends, and durably stored items are deleted.
//!
//! Failure:
//! - The disk refuses a write: unwritten items stay in memory. When that is full too, the window is closed, inside a
//!   recorded gap. No received message is dropped for it.
//! - The disk refuses a read: the same read is tried again later.
//! - A stretch of the spool is damaged: a *loss* takes its place in the chain, a batch without messages with the loss
//!   as its gap. It is recorded like any other gap, at once and with no message behind it.

mod disk_only;
mod reading;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk_only::DiskOnly;
use reading::SpillReading;

use super::chain::Chain;
use crate::capture::batch::gap::{Gap, Joint};
use crate::capture::batch::{AppendOptions, Batch};
use crate::event::GapCause;
use crate::position::Position;
use crate::rt::Moment;
use crate::spool::{Record, Recovered, SpoolDone, SpoolError, SpoolRequest};

/// Items that wait for so long are written: fsync's interval, so that a crash of the process costs no more than one of
/// the machine.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that one request to the spool carries.
const REQUEST_BYTES: usize = 1024 * 1024;
/// Pause after the spool failed.
const RETRY: Duration = Duration::from_secs(2);
/// Interval between deletions of stored items.
const RELEASE: Duration = Duration::from_secs(1);

/// The memory limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryRoom {
    /// Bytes that may wait in the chain.
    pub(crate) chain: usize,
    /// Bytes that may wait behind it to be written.
    pub(crate) tail: usize,
}

/// The result of a request.
#[derive(Debug, Default)]
pub(crate) struct SpillOutcome {
    /// Events that were received by an earlier process and are buffered now.
    pub(crate) recovered: u64,
    /// Why the spool cannot be written or read.
    pub(crate) failed: Option<String>,
    /// Damaged parts: file, place and loss.
    pub(crate) damaged: Vec<String>,
}

/// Items behind the chain.
#[derive(Debug, Default)]
pub(crate) struct Spill {
    enabled: bool,
    journal: bool,
    /// The last item on disk.
    written: Option<Position>,
    /// The last item that is on disk and not in memory.
    disk_only: Option<Position>,
    /// The last item that an earlier process wrote.
    recovered: Option<Position>,
    /// Messages of an earlier process that are on disk and not read, and those that a damage there has lost.
    unread: u64,
    /// The last item given up. Items in the log up to it are not read again.
    given_up: Option<Position>,
    /// Deletion of given-up items is due up to here.
    discarded: Option<Position>,
    /// A damaged stretch behind the last record read. The next record tells where it ends.
    damage: Option<Gap>,
    disk_only_batches: DiskOnly,
    tail: VecDeque<Batch>,
    tail_bytes: usize,
    /// The records of the request that is under way, each by its last item.
    writing: Vec<Position>,
    /// True if the result of the running read is still wanted.
    reading: bool,
    retry_at: Option<Instant>,
    read_again_at: Option<Instant>,
    released_at: Option<Instant>,
    /// Bytes of the log.
    bytes: u64,
    full: bool,
    failed: bool,
    /// Everything that waits is written at once: the process is about to end.
    urgent: bool,
}

impl Spill {
    /// With a spool in which an earlier process left records up to `last`.
    pub(crate) fn with_spool(last: Option<Position>, recovered: &Recovered) -> Self {
        Self {
            enabled: true,
            journal: last.is_some(),
            written: last,
            disk_only: last,
            recovered: last,
            unread: recovered.events.saturating_add(recovered.lost_events),
            bytes: recovered.bytes,
            ..Self::default()
        }
    }

    /// An empty spool has become available: what waits is written from now on, from its beginning.
    pub(crate) fn enable(&mut self) {
        self.enabled = true;
    }

    /// Returns whether everything behind the chain is in the chain.
    pub(crate) fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.disk_only.is_none()
    }

    /// Returns whether everything up to `last` would be there after a restart.
    pub(crate) fn has_written(&self, last: Option<Position>) -> bool {
        self.enabled && self.written >= last
    }

    /// Returns whether there is a spool at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Bytes in memory behind the chain.
    pub(crate) fn held_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// Messages in memory behind the chain.
    pub(crate) fn tail_events(&self) -> u64 {
        self.tail.iter().map(|batch| batch.events).sum()
    }

    /// Messages that this process wrote and that are on disk only.
    pub(crate) fn disk_events(&self) -> u64 {
        self.disk_only_batches.events
    }

    /// Messages that are lost with a damaged stretch whose end is not known yet.
    pub(crate) fn unrecorded_events(&self) -> u64 {
        let waiting: u64 = self.tail.iter().map(|batch| batch.joint.lost()).sum();
        waiting + self.damage.as_ref().map_or(0, |gap| gap.dropped)
    }

    /// Since when; milliseconds since 1970.
    pub(crate) fn unrecorded_since_unix_ms(&self) -> Option<u64> {
        let waiting = self.tail.iter().filter_map(|batch| batch.joint.lost_since_unix_ms());
        waiting.chain(self.damage.iter().map(|gap| gap.started_unix_ms)).min()
    }

    /// The first batch behind the chain, if it is in memory.
    pub(crate) fn front(&self) -> Option<&Batch> {
        self.tail.front().filter(|_| self.disk_only.is_none())
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.bytes
    }

    /// The last item behind the chain.
    pub(crate) fn last(&self) -> Option<Position> {
        self.tail.back().map(|batch| batch.last).or(self.disk_only)
    }

    /// Why there is no room for more; `None` if there is room.
    pub(crate) fn full(&self, chain: &Chain, room: MemoryRoom) -> Option<GapCause> {
        self.is_over(0, chain, room).then_some(match (self.full, self.failed) {
            (true, _) => GapCause::SpoolFull,
            (false, true) => GapCause::SpoolFailed,
            (false, false) => GapCause::MemoryFull,
        })
    }

    /// Whether waiting batches and `more` bytes exceed the limit. Without a spool all wait in the chain.
    pub(crate) fn is_over(&self, more: usize, chain: &Chain, room: MemoryRoom) -> bool {
        let (held, most) = match self.enabled {
            true => (self.tail_bytes, room.tail),
            false => (chain.held_bytes(), room.chain + room.tail),
        };
        held + more > most
    }

    /// Writes everything that waits from now on: the process is about to end.
    pub(crate) fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Takes a batch in at the end.
    pub(crate) fn push(&mut self, batch: Batch, chain: &mut Chain, room: MemoryRoom) {
        if !self.enabled || (self.is_empty() && chain.held_bytes() <= room.chain) {
            chain.push(batch);
        } else {
            self.tail_bytes += batch.held_bytes();
            self.tail.push_back(batch);
        }
    }

    /// The next request to the spool.
    pub(crate) fn request(
        &mut self,
        chain: &Chain,
        durable: Option<Position>,
        room: MemoryRoom,
        now: Instant,
    ) -> Option<SpoolRequest> {
        if !self.enabled {
            return None;
        }
        let late = chain.waits_since().is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE);
        self.journal = late || self.urgent || !self.is_empty();
        if self.disk_only.is_none()
            && let Some(position) = self.discarded.take()
        {
            return Some(SpoolRequest::Release(position.to_bytes()));
        }
        let readable = self.read_again_at.is_none_or(|at| now >= at);
        if self.disk_only.is_some() && readable && chain.held_bytes() <= room.chain / 2 {
            self.reading = true;
            return Some(SpoolRequest::Read { max_bytes: REQUEST_BYTES.min(room.chain / 4).max(1) });
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        if self.journal
            && let Some(request) = self.write(chain)
        {
            return Some(request);
        }
        let due = self.released_at.is_none_or(|at| now.saturating_duration_since(at) >= RELEASE);
        // Items only on disk are read and counted first, even if another instance has stored them meanwhile.
        let upto = if self.disk_only.is_some() { durable.min(chain.last()) } else { durable };
        if self.bytes > 0
            && due
            && let Some(position) = upto
        {
            self.released_at = Some(now);
            return Some(SpoolRequest::Release(position.to_bytes()));
        }
        None
    }

    fn write(&mut self, chain: &Chain) -> Option<SpoolRequest> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let tail = self.tail.iter().filter(|batch| Some(batch.last) > self.written);
        for batch in chain.waiting_after(self.written).chain(tail) {
            let record = batch.encode();
            bytes += record.len();
            self.writing.push(batch.last);
            records.push(Record { mark: batch.last.to_bytes(), events: batch.events, body: record });
            if bytes >= REQUEST_BYTES {
                break;
            }
        }
        (!records.is_empty()).then_some(SpoolRequest::Write(records))
    }

    /// Takes in the spool's answer. Holes are appended with `options`, as every batch of this configuration.
    pub(crate) fn done(
        &mut self,
        done: SpoolDone,
        chain: &mut Chain,
        options: &Arc<AppendOptions>,
        room: MemoryRoom,
        now: Moment,
    ) -> SpillOutcome {
        let mut outcome = SpillOutcome::default();
        match done {
            SpoolDone::Written { bytes } => {
                self.bytes = bytes;
                self.written = self.written.max(self.writing.last().copied());
                self.writing.clear();
                (self.full, self.failed, self.retry_at) = (false, false, None);
            }
            SpoolDone::WriteFailed { error, written } => {
                let last = written.checked_sub(1).and_then(|last| self.writing.get(last).copied());
                self.written = self.written.max(last);
                self.writing.clear();
                self.full = matches!(error, SpoolError::Full { .. });
                self.failed = !self.full;
                self.retry_at = Some(now.at + RETRY);
                outcome.failed = Some(error.to_string());
            }
            // It was given up meanwhile, and is counted as that.
            SpoolDone::Read(_) | SpoolDone::ReadFailed(_) if !std::mem::take(&mut self.reading) => {}
            SpoolDone::Read(pieces) => {
                self.read_again_at = None;
                SpillReading { spill: self, chain, options, now, outcome: &mut outcome }.take(pieces);
            }
            SpoolDone::ReadFailed(error) => {
                self.read_again_at = Some(now.at + RETRY);
                outcome.failed = Some(error.to_string());
            }
            SpoolDone::Released { bytes } => self.bytes = bytes,
        }
        self.unread = self.unread.saturating_sub(outcome.recovered);
        self.settle(chain, room);
        outcome
    }

    /// Moves batches in memory towards the chain, and releases written ones.
    fn settle(&mut self, chain: &mut Chain, room: MemoryRoom) {
        while let Some(batch) = self.tail.front() {
            let fits = self.disk_only.is_none() && chain.held_bytes() <= room.chain;
            let written = Some(batch.last) <= self.written;
            if !fits && !written {
                return;
            }
            let Some(batch) = self.tail.pop_front() else { return };
            self.tail_bytes = self.tail_bytes.saturating_sub(batch.held_bytes());
            if fits {
                chain.push(batch);
            } else {
                self.disk_only = Some(batch.last);
                self.disk_only_batches.push(batch.last, batch.events);
            }
        }
    }

    /// The chain has more room than before.
    pub(crate) fn refill(&mut self, chain: &mut Chain, room: MemoryRoom) {
        if self.disk_only.is_none() && !self.tail.is_empty() {
            self.settle(chain, room);
        }
    }

    /// Removes the items at or after `border`; the other route assigns their positions. Returns their number of
    /// messages, and the gap before the first of them, which is before the border too. Items only on disk stay: nothing
    /// is written while a border may come. `taken` is as for [`Chain::cut`].
    pub(crate) fn cut(&mut self, border: Position, chain: &mut Chain, taken: bool) -> (u64, Option<Gap>) {
        let (mut events, mut gap) = (0, None);
        while self.tail.back().is_some_and(|batch| batch.first >= border)
            && let Some(batch) = self.tail.pop_back()
        {
            self.tail_bytes = self.tail_bytes.saturating_sub(batch.held_bytes());
            events += batch.events;
            gap = match batch.joint {
                Joint::Gap(gap) => Some(gap),
                Joint::Follows(_) | Joint::Start => None,
            };
        }
        if !self.is_empty() {
            return (events, gap);
        }
        let (more, before) = chain.cut(border, taken);
        (events + more, before.or(gap))
    }

    /// Gives up everything: another configuration's instance stores it.
    pub(crate) fn clear(&mut self) -> ClearedSpill {
        let known = self.tail_events() + self.disk_only_batches.take_all() + self.unrecorded_events();
        let unread = std::mem::take(&mut self.unread);
        self.given_up = self.given_up.max(self.last()).max(self.written);
        if self.bytes > 0 {
            self.discarded = self.written;
        }
        self.tail.clear();
        self.damage = None;
        (self.tail_bytes, self.disk_only) = (0, None);
        self.reading = false;
        ClearedSpill { events: known + unread, unread }
    }
}

/// The messages that were given up with everything behind the chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClearedSpill {
    pub(crate) events: u64,
    /// Number of these that an earlier process had left and this one has not read: they are not counted as received.
    pub(crate) unread: u64,
}
