//! Reading a stream: replies as entries, a past range, and entries that were deleted before they were read.

pub(crate) mod entries;
pub(crate) mod range;
pub(crate) mod unread_loss;
