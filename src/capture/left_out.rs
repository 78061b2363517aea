//! Which messages a route leaves out before anything is made of them.

use crate::config::Capture;
use crate::filter::{Filter, Filterable};
use crate::server::resp::Message;
use crate::text::origin;

/// A message, as conditions look at it.
pub(super) struct Received<'a>(pub(super) &'a Message<'a>);

impl Filterable for Received<'_> {
    fn channel(&self) -> Option<&[u8]> {
        Some(self.0.channel)
    }

    fn field(&self, _: &[u8]) -> Option<&[u8]> {
        None
    }

    fn payload(&self) -> Option<&[u8]> {
        Some(self.0.payload)
    }
}

/// Returns whether the route's origin or its filter leaves a message out. `size` is the payload's whole length.
pub(super) fn left_out(route: &Capture, filter: &mut Filter, message: &Message<'_>, size: usize) -> bool {
    // An oversized message is not complete: no condition is tested, and it becomes a dead letter.
    let whole = u64::try_from(size).unwrap_or(u64::MAX) <= route.max_message_size;
    let echo = |origin: &String| origin::carries(message.payload, origin);
    whole && (route.origin.as_ref().is_some_and(echo) || !filter.passes(&Received(message)))
}
