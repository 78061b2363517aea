//! The gap before the first waiting batch: its cause, its beginning, and the messages known to be lost in it.

use super::Chain;
use crate::capture::batch::Batch;
use crate::capture::batch::gap::{Gap, Joint};
use crate::event::GapCause;
use crate::position::Position;

impl Chain {
    /// Messages behind the last buffered batch were published after this; milliseconds since 1970.
    pub(crate) fn last_complete_unix_ms(&self) -> Option<u64> {
        self.ring.back().map(|batch| batch.complete_unix_ms)
    }

    /// Since when messages may be missing that no process has; milliseconds since 1970. The state was last written then,
    /// before this process read it. Without a state, an earlier process read its last batch then.
    pub(crate) fn since_unix_ms(&self) -> Option<u64> {
        self.since_unix_ms.or(self.recovered_unix_ms.map(|(_, last)| last))
    }

    /// Since when messages may be missing that an earlier process left on disk; milliseconds since 1970.
    pub(crate) fn spooled_since_unix_ms(&self) -> Option<u64> {
        self.since_unix_ms.or(self.recovered_unix_ms.map(|(first, _)| first))
    }

    /// The start of the gap if this waiting batch is given up, including the gap before it; milliseconds since 1970.
    pub(crate) fn missing_since_unix_ms(&self, batch: &Batch) -> u64 {
        let before = match &batch.joint {
            Joint::Gap(gap) => Some(gap.started_unix_ms),
            Joint::Start => self.since_unix_ms(),
            Joint::Follows(_) => None,
        };
        before.map_or(batch.complete_unix_ms, |before| before.min(batch.complete_unix_ms))
    }

    /// An earlier process left batches on disk. Messages behind the first and the last of them were published after these times.
    pub(crate) fn on_recovered(&mut self, first_unix_ms: u64, last_unix_ms: u64) {
        self.recovered_unix_ms = Some((first_unix_ms.min(last_unix_ms), last_unix_ms));
    }

    /// Messages that are lost with a damaged spool and not recorded yet.
    pub(crate) fn unrecorded_events(&self) -> u64 {
        let waiting: u64 = self.ring.iter().skip(self.passed).map(|batch| batch.joint.lost()).sum();
        waiting + self.owed_lost
    }

    /// The time of the oldest unrecorded loss, in milliseconds since 1970.
    pub(crate) fn unrecorded_since_unix_ms(&self) -> Option<u64> {
        let losses = self.ring.iter().skip(self.passed).filter_map(|batch| batch.joint.lost_since_unix_ms());
        let owed = self.owed.iter().filter(|_| self.owed_lost > 0);
        losses.chain(owed.map(|gap| gap.started_unix_ms)).min()
    }

    /// The gap that may be between the checkpoint and the first waiting batch.
    pub(super) fn missing(&self, now_unix_ms: u64) -> Gap {
        let at = self.checkpoint();
        let own = self.ring.get(self.passed).and_then(|front| match &front.joint {
            Joint::Gap(gap) => Some(gap.clone()),
            Joint::Start if at.is_some() && self.went_back.is_none() => Some(Gap {
                cause: GapCause::Restart,
                detail: "tidegate was not running".to_owned(),
                started_unix_ms: self.since_unix_ms().unwrap_or(now_unix_ms),
                ended_unix_ms: front.opened_unix_ms,
                dropped: 0,
            }),
            _ => None,
        });
        // Messages lost in the spool were read after the batch before them, though the loss may be found only now.
        let corrupt = own.iter().chain(&self.owed).any(|gap| gap.cause == GapCause::SpoolCorrupt);
        // A batch of an earlier process has its own gap only. What that process owed before it, or stored and a failover
        // lost, is not on disk.
        let from_disk = self.last_passed().is_none();
        let since = self.since_unix_ms.filter(|_| corrupt || from_disk);
        // The state's reason is the gravest; messages given up here are the least.
        let known = self.went_back.clone().into_iter().chain(own).chain(self.owed.clone());
        let mut gap =
            known.reduce(Gap::with).unwrap_or_else(|| went_back(at, self.since_unix_ms, now_unix_ms));
        gap.started_unix_ms = since.map_or(gap.started_unix_ms, |since| since.min(gap.started_unix_ms));
        // Two clocks may have dated it, or one that went back.
        let ended_unix_ms = gap.ended_unix_ms;
        gap.until(ended_unix_ms)
    }

    /// Notes that something may be missing before the next batch that is sent with a gap.
    pub(crate) fn owe(&mut self, gap: Gap) {
        self.owed = Some(match self.owed.take() {
            Some(owed) => owed.with(gap),
            None => gap,
        });
    }

    /// Owes the record of messages that are lost with a damaged spool, if no batch takes their place.
    pub(crate) fn owe_lost(&mut self, gap: Gap) {
        self.owed_lost += gap.dropped;
        self.owed = Some(match self.owed.take() {
            Some(owed) => gap.with(owed),
            None => gap,
        });
    }
}

pub(super) fn went_back(position: Option<Position>, since_unix_ms: Option<u64>, now_unix_ms: u64) -> Gap {
    let (cause, detail) = match position {
        None => (GapCause::StateLost, "the route's state was missing on the destination".to_owned()),
        Some(position) => (
            GapCause::DestinationWentBack,
            format!("the destination went back to {position}; entries that were stored after it are lost"),
        ),
    };
    Gap {
        cause,
        detail,
        started_unix_ms: since_unix_ms.unwrap_or(now_unix_ms),
        ended_unix_ms: now_unix_ms,
        dropped: 0,
    }
}
