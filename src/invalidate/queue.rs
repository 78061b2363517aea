//! What was read of the stream and is not applied yet.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::change::{Change, Changes, MOST_KEYS};
use super::cursor::place::Place;

/// Entries that are read ahead. One read brings at most half of them.
const AHEAD_ENTRIES: usize = 1_024;
/// Bytes of keys and values that are read ahead.
const AHEAD_BYTES: usize = 4 * 1024 * 1024;

/// An entry that was read.
#[derive(Debug)]
pub(super) struct QueuedEntry {
    pub(super) place: Place,
    /// None where it was filtered or rejected: the place moves over it.
    pub(super) keys: Vec<Change>,
    /// When it was read.
    pub(super) seen: Instant,
}

/// A batch of the first pass.
#[derive(Debug)]
pub(super) struct QueuedBatch {
    pub(super) last: Place,
    pub(super) entries: usize,
    /// Each once.
    pub(super) keys: Vec<Change>,
    /// What its entries took in the queue.
    pub(super) bytes: usize,
}

/// The entries that were read and not sent, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<QueuedEntry>,
    keys: usize,
    bytes: usize,
}

impl Queue {
    /// Returns whether more is to be read.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < AHEAD_ENTRIES / 2 && self.bytes < AHEAD_BYTES
    }

    /// When the next batch is to begin: some time after its first entry was read, or at once where no more can be read.
    pub(super) fn due(&self, collect: Duration) -> Option<Instant> {
        let first = self.entries.front()?;
        Some(if self.has_room() { first.seen + collect } else { first.seen })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether there is enough for a call of `most` entries.
    pub(super) fn has_batch(&self, most: usize) -> bool {
        self.entries.len() >= most || self.keys >= MOST_KEYS
    }

    pub(super) fn push(&mut self, entry: QueuedEntry) {
        self.keys += entry.keys.len();
        self.bytes += bytes(&entry.keys);
        self.entries.push_back(entry);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the next batch: as many entries as one call of at most `most` covers.
    pub(super) fn next_batch(&mut self, most: usize) -> Option<QueuedBatch> {
        let first = self.entries.front()?;
        let mut batch = QueuedBatch { last: first.place, entries: 0, keys: Vec::new(), bytes: 0 };
        let mut changes = Changes::with_room_for(self.keys.min(most));
        while let Some(next) = self.entries.front() {
            let fits = batch.entries < most && changes.have_room(&next.keys);
            if batch.entries > 0 && !fits {
                break;
            }
            let Some(next) = self.entries.pop_front() else { break };
            let bytes = bytes(&next.keys);
            self.keys -= next.keys.len();
            self.bytes -= bytes;
            batch.bytes += bytes;
            batch.last = next.place;
            batch.entries += 1;
            next.keys.into_iter().for_each(|change| changes.add(change));
        }
        batch.keys = changes.into_vec();
        Some(batch)
    }
}

fn bytes(keys: &[Change]) -> usize {
    keys.iter().map(Change::bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invalidate::second_pass::BATCH_ENTRIES;
    use crate::stream::EntryId;

    fn entry(id: u64, keys: impl Iterator<Item = usize>) -> QueuedEntry {
        let keys = keys.map(|key| Change::removal(key.to_string().into_bytes().into())).collect();
        let place = Place { id: EntryId { milliseconds: id, sequence: 0 }, counted: Some(id), read: None };
        QueuedEntry { place, keys, seen: Instant::now() }
    }

    #[test]
    fn a_batch_is_what_one_call_covers_and_has_each_key_once() {
        let mut queue = Queue::default();
        (1..=130).for_each(|id| queue.push(entry(id, 0..2)));
        queue.push(entry(131, 0..1000));
        queue.push(entry(132, 1000..1001));
        let sizes: Vec<_> = std::iter::from_fn(|| queue.next_batch(BATCH_ENTRIES))
            .map(|batch| (batch.last.id.milliseconds, batch.entries, batch.keys.len(), batch.last.counted))
            .collect();
        assert_eq!(sizes, [(128, 128, 2, Some(128)), (131, 3, 1000, Some(131)), (132, 1, 1, Some(132))]);
        assert_eq!((queue.bytes(), queue.is_empty()), (0, true));
    }
}
