//! Retention: which entries of a route's streams are removed, and when.
//!
//! ```text
//! age           older than keep.age, and the route's own records after a while
//! acknowledged  keep.until_acknowledged: what the named consumer groups have acknowledged
//! ```
//!
//! `keep.entries` needs no part here: the append script passes it to XADD. Only the instance that writes may remove
//! entries: the engine's report has its revision (`trims_under`), which each round checks. Each script compares it with
//! the state's once more, since an instance that was frozen learns later that a newer configuration writes.

pub(crate) mod acknowledged;
pub(crate) mod age;
