//! What an invalidation makes of one entry, without a server.

use super::keys::{EntryKeys, KeyMaker};
use crate::config::Invalidate;
use crate::filter::Filter;
use crate::stream::entries::StreamEntry;

/// What becomes of an entry.
#[derive(Debug)]
pub(crate) enum InvalidateTrial {
    /// It is left out, and why.
    LeftOut(String),
    /// These keys are removed. `dead_letter` has reason and detail where it also becomes a dead letter.
    Keys {
        /// The keys, maybe none.
        keys: Vec<Vec<u8>>,
        /// Reason and detail.
        dead_letter: Option<(&'static str, String)>,
    },
}

/// Gives one entry to a route.
pub(crate) fn try_entry(route: &Invalidate, entry: &StreamEntry<'_>) -> InvalidateTrial {
    let bytes = |keys: Vec<Box<[u8]>>| keys.into_iter().map(<[u8]>::into_vec).collect();
    match KeyMaker::new(route).of(entry) {
        EntryKeys::Filtered => {
            let failing = Filter::failing(&route.conditions, &entry.looked(&route.payload_field));
            InvalidateTrial::LeftOut(
                failing.map_or_else(String::new, |condition| format!("where {condition}")),
            )
        }
        EntryKeys::Keys(keys) => InvalidateTrial::Keys { keys: bytes(keys), dead_letter: None },
        EntryKeys::Rejected(why, keys) => {
            InvalidateTrial::Keys { keys: bytes(keys), dead_letter: Some((why.reason(), why.to_string())) }
        }
    }
}
