//! Damaged files, kept for the operator: a few, of a bounded size, the newest.
//!
//! They are no part of the log any more: not read, not counted against its limit, and deleted by the operator
//! or to make room for the next one.

use std::io;

use super::segment::{Segment, is_aside};
use super::storage::Storage;

use crate::logs::LogCode;

/// Enough to look into what happened.
const FILES: usize = 4;
/// Four segments of the largest size would be 256 MiB; two show as much.
const BYTES: u64 = 128 * 1024 * 1024;

/// Puts a segment aside, and deletes the oldest ones if there are too many.
pub(super) fn put<S: Storage>(storage: &S, segment: &Segment) -> io::Result<()> {
    let name = segment.aside();
    match storage.rename(&segment.name, &name) {
        Ok(()) => tracing::warn!(
            event = LogCode::SpoolPutAside.as_str(),
            file = %storage.directory().join(&name).display(),
            "a damaged file of the spool is kept, and its intact records are stored. Delete it if you do not need it"
        ),
        // A file that was removed is damaged, too.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let mut kept: Vec<(String, u64)> = Vec::new();
    for name in storage.list()?.into_iter().filter(|name| is_aside(name)) {
        let length = storage.length(&name)?;
        kept.push((name, length));
    }
    // The names begin with the number.
    kept.sort_unstable();
    let mut bytes: u64 = kept.iter().map(|(_, length)| length).sum();
    let mut files = kept.len();
    for (name, length) in kept {
        if files <= FILES && bytes <= BYTES {
            break;
        }
        storage.remove(&name)?;
        tracing::warn!(
            event = LogCode::SpoolAsideRemoved.as_str(),
            file = %storage.directory().join(&name).display(),
            "the oldest damaged file is deleted: at most {FILES} files and {BYTES} bytes are kept"
        );
        files -= 1;
        bytes = bytes.saturating_sub(length);
    }
    Ok(())
}
