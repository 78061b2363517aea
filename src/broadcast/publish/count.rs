//! The count in a cursor: how many entries were ever added to the stream up to its place.
//!
//! A stream that is deleted takes its count with it, and the next one counts from the beginning. A cursor's count belongs
//! to one of these streams, so the cursor numbers them: one more each time the count is determined anew. It also keeps how
//! many entries of the stream before were dealt with. So an instance that saw that stream still learns how many of its
//! entries were lost, and records them once.
//!
//! As text: `count`, or `count:stream:before`. Without a count, the first part is empty.

use std::fmt;

use crate::server::resp::Value;

/// How many entries were added to a stream up to a place, and to which stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StreamCount {
    /// `entries-added` at the place, if known.
    pub(crate) added: Option<u64>,
    /// The number of the stream.
    pub(crate) stream: u64,
}

impl StreamCount {
    /// The same count with further entries.
    pub(crate) fn plus(self, entries: u64) -> Self {
        Self { added: self.added.map(|added| added.saturating_add(entries)), ..self }
    }
}

/// The count of a cursor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CursorCount {
    /// Up to the cursor's place.
    pub(crate) at: StreamCount,
    /// Number of entries of the stream before that were dealt with, if known.
    pub(crate) before: Option<u64>,
}

impl CursorCount {
    /// Reads the text that a script returns. It is kept as text, since a Lua number does not hold every count.
    pub(crate) fn read(value: &Value) -> Self {
        let mut parts = value.text().unwrap_or_default().split(':').map(|part| part.parse().ok());
        let mut next = || parts.next().flatten();
        let (added, stream, before) = (next(), next(), next());
        Self { at: StreamCount { added, stream: stream.unwrap_or(0) }, before }
    }

    /// How many entries of this stream were dealt with, as far as the cursor says. `None` if it says nothing of this
    /// stream.
    pub(crate) fn of_stream(self, stream: u64) -> Option<u64> {
        match self.at.stream.checked_sub(stream)? {
            0 => self.at.added,
            1 => self.before,
            _ => None,
        }
    }

    /// The same count with this number of entries of this stream recorded as lost.
    pub(crate) fn with_lost(mut self, stream: u64, entries: u64) -> Self {
        let count = if self.at.stream == stream { &mut self.at.added } else { &mut self.before };
        *count = count.map(|count| count.saturating_add(entries));
        self
    }

    /// The count once the next stream's count is determined, `added` up to this same place.
    pub(crate) fn anew(self, added: u64) -> Self {
        let before = self.at.added.map(|count| count.saturating_sub(added));
        Self { at: StreamCount { added: Some(added), stream: self.at.stream.saturating_add(1) }, before }
    }
}

impl fmt::Display for CursorCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |count: Option<u64>| count.map(|count| count.to_string()).unwrap_or_default();
        match (self.at.stream, self.before) {
            (0, None) => f.write_str(&text(self.at.added)),
            (stream, before) => write!(f, "{}:{stream}:{}", text(self.at.added), text(before)),
        }
    }
}

/// `entries-added` at a batch's last entry, as an argument of the publish script.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Not known.
    #[default]
    Unknown,
    /// More by this number than up to the cursor.
    More(u64),
    /// The first number, whatever the cursor has: it was determined anew. The batch has the second number of entries.
    Anew(u64, u64),
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => Ok(()),
            Self::More(entries) => write!(f, "+{entries}"),
            Self::Anew(added, entries) => write!(f, "={added}+{entries}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(added: Option<u64>, stream: u64, before: Option<u64>) -> CursorCount {
        CursorCount { at: StreamCount { added, stream }, before }
    }

    #[test]
    fn a_count_is_read_as_it_is_written() {
        for (text, expected) in [
            ("", count(None, 0, None)),
            ("17", count(Some(17), 0, None)),
            (":3:", count(None, 3, None)),
            ("5:1:20", count(Some(5), 1, Some(20))),
            ("5:2:", count(Some(5), 2, None)),
            ("18446744073709551615", count(Some(u64::MAX), 0, None)),
        ] {
            assert_eq!(CursorCount::read(&Value::Bytes(text.into())), expected, "{text}");
            assert_eq!(expected.to_string(), text);
        }
    }

    #[test]
    fn a_cursor_tells_of_its_stream_and_of_the_one_before() {
        let now = count(Some(5), 2, Some(20));
        assert_eq!(now.of_stream(2), Some(5));
        assert_eq!(now.of_stream(1), Some(20));
        assert_eq!(now.of_stream(0), None);
        assert_eq!(now.of_stream(3), None, "another instance has not met this stream");
        assert_eq!(now.with_lost(1, 3), count(Some(5), 2, Some(23)));
        assert_eq!(now.with_lost(2, 3), count(Some(8), 2, Some(20)));
    }
}
