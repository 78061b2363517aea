//! The log on a thread of its own: one request at a time, so that nothing queues up.

use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc as replies;

use super::{Log, Mark, SpoolError};

/// How often the thread looks whether a sync is due while it is asked nothing.
const TICK: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
pub(crate) struct Record { pub(crate) mark: Mark, pub(crate) events: u64, pub(crate) body: Vec<u8> }
#[derive(Debug)]
pub(crate) enum Piece { Record(Record), Damage(Damage) }
#[derive(Debug)]
pub(crate) struct Damage { pub(crate) after: Option<Mark>, pub(crate) upto: Option<Mark>, pub(crate) events: Option<u64>, pub(crate) detail: String }
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
    /// Everything is written, and synced where that is wanted each time.
    Written {
        /// Bytes of the log.
        bytes: u64,
    },
    /// The rest is not written.
    WriteFailed {
        /// Why.
        error: SpoolError,
        /// How many records of the request are.
        written: usize,
    },
    /// The next records.
    Read(Vec<Piece>),
    /// They cannot be read.
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
    loop {
        let done = match inbox.recv_timeout(TICK) {
            Ok(request) => answer(&mut log, request),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if let Err(error) = log.tick(false) {
                    tracing::warn!(event = "spool_failed", "the spool could not be synced: {error}");
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
        tracing::warn!(event = "spool_failed", "the spool could not be synced: {error}");
    }
}

fn answer(log: &mut Log, request: Request) -> Done {
    match request {
        Request::Write(records) => {
            for (written, record) in records.iter().enumerate() {
                if let Err(error) = log.append(&record.mark, &record.body) {
                    return Done::WriteFailed { error, written };
                }
            }
            match log.tick(true) {
                Ok(()) => Done::Written { bytes: log.bytes() },
                // It is in the file, but a crash of the machine may take it.
                Err(error) => Done::WriteFailed { error, written: records.len() },
            }
        }
        Request::Read { max_bytes } => match log.read(max_bytes) {
            Ok(records) => Done::Read(records.into_iter().map(|(mark, body)| Piece::Record(Record { mark, events: 0, body })).collect()),
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
