//! Up to where what is stored is stored durably, asked over a connection of its own.
//!
//! Problem: a reply to an append says that the master has it. Whether it survives the master is known
//! only from WAIT or WAITAOF, and these hold up the connection that asks: in line they would cost a batch
//! a second.
//!
//! Operation: the route says where the state stands; this task sees that it stands there (after a failover it
//! may not, and the route may not know yet), writes a small fence behind it, WAITs, and says how far it was
//! when the fence was written. A WAIT without a write of its own proves nothing: it
//! answers at once although a replica is stopped. The watermark is kept in the state, for the instance
//! that stands by.
//!
//! Failure: the task reconnects for ever; meanwhile the watermark stands still, and what is above it is
//! kept.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::append::Keys;
use crate::config::{Durability, Endpoint};
use crate::logs::LogCode;
use crate::position::Position;
use crate::rt;
use crate::server::resp::Value;
use crate::server::{self, Backoff, Connection, Error};

/// How long one WAIT may take; then the fence is written again, beyond what was stored meanwhile.
const WAIT: Duration = Duration::from_secs(2);
/// Between two fences: more often tells nothing new.
const INTERVAL: Duration = Duration::from_millis(50);

/// The task's other end. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Durable {
    applied: watch::Sender<Option<Position>>,
    durable: mpsc::Receiver<Position>,
    _alive: DropGuard,
}

impl Durable {
    /// Starts the task for a route.
    pub(crate) fn start(endpoint: Arc<Endpoint>, route: &str, wanted: Durability) -> Self {
        let (applied, seen) = watch::channel(None);
        let (say, durable) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let keys = Keys::new(&endpoint.key_prefix, route);
        let task = Task { role: format!("{route}:durable"), endpoint, keys, wanted, seen, say };
        let alive = stop.clone().drop_guard();
        rt::spawn("durable", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task.run() => {}
            }
        });
        Self { applied, durable, _alive: alive }
    }

    /// Says where the state stands.
    pub(crate) fn applied(&self, position: Option<Position>) {
        self.applied.send_if_modified(|known| {
            let changed = *known != position;
            *known = position;
            changed
        });
    }

    /// Comes back with how far what is stored is durable.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Position> {
        match self.durable.poll_recv(cx) {
            Poll::Ready(Some(position)) => Poll::Ready(position),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

struct Task {
    role: String,
    endpoint: Arc<Endpoint>,
    keys: Keys,
    wanted: Durability,
    seen: watch::Receiver<Option<Position>>,
    say: mpsc::Sender<Position>,
}

impl Task {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let Err(error) = self.watch(&mut backoff).await else { return };
            tracing::debug!(event = LogCode::DurableUnknown.as_str(), task = self.role, "{error}");
            tokio::time::sleep(backoff.next_wait()).await;
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
