//! A reload: the configuration is read again, and takes the place of the running one if it is valid.

use std::future::Future;
use std::pin::Pin;

use super::{preparations, show_configuration};
use crate::cli::route_flags::ConfigurationPlace;
use crate::config::{Loaded, Problems};
use crate::logs::LogCode;
use crate::metrics::Metrics;
use crate::rt;
use crate::status::{Board, FailedReload};
use crate::supervisor::Supervisor;

/// The configuration of a reload.
pub(super) type PendingReload = Pin<Box<dyn Future<Output = Result<Loaded, Problems>> + Send>>;

/// Begins to read the configuration. PendingReload files may block; the routes continue meanwhile.
pub(super) fn read(place: &ConfigurationPlace) -> PendingReload {
    let place = place.clone();
    Box::pin(rt::blocking("configuration", move || place.read()))
}

/// Comes back with what was read; never where nothing is being read. Cancel safe.
pub(super) async fn finished(reading: &mut Option<PendingReload>) -> Result<Loaded, Problems> {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

/// Applies a configuration that was read again. A bad one is logged and changes nothing.
pub(super) fn apply(
    read: Result<Loaded, Problems>,
    metrics: &Metrics,
    board: &Board,
    supervisor: &mut Supervisor,
) {
    match read {
        Ok(loaded) => {
            preparations::tell_of_readable_secrets(&loaded.config);
            show_configuration(board, &loaded.config.daemon);
            let disabled = loaded.config.disabled.clone();
            supervisor.reload(loaded.config);
            metrics.config_reload_success.set(1.0);
            tracing::info!(event = LogCode::Reloaded.as_str(), files = ?loaded.files, ?disabled, "the new configuration is in use");
        }
        Err(problems) => {
            metrics.config_reload_success.set(0.0);
            let refused = FailedReload { at_unix_ms: rt::unix_ms(), problems: problems.len() };
            board.update_daemon(|daemon| daemon.reload_failed = Some(refused));
            tracing::error!(
                event = LogCode::ReloadFailed.as_str(),
                "the new configuration is not valid, so the previous one stays in use: {problems}"
            );
        }
    }
}
