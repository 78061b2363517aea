//! What to send, and what a reply means: the decisions of a capture, without any I/O.
//!
//! The chain holds every batch that is not known to be stored, in order. Each is sent with the
//! position before it, so that the script can tell whether it continues what is stored:
//!
//! ```text
//!   acked        ring[0]         ring[1]         ring[2]        builder
//!  ──────●───────────────●───────────────●───────────────●───────────…
//!        └ prev of [0]   └ prev of [1]   └ prev of [2]
//!                └──────── in flight ────┘
//! ```
//!
//! A reply that is not "stored" or "duplicate" means that everything in flight behind it was refused
//! as well (its `prev` was not reached), so the chain first lets those replies come, and then sends
//! again from the first batch that is not known to be stored. What was stored meanwhile is found by
//! the script: sending twice is harmless.
//!
//! Invariants, exceptions included:
//! - batches ascend; between two neighbours nothing is missing unless the later one's joint is a gap;
//! - `in_flight <= ring.len()`; what is in flight is the front of the ring;
//! - `acked` is `None` only before the first read of the state, and while the state is empty.

use std::collections::VecDeque;

use crate::event::{DropReason, GapCause};
use crate::position::Position;
use crate::server::Error;

use super::append::{Outcome, Stored};
use super::batch::{Batch, Gap, Joint};

/// What the owner of the chain is to do after a reply.
#[derive(Debug)]
pub(crate) enum Step {
    /// The front is stored: count it and go on.
    Stored { batch: Batch, stored: Stored },
    /// The front was already there: count it and go on.
    Duplicate { batch: Batch },
    /// The front lies in a history that the state has left: count it as dropped and go on.
    Dropped { batch: Batch },
    /// The state is not where it was thought to be: send again, from where the chain now stands.
    Again,
    /// Nothing can be stored for now; send again after a wait that the error's class tells.
    Wait(Error, Option<Stored>),
    /// A newer configuration writes: stand by.
    Superseded(String),
    /// The reply belonged to a batch behind a refused one.
    Ignored,
}

/// The batches that are not known to be stored.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    ring: VecDeque<Batch>,
    in_flight: usize,
    /// Replies still to come for batches that were sent behind a refused one.
    refused: usize,
    acked: Option<Position>,
    /// Whether the state has been read once.
    read: bool,
    /// Found before there was a batch to carry it.
    gap: Option<Gap>,
    held_bytes: usize,
    held_events: u64,
}

impl Chain {
    /// Where the state stands, as far as is known.
    pub(crate) fn acked(&self) -> Option<Position> {
        self.acked
    }

    /// Bytes of all batches.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Messages in all batches.
    pub(crate) fn held_events(&self) -> u64 {
        self.held_events
    }

    /// Nothing waits to be stored.
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Replies that are awaited.
    pub(crate) fn awaited(&self) -> usize {
        self.in_flight + self.refused
    }

    /// Whether a batch waits to be sent.
    pub(crate) fn has_unsent(&self) -> bool {
        self.ring.len() > self.in_flight
    }

    /// Adds a batch at the end.
    pub(crate) fn push(&mut self, mut batch: Batch) {
        debug_assert!(self.ring.back().is_none_or(|last| last.last < batch.first), "batches ascend");
        self.held_bytes += batch.held_bytes();
        self.held_events += batch.events;
        if self.read {
            self.settle(&mut batch);
        }
        self.ring.push_back(batch);
    }

    /// The next batch to send and the position before it. Nothing while refused replies are awaited.
    pub(crate) fn send(&mut self) -> Option<(Option<Position>, &Batch)> {
        if self.refused > 0 {
            return None;
        }
        let prev = match self.in_flight.checked_sub(1) {
            None => self.acked,
            Some(before) => Some(self.ring.get(before)?.last),
        };
        let batch = self.ring.get(self.in_flight)?;
        self.in_flight += 1;
        Some((prev, batch))
    }

