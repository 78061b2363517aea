//! The batches that are not stored yet, in the source's order, and where appending goes on.
//!
//! ```text
//!          checkpoint
//!  ───────────●───────────────●───────────────●───────────────●───────────…
//!   kept      │ ring[passed]  │               │ ring[sent]    │     builder
//!             └──────── in flight ────────────┘
//! ```
//!
//! Batches left of the checkpoint are stored and kept until they are stored *durably*. Each batch is sent with the
//! position before it, so that the script can tell whether it continues what is stored. The checkpoint may move
//! without us (another instance appends the same messages, in batches with other borders) and may go back (a
//! failover that lost acknowledged writes). In both cases the chain finds the batch behind the checkpoint and goes on
//! there. The script skips what is stored already, so sending twice is harmless.
//!
//! Where the batch behind the checkpoint is missing, messages may be lost. Then the first batch of the ring is sent
//! with the gap before it, measured from exactly where the state stands. A loss that the checkpoint has passed becomes
//! a [`Note`].
//!
//! A state that another *numbering* wrote (a configuration with other channels) can be compared at anchors only: see
//! [`Chain::is_foreign`].
//!
//! A reply other than "stored" or "duplicate" means that every batch behind it was refused as well. The chain lets
//! those replies come, and then sends again.
//!
//! Invariants, exceptions included:
//! - batches ascend; nothing is missing between two neighbours unless the later one opens a window or a hole;
//! - `passed <= sent <= ring.len()`; the last item of `ring[..passed]` was at or before the checkpoint;
//! - only the first batch in flight may open a window or follow a hole: the others follow the batch before them;
//! - a gap that is owed is cleared by its own record only.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::capture::append::{Outcome, Stored};
use crate::event::GapCause;
use crate::position::{Epoch, Position};
use crate::server::Error;

use super::batch::Batch;
use super::gap::{Gap, Joint, Note};

/// Anchors of the open window that are remembered. Each is a reconnect or a change somewhere.
const EPOCHS: usize = 1024;
/// Notes that wait at most. More are merged into the last one.
const NOTES: usize = 64;

/// What follows from a reply.
#[derive(Debug)]
pub(crate) enum Step {
    /// A batch is stored. The gap before it is recorded.
    Stored { counts: Counts, stored: Stored, gap: Option<Gap> },
    /// A batch was stored already, but for `lost` messages that lie in a recorded gap.
    Duplicate { counts: Counts, lost: u64, gap: Option<Gap> },
    /// A batch lies in a history that the state has left. It is given up, and a note is owed.
    Stale,
    /// The state stands elsewhere: the batches are sent again from there. `rewound` messages that were stored wait again.
    Again { rewound: u64 },
    /// Nothing can be stored for now. The class of the error tells how long.
    Wait(Error, Option<Stored>),
    /// A newer configuration writes from here on.
    Superseded,
    /// The reply belonged to a batch behind a refused one.
    Ignored,
}

/// What is known of a batch that was dealt with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    /// Messages in it.
    pub(crate) events: u64,
    /// Messages that its gap gives up.
    pub(crate) lost_before: u64,
    /// When its first item was read.
    pub(crate) opened: Instant,
    /// Its first item.
    pub(crate) first: Position,
    /// Its last item.
    pub(crate) last: Position,
}

impl Counts {
    fn of(batch: &Batch) -> Self {
        Self {
            events: batch.events,
            lost_before: batch.joint.lost(),
            opened: batch.opened.at,
            first: batch.first,
            last: batch.last,
        }
    }
}

/// Where the state stands, as the chain needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) position: Option<Position>,
    /// The epochs that the state has passed.
    pub(crate) epochs: &'a [Epoch],
    /// The gaps that were recorded last: an item inside one is not stored.
    pub(crate) holes: &'a [Hole],
    /// When the state was last written; milliseconds since 1970.
    pub(crate) at_unix_ms: Option<u64>,
    /// The numbering of the position; empty where that is not known.
    pub(crate) numbering: &'a str,
}

/// A recorded gap: behind `from` and before `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) from: Option<Position>,
    pub(crate) to: Position,
}

/// What comes before a batch, as the script is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prev {
    /// Nothing was ever stored.
    Nothing,
    /// This item.
    Item(Position),
    /// What came before this window is not in the batch; the state stands inside the window.
    Window(Epoch),
}

