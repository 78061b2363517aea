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

mod watch;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::config::{Address, Endpoint, Sentinels};
use crate::logs::LogCode;
use crate::rt;
use crate::server::backoff::Backoff;
use crate::server::connect::{Role, connect_at, connect_to_sentinel, deployment};
use crate::server::connection::Connection;
use crate::server::error::{Error, hinted};
use crate::server::redacted::redacted;
use crate::server::resp::Value;
use crate::server::socket::TimeLimit;

/// The longest host name of DNS.
const MAX_HOST_BYTES: usize = 255;
/// Longest time for one sentinel, its connection included.
const ANSWER: Duration = Duration::from_secs(1);
/// The step, for an error.
const ASKING: &str = "asking a sentinel";
/// Time for the others once more than half of the sentinels have answered.
const OTHERS: Duration = Duration::from_millis(200);
/// Shortest and longest pause between attempts during a failover.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// A sentinel's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    /// It names a master.
    Master {
        /// The configuration epoch: each failover has a higher one.
        epoch: u64,
        /// The master's address.
        address: Address,
    },
    /// It does not watch a master of this name, but those.
    Unknown(Vec<String>),
}

/// A master that was believed in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Believed {
    epoch: u64,
    address: Address,
}

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
    /// The master's address.
    pub(crate) address: Address,
    /// Why sentinels do not name it now, with advice; empty if none of them has a reason.
    pub(crate) objections: String,
}

/// When a sentinel last named the connected master, and what the others say.
pub(crate) fn confirmed(endpoint: &Endpoint) -> Option<Confirmation> {
    let known = deployment::of(endpoint);
    let state = known.sentinel.lock();
    let (at, (believed, _)) = state.confirmed.zip(state.current.as_ref())?;
    // The round of all sentinels has one reason for several of them.
    let reasons: BTreeSet<&str> = state.objections.values().map(|(reason, _)| reason.as_str()).collect();
    let hints: BTreeSet<&str> = state.objections.values().filter_map(|(_, hint)| hint.as_deref()).collect();
    let [reasons, hints] = [reasons, hints].map(|all| all.into_iter().collect::<Vec<_>>().join("; "));
    let objections = hinted(&reasons, Some(hints.as_str()).filter(|hints| !hints.is_empty()));
    Some(Confirmation { at, address: believed.address.clone(), objections })
}

/// The answer of each sentinel, in the order of the configuration.
pub async fn opinions(endpoint: &Endpoint) -> Vec<(Address, Result<Opinion, Error>)> {
    let Some(sentinels) = endpoint.sentinels() else { return Vec::new() };
    let asked = sentinels.endpoint.addresses().iter().map(|address| async move {
        (address.clone(), ask_anew(endpoint, sentinels, address).await.map(|(opinion, _)| opinion))
    });
    join_all(asked).await
}

/// Asks every sentinel, and waits for a slow one only until most have answered and a little longer.
async fn ask_all(endpoint: &Endpoint, sentinels: &Sentinels) -> Vec<Result<Opinion, Error>> {
    let addresses = sentinels.endpoint.addresses();
    let mut asked: FuturesUnordered<_> =
        addresses.iter().map(|address| ask_anew(endpoint, sentinels, address)).collect();
    // Each has its own limit, and its error says what was waited for.
    let (mut said, mut until) = (Vec::new(), Instant::now() + ANSWER + OTHERS);
    while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
        said.push(answer.map(|(opinion, _)| opinion));
        if said.iter().filter(|answer| answer.is_ok()).count() * 2 > addresses.len() {
            until = until.min(Instant::now() + OTHERS);
        }
    }
    let missing = addresses.len() - said.len();
    said.extend((0..missing).map(|_| Err(Error::Timeout(ANSWER, ASKING))));
    said
}

/// Asks one sentinel on a new connection, and returns that connection.
async fn ask_anew(
    endpoint: &Endpoint,
    sentinels: &Sentinels,
    address: &Address,
) -> Result<(Opinion, Connection), Error> {
    let limit = TimeLimit::new(ANSWER);
    let answer = async {
        let mut connection = connect_to_sentinel(&sentinels.endpoint, address, limit).await?;
        let opinion = limit.of(ASKING, ask(endpoint, sentinels, &mut connection)).await??;
        Ok((opinion, connection))
    };
    answer.await.map_err(|error: Error| {
        let hint = match error.code() {
            Some("WRONGPASS" | "NOAUTH") => Some(format!(
                "check {} and the password beside it: they belong to the sentinels, and not to the servers; a password_file \
                 is read again on every connection",
                sentinels.endpoint.key("username")
            )),
            _ => error.hint().map(Cow::into_owned),
        };
        Error::Sentinel(format!("sentinel {address}: {error}"), hint)
    })
}

/// Asks over an open connection. The epoch first: a failover between the two answers then counts for less than it is,
/// and the old master never counts for more.
async fn ask(
    endpoint: &Endpoint,
    sentinels: &Sentinels,
    connection: &mut Connection,
) -> Result<Opinion, Error> {
    let name = sentinels.master.as_bytes();
    let details = match connection.ask(ANSWER, ASKING, &[b"SENTINEL", b"MASTER", name]).await {
        Ok(details) => details,
        Err(error) if error.code() == Some("ERR") => {
            return Ok(Opinion::Unknown(masters(&connection.ask(ANSWER, ASKING, &[b"ROLE"]).await?)));
        }
        Err(error) => return Err(error),
    };
    let command: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name];
    let address = connection.ask(ANSWER, ASKING, &command).await?;
    let told = epoch_in(&details).zip(address_in(&address));
    let (epoch, address) = told
        .ok_or_else(|| Error::Protocol("its answer about the master is not that of a sentinel".to_owned()))?;
    Ok(Opinion::Master { epoch, address: endpoint.reached(address) })
}

