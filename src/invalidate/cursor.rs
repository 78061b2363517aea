//! The cursor on the cache, the calls that move it, and what their replies mean.
//!
//! ```text
//! P R:cursor   format revision pos again counted read again_read marks clearing clearing_ms gaps began
//!              cleared absent refused written kept
//! ```
//!
//! `pos` is the last entry that was applied, `again` the last that was cleared once more; `counted` is how many entries
//! were ever added to the stream up to `pos`, `read` and `again_read` how many of them were read up to each. The cursor is where the keys are: whatever sets the one back sets the other back.

mod calls;
pub(super) mod place;

use super::change::CacheKey;
use super::second_pass::Marks;
use super::sweep::Clearing;
use crate::server::resp::{self, Value};
use crate::server::{Error, Script, script};
use crate::stream::EntryId;
use place::Place;

pub(super) use calls::{AdoptCall, ClearCall, CursorCalls};

/// Clears keys and moves a place over them.
pub(super) const CLEAR: Script = script!("cursor/clear.lua");
/// Puts the cursor where the caller has decided.
pub(super) const ADOPT: Script = script!("cursor/adopt.lua");

/// One of the two places in a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaceField {
    /// Of the first pass.
    Pos,
    /// Of the second one.
    Again,
}

impl PlaceField {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pos => "pos",
            Self::Again => "again",
        }
    }
}

/// What stands in the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The revision of the configuration: which keys an entry makes.
    pub(super) revision: String,
    /// The last entry that was applied.
    pub(super) pos: Place,
    /// The last entry that was cleared once more; `None` while there is no second pass.
    pub(super) again: Option<Place>,
    /// The first pass's progress over time.
    pub(super) marks: Marks,
    /// The clear of all keys that is under way.
    pub(super) clearing: Clearing,
    /// The last gap record seen, of the captures that write the stream.
    pub(super) gaps: Option<EntryId>,
    /// When its configuration took over, by the cache's clock in milliseconds.
    pub(super) began: u64,
    /// The counts of all instances since the cursor was made.
    pub(super) counts: Counts,
}

/// What was done since the cursor was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Keys that were there and were removed.
    pub(super) cleared: u64,
    /// Keys that were not there in the first pass.
    pub(super) absent: u64,
    /// Leases that were taken away.
    pub(super) refused: u64,
    /// Keys that got the value of an entry.
    pub(super) written: u64,
    /// Keys that had the version of an entry or a newer one in the first pass.
    pub(super) kept: u64,
}

/// A look at the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CursorLook {
    /// The cursor, if there is one.
    pub(super) cursor: Option<Cursor>,
    /// The revision and the place as stored, each empty if absent: the next compare-and-set expects them.
    pub(super) seen: (Vec<u8>, Vec<u8>),
}

/// The reply to a call of `clear.lua`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClearReply {
    /// Done.
    Done {
        /// Keys that were there.
        cleared: u64,
        /// Leases that were there.
        refused: u64,
        /// Keys that got a value.
        written: u64,
        /// Keys that had the version or a newer one.
        kept: u64,
        /// By the cache's clock, in milliseconds.
        time: u64,
        /// A clear that the instance at it has not written for some time.
        abandoned: Clearing,
    },
    /// Place or revision are not what was expected: look at the cursor.
    Moved,
}

const FIELDS: [&[u8]; 16] = [
    b"format",
    b"revision",
    b"pos",
    b"again",
    b"counted",
    b"read",
    b"again_read",
    b"marks",
    b"clearing",
    b"gaps",
    b"began",
    b"cleared",
    b"absent",
    b"refused",
    b"written",
    b"kept",
];
/// The format that this version writes.
const FORMAT: &[u8] = b"1";

/// Appends the question for the cursor.
pub(super) fn ask(out: &mut Vec<u8>, key: &str) {
    let mut command: Vec<&[u8]> = vec![b"HMGET", key.as_bytes()];
    command.extend(FIELDS);
    resp::command(out, &command);
}