impl Prev {
    /// What comes before the first item of a window. Only a tap's has an ordinal: its windows begin in the
    /// middle of a history, and a state that stands before that has missed something.
    fn before(first: Position) -> Self {
        match first.ordinal.checked_sub(1) {
            None => Self::Window(first.epoch),
            Some(ordinal) => Self::Item(first.epoch.at(ordinal)),
        }
    }
}

/// Whether this instance holds what follows the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// It is.
    Held,
    /// Nothing waits here, and the checkpoint lies in the open window: what follows will come through it.
    Watching,
    /// Nothing was ever stored, so nothing is missing before the first window.
    Fresh,
    /// Something may be missing before what waits here.
    Missing,
    /// Nothing waits here that could follow, or the state has not been read.
    Unknown,
}

impl Coverage {
    /// Whether this instance could go on without a gap.
    pub(crate) fn is_eligible(self) -> bool {
        matches!(self, Self::Held | Self::Watching)
    }
}

/// What became of batches without an append of this instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Stored by another instance.
    pub(crate) deduplicated: u64,
    /// Waiting again: the state went back.
    pub(crate) rewound: u64,
}

/// The batches.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    ring: VecDeque<Batch>,
    /// Of the ring, those that the checkpoint has passed.
    passed: usize,
    /// Of the ring, those that it has passed or that are in flight.
    sent: usize,
    /// Replies still to come for batches that were sent behind a refused one.
    refused: usize,
    /// Where the state stands; `None` before it was read.
    checkpoint: Option<Option<Position>>,
    /// The numbering of the checkpoint, and of what this route reads; empty where that is not known.
    numbering: String,
    own_numbering: String,
    /// Whether the state ever stood anywhere, as far as this process knows.
    begun: bool,
    /// When the state was last written before it was first read; milliseconds since 1970.
    since_unix_ms: Option<u64>,
    /// When the state was last written, as far as is known; milliseconds since 1970.
    written_unix_ms: Option<u64>,
    /// Why the state may stand before the whole ring.
    went_back: Option<Gap>,
    /// Losses that the next recorded gap will carry.
    owed: Option<Gap>,
    /// Losses that the checkpoint has passed, oldest first.
    notes: VecDeque<Note>,
    /// The gap that the first batch in flight carries.
    forced: Option<Gap>,
    /// The last item that was given.
    last: Option<Position>,
    /// The anchors of the last window that was given.
    epochs: VecDeque<Epoch>,
    held_bytes: usize,
    kept_bytes: usize,
    /// Where the state stood, and when: what tells how long something has been stored.
    marks: VecDeque<(Instant, Option<Position>)>,
}

impl Chain {
    /// An empty chain for batches of a numbering.
    pub(crate) fn new(numbering: &str) -> Self {
        Self { own_numbering: numbering.to_owned(), ..Self::default() }
    }

    /// Takes over the batches of a route with another configuration.
    pub(crate) fn inherit(&mut self, other: Self) {
        let own_numbering = std::mem::take(&mut self.own_numbering);
        *self = Self { own_numbering, ..other };
    }

    /// Whether another numbering than that of the next batch wrote the state, at a place that cannot be compared: its
    /// ordinal counts other messages. Anchors are the same in every numbering.
    pub(crate) fn is_foreign(&self) -> bool {
        let Some(at) = self.checkpoint().filter(|at| at.ordinal > 0) else { return false };
        let front = self.ring.get(self.passed);
        if front.is_some_and(|front| front.joint == Joint::Follows(at)) {
            return false;
        }
        let next = front.map_or(&self.own_numbering, |front| &front.options.numbering);
        !next.is_empty() && !self.numbering.is_empty() && *next != self.numbering
    }

    /// Where the state stands, as far as is known.
    pub(crate) fn checkpoint(&self) -> Option<Position> {
        self.checkpoint.flatten()
    }

    /// Bytes of what waits to be stored.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes of what is stored and kept until it is stored durably.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Messages that wait to be stored, counted where they are.
    pub(crate) fn held_events(&self) -> u64 {
        self.ring.iter().skip(self.passed).map(|batch| batch.events).sum()
    }

