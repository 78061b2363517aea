//! Signals: one of them stops the daemon, a second one ends it at once, and SIGHUP reloads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::{Notify, watch};

use crate::cli::FAILED;
use crate::logs::{self, LogCode};

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
pub(super) struct Signals {
    stop: watch::Receiver<Option<i32>>,
    reload: Arc<Notify>,
}

impl Signals {
    /// Begins to listen for them. A second request to stop ends the process at once.
    pub(super) fn listen() -> std::io::Result<Self> {
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
                    std::process::exit(i32::from(FAILED));
                }
            }
        })?;
        Ok(Self { stop: stopped, reload })
    }

    /// Comes back with the signal that asks to stop. Cancel safe.
    pub(super) async fn stop(&self) -> i32 {
        match self.stop.clone().wait_for(Option::is_some).await.as_deref() {
            Ok(Some(signal)) => *signal,
            // The thread ends with the process only.
            _ => std::future::pending().await,
        }
    }

    /// Comes back when the configuration is to be read again. Cancel safe.
    pub(super) async fn reload(&self) {
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
