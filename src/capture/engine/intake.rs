//! From an item of the window into the batch that it belongs to. Once a message: nothing here allocates
//! that a batch does not share.

use super::super::batch::{Builder, Read};
use super::super::chain::Chain;
use super::super::mapping::{Context, Mapping};
use super::super::overflow::{Overflow, Room};
use crate::filter::{Filter, Looked};
use crate::position::Position;
use crate::server::resp::Message;

/// The parts of a route that take items in.
pub(super) struct Intake<'a> {
    pub(super) filter: &'a mut Filter,
    pub(super) max_message_bytes: u64,
    pub(super) mapping: &'a mut Mapping,
    pub(super) builder: &'a mut Builder,
    pub(super) chain: &'a mut Chain,
    pub(super) overflow: &'a mut Overflow,
    /// How much may wait in memory.
    pub(super) room: Room,
    pub(super) read: Read,
}

/// A message, as conditions look at it.
struct Received<'a>(&'a Message<'a>);

impl Looked for Received<'_> {
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

impl Intake<'_> {
    /// Takes a message in; false where there is no room for more. `size` is the payload's whole length, of
    /// which a message over the limit brings only the beginning.
    pub(super) fn event(&mut self, position: Position, message: &Message<'_>, size: usize) -> bool {
        // Of a message over the limit not all is here: it is not looked at, and becomes the dead letter that
        // says so.
        let whole = u64::try_from(size).unwrap_or(u64::MAX) <= self.max_message_bytes;
        if whole && !self.filter.passes(&Received(message)) {
            return !self.builder.filtered(position, self.read) || self.end_batch();
        }
        let room = !self.builder.would_overflow(message.payload.len()) || self.end_batch();
        let context = Context { position: &position, received_unix_ms: self.read.unix_ms };
        let mapping = &mut *self.mapping;
        let done = self
            .builder
            .event(position, message, size, self.read, |sink| mapping.map(message, size, &context, sink));
        (!done || self.end_batch()) && room
    }

    /// Takes an anchor in; false where there is no room for more.
    pub(super) fn anchor(&mut self, position: Position) -> bool {
        self.builder.anchor(position, self.read);
        self.end_batch()
    }

    /// Hands the open batch on; false where there is no room for more.
    pub(super) fn end_batch(&mut self) -> bool {
        if let Some(batch) = self.builder.take() {
            self.overflow.push(batch, self.chain, self.room);
        }
        self.overflow.full(self.chain, self.room).is_none()
    }
}
