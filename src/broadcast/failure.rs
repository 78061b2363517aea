//! Why a session of a broadcast ends, and the consequence.

use super::publish::count::CursorCount;
use crate::server::{Class, Error, UNKNOWN_COMMAND, hinted};
use crate::status::RouteEndpoint;
use crate::stream::EntryId;

/// A connection of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// To the stream's server, for XREAD, which may wait.
    Reader,
    /// To the stream's server, for the scripts.
    Writer,
    /// To the channels' server, if it is another one.
    Other,
}

impl Half {
    pub(super) fn side(self) -> RouteEndpoint {
        if matches!(self, Self::Other) { RouteEndpoint::Destination } else { RouteEndpoint::Source }
    }
}

/// Why a session ended. Every ending leads to a new session, which begins at the cursor.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionFailure {
    /// A connection or a command failed.
    #[error("{error}")]
    Server {
        /// The connection's side.
        side: RouteEndpoint,
        /// The error.
        error: Error,
    },
    /// Publishing or writing a dead letter failed; everything before that entry is dealt with.
    #[error("{} failed: {error}", what(entry.as_ref()))]
    Refused {
        /// The refusing side.
        side: RouteEndpoint,
        /// The entry; `None` if its dead letter could not be written.
        entry: Option<EntryId>,
        /// True if it may be this entry's own fault, so that the next one may well be published: it is tried again,
        /// `max_deliveries` times in all. Else it is the route's, and an operator must act.
        own: bool,
        /// The error reply.
        error: Error,
    },
    /// The lease ran out while messages waited to be sent: they are not sent any more.
    #[error(
        "this instance paused for longer than its lease lasts; the next holder publishes its unsent messages"
    )]
    LeaseLapsed,
    /// The cursor was there and is there no more.
    #[error("the cursor {key} was deleted from the server; the route determines again where to start")]
    CursorVanished {
        /// The cursor's key.
        key: String,
    },
    /// The cursor may not be used: an operator must act.
    #[error("{reason}")]
    CursorRefused {
        /// The reason, and the remedy.
        reason: String,
    },
    /// The stream began anew, and its ids are below the cursor: entries added to it would never be read.
    #[error(
        "the stream '{stream}' was deleted or replaced: its newest id is below the cursor {cursor}, so its entries would not be published; {}", on_begins(*start, route)
    )]
    StreamBelow {
        /// The stream.
        stream: String,
        /// The route.
        route: String,
        /// The cursor.
        cursor: EntryId,
        /// True if the configuration says where to begin.
        start: bool,
    },
    /// The stream was replaced by one with entries before the cursor.
    #[error(
        "the stream '{stream}' was replaced by another one with entries before the cursor {}; the route publishes what it has not published of the new one", replaced.cursor
    )]
    StreamReplaced {
        /// The stream.
        stream: String,
        /// The cursor and the published part of the new stream.
        replaced: Replaced,
    },
    /// The stream has entries, there is no cursor, and the configuration does not say where to begin.
    #[error(
        "the stream '{stream}' has entries and the route has no cursor yet; set start in [broadcast.{route}] to \"beginning\", \"end\" or an entry's id"
    )]
    StartUnsaid {
        /// The stream.
        stream: String,
        /// The route.
        route: String,
    },
}

/// The place in a stream that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replaced {
    /// The cursor at that time.
    pub(super) cursor: EntryId,
    /// Number of entries up to it.
    pub(super) counted: CursorCount,
    /// Entries of the new stream after this one and up to the cursor are published already.
    pub(super) after: EntryId,
}

/// The failed step.
fn what(entry: Option<&EntryId>) -> String {
    entry.map_or_else(|| "writing a dead letter".to_owned(), |entry| format!("publishing the entry {entry}"))
}

/// The consequence of a stream that began anew.
fn on_begins(start: bool, route: &str) -> String {
    if start {
        return "the route starts where its option start says".to_owned();
    }
    format!("set start in [broadcast.{route}] to \"beginning\", \"end\" or an entry's id")
}

impl SessionFailure {
    /// An error reply to PUBLISH itself. If its code is about the server's present state, the entry is not to blame.
    pub(super) fn of_publish(side: RouteEndpoint, entry: Option<EntryId>, own: bool, error: Error) -> Self {
        match error.class() {
            _ if error.code() == Some(UNKNOWN_COMMAND) => Self::Server { side, error },
            Class::Retry | Class::Resolve if error.code() != Some("ERR") => Self::Server { side, error },
            _ => Self::Refused { side, entry, own, error },
        }
    }

    /// An error of the endpoint that holds the stream.
    pub(super) fn source(error: impl Into<Error>) -> Self {
        Self::Server { side: RouteEndpoint::Source, error: error.into() }
    }

    /// An error of the channels' server.
    pub(super) fn destination(error: impl Into<Error>) -> Self {
        Self::Server { side: RouteEndpoint::Destination, error: error.into() }
    }

    /// The next step. A refusal that is not an entry's own blocks the route, whatever its code: PUBLISH and XADD of a
    /// dead letter under `allow-oom` fail only if a right is missing or a key has another type.
    pub(super) fn class(&self) -> Class {
        match self {
            Self::Server { error, .. } => error.class(),
            Self::Refused { own: true, .. } => Class::Retry,
            Self::Refused { .. }
            | Self::StartUnsaid { .. }
            | Self::CursorRefused { .. }
            | Self::StreamBelow { start: false, .. } => Class::Block,
            Self::CursorVanished { .. }
            | Self::LeaseLapsed
            | Self::StreamReplaced { .. }
            | Self::StreamBelow { .. } => Class::Repair,
        }
    }

    /// Whose connection it concerns.
    pub(super) fn side(&self) -> RouteEndpoint {
        match self {
            Self::Server { side, .. } | Self::Refused { side, .. } => *side,
            Self::CursorVanished { .. }
            | Self::StartUnsaid { .. }
            | Self::CursorRefused { .. }
            | Self::StreamReplaced { .. }
            | Self::StreamBelow { .. } => RouteEndpoint::Source,
            Self::LeaseLapsed => RouteEndpoint::Destination,
        }
    }

    /// The message with advice to the operator, if there is any.
    pub(super) fn with_hint(&self) -> String {
        hinted(self, self.error().and_then(Error::hint).as_deref())
    }

    /// The message with advice for a command that an operator runs by hand.
    pub(super) fn with_hint_for_operator(&self) -> String {
        hinted(self, self.error().and_then(Error::hint_for_operator).as_deref())
    }

    fn error(&self) -> Option<&Error> {
        match self {
            Self::Server { error, .. } | Self::Refused { error, .. } => Some(error),
            _ => None,
        }
    }
}
