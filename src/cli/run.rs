//! `tidegate run`: the daemon's life.
//!
//! ```text
//! configuration (78) ─▶ logs ─▶ listener ─▶ routes ─▶ READY ─▶ signals … ─▶ drain ─▶ exit 0
//!                                                       SIGHUP: reload, bad ones change nothing
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Loaded};
use crate::metrics::Metrics;
use crate::observe::http::{self, View};
use crate::observe::report::About;
use crate::observe::systemd::{Beat, Environment, Notifier};
use crate::spool::{SpoolError, StateDirectory};
use crate::status::Board;
use crate::supervisor::Supervisor;
use crate::{logs, observe, rt};

/// A dead Redis must not hold up boot: after this READY comes, whatever is not live yet.
const READY_AT_THE_LATEST: Duration = Duration::from_secs(10);

/// Signals that may wait for the loop; more of the same say nothing new.
const SIGNALS: usize = 8;

/// Runs the daemon until it is told to stop.
pub(super) fn run(path: &Path) -> u8 {
    let loaded = match super::load(path) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logs::init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed("cannot start the runtime", &error),
    };
    let signals = match signals() {
        Ok(signals) => signals,
        Err(error) => return failed("cannot listen for signals", &error),
    };
    runtime.block_on(async {
        let listen = loaded.config.daemon.listen;
        match TcpListener::bind(listen).await {
            Ok(listener) => live(path, loaded, listener, signals).await,
            Err(error) => failed(
                &format!(
                    "cannot listen on {listen} (daemon.listen): choose a free port or stop what holds it"
                ),
                &error,
            ),
        }
    })
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> u8 {
    tracing::error!(event = "start_failed", "{what}: {error}");
    super::FAILED
}

async fn live(path: &Path, loaded: Loaded, listener: TcpListener, mut signals: mpsc::Receiver<i32>) -> u8 {
    let environment = Environment::read(|name| std::env::var_os(name));
    let notifier = environment.notifier();
    let board = Board::default();
    let metrics = Metrics::new();
    metrics.config_reload_success.set(1.0);
    let (place, instance) = match state_directory(&loaded.config.daemon.state_directory) {
        Ok(found) => found,
        Err(error) => return failed("the state directory is in use", &error),
    };
    let about = About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: format!("{instance:016x}"),
        started_unix_ms: rt::unix_ms(),
        configuration: path.to_owned(),
    };
    tracing::info!(
        event = "starting",
        version = about.version,
        instance = about.instance,
        files = ?loaded.files,
        captures = loaded.config.capture.len(),
        broadcasts = loaded.config.broadcast.len(),
        listen = %loaded.config.daemon.listen,
        "tidegate starts"
    );

    // Before anybody can ask: a daemon without a route on its board would call itself ready.
    let mut supervisor = Supervisor::start(loaded.config, instance, place, board.clone(), metrics.clone());
    // These outlive the routes: a long drain is watched and can be looked at.
    let last = CancellationToken::new();
    let view = View { about, board: board.clone(), metrics: metrics.clone() };
    let services = [
        rt::spawn("http", http::serve(listener, view, last.clone())),
        rt::spawn("metrics upkeep", observe::upkeep(metrics.clone(), last.clone())),
        rt::spawn(
            "service manager",
            Beat::new(notifier.clone(), environment.watchdog, board.clone()).run(last.clone()),
        ),
    ];
    let ready = rt::spawn("ready", announce_ready(notifier.clone(), board.clone()));

    while let Some(signal) = signals.recv().await {
        if signal != SIGHUP {
            tracing::info!(event = "stopping", signal, "stores what is in hand and ends");
            break;
        }
        reload(path, &notifier, &metrics, &mut supervisor).await;
    }
    ready.abort();
    notifier.stopping();
    supervisor.drain().await;
    last.cancel();
    for service in services {
        // They end at once when told to; the process ends with or without them.
        let _ = tokio::time::timeout(Duration::from_secs(1), service).await;
    }
    tracing::info!(event = "stopped", "tidegate ends");
    super::OK
}

/// Takes the state directory, and which instance this is: the same as before a restart. Without a directory
/// that can be written, capture works, with less to fall back on.
fn state_directory(path: &Path) -> Result<(Option<StateDirectory>, u64), SpoolError> {
    let opened = StateDirectory::open(path).and_then(|place| {
        let instance = place.instance()?;
        Ok((place, instance))
    });
    match opened {
        Ok((place, instance)) => Ok((Some(place), instance)),
        Err(error @ SpoolError::Locked { .. }) => Err(error),
        Err(error) => {
            tracing::warn!(
                event = "no_state_directory",
                "{error}; tidegate works without: what memory cannot hold while a destination is away is lost \
                 inside a recorded gap, and a crash loses what is in hand. Make the directory writable, or \
                 set state_directory in [daemon]"
            );
            Ok((None, fastrand::u64(..)))
        }
    }
}

/// Says READY once every route has tried its endpoints, or after a while.
async fn announce_ready(notifier: Notifier, board: Board) {
    let tried = async {
        while !board.slots().iter().all(|(_, slot)| slot.was_tried()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let all = tokio::time::timeout(READY_AT_THE_LATEST, tried).await.is_ok();
    notifier.ready();
    tracing::info!(event = "ready", every_route_tried = all, "tidegate is ready");
}

/// Reads the configuration again; a bad one is told and changes nothing.
async fn reload(path: &Path, notifier: &Notifier, metrics: &Metrics, supervisor: &mut Supervisor) {
    notifier.reloading();
    let file: PathBuf = path.to_owned();
    // Reading files may block; the routes go on meanwhile.
    let read = tokio::task::spawn_blocking(move || config::load(&file, super::environment(), &[])).await;
    match read {
        Ok(Ok(loaded)) => {
            supervisor.reload(loaded.config).await;
            metrics.config_reload_success.set(1.0);
            tracing::info!(event = "reloaded", files = ?loaded.files, "the new configuration runs");
        }
        Ok(Err(problems)) => {
            metrics.config_reload_success.set(0.0);
            tracing::error!(
                event = "reload_refused",
                "the configuration has problems, the one before goes on: {problems}"
            );
        }
        Err(error) => {
            metrics.config_reload_success.set(0.0);
            tracing::error!(event = "reload_refused", "the configuration could not be read: {error}");
        }
    }
    notifier.ready();
}

/// Signals as they come. A second one that asks to stop ends the process at once.
fn signals() -> std::io::Result<mpsc::Receiver<i32>> {
    let (sender, receiver) = mpsc::channel(SIGNALS);
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if signal != SIGHUP && std::mem::replace(&mut stopping, true) {
                tracing::warn!(
                    event = "stopped_at_once",
                    signal,
                    "told twice to stop: what is in hand is given up"
                );
                std::process::exit(i32::from(super::FAILED));
            }
            // A full queue holds a signal of the same kind already.
            let _ = sender.try_send(signal);
        }
    })?;
    Ok(receiver)
}
