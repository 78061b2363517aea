//! A log on the shared threads: one request at a time, so that nothing queues up.
//!
//! ```text
//! opening ──▶ open ──▶ ended            the handle is dropped: what was asked is done, and synced
//!    │ └──▶ unavailable ──▶ open        tried again every 5 s; only an empty log is taken so late
//!    └───────────┴──▶ given up          an earlier process left records, which were not read first
//! ```
//!
//! A log that opens late continues behind the messages received meanwhile. Records of an earlier process belong before
//! them, so they are left for the next start.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc as replies, watch};

use super::directory::StatePlace;
use super::pool::{Pool, PoolEntry, Task, lock};
use super::{Log, Mark, Options, Piece, Record, Recovered, SpoolError, Storage};

use crate::logs::LogCode;

/// Pause after a failed sync while there is no request: a retry may copy a whole segment.
const RETRY: Duration = Duration::from_secs(2);
/// Pause after a log could not be opened.
const OPEN_AGAIN: Duration = Duration::from_secs(5);
/// How long to wait for a log that the former route still has.
const IN_USE: Duration = Duration::from_secs(5);

/// The place of all spools, and the threads that work on them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// The directory of all of them.
    pub state: StatePlace,
    /// The threads.
    pub pool: Pool,
}

/// A request to the log.
#[derive(Debug)]
pub(crate) enum SpoolRequest {
    /// To append these.
    Write(Vec<Record>),
    /// To read on.
    Read {
        /// Until the records are more than this many bytes.
        max_bytes: usize,
    },
    /// To delete records at or before this mark.
    Release(Mark),
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum SpoolDone {
    /// All records are written, and synced if the policy is to do so each time. An earlier failed sync is repaired
    /// first: its records are written to a new file and synced.
    Written {
        /// Bytes of the log.
        bytes: u64,
    },
    /// The rest is not written. The caller must ask for it again.
    WriteFailed {
        /// The error.
        error: SpoolError,
        /// Number of the request's records that are written.
        written: usize,
    },
    /// The next records, and the losses between them. Empty if everything is read.
    Read(Vec<Piece>),
    /// The disk refuses; reading continues at the same place. After three refusals in a row the rest of the file is
    /// read as lost.
    ReadFailed(SpoolError),
    /// Deletable segments are deleted.
    Released {
        /// Bytes of the log.
        bytes: u64,
    },
}

/// Whether the log is open.
#[derive(Debug, Clone)]
enum SpoolOpening {
    /// It is tried for the first time.
    Tried,
    /// It cannot be opened: why.
    Unavailable(String),
    Open(Recovered),
}

/// A route's log. Dropping it releases the log once the last request is done and synced.
#[derive(Debug)]
pub(crate) struct Spool {
    desk: Arc<Desk>,
    entry: PoolEntry,
    opening: watch::Receiver<SpoolOpening>,
    /// True if the result of opening was returned.
    told: bool,
    done: replies::Receiver<SpoolDone>,
    busy: bool,
}

impl Spool {
    /// Has the log of a route opened.
    pub(crate) fn open(keeper: &Keeper, route: &str, options: Options) -> Self {
        let (outbox, done) = replies::channel(1);
        let (tell, opening) = watch::channel(SpoolOpening::Tried);
        let desk = Arc::new(Desk {
            state: keeper.state.clone(),
            route: route.to_owned(),
            options,
            tell,
            outbox,
            inbox: Mutex::default(),
            work: Mutex::new(SpoolWork::Closed { since: Instant::now(), again_at: None }),
        });
        let entry = keeper.pool.add(Box::new(desk.clone()));
        Self { desk, entry, opening, told: false, done, busy: false }
    }

    /// Comes back when it was tried for the first time to open it: with what an earlier process left, or why it is
    /// not available. Cancel safe.
    pub(crate) async fn opened(&mut self) -> Result<Recovered, String> {
        let mut opening = self.opening.clone();
        let tried = opening.wait_for(|opening| !matches!(opening, SpoolOpening::Tried)).await;
        match tried.as_deref() {
            Ok(SpoolOpening::Open(recovered)) => {
                self.told = true;
                Ok(recovered.clone())
            }
            Ok(SpoolOpening::Unavailable(error)) => Err(error.clone()),
            // The sender lives as long as this handle.
            Ok(SpoolOpening::Tried) | Err(_) => Err("it was not opened".to_owned()),
        }
    }

    /// Returns `true` once if it has become available since [`Self::opened`] returned that it is not. It is empty then.
    pub(crate) fn has_become_available(&mut self) -> bool {
        let became = !self.told && matches!(*self.opening.borrow(), SpoolOpening::Open(_));
        self.told |= became;
        became
    }

    /// Why it is not available.
    pub(crate) fn unavailable(&self) -> Option<String> {
        match &*self.opening.borrow() {
            SpoolOpening::Unavailable(error) => Some(error.clone()),
            SpoolOpening::Tried | SpoolOpening::Open(_) => None,
        }
    }

    /// Returns whether an answer is awaited: one request at a time.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Asks. Does nothing while an answer is awaited, and before it is open.
    pub(crate) fn submit(&mut self, request: SpoolRequest) {
        if self.busy || !self.told {
            return;
        }
        *lock(&self.desk.inbox) = Inbox::Asked(request);
        self.busy = true;
        self.entry.ask();
    }

