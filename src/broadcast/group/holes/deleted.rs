//! Acknowledged holes whose entries are deleted, and whose messages are not buffered here.
//!
//! Problem: a consumer may delete an entry that it has acknowledged. Then only an instance that read the entry before
//! can publish it, and no instance knows which entries the other one has.
//!
//! Operation: such a hole is left alone for a while. An instance that has its message publishes it within moments. A
//! hole that remains after that is reported as lost.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::stream::EntryId;

/// How long such a hole is left alone.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most holes that are remembered. Further ones are found again later.
const HOLES: usize = 8_192;

/// Since when each is known to be gone.
#[derive(Debug, Default)]
pub(crate) struct DeletedHoles(BTreeMap<EntryId, Instant>);

impl DeletedHoles {
    /// Returns whether one is left alone for now.
    pub(crate) fn contains(&self, id: EntryId) -> bool {
        self.0.contains_key(&id)
    }

    /// Notes that the entry of a hole is deleted. Returns true if that was long ago: it is forgotten here, and lost.
    pub(crate) fn is_lost(&mut self, id: EntryId, now: Instant) -> bool {
        match self.0.get(&id) {
            Some(since) if is_over(*since, now) => self.0.remove(&id).is_some(),
            None if self.0.len() < HOLES => {
                self.0.insert(id, now);
                false
            }
            _ => false,
        }
    }

    /// The holes that were left alone for long enough.
    pub(crate) fn due(&self, now: Instant) -> impl Iterator<Item = EntryId> {
        self.0.iter().filter(move |(_, since)| is_over(**since, now)).map(|(id, _)| *id)
    }

    /// Forgets all: no hole is left.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

fn is_over(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_lost_only_after_it_was_left_alone_and_no_more_are_remembered_than_may_be() {
        let id = |milliseconds| EntryId { milliseconds, sequence: 0 };
        let (mut gone, now) = (DeletedHoles::default(), Instant::now());
        assert!(!gone.is_lost(id(1), now));
        assert!(gone.contains(id(1)) && gone.due(now).next().is_none());
        assert!(!gone.is_lost(id(1), now + PATIENCE / 2));
        assert_eq!(gone.due(now + PATIENCE).collect::<Vec<_>>(), [id(1)]);
        assert!(gone.is_lost(id(1), now + PATIENCE));
        assert!(!gone.contains(id(1)));
        for number in 0..=HOLES as u64 {
            assert!(!gone.is_lost(id(number), now));
        }
        assert!(!gone.contains(id(HOLES as u64)), "it is found again");
    }
}
