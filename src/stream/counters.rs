//! How much a stream has had: whether everything that was added to it has been read.
//!
//! The server counts all entries ever added (`entries-added`, from Redis 7.0 on). A reader that keeps the same count for its
//! place learns from the two whether entries were deleted or trimmed before it read them, and whether the stream is still
//! the one that it knows. Ids prove nothing: between two of them there may have been none.

use crate::server::Error;
use crate::server::resp::{self, Value};
use crate::stream::EntryId;

/// Counters and ids of the stream, from XINFO STREAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamCounters {
    /// Entries that were ever added.
    pub(crate) added: u64,
    /// Entries that are there.
    pub(crate) length: u64,
    /// The id given last.
    pub(crate) last: EntryId,
    /// The first entry that is there.
    pub(crate) first: Option<EntryId>,
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compared {
    /// Nothing: a part of the present entries has been read.
    Unknown,
    /// This many entries were added up to the place that was read to, as counted.
    Complete,
    /// The number of entries added up to the place read, if the count was not known before.
    Counted(u64),
    /// This many were never read.
    Missed(u64),
    /// Fewer were added than were counted: the stream was deleted, and another one begun. This many were added to it up
    /// to the place read.
    Anew(u64),
    /// The last id is below the last one read, and ids only rise: it is another stream, or it was set back, and entries
    /// added to it now are never read.
    Below,
}

/// Appends the question for the stream's counters.
pub(crate) fn ask_counters(stream: &str, out: &mut Vec<u8>) {
    resp::command(out, &[b"XINFO", b"STREAM", stream.as_bytes()]);
}

/// Returns whether the answer means that the stream does not exist. Other errors are reported where entries are read.
pub(crate) fn is_gone(error: &Error) -> bool {
    error.code() == Some("ERR")
}

impl Compared {
    /// Returns whether the number is not the one that was counted, but determined anew.
    pub(crate) fn is_anew(self) -> bool {
        matches!(self, Self::Anew(_) | Self::Counted(_))
    }

    /// The number of the last entry read, according to this comparison.
    pub(crate) fn number(self, counted: Option<u64>) -> Option<u64> {
        match self {
            Self::Anew(added) | Self::Counted(added) => Some(added),
            Self::Below => None,
            Self::Unknown | Self::Complete | Self::Missed(_) => counted,
        }
    }
}

impl StreamCounters {
    /// Reads the reply to XINFO STREAM; `None` if it is another reply.
    pub(crate) fn read(reply: &Value) -> Option<Self> {
        let pairs = reply.elements()?;
        let get = |name: &str| {
            pairs.chunks_exact(2).find(|pair| pair[0].bytes() == Some(name.as_bytes())).map(|pair| &pair[1])
        };
        let number = |name| get(name)?.count();
        let id = |value: &Value| EntryId::parse(value.bytes()?);
        Some(Self {
            added: number("entries-added")?,
            length: number("length")?,
            last: id(get("last-generated-id")?)?,
            first: get("first-entry")?.elements().and_then(|entry| id(entry.first()?)),
        })
    }

    /// Number of entries that were deleted or trimmed.
    pub(crate) fn removed(&self) -> u64 {
        self.added.saturating_sub(self.length)
    }

    /// Returns whether this is another stream than the one seen before. In one stream, counts, last id and first id
    /// only rise, and the first id rises only if entries were removed.
    pub(crate) fn replaces(&self, seen: &Self) -> bool {
        let removed = match (seen.first, self.first) {
            (Some(before), Some(first)) if first < before => return true,
            (Some(_), Some(first)) if first > seen.last => seen.added,
            (Some(before), Some(first)) if first > before => seen.removed() + 1,
            _ => seen.removed(),
        };
        self.added < seen.added || self.last < seen.last || self.removed() < removed
    }

    /// Compares with the last entry read and, if known, its number in `entries-added`.
    pub(crate) fn compare(&self, read: EntryId, counted: Option<u64>) -> Compared {
        if read > self.last {
            // A cursor that has not moved yet may have been put there on purpose (`start`).
            return if counted.is_some() { Compared::Below } else { Compared::Unknown };
        }
        let unread = if read == self.last {
            0
        } else if self.first.is_none_or(|first| first > read) {
            self.length
        } else {
            return Compared::Unknown;
        };
        let added = self.added.saturating_sub(unread);
        match counted {
            None => Compared::Counted(added),
            Some(counted) if counted == added => Compared::Complete,
            Some(counted) if counted < added => Compared::Missed(added - counted),
            Some(_) => Compared::Anew(added),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(milliseconds: u64) -> EntryId {
        EntryId { milliseconds, sequence: 0 }
    }

    #[test]
    fn a_stream_whose_counts_contradict_those_before_is_another_one() {
        let facts = |added, length, last, first: Option<u64>| StreamCounters {
            added,
            length,
            last: id(last),
            first: first.map(id),
        };
        let seen = facts(10, 8, 10, Some(3));
        for (now, expected) in [
            (facts(10, 8, 10, Some(3)), false),
            (facts(12, 10, 12, Some(3)), false),
            // Entries were removed: the first, one in the middle, all.
            (facts(12, 9, 12, Some(4)), false),
            (facts(10, 7, 10, Some(3)), false),
            (facts(12, 2, 12, Some(11)), false),
            (facts(10, 0, 10, None), false),
            // Its counts, its last and its first entry are below.
            (facts(9, 7, 10, Some(3)), true),
            (facts(10, 8, 9, Some(3)), true),
            (facts(10, 8, 10, Some(2)), true),
            // More was added than before, and nothing that was there is left, although nothing was removed.
            (facts(40, 40, 60, Some(20)), true),
            (facts(40, 31, 60, Some(20)), true),
            (facts(40, 38, 60, Some(4)), true),
            (facts(40, 39, 60, Some(3)), true),
        ] {
            assert_eq!(now.replaces(&seen), expected, "{now:?}");
        }
    }

    #[test]
    fn what_is_missing_is_told_only_where_it_is_known() {
        let facts = |added, length, last, first: Option<u64>| StreamCounters {
            added,
            length,
            last: id(last),
            first: first.map(id),
        };
        for (facts, read, counted, expected) in [
            // Everything that is there was read.
            (facts(10, 10, 10, Some(1)), 10, Some(10), Compared::Complete),
            (facts(10, 4, 10, Some(5)), 10, Some(10), Compared::Complete),
            (facts(10, 9, 10, Some(1)), 10, Some(9), Compared::Missed(1)),
            (facts(10, 0, 10, None), 7, Some(7), Compared::Missed(3)),
            (facts(10, 9, 10, Some(1)), 10, None, Compared::Counted(10)),
            // A part of it was read: missing entries may still come.
            (facts(10, 9, 10, Some(1)), 5, Some(5), Compared::Unknown),
            // Nothing that was read is there any more.
            (facts(10, 3, 10, Some(8)), 5, Some(5), Compared::Missed(2)),
            (facts(10, 5, 10, Some(6)), 5, Some(5), Compared::Complete),
            (facts(10, 5, 10, Some(6)), 5, None, Compared::Counted(5)),
            // Another stream of the same name.
            (facts(2, 2, 20, Some(15)), 10, Some(10), Compared::Anew(0)),
            (facts(4, 4, 9, Some(6)), 10, Some(1), Compared::Below),
            (facts(4, 4, 9, Some(6)), 10, Some(10), Compared::Below),
            // A cursor that `start` put there.
            (facts(4, 4, 9, Some(6)), 10, None, Compared::Unknown),
        ] {
            assert_eq!(facts.compare(id(read), counted), expected, "{facts:?} {read} {counted:?}");
        }
    }
}