/// Reads the reply to the question for the cursor.
///
/// # Errors
/// If the server refuses, or the cursor is of another format: an operator must act.
pub(super) fn on_look(key: &str, reply: &Value) -> Result<CursorLook, Error> {
    if let Value::Error(text) = reply {
        return Err(Error::reply_at(text, key));
    }
    let fields = reply.elements().filter(|fields| fields.len() == FIELDS.len());
    let Some(fields) = fields else {
        return Err(Error::Protocol("the reply to HMGET is not valid".to_owned()));
    };
    let [format, revision, pos, again, counted, read, again_read, marks, clearing, gaps, began, counts @ ..] =
        fields
    else {
        return Err(Error::Protocol("the reply to HMGET is not valid".to_owned()));
    };
    let bytes = |value: &Value| value.bytes().unwrap_or_default().to_vec();
    let seen = (bytes(revision), bytes(pos));
    if fields.iter().all(|field| *field == Value::Null) {
        return Ok(CursorLook { cursor: None, seen });
    }
    let refused = |what: &str| {
        Error::Refused(format!(
            "{key} {what}: a newer version of tidegate or another program wrote it. Update tidegate, or delete the key: \
             then everything in the stream is applied again, which is harmless"
        ))
    };
    if format.bytes().is_some_and(|format| format != FORMAT) {
        return Err(refused("has another format"));
    }
    let id = |value: &Value| EntryId::parse(value.bytes()?);
    // Eviction takes keys as wholes. A cursor without its places counts as none.
    let Some(pos) = id(pos) else { return Ok(CursorLook { cursor: None, seen }) };
    let again = match again.bytes() {
        None | Some(b"") => None,
        Some(text) => Some(EntryId::parse(text).ok_or_else(|| refused("has no valid place 'again'"))?),
    };
    let number = |value: &Value| std::str::from_utf8(value.bytes()?).ok()?.parse::<u64>().ok();
    let count_of = |value: &Value| match (number(value), value.bytes()) {
        (None, None | Some(b"")) => Ok(None),
        // A call compares it byte by byte.
        (Some(count), Some(text)) if count.to_string().as_bytes() == text => Ok(Some(count)),
        _ => Err(refused("has a count that is not valid")),
    };
    let (counted, read, again_read) = (count_of(counted)?, count_of(read)?, count_of(again_read)?);
    let again = again.map(|id| Place { id, counted: None, read: again_read });
    let count = |at: usize| counts.get(at).and_then(number).unwrap_or(0);
    let cursor = Cursor {
        revision: String::from_utf8_lossy(&seen.0).into_owned(),
        pos: Place { id: pos, counted, read },
        again,
        marks: Marks::parse(marks.bytes().unwrap_or_default()),
        clearing: Clearing::parse(clearing.bytes().unwrap_or_default()),
        gaps: id(gaps),
        began: number(began).unwrap_or(0),
        counts: Counts {
            cleared: count(0),
            absent: count(1),
            refused: count(2),
            written: count(3),
            kept: count(4),
        },
    };
    Ok(CursorLook { cursor: Some(cursor), seen })
}

/// Takes in the reply to a SCAN: where it continues, and what it found.
///
/// # Errors
/// If the server refuses.
pub(super) fn on_scanned(reply: &Value) -> Result<(Vec<u8>, Vec<CacheKey>), Error> {
    let invalid = || Error::Protocol("the reply to SCAN is not valid".to_owned());
    match reply {
        Value::Error(text) => Err(Error::reply(text)),
        _ => match reply.elements() {
            Some([cursor, found]) => {
                let cursor = cursor.bytes().ok_or_else(invalid)?.to_vec();
                let keys = found.elements().ok_or_else(invalid)?;
                let keys = keys.iter().filter_map(|key| key.bytes().map(Into::into)).collect();
                Ok((cursor, keys))
            }
            _ => Err(invalid()),
        },
    }
}

/// Takes in the cache's time, in milliseconds.
///
/// # Errors
/// If the server refuses.
pub(super) fn on_time(reply: &Value) -> Result<u64, Error> {
    if let Value::Error(text) = reply {
        return Err(Error::reply(text));
    }
    let number = |value: &Value| std::str::from_utf8(value.bytes()?).ok()?.parse::<u64>().ok();
    let time = match reply.elements() {
        Some([seconds, microseconds]) => number(seconds).zip(number(microseconds)),
        _ => None,
    };
    let (seconds, microseconds) =
        time.ok_or_else(|| Error::Protocol("the reply to TIME is not valid".to_owned()))?;
    Ok(seconds.saturating_mul(1000).saturating_add(microseconds / 1000))
}

