//! Which messages are on disk and not in memory.

use std::collections::VecDeque;

use crate::position::Position;

/// The batches that are on disk only: how many messages each has, so that a loss is known exactly.
#[derive(Debug, Default)]
pub(super) struct DiskOnly {
    /// Oldest first. Neighbours are merged if there are too many.
    batches: VecDeque<(Position, u64)>,
    pub(super) events: u64,
}

/// Batches on disk that are counted one by one: some 2 MiB of memory.
const DISK_ONLY: usize = 1 << 16;

impl DiskOnly {
    pub(super) fn push(&mut self, last: Position, events: u64) {
        if self.batches.len() >= DISK_ONLY {
            let all = std::mem::take(&mut self.batches);
            let mut all = all.into_iter();
            while let Some((last, events)) = all.next() {
                let merged = all.next().map_or((last, events), |(last, more)| (last, events + more));
                self.batches.push_back(merged);
            }
        }
        self.events += events;
        self.batches.push_back((last, events));
    }

    /// Messages of the batches up to one.
    pub(super) fn events_up_to(&self, last: Position) -> u64 {
        self.batches.iter().take_while(|(at, _)| *at <= last).map(|(_, events)| events).sum()
    }

    fn take_while(&mut self, wanted: impl Fn(Position) -> bool) -> u64 {
        let mut taken = 0;
        while let Some((at, events)) = self.batches.front().copied()
            && wanted(at)
        {
            self.batches.pop_front();
            taken += events;
        }
        self.events -= taken;
        taken
    }

    pub(super) fn take_before(&mut self, last: Position) -> u64 {
        self.take_while(|at| at < last)
    }

    pub(super) fn take_up_to(&mut self, last: Position) -> u64 {
        self.take_while(|at| at <= last)
    }

    pub(super) fn take_all(&mut self) -> u64 {
        self.take_while(|_| true)
    }
}
