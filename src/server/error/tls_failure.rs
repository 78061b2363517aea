//! Errors of TLS, in the words for the operator.

use std::fmt;

/// An error of TLS. It never contains a key.
#[derive(Debug)]
pub struct TlsFailure {
    what: String,
    hint: Option<String>,
}

impl TlsFailure {
    pub(in crate::server) fn new(what: String, hint: Option<String>) -> Self {
        Self { what, hint }
    }

    /// Advice to the operator.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for TlsFailure {}
