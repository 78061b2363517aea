//! The connection to the destination.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::connection::{Lane, LaneSettings};
use super::{Pending, Route};
use crate::capture::append::state::Revision;
use crate::capture::engine::Engine;
use crate::capture::engine::handover::{Ended, Handover};
use crate::rt::Moment;
use crate::server::{Connection, Error};

/// What there is of a connection.
#[derive(Default)]
pub(super) enum Destination {
    /// The route that this one replaces has not said yet where it stopped.
    Inheriting(Pin<Box<dyn Future<Output = Box<Ended>> + Send>>),
    #[default]
    Closed,
    Connecting(Pending<Lane>),
    Up(Box<Connection>),
}

/// What happened to it.
#[derive(Debug)]
pub(super) enum Event {
    Inherited(Box<Ended>),
    Connected(Result<Box<Lane>, Error>),
    Filled(Result<usize, Error>),
}

impl fmt::Debug for Destination {
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

impl Destination {
    /// Waits for `predecessor`'s last word first, where there is one.
    pub(super) fn new(predecessor: Option<Handover>) -> Self {
        predecessor.map_or(Self::Closed, |predecessor| {
            Self::Inheriting(Box::pin(async move { predecessor.ended().await }))
        })
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self {
            Self::Inheriting(ended) => ended.as_mut().poll(cx).map(Event::Inherited),
            Self::Closed => Poll::Pending,
            Self::Connecting(connecting) => {
                connecting.as_mut().poll(cx).map(|lane| Event::Connected(lane.map(Box::new)))
            }
            Self::Up(connection) => {
                if connection.unsent_bytes() > 0
                    && let Poll::Ready(Err(error)) = connection.poll_flush(cx)
                {
                    return Poll::Ready(Event::Filled(Err(error)));
                }
                connection.poll_fill(cx).map(Event::Filled)
            }
        }
    }

    /// Whether the predecessor still writes.
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

impl Route {
    pub(super) fn connect(&mut self, revision: Option<Revision>) {
        let settings = LaneSettings {
            endpoint: self.parts.destination.clone(),
            capture: self.parts.capture.clone(),
            keys: self.keys.clone(),
            revision,
        };
        self.destination = Destination::Connecting(Box::pin(Lane::open(settings)));
    }

    pub(super) fn on_destination(&mut self, event: Event, now: Moment) {
        match event {
            Event::Inherited(ended) => {
                let Ended { carried, spool } = *ended;
                self.destination = Destination::Closed;
                self.spool = spool;
                self.engine.on_inherited(carried, now);
            }
            Event::Connected(Ok(lane)) => {
                let Lane { connection, connected } = *lane;
                self.destination = Destination::Up(Box::new(connection));
                self.engine.on_connected(connected, now);
            }
            Event::Connected(Err(error)) | Event::Filled(Err(error)) => {
                self.engine.on_disconnected(&error, now);
            }
            Event::Filled(Ok(_)) => self.read_replies(now),
        }
    }

    fn read_replies(&mut self, now: Moment) {
        loop {
            let Destination::Up(connection) = &mut self.destination else { return };
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