    /// Says that what was sent will not be answered: the connection ended.
    pub(crate) fn disconnected(&mut self) {
        self.in_flight = 0;
        self.refused = 0;
    }

    /// Says where the state stands, after a connect or a refusal. `since_unix_ms` is when it was last
    /// written, for the record of a restart's gap.
    pub(crate) fn found(&mut self, position: Option<Position>, since_unix_ms: Option<u64>, now_unix_ms: u64) {
        if !self.read {
            self.read = true;
            self.acked = position;
            self.gap = position.map(|_| Gap {
                cause: GapCause::Restart,
                detail: "tidegate was not running".to_owned(),
                started_unix_ms: since_unix_ms.unwrap_or(now_unix_ms),
                ended_unix_ms: now_unix_ms,
                dropped: 0,
                reason: DropReason::Stale,
            });
        } else if position < self.acked {
            let (cause, detail) = match position {
                None => (GapCause::StateLost, "the route's state was gone from the destination".to_owned()),
                Some(position) => (
                    GapCause::DestinationWentBack,
                    format!("the destination went back to {position}, what was stored after that is lost"),
                ),
            };
            self.acked = position;
            self.gap = Some(Gap {
                cause,
                detail,
                started_unix_ms: since_unix_ms.unwrap_or(now_unix_ms),
                ended_unix_ms: now_unix_ms,
                dropped: 0,
                reason: DropReason::Stale,
            });
        }
        self.settle_front();
        // Further on than thought: the script answers DUPLICATE, or skips what is there. Only a gap is
        // measured from exactly where the state stands.
        if let Some(front) = self.ring.front()
            && matches!(front.joint, Joint::Gap(_))
            && position > self.acked
            && position < Some(front.first)
        {
            self.acked = position;
        }
    }

    /// Takes over from the route that ran before a reload: everything before the first window is stored
    /// up to `position`, and nothing lies between but, where there is one, the gap.
    pub(crate) fn inherit(&mut self, position: Option<Position>, gap: Option<Gap>) {
        self.read = true;
        self.acked = position;
        self.gap = gap;
    }

    /// Takes off the end what stands at or after `position`, where another route numbers it. Returns how
    /// many messages that were, and the gap before the first of them: it lies before `position` too.
    pub(crate) fn cut(&mut self, position: Position) -> (u64, Option<Gap>) {
        let mut events = 0;
        let mut gap = None;
        while self.ring.back().is_some_and(|batch| batch.first >= position) && self.has_unsent() {
            if let Some(batch) = self.ring.pop_back() {
                self.released(&batch);
                events += batch.events;
                gap = match batch.joint {
                    Joint::Gap(gap) => Some(gap),
                    Joint::Follows | Joint::Start(_) => None,
                };
            }
        }
        (events, gap)
    }

    /// Notes that something may be missing before the next batch.
    pub(crate) fn owe(&mut self, gap: Gap) {
        self.gap = Some(match self.gap.take() {
            Some(graver) => graver.with(gap),
            None => gap,
        });
    }

    /// What may be missing before the next batch, and is in no batch yet.
    pub(crate) fn take_owed(&mut self) -> Option<Gap> {
        self.gap.take()
    }

    /// The first item of the next batch to send.
    pub(crate) fn next_first(&self) -> Option<Position> {
        self.ring.get(self.in_flight).map(|batch| batch.first)
    }

    /// Whether the state has been read once, so that [`Self::acked`] is more than an assumption.
    pub(crate) fn was_read(&self) -> bool {
        self.read
    }

    /// Gives up everything: another instance stores it.
    pub(crate) fn clear(&mut self) {
        *self = Self { acked: self.acked, read: self.read, ..Self::default() };
    }

    /// Whether the state, read for the first time, stands in a later epoch than what is held: then what
    /// is held was numbered from an epoch that has gone back.
    pub(crate) fn comes_after(&self, position: Option<Position>) -> bool {
        let held = self.ring.front().map(|batch| batch.first);
        !self.read && held.is_some() && position.map(|p| p.epoch.number) >= held.map(|p| p.epoch.number)
    }

