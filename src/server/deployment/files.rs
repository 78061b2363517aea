//! What this process knows of the files that connecting needs: passwords, certificates and keys.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::ClientConfig;
use tokio_util::sync::DropGuard;

use crate::config::{Endpoint, Secret, TlsMaterial};
use crate::logs::LogCode;
use crate::server::error::Error;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum FileKind {
    /// The password.
    Password,
    /// Certificates and keys.
    Tls,
}

impl FileKind {
    pub(in crate::server) const ALL: [Self; 2] = [Self::Password, Self::Tls];

    /// Says that the files cannot be used, and what happens now. `previous` is true if files of TLS were good before.
    pub(super) fn tell_invalid(self, server: &str, error: &Error, previous: bool) {
        let hint = error.hint().unwrap_or_default();
        match self {
            Self::Password => tracing::warn!(
                event = LogCode::PasswordFileInvalid.as_str(),
                server,
                "{error}; open connections stay authenticated, and no new one can be made (restore the file)"
            ),
            Self::Tls => {
                let now = if previous {
                    "the previous files stay in use"
                } else {
                    "no connection can be made until they can be used"
                };
                tracing::warn!(event = LogCode::TlsFilesInvalid.as_str(), server, "{error}; {now} ({hint})");
            }
        }
    }

    /// Says that they can be used again.
    pub(super) fn tell_valid(self, server: &str) {
        match self {
            Self::Password => tracing::info!(
                event = LogCode::PasswordFileValid.as_str(),
                server,
                "the password file can be used again"
            ),
            Self::Tls => tracing::info!(
                event = LogCode::TlsFilesValid.as_str(),
                server,
                "the files of TLS can be used again"
            ),
        }
    }
}

/// A watch over an endpoint's files, which ends with its last holder.
#[derive(Debug)]
pub(crate) struct FileWatch {
    /// The password as it was last read.
    password: Arc<Mutex<Option<Secret>>>,
    _stop: DropGuard,
}

impl FileWatch {
    /// A watch that `stop` ends, and that keeps the password where it reads it.
    pub(in crate::server) fn new(password: Arc<Mutex<Option<Secret>>>, stop: DropGuard) -> Self {
        Self { password, _stop: stop }
    }

    /// The password as it was last read; `None` before the first look.
    pub(in crate::server) fn password(&self) -> Option<Secret> {
        self.password.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The watch of an endpoint that runs.
#[derive(Debug)]
pub(in crate::server) struct RunningWatch {
    pub(in crate::server) endpoint: Endpoint,
    pub(in crate::server) watch: Weak<FileWatch>,
}

/// The content of an endpoint's files of TLS when they were last good.
#[derive(Debug, Clone)]
pub(in crate::server) struct Material {
    /// Digest of the files.
    pub(in crate::server) digest: [u8; 32],
    pub(in crate::server) read: TlsMaterial,
    pub(in crate::server) config: ClientConfig,
}
