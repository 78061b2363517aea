//! Messages to systemd: when the daemon is ready, which routes are not live, and that its loops run.
//!
//! **Problem.** `Type=notify` with a watchdog must restart a daemon whose loops are stuck, but not one whose Redis is
//! down: that would drop its buffered messages.
//!
//! **Operation.** [`Notifier`] sends single messages and is cheap to clone. [`Beat`] runs every second; it sends
//! `STATUS=` when that has changed, and `WATCHDOG=1` at a third of the time that systemd allows, while every loop on
//! the board runs ([`stuck`]). Socket and time are arguments, so tests read their own socket and move their own clock.
//!
//! **Failure.** A message that cannot be sent is logged and not repeated; the next `WATCHDOG=1` replaces a lost one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::readiness::{daemon_ready, ready, stuck, time};
use crate::logs::{Limited, LogCode};
use crate::rt;
use crate::status::Board;

/// How often [`Beat`] is asked, unless the watchdog is faster: a state change shows within a second.
const TICK: Duration = Duration::from_secs(1);

/// systemd reads its socket at once. A full queue is waited for, since a lost READY fails the start,
/// but not for longer than a worker thread may be held up.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest status on one line; systemd itself cuts far later.
const MAX_STATUS_CHARS: usize = 512;

/// Sends messages to the service manager, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Notifier(Option<Arc<Target>>);

#[derive(Debug)]
struct Target {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// Sends to the socket that `$NOTIFY_SOCKET` names: a path, or `@` and an abstract name.
    ///
    /// # Errors
    /// If the name is neither, or there is no socket to send from.
    pub fn to(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "neither a path nor an abstract name",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self(Some(Arc::new(Target { socket, address }))))
    }

    /// Start-up or a reload is finished. The board's status goes out with it, so that the service manager never shows
    /// an old one.
    pub fn ready(&self, board: &Board) {
        let status = status_line(board, rt::unix_ms());
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// The configuration is being read again. Send [`Notifier::ready`] when that is done, whatever came
    /// of it. The time is what `Type=notify-reload` wants too.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => complain(&error),
        }
    }

    /// The daemon is stopping in order.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = self.send(states) {
            complain(&error);
        }
    }

    fn send(&self, states: &[NotifyState<'_>]) -> io::Result<()> {
        let Some(target) = &self.0 else { return Ok(()) };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        target.socket.send_to_addr(message.as_bytes(), &target.address)?;
        Ok(())
    }
}

fn complain(error: &io::Error) {
    tracing::warn!(event = LogCode::SystemdNotify.as_str(), %error, "cannot notify systemd; it may treat the start or reload as failed");
}

/// systemd's variables in a service's environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The socket's path.
    pub notify_socket: Option<OsString>,
    /// Within what time `WATCHDOG=1` must come, again and again.
    pub watchdog: Option<Duration>,
}

impl Environment {
    /// Reads it with `variable` (`std::env::var_os` in `main`). A watchdog that is meant for another
    /// process (`WATCHDOG_PID`) is not ours.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let ours = match variable("WATCHDOG_PID") {
            None => true,
            Some(_) => number("WATCHDOG_PID") == Some(u64::from(std::process::id())),
        };
        Self {
            notify_socket: variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()),
            watchdog: number("WATCHDOG_USEC").filter(|usec| *usec > 0 && ours).map(Duration::from_micros),
        }
    }

    /// A notifier for it; without a usable socket one that sends nothing, with a warning.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        let made = self.notify_socket.as_deref().map(Notifier::to).transpose();
        made.unwrap_or_else(|error| {
            complain(&error);
            None
        })
        .unwrap_or_default()
    }
}

/// The regular messages.
#[derive(Debug)]
pub struct Beat {
    notifier: Notifier,
    board: Board,
    /// A third of the time that systemd allows: two may be late or lost.
    watchdog_every: Option<Duration>,
    watchdog_due: Option<Instant>,
    status: String,
    limited: Limited,
}

impl Beat {
    /// `watchdog` is the time that systemd allows, [`Environment::watchdog`].
    #[must_use]
    pub fn new(notifier: Notifier, watchdog: Option<Duration>, board: Board) -> Self {
        Self {
            notifier,
            board,
            watchdog_every: watchdog.map(|allowed| allowed / 3),
            watchdog_due: None,
            status: String::new(),
            limited: Limited::new(),
        }
    }

    /// Beats until it is stopped; keep it running through the drain, or systemd takes a long drain for a hang. Cancel
    /// safe.
    pub async fn run(mut self, stop: CancellationToken) {
        let every = self.watchdog_every.map_or(TICK, |every| every.min(TICK)).max(Duration::from_millis(1));
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.tick(Instant::now(), rt::unix_ms());
        }
    }

    /// Sends what is due: `now` paces the messages, `now_unix_ms` is compared with the board.
    pub fn tick(&mut self, now: Instant, now_unix_ms: u64) {
        let status = status_line(&self.board, now_unix_ms);
        if status != self.status {
            self.send(&NotifyState::Status(&status), now);
            self.status = status;
        }
        let Some(every) = self.watchdog_every else { return };
        if self.watchdog_due.is_some_and(|due| now < due) {
            return;
        }
        self.watchdog_due = Some(now + every);
        let stuck = stuck(&self.board, now_unix_ms);
        if stuck.is_empty() {
            self.send(&NotifyState::Watchdog, now);
            return;
        }
        if let Some(suppressed) = self.limited.admit(LogCode::LoopStuck.as_str(), now) {
            for loop_ in stuck {
                tracing::error!(
                    event = LogCode::LoopStuck.as_str(),
                    route = loop_.route,
                    since = time(loop_.since_unix_ms),
                    suppressed,
                    "the event loop of the route is stuck; tidegate stops notifying the watchdog, so systemd restarts it. This is a bug, please report it"
                );
            }
        }
    }

    fn send(&mut self, state: &NotifyState<'_>, now: Instant) {
        if let Err(error) = self.notifier.send(std::slice::from_ref(state))
            && self.limited.admit(LogCode::SystemdNotify.as_str(), now).is_some()
        {
            complain(&error);
        }
    }
}

