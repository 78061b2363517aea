//! The reader of a route: a window of subscriptions, or the replication stream. Both yield the same items.

use std::task::{Context, Poll};
use std::time::Instant;

use super::item::Item;
use super::replication::reader::ReplicationReader;
use super::subscribe::Window;
use crate::server::Error;

/// An open source.
#[derive(Debug)]
pub(crate) enum SourceReader {
    Window(Box<Window>),
    Tap(Box<ReplicationReader>),
}

impl SourceReader {
    /// Reads from the socket, and sends what waits.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        match self {
            Self::Window(window) => window.poll_fill(cx),
            Self::Tap(tap) => tap.poll_fill(cx),
        }
    }

    /// The next thing that has come; `None` until more bytes come.
    pub(crate) fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        match self {
            Self::Window(window) => window.next(),
            Self::Tap(tap) => tap.next(),
        }
    }

    /// Bytes held in memory.
    pub(crate) fn held_bytes(&self) -> usize {
        match self {
            Self::Window(window) => window.held_bytes(),
            Self::Tap(tap) => tap.held_bytes(),
        }
    }

    /// Until when reading pauses, if it does.
    pub(crate) fn rests_until(&self) -> Option<Instant> {
        match self {
            Self::Window(_) => None,
            Self::Tap(tap) => tap.rests_until(),
        }
    }
}
