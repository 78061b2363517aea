//! The key of a lease, from the key that it is for.

use crate::text::template::{Part, Template};

/// What a lease's template puts before and behind the key.
pub(in crate::invalidate) fn around(lease: &Template) -> (Vec<u8>, Vec<u8>) {
    let (mut before, mut behind, mut passed) = (Vec::new(), Vec::new(), false);
    for part in lease.parts() {
        match part {
            Part::Literal(text) if passed => behind.extend_from_slice(text.as_bytes()),
            Part::Literal(text) => before.extend_from_slice(text.as_bytes()),
            _ => passed = true,
        }
    }
    (before, behind)
}
