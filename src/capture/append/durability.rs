//! The durability watermark: the position up to which entries survive the master's loss, asked on a connection of its
//! own.
//!
//! Problem: a reply to an append proves that the master has the entries. Only WAIT or WAITAOF prove more, and they
//! block their connection. On the append connection they would allow one batch a second.
//!
//! Operation: the route passes the state's position. This task checks that the state has it: after a failover it may
//! not, and the route may not know it yet. It then does a small *barrier write*, WAITs, and reports the position that it read
//! before the barrier write. A WAIT without a write of its own proves nothing: it answers at once even if a replica is
//! stopped. The watermark is stored in the state, for the standby instance.
//!
//! Failure: the task reconnects for ever. Meanwhile the watermark does not move, and everything above it is kept. If
//! that lasts, it is logged, and the route is not ready.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::call::CaptureKeys;
use crate::config::{Durability, Endpoint};
use crate::logs::LogCode;
use crate::position::Position;
use crate::rt;
use crate::server::resp::Value;
use crate::server::{self, Backoff, Class, Connection, Error, MasterMoves};

/// Longest duration of one WAIT. After it comes a new barrier write, behind the items stored meanwhile.
const WAIT: Duration = Duration::from_secs(2);
/// Interval between barrier writes: more of them bring nothing new.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long a position may be not durable before that is reported: a WAIT may take its whole time once or twice.
const PATIENCE: Duration = Duration::from_secs(5);

/// The task's other end. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct DurabilityWatch {
    applied: watch::Sender<Option<Position>>,
    durable: mpsc::Receiver<Position>,
    error: Arc<Mutex<Option<String>>>,
    _alive: DropGuard,
}

