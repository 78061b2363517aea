//! The connection to the destination.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::connection::{AppendConnection, AppendConnectionSettings};
use super::{CaptureRoute, PendingFuture};
use crate::capture::append::state::revision::RankedRevision;
use crate::capture::engine::Engine;
use crate::capture::engine::handover::{Ended, Handover};
use crate::rt::Moment;
use crate::server::{Connection, Error};

/// The stages of a connection.
#[derive(Default)]
pub(super) enum DestinationSide {
    /// The predecessor has not reported yet where it stopped.
    Inheriting(Pin<Box<dyn Future<Output = Box<Ended>> + Send>>),
    #[default]
    Closed,
    Connecting(PendingFuture<AppendConnection>),
    Up(Box<Connection>),
}

/// An event of the connection.
#[derive(Debug)]
pub(super) enum DestinationEvent {
    Inherited(Box<Ended>),
    Connected(Result<Box<AppendConnection>, Error>),
    Filled(Result<usize, Error>),
}

impl fmt::Debug for DestinationSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self {
            Self::Inheriting(_) => "inheriting",
            Self::Closed => "closed",
            Self::Connecting(_) => "connecting",
            Self::Up(_) => "up",
        };
        f.debug_tuple("Destination").field(&state).finish()
    }
}

impl DestinationSide {
    /// Waits for `predecessor`'s last report first, if there is one.
    pub(super) fn new(predecessor: Option<Handover>) -> Self {
        predecessor.map_or(Self::Closed, |predecessor| {
            Self::Inheriting(Box::pin(async move { predecessor.ended().await }))
        })
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DestinationEvent> {
        match self {
            Self::Inheriting(ended) => ended.as_mut().poll(cx).map(DestinationEvent::Inherited),
            Self::Closed => Poll::Pending,
            Self::Connecting(connecting) => {
                connecting.as_mut().poll(cx).map(|lane| DestinationEvent::Connected(lane.map(Box::new)))
            }
            Self::Up(connection) => {
                if connection.unsent_bytes() > 0
                    && let Poll::Ready(Err(error)) = connection.poll_flush(cx)
                {
                    return Poll::Ready(DestinationEvent::Filled(Err(error)));
                }
                connection.poll_fill(cx).map(DestinationEvent::Filled)
            }
        }
    }

    /// Returns whether the predecessor still writes.
    pub(super) fn is_inheriting(&self) -> bool {
        matches!(self, Self::Inheriting(_))
    }

    pub(super) fn disconnect(&mut self) {
        if !self.is_inheriting() {
            *self = Self::Closed;
        }
    }

    /// Lets the engine write what may be sent.
    pub(super) fn transmit(&mut self, engine: &mut Engine, now: Moment) {
        if let Self::Up(connection) = self {
            let unsent = connection.unsent_bytes();
            engine.transmit(connection.out(), unsent, now);
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Up(connection) => connection.held_bytes(),
            _ => 0,
        }
    }
}

impl CaptureRoute {
    pub(super) fn connect(&mut self, revision: Option<RankedRevision>) {
        let settings = AppendConnectionSettings {
            endpoint: self.parts.destination.clone(),
            capture: self.parts.capture.clone(),
            keys: self.keys.clone(),
            revision,
        };
        self.destination = DestinationSide::Connecting(Box::pin(AppendConnection::open(settings)));
    }

    pub(super) fn on_destination(&mut self, event: DestinationEvent, now: Moment) {
        match event {
            DestinationEvent::Inherited(ended) => {
                let Ended { carried, spool } = *ended;
                self.destination = DestinationSide::Closed;
                self.spool = spool;
                self.engine.on_inherited(carried, now);
            }
            DestinationEvent::Connected(Ok(lane)) => {
                let AppendConnection { connection, connected } = *lane;
                self.destination = DestinationSide::Up(Box::new(connection));
                self.engine.on_connected(connected, now);
            }
            DestinationEvent::Connected(Err(error)) | DestinationEvent::Filled(Err(error)) => {
                self.engine.on_disconnected(&error, now);
            }
            DestinationEvent::Filled(Ok(_)) => self.read_replies(now),
        }
    }

    fn read_replies(&mut self, now: Moment) {
        loop {
            let DestinationSide::Up(connection) = &mut self.destination else { return };
            match connection.reader.next_value() {
                Ok(None) => return,
                Ok(Some(reply)) => self.engine.on_reply(&reply, now),
                Err(error) => return self.engine.on_disconnected(&error.into(), now),
            }
            // A reply may have ended the connection, and others opened.
            self.perform(now);
        }
    }
}
