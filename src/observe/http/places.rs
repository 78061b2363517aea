//! The limit of simultaneous connections.
//!
//! A silent connection costs a place, and any client on the network can open thousands. So a connection without a
//! request gives way to a new one, the longest silent one first. Loopback, which the health check of this machine or
//! container uses, has places of its own.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Probes, a few Prometheus servers and people: far fewer at once.
const OTHERS: usize = 64;

/// Health checks, `tidegate status` and `wait`.
const LOOPBACK: usize = 32;

/// A connection that gives way ends as soon as its task runs.
const GIVES_WAY_WITHIN: Duration = Duration::from_millis(500);

/// The places of a server.
#[derive(Debug)]
pub(super) struct ConnectionPlaces {
    loopback: ConnectionRoom,
    others: ConnectionRoom,
}

#[derive(Debug)]
struct ConnectionRoom {
    free: Arc<Semaphore>,
    silent: Silent,
    /// Connections so far.
    count: AtomicU64,
}

/// The connections that have not sent their request yet, with their numbers, the oldest first.
type Silent = Arc<Mutex<VecDeque<(u64, CancellationToken)>>>;

/// One connection's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    _permit: OwnedSemaphorePermit,
    silent: Silent,
    number: u64,
    gives_way: CancellationToken,
}

impl ConnectionPlaces {
    pub(super) fn new() -> Self {
        let room = |size| ConnectionRoom {
            free: Arc::new(Semaphore::new(size)),
            silent: Silent::default(),
            count: AtomicU64::new(0),
        };
        Self { loopback: room(LOOPBACK), others: room(OTHERS) }
    }

    /// A place for a connection from there; `None` if all are taken by those that are being answered.
    pub(super) async fn take(&self, peer: IpAddr) -> Option<ConnectionPlace> {
        let room = if peer.to_canonical().is_loopback() { &self.loopback } else { &self.others };
        let permit = match room.free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let (_, oldest) = lock(&room.silent).pop_front()?;
                oldest.cancel();
                let freed = room.free.clone().acquire_owned();
                tokio::time::timeout(GIVES_WAY_WITHIN, freed).await.ok()?.ok()?
            }
        };
        let number = room.count.fetch_add(1, Ordering::Relaxed);
        let gives_way = CancellationToken::new();
        lock(&room.silent).push_back((number, gives_way.clone()));
        Some(ConnectionPlace { _permit: permit, silent: room.silent.clone(), number, gives_way })
    }
}

impl ConnectionPlace {
    /// Cancelled if the connection is to end for another one.
    pub(super) fn gives_way(&self) -> CancellationToken {
        self.gives_way.clone()
    }

    /// Says that the request has come: from now on the place is kept.
    pub(super) fn is_heard(&self) {
        lock(&self.silent).retain(|(number, _)| *number != self.number);
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.is_heard();
    }
}

fn lock(silent: &Silent) -> MutexGuard<'_, VecDeque<(u64, CancellationToken)>> {
    silent.lock().unwrap_or_else(PoisonError::into_inner)
}
