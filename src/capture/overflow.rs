//! What does not fit in memory, and what a crash must not take: the decisions between the chain and the
//! spool, without any I/O.
//!
//! ```text
//!  chain (memory, oldest first)      on disk only          tail (memory)
//! ─●──────────────────────────┼──────────────────────┼──────────────────── newest
//!  └────────── written, too ─────────────────────────┘
//! ```
//!
//! While the destination keeps up, nothing is written. Once something has waited for a second, or there is
//! more than the chain may hold, everything that waits is written: first what the chain holds, so that the
//! spool has no hole before it, then what follows. What is written and does not fit in the chain is let go
//! of, and read again, in order, when there is room. Once everything is back in memory and the destination
//! keeps up, writing ends, and what is stored durably is deleted.
//!
//! Failure: where the spool cannot be written, what is not written stays in memory; when that is full too
//! the window is closed, inside a recorded gap. Nothing that was received is given up for it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::batch::{Batch, Gap, Joint};
use super::chain::Chain;
use crate::event::GapCause;
use crate::position::Position;
use crate::spool::{Done, Piece, Record, Request, SpoolError};

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
    /// Events that were received by an earlier process and are in hand now.
    pub(crate) recovered: u64,
    /// The spool cannot be written or read: for a person.
    pub(crate) failed: Option<String>,
    /// Records were lost: everything that was on disk only.
    pub(crate) lost: bool,
}

/// What is behind the chain.
#[derive(Debug, Default)]
pub(crate) struct Overflow {
    enabled: bool,
    journal: bool,
    /// The last item on disk.
    written: Option<Position>,
    /// The last item that is on disk and not in memory.
    disk_only: Option<Position>,
    /// The last item that an earlier process wrote.
    recovered: Option<Position>,
    disk_events: u64,
    tail: VecDeque<Batch>,
    tail_bytes: usize,
    /// The records of the request that is under way, each by its last item.
    writing: Vec<Position>,
    /// What is being read is still wanted.
    reading: bool,
    retry_at: Option<Instant>,
    released_at: Option<Instant>,
    /// Bytes of the log.
    bytes: u64,
    full: bool,
    failed: bool,
    /// Everything that waits is written at once: the process is about to end.
    urgent: bool,
}

impl Overflow {
    /// With a spool in which an earlier process left records up to `last`, in so many bytes.
    pub(crate) fn with_spool(last: Option<Position>, bytes: u64) -> Self {
        Self {
            enabled: true,
            journal: last.is_some(),
            written: last,
            disk_only: last,
            recovered: last,
            bytes,
            ..Self::default()
        }
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
        if self.disk_only.is_some() && chain.held_bytes() <= room.chain / 2 {
            self.reading = true;
            return Some(Request::Read { max_bytes: REQUEST_BYTES.min(room.chain / 4) });
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
    pub(crate) fn done(&mut self, done: Done, chain: &mut Chain, room: Room, now: Instant) -> Outcome {
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
                self.retry_at = Some(now + RETRY);
                outcome.failed = Some(error.to_string());
            }
            // It was given up meanwhile, and is counted as that.
            Done::Read(_) | Done::ReadFailed(_) if !std::mem::take(&mut self.reading) => {}
            Done::Read(records) => self.take(records, chain, now, &mut outcome),
            Done::ReadFailed(error) => {
                outcome.failed = Some(error.to_string());
                self.lose(chain, &mut outcome);
            }
            Done::Released { bytes } => self.bytes = bytes,
        }
        self.settle(chain, room);
        outcome
    }

    /// Takes in what was read.
    fn take(&mut self, pieces: Vec<Piece>, chain: &mut Chain, now: Instant, outcome: &mut Outcome) {
        if pieces.is_empty() {
            // The log has no more, and this was told to expect more.
            return self.lose(chain, outcome);
        }
        for piece in pieces {
            // Adaptation: a damage ends reading, as before; to be replaced by a gap in its place.
            let Piece::Record(Record { mark, body: record, .. }) = piece else {
                outcome.failed = Some("a part of the spool is damaged".to_owned());
                return self.lose(chain, outcome);
            };
            let last = Position::from_bytes(mark);
            // It is written before it is let go of, so the log begins with what is in memory, too.
            if Some(last) <= chain.last() {
                continue;
            }
            match Batch::decode(&record, now) {
                Ok(batch) => {
                    if Some(last) <= self.recovered {
                        outcome.recovered += batch.events;
                    } else {
                        self.disk_events = self.disk_events.saturating_sub(batch.events);
                    }
                    chain.push(batch);
                }
                Err(error) => {
                    outcome.failed = Some(error.to_string());
                    return self.lose(chain, outcome);
                }
            }
        }
        if self.disk_only <= chain.last() {
            self.disk_only = None;
            self.disk_events = 0;
        }
    }

    /// What was on disk only cannot be read any more.
    fn lose(&mut self, chain: &mut Chain, outcome: &mut Outcome) {
        outcome.lost = true;
        self.lost_some(chain);
    }

    /// Something that was on disk only is gone.
    pub(crate) fn lost_some(&mut self, chain: &mut Chain) {
        let dropped = std::mem::take(&mut self.disk_events);
        self.disk_only = None;
        let now_unix_ms = crate::rt::unix_ms();
        chain.owe(Gap {
            cause: GapCause::SpoolCorrupt,
            detail: "a part of the spool could not be read; its files are kept beside it".to_owned(),
            started_unix_ms: now_unix_ms,
            ended_unix_ms: now_unix_ms,
            dropped,
            published: None,
        });
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

    /// Gives up everything: another configuration's instance stores it. Returns how many messages that
    /// were.
    pub(crate) fn clear(&mut self) -> u64 {
        let events = self.tail_events() + self.disk_events;
        self.tail.clear();
        (self.tail_bytes, self.disk_events, self.disk_only) = (0, 0, None);
        self.reading = false;
        events
    }
}
