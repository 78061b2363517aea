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
mod decision;
mod watch;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::config::{Address, Endpoint, Sentinels};
use crate::logs::LogCode;
use crate::rt;
use crate::server::backoff::Backoff;
use crate::server::connect::{Role, check_files, connect_at, deployment};
use crate::server::connection::Connection;
use crate::server::error::{Error, hinted};

use self::asking::ask_all;
use self::decision::{Believed, decide};

pub use self::asking::{Opinion, opinions};

/// How long no sentinel may confirm the master before that is reported.
const UNCONFIRMED: Duration = Duration::from_secs(10);
/// Shortest and longest pause between attempts during a failover.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// The answers of one deployment's sentinels to this process.
#[derive(Debug, Default)]
pub(in crate::server) struct Seen {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The master, and what ends its connections.
    current: Option<(Believed, CancellationToken)>,
    /// When a sentinel last named the master.
    confirmed: Option<std::time::Instant>,
    /// Of each sentinel that did not confirm it when the watch asked last, the reason and the remedy.
    objections: BTreeMap<Address, (String, Option<String>)>,
    /// True if it was reported that no sentinel confirms it.
    doubted: bool,
    /// Runs while there is a connection.
    watch: Weak<DropGuard>,
}

/// A connection's record of the master that it belongs to.
#[derive(Debug)]
pub(in crate::server) struct MasterTicket {
    moved: Pin<Box<WaitForCancellationFutureOwned>>,
    known: Arc<deployment::Known>,
    _watch: Arc<DropGuard>,
}

impl MasterTicket {
    /// Ready with the error once the sentinels report another master.
    pub(in crate::server) fn poll_moved(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.moved.as_mut().poll(cx).map(|()| {
            let address = self.known.sentinel.believed().map(|believed| believed.address.to_string());
            Error::MasterMoved(address.unwrap_or_default())
        })
    }
}

