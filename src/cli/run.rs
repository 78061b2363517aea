//! `tidegate run`: the daemon's life.
//!
//! ```text
//! configuration (78) ─▶ logs ─▶ listener ─▶ routes ─▶ READY ─▶ signals … ─▶ drain ─▶ exit 0
//!                                                       SIGHUP: reload, bad ones change nothing
//! ```
//!
//! A signal is acted on at once, whatever else is under way: reading the configuration is left where it is, and routes
//! end in the background. A SIGHUP that comes while the configuration is read has it read once more, several as one.

mod preparations;
mod reload;
mod signals;

use std::path::Path;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use reload::PendingReload;
use signals::Signals;

use super::route_flags::{ConfigurationPlace, RouteFlags};
use crate::config::{Daemon, Loaded};
use crate::logs::LogCode;
use crate::metrics::Metrics;
use crate::observe::http::{self, ServedState};
use crate::observe::report::About;
use crate::observe::systemd::{Beat, Environment, Notifier};
use crate::spool::{Keeper, Pool, SpoolError, StatePlace};
use crate::status::Board;
use crate::supervisor::Supervisor;
use crate::{logs, observe, rt};

/// A dead Redis must not hold up boot: after this READY comes, whatever is not live yet.
const READY_AT_THE_LATEST: Duration = Duration::from_secs(10);

/// Between two tries to take a state directory that could not be written.
const STATE_DIRECTORY_AGAIN: Duration = Duration::from_secs(5);

/// How long the end of the process waits for threads that read files. One that hangs ends with the process.
const THREADS_END_WITHIN: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    pub(super) route: RouteFlags,
}

/// Runs the daemon until a signal stops it.
pub(super) fn run(place: ConfigurationPlace) -> u8 {
    let loaded = match place.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logs::init();
    let code = prepared(place, loaded);
    logs::flush();
    code
}

/// The rest, with logs.
fn prepared(place: ConfigurationPlace, loaded: Loaded) -> u8 {
    preparations::raise_open_files();
    preparations::tell_of_readable_secrets(&loaded.config);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed("cannot start the runtime", &error),
    };
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return failed("cannot listen for signals", &error),
    };
    let code = runtime.block_on(async {
        let listen = loaded.config.daemon.listen;
        match TcpListener::bind(listen).await {
            Ok(listener) => live(place, loaded, listener, signals).await,
            Err(error) => failed(
                &format!(
                    "cannot listen on {listen} (daemon.listen); choose a free port, or stop the program that uses it"
                ),
                &error,
            ),
        }
    });
    runtime.shutdown_timeout(THREADS_END_WITHIN);
    code
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> u8 {
    tracing::error!(event = LogCode::StartFailed.as_str(), "{what}: {error}");
    super::FAILED
}