/// The numbers of ready, running and disabled routes, and why others are not ready. It changes only with them.
fn status_line(board: &Board, now_unix_ms: u64) -> String {
    let slots = board.running();
    let disabled = board.slots().len() - slots.len();
    let unready: Vec<String> = slots
        .iter()
        .filter_map(|(name, slot)| {
            let reasons = ready(&slot.read(), now_unix_ms).err()?;
            Some(format!("{name}: {}", reasons.join(", ")))
        })
        .collect();
    let mut line = format!("{} of {} routes ready", slots.len() - unready.len(), slots.len());
    if disabled > 0 {
        line.push_str(&format!(", {disabled} disabled"));
    }
    let daemon = board.daemon();
    if let Some(refused) = &daemon.reload_failed {
        let (runs, at) = (time(daemon.configuration_unix_ms), time(refused.at_unix_ms));
        let problems =
            if refused.problems == 1 { "1 problem" } else { &format!("{} problems", refused.problems) };
        line.push_str(&format!(
            "; the configuration of {runs} is in use: the reload at {at} failed ({problems}, `tidegate check` prints them)"
        ));
    }
    for reason in daemon_ready(&daemon).err().unwrap_or_default() {
        line.push_str("; ");
        line.push_str(&reason);
    }
    for route in unready {
        line.push_str("; ");
        line.push_str(&route);
    }
    // A reason quotes a server, and a line break would begin another message to systemd.
    let mut plain: String =
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_STATUS_CHARS).collect();
    if line.chars().nth(MAX_STATUS_CHARS).is_some() {
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{FailedReload, RouteKind, RouteState, RouteStatus};

    #[test]
    fn the_environment_is_read_and_another_process_s_watchdog_is_not_ours() {
        let read = |pairs: &[(&str, &str)]| {
            Environment::read(|name| {
                pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
            })
        };
        assert_eq!(read(&[]), Environment::default());
        let own = std::process::id().to_string();
        let seconds = Some(Duration::from_secs(30));
        assert_eq!(
            read(&[("NOTIFY_SOCKET", "/run/x"), ("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", &own)]),
            Environment { notify_socket: Some("/run/x".into()), watchdog: seconds }
        );
        assert_eq!(read(&[("WATCHDOG_USEC", "30000000")]).watchdog, seconds);
        assert_eq!(read(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "1")]).watchdog, None);
        assert_eq!(read(&[("WATCHDOG_USEC", "0")]).watchdog, None);
        assert_eq!(read(&[("WATCHDOG_USEC", "soon")]).watchdog, None);
    }

    #[test]
    fn a_socket_that_cannot_be_used_is_refused() {
        assert!(Notifier::to(OsStr::new("vsock:2:1")).is_err());
        assert!(Notifier::to(OsStr::new("@tidegate-test")).is_ok());
    }

    #[test]
    fn the_status_line_says_which_configuration_runs_and_what_the_process_lacks() {
        let board = Board::default();
        board.update_daemon(|daemon| {
            daemon.configuration_unix_ms = 1_000;
            daemon.reload_failed = Some(FailedReload { at_unix_ms: 60_000, problems: 2 });
            daemon.state_directory_error = Some("the state directory /x cannot be written".to_owned());
        });
        assert_eq!(
            status_line(&board, 0),
            "0 of 0 routes ready; the configuration of 1970-01-01T00:00:01Z is in use: the reload at 1970-01-01T00:01:00Z \
             failed (2 problems, `tidegate check` prints them); the state directory /x cannot be written"
        );
    }

    #[test]
    fn the_status_line_is_one_short_line_whatever_a_server_says() {
        let board = Board::default();
        assert_eq!(status_line(&board, 0), "0 of 0 routes ready");
        let off = board.place(RouteStatus::new("stock", RouteKind::Broadcast, "events", "shop", 0));
        off.update(|status| status.state = RouteState::Disabled);
        assert_eq!(status_line(&board, 0), "0 of 0 routes ready, 1 disabled");
        board.remove("stock");
        let slot = board.place(RouteStatus::new("orders", RouteKind::Capture, "shop", "events", 0));
        slot.update(|status| {
            status.state = RouteState::Blocked;
            status.reason = Some(format!("said\nSTOPPING=1 {}", "é".repeat(2_000)));
        });
        let line = status_line(&board, 0);
        assert!(
            line.starts_with(
                "0 of 1 routes ready; orders: blocked since 1970-01-01T00:00:00Z: said STOPPING=1"
            ),
            "{line}"
        );
        assert!(!line.contains('\n'));
        assert_eq!(line.chars().count(), MAX_STATUS_CHARS + 1);
    }
}
