//! The spool: batches of a capture on disk, while its destination is down.
//!
//! A log of opaque records on disk, in segments. It survives a crash at any byte, and a damaged disk costs only the
//! damaged records:
//!
//! ```text
//! STATE_DIRECTORY/lock                              held by the one daemon that may write here
//! STATE_DIRECTORY/instance                          which instance this is, the same after a restart
//! STATE_DIRECTORY/spool/ROUTE/00…01-v2-SALT.spool   begin · record · record · … · seal
//! STATE_DIRECTORY/spool/ROUTE/00…02-v2-SALT.spool   the last one is written to
//! STATE_DIRECTORY/spool/ROUTE/….spool.damaged       kept for the operator, a few
//! ```
//!
//! From below: `storage` moves bytes, `record` is their format, `segment` one file, `scan` reads it frame by frame,
//! `log` puts segments together and knows the losses, `aside` keeps damaged files. `worker` runs a log on the threads
//! of `pool`, since a disk may take seconds; `answer` is the same without the threads. `verify` reads beside it. The
//! capture gives the records their meaning: here each has a *mark*, its position, and a number of events.
//!
//! Failure: each loss is delivered in its place, as a [`Damage`] with the marks around it and, if known, the number of
//! lost events. If the disk refuses, the operation is tried again.

mod aside;
mod directory;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod log;
mod pool;
mod record;
mod scan;
mod segment;
mod storage;
mod verify;
mod worker;

use std::io;
use std::path::PathBuf;

pub use crate::config::settings::Fsync;
pub(crate) use directory::spools;
pub use directory::{Claim, StateDirectory, StatePlace};
pub use log::Log;
pub use pool::Pool;
#[cfg(test)]
pub(crate) use storage::MemoryDisk;
pub use storage::{Disk, Storage};
pub(crate) use verify::{Loss, Stretch, VerifyReport, verify};
pub use worker::Keeper;
#[cfg(test)]
pub(crate) use worker::answer;
pub(crate) use worker::{Spool, SpoolDone, SpoolRequest};

/// The order of records: ascending bytes.
pub type Mark = [u8; 24];

/// More events than any record or loss has. Lower numbers can be added up 65,536 times without an overflow.
pub(crate) const MOST_EVENTS: u64 = 1 << 48;

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The record's position.
    pub mark: Mark,
    /// Number of its events; 0 for records of release 0.1.0, whose number is only in the body.
    pub events: u64,
    /// The content; never empty.
    pub body: Vec<u8>,
}

/// Records that are lost, all at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The last intact record before it; `None` if none was read before it.
    pub after: Option<Mark>,
    /// The last mark that is known to have been in it.
    pub upto: Option<Mark>,
    /// Records that are lost; `None` if nothing can say.
    pub records: Option<u64>,
    /// Their events. It may be 0: a record need not carry one.
    pub events: Option<u64>,
    /// The file.
    pub file: PathBuf,
    /// Its offset in the file.
    pub offset: u64,
    /// Its length; 0 if a whole file is missing.
    pub bytes: u64,
    /// The kind of damage.
    pub detail: &'static str,
}

/// A piece that is read from a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A record, as it was written.
    Record(Record),
    /// Records in this place are lost.
    Damage(Damage),
}

/// The options of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes that it may have.
    pub limit_bytes: u64,
    /// Bytes after which a segment is closed and the next one begun.
    pub segment_bytes: u64,
    /// When the log is synced.
    pub fsync: Fsync,
}

/// The result of opening a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Intact records.
    pub records: u64,
    /// Their events; those of release 0.1.0's files are not counted.
    pub events: u64,
    /// Events that damages lost, as far as known.
    pub lost_events: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// The first intact record's mark.
    pub first: Option<Mark>,
    /// The last intact record's mark. A [`Damage`] may follow it: everything is read once a read returns nothing.
    pub last: Option<Mark>,
    /// The content of the first and of the last intact record: they may be lost before they are read in their turn.
    pub ends: Option<[Vec<u8>; 2]>,
    /// Number of times that a [`Damage`] will be read.
    pub damages: u64,
    /// Bytes of a torn tail that were cut off.
    pub cut_bytes: u64,
}

/// An error of the spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The log has reached its limit.
    #[error("the spool {} has reached its limit of {limit_bytes} bytes: bring the destination back, or raise limit in [daemon.spool]", directory.display())]
    Full {
        /// The log's directory.
        directory: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// The system refused.
    #[error("{}: {source}", file.display())]
    Disk {
        /// The file or directory.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A newer release wrote it.
    #[error("{} has format {version}, this release knows {}: run the newer release again, or move the file away, which loses what is in it", file.display(), record::VERSION)]
    Version {
        /// The segment.
        file: PathBuf,
        /// The file's format.
        version: u32,
    },
    /// Another log of this process has the directory, for instance that of a capture that still ends.
    #[error("the spool {} is still in use by the route that had it before", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// Another process has the directory.
    #[error("another tidegate uses {} (`fuser {}/lock` names it): give each instance a state_directory of its own", directory.display(), directory.display())]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
}

/// Says which file an operation was about.
fn at(file: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> SpoolError {
    let file = file.into();
    move |source| SpoolError::Disk { file, source }
}
