//! The buffered batches and where they continue: the decisions of a capture, without any I/O.
//!
//! The chain holds the route's batches in the order of the source. Some are stored already and kept
//! until they are stored *durably*; some are on their way; some wait:
//!
//! ```text
//!          checkpoint
//!  ───────────●───────────────●───────────────●───────────────●───────────…
//!   kept      │ ring[passed]  │               │ ring[sent]    │     builder
//!             └──────── on their way ─────────┘
//! ```
//!
//! Each batch is sent with the position before it, so the script can tell whether it continues what is stored. The
//! checkpoint may advance without us (another instance appends the same events, in batches with other borders) or go
//! back (a failover lost acknowledged writes). In both cases the chain continues with the batch that holds what
//! follows. The script skips stored items, so sending twice is harmless.
//!
//! If no instance has buffered what follows the checkpoint, something may be missing. Then the first buffered batch is
//! sent with the gap before it, measured from the exact checkpoint.
//!
//! A reply that is not "stored" or "duplicate" means that everything sent behind it was refused as well. So the chain
//! waits for those replies, and then sends again.
//!
//! Invariants, exceptions included:
//! - batches ascend; between two neighbours nothing is missing unless the later one opens a window;
//! - `passed <= sent <= ring.len()`; the last item of `ring[..passed]` was at or before the checkpoint;
//! - only the first batch on its way may open a window: others follow the one before.

mod checkpoint;
mod gap_before;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::position::{Epoch, Position};

use crate::capture::append::call::Prev;
use crate::capture::batch::Batch;
use crate::capture::batch::gap::{Gap, Joint};

pub(crate) use checkpoint::{Passed, PassedCounts, ReplyStep};

/// Anchors of the open window that are remembered. Each is a reconnect or a change somewhere.
const EPOCHS: usize = 1024;

/// Coverage of what follows the checkpoint by the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// It is buffered.
    Held,
    /// Nothing is buffered after it, but it is in the open window: the next items will be.
    Watching,
    /// Nothing was ever stored, so nothing is missing before the first window.
    Fresh,
    /// Something may be missing before the first buffered item.
    Missing,
    /// Nothing is buffered that could follow, or the state has not been read.
    Unknown,
}

impl Coverage {
    /// Returns whether this instance could continue without a gap.
    pub(crate) fn is_eligible(self) -> bool {
        matches!(self, Self::Held | Self::Watching)
    }
}

/// The buffered batches.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    ring: VecDeque<Batch>,
    /// Number of batches in the ring that the checkpoint has passed.
    passed: usize,
    /// Number of batches in the ring that it has passed or that are on their way.
    sent: usize,
    /// Replies still to come for batches that were sent behind a refused one.
    refused: usize,
    /// The state's checkpoint; `None` before it was read.
    checkpoint: Option<Option<Position>>,
    /// The numbering of that position; `None` if unknown.
    counted: Option<String>,
    /// The numbering of this configuration.
    numbering: String,
    /// True if the state ever had a position, as far as this process knows.
    begun: bool,
    /// When the state was last written before it was first read; milliseconds since 1970.
    since_unix_ms: Option<u64>,
    /// When an earlier process read the first and the last batch that it left on disk; milliseconds since 1970.
    recovered_unix_ms: Option<(u64, u64)>,
    /// Why the state may be before everything buffered.
    went_back: Option<Gap>,
    /// True if the state went back, and the time of its last write before that place is unknown.
    undated: bool,
    /// A gap for messages given up, not recorded yet.
    owed: Option<Gap>,
    /// Messages of it that are lost with a damaged spool. Only their record clears it.
    owed_lost: u64,
    /// The end of the last batch that was removed: it was stored long ago, or given up after the state had left its place.
    left: Option<Position>,
    /// The gap that the first batch on its way carries.
    forced: Option<Gap>,
    /// The last item that was given.
    last: Option<Position>,
    /// The anchors of the last window that was given.
    epochs: VecDeque<Epoch>,
    held_bytes: usize,
    kept_bytes: usize,
    /// Earlier checkpoints and when they were seen: the age of what is stored.
    marks: VecDeque<(Instant, Option<Position>)>,
}

impl Chain {
    /// An empty chain of a configuration that counts so.
    pub(crate) fn new(numbering: &str) -> Self {
        Self { numbering: numbering.to_owned(), ..Self::default() }
    }

    /// The same batches, for a configuration with this numbering.
    pub(crate) fn inherited(self, numbering: &str) -> Self {
        Self { numbering: numbering.to_owned(), ..self }
    }

    /// The checkpoint, as far as known.
    pub(crate) fn checkpoint(&self) -> Option<Position> {
        self.checkpoint.flatten()
    }

    /// Bytes of what waits to be stored.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes of batches that are stored and kept until they are durable.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Number of messages that wait to be stored.
    pub(crate) fn held_events(&self) -> u64 {
        self.ring.iter().skip(self.passed).map(|batch| batch.events).sum()
    }

    /// Number of these that are on their way.
    pub(crate) fn sent_events(&self) -> u64 {
        self.ring.range(self.passed..self.sent).map(|batch| batch.events).sum()
    }