fn epoch_in(details: &Value) -> Option<u64> {
    let mut pairs = details.elements()?.chunks_exact(2);
    let pair = pairs.find(|pair| pair[0].bytes() == Some(b"config-epoch"))?;
    std::str::from_utf8(pair[1].bytes()?).ok()?.parse().ok()
}

fn address_in(answer: &Value) -> Option<Address> {
    let [host, port] = answer.elements()? else { return None };
    let host = std::str::from_utf8(host.bytes()?).ok()?;
    let port = std::str::from_utf8(port.bytes()?).ok()?.parse().ok()?;
    // Addresses are shown, and these are the server's words.
    let is_plain =
        (1..=MAX_HOST_BYTES).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain.then(|| Address::Tcp { host: host.to_owned(), port })
}

/// The names in a sentinel's answer to ROLE: `["sentinel", [name, …]]`.
fn masters(role: &Value) -> Vec<String> {
    let Some([_, names]) = role.elements() else { return Vec::new() };
    names.elements().unwrap_or_default().iter().filter_map(Value::bytes).map(redacted).collect()
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

/// Why no master is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undecided {
    /// None answers.
    NoAnswer,
    /// None knows the name.
    UnknownName,
    /// They name several in one epoch, and none of them mostly.
    Contradiction,
    /// They say less than was known.
    Older,
}

/// The master to use, by all answers and the former choice.
fn decide(said: &[Result<Opinion, Error>], before: Option<&Believed>) -> Result<Believed, Undecided> {
    let named: Vec<Believed> = said
        .iter()
        .filter_map(|answer| match answer {
            Ok(Opinion::Master { epoch, address }) => {
                Some(Believed { epoch: *epoch, address: address.clone() })
            }
            _ => None,
        })
        .collect();
    let Some(epoch) = named.iter().map(|named| named.epoch).max() else {
        let answered = said.iter().any(Result::is_ok);
        return Err(if answered { Undecided::UnknownName } else { Undecided::NoAnswer });
    };
    let count = |wanted: &Believed| named.iter().filter(|named| *named == wanted).count();
    let newest = || named.iter().filter(|named| named.epoch == epoch);
    let is_agreed =
        |found: &&Believed| newest().all(|named| named == *found) || count(found) * 2 > named.len();
    let Some(found) = newest().find(is_agreed).cloned() else { return Err(Undecided::Contradiction) };
    match before {
        Some(before) if epoch < before.epoch && count(&found) < said.len() => Err(Undecided::Older),
        // Nobody was promoted in this epoch: an operator has made the sentinels anew, or one of them is new and wrong.
        Some(before)
            if epoch == before.epoch
                && found.address != before.address
                && count(&found) * 2 <= said.len() =>
        {
            Err(Undecided::Contradiction)
        }
        _ => Ok(found),
    }
}

impl Undecided {
    fn error(self, sentinels: &Sentinels, said: &[Result<Opinion, Error>]) -> Error {
        let name = &sentinels.master;
        let listed: Vec<String> = said
            .iter()
            .map(|answer| match answer {
                Ok(Opinion::Master { epoch, address }) => format!("{address} in epoch {epoch}"),
                Ok(Opinion::Unknown(_)) => "an unknown name".to_owned(),
                Err(error) => error.to_string(),
            })
            .collect();
        let listed = listed.join("; ");
        match self {
            Self::NoAnswer => {
                let hint = said.iter().find_map(|answer| answer.as_ref().err()?.hint());
                let hint = hint.map_or_else(
                    || {
                        let addresses = sentinels.endpoint.key("addresses");
                        format!("check {addresses}, and that the sentinels run")
                    },
                    Cow::into_owned,
                );
                Error::Sentinel(format!("no sentinel of \"{name}\" answers: {listed}"), Some(hint))
            }
            Self::UnknownName => {
                let mut known: Vec<&str> = said
                    .iter()
                    .filter_map(|answer| match answer {
                        Ok(Opinion::Unknown(names)) => Some(names),
                        _ => None,
                    })
                    .flatten()
                    .map(String::as_str)
                    .collect();
                known.sort_unstable();
                known.dedup();
                let known = if known.is_empty() { "no master".to_owned() } else { known.join(", ") };
                Error::Refused(format!("the sentinels do not know the master \"{name}\"; they know {known}"))
            }
            Self::Contradiction => {
                let hint = "wait for the failover to end, or compare SENTINEL MASTER on each sentinel";
                Error::Sentinel(
                    format!("the sentinels contradict each other about the master of \"{name}\": {listed}"),
                    Some(hint.to_owned()),
                )
            }
            Self::Older => {
                let addresses = sentinels.endpoint.key("addresses");
                let hint = format!(
                    "start the sentinel that knows of the last failover. If the sentinels were made anew, all of {addresses} \
                     must name the same master: start the missing ones, or take those that are gone out of it and reload"
                );
                Error::Sentinel(
                    format!("the sentinels report an older master of \"{name}\" than was known: {listed}"),
                    Some(hint),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
