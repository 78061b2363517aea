//! A place in the stream.

use crate::stream::EntryId;

/// Up to where a pass has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The last entry.
    pub(super) id: EntryId,
    /// How many entries were ever added to the stream up to it, if known.
    pub(super) counted: Option<u64>,
}

impl Place {
    /// The place of the entry that was read after it.
    pub(super) fn next(self, id: EntryId) -> Self {
        Self { id, counted: self.counted.map(|counted| counted + 1) }
    }

    /// How many entries after this place and up to a later one are not among those that were read of them, if the numbers
    /// of both are known.
    pub(super) fn lacks(self, later: Self) -> Option<u64> {
        later.counted?.checked_sub(self.counted?)
    }
}
