//! Reads every segment of a route's spool and says what is there, without changing anything.

use std::path::Path;

use serde::Serialize;

use super::log::{scan, segment_files};
use super::{Mark, SpoolError};
use crate::position::Position;

/// What a route's spool holds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The route.
    pub(crate) route: String,
    /// Files.
    pub(crate) segments: usize,
    /// Whole records.
    pub(crate) records: u64,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// The first record's last position.
    pub(crate) first: Option<String>,
    /// The last record's last position.
    pub(crate) last: Option<String>,
    /// Bytes at the end that are no record: being written, or torn by a crash and cut at the next start.
    pub(crate) tail_bytes: u64,
    /// What is damaged, and where.
    pub(crate) faults: Vec<String>,
    /// Files that were put aside.
    pub(crate) aside: Vec<String>,
}

/// Reads the spool in `directory`. Safe beside a running daemon.
///
/// # Errors
/// Where the directory cannot be read.
pub(crate) fn verify(route: &str, directory: &Path) -> Result<Report, SpoolError> {
    let mut report = Report { route: route.to_owned(), ..Report::default() };
    let files = segment_files(directory)?;
    report.segments = files.len();
    let text = |mark: Mark| Position::from_bytes(mark).to_string();
    for (index, (_, path)) in files.iter().enumerate() {
        let scanned = match scan(path) {
            Ok(scanned) => scanned,
            // A running daemon has stored what was in it.
            Err(SpoolError::Disk { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                report.faults.push(error.to_string());
                continue;
            }
        };
        report.records += scanned.records;
        report.bytes += scanned.length;
        report.first = report.first.take().or(scanned.first.map(text));
        report.last = scanned.last.map(text).or(report.last.take());
        match scanned.bad {
            None => {}
            Some(_) if index + 1 == files.len() => report.tail_bytes = scanned.length - scanned.bytes,
            Some(detail) => {
                let error = SpoolError::Corrupt { file: path.clone(), offset: scanned.bytes, detail };
                report.faults.push(error.to_string());
            }
        }
    }
    let aside = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    report.aside = aside
        .filter(|path| path.extension().is_some_and(|extension| extension == "corrupt"))
        .map(|path| path.display().to_string())
        .collect();
    report.aside.sort();
    Ok(report)
}
