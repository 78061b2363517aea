//! The checkpoint, and its meaning for buffered batches: stored, stored by another instance, lost, buffered again.
//!
//! The checkpoint moves by this instance's batches, by another instance's, and back by a failover. Each time the chain
//! continues with the batch that holds what follows. Positions of a configuration that counts other messages compare
//! with the checkpoint at anchors only: until then the buffered ones are *foreign*.

use super::Chain;
use super::gap_before::went_back;
use crate::capture::append::call::{AppendOutcome, Stored};
use crate::capture::batch::Batch;
use crate::capture::batch::gap::{Gap, Joint};
use crate::capture::batch::passage::Passage;
use crate::event::GapCause;
use crate::position::{Epoch, Position};
use crate::server::Error;
use std::time::Instant;

/// The next step of the chain's owner after a reply.
#[derive(Debug)]
pub(crate) enum ReplyStep {
    /// A batch is stored: count it and continue. The gap before it is recorded.
    Stored { counts: PassedCounts, stored: Stored, gap: Option<Gap> },
    /// A batch was already there, or lost: count it and continue.
    Duplicate { counts: PassedCounts, gap: Option<Gap> },
    /// A batch lies in a history that the state has left: count it as dropped, and what a damaged spool lost before it,
    /// and continue.
    Dropped { events: u64, lost: u64 },
    /// The checkpoint is not where it was expected: send again, from its new place. This many events are buffered again
    /// that were stored before.
    Again { rewound: u64 },
    /// Nothing can be stored for now; send again after a wait by the error's class.
    Wait(Error, Option<Stored>),
    /// A newer configuration shall write what follows.
    Outdated,
    /// Another configuration has counted the checkpoint, which does not compare with the buffered items.
    Foreign,
    /// The reply belonged to a batch behind a refused one.
    Ignored,
}

/// Counts of a batch that was stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassedCounts {
    /// Messages in it.
    pub(crate) events: u64,
    /// Number of these that another writer has passed inside a recorded gap.
    pub(crate) lost: u64,
    /// Messages that are lost before it with a damaged spool.
    pub(crate) lost_before: u64,
    /// True if the gap before it was recorded already.
    pub(crate) recorded: bool,
    /// When its first item was read.
    pub(crate) opened: Instant,
    /// Its first item.
    pub(crate) first: Position,
}

impl PassedCounts {
    fn of(batch: &Batch) -> Self {
        Self {
            events: batch.events,
            lost: 0,
            lost_before: batch.joint.lost(),
            recorded: false,
            opened: batch.opened,
            first: batch.first,
        }
    }
}

/// Messages that others have stored or recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Stored by another instance.
    pub(crate) deduplicated: u64,
    /// In a history that the state has left, or inside a recorded gap.
    pub(crate) stale: u64,
    /// Lost with a damaged spool: recorded by another instance or by a call whose reply never came, or in a history that
    /// the state has left.
    pub(crate) corrupt: u64,
    /// Buffered again: the state went back.
    pub(crate) rewound: u64,
}

impl Chain {
    /// Returns whether the checkpoint is inside an epoch, with another numbering than `numbering`: then positions of
    /// that numbering inside that epoch do not compare with it.
    fn differs(&self, numbering: &[u8]) -> bool {
        self.counted.as_ref().is_some_and(|counted| counted.as_bytes() != numbering)
            && !numbering.is_empty()
            && self.checkpoint().is_some_and(|at| at.ordinal > 0)
    }

    /// Returns whether a batch does not compare with the checkpoint.
    fn is_foreign_to(&self, batch: &Batch) -> bool {
        self.differs(&batch.options.numbering)
            && self.checkpoint().is_some_and(|at| batch.epochs().any(|epoch| epoch == at.epoch))
    }

    /// Returns whether buffered items, or the next ones in the open window, do not compare with the checkpoint.
    pub(crate) fn is_foreign(&self) -> bool {
        match self.ring.get(self.passed) {
            Some(front) => self.is_foreign_to(front),
            None => {
                self.differs(self.numbering.as_bytes())
                    && self.checkpoint().is_some_and(|at| self.epochs.contains(&at.epoch))
            }
        }
    }

