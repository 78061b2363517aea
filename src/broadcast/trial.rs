//! What a broadcast makes of one entry, without a server.

use super::message::MessageMaker;
use super::message::withheld::Withheld;
use crate::config::Broadcast;
use crate::filter::Filter;
use crate::stream::entries::StreamEntry;

/// What becomes of an entry.
#[derive(Debug)]
pub(crate) enum BroadcastTrial {
    /// It is left out, and why.
    LeftOut(String),
    /// It is published.
    Message {
        /// The channel.
        channel: Vec<u8>,
        /// The message.
        message: Vec<u8>,
    },
    /// It becomes a dead letter: reason and detail.
    DeadLetter(&'static str, String),
}

/// Gives one entry to a route.
pub(crate) fn try_entry(route: &Broadcast, entry: &StreamEntry<'_>) -> BroadcastTrial {
    match MessageMaker::new(route).of(entry) {
        Ok((channel, message)) => {
            BroadcastTrial::Message { channel: channel.to_vec(), message: message.to_vec() }
        }
        Err(Withheld::Filtered) => {
            let failing = Filter::failing(&route.conditions, &entry.looked(&route.payload_field));
            BroadcastTrial::LeftOut(match failing {
                Some(condition) => format!("where {condition}"),
                None => "the entry has passed a bridge with the route's origin".to_owned(),
            })
        }
        Err(Withheld::Unrenderable(why)) => BroadcastTrial::DeadLetter(why.reason(), why.to_string()),
    }
}
