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

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::route_flags::{ConfigurationPlace, RouteFlags};
use crate::config::{Daemon, Loaded, Problems};
use crate::logs::LogCode;
use crate::metrics::Metrics;
use crate::observe::http::{self, ServedState};
use crate::observe::report::About;
use crate::observe::systemd::{Beat, Environment, Notifier};
use crate::spool::{Keeper, Pool, SpoolError, StatePlace};
use crate::status::{Board, FailedReload};
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

/// Runs the daemon until it is told to stop.
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

    let mut reading: Option<ReloadFuture> = None;
    loop {
        tokio::select! {
            biased;
            signal = signals.stop() => {
                tracing::info!(event = LogCode::Stopping.as_str(), signal, "graceful shutdown: buffered messages are stored or spooled, then tidegate exits");
                break;
            }
            read = finished(&mut reading) => {
                reading = None;
                reload(read, &metrics, &board, &mut supervisor);
                notifier.ready(&board);
            }
            () = signals.reload(), if reading.is_none() => {
                notifier.reloading();
                reading = Some(read(&place));
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

/// Takes the state directory, and which instance this is: the same as before a restart. Without a directory
/// that can be written, capture works, with less to fall back on.
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

/// Takes the state directory once it can be written, where that was not so at the start, and shows it meanwhile
/// where it is `needed`. The routes' spools then open by themselves.
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

/// The configuration as it is read again.
type ReloadFuture = Pin<Box<dyn Future<Output = Result<Loaded, Problems>> + Send>>;

/// Begins to read the configuration. Reading files may block; the routes continue meanwhile.
fn read(place: &ConfigurationPlace) -> ReloadFuture {
    let place = place.clone();
    Box::pin(rt::blocking("configuration", move || place.read()))
}

/// Comes back with what was read; never where nothing is being read. Cancel safe.
async fn finished(reading: &mut Option<ReloadFuture>) -> Result<Loaded, Problems> {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

/// Goes over to a configuration that was read again; a bad one is told and changes nothing.
fn reload(read: Result<Loaded, Problems>, metrics: &Metrics, board: &Board, supervisor: &mut Supervisor) {
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

/// Two signals within this time are one request: `timeout`, for one, signals the process and its group.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// The requests to stop so far.
#[derive(Debug, Default)]
struct StopRequests {
    first: Option<Instant>,
}

impl StopRequests {
    /// Takes in a signal. Returns whether it is a second request.
    fn on_signal(&mut self, now: Instant) -> bool {
        now.saturating_duration_since(*self.first.get_or_insert(now)) > SAME_REQUEST
    }
}

/// What the signals so far ask for. Signals of one kind are one.
struct Signals {
    stop: watch::Receiver<Option<i32>>,
    reload: Arc<Notify>,
}

impl Signals {
    /// Begins to listen for them. A second request to stop ends the process at once.
    fn listen() -> std::io::Result<Self> {
        let (stop, stopped) = watch::channel(None);
        let reload = Arc::new(Notify::new());
        let reloads = reload.clone();
        let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut requests = StopRequests::default();
            for signal in signals.forever() {
                if signal == SIGHUP {
                    reloads.notify_one();
                    continue;
                }
                stop.send_replace(Some(signal));
                if requests.on_signal(Instant::now()) {
                    tracing::warn!(
                        event = LogCode::StoppedAtOnce.as_str(),
                        signal,
                        "second signal: tidegate exits at once, and buffered messages that are not in the spool are lost"
                    );
                    logs::flush();
                    std::process::exit(i32::from(super::FAILED));
                }
            }
        })?;
        Ok(Self { stop: stopped, reload })
    }

    /// Comes back with the signal that asks to stop. Cancel safe.
    async fn stop(&self) -> i32 {
        match self.stop.clone().wait_for(Option::is_some).await.as_deref() {
            Ok(Some(signal)) => *signal,
            // The thread ends with the process only.
            _ => std::future::pending().await,
        }
    }

    /// Comes back when the configuration is to be read again. Cancel safe.
    async fn reload(&self) {
        self.reload.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_comes_twice_at_once_is_one_request() {
        let mut requests = StopRequests::default();
        let begin = Instant::now();
        assert!(!requests.on_signal(begin));
        assert!(!requests.on_signal(begin + Duration::from_millis(1)));
        assert!(requests.on_signal(begin + Duration::from_secs(1)));
    }
}
