//! The items of a source, whichever way it is read.

use crate::position::Epoch;
use crate::server::resp::Message;

/// The next item.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// A message that the route subscribes to.
    Message {
        message: Message<'a>,
        /// The payload's whole length: of a message over the limit only the beginning is here.
        size: usize,
        /// The end of its command in a replication stream; 0 in a window.
        offset: u64,
    },
    /// A wanted message on a channel with a name over the limit: it has only the beginnings of name and payload.
    LongNamed {
        message: Message<'a>,
        /// The name's whole length.
        channel_size: usize,
        /// The payload's whole length.
        size: usize,
        /// The end of its command in a replication stream; 0 in a window.
        offset: u64,
    },
    /// A window opened somewhere, with this anchor.
    Anchor {
        epoch: Epoch,
        /// The end of its command in a replication stream; 0 in a window.
        offset: u64,
    },
    /// The path works. Which process sent it, and when by its own clock, in microseconds.
    Heartbeat { instance: u64, sent_us: u64 },
    /// Everything that was published before the fence was asked for has come.
    Fence,
    /// Nothing that counts.
    Nothing,
}
