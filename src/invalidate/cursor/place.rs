//! A place in the stream.

use crate::stream::EntryId;

/// Up to where a pass has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::invalidate) struct Place {
    /// The last entry.
    pub(in crate::invalidate) id: EntryId,
    /// How many entries were ever added to the stream up to it, if known: to compare with the stream.
    pub(in crate::invalidate) counted: Option<u64>,
    /// How many were read by the first pass up to it, if known: to compare the passes.
    pub(in crate::invalidate) read: Option<u64>,
}

impl Place {
    /// Where nothing was read yet of a stream; `counted` entries were removed from it before.
    pub(in crate::invalidate) fn beginning(counted: Option<u64>) -> Self {
        Self { id: EntryId::default(), counted, read: Some(0) }
    }

    /// The place of the entry that was read after it.
    pub(in crate::invalidate) fn next(self, id: EntryId) -> Self {
        let [counted, read] = [self.counted, self.read].map(|count| count.map(|count| count + 1));
        Self { id, counted, read }
    }

    /// How many entries up to it were never read, if known: of one stream it never falls, whichever instance counts.
    pub(in crate::invalidate) fn missed(self) -> Option<u64> {
        self.counted?.checked_sub(self.read?)
    }

    /// Number of entries that the first pass has read between this place and a later one, if both are counted.
    pub(in crate::invalidate) fn lacks(self, later: Self) -> Option<u64> {
        later.read?.checked_sub(self.read?)
    }
}