    /// Number of these up to a position: waiting, and on their way.
    pub(crate) fn events_up_to(&self, position: Option<Position>) -> (u64, u64) {
        let (mut waiting, mut sent) = (0, 0);
        for (at, batch) in self.ring.iter().enumerate().skip(self.passed) {
            if Some(batch.first) > position {
                break;
            }
            *if at < self.sent { &mut sent } else { &mut waiting } += batch.events_up_to(position);
        }
        (waiting, sent)
    }

    /// Messages that are stored and kept until that is durable.
    pub(crate) fn kept_events(&self) -> u64 {
        self.ring.range(..self.passed).map(|batch| batch.events).sum()
    }

    /// Nothing waits to be stored.
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.len() == self.passed
    }

    /// Replies that are awaited.
    pub(crate) fn awaited(&self) -> usize {
        self.sent - self.passed + self.refused
    }

    /// Since when something waits to be stored.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.ring.get(self.passed).map(|batch| batch.opened)
    }

    /// The first batch that waits to be stored, sent or not.
    pub(crate) fn front(&self) -> Option<&Batch> {
        self.ring.get(self.passed)
    }

    /// The first item that waits to be stored.
    pub(crate) fn first(&self) -> Option<Position> {
        self.ring.get(self.passed).map(|batch| batch.first)
    }

    /// The first item of the next batch to send.
    pub(crate) fn next_first(&self) -> Option<Position> {
        self.ring.get(self.sent).map(|batch| batch.first)
    }

    /// The last item that was given.
    pub(crate) fn last(&self) -> Option<Position> {
        self.last
    }

    /// Returns whether the state has been read once, so that [`Self::checkpoint`] is more than an assumption.
    pub(crate) fn was_read(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Returns whether the state had a position and is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.begun && self.checkpoint == Some(None)
    }

    /// The batches that wait to be stored and end after `position`.
    pub(crate) fn waiting_after(&self, position: Option<Position>) -> impl Iterator<Item = &Batch> {
        self.ring.iter().skip(self.passed).filter(move |batch| Some(batch.last) > position)
    }

    /// Makes this item the contiguous predecessor of the next one, whichever instance stored it.
    pub(crate) fn resume(&mut self, position: Position) {
        if self.epochs.back() != Some(&position.epoch) {
            self.epochs.push_back(position.epoch);
        }
        self.last = Some(position);
    }

    /// Forgets the last item: the next one may be before it.
    pub(crate) fn forget(&mut self) {
        self.last = None;
        self.epochs.clear();
    }

    /// Adds a batch at the end.
    pub(crate) fn push(&mut self, batch: Batch) {
        // A window may begin before what another instance has stored of it.
        let begins = batch.joint.opens_window();
        debug_assert!(begins || self.last.is_none_or(|last| last < batch.first), "batches ascend");
        if begins {
            self.epochs.clear();
        }
        for epoch in batch.epochs() {
            if self.epochs.back() != Some(&epoch) {
                self.epochs.push_back(epoch);
            }
        }
        while self.epochs.len() > EPOCHS {
            self.epochs.pop_front();
        }
        self.last = Some(batch.last);
        self.held_bytes += batch.held_bytes();
        self.ring.push_back(batch);
    }

    /// Returns the coverage of what follows the checkpoint. `open` is the anchor of the open window.
    pub(crate) fn coverage(&self, open: Option<Position>) -> Coverage {
        let Some(checkpoint) = self.checkpoint else { return Coverage::Unknown };
        if self.is_foreign() {
            return Coverage::Unknown;
        }
        match (self.ring.get(self.passed), checkpoint) {
            (None, Some(at))
                if open.is_some_and(|anchor| anchor <= at) && self.epochs.contains(&at.epoch) =>
            {
                Coverage::Watching
            }
            (None, _) => Coverage::Unknown,
            (Some(front), None) if !self.begun && front.joint == Joint::Start => Coverage::Fresh,
            (Some(front), Some(at)) => {
                let from = match front.joint {
                    Joint::Follows(before) => before,
                    Joint::Start | Joint::Gap(_) => front.first,
                };
                if from <= at { Coverage::Held } else { Coverage::Missing }
            }
            (Some(_), None) => Coverage::Missing,
        }
    }

    /// Puts two halves in the place of the first batch that waits to be stored. Returns false if it has one item, or is
    /// on its way.
    pub(crate) fn halve_front(&mut self) -> bool {
        if self.sent > self.passed {
            return false;
        }
        let Some(front) = self.ring.get_mut(self.passed) else { return false };
        let Some((first, second)) = front.halves() else { return false };
        self.held_bytes = self.held_bytes.saturating_sub(front.held_bytes());
        self.held_bytes += first.held_bytes() + second.held_bytes();
        *front = second;
        self.ring.insert(self.passed, first);
        true
    }

    /// The next batch to send, the position before it and its gap. `None` while refused replies are awaited. If
    /// something may be missing before the batch, it is returned only if `force`.
    pub(crate) fn send(&mut self, force: bool, now_unix_ms: u64) -> Option<(Prev, Option<&Gap>, &Batch)> {
        if self.refused > 0 {
            return None;
        }
        let prev = if self.sent == self.passed {
            self.forced = None;
            match self.coverage(None) {
                Coverage::Held => match self.ring.get(self.sent)?.joint {
                    Joint::Follows(before) => Prev::Item(before),
                    Joint::Start | Joint::Gap(_) => Prev::before(self.ring.get(self.sent)?.first),
                },
                Coverage::Fresh if force => Prev::Nothing,
                Coverage::Missing if force && !self.undated => {
                    self.forced = Some(self.missing(now_unix_ms));
                    self.checkpoint().map_or(Prev::Nothing, Prev::Item)
                }
                _ => return None,
            }
        } else {
            let last = self.ring.get(self.sent - 1)?.last;
            match self.ring.get(self.sent)?.joint {
                Joint::Follows(before) if before == last => Prev::Item(before),
                _ => return None,
            }
        };
        let gap = if self.sent == self.passed { self.forced.as_ref() } else { None };
        let batch = self.ring.get(self.sent)?;
        self.sent += 1;
        Some((prev, gap, batch))
    }

    /// The connection ended: sent batches will not be answered.
    pub(crate) fn on_disconnected(&mut self) {
        self.sent = self.passed;
        self.refused = 0;
    }

    /// Takes all batches out, for another chain to append.
    pub(crate) fn take_batches(&mut self) -> VecDeque<Batch> {
        std::mem::take(self).ring
    }

    /// Removes the items at or after `border`; the other route assigns their positions. Returns their number of
    /// messages, and the gap before the first of them, which is before the border too. If `taken`, sent items are
    /// removed as well: both routes write the same state, and the successor learns from it which were stored.
    pub(crate) fn cut(&mut self, border: Position, taken: bool) -> (u64, Option<Gap>) {
        let (mut events, mut gap) = (0, None);
        while (taken || self.ring.len() > self.sent)
            && self.ring.back().is_some_and(|batch| batch.first >= border)
            && let Some(batch) = self.ring.pop_back()
        {
            if self.ring.len() < self.passed {
                self.kept_bytes = self.kept_bytes.saturating_sub(batch.held_bytes());
                self.passed = self.ring.len();
            } else {
                self.held_bytes = self.held_bytes.saturating_sub(batch.held_bytes());
                events += batch.events;
            }
            self.sent = self.sent.min(self.ring.len());
            self.last = match &batch.joint {
                Joint::Follows(before) => Some(*before),
                _ => self.ring.back().map(|batch| batch.last),
            };
            gap = match batch.joint {
                Joint::Gap(gap) => Some(gap),
                Joint::Follows(_) | Joint::Start => None,
            };
        }
        if self.ring.back().is_none_or(|batch| batch.first < border) {
            // The last item behind the border may be stored and released: the other route yields it again.
            self.last = self.last.filter(|last| *last < border);
        }
        (events, gap)
    }

    /// Gives up everything that waits: another configuration's instance stores it. Returns how many
    /// messages that were.
    pub(crate) fn clear(&mut self) -> u64 {
        let events = self.held_events() + self.unrecorded_events();
        // Replies to the batches on their way still come; they do not belong to later batches.
        let refused = self.awaited();
        let Self { checkpoint, begun, since_unix_ms, recovered_unix_ms, last, .. } = *self;
        let (counted, numbering) = (self.counted.take(), std::mem::take(&mut self.numbering));
        *self = Self {
            checkpoint,
            counted,
            numbering,
            begun,
            since_unix_ms,
            recovered_unix_ms,
            last,
            refused,
            ..Self::default()
        };
        events
    }

    /// Releases the durably stored batches: everything up to `position`.
    pub(crate) fn retire(&mut self, position: Option<Position>) {
        while self.passed > 0 && self.ring.front().is_some_and(|batch| Some(batch.last) <= position) {
            self.release_front();
        }
    }

    /// Releases batches stored for longer than `age` before the destination's last answer, and the oldest of more than
    /// `bytes`.
    pub(crate) fn retire_old(&mut self, (now, answered): (Instant, Instant), age: Duration, bytes: usize) {
        let is_due = |(at, position): &(Instant, Option<Position>)| {
            *position != self.checkpoint() && now.saturating_duration_since(*at) >= age / 4
        };
        if self.marks.back().is_none_or(is_due) {
            self.marks.push_back((now, self.checkpoint()));
        }
        while let Some((at, position)) = self.marks.front().copied()
            && answered.saturating_duration_since(at) >= age
        {
            self.marks.pop_front();
            // It may have gone back since.
            self.retire(position.min(self.checkpoint()));
        }
        while self.passed > 0 && self.kept_bytes > bytes {
            self.release_front();
        }
    }

    fn release_front(&mut self) {
        if let Some(batch) = self.ring.pop_front() {
            self.kept_bytes = self.kept_bytes.saturating_sub(batch.held_bytes());
            self.left = self.left.max(Some(batch.last));
            self.passed -= 1;
            self.sent -= 1;
        }
    }
}
