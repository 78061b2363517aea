//! What a capture makes of one message, without a server.

use super::left_out::{Received, left_out};
use super::mapping::{Context, Mapping, Message};
use super::requeue::{LetterFields, RequeuedEntry};
use crate::config::Capture;
use crate::filter::Filter;
use crate::text::glob;

/// What becomes of a message.
#[derive(Debug)]
pub(crate) enum CaptureTrial {
    /// The route subscribes to nothing that has this channel.
    NotReceived,
    /// It is left out, and why.
    LeftOut(String),
    /// It becomes an entry.
    Entry {
        /// The stream's name.
        stream: Vec<u8>,
        /// Names and values, in order.
        fields: LetterFields,
    },
    /// It becomes a dead letter: reason and detail.
    DeadLetter(&'static str, String),
}

/// Gives one message to a route. Its position stands in words, as nobody numbers it.
pub(crate) fn try_message(
    route: &Capture,
    channel: &[u8],
    payload: &[u8],
    received_unix_ms: u64,
) -> CaptureTrial {
    // As a source does: the exact name comes first, then the first pattern.
    let exact = route.channels.iter().any(|name| name.as_bytes() == channel);
    let matching = route.patterns.iter().find(|pattern| glob::matches(pattern.as_bytes(), channel));
    let pattern = matching.filter(|_| !exact).map(String::as_bytes);
    if !exact && pattern.is_none() {
        return CaptureTrial::NotReceived;
    }
    let message = Message { channel, pattern, payload };
    let size = payload.len();
    if left_out(route, &mut Filter::new(&route.conditions), &message, size) {
        let condition = Filter::failing(&route.conditions, &Received(&message));
        return CaptureTrial::LeftOut(match condition {
            Some(condition) => format!("where {condition}"),
            None => "the message carries the route's origin".to_owned(),
        });
    }
    let context = Context { position: &"<position>", received_unix_ms };
    let mut entry = RequeuedEntry::default();
    match Mapping::new(route).map(&message, size, &context, &mut entry) {
        Ok(()) => CaptureTrial::Entry { stream: entry.stream, fields: entry.fields },
        Err(rejection) => CaptureTrial::DeadLetter(rejection.reason.as_str(), rejection.detail),
    }
}
