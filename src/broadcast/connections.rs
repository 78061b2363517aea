//! Connections for publishing: to the stream's server, and to the channel's if that is another one.

use std::task::{Context, Poll};

use super::failure::Half;
use crate::server::{Connection, Error};

/// The connections that publish, as a replay has them too.
#[derive(Debug)]
pub(super) struct PublishConnections {
    pub(super) writer: Connection,
    pub(super) other: Option<Connection>,
}

impl PublishConnections {
    /// Sends waiting bytes and reads; ready once bytes arrived or a connection has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Half, Result<(), Error>)> {
        if let Poll::Ready(result) = self.writer.poll_turn(cx) {
            return Poll::Ready((Half::Writer, result));
        }
        match self.other.as_mut().map(|other| other.poll_turn(cx)) {
            Some(Poll::Ready(result)) => Poll::Ready((Half::Other, result)),
            _ => Poll::Pending,
        }
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.writer.unsent_bytes() + self.other.as_ref().map_or(0, Connection::unsent_bytes)
    }
}
