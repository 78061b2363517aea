//! Retention: which entries of a route's streams are removed, and when.

pub(crate) mod acknowledged;
pub(crate) mod age;
