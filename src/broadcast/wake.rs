//! What wakes a route that waits for acknowledgements: commands in the replication stream.
//!
//! Problem: asking a server over and over for acknowledgements is late or costly, and it tells nobody of one.
//!
//! Constraints: a command is no proof. XACK is in the replication stream for ids that were never delivered too,
//! and what a script or another group's command does to a group may not be. So a command only wakes: what is
//! acknowledged, a look decides.
//!
//! Operation: a task of its own reads the link and rings; it hands nothing over, so nothing can queue up. A
//! place is remembered while it runs, so that a link that breaks goes on without a new snapshot.
//!
//! Silence says nothing where nothing is written, so after a while of it the server is asked how far it has written
//! its stream.
//!
//! Failure: while there is no link the route polls, and says so. The link is tried again by itself.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::PARKED;
use crate::config::{Endpoint, Prefer};
use crate::logs::{Limited, LogCode};
use crate::replication::{Link, Place, Start};
use crate::rt;
use crate::server::{Backoff, Class, Error};

/// How often the link acknowledges, whatever comes.
const TICK: Duration = Duration::from_secs(1);
/// After so long a silence the server is asked whether it has written anything: where it has not, silence is right.
/// It sends a PING each `repl-ping-replica-period`, by default 10 s, but that may be hours.
const SILENCE: Duration = Duration::from_secs(15);
/// What the server had written when it was asked is to be here after this: else the link is dead.
const ARRIVAL: Duration = Duration::from_secs(5);

/// A link that rings. Dropping it ends the link.
#[derive(Debug)]
pub(super) struct Wake {
    bell: Arc<Bell>,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
struct Bell {
    notify: Notify,
    /// Whether the link is up: while it is not, nothing rings.
    up: AtomicBool,
}

impl Wake {
    /// Begins to read what happens to a group of a stream.
    pub(super) fn start(endpoint: Arc<Endpoint>, route: String, stream: &str, group: &str) -> Self {
        let (bell, stop) = (Arc::new(Bell::default()), CancellationToken::new());
        let watched = (stream.as_bytes().to_vec(), group.as_bytes().to_vec());
        let reader = Reader { endpoint, route, watched, bell: Arc::clone(&bell), place: None };
        let stopped = stop.clone();
        rt::spawn("wake", async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = reader.run() => {}
            }
        });
        Self { bell, _stop: stop.drop_guard() }
    }

    /// Ready once something has happened since the last call. Cancel safe.
    pub(super) async fn rung(&self) {
        self.bell.notify.notified().await;
    }

    /// Whether it would ring.
    pub(super) fn is_up(&self) -> bool {
        self.bell.up.load(Ordering::Relaxed)
    }
}

struct Reader {
    endpoint: Arc<Endpoint>,
    route: String,
    watched: (Vec<u8>, Vec<u8>),
    bell: Arc<Bell>,
    place: Option<Place>,
}

impl Reader {
    async fn run(mut self) {
        let (mut backoff, mut log) = (Backoff::default(), Limited::new());
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
            sleep(if error.class() == Class::Park { PARKED } else { backoff.next_wait() }).await;
        }
    }

    /// Rings too, since the route then looks in another rhythm.
    fn set_up(&self, up: bool) {
        self.bell.up.store(up, Ordering::Relaxed);
        self.bell.notify.notify_one();
    }

    fn role(&self) -> String {
        format!("broadcast.{}:replicate", self.route)
    }

    async fn open(&mut self) -> Result<Link, Error> {
        let role = self.role();
        // No message is wanted, so none is ever held.
        let opened = Link::open(&self.endpoint, &role, Prefer::Replica, self.place.as_ref(), 0).await;
        let (mut link, start) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // A server that is away says nothing about the place; one that answers with nonsense may.
                if matches!(error, Error::Protocol(_)) {
                    self.place = None;
                }
                return Err(error);
            }
        };
        link.watch(self.watched.0.clone(), self.watched.1.clone());
        match start {
            Start::Continued => {}
            Start::Forked { last, history } => self.place = Some(Place { history, offset: last }),
            Start::Anew { place, .. } => self.place = Some(place),
        }
        Ok(link)
    }

    /// Reads until the link ends; returns why.
    async fn read(&mut self, mut link: Link) -> Error {
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
            if let Err(error) = link.next(|_, _| false) {
                return error;
            }
            if let Some(place) = &mut self.place {
                place.offset = link.offset();
            }
            let touched = link.take_touched();
            if touched {
                self.bell.notify.notify_one();
            }
            if let Some(until) = link.rest(touched, heard.into_std()) {
                sleep_until(until.into()).await;
            }
        }
    }
}
