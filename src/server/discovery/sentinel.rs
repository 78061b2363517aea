//! Finds the master through sentinels.
//!
//! **Operation.** All sentinels are asked at once. Each failover has a configuration epoch, a number that only grows,
//! and the answer with the highest one wins. So one sentinel that knows of the failover is enough, while a majority is
//! undecided or wrong as long as one of them is stopped. While connections are open or wanted, one sentinel is asked
//! each second. A new master ends all connections, and their owners connect again: waiting owners wake up, and a
//! running attempt ends.
//!
//! **Failure.** An epoch below the highest that this process has seen is not believed, unless every sentinel gives it:
//! then an operator has made them anew (SENTINEL RESET, REMOVE). The named server must greet as a master. If the
//! sentinels are down or contradict each other, no new connection is made, and open ones stay.
//!
//! **Limit.** One sentinel is enough. A process that starts on the minority's side of a partition and has seen nothing
//! yet can find the old master there.

mod asking;
mod watch;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::{Address, Endpoint, Sentinels};
use crate::rt;
use crate::server::backoff::Backoff;
use crate::server::connect::files::check_files;
use crate::server::connect::{Role, connect_to};
use crate::server::connection::Connection;
use crate::server::deployment;
use crate::server::deployment::sentinels::{Confirmation, MasterTicket};
use crate::server::error::Error;

use self::asking::ask_all;

pub use self::asking::opinions;

/// Shortest and longest pause between attempts during a failover.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// The ticket for a connection to a server of this endpoint; `None` without sentinels.
pub(super) fn ticket(endpoint: &Endpoint) -> Option<MasterTicket> {
    endpoint.sentinels()?;
    let known = deployment::of(endpoint);
    known.sentinels.ticket(|| {
        let stop = CancellationToken::new();
        let (endpoint, known, stopped) = (endpoint.clone(), known.clone(), stop.clone());
        rt::spawn("watch over sentinels", async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = watch::run(&endpoint, &known.sentinels) => {}
            }
        });
        stop.drop_guard()
    })
}

/// Informs each task that wants a connection about another master: waiting for the old one is useless. It is made
/// before the first attempt and kept, so that a move during an attempt is not missed.
#[derive(Debug)]
pub(crate) struct MasterMoves {
    endpoint: Arc<Endpoint>,
    ticket: Option<MasterTicket>,
}

impl MasterMoves {
    pub(crate) fn of(endpoint: Arc<Endpoint>) -> Self {
        let ticket = ticket(&endpoint);
        Self { endpoint, ticket }
    }

    /// Ready once for each move. Never ready without sentinels. Polled again, it also sees moves from the first master
    /// that a sentinel named meanwhile.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ticket.is_none() {
            self.ticket = ticket(&self.endpoint);
        }
        let Some(ticket) = &mut self.ticket else { return Poll::Pending };
        ready!(ticket.poll_moved(cx));
        self.ticket = None;
        Poll::Ready(())
    }

    /// Until the next move. Cancel safe.
    pub(crate) async fn next(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// Waits before the next attempt, or until a move, which resets the backoff. Cancel safe.
    pub(crate) async fn wait(&mut self, wait: Duration, backoff: &mut Backoff) {
        tokio::select! {
            () = sleep(wait) => {}
            () = self.next() => backoff.reset(),
        }
    }
}

/// Connects to the master; during a failover it retries until the connect timeout. Cancel safe.
///
/// # Errors
/// If no sentinel answers, or none knows the master; if the named server cannot be reached, or is a replica.
pub(super) async fn connect(
    endpoint: &Endpoint,
    sentinels: &Sentinels,
    role: &str,
) -> Result<Connection, Error> {
    // What is wrong with them is known while no sentinel answers, too.
    check_files(endpoint).await?;
    let known = deployment::of(endpoint);
    let until = Instant::now() + endpoint.connect_timeout;
    let mut wait = RETRY[0];
    loop {
        let tried = async {
            let address = master(endpoint, sentinels).await?;
            // It ends an attempt at a server that does not answer, and then the connection.
            let mut moved = ticket(endpoint);
            let (mut connection, found) = tokio::select! {
                connected = connect_to(endpoint, &address, role) => connected?,
                error = poll_fn(|cx| moved.as_mut().map_or(Poll::Pending, |ticket| ticket.poll_moved(cx))) => {
                    return Err(error);
                }
            };
            connection.master = moved;
            match found {
                // Another connection may have heard of another one meanwhile.
                Role::Master if !known.sentinels.is_believed(&address) => {
                    Err(Error::MasterMoved(address.to_string()))
                }
                Role::Master => Ok(connection),
                Role::Replica => Err(Error::NotUsable(format!(
                    "the sentinels name {address} as the master of \"{}\", and it is a replica",
                    sentinels.master
                ))),
            }
        };
        match tried.await {
            Err(error) if error.is_passing() && Instant::now() + wait < until => {
                sleep(wait).await;
                wait = (wait * 2).min(RETRY[1]);
            }
            done => return done,
        }
    }
}

/// The master's address, by the sentinels now. Cancel safe.
///
/// # Errors
/// If no sentinel answers, or their answers are not believed.
pub(super) async fn master(endpoint: &Endpoint, sentinels: &Sentinels) -> Result<Address, Error> {
    let known = deployment::of(endpoint);
    let asked = std::time::Instant::now();
    let said = ask_all(endpoint, sentinels).await;
    known.sentinels.believe(sentinels, &said, asked)
}

/// When a sentinel last named the connected master, and whether that still counts; `None` without sentinels, and before
/// the first connection.
pub(crate) fn confirmation(endpoint: &Endpoint) -> Option<Confirmation> {
    endpoint.sentinels()?;
    deployment::of(endpoint).sentinels.confirmation()
}

/// Why it is in doubt that the connected server is the master; `None` if it is not.
pub(crate) fn doubt(endpoint: &Endpoint) -> Option<String> {
    confirmation(endpoint)?.doubt
}
