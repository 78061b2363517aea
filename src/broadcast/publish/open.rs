//! The call that finds or makes a cursor, and its reply.

use super::call::{Tally, cursor_id, passes_of, tally};
use super::count::CursorCount;
use crate::config::Start;
use crate::server::resp::Value;
use crate::server::{Error, Script, redacted, script};
use crate::stream::EntryId;

/// Finds or makes the cursor.
pub(crate) const OPEN: Script = script!("open.lua");

/// The arguments of the open script's call.
pub(crate) fn start_argument(start: Option<Start>) -> String {
    match start {
        None => String::new(),
        Some(Start::Beginning) => EntryId::default().to_string(),
        Some(Start::End) => "end".to_owned(),
        Some(Start::New) => "new".to_owned(),
        Some(Start::After(milliseconds, sequence)) => EntryId { milliseconds, sequence }.to_string(),
    }
}

/// Which key has the place of a stream, or why none may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CursorPlace {
    /// The route's own cursor.
    Route,
    /// The cursor of this one of several streams.
    Stream,
    /// The route's own cursor has a place, and does not say of which stream.
    Unnamed,
    /// The route read several streams before, and their cursors may not be read.
    Unreadable,
    /// A newer release wrote the cursor.
    Newer,
}

/// The result of `open.lua`.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The cursor.
    pub(crate) place: CursorPlace,
    /// Why it must not be read; empty if it may be.
    pub(crate) refused: String,
    /// The cursor, if it is known.
    pub(crate) cursor: Option<EntryId>,
    /// `entries-added` at the cursor, if known.
    pub(crate) counted: CursorCount,
    /// Entries after the first of these and up to the second were published before: the stream was replaced meanwhile.
    pub(crate) passes: Option<(EntryId, EntryId)>,
    /// Totals since the cursor was made.
    pub(crate) tally: Tally,
    /// The last entry that failed for its own sake, which may be long past.
    pub(crate) failing: Option<Failing>,
}

/// An entry that cannot be published for its own sake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failing {
    pub(crate) entry: EntryId,
    /// Number of failed attempts.
    pub(crate) failures: u64,
    /// Number of different entries that failed since one was published, including this one.
    pub(crate) row: u64,
    /// The last error.
    pub(crate) error: String,
}

/// Reads the open script's reply.
///
/// # Errors
/// If it is no reply of that script.
pub(crate) fn opened(reply: &Value) -> Result<Opened, Error> {
    let Some(
        [
            cursor,
            published,
            unheard,
            rejected,
            filtered,
            entry,
            failures,
            row,
            error,
            counted,
            place,
            after,
            up_to,
        ],
    ) = reply.elements()
    else {
        return Err(OPEN.invalid_reply());
    };
    let passes = passes_of(after, up_to)?;
    let place = match place.bytes() {
        Some(b"route") => CursorPlace::Route,
        Some(b"stream") => CursorPlace::Stream,
        Some(b"unnamed") => CursorPlace::Unnamed,
        Some(b"unreadable") => CursorPlace::Unreadable,
        Some(b"newer") => CursorPlace::Newer,
        _ => return Err(OPEN.invalid_reply()),
    };
    let refused = error.bytes().map(redacted).unwrap_or_default();
    let failing = match (entry.bytes(), failures.count(), row.count(), error.bytes()) {
        (Some(b""), ..) => None,
        (Some(entry), Some(failures), Some(row), Some(error)) => {
            Some(Failing { entry: cursor_id(entry)?, failures, row, error: redacted(error) })
        }
        _ => return Err(OPEN.invalid_reply()),
    };
    let tally = tally([published, unheard, rejected, filtered]).ok_or_else(|| OPEN.invalid_reply())?;
    let cursor = match cursor.bytes() {
        Some(b"") => None,
        Some(text) => Some(cursor_id(text)?),
        None => return Err(OPEN.invalid_reply()),
    };
    Ok(Opened { place, refused, cursor, counted: CursorCount::read(counted), passes, tally, failing })
}
