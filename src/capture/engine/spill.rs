//! Batches that memory cannot hold, or that a crash must not take: the decisions between the chain and the spool.
//!
//! ```text
//!  chain (memory, oldest first)      on disk only          tail (memory)
//! ─●──────────────────────────┼──────────────────────┼──────────────────── newest
//!  └────────── written, too ─────────────────────────┘
//! ```
//!
//! While the destination keeps up, nothing is written. Once something has waited for a second, or there is more than the
//! chain may hold, everything that waits is written: first what the chain holds, so that the spool has no hole before
//! it, then what follows. Written batches that do not fit in the chain leave memory and are read again, in order, when
//! there is room. Once everything is back in memory and the destination keeps up, writing ends, and what is stored
//! durably is deleted.
//!
//! Failure:
//! - The disk refuses a write: what is not written stays in memory. When memory is full too, the window is closed, inside
//!   a recorded gap.
//! - The disk refuses a read: the same read is tried again later.
//! - A stretch of the spool is damaged: a *hole* takes its place in the chain, a batch without messages with the loss as
//!   its gap. It is recorded like any other gap, at once and with no message behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, Options};
use super::chain::Chain;
use super::gap::{Gap, Joint};
use crate::event::GapCause;
use crate::position::Position;
use crate::rt::Moment;
use crate::spool::{Damage, Done, Piece, Record, Request, SpoolError};

/// What has waited for so long is written: as long as fsync's interval, so that a crash of the process
/// costs no more than one of the machine.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that one request to the spool carries.
const REQUEST_BYTES: usize = 1024 * 1024;
/// How long a spool that failed is left alone.
const RETRY: Duration = Duration::from_secs(2);
/// Between two deletions of what is stored.
const RELEASE: Duration = Duration::from_secs(1);

/// How much may be held in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Bytes that may wait in the chain.
    pub(crate) chain: usize,
    /// Bytes that may wait behind it to be written.
    pub(crate) tail: usize,
}

/// What came of a request.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Messages that an earlier process had received and that wait in memory now.
    pub(crate) recovered: u64,
    /// Why the spool cannot be written or read.
    pub(crate) failed: Option<String>,
    /// What is damaged: file, place and loss.
    pub(crate) damaged: Vec<String>,
}

/// What is behind the chain.
#[derive(Debug, Default)]
pub(crate) struct Overflow {
    enabled: bool,
    journal: bool,
    /// How holes are appended; like every other batch of this configuration.
    options: Arc<Options>,
    /// The last item on disk.
    written: Option<Position>,
    /// The last item that is on disk and not in memory.
    disk_only: Option<Position>,
    /// The last item that an earlier process wrote.
    recovered: Option<Position>,
    /// The last item that was given up. What the log still holds up to it is not read again.
    given_up: Option<Position>,
    /// What was given up is to be deleted up to here.
    discarded: Option<Position>,
    /// A damaged stretch behind the last record that was read. The next record tells where it ends.
    damage: Option<Gap>,
    disk_events: u64,
    tail: VecDeque<Batch>,
    tail_bytes: usize,
    /// The records of the request that is under way, each by its last item.
    writing: Vec<Position>,
    /// What is being read is still wanted.
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

impl Overflow {
    /// Without a spool, for now.
    pub(crate) fn new(options: Arc<Options>) -> Self {
        Self { options, ..Self::default() }
    }

    /// Takes over what another route has behind its chain.
    pub(crate) fn inherit(&mut self, other: Self) {
        let options = std::mem::take(&mut self.options);
        *self = Self { options, ..other };
    }

    /// There is a spool from now on. An earlier process left records up to `last` in it, in so many bytes.
    pub(crate) fn opened(&mut self, last: Option<Position>, bytes: u64) {
        self.enabled = true;
        self.journal = last.is_some();
        (self.written, self.disk_only, self.recovered) = (last, last, last);
        self.bytes = bytes;
    }

    /// Whether everything behind the chain is in the chain.
    pub(crate) fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.disk_only.is_none()
    }

    /// Whether everything up to `last` would be there after a restart.
    pub(crate) fn has_written(&self, last: Option<Position>) -> bool {
        self.enabled && self.written >= last
    }