async fn live(place: ConfigurationPlace, loaded: Loaded, listener: TcpListener, signals: Signals) -> u8 {
    let environment = Environment::read(|name| std::env::var_os(name));
    let notifier = environment.notifier();
    let board = Board::default();
    let metrics = Metrics::new();
    metrics.config_reload_success.set(1.0);
    let (state, instance) = match state_directory(&loaded.config.daemon.state_directory) {
        Ok(found) => found,
        Err(error) => return failed("the state directory is in use", &error),
    };
    let pool = match Pool::start() {
        Ok(pool) => pool,
        Err(error) => return failed("cannot start a thread for the spools", &error),
    };
    show_configuration(&board, &loaded.config.daemon);
    let keeper = Keeper { state: state.clone(), pool };
    let about = About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: format!("{instance:016x}"),
        started_unix_ms: rt::unix_ms(),
        configuration: place.shown().to_owned(),
    };
    tracing::info!(
        event = LogCode::Starting.as_str(),
        version = about.version,
        instance = about.instance,
        files = ?loaded.files,
        captures = loaded.config.capture.len(),
        broadcasts = loaded.config.broadcast.len(),
        invalidations = loaded.config.invalidate.len(),
        disabled = ?loaded.config.disabled,
        listen = %loaded.config.daemon.listen,
        "tidegate is starting"
    );
    let warnings = place.warning().into_iter().chain(super::warnings::of_settings(&loaded.config));
    for text in warnings.chain(super::warnings::of_environment(super::environment())) {
        tracing::warn!(event = LogCode::ConfigurationWarning.as_str(), "{text}");
    }

    let hosts = loaded.config.daemon.hosts.clone();
    let spools = loaded.config.daemon.spool.limit > 0 && !loaded.config.capture.is_empty();
    // Before anybody can ask: a daemon without a route on its board would call itself ready.
    let mut supervisor =
        Supervisor::start(loaded.config, instance, Some(keeper), board.clone(), metrics.clone());
    // These outlive the routes: a long drain is watched and can be looked at.
    let last = CancellationToken::new();
    let view = ServedState { about, board: board.clone(), metrics: metrics.clone(), hosts };
    let services = [
        rt::spawn("state directory", take_state_directory(state, spools, board.clone(), last.clone())),
        rt::spawn("http", http::serve(listener, view, last.clone())),
        rt::spawn("metrics upkeep", observe::upkeep(metrics.clone(), last.clone())),
        rt::spawn(
            "service manager",
            Beat::new(notifier.clone(), environment.watchdog, board.clone()).run(last.clone()),
        ),
    ];
    let ready = rt::spawn("ready", announce_ready(notifier.clone(), board.clone()));

    let mut reading: Option<PendingReload> = None;
    loop {
        tokio::select! {
            biased;
            signal = signals.stop() => {
                tracing::info!(event = LogCode::Stopping.as_str(), signal, "graceful shutdown: buffered messages are stored or spooled, then tidegate exits");
                break;
            }
            read = reload::finished(&mut reading) => {
                reading = None;
                reload::apply(read, &metrics, &board, &mut supervisor);
                notifier.ready(&board);
            }
            () = signals.reload(), if reading.is_none() => {
                notifier.reloading();
                reading = Some(reload::read(&place));
            }
            () = supervisor.settle() => {}
        }
    }
    ready.abort();
    notifier.stopping();
    supervisor.drain().await;
    last.cancel();
    for service in services {
        // They end at once when told to; the process ends with or without them.
        let _ = tokio::time::timeout(Duration::from_secs(1), service).await;
    }
    tracing::info!(event = LogCode::Stopped.as_str(), "tidegate has stopped");
    super::OK
}

/// Opens the state directory and reads this instance's id, which outlives a restart. If the directory cannot be written,
/// the id is random and captures work without a spool.
fn state_directory(path: &Path) -> Result<(StatePlace, u64), SpoolError> {
    let state = StatePlace::open(path)?;
    let instance = state.get().and_then(|place| place.instance().map_err(|error| error.to_string()));
    let instance = instance.unwrap_or_else(|error| {
        tracing::warn!(
            event = LogCode::NoStateDirectory.as_str(),
            "{error}; tidegate runs without a spool: during an outage of a destination, messages that exceed memory are lost \
             (gap recorded), and a crash loses buffered messages. Make the directory writable, or \
             set state_directory in [daemon]; it is tried again every 5 s"
        );
        fastrand::u64(..)
    });
    Ok((state, instance))
}

/// Tries again to open a state directory that could not be written at the start. Until that succeeds, the status shows
/// the error if the directory is `needed`. The routes' spools then open by themselves.
async fn take_state_directory(state: StatePlace, needed: bool, board: Board, stop: CancellationToken) {
    let error = |state: &StatePlace| state.error().filter(|_| needed);
    while state.get().is_err() {
        board.update_daemon(|daemon| daemon.state_directory_error = error(&state));
        if stop.run_until_cancelled(tokio::time::sleep(STATE_DIRECTORY_AGAIN)).await.is_none() {
            return;
        }
        let tried = state.clone();
        if rt::blocking("state directory", move || tried.retry()).await.is_ok() {
            tracing::info!(
                event = LogCode::StateDirectoryAvailable.as_str(),
                "the state directory is writable now"
            );
        }
    }
    board.update_daemon(|daemon| daemon.state_directory_error = None);
}

/// Shows which configuration runs.
fn show_configuration(board: &Board, daemon: &Daemon) {
    board.update_daemon(|status| {
        status.configuration_unix_ms = rt::unix_ms();
        status.reload_failed = None;
        status.memory_limit_bytes = daemon.memory_limit;
    });
}

/// Says READY once every route has tried its endpoints, or after a while.
async fn announce_ready(notifier: Notifier, board: Board) {
    let tried = async {
        while !board.running().iter().all(|(_, slot)| slot.was_tried()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let all = tokio::time::timeout(READY_AT_THE_LATEST, tried).await.is_ok();
    notifier.ready(&board);
    tracing::info!(event = LogCode::Ready.as_str(), every_route_tried = all, "tidegate is ready");
}
