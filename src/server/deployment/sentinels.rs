//! What sentinels told this process of one deployment's master.

mod decision;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::config::{Address, Sentinels};
use crate::logs::LogCode;
use crate::server::error::{Error, hinted};

use self::decision::{Believed, decide};

pub use self::decision::Opinion;

/// How long no sentinel may confirm the master before that is reported.
const UNCONFIRMED: Duration = Duration::from_secs(10);

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
    confirmed: Option<Instant>,
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
    seen: Arc<Seen>,
    _watch: Arc<DropGuard>,
}

impl MasterTicket {
    /// Ready with the error once the sentinels report another master.
    pub(in crate::server) fn poll_moved(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.moved.as_mut().poll(cx).map(|()| {
            let address = self.seen.believed().map(|believed| believed.address.to_string());
            Error::MasterMoved(address.unwrap_or_default())
        })
    }
}

/// What the sentinels last said of the connected master.
#[derive(Debug)]
pub(crate) struct Confirmation {
    /// When one last named it.
    pub(crate) at: Instant,
    /// Why another server may be the master, with advice, if that is long ago.
    pub(crate) doubt: Option<String>,
}

impl Seen {
    /// A connection's record of the master; `None` before a sentinel named one. `watch` starts the watch over the
    /// sentinels if none runs.
    pub(in crate::server) fn ticket(
        self: &Arc<Self>,
        watch: impl FnOnce() -> DropGuard,
    ) -> Option<MasterTicket> {
        let mut state = self.lock();
        let moved = state.current.as_ref()?.1.clone();
        let watch = state.watch.upgrade().unwrap_or_else(|| Arc::new(watch()));
        state.watch = Arc::downgrade(&watch);
        drop(state);
        Some(MasterTicket { moved: Box::pin(moved.cancelled_owned()), seen: self.clone(), _watch: watch })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn believed(&self) -> Option<Believed> {
        self.lock().current.as_ref().map(|(believed, _)| believed.clone())
    }

    /// A sentinel has named a master. Returns whether that confirms the current one.
    pub(in crate::server) fn confirm(&self, epoch: u64, address: &Address, asked: Instant) -> bool {
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
    pub(in crate::server) fn object(&self, sentinel: &Address, error: Option<&Error>) {
        let mut state = self.lock();
        match error {
            Some(error) => {
                let reason = (error.to_string(), error.hint().map(Cow::into_owned));
                state.objections.insert(sentinel.clone(), reason);
            }
            None => drop(state.objections.remove(sentinel)),
        }
    }

    pub(in crate::server) fn confirmation(&self) -> Option<Confirmation> {
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
    pub(in crate::server) fn doubted(&self, doubted: bool) -> bool {
        std::mem::replace(&mut self.lock().doubted, doubted)
    }

    pub(in crate::server) fn is_believed(&self, address: &Address) -> bool {
        self.believed().is_some_and(|believed| believed.address == *address)
    }

    /// Takes in the answers of all sentinels; ends the connections of the former master, if the new one is another.
    pub(in crate::server) fn believe(
        &self,
        sentinels: &Sentinels,
        said: &[Result<Opinion, Error>],
        asked: Instant,
    ) -> Result<Address, Error> {
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
        Ok(found.address)
    }
}