    /// Whether there is a spool at all.
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
        self.disk_events
    }

    /// Messages that are lost with a damaged stretch whose end is not known yet.
    pub(crate) fn owed_events(&self) -> u64 {
        let waiting: u64 = self.tail.iter().map(|batch| batch.joint.lost()).sum();
        waiting + self.damage.as_ref().map_or(0, |gap| gap.dropped)
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.bytes
    }

    /// The last item behind the chain.
    pub(crate) fn last(&self) -> Option<Position> {
        self.tail.back().map(|batch| batch.last).or(self.disk_only)
    }

    /// Why there is no room for more; `None` where there is.
    pub(crate) fn full(&self, chain: &Chain, room: Room) -> Option<GapCause> {
        if !self.enabled {
            return (chain.held_bytes() > room.chain + room.tail).then_some(GapCause::MemoryFull);
        }
        (self.tail_bytes > room.tail).then_some(match (self.full, self.failed) {
            (true, _) => GapCause::SpoolFull,
            (false, true) => GapCause::SpoolFailed,
            (false, false) => GapCause::MemoryFull,
        })
    }

    /// Writes everything that waits from now on: the process is about to end.
    pub(crate) fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Takes a batch in at the end.
    pub(crate) fn push(&mut self, batch: Batch, chain: &mut Chain, room: Room) {
        if !self.enabled || (self.is_empty() && chain.held_bytes() <= room.chain) {
            chain.push(batch);
        } else {
            self.tail_bytes += batch.held_bytes();
            self.tail.push_back(batch);
        }
    }

    /// What the spool is to do next.
    pub(crate) fn request(
        &mut self,
        chain: &Chain,
        durable: Option<Position>,
        room: Room,
        now: Instant,
    ) -> Option<Request> {
        if !self.enabled {
            return None;
        }
        let late = chain.waits_since().is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE);
        self.journal = late || self.urgent || !self.is_empty();
        if let Some(position) = self.discarded.take_if(|_| self.disk_only.is_none()) {
            return Some(Request::Release(position.to_bytes()));
        }
        let readable = self.read_again_at.is_none_or(|at| now >= at);
        if self.disk_only.is_some() && readable && chain.held_bytes() <= room.chain / 2 {
            self.reading = true;
            return Some(Request::Read { max_bytes: REQUEST_BYTES.min(room.chain / 4).max(1) });
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
        // What is on disk only is to be read first, and counted, whoever has stored it meanwhile.
        let upto = if self.disk_only.is_some() { durable.min(chain.last()) } else { durable };
        if self.bytes > 0
            && due
            && let Some(position) = upto
        {
            self.released_at = Some(now);
            return Some(Request::Release(position.to_bytes()));
        }
        None
    }

    fn write(&mut self, chain: &Chain) -> Option<Request> {
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
        (!records.is_empty()).then_some(Request::Write(records))
    }

    /// Takes in what the spool has done.
    pub(crate) fn done(&mut self, done: Done, chain: &mut Chain, room: Room, now: Moment) -> Outcome {
        let mut outcome = Outcome::default();
        match done {
            Done::Written { bytes } => {
                self.bytes = bytes;
                self.written = self.written.max(self.writing.last().copied());
                self.writing.clear();
                (self.full, self.failed, self.retry_at) = (false, false, None);
            }
            Done::WriteFailed { error, written } => {
                let last = written.checked_sub(1).and_then(|last| self.writing.get(last).copied());
                self.written = self.written.max(last);
                self.writing.clear();
                self.full = matches!(error, SpoolError::Full { .. });
                self.failed = !self.full;
                self.retry_at = Some(now.at + RETRY);
                outcome.failed = Some(error.to_string());
            }
            // It was given up meanwhile, and is counted as that.
            Done::Read(_) | Done::ReadFailed(_) if !std::mem::take(&mut self.reading) => {}
            Done::Read(pieces) => {
                self.read_again_at = None;
                self.take(pieces, chain, now, &mut outcome);
            }
            Done::ReadFailed(error) => {
                self.read_again_at = Some(now.at + RETRY);
                outcome.failed = Some(error.to_string());
            }
            Done::Released { bytes } => self.bytes = bytes,
        }
        self.settle(chain, room);
        outcome
    }

    /// Takes in what was read.
    fn take(&mut self, pieces: Vec<Piece>, chain: &mut Chain, now: Moment, outcome: &mut Outcome) {
        let ended = pieces.is_empty();
        for piece in pieces {
            match piece {
                Piece::Record(record) => self.take_record(&record, chain, now, outcome),
                Piece::Damage(damage) => self.take_damage(damage, chain, now, outcome),
            }
        }
        if ended {
            // The log has no more, and more was expected.
            self.end_of_log(chain, now, outcome);
        } else if self.disk_only <= chain.last().max(self.given_up) && self.damage.is_none() {
            self.disk_only = None;
            self.disk_events = 0;
        }
    }

    fn take_record(&mut self, record: &Record, chain: &mut Chain, now: Moment, outcome: &mut Outcome) {
        let last = Position::from_bytes(record.mark);
        // A batch is written before it leaves memory, so the log begins with batches that are in memory, too.
        if Some(last) <= chain.last().max(self.given_up) {
            return;
        }
        let Ok(mut batch) = Batch::decode(&record.body, now.at) else {
            let damage = Damage {
                after: None,
                upto: Some(record.mark),
                events: Some(record.events),
                detail: format!("the record at {last} is of another version of tidegate"),
            };
            return self.take_damage(damage, chain, now, outcome);
        };
        if let Some(gap) = self.damage.take() {
            let gap = gap.until(batch.opened.unix_ms);
            match &mut batch.joint {
                Joint::Follows(before) if Some(*before) > chain.last() => {
                    chain.push(Batch::hole(*before, gap, now, self.options.clone()));
                }
                // Everything before it is there: the damage was in a copy.
                Joint::Follows(_) if gap.dropped == 0 => {}
                Joint::Follows(_) => chain.owe(gap),
                joint @ Joint::Start => *joint = Joint::Gap(gap),
                Joint::Gap(own) => *own = gap.with(own.clone()),
            }
        }
        if Some(last) <= self.recovered {
            outcome.recovered += batch.events;
        } else {
            self.disk_events = self.disk_events.saturating_sub(batch.events);
        }
        chain.push(batch);
    }

    /// A stretch is damaged. Its loss stays counted as received: a hole or the next gap carries it.
    fn take_damage(&mut self, damage: Damage, chain: &mut Chain, now: Moment, outcome: &mut Outcome) {
        let upto = damage.upto.map(Position::from_bytes);
        if upto.is_some() && upto <= chain.last().max(self.given_up) {
            // Everything in it is in memory or was given up before.
            return;
        }
        let own = upto.is_some() && upto > self.recovered;
        let lost = damage.events.unwrap_or(0);
        // A loss of this process was counted as received when it was read, and any other one is now.
        let lost = if own { lost.min(self.disk_events) } else { lost };
        if own {
            self.disk_events -= lost;
        } else {
            outcome.recovered += lost;
        }
        let detail = match damage.events {
            Some(events) => format!("{events} messages of the spool are lost: {}", damage.detail),
            None => format!("messages of the spool are lost, how many is not known: {}", damage.detail),
        };
        let gap = Gap::begins(GapCause::SpoolCorrupt, detail.clone(), now.unix_ms)
            .until(now.unix_ms)
            .dropping(lost);
        outcome.damaged.push(detail);
        let gap = match self.damage.take() {
            Some(before) => before.with(gap),
            None => gap,
        };
        match upto {
            Some(upto) if Some(upto) >= self.disk_only => {
                // Nothing readable follows in the log.
                chain.push(Batch::hole(upto, gap, now, self.options.clone()));
            }
            _ => self.damage = Some(gap),
        }
    }

    /// The log has no more records, and not everything that was on disk only has been read.
    fn end_of_log(&mut self, chain: &mut Chain, now: Moment, outcome: &mut Outcome) {
        let lost = std::mem::take(&mut self.disk_events);
        let Some(upto) = self.disk_only.take() else { return };
        let before = self.damage.take();
        if lost == 0 && before.is_none() {
            return;
        }
        let mut gap = Gap::begins(GapCause::SpoolCorrupt, "the spool ends too early", now.unix_ms)
            .until(now.unix_ms)
            .dropping(lost);
        outcome.damaged.push(format!("{lost} messages of the spool are lost: it ends too early"));
        if let Some(before) = before {
            gap = before.with(gap);
        }
        if Some(upto) > chain.last() {
            chain.push(Batch::hole(upto, gap, now, self.options.clone()));
        } else {
            chain.owe(gap);
        }
    }

    /// Moves what is in memory towards the chain, and lets go of what is written.
    fn settle(&mut self, chain: &mut Chain, room: Room) {
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
                self.disk_events += batch.events;
            }
        }
    }

    /// The chain has more room than before.
    pub(crate) fn refill(&mut self, chain: &mut Chain, room: Room) {
        if self.disk_only.is_none() && !self.tail.is_empty() {
            self.settle(chain, room);
        }
    }

    /// Takes off the end what stands at or after `border`, where another route numbers it. Returns how many
    /// messages that were, and the gap before the first of them: it lies before the border too. What is on
    /// disk only stays: nothing is written while a border may come.
    pub(crate) fn cut(&mut self, border: Position, chain: &mut Chain) -> (u64, Option<Gap>) {
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
        let (more, before) = chain.cut(border);
        (events + more, before.or(gap))
    }

    /// Gives up everything. Returns how many messages that were, and the losses among them that no record has: they are
    /// the caller's to record.
    pub(crate) fn clear(&mut self) -> (u64, u64) {
        let (events, owed) = (self.tail_events() + self.disk_events, self.owed_events());
        self.given_up = self.given_up.max(self.last()).max(self.written);
        if self.bytes > 0 {
            self.discarded = self.written;
        }
        self.tail.clear();
        self.damage = None;
        (self.tail_bytes, self.disk_events, self.disk_only) = (0, 0, None);
        self.reading = false;
        (events, owed)
    }
}