/// The ticket for a connection to a server of this endpoint; `None` without sentinels.
pub(in crate::server) fn ticket(endpoint: &Endpoint) -> Option<MasterTicket> {
    endpoint.sentinels()?;
    let known = deployment::of(endpoint);
    let mut state = known.sentinel.lock();
    let moved = state.current.as_ref()?.1.clone();
    let watch = state.watch.upgrade().unwrap_or_else(|| {
        let stop = CancellationToken::new();
        let (endpoint, known, stopped) = (endpoint.clone(), known.clone(), stop.clone());
        rt::spawn("watch over sentinels", async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = watch::run(&endpoint, &known) => {}
            }
        });
        Arc::new(stop.drop_guard())
    });
    state.watch = Arc::downgrade(&watch);
    drop(state);
    Some(MasterTicket { moved: Box::pin(moved.cancelled_owned()), known, _watch: watch })
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
            // Taken again by the connection: this one ends an attempt at a server that does not answer.
            let mut moved = ticket(endpoint);
            let connected = tokio::select! {
                connected = connect_at(endpoint, &address, role) => connected?,
                error = poll_fn(|cx| moved.as_mut().map_or(Poll::Pending, |ticket| ticket.poll_moved(cx))) => {
                    return Err(error);
                }
            };
            match connected {
                // Another connection may have heard of another one meanwhile.
                (_, Role::Master) if !known.sentinel.is_believed(&address) => {
                    Err(Error::MasterMoved(address.to_string()))
                }
                (connection, Role::Master) => Ok(connection),
                (_, Role::Replica) => Err(Error::NotUsable(format!(
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
pub(in crate::server) async fn master(endpoint: &Endpoint, sentinels: &Sentinels) -> Result<Address, Error> {
    let known = deployment::of(endpoint);
    let asked = std::time::Instant::now();
    let said = ask_all(endpoint, sentinels).await;
    let found = known.sentinel.believe(sentinels, &said, asked)?;
    Ok(found.address)
}

/// What the sentinels last said of the connected master.
#[derive(Debug)]
pub(crate) struct Confirmation {
    /// When one last named it.
    pub(crate) at: std::time::Instant,
    /// Why another server may be the master, with advice, if that is long ago.
    pub(crate) doubt: Option<String>,
}

/// When a sentinel last named the connected master, and whether that still counts; `None` without sentinels, and before
/// the first connection.
pub(crate) fn confirmation(endpoint: &Endpoint) -> Option<Confirmation> {
    endpoint.sentinels()?;
    deployment::of(endpoint).sentinel.confirmation()
}

/// Why it is in doubt that the connected server is the master; `None` if it is not.
pub(crate) fn doubt(endpoint: &Endpoint) -> Option<String> {
    confirmation(endpoint)?.doubt
}

impl Seen {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn believed(&self) -> Option<Believed> {
        self.lock().current.as_ref().map(|(believed, _)| believed.clone())
    }

    /// A sentinel has named a master. Returns whether that confirms the current one.
    fn confirm(&self, epoch: u64, address: &Address, asked: std::time::Instant) -> bool {
        let mut state = self.lock();
        let Some((believed, _)) = &mut state.current else { return false };
        // Less than was seen confirms nothing.
        if *address != believed.address || epoch < believed.epoch {
            return false;
        }
        believed.epoch = epoch;
        state.confirmed = Some(asked);
        true
    }

    /// Notes why a sentinel does not confirm the master now; `None` if it does.
    fn object(&self, sentinel: &Address, error: Option<&Error>) {
        let mut state = self.lock();
        match error {
            Some(error) => {
                let reason = (error.to_string(), error.hint().map(Cow::into_owned));
                state.objections.insert(sentinel.clone(), reason);
            }
            None => drop(state.objections.remove(sentinel)),
        }
    }

    fn confirmation(&self) -> Option<Confirmation> {
        let state = self.lock();
        let (at, (believed, _)) = state.confirmed.zip(state.current.as_ref())?;
        if at.elapsed() <= UNCONFIRMED {
            return Some(Confirmation { at, doubt: None });
        }
        // The round of all sentinels has one reason for several of them.
        let reasons: BTreeSet<&str> = state.objections.values().map(|(reason, _)| reason.as_str()).collect();
        let hints: BTreeSet<&str> =
            state.objections.values().filter_map(|(_, hint)| hint.as_deref()).collect();
        let [reasons, hints] = [reasons, hints].map(|all| all.into_iter().collect::<Vec<_>>().join("; "));
        let objections = hinted(&reasons, Some(hints.as_str()).filter(|hints| !hints.is_empty()));
        let doubt = format!(
            "no sentinel has confirmed for {} s that {} is the master; there may be another one",
            UNCONFIRMED.as_secs(),
            believed.address
        );
        let doubt = if objections.is_empty() { doubt } else { format!("{doubt}: {objections}") };
        Some(Confirmation { at, doubt: Some(doubt) })
    }

    /// Notes whether it is in doubt which server is the master. Returns what was noted before.
    fn doubted(&self, doubted: bool) -> bool {
        std::mem::replace(&mut self.lock().doubted, doubted)
    }

    fn is_believed(&self, address: &Address) -> bool {
        self.believed().is_some_and(|believed| believed.address == *address)
    }

    /// Takes in the answers of all sentinels; ends the connections of the former master, if the new one is another.
    fn believe(
        &self,
        sentinels: &Sentinels,
        said: &[Result<Opinion, Error>],
        asked: std::time::Instant,
    ) -> Result<Believed, Error> {
        let mut state = self.lock();
        let before = state.current.as_ref().map(|(believed, _)| believed);
        let found = decide(said, before).map_err(|undecided| undecided.error(sentinels, said))?;
        match &mut state.current {
            Some((believed, moved)) if believed.address != found.address => {
                tracing::warn!(
                    event = LogCode::MasterMoved.as_str(),
                    server = sentinels.endpoint.name,
                    "the sentinels report {} as the master of \"{}\" (epoch {}), and before {} (epoch {}); all connections \
                     move there",
                    found.address,
                    sentinels.master,
                    found.epoch,
                    believed.address,
                    believed.epoch
                );
                moved.cancel();
                state.current = Some((found.clone(), CancellationToken::new()));
            }
            Some((believed, _)) => believed.epoch = found.epoch,
            none => *none = Some((found.clone(), CancellationToken::new())),
        }
        state.confirmed = Some(asked);
        Ok(found)
    }
}