impl DurabilityWatch {
    /// Starts the task for a route.
    pub(crate) fn start(endpoint: Arc<Endpoint>, route: &str, wanted: Durability) -> Self {
        let (applied, seen) = watch::channel(None);
        let (say, durable) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let keys = CaptureKeys::new(&endpoint.key_prefix, route);
        let error = Arc::default();
        let trouble = Trouble { since: None, shown: Arc::clone(&error) };
        let route = route.to_owned();
        let task = WatchTask { route, endpoint, keys, wanted, seen, say, trouble };
        let alive = stop.clone().drop_guard();
        rt::spawn("durable", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task.run() => {}
            }
        });
        Self { applied, durable, error, _alive: alive }
    }

    /// Why stored messages have not become durable for a while, and the remedy.
    pub(crate) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes the checkpoint to the task.
    pub(crate) fn applied(&self, position: Option<Position>) {
        self.applied.send_if_modified(|known| {
            let changed = *known != position;
            *known = position;
            changed
        });
    }

    /// Ready with the position up to which entries are durable.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Position> {
        match self.durable.poll_recv(cx) {
            Poll::Ready(Some(position)) => Poll::Ready(position),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

struct WatchTask {
    route: String,
    endpoint: Arc<Endpoint>,
    keys: CaptureKeys,
    wanted: Durability,
    seen: watch::Receiver<Option<Position>>,
    say: mpsc::Sender<Position>,
    trouble: Trouble,
}

/// Since when no position has become durable, and what is shown of that.
struct Trouble {
    since: Option<Instant>,
    shown: Arc<Mutex<Option<String>>>,
}

/// Whether a position is durable.
enum Reached {
    Yes,
    /// The state does not have the position any more; the append connection finds that out.
    WentBack,
    /// Number of replicas that have it, or of synced files.
    Only(i64),
}

impl WatchTask {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut moves = MasterMoves::of(self.endpoint.clone());
        loop {
            let Err(error) = self.watch(&mut backoff).await else { return };
            tracing::debug!(event = LogCode::DurableUnknown.as_str(), route = self.route, "{error}");
            if matches!(error, Error::Reply(_)) && error.class() != Class::Resolve {
                let reason = format!("it is not known which messages are durable: {}", error.with_hint());
                self.missed(&reason, Instant::now());
            } else {
                // The server is away, which the append connection reports.
                self.trouble.since = None;
            }
            let wait = self.trouble.at_most(backoff.next_wait(), Instant::now());
            moves.wait(wait, &mut backoff).await;
        }
    }

    /// Until the route has ended, or something fails.
    async fn watch(&mut self, backoff: &mut Backoff) -> Result<(), Error> {
        let mut connection = server::connect(&self.endpoint, &format!("{}:durable", self.route)).await?;
        let mut reached = None;
        loop {
            let changed = self.seen.wait_for(|at| at.is_some() && *at != reached).await;
            let Some(position) = changed.map(|at| *at).ok().flatten() else { return Ok(()) };
            let began = Instant::now();
            match self.is_durable(&mut connection, position).await? {
                Reached::Yes => {
                    backoff.reset();
                    reached = Some(position);
                    let text = position.to_string();
                    let keep: [&[u8]; 4] = [b"HSET", &self.keys.state, b"durable", text.as_bytes()];
                    let deadline = self.endpoint.response_timeout;
                    connection.ask(deadline, "keeping the durable position", &keep).await?;
                    self.met();
                    if self.say.send(position).await.is_err() {
                        return Ok(());
                    }
                }
                Reached::WentBack => {}
                Reached::Only(count) => self.missed(&self.unmet(count), began),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// What is missing, and the remedy.
    fn unmet(&self, count: i64) -> String {
        let (wait, key) = (PATIENCE.as_secs(), self.endpoint.key("durability"));
        match self.wanted {
            Durability::Replicated(replicas) => format!(
                "{count} of {replicas} replicas have confirmed the stored messages within {wait} s ({key} = \"replicated\"; \
                 look at INFO replication on the destination, and bring replicas back or ask for fewer)"
            ),
            _ => format!(
                "the append-only file was not synced within {wait} s ({key} = \"fsynced\"; look at INFO persistence on the \
                 destination, and at its disk)"
            ),
        }
    }

    /// A position has not become durable since then, for this reason.
    fn missed(&mut self, reason: &str, began: Instant) {
        let since = *self.trouble.since.get_or_insert(began);
        if since.elapsed() < PATIENCE {
            return;
        }
        let before = self.trouble.show(Some(reason.to_owned()));
        if before.is_none() {
            tracing::warn!(
                event = LogCode::NotDurable.as_str(),
                route = self.route,
                server = self.endpoint.name,
                "{reason}; tidegate stores on, and keeps stored messages in its buffer until they are durable. Once these fill \
                 a quarter of the memory it stores no more: new messages then wait in memory and in the spool, and a gap \
                 begins when both are full"
            );
        }
    }

    /// A position is durable.
    fn met(&mut self) {
        self.trouble.since = None;
        if self.trouble.show(None).is_some() {
            tracing::info!(
                event = LogCode::DurableAgain.as_str(),
                route = self.route,
                server = self.endpoint.name,
                "stored messages become durable again"
            );
        }
    }

    /// Does a barrier write and waits until replicas or the disk have it.
    async fn is_durable(&self, connection: &mut Connection, position: Position) -> Result<Reached, Error> {
        let deadline = self.endpoint.response_timeout;
        let stands: [&[u8]; 3] = [b"HGET", &self.keys.state, b"position"];
        let stands = connection.ask(deadline, "reading the checkpoint", &stands).await?;
        let stands = stands.bytes().and_then(|text| std::str::from_utf8(text).ok()?.parse::<Position>().ok());
        if stands < Some(position) {
            return Ok(Reached::WentBack);
        }
        let text = position.to_string();
        let fence: [&[u8]; 4] = [b"HSET", &self.keys.lease, b"fence", text.as_bytes()];
        connection.ask(deadline, "writing a barrier", &fence).await?;
        let wait = self.trouble.at_most(WAIT, Instant::now());
        let millis = wait.as_millis().to_string();
        let millis = millis.as_bytes();
        let deadline = deadline + WAIT;
        let count = |reply: &Value, at: usize| match reply {
            Value::Array(counts) => counts.get(at).and_then(Value::integer),
            other => other.integer(),
        };
        let (found, wanted) = match self.wanted {
            Durability::Applied => return Ok(Reached::Yes),
            Durability::Replicated(replicas) => {
                let text = replicas.to_string();
                let reply = connection.ask(deadline, "WAIT", &[b"WAIT", text.as_bytes(), millis]).await?;
                (count(&reply, 0), i64::from(replicas))
            }
            Durability::Fsynced => {
                let reply = connection.ask(deadline, "WAITAOF", &[b"WAITAOF", b"1", b"0", millis]).await?;
                (count(&reply, 0), 1)
            }
        };
        let found = found.unwrap_or_default();
        Ok(if found >= wanted { Reached::Yes } else { Reached::Only(found) })
    }
}

impl Trouble {
    /// A wait, cut at the moment when the trouble is to be reported; not less than a millisecond, since WAIT 0 never ends.
    fn at_most(&self, wait: Duration, now: Instant) -> Duration {
        let until = self.since.map(|since| (since + PATIENCE).saturating_duration_since(now));
        match until {
            Some(until) if until > Duration::ZERO => wait.min(until).max(Duration::from_millis(1)),
            _ => wait,
        }
    }

    /// Shows an error, or its end. Returns what was shown before.
    fn show(&self, error: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.shown.lock().unwrap_or_else(PoisonError::into_inner), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the waits are, one ends when the patience does.
    #[test]
    fn trouble_is_reported_when_the_patience_ends() {
        let began = Instant::now();
        for wait in
            [WAIT, Duration::from_millis(700), Duration::from_secs(5), Duration::from_micros(4_999_999)]
        {
            let mut trouble = Trouble { since: None, shown: Arc::default() };
            assert_eq!(trouble.at_most(wait, began), wait, "nothing is missing yet");
            trouble.since = Some(began);
            let mut now = began + trouble.at_most(wait, began);
            while now < began + PATIENCE {
                now += trouble.at_most(wait, now);
            }
            let late = now - (began + PATIENCE);
            assert!(late <= Duration::from_millis(1), "{wait:?}: {late:?} late");
            assert_eq!(trouble.at_most(wait, now), wait, "it is reported");
        }
    }
}
