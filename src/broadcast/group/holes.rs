//! Holes: entries that the cursor has passed and that were still pending, with `order = "acknowledgement"`.
//!
//! ```text
//! scan     which of them one poll looks at
//! deleted  acknowledged ones whose entries are gone and whose messages another instance may hold
//! ```

pub(crate) mod deleted;
pub(crate) mod scan;