    /// Ready with the result of the request.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<SpoolDone> {
        match self.done.poll_recv(cx) {
            Poll::Ready(Some(done)) => {
                self.busy = false;
                Poll::Ready(done)
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let mut inbox = lock(&self.desk.inbox);
        *inbox = Inbox::Ended(match std::mem::take(&mut *inbox) {
            Inbox::Asked(request) => Some(request),
            Inbox::Empty | Inbox::Ended(_) => None,
        });
        drop(inbox);
        self.entry.ask();
    }
}

/// The threads' side of a spool.
#[derive(Debug)]
struct Desk {
    state: StatePlace,
    route: String,
    options: Options,
    tell: watch::Sender<SpoolOpening>,
    outbox: replies::Sender<SpoolDone>,
    inbox: Mutex<Inbox>,
    work: Mutex<SpoolWork>,
}

#[derive(Debug, Default)]
enum Inbox {
    #[default]
    Empty,
    Asked(SpoolRequest),
    /// Nobody asks any more; this is the last request.
    Ended(Option<SpoolRequest>),
}

#[derive(Debug)]
enum SpoolWork {
    Closed {
        since: Instant,
        again_at: Option<Instant>,
    },
    Open {
        log: Box<Log>,
        sync_again_at: Option<Instant>,
    },
    /// Nothing is to be done any more.
    Ended,
}

impl Task for Arc<Desk> {
    fn run(&self) {
        let mut work = lock(&self.work);
        let (request, ended) = match std::mem::take(&mut *lock(&self.inbox)) {
            Inbox::Empty => (None, false),
            Inbox::Asked(request) => (Some(request), false),
            Inbox::Ended(request) => (request, true),
        };
        match &mut *work {
            SpoolWork::Closed { since, .. } if !ended => *work = self.open(*since),
            SpoolWork::Open { log, sync_again_at } => match request {
                // There is room for one answer: the next request comes after it was taken.
                Some(request) => drop(self.outbox.try_send(answer(log, request))),
                None if sync_again_at.is_none_or(|at| Instant::now() >= at) => {
                    *sync_again_at = log.tick(false).err().map(|error| on_failed_sync(&error));
                }
                None => {}
            },
            SpoolWork::Closed { .. } | SpoolWork::Ended => {}
        }
        if ended {
            if let SpoolWork::Open { log, .. } = &mut *work
                && let Err(error) = log.sync()
            {
                on_failed_sync(&error);
            }
            *work = SpoolWork::Ended;
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        // A task that runs is examined the next time.
        let Ok(work) = self.work.try_lock() else { return false };
        match &*work {
            SpoolWork::Closed { again_at, .. } => again_at.is_none_or(|at| now >= at),
            SpoolWork::Open { log, .. } => log.is_unsynced(),
            SpoolWork::Ended => false,
        }
    }
}

impl Desk {
    /// Tries to open the log.
    fn open(&self, since: Instant) -> SpoolWork {
        let late = matches!(*self.tell.borrow(), SpoolOpening::Unavailable(_));
        let opened = match self.state.get() {
            Ok(state) => {
                state.spool(&self.route).and_then(|claim| Log::open(claim, self.options)).map_err(Some)
            }
            Err(_) => Err(None),
        };
        let error = match opened {
            Ok((_, recovered)) if late && (recovered.records > 0 || recovered.damages > 0) => {
                self.tell.send_replace(SpoolOpening::Unavailable(format!(
                    "it was opened late, and {} records of an earlier process belong before the messages received since; they \
                     stay on disk. Restart tidegate to store them first",
                    recovered.records
                )));
                return SpoolWork::Ended;
            }
            Ok((log, recovered)) => {
                self.tell.send_replace(SpoolOpening::Open(recovered));
                return SpoolWork::Open { log: Box::new(log), sync_again_at: None };
            }
            // The route that had it has ended, and the last of it is still written to disk.
            Err(Some(SpoolError::InUse { .. })) if since.elapsed() < IN_USE => {
                return SpoolWork::Closed { since, again_at: None };
            }
            Err(Some(error)) => error.to_string(),
            Err(None) => self.state.error().unwrap_or_default(),
        };
        self.tell.send_replace(SpoolOpening::Unavailable(error));
        SpoolWork::Closed { since, again_at: Some(Instant::now() + OPEN_AGAIN) }
    }
}

/// Logs the error and returns the time of the next attempt.
fn on_failed_sync(error: &SpoolError) -> Instant {
    tracing::warn!(
        event = LogCode::SpoolFailed.as_str(),
        "cannot sync the spool: {error}; tidegate writes the unsynced records again to a new file every 2 s. Until that \
         succeeds, a crash of the machine may lose them. Check the disk"
    );
    Instant::now() + RETRY
}

/// Carries out a request.
pub(crate) fn answer<S: Storage>(log: &mut Log<S>, request: SpoolRequest) -> SpoolDone {
    match request {
        SpoolRequest::Write(records) => match log.write(&records) {
            Ok(()) => SpoolDone::Written { bytes: log.bytes() },
            Err((error, written)) => SpoolDone::WriteFailed { error, written },
        },
        SpoolRequest::Read { max_bytes } => match log.read(max_bytes) {
            Ok(pieces) => SpoolDone::Read(pieces),
            Err(error) => SpoolDone::ReadFailed(error),
        },
        SpoolRequest::Release(mark) => {
            if let Err(error) = log.release(&mark) {
                tracing::warn!(
                    event = LogCode::SpoolFailed.as_str(),
                    "cannot delete stored records from the spool: {error}; tidegate retries"
                );
            }
            SpoolDone::Released { bytes: if log.is_empty() { 0 } else { log.bytes() } }
        }
    }
}