    /// Takes in the checkpoint, and the epochs that it has passed. To be called while no reply is awaited; otherwise
    /// the replies judge the items on their way.
    pub(crate) fn found(
        &mut self,
        position: Option<Position>,
        numbering: Option<&str>,
        passage: &Passage,
        since_unix_ms: Option<u64>,
        now_unix_ms: u64,
    ) -> Passed {
        if self.awaited() > 0 {
            return Passed::default();
        }
        // Another instance may have made the state since this one first looked.
        self.since_unix_ms = self.since_unix_ms.or(since_unix_ms);
        let rewound = self.on_checkpoint_moved(position, numbering, now_unix_ms);
        if let Some(gap) = &mut self.went_back {
            // Messages that the state has lost were published after its last write.
            gap.started_unix_ms = since_unix_ms.map_or(gap.started_unix_ms, |at| at.min(gap.started_unix_ms));
        }
        self.undated = false;
        let mut found = Passed { rewound, ..Passed::default() };
        while let Some(front) = self.ring.get(self.passed)
            && Some(front.last) <= position
            && !self.is_foreign_to(front)
        {
            if passage.went_through(front.last.epoch) {
                let lost = front.lost(passage);
                found.stale += lost;
                found.deduplicated += front.events - lost;
                if passage.has_gap_before(front.first, self.last_passed()) {
                    found.corrupt += front.joint.lost();
                } else {
                    // Another instance had the messages that were lost here.
                    found.deduplicated += front.joint.lost();
                }
                self.pass(passage);
            } else {
                let (events, lost) = self.drop_front(position, now_unix_ms);
                found.stale += events;
                found.corrupt += lost;
            }
        }
        found
    }

    /// Takes in the checkpoint. Returns how many events are buffered again.
    fn on_checkpoint_moved(
        &mut self,
        position: Option<Position>,
        numbering: Option<&str>,
        now_unix_ms: u64,
    ) -> u64 {
        let before = self.checkpoint.replace(position).flatten();
        let otherwise = numbering.is_some() && self.counted.is_some() && self.counted.as_deref() != numbering;
        self.counted = numbering.map(str::to_owned);
        self.begun |= position.is_some();
        let same_epoch = position.zip(before).is_some_and(|(now, before)| now.epoch == before.epoch);
        if position > before {
            // Somebody has stored what followed, or has recorded that it is missing.
            self.went_back = None;
        }
        if position >= before || (otherwise && same_epoch) {
            return 0;
        }
        self.left = self.left.min(position);
        let began = self.went_back.as_ref().map(|gap| gap.started_unix_ms.min(now_unix_ms));
        self.went_back = Some(went_back(position, began, now_unix_ms));
        self.undated = true;
        // Without a state, the content of the streams is unknown: stored items are not sent again.
        if position.is_none() {
            return 0;
        }
        let mut rewound = 0;
        while let Some(at) = self.passed.checked_sub(1)
            && let Some(batch) = self.ring.get(at)
            && Some(batch.last) > position
        {
            rewound += batch.events + batch.joint.lost();
            self.held_bytes += batch.held_bytes();
            self.kept_bytes = self.kept_bytes.saturating_sub(batch.held_bytes());
            self.passed = at;
            self.sent = at;
        }
        // The state has lost the record of a restart's gap among these batches. So the next gap starts where that one did.
        let before = self.ring.iter().take(self.passed).rev().find(|batch| !batch.is_loss());
        let before = before.or(self.ring.get(self.passed)).map(|batch| batch.complete_unix_ms);
        self.since_unix_ms = self.since_unix_ms.map(|since| before.map_or(since, |before| before.min(since)));
        rewound
    }

    /// Gives up items that do not compare with the checkpoint. Items after a later anchor are kept, behind a gap.
    /// Returns the number of messages given up.
    pub(crate) fn drop_foreign(&mut self, now_unix_ms: u64) -> u64 {
        let (mut events, mut began) = (0, now_unix_ms);
        while self.awaited() == 0
            && let Some(front) = self.ring.get(self.passed)
            && self.is_foreign_to(front)
            && let Some(batch) = self.ring.remove(self.passed)
        {
            self.held_bytes = self.held_bytes.saturating_sub(batch.held_bytes());
            events += batch.events;
            began = began.min(self.missing_since_unix_ms(&batch));
            if batch.joint.lost() > 0
                && let Joint::Gap(loss) = batch.joint
            {
                self.owe_lost(loss);
            }
        }
        let why = "the last writer had a configuration with other positions";
        let gap = Gap { dropped: events, ..Gap::begins(GapCause::Rollout, why, began) };
        let follows = self.ring.get(self.passed).is_some_and(|next| !next.joint.opens_window());
        if events > 0 || follows {
            self.owe(gap.clone());
        }
        if follows && let Some(next) = self.ring.get_mut(self.passed) {
            next.joint = Joint::Gap(Gap { dropped: 0, ..gap.until(next.opened_unix_ms) });
        }
        events
    }

