//! Why a session ends.

use crate::server::{Class, Error, hinted};
use crate::status::RouteEndpoint;

/// A connection or a command failed. Every ending leads to a new session, which begins at the cursor.
#[derive(Debug)]
pub(super) struct SessionFailure {
    /// Whose connection it was.
    pub(super) side: RouteEndpoint,
    /// The error.
    pub(super) error: Error,
}

impl SessionFailure {
    /// An error of the stream's server.
    pub(super) fn source(error: impl Into<Error>) -> Self {
        Self { side: RouteEndpoint::Source, error: error.into() }
    }

    /// An error of the cache.
    pub(super) fn cache(error: impl Into<Error>) -> Self {
        Self { side: RouteEndpoint::Destination, error: error.into() }
    }

    /// The next step.
    pub(super) fn class(&self) -> Class {
        self.error.class()
    }

    /// The message with advice to the operator, if there is any.
    pub(super) fn with_hint(&self) -> String {
        hinted(&self.error, self.error.hint().as_deref())
    }
}