/// Takes in the reply to `clear.lua`.
///
/// # Errors
/// If the script failed: then it has done nothing.
pub(super) fn on_cleared(key: &str, reply: &Value) -> Result<ClearReply, Error> {
    let count = |value: &Value| value.count().ok_or_else(|| CLEAR.invalid_reply());
    match reply {
        Value::Error(text) => Err(Error::reply_at(text, key)),
        _ => match reply.elements() {
            Some([Value::Integer(1), _, cleared, refused, time, abandoned, written, kept]) => {
                let time = time.bytes().and_then(|time| std::str::from_utf8(time).ok()?.parse().ok());
                let time = time.ok_or_else(|| CLEAR.invalid_reply())?;
                let abandoned = Clearing::parse(abandoned.bytes().unwrap_or_default());
                let [cleared, refused, written, kept] = [cleared, refused, written, kept].map(count);
                Ok(ClearReply::Done {
                    cleared: cleared?,
                    refused: refused?,
                    written: written?,
                    kept: kept?,
                    time,
                    abandoned,
                })
            }
            Some([Value::Integer(0), ..]) => Ok(ClearReply::Moved),
            _ => Err(CLEAR.invalid_reply()),
        },
    }
}

/// Takes in the reply to `adopt.lua`: whether the cursor was still as seen.
///
/// # Errors
/// If the script failed.
pub(super) fn on_adopted(key: &str, reply: &Value) -> Result<bool, Error> {
    match reply {
        Value::Error(text) => Err(Error::reply_at(text, key)),
        Value::Integer(done @ (0 | 1)) => Ok(*done == 1),
        _ => Err(ADOPT.invalid_reply()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sweep::Step;
    use super::*;

    pub(super) fn id(milliseconds: u64) -> EntryId {
        EntryId { milliseconds, sequence: 0 }
    }

    pub(super) fn place(at: u64, counted: u64) -> Place {
        Place { id: id(at), counted: Some(counted), read: Some(counted - 1) }
    }

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn a_cursor_is_read_and_what_is_none_is_told() {
        let fields = |format: &str, pos: &str, again: &str| {
            let all = [
                format, "abc", pos, again, "7", "6", "5", "5-0 1000", "keys", "8-0", "1700", "3", "2", "1",
                "5", "4",
            ];
            Value::Array(all.map(text).to_vec())
        };
        let look = on_look("c", &fields("1", "5-0", "4-0")).unwrap();
        let counts = Counts { cleared: 3, absent: 2, refused: 1, written: 5, kept: 4 };
        let marks = Marks::parse(b"5-0 1000");
        let revision = "abc".to_owned();
        let (pos, again) = (place(5, 7), Some(Place { counted: None, ..place(4, 6) }));
        let clearing = Clearing { step: Step::Keys { again: false }, missed_again: false };
        let cursor = Cursor { revision, pos, again, marks, clearing, gaps: Some(id(8)), began: 1700, counts };
        assert_eq!(look.cursor, Some(cursor));
        assert_eq!(look.seen, (b"abc".to_vec(), b"5-0".to_vec()));
        assert_eq!(on_look("c", &fields("1", "5-0", "")).unwrap().cursor.unwrap().again, None);
        assert_eq!(on_look("c", &fields("1", "", "")).unwrap().cursor, None);
        assert_eq!(on_look("c", &Value::Array(vec![Value::Null; 16])).unwrap().cursor, None);
        for (format, again) in [("2", "4-0"), ("1", "x")] {
            assert!(matches!(on_look("c", &fields(format, "5-0", again)), Err(Error::Refused(_))));
        }
        let refused = on_look("c", &Value::Error(b"WRONGTYPE x".to_vec())).unwrap_err();
        assert!(refused.to_string().contains("the key 'c' has another type"), "{refused}");
        assert!(on_look("c", &Value::Array(vec![])).is_err());
    }

    #[test]
    fn replies_of_the_scripts() {
        let (one, three) = (Value::Integer(1), Value::Integer(3));
        let counts = [Value::Integer(5), Value::Integer(4)];
        let done =
            [&[one.clone(), text("2-0"), three, one, text("1700"), text("keys")], &counts[..]].concat();
        let abandoned = Clearing { step: Step::Keys { again: false }, missed_again: false };
        let expected =
            ClearReply::Done { cleared: 3, refused: 1, written: 5, kept: 4, time: 1700, abandoned };
        assert_eq!(on_cleared("c", &Value::Array(done)).unwrap(), expected);
        let moved = [Value::Integer(0), text("9-0"), text("r"), text("1700")];
        assert_eq!(on_cleared("c", &Value::Array(moved.to_vec())).unwrap(), ClearReply::Moved);
        assert!(on_cleared("c", &Value::Error(b"NOPERM x".to_vec())).is_err());
        assert!(on_cleared("c", &Value::Null).is_err());
        assert!(
            on_adopted("c", &Value::Integer(1)).unwrap() && !on_adopted("c", &Value::Integer(0)).unwrap()
        );
        assert!(on_adopted("c", &Value::Integer(7)).is_err());
    }
}
