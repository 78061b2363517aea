//! Reads every segment of a route's spool and reports its content, without changing anything.
//!
//! It reads as opening a log does, so it finds the same. A daemon that runs beside it writes at the end and deletes
//! from the front. Records written after the files were listed are ignored, and if a file was deleted meanwhile
//! everything is read once more.

use std::path::Path;

use serde::Serialize;

use super::log::{find, segments};
use super::scan::{ScanStep, Scanner};
use super::segment::{Segment, is_kept};
use super::storage::{Disk, Storage};
use super::{Mark, SpoolError, at};
use crate::position::Position;

/// Number of attempts if a daemon deletes files: at full speed a segment lasts longer than reading one takes.
const ROUNDS: u32 = 5;

/// The content of a route's spool.
#[derive(Debug, Default, Serialize)]
pub(crate) struct VerifyReport {
    /// The route.
    pub(crate) route: String,
    /// Files.
    pub(crate) segments: usize,
    /// Intact records.
    pub(crate) records: u64,
    /// Events in them; those of files of release 0.1.0 are not counted.
    pub(crate) events: u64,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// The first record's last position.
    pub(crate) first: Option<String>,
    /// The last record's last position.
    pub(crate) last: Option<String>,
    /// Bytes at the end that are no record: being written, or torn by a crash and cut at the next start.
    pub(crate) tail_bytes: u64,
    /// The content of each file.
    pub(crate) files: Vec<FileReport>,
    /// The losses.
    pub(crate) losses: Vec<Loss>,
    /// Files that the disk refuses to read.
    pub(crate) refused: Vec<String>,
    /// Files that were put aside.
    pub(crate) aside: Vec<String>,
}

impl VerifyReport {
    /// Returns whether anything is not as it was written.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.losses.is_empty()
            || !self.refused.is_empty()
            || self.files.iter().any(|file| !file.damaged.is_empty())
    }
}

/// One file.
#[derive(Debug, Serialize)]
pub(crate) struct FileReport {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    /// Intact records.
    pub(crate) records: u64,
    pub(crate) damaged: Vec<Stretch>,
}

/// Bytes that are not as they were written.
#[derive(Debug, Serialize)]
pub(crate) struct Stretch {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) detail: &'static str,
}

/// Records that are lost.
#[derive(Debug, Serialize)]
pub(crate) struct Loss {
    /// The damaged file, or the file before which one is missing.
    pub(crate) file: String,
    pub(crate) offset: u64,
    /// `null` if unknown.
    pub(crate) records: Option<u64>,
    pub(crate) events: Option<u64>,
    /// The position before it.
    pub(crate) after: Option<String>,
    /// The last position that is known to have been in it.
    pub(crate) upto: Option<String>,
    pub(crate) detail: &'static str,
}

/// Reads the spool in `directory`. Safe beside a running daemon.
///
/// # Errors
/// If the directory cannot be read, or a newer release wrote it.
pub(crate) fn verify(route: &str, directory: &Path) -> Result<VerifyReport, SpoolError> {
    let storage = Disk::unclaimed(directory);
    let mut round = 0;
    loop {
        round += 1;
        match read(route, &storage) {
            Err(SpoolError::Disk { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && round < ROUNDS => {}
            done => return done,
        }
    }
}

fn read(route: &str, storage: &Disk) -> Result<VerifyReport, SpoolError> {
    let mut report = VerifyReport { route: route.to_owned(), ..VerifyReport::default() };
    let listed = segments(storage)?;
    let found = find(storage, listed.clone())?;
    let text = |mark: Mark| Position::from_bytes(mark).to_string();
    report.segments = listed.len();
    report.records = found.recovered.records;
    report.events = found.recovered.events;
    report.bytes = listed.iter().map(|segment| segment.bytes).sum();
    report.first = found.recovered.first.map(text);
    report.last = found.recovered.last.map(text);
    report.tail_bytes = found.recovered.cut_bytes;
    report.refused = found.refused.iter().map(ToString::to_string).collect();
    for segment in &listed {
        let torn = found.torn.as_ref().filter(|torn| torn.name == segment.name);
        match file(storage, segment, torn.map_or(segment.bytes, |torn| torn.offset)) {
            Ok(read) => report.files.push(read),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(at(storage.directory().join(&segment.name))(error));
            }
            // It is among those that are refused.
            Err(_) => {}
        }
    }
    for damage in found.damages {
        report.losses.push(Loss {
            file: damage.file.display().to_string(),
            offset: damage.offset,
            records: damage.records,
            events: damage.events,
            after: damage.after.map(text),
            upto: damage.upto.map(text),
            detail: damage.detail,
        });
    }
    for name in storage.list().map_err(at(storage.directory()))? {
        if is_kept(&name) {
            report.aside.push(storage.directory().join(name).display().to_string());
        }
    }
    report.aside.sort();
    Ok(report)
}

fn file(storage: &Disk, segment: &Segment, limit: u64) -> std::io::Result<FileReport> {
    let mut scanner = Scanner::new(storage.open(&segment.name)?, segment);
    let mut report = FileReport {
        file: storage.directory().join(&segment.name).display().to_string(),
        bytes: segment.bytes,
        records: 0,
        damaged: Vec::new(),
    };
    let mut body = Vec::new();
    loop {
        match scanner.step(storage, limit, &mut body)? {
            ScanStep::Frame(head) => {
                report.records += u64::from(head.kind == super::record::FrameKind::Record)
            }
            ScanStep::Old(_) => report.records += 1,
            ScanStep::Bad(bad) => {
                report.damaged.push(Stretch { offset: bad.offset, bytes: bad.bytes, detail: bad.detail });
            }
            ScanStep::End => return Ok(report),
        }
    }
}