    /// Returns whether the checkpoint's epoch is foreign to the open window and has at least its newest epoch's number.
    /// Then the source's counter of epochs has gone back before the window opened. `newest` is the epoch of the last item
    /// given to the chain, or about to be.
    pub(crate) fn is_behind(&self, newest: Option<Epoch>) -> bool {
        let newest = self.epochs.back().copied().into_iter().chain(newest).max_by_key(|epoch| epoch.number);
        self.checkpoint().zip(newest).is_some_and(|(at, newest)| {
            newest.number <= at.epoch.number && newest != at.epoch && !self.has_seen(at.epoch)
        })
    }

    /// Returns whether the open window has seen the anchor of this epoch.
    pub(crate) fn has_seen(&self, epoch: Epoch) -> bool {
        self.epochs.contains(&epoch)
    }

    /// Takes in the reply to the oldest batch that is on its way.
    pub(crate) fn on_reply(&mut self, outcome: Result<AppendOutcome, Error>, now_unix_ms: u64) -> ReplyStep {
        if self.refused > 0 {
            self.refused -= 1;
            return ReplyStep::Ignored;
        }
        match outcome {
            Ok(AppendOutcome::Stored(stored, passage)) => match self.pass(&passage.unwrap_or_default()) {
                Some(mut counts) => {
                    self.advance(stored.position);
                    self.count_as_passed();
                    self.went_back = None;
                    let gap = self.take_forced(&mut counts);
                    ReplyStep::Stored { counts, stored, gap }
                }
                None => ReplyStep::Ignored,
            },
            Ok(AppendOutcome::Duplicate(position, passage)) => match self.pass(&passage) {
                Some(mut counts) => {
                    // The state will report its numbering.
                    self.advance(Some(position));
                    self.counted = None;
                    let gap = self.take_forced(&mut counts);
                    ReplyStep::Duplicate { counts, gap }
                }
                None => ReplyStep::Ignored,
            },
            Ok(AppendOutcome::Stale(position)) => {
                self.refuse();
                self.on_checkpoint_moved(Some(position), None, now_unix_ms);
                let (events, lost) = self.drop_front(Some(position), now_unix_ms);
                ReplyStep::Dropped { events, lost }
            }
            Ok(AppendOutcome::Behind(position)) => {
                self.refuse();
                ReplyStep::Again { rewound: self.on_checkpoint_moved(position, None, now_unix_ms) }
            }
            Ok(AppendOutcome::Stopped(stored, error)) => {
                self.refuse();
                if stored.position.is_some() {
                    self.advance(stored.position);
                    self.counted = None;
                }
                ReplyStep::Wait(Error::Reply(error), Some(stored))
            }
            Ok(AppendOutcome::Foreign(position, numbering)) => {
                self.refuse();
                self.on_checkpoint_moved(Some(position), Some(&numbering), now_unix_ms);
                ReplyStep::Foreign
            }
            Ok(AppendOutcome::Outdated) => {
                self.refuse();
                ReplyStep::Outdated
            }
            Err(error) => {
                self.refuse();
                ReplyStep::Wait(error, None)
            }
        }
    }

    /// The gap that the batch carried is recorded, and everything that was owed with it.
    fn take_forced(&mut self, counts: &mut PassedCounts) -> Option<Gap> {
        let gap = self.forced.take();
        if gap.is_some() {
            counts.lost_before += std::mem::take(&mut self.owed_lost);
        }
        if self.owed_lost == 0 {
            self.owed = None;
        }
        gap
    }

    /// The checkpoint is counted as the batch that was stored last.
    fn count_as_passed(&mut self) {
        let batch = self.passed.checked_sub(1).and_then(|at| self.ring.get(at));
        let Some(numbering) = batch.map(|batch| batch.options.numbering.as_slice()) else { return };
        if self.counted.as_ref().is_none_or(|counted| counted.as_bytes() != numbering) {
            let numbering = String::from_utf8_lossy(numbering).into_owned();
            self.counted = Some(numbering).filter(|named| !named.is_empty());
        }
    }

