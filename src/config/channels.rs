//! What the routes' channels and streams have to do with each other: which route reads what another one writes.

pub(crate) mod cleared_streams;
pub(crate) mod gap_keys;
pub(crate) mod lookup;
pub(crate) mod loops;
pub(crate) mod notifications;
pub(crate) mod own_keys;
pub(crate) mod pattern_overlap;
pub(crate) mod shared_streams;