    /// Takes in the reply to the oldest batch that is in flight.
    pub(crate) fn replied(&mut self, outcome: Result<Outcome, Error>, now_unix_ms: u64) -> Step {
        if self.refused > 0 {
            self.refused -= 1;
            return Step::Ignored;
        }
        match outcome {
            Ok(Outcome::Stored(stored)) => match self.pop() {
                Some(batch) => Step::Stored { batch, stored },
                None => Step::Ignored,
            },
            Ok(Outcome::Duplicate) => match self.pop() {
                Some(batch) => Step::Duplicate { batch },
                None => Step::Ignored,
            },
            Ok(Outcome::Stale(position)) => match self.pop() {
                Some(batch) => {
                    self.refuse(0);
                    // Not beyond the state, and not beyond what comes next: that may lie before it too.
                    self.acked = Some(position.min(batch.last));
                    let dropped = stale(&batch, position, now_unix_ms);
                    self.owe(match &batch.joint {
                        // A gap that was to be recorded with it still is.
                        Joint::Gap(own) => Gap { ended_unix_ms: now_unix_ms, ..dropped.with(own.clone()) },
                        Joint::Follows | Joint::Start(_) => dropped,
                    });
                    self.settle_front();
                    Step::Dropped { batch }
                }
                None => Step::Ignored,
            },
            Ok(Outcome::Behind(position)) => {
                self.refuse(1);
                self.found(position, None, now_unix_ms);
                Step::Again
            }
            Ok(Outcome::Stopped(stored, error)) => {
                self.refuse(1);
                Step::Wait(Error::Reply(error), Some(stored))
            }
            Ok(Outcome::Superseded(by)) => {
                self.refuse(1);
                Step::Superseded(by)
            }
            Err(error) => {
                self.refuse(1);
                Step::Wait(error, None)
            }
        }
    }

    /// What is in flight behind the front will be refused as well; `answered` replies of it have come.
    fn refuse(&mut self, answered: usize) {
        self.refused = self.in_flight.saturating_sub(answered);
        self.in_flight = 0;
    }

    fn pop(&mut self) -> Option<Batch> {
        let batch = self.ring.pop_front()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.acked = Some(batch.last);
        self.released(&batch);
        Some(batch)
    }

    fn released(&mut self, batch: &Batch) {
        self.held_bytes = self.held_bytes.saturating_sub(batch.held_bytes());
        self.held_events = self.held_events.saturating_sub(batch.events);
    }

    fn settle_front(&mut self) {
        if let Some(mut front) = self.ring.pop_front() {
            self.settle(&mut front);
            self.ring.push_front(front);
        }
    }

    /// Gives the first batch that can carry it what is known of the stretch before it.
    fn settle(&mut self, batch: &mut Batch) {
        let joint = match (std::mem::replace(&mut batch.joint, Joint::Follows), self.gap.take()) {
            // A clean start: nothing was stored before, so nothing is missing.
            (Joint::Start(_) | Joint::Follows, None) => Joint::Follows,
            (Joint::Start(opened), Some(found)) => Joint::Gap(Gap { ended_unix_ms: opened, ..found }),
            (Joint::Follows, Some(found)) => Joint::Gap(found),
            (Joint::Gap(own), None) => Joint::Gap(own),
            // Two reasons for one stretch: the state's is the graver one.
            (Joint::Gap(own), Some(found)) => Joint::Gap(found.with(own)),
        };
        batch.joint = joint;
    }
}

fn stale(batch: &Batch, position: Position, now_unix_ms: u64) -> Gap {
    Gap {
        cause: GapCause::Stale,
        detail: format!("another writer had moved on to {position}, past {}", batch.last),
        started_unix_ms: batch.opened_unix_ms(now_unix_ms),
        ended_unix_ms: now_unix_ms,
        dropped: batch.events,
        reason: DropReason::Stale,
    }
}

#[cfg(test)]
mod tests;