    /// Sent batches have moved the checkpoint to `position`, or further.
    fn advance(&mut self, position: Option<Position>) {
        self.begun = true;
        self.checkpoint = Some(self.checkpoint.flatten().max(position));
    }

    /// Batches on their way behind the oldest will be refused as well.
    fn refuse(&mut self) {
        self.refused = (self.sent - self.passed).saturating_sub(1);
        self.sent = self.passed;
        self.forced = None;
    }

    /// The end of the last batch that was passed or given up, as far as this process had one.
    pub(super) fn last_passed(&self) -> Option<Position> {
        let kept = self.passed.checked_sub(1).and_then(|at| self.ring.get(at));
        kept.map(|batch| batch.last).max(self.left)
    }

    /// The oldest batch that waits is stored: it is kept until that is durable.
    fn pass(&mut self, passage: &Passage) -> Option<PassedCounts> {
        let before = self.last_passed();
        let batch = self.ring.get(self.passed)?;
        // An earlier process's items on disk are stored up to here: a restart's gap begins after them. The time of a loss
        // is unknown.
        if !batch.is_loss() {
            self.since_unix_ms = self.since_unix_ms.max(Some(batch.complete_unix_ms));
        }
        let bytes = batch.held_bytes();
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.kept_bytes += bytes;
        self.passed += 1;
        self.sent = self.sent.max(self.passed);
        let recorded = passage.has_gap_before(batch.first, before);
        Some(PassedCounts { lost: batch.lost(passage), recorded, ..PassedCounts::of(batch) })
    }

