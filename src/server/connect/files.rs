//! A watch over the files that connecting needs: the password, certificates and keys.
//!
//! **Problem.** They are read at every connect, and connections stay open for weeks. A file that is gone would be noticed
//! only once a connection must be made anew, which is the worst moment.
//!
//! **Operation.** While an endpoint has an open connection, its files are read every few seconds as a connect reads them.
//! What cannot be used is logged once and shown in a metric; so is its end. New certificates that are good are taken for
//! the next connect.
//!
//! **Failure.** A file that is being replaced may be missing or half for a moment, and a certificate may lack its new key:
//! only an error of two successive looks counts. A file system that hangs is an error too, see `reads`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::deployment::Known;
use super::read_file;
use crate::config::{Endpoint, PasswordError, Secret, SecretSource};
use crate::logs::LogCode;
use crate::rt;
use crate::server::error::Error;
use crate::server::tls;

/// Interval of looks; the files are small.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

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
    /// The password as it was last read; `None` before the first look.
    pub(super) fn password(&self) -> Option<Secret> {
        self.password.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The watch of an endpoint that runs.
#[derive(Debug)]
pub(super) struct RunningWatch {
    endpoint: Endpoint,
    watch: Weak<FileWatch>,
}

/// Keeps the endpoint's files watched while the result is held; `None` if there are none. Connections of one endpoint
/// share a watch.
pub(super) fn watch(endpoint: &Endpoint, known: &Arc<Known>) -> Option<Arc<FileWatch>> {
    if endpoint.tls.is_none() && !matches!(endpoint.password, SecretSource::File(_)) {
        return None;
    }
    let mut running = known.watch();
    let same = running.as_ref().filter(|running| running.endpoint == *endpoint);
    if let Some(watch) = same.and_then(|running| running.watch.upgrade()) {
        return Some(watch);
    }
    let (token, password) = (CancellationToken::new(), Arc::default());
    let (watched, known, stopped, found) =
        (endpoint.clone(), known.clone(), token.clone(), Arc::clone(&password));
    rt::spawn("watch over files", async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = look_again_and_again(&watched, &known, &found) => {}
        }
    });
    let watch = Arc::new(FileWatch { password, _stop: token.drop_guard() });
    *running = Some(RunningWatch { endpoint: endpoint.clone(), watch: Arc::downgrade(&watch) });
    Some(watch)
}

async fn look_again_and_again(endpoint: &Endpoint, known: &Arc<Known>, password: &Mutex<Option<Secret>>) {
    let mut failed = [false; FileKind::ALL.len()];
    loop {
        sleep(LOOK_INTERVAL).await;
        for kind in FileKind::ALL {
            let error = look(kind, endpoint, known, password).await.err();
            let failed_before = std::mem::replace(&mut failed[kind as usize], error.is_some());
            if error.is_none() || failed_before {
                known.report_files(endpoint, kind, error.as_ref());
            }
        }
    }
}

async fn look(
    kind: FileKind,
    endpoint: &Endpoint,
    known: &Arc<Known>,
    password: &Mutex<Option<Secret>>,
) -> Result<(), Error> {
    match (kind, &endpoint.password, &endpoint.tls) {
        (FileKind::Password, SecretSource::File(path), _) => {
            let found = read_file(endpoint, path, known).await?;
            *password.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
            Ok(())
        }
        (FileKind::Tls, _, Some(files)) => {
            tls::read(endpoint, files, known).await.map(drop).map_err(Error::Tls)
        }
        _ => Ok(()),
    }
}

/// The error of a password's file, with the option that names it.
pub(super) fn unreadable(endpoint: &Endpoint, path: &Path, error: &PasswordError) -> Error {
    Error::Secret {
        key: endpoint.key("password_file"),
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}
