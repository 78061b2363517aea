//! The durability watermark: the position up to which entries survive the master's loss, asked on a connection of its
//! own.
//!
//! Problem: a reply to an append proves that the master has the entries. Only WAIT or WAITAOF prove more, and they
//! block their connection. On the append connection they would allow one batch a second.
//!
//! Operation: the route passes the state's position. This task checks that the state has it: after a failover it may
//! not, and the route may not know it yet. It then writes a small barrier, WAITs, and reports the position that it read
//! before the barrier. A WAIT without a write of its own proves nothing: it answers at once even if a replica is
//! stopped. The watermark is stored in the state, for the standby instance.
//!
//! Failure: the task reconnects for ever. Meanwhile the watermark does not move, and everything above it is kept.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::call::CaptureKeys;
use crate::config::{Durability, Endpoint};
use crate::logs::LogCode;
use crate::position::Position;
use crate::rt;
use crate::server::resp::Value;
use crate::server::{self, Backoff, Connection, Error, MasterMoves};

/// Longest duration of one WAIT; then the fence is written again, behind the items stored meanwhile.
const WAIT: Duration = Duration::from_secs(2);
/// Interval between fences: more of them bring nothing new.
const INTERVAL: Duration = Duration::from_millis(50);

/// The task's other end. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct DurabilityWatch {
    applied: watch::Sender<Option<Position>>,
    durable: mpsc::Receiver<Position>,
    _alive: DropGuard,
}

impl DurabilityWatch {
    /// Starts the task for a route.
    pub(crate) fn start(endpoint: Arc<Endpoint>, route: &str, wanted: Durability) -> Self {
        let (applied, seen) = watch::channel(None);
        let (say, durable) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let keys = CaptureKeys::new(&endpoint.key_prefix, route);
        let task = WatchTask { role: format!("{route}:durable"), endpoint, keys, wanted, seen, say };
        let alive = stop.clone().drop_guard();
        rt::spawn("durable", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task.run() => {}
            }
        });
        Self { applied, durable, _alive: alive }
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
    role: String,
    endpoint: Arc<Endpoint>,
    keys: CaptureKeys,
    wanted: Durability,
    seen: watch::Receiver<Option<Position>>,
    say: mpsc::Sender<Position>,
}

impl WatchTask {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut moves = MasterMoves::of(self.endpoint.clone());
        loop {
            let Err(error) = self.watch(&mut backoff).await else { return };
            tracing::debug!(event = LogCode::DurableUnknown.as_str(), task = self.role, "{error}");
            let wait = backoff.next_wait();
            moves.wait(wait, &mut backoff).await;
        }
    }

    /// Until the route has ended, or something fails.
    async fn watch(&mut self, backoff: &mut Backoff) -> Result<(), Error> {
        let mut connection = server::connect(&self.endpoint, &self.role).await?;
        let mut reached = None;
        loop {
            let changed = self.seen.wait_for(|at| at.is_some() && *at != reached).await;
            let Some(position) = changed.map(|at| *at).ok().flatten() else { return Ok(()) };
            if self.is_durable(&mut connection, position).await? {
                backoff.reset();
                reached = Some(position);
                let text = position.to_string();
                let keep: [&[u8]; 4] = [b"HSET", &self.keys.state, b"durable", text.as_bytes()];
                connection.ask(self.endpoint.response_timeout, "keeping the durable position", &keep).await?;
                if self.say.send(position).await.is_err() {
                    return Ok(());
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Writes a fence and waits for it.
    async fn is_durable(&self, connection: &mut Connection, position: Position) -> Result<bool, Error> {
        let deadline = self.endpoint.response_timeout;
        let stands: [&[u8]; 3] = [b"HGET", &self.keys.state, b"position"];
        let stands = connection.ask(deadline, "reading the checkpoint", &stands).await?;
        let stands = stands.bytes().and_then(|text| std::str::from_utf8(text).ok()?.parse::<Position>().ok());
        if stands < Some(position) {
            return Ok(false);
        }
        let text = position.to_string();
        let fence: [&[u8]; 4] = [b"HSET", &self.keys.lease, b"fence", text.as_bytes()];
        connection.ask(deadline, "writing a barrier", &fence).await?;
        let millis = WAIT.as_millis().to_string();
        let millis = millis.as_bytes();
        let deadline = deadline + WAIT;
        let reached = |reply: &Value, at: usize| match reply {
            Value::Array(counts) => counts.get(at).and_then(Value::integer),
            other => other.integer(),
        };
        match self.wanted {
            Durability::Applied => Ok(true),
            Durability::Replicated(replicas) => {
                let text = replicas.to_string();
                let reply = connection.ask(deadline, "WAIT", &[b"WAIT", text.as_bytes(), millis]).await?;
                Ok(reached(&reply, 0) >= Some(i64::from(replicas)))
            }
            Durability::Fsynced => {
                let reply = connection.ask(deadline, "WAITAOF", &[b"WAITAOF", b"1", b"0", millis]).await?;
                Ok(reached(&reply, 0) >= Some(1))
            }
        }
    }
}
