//! The log on a thread of its own: one request at a time, so that nothing queues up.

use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc as replies;

use super::{Log, Mark, Piece, Record, SpoolError, Storage};

/// How often the thread looks whether a sync is due while it is asked nothing.
const TICK: Duration = Duration::from_millis(200);
/// How long a sync that failed is left alone while nothing is asked: it may copy a whole segment each time.
const RETRY: Duration = Duration::from_secs(2);

/// What the log is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// To append these.
    Write(Vec<Record>),
    /// To read on.
    Read {
        /// Until the records are more than so many bytes.
        max_bytes: usize,
    },
    /// To delete what is at or before this.
    Release(Mark),
}

/// What it has done.
#[derive(Debug)]
pub(crate) enum Done {
    /// Everything is written, and synced where that is wanted each time. A failed sync never comes before this:
    /// what it was about is written to a new file and synced first.
    Written {
        /// Bytes of the log.
        bytes: u64,
    },
    /// The rest is not written, and is to be written again.
    WriteFailed {
        /// Why.
        error: SpoolError,
        /// How many records of the request are.
        written: usize,
    },
    /// The next records, and what is lost between them. Nothing where everything is read.
    Read(Vec<Piece>),
    /// The disk refuses; reading goes on at the same place. After three refusals in a row the rest of the file is
    /// read as lost.
    ReadFailed(SpoolError),
    /// What could be is deleted.
    Released {
        /// Bytes of the log.
        bytes: u64,
    },
}

/// The other end of the thread. Dropping it ends the thread once it has done what it was asked, and synced.
#[derive(Debug)]
pub(crate) struct Spool {
    requests: mpsc::SyncSender<Request>,
    done: replies::Receiver<Done>,
    busy: bool,
}

impl Spool {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system has no thread left.
    pub(crate) fn start(route: &str, log: Log) -> std::io::Result<Self> {
        let (requests, inbox) = mpsc::sync_channel(1);
        let (outbox, done) = replies::channel(1);
        std::thread::Builder::new()
            .name(format!("spool {route}").chars().take(15).collect())
            .spawn(move || serve(log, &inbox, &outbox))?;
        Ok(Self { requests, done, busy: false })
    }

    /// Whether an answer is awaited: one request at a time.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Asks. Does nothing while an answer is awaited.
    pub(crate) fn submit(&mut self, request: Request) {
        if !self.busy {
            // One request has room; a thread that is gone says so in `poll_done`.
            self.busy = self.requests.try_send(request).is_ok();
        }
    }

    /// Comes back with what was done.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        match self.done.poll_recv(cx) {
            Poll::Ready(Some(done)) => {
                self.busy = false;
                Poll::Ready(done)
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

fn serve(mut log: Log, inbox: &mpsc::Receiver<Request>, outbox: &replies::Sender<Done>) {
    let mut retry_at = None;
    loop {
        let done = match inbox.recv_timeout(TICK) {
            Ok(request) => answer(&mut log, request),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if retry_at.is_none_or(|at| Instant::now() >= at) {
                    retry_at = log.tick(false).err().map(|error| on_failed_sync(&error));
                }
                continue;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        };
        if outbox.blocking_send(done).is_err() {
            break;
        }
    }
    if let Err(error) = log.sync() {
        on_failed_sync(&error);
    }
}

/// Says it, and when to try again.
fn on_failed_sync(error: &SpoolError) -> Instant {
    tracing::warn!(
        event = "spool_failed",
        "the spool could not be synced: {error}; what is not synced is written again to a new file every 2 s until \
         that succeeds, and a crash of the machine may lose it until then. Check the disk"
    );
    Instant::now() + RETRY
}

/// Does what is asked.
pub(crate) fn answer<S: Storage>(log: &mut Log<S>, request: Request) -> Done {
    match request {
        Request::Write(records) => match log.write(&records) {
            Ok(()) => Done::Written { bytes: log.bytes() },
            Err((error, written)) => Done::WriteFailed { error, written },
        },
        Request::Read { max_bytes } => match log.read(max_bytes) {
            Ok(pieces) => Done::Read(pieces),
            Err(error) => Done::ReadFailed(error),
        },
        Request::Release(mark) => {
            if let Err(error) = log.release(&mark) {
                tracing::warn!(event = "spool_failed", "what is stored could not be deleted: {error}");
            }
            Done::Released { bytes: if log.is_empty() { 0 } else { log.bytes() } }
        }
    }
}
