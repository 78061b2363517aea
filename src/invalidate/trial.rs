//! What an invalidation makes of one entry, without a server.

use super::change::Change;
use super::change::keys::{EntryKeys, KeyMaker};
use crate::config::Invalidate;
use crate::filter::Filter;
use crate::stream::entries::StreamEntry;

/// What becomes of an entry.
#[derive(Debug)]
pub(crate) enum InvalidateTrial {
    /// It is left out, and why.
    LeftOut(String),
    /// These keys are removed, or get a value. `dead_letter` has reason and detail where it also becomes a dead letter.
    Keys {
        /// The keys, maybe none.
        keys: Vec<Vec<u8>>,
        /// The version and the value that keys get.
        written: Option<(Vec<u8>, Vec<u8>)>,
        /// Why they get none, where the route stores values.
        unwritten: Option<String>,
        /// Reason and detail.
        dead_letter: Option<(&'static str, String)>,
    },
}

/// Gives one entry to a route.
pub(crate) fn try_entry(route: &Invalidate, entry: &StreamEntry<'_>) -> InvalidateTrial {
    let bytes = |keys: Vec<Change>| keys.into_iter().map(|change| change.key.into_vec()).collect();
    let mut maker = KeyMaker::new(route);
    match maker.of(entry) {
        EntryKeys::Filtered => {
            let failing = Filter::failing(&route.conditions, &entry.looked(&route.payload_field));
            InvalidateTrial::LeftOut(
                failing.map_or_else(String::new, |condition| format!("where {condition}")),
            )
        }
        EntryKeys::Keys(keys) => {
            let unwritten = maker.unwritten(entry, keys.len());
            let written = keys.first().and_then(|change| change.write.as_deref()).map(|write| {
                let value = write.value.as_deref().unwrap_or_default();
                (write.version.digits().to_vec(), value.to_vec())
            });
            InvalidateTrial::Keys { keys: bytes(keys), written, unwritten, dead_letter: None }
        }
        EntryKeys::Rejected(why, keys) => InvalidateTrial::Keys {
            keys: bytes(keys),
            written: None,
            unwritten: None,
            dead_letter: Some((why.reason(), why.to_string())),
        },
    }
}