    /// Of these, those that are in flight.
    pub(crate) fn sent_events(&self) -> u64 {
        self.ring.range(self.passed..self.sent).map(|batch| batch.events).sum()
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

    /// Received messages that are lost and not recorded yet.
    pub(crate) fn owed_events(&self) -> u64 {
        let waiting: u64 = self.ring.iter().skip(self.passed).map(|batch| batch.joint.lost()).sum();
        let notes: u64 = self.notes.iter().map(|note| note.gap.dropped).sum();
        waiting + notes + self.owed.as_ref().map_or(0, |gap| gap.dropped)
    }

    /// When the oldest loss began that is not recorded yet; milliseconds since 1970.
    pub(crate) fn owes_since_unix_ms(&self) -> Option<u64> {
        let holes = self.ring.iter().skip(self.passed).filter_map(|batch| match &batch.joint {
            Joint::Gap(gap) => Some(gap.started_unix_ms),
            Joint::Follows(_) | Joint::Start => None,
        });
        let notes = self.notes.iter().map(|note| note.gap.started_unix_ms);
        holes.chain(notes).chain(self.owed.iter().map(|gap| gap.started_unix_ms)).min()
    }

    /// Since when something waits to be stored.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.ring.get(self.passed).map(|batch| batch.opened.at)
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

    /// Whether the state has been read once, so that [`Self::checkpoint`] is more than an assumption.
    pub(crate) fn was_read(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Whether the state stood somewhere and is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.begun && self.checkpoint == Some(None)
    }

    /// The batches that wait to be stored and end after `position`.
    pub(crate) fn waiting_after(&self, position: Option<Position>) -> impl Iterator<Item = &Batch> {
        self.ring.iter().skip(self.passed).filter(move |batch| Some(batch.last) > position)
    }

    /// When the state was last written before this process read it; milliseconds since 1970.
    pub(crate) fn since_unix_ms(&self) -> Option<u64> {
        self.since_unix_ms
    }

    /// Marks an item as the direct predecessor of the next batch.
    pub(crate) fn resume(&mut self, position: Position) {
        if self.epochs.back() != Some(&position.epoch) {
            self.epochs.push_back(position.epoch);
        }
        self.last = Some(position);
    }

    /// Forgets what was given: what comes next may stand before it.
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

    /// Whether this instance holds what follows the checkpoint. `open` is the anchor of the open window.
    pub(crate) fn coverage(&self, open: Option<Position>) -> Coverage {
        let Some(checkpoint) = self.checkpoint else { return Coverage::Unknown };
        match (self.ring.get(self.passed), checkpoint) {
            (None, Some(at))
                if !self.is_foreign()
                    && open.is_some_and(|anchor| anchor <= at)
                    && self.epochs.contains(&at.epoch) =>
            {
                Coverage::Watching
            }
            (None, _) => Coverage::Unknown,
            (Some(front), None) if !self.begun && front.joint == Joint::Start => Coverage::Fresh,
            (Some(front), Some(at)) if !self.is_foreign() => {
                let from = match front.joint {
                    Joint::Follows(before) => before,
                    Joint::Start | Joint::Gap(_) => front.first,
                };
                if from <= at { Coverage::Held } else { Coverage::Missing }
            }
            (Some(_), _) => Coverage::Missing,
        }
    }

    /// The next batch to send, what comes before it and the gap that it carries. Nothing while refused
    /// replies are awaited. Where something may be missing before it, only if `force`.
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
                Coverage::Missing if force => {
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

    /// The gap between the checkpoint and the first batch that waits.
    fn missing(&self, now_unix_ms: u64) -> Gap {
        let at = self.checkpoint();
        let front = self.ring.get(self.passed);
        let begins = front.map_or(now_unix_ms, |front| front.opened.unix_ms);
        let own = front.and_then(|front| match &front.joint {
            Joint::Gap(gap) => Some(gap.clone()),
            Joint::Start if at.is_some() && self.went_back.is_none() && self.owed.is_none() => {
                let since = self.since_unix_ms.unwrap_or(now_unix_ms);
                Some(Gap::begins(GapCause::Restart, "tidegate was not running", since).until(begins))
            }
            _ => None,
        });
        // The state's own reason is the gravest, and a loss of this process the least.
        let known = self.went_back.clone().into_iter().chain(own).chain(self.owed.clone());
        let gap = known.reduce(Gap::with).unwrap_or_else(|| went_back(at, self.since_unix_ms, now_unix_ms));
        let ended = gap.ended_unix_ms;
        gap.until(ended)
    }

    /// Says that what was sent will not be answered: the connection ended.
    pub(crate) fn disconnected(&mut self) {
        self.sent = self.passed;
        self.refused = 0;
    }

    /// Takes in where the state stands. While replies are awaited this is left to them.
    pub(crate) fn found(&mut self, found: Found<'_>, now_unix_ms: u64) -> Passed {
        if self.awaited() > 0 {
            return Passed::default();
        }
        if !self.was_read() {
            self.since_unix_ms = found.at_unix_ms;
        }
        self.written_unix_ms = found.at_unix_ms;
        let position = found.position;
        found.numbering.clone_into(&mut self.numbering);
        let mut passed = Passed { rewound: self.moved(position, now_unix_ms), ..Passed::default() };
        // Of an epoch in which another numbering wrote, only the anchor can be compared.
        while let Some(front) = self.ring.get(self.passed)
            && Some(front.last) <= position.map(|at| if self.is_foreign() { at.epoch.at(0) } else { at })
        {
            if found.epochs.contains(&front.last.epoch) {
                let holes = found.holes.iter();
                let lost: u64 = holes.map(|hole| front.events_between(hole.from, hole.to)).sum();
                let lost = lost.min(front.events);
                passed.deduplicated += front.events - lost;
                if let Some(counts) = self.pass() {
                    passed.deduplicated += counts.lost_before;
                    self.note_lost(&counts, lost, now_unix_ms);
                }
                self.settle_owed(now_unix_ms);
            } else {
                self.drop_front(position, now_unix_ms);
            }
        }
        passed
    }

    /// Owes the record of messages that another instance's gap has passed over.
    pub(crate) fn note_lost(&mut self, counts: &Counts, lost: u64, now_unix_ms: u64) {
        if lost > 0 {
            let detail = "another instance went on with a gap over messages that were received here";
            let gap = Gap::begins(GapCause::Stale, detail, now_unix_ms).until(now_unix_ms).dropping(lost);
            self.note(counts.first, counts.last, gap);
        }
    }

    /// The checkpoint has moved without a gap record: losses that were to travel with one become a note.
    fn settle_owed(&mut self, now_unix_ms: u64) {
        if let Some(at) = self.checkpoint()
            && let Some(gap) = self.owed.take_if(|gap| gap.dropped > 0)
        {
            self.note(at, at, gap.until(now_unix_ms));
        }
        self.owed = None;
    }

    /// Owes a record that no batch carries. A note of the same kind that was not sent yet takes it in.
    pub(crate) fn note(&mut self, from: Position, to: Position, gap: Gap) {
        // The first one may be in flight.
        if self.notes.len() > 1
            && let Some(last) = self.notes.back_mut()
            && (last.gap.cause == gap.cause || self.notes.len() >= NOTES)
        {
            (last.from, last.to) = (last.from.min(from), last.to.max(to));
            last.gap = last.gap.clone().with(gap);
            return;
        }
        self.notes.push_back(Note { id: fastrand::u64(..), from, to, gap });
    }

    /// The note that is to be recorded next.
    pub(crate) fn next_note(&self) -> Option<&Note> {
        self.notes.front()
    }

    /// A note is recorded.
    pub(crate) fn noted(&mut self, id: u64) -> Option<Note> {
        if self.notes.front().is_some_and(|note| note.id == id) { self.notes.pop_front() } else { None }
    }

    /// The state stands at `position`. Returns how many messages wait again.
    fn moved(&mut self, position: Option<Position>, now_unix_ms: u64) -> u64 {
        let before = self.checkpoint.replace(position).flatten();
        self.begun |= position.is_some();
        if position >= before {
            return 0;
        }
        self.went_back = Some(went_back(position, None, now_unix_ms));
        // A state that is gone says nothing of its streams: what was stored is not stored again.
        if position.is_none() {
            return 0;
        }
        let mut rewound = 0;
        while let Some(at) = self.passed.checked_sub(1)
            && let Some(batch) = self.ring.get(at)
            && Some(batch.last) > position
        {
            rewound += batch.events;
            self.held_bytes += batch.held_bytes();
            self.kept_bytes = self.kept_bytes.saturating_sub(batch.held_bytes());
            self.passed = at;
            self.sent = at;
        }
        rewound
    }

    /// Takes everything out, for another chain to take in behind what it has.
    pub(crate) fn take_batches(&mut self) -> VecDeque<Batch> {
        std::mem::take(self).ring
    }

    /// Owes a gap. The next record carries it.
    pub(crate) fn owe(&mut self, gap: Gap) {
        self.owed = Some(match self.owed.take() {
            Some(owed) => owed.with(gap),
            None => gap,
        });
    }

    /// Takes off the end what stands at or after `border`, where another route numbers it. Returns how
    /// many messages that were, and the gap before the first of them: it lies before the border too.
    pub(crate) fn cut(&mut self, border: Position) -> (u64, Option<Gap>) {
        let mut events = 0;
        let mut gap = None;
        while self.ring.len() > self.sent && self.ring.back().is_some_and(|batch| batch.first >= border) {
            if let Some(batch) = self.ring.pop_back() {
                self.held_bytes = self.held_bytes.saturating_sub(batch.held_bytes());
                events += batch.events;
                self.last = match &batch.joint {
                    Joint::Follows(before) => Some(*before),
                    _ => self.ring.back().map(|batch| batch.last),
                };
                gap = match batch.joint {
                    Joint::Gap(gap) => Some(gap),
                    Joint::Follows(_) | Joint::Start => None,
                };
            }
        }
        (events, gap)
    }

    /// Gives up everything that waits. Returns how many messages that were, and the losses among them that no
    /// record has: they are the caller's to record. Notes stay.
    pub(crate) fn clear(&mut self) -> (u64, u64) {
        let events = self.held_events();
        let notes = std::mem::take(&mut self.notes);
        let owed = self.owed_events();
        // Replies still come for what is in flight. They belong to no later batch.
        let refused = self.awaited();
        let (numbering, own_numbering) =
            (std::mem::take(&mut self.numbering), std::mem::take(&mut self.own_numbering));
        let Self { checkpoint, begun, since_unix_ms, written_unix_ms, last, .. } = *self;
        *self = Self {
            checkpoint,
            numbering,
            own_numbering,
            begun,
            since_unix_ms,
            written_unix_ms,
            last,
            refused,
            notes,
            ..Self::default()
        };
        (events, owed)
    }

    /// Gives up what was counted from the anchor in which another numbering wrote: its place among what is stored is
    /// not known. Returns how many messages that were; the next gap carries them.
    pub(crate) fn drop_foreign(&mut self, now_unix_ms: u64) -> u64 {
        let Some(at) = self.checkpoint().filter(|_| self.is_foreign() && self.awaited() == 0) else { return 0 };
        let mut dropped = 0;
        while self.ring.get(self.passed).is_some_and(|front| front.first.epoch <= at.epoch)
            && let Some(batch) = self.ring.remove(self.passed)
        {
            self.held_bytes = self.held_bytes.saturating_sub(batch.held_bytes());
            dropped += batch.events + batch.joint.lost();
        }
        let since = self.written_unix_ms.unwrap_or(now_unix_ms);
        if dropped > 0 || self.owed.is_none() {
            let detail = "an instance with other channels wrote last and has ended; how far it came is not known";
            self.owe(Gap::begins(GapCause::Rollout, detail, since).until(now_unix_ms).dropping(dropped));
        }
        dropped
    }

    /// Whether the state stands in an epoch that is not before those of the open window and is none of
    /// them: then the window was numbered from an epoch that has gone back.
    pub(crate) fn is_behind(&self) -> bool {
        let newest = self.epochs.back().map(|epoch| epoch.number);
        self.checkpoint().is_some_and(|at| {
            newest.is_some_and(|newest| newest <= at.epoch.number) && !self.epochs.contains(&at.epoch)
        })
    }

    /// Takes in the reply to the oldest batch in flight.
    pub(crate) fn replied(&mut self, outcome: Result<Outcome, Error>, now_unix_ms: u64) -> Step {
        if self.refused > 0 {
            self.refused -= 1;
            return Step::Ignored;
        }
        match outcome {
            Ok(Outcome::Stored(stored)) => match self.pass() {
                Some(counts) => {
                    self.advance(stored.position);
                    self.wrote_numbering();
                    self.went_back = None;
                    let gap = self.forced.take();
                    if gap.is_some() {
                        self.owed = None;
                    } else {
                        self.settle_owed(now_unix_ms);
                    }
                    self.note_lost(&counts, stored.lost, now_unix_ms);
                    Step::Stored { counts, stored, gap }
                }
                None => Step::Ignored,
            },
            Ok(Outcome::Duplicate(position, lost)) => match self.pass() {
                Some(counts) => {
                    self.advance(Some(position));
                    // This very batch, sent before and stored with its gap, or another instance's.
                    let gap = self.forced.take();
                    if gap.is_some() {
                        self.owed = None;
                    } else {
                        self.settle_owed(now_unix_ms);
                    }
                    let lost = lost.min(counts.events);
                    self.note_lost(&counts, lost, now_unix_ms);
                    Step::Duplicate { counts, lost, gap }
                }
                None => Step::Ignored,
            },
            Ok(Outcome::Stale(position)) => {
                self.refuse();
                self.moved(Some(position), now_unix_ms);
                self.drop_front(Some(position), now_unix_ms);
                Step::Stale
            }
            Ok(Outcome::Behind(position)) => {
                self.refuse();
                Step::Again { rewound: self.moved(position, now_unix_ms) }
            }
            Ok(Outcome::Stopped(stored, error)) => {
                self.refuse();
                if stored.position.is_some() {
                    self.advance(stored.position);
                }
                Step::Wait(Error::Reply(error), Some(stored))
            }
            Ok(Outcome::Superseded) => {
                self.refuse();
                Step::Superseded
            }
            Err(error) => {
                self.refuse();
                Step::Wait(error, None)
            }
        }
    }

    /// The batch that was passed last has brought its numbering into the state.
    fn wrote_numbering(&mut self) {
        if let Some(batch) = self.passed.checked_sub(1).and_then(|at| self.ring.get(at))
            && self.numbering != batch.options.numbering
        {
            batch.options.numbering.clone_into(&mut self.numbering);
        }
    }

    /// The state has come to `position` by what was sent, or further.
    fn advance(&mut self, position: Option<Position>) {
        self.begun = true;
        self.checkpoint = Some(self.checkpoint.flatten().max(position));
    }

    /// The batches in flight behind the oldest will be refused as well.
    fn refuse(&mut self) {
        self.refused = (self.sent - self.passed).saturating_sub(1);
        self.sent = self.passed;
        self.forced = None;
    }

    /// The oldest batch that waits is stored: it is kept until that is durable.
    fn pass(&mut self) -> Option<Counts> {
        let batch = self.ring.get(self.passed)?;

        let bytes = batch.held_bytes();
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.kept_bytes += bytes;
        self.passed += 1;
        self.sent = self.sent.max(self.passed);
        Some(Counts::of(batch))
    }

    /// Gives up the oldest batch that waits. A note records it.
    fn drop_front(&mut self, position: Option<Position>, now_unix_ms: u64) {
        let Some(batch) = self.ring.remove(self.passed) else { return };
        self.held_bytes = self.held_bytes.saturating_sub(batch.held_bytes());
        let place = position.map_or_else(|| "nothing".to_owned(), |at| at.to_string());
        let detail = format!("another writer had moved on to {place}, past {}", batch.last);
        let mut gap = Gap::begins(GapCause::Stale, detail, batch.opened.unix_ms)
            .until(now_unix_ms)
            .dropping(batch.events);
        if let Joint::Gap(own) = batch.joint {
            gap = gap.with(own);
        }
        self.note(batch.first, batch.last, gap);
    }

    /// Lets go what is stored durably: everything up to `position`.
    pub(crate) fn retire(&mut self, position: Option<Position>) {
        while self.passed > 0 && self.ring.front().is_some_and(|batch| Some(batch.last) <= position) {
            self.release_front();
        }
    }

    /// Lets go what has been stored for longer than `age`, and the oldest of what is more than `bytes`.
    pub(crate) fn retire_old(&mut self, now: Instant, age: Duration, bytes: usize) {
        if self.marks.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= age / 4) {
            self.marks.push_back((now, self.checkpoint()));
        }
        while let Some((at, position)) = self.marks.front().copied()
            && now.saturating_duration_since(at) >= age
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
            self.passed -= 1;
            self.sent -= 1;
        }
    }
}

fn went_back(position: Option<Position>, since_unix_ms: Option<u64>, now_unix_ms: u64) -> Gap {
    let (cause, detail) = match position {
        None => (GapCause::StateLost, "the route's state was gone from the destination".to_owned()),
        Some(position) => (
            GapCause::DestinationWentBack,
            format!("the destination went back to {position}, and what was stored after that is lost"),
        ),
    };
    Gap::begins(cause, detail, since_unix_ms.unwrap_or(now_unix_ms).min(now_unix_ms)).until(now_unix_ms)
}