    /// Gives up the oldest waiting batch; its gap is still recorded, if something is missing before the next one. Returns
    /// its number of messages, and of those that a damaged spool lost before it. They are as good as recorded: another
    /// writer has stored them or recorded a gap, and this instance may never write again.
    fn drop_front(&mut self, position: Option<Position>, now_unix_ms: u64) -> (u64, u64) {
        let Some(batch) = self.ring.remove(self.passed) else { return (0, 0) };
        self.held_bytes = self.held_bytes.saturating_sub(batch.held_bytes());
        let lost = batch.joint.lost();
        self.left = self.left.max(Some(batch.last));
        let place = position.map_or_else(|| "nothing".to_owned(), |at| at.to_string());
        let started_unix_ms = self.missing_since_unix_ms(&batch);
        let dropped = Gap {
            cause: GapCause::Stale,
            detail: format!("another writer had moved the checkpoint to {place}, past {}", batch.last),
            started_unix_ms,
            ended_unix_ms: now_unix_ms,
            dropped: batch.events,
        };
        let dropped = match batch.joint {
            Joint::Gap(own) => dropped.with(own),
            Joint::Follows(_) | Joint::Start => dropped,
        };
        self.owe(dropped);
        (batch.events, lost)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::capture::batch::AppendOptions;
    use crate::capture::batch::builder::Builder;
    use crate::position::AnchorId;
    use crate::rt::Moment;

    #[test]
    fn a_loss_in_the_spool_does_not_say_when_something_was_read() {
        let epoch = Epoch { number: 7, anchor: AnchorId::random() };
        let gap = Gap { dropped: 2, ..Gap::begins(GapCause::SpoolCorrupt, "a bit was flipped", 549) };
        let now = Moment { at: Instant::now(), unix_ms: 549 };
        let mut chain = Chain::new("n");
        chain.push(Batch::of_loss(epoch.at(30), gap, now, Arc::new(AppendOptions::default())));
        let passage = Passage::parse(&epoch.to_string(), "");
        let found = chain.found(Some(epoch.at(31)), Some("n"), &passage, Some(381), 600);
        assert_eq!(chain.ring.len() - chain.passed, 0, "{found:?}");
        assert_eq!(chain.since_unix_ms(), Some(381), "a restart's gap begins after what is stored");
    }

    #[test]
    fn a_loss_behind_a_batch_that_was_stored_long_ago_is_in_the_gap_that_another_instance_recorded() {
        let epoch = |number| Epoch { number, anchor: AnchorId::random() };
        let (first, others, second) = (epoch(7), epoch(8), epoch(9));
        let now = Moment { at: Instant::now(), unix_ms: 549 };
        let mut chain = Chain::new("n");
        let lost = |chain: &mut Chain, last, dropped| {
            let gap = Gap { dropped, ..Gap::begins(GapCause::SpoolCorrupt, "a bit was flipped", 549) };
            chain.push(Batch::of_loss(last, gap, now, Arc::new(AppendOptions::default())));
        };
        lost(&mut chain, first.at(39), 0);
        let passage = Passage::parse(&first.to_string(), "");
        chain.found(Some(first.at(39)), Some("n"), &passage, None, 600);
        chain.retire(Some(first.at(39)));
        lost(&mut chain, second.at(0), 4);
        // The other instance did not have what followed, and recorded a gap. Its session went on behind this one's anchor.
        let epochs = format!("{first} {others} {second}");
        let passage = Passage::parse(&epochs, &format!("{}>{}", first.at(39), others.at(1)));
        let found = chain.found(Some(second.at(6)), Some("n"), &passage, None, 700);
        assert_eq!((found.corrupt, found.deduplicated), (4, 0));
    }

    #[test]
    fn without_a_state_gaps_begin_at_the_times_of_what_was_on_disk() {
        let epoch = Epoch { number: 7, anchor: AnchorId::random() };
        let now = Moment { at: Instant::now(), unix_ms: 900 };
        let gap = Gap { dropped: 2, ..Gap::begins(GapCause::SpoolCorrupt, "a file is missing", 100) };
        let lost = Batch::of_loss(epoch.at(30), gap, now, Arc::new(AppendOptions::default()));
        let read = Batch::recorded_complete_unix_ms(&lost.encode());
        assert_eq!(read, Some(100));
        let mut chain = Chain::new("n");
        chain.on_recovered(100, 300);
        assert_eq!(chain.spooled_since_unix_ms(), Some(100), "the loss of all of it");
        chain.push(lost);
        let passage = Passage::parse(&epoch.to_string(), "");
        chain.found(None, None, &Passage::default(), None, 900);
        chain.found(Some(epoch.at(30)), Some("n"), &passage, None, 900);
        assert_eq!(chain.since_unix_ms(), Some(300), "the restart");
        chain.found(Some(epoch.at(30)), Some("n"), &passage, Some(700), 900);
        assert_eq!(chain.since_unix_ms(), Some(700), "the state is newer");
    }

    #[test]
    fn the_gap_of_a_restart_begins_where_it_began_if_the_state_goes_back() {
        let epoch = |number| Epoch { number, anchor: AnchorId::random() };
        let (before, after) = (epoch(7), epoch(8));
        let batch = |at: Position, unix_ms| {
            let mut builder = Builder::new(Arc::new(AppendOptions::default()));
            builder.anchor(at, Moment { at: Instant::now(), unix_ms });
            builder.take().unwrap()
        };
        let mut chain = Chain::new("n");
        chain.push(batch(before.at(0), 300));
        chain.push(batch(after.at(0), 500));
        let passage = Passage::parse(&format!("{before} {after}"), "");
        chain.found(Some(after.at(0)), Some("n"), &passage, Some(100), 600);
        assert_eq!(chain.since_unix_ms(), Some(500));
        chain.found(Some(before.at(0)), Some("n"), &passage, Some(300), 700);
        assert_eq!(
            chain.since_unix_ms(),
            Some(300),
            "both batches are in hand, and the second is sent again"
        );
    }

    #[test]
    fn a_loss_in_a_history_that_the_state_has_left_is_counted_at_once() {
        let epoch = |number| Epoch { number, anchor: AnchorId::random() };
        let (left, others) = (epoch(7), epoch(8));
        let now = Moment { at: Instant::now(), unix_ms: 549 };
        let mut chain = Chain::new("n");
        let gap = Gap { dropped: 53, ..Gap::begins(GapCause::SpoolCorrupt, "a file is missing", 549) };
        chain.push(Batch::of_loss(left.at(77), gap, now, Arc::new(AppendOptions::default())));
        let passage = Passage::parse(&others.to_string(), "");
        let found = chain.found(Some(others.at(6)), Some("n"), &passage, None, 700);
        assert_eq!((found.corrupt, chain.unrecorded_events()), (53, 0), "it may never write again");
    }
}
