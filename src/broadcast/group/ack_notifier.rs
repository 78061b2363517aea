//! The acknowledgement notifier: commands in the replication stream wake a route that waits for acknowledgements.
//!
//! Problem: polling a server for acknowledgements is either late or costly.
//!
//! Constraints: a command proves nothing. XACK is in the replication stream for ids that were never delivered, too, and
//! the effect of a script or of another group's command may be missing there. So a command only wakes the route; a poll
//! of the group decides what is acknowledged.
//!
//! Operation: a task of its own reads the link and notifies the route. It passes no data, so nothing can queue up. It
//! remembers its offset while it runs, so a link that breaks continues without a new snapshot. An idle server writes
//! nothing, so after a silence the task asks how far the server has written its stream.
//!
//! Failure: without a link the route polls, and logs it. The task opens the link again by itself.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Endpoint, Prefer};
use crate::logs::{Limited, LogCode};
use crate::rt;
use crate::server::{BLOCKED_RETRY, Backoff, Class, Error, MasterMoves};
use crate::source::replication::{LinkStart, ReplicationLink, ReplicationOffset};

/// Interval of the link's acknowledgements.
const TICK: Duration = Duration::from_secs(1);
/// Silence after which the server is asked whether it has written anything: if not, silence is right. It sends a PING
/// each `repl-ping-replica-period`, by default 10 s, but that may be hours.
const SILENCE: Duration = Duration::from_secs(15);
/// Time for bytes that the server had written to arrive; otherwise the link is dead.
const ARRIVAL: Duration = Duration::from_secs(5);

/// A link that rings. Dropping it ends the link.
#[derive(Debug)]
pub(crate) struct AckNotifier {
    notification: Arc<Notification>,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
struct Notification {
    notify: Notify,
    /// True while the link is up: otherwise there are no notifications.
    up: AtomicBool,
}

impl AckNotifier {
    /// Begins to read what happens to a group of a stream.
    pub(crate) fn start(endpoint: Arc<Endpoint>, route: String, stream: &str, group: &str) -> Self {
        let (notification, stop) = (Arc::new(Notification::default()), CancellationToken::new());
        let watched = (stream.as_bytes().to_vec(), group.as_bytes().to_vec());
        let reader =
            CommandReader { endpoint, route, watched, notification: Arc::clone(&notification), place: None };
        let stopped = stop.clone();
        rt::spawn("wake", async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = reader.run() => {}
            }
        });
        Self { notification, _stop: stop.drop_guard() }
    }

    /// Ready once something has happened since the last call. Cancel safe.
    pub(crate) async fn notified(&self) {
        self.notification.notify.notified().await;
    }

    /// Returns whether it would ring.
    pub(crate) fn is_up(&self) -> bool {
        self.notification.up.load(Ordering::Relaxed)
    }
}

struct CommandReader {
    endpoint: Arc<Endpoint>,
    route: String,
    watched: (Vec<u8>, Vec<u8>),
    notification: Arc<Notification>,
    place: Option<ReplicationOffset>,
}

impl CommandReader {
    async fn run(mut self) {
        let (mut backoff, mut log) = (Backoff::default(), Limited::new());
        let mut moves = MasterMoves::of(self.endpoint.clone());
        loop {
            let error = match self.open().await {
                Ok(link) => {
                    backoff.reset();
                    self.set_up(true);
                    let error = self.read(link).await;
                    self.set_up(false);
                    error
                }
                Err(error) => error,
            };
            if let Some(suppressed) =
                log.admit(LogCode::BroadcastReplicationLost.as_str(), std::time::Instant::now())
            {
                tracing::warn!(
                    event = LogCode::BroadcastReplicationLost.as_str(),
                    route = %self.route,
                    server = %self.endpoint.name,
                    class = error.class().as_str(),
                    suppressed,
                    "cannot read the replication stream: {error}; tidegate polls for acknowledgements until it can"
                );
            }
            let wait = if error.class() == Class::Block { BLOCKED_RETRY } else { backoff.next_wait() };
            moves.wait(wait, &mut backoff).await;
        }
    }

    /// Rings too, since the route then polls at another interval.
    fn set_up(&self, up: bool) {
        self.notification.up.store(up, Ordering::Relaxed);
        self.notification.notify.notify_one();
    }

    fn role(&self) -> String {
        format!("broadcast.{}:replicate", self.route)
    }

    async fn open(&mut self) -> Result<ReplicationLink, Error> {
        let role = self.role();
        // No message is wanted, so none is ever held.
        let opened =
            ReplicationLink::open(&self.endpoint, &role, Prefer::Replica, self.place.as_ref(), 0).await;
        let (mut link, start) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // An unreachable server says nothing about the offset; one that answers with nonsense may.
                if matches!(error, Error::Protocol(_)) {
                    self.place = None;
                }
                return Err(error);
            }
        };
        link.watch(self.watched.0.clone(), self.watched.1.clone());
        match start {
            LinkStart::Continued => {}
            LinkStart::Forked { last, history } => {
                self.place = Some(ReplicationOffset { history, offset: last })
            }
            LinkStart::Anew { place, .. } => self.place = Some(place),
        }
        Ok(link)
    }

    /// Reads until the link ends; returns why.
    async fn read(&mut self, mut link: ReplicationLink) -> Error {
        // The first commands may have come with the end of the snapshot.
        if let Err(error) = self.take_in(&mut link) {
            return error;
        }
        let (mut heard, mut lags) = (Instant::now(), false);
        loop {
            let patience = if lags { ARRIVAL } else { TICK };
            match timeout(patience, poll_fn(|cx| link.poll_fill(cx))).await {
                Err(_) if lags => {
                    return Error::Timeout(ARRIVAL, "waiting for the replication stream to catch up");
                }
                Err(_) if heard.elapsed() > SILENCE => {
                    match link.written(&self.endpoint, &self.role()).await {
                        Ok(written) => lags = written > link.offset(),
                        Err(error) => return error,
                    }
                    heard = Instant::now();
                    continue;
                }
                Err(_) => continue,
                Ok(Err(error)) => return error,
                Ok(Ok(_)) => (heard, lags) = (Instant::now(), false),
            }
            let touched = match self.take_in(&mut link) {
                Ok(touched) => touched,
                Err(error) => return error,
            };
            if let Some(until) = link.rest(touched, heard.into_std()) {
                sleep_until(until.into()).await;
            }
        }
    }

    /// Takes in the link's commands. Returns whether the group was touched.
    fn take_in(&mut self, link: &mut ReplicationLink) -> Result<bool, Error> {
        link.next(|_, _| false)?;
        if let Some(place) = &mut self.place {
            place.offset = link.offset();
        }
        let touched = link.take_touched();
        if touched {
            self.notification.notify.notify_one();
        }
        Ok(touched)
    }
}
