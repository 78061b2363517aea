//! Reads the files that connecting needs, the password, certificates and keys, and watches them.
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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::{Endpoint, PasswordError, Secret, SecretSource, read_password};
use crate::rt;
use crate::server::deployment::files::{FileKind, FileWatch, RunningWatch};
use crate::server::deployment::{self, Known};
use crate::server::error::Error;
use crate::server::{redacted, tls};

/// Interval of looks; the files are small.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Reads the files that a connection to this endpoint needs, and reports those that cannot be used. Cancel safe.
///
/// # Errors
/// If there is one.
pub(in crate::server) async fn check_files(endpoint: &Endpoint) -> Result<(), Error> {
    read_secret(endpoint, &deployment::of(endpoint)).await?;
    if let Some(settings) = &endpoint.tls {
        tls::current(endpoint, settings).await?;
    }
    Ok(())
}

pub(super) async fn read_secret(endpoint: &Endpoint, known: &Known) -> Result<Option<Secret>, Error> {
    match &endpoint.password {
        SecretSource::None => Ok(None),
        SecretSource::Inline(secret) | SecretSource::InConfiguration(secret, _) => {
            redacted::remember(secret.reveal());
            Ok(Some(secret.clone()))
        }
        SecretSource::File(path) => {
            let secret = read_file(endpoint, path, known).await;
            known.report_files(endpoint, FileKind::Password, secret.as_ref().err());
            secret.map(Some)
        }
    }
}

/// Reads the file with the password. Cancel safe.
async fn read_file(endpoint: &Endpoint, path: &Path, known: &Known) -> Result<Secret, Error> {
    let wanted = path.to_owned();
    let read = known.read(FileKind::Password, move || read_password(&wanted)).await;
    let secret = read
        .unwrap_or_else(|error| Err(PasswordError::Unreadable(error)))
        .map_err(|error| unreadable(endpoint, path, &error))?;
    redacted::remember(secret.reveal());
    Ok(secret)
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
    let watch = Arc::new(FileWatch::new(password, token.drop_guard()));
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
fn unreadable(endpoint: &Endpoint, path: &Path, error: &PasswordError) -> Error {
    Error::Secret {
        key: endpoint.key("password_file"),
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}
