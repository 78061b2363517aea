//! Reading a stream, as broadcasts and invalidations do: ids, replies as entries, the size of a read, a past range, and the counts that tell what
//! was lost or replaced.

pub(crate) mod attempts;
pub(crate) mod counters;
pub(crate) mod entries;
mod entry_id;
pub(crate) mod range;
pub(crate) mod read_size;

pub use entry_id::EntryId;
