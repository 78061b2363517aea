//! The spool: what a capture writes to disk while its destination is away.
//!
//! A log of opaque records on disk, in segments, that survives a crash at any byte:
//!
//! ```text
//! STATE_DIRECTORY/lock                      held by the one daemon that may write here
//! STATE_DIRECTORY/instance                  which instance this is, the same after a restart
//! STATE_DIRECTORY/spool/ROUTE/00…01.spool   header · record · record · …
//! STATE_DIRECTORY/spool/ROUTE/00…02.spool   the last one is written to
//! ```
//!
//! `log` is synchronous; `Spool` runs it on a thread of its own, since a disk may take seconds. What
//! the records mean is the capture's business: here each has only a *mark* that says where it stands.

mod directory;
mod log;
mod record;
mod verify;
mod worker;

use std::io;
use std::path::PathBuf;

pub use crate::config::settings::Fsync;
pub use directory::StateDirectory;
pub(crate) use directory::spools;
pub use log::Log;
pub(crate) use verify::{Report, verify};
pub(crate) use worker::{Damage, Done, Piece, Record, Request, Spool};

/// What orders records: bytes that ascend.
pub type Mark = [u8; 24];

/// How a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes that it may have.
    pub limit_bytes: u64,
    /// Bytes after which a segment is closed and the next one begun.
    pub segment_bytes: u64,
    /// When it is synced.
    pub fsync: Fsync,
}

/// What opening a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whole records.
    pub records: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// The last record's mark.
    pub last: Option<Mark>,
    /// Bytes of a torn tail that were cut off.
    pub cut_bytes: u64,
}

/// What can go wrong on disk.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The log has reached its limit.
    #[error("the spool {} has reached its limit of {limit_bytes} bytes: bring the destination back, or raise limit in [daemon.spool]", directory.display())]
    Full {
        /// The log's directory.
        directory: PathBuf,
        /// Its limit.
        limit_bytes: u64,
    },
    /// The system refused.
    #[error("{}: {source}", file.display())]
    Disk {
        /// What was being worked on.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record that was written whole is not what it was.
    #[error("{} is damaged at byte {offset}: {detail}", file.display())]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// Where the bad record begins.
        offset: u64,
        /// What is wrong.
        detail: &'static str,
    },
    /// A newer release wrote it.
    #[error("{} has format {version}, this release knows {}: run the newer release again, or move the file away, which loses what is in it", file.display(), record::VERSION)]
    Version {
        /// The segment.
        file: PathBuf,
        /// Its format.
        version: u32,
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
