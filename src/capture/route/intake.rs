//! From an item of the window into the batch that it belongs to. Once a message: nothing here allocates
//! that a batch does not share.

use std::time::Instant;

use super::super::batch::Builder;
use super::super::chain::Chain;
use super::super::filter::Filter;
use super::super::mapping::{Context, Mapping};
use crate::position::Position;
use crate::server::resp::Message;

/// The parts of a route that take items in.
pub(super) struct Intake<'a> {
    pub(super) filter: &'a mut Filter,
    pub(super) mapping: &'a mut Mapping,
    pub(super) builder: &'a mut Builder,
    pub(super) chain: &'a mut Chain,
    /// What the chain may hold.
    pub(super) memory_bytes: usize,
    pub(super) now: Instant,
    pub(super) received_unix_ms: u64,
}

impl Intake<'_> {
    /// Takes a message in; false where memory is full. `size` is the payload's whole length, of which a
    /// message over the limit brings only the beginning.
    pub(super) fn event(&mut self, position: Position, message: &Message<'_>, size: usize) -> bool {
        if !self.filter.passes(message, size) {
            return !self.builder.filtered(position, self.now) || self.end_batch();
        }
        let room = !self.builder.would_overflow(message.payload.len()) || self.end_batch();
        let context = Context { position: &position, received_unix_ms: self.received_unix_ms };
        let mapping = &mut *self.mapping;
        let done = self
            .builder
            .event(position, message, size, self.now, |sink| mapping.map(message, size, &context, sink));
        (!done || self.end_batch()) && room
    }

    /// Takes an anchor in; false where memory is full.
    pub(super) fn anchor(&mut self, position: Position) -> bool {
        !self.builder.anchor(position, self.now) || self.end_batch()
    }

    /// Hands the open batch to the chain; false where memory is full.
    pub(super) fn end_batch(&mut self) -> bool {
        if let Some(batch) = self.builder.take() {
            self.chain.push(batch);
        }
        self.chain.held_bytes() <= self.memory_bytes
    }
}
