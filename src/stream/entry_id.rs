//! An entry's id: a cursor, and the progress of a broadcast.

use std::fmt;

/// `milliseconds-sequence`. Ordered as the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Milliseconds since 1970, by the server that added the entry.
    pub milliseconds: u64,
    /// Tells entries of one millisecond apart.
    pub sequence: u64,
}

impl EntryId {
    /// Reads an id as the server writes it; `None` if it is none.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let dash = text.iter().position(|byte| *byte == b'-')?;
        Some(Self { milliseconds: number(&text[..dash])?, sequence: number(&text[dash + 1..])? })
    }

    /// The greatest id below this one, so that reading after it begins here; the lowest has none below.
    #[must_use]
    pub fn before(self) -> Self {
        match (self.milliseconds, self.sequence) {
            (0, 0) => self,
            (milliseconds, 0) => Self { milliseconds: milliseconds - 1, sequence: u64::MAX },
            (milliseconds, sequence) => Self { milliseconds, sequence: sequence - 1 },
        }
    }
}

#[cfg(test)]
impl EntryId {
    /// The id that a server gives next, by its clock.
    pub(crate) fn next(self, clock_ms: u64) -> Self {
        if clock_ms > self.milliseconds {
            Self { milliseconds: clock_ms, sequence: 0 }
        } else {
            Self { sequence: self.sequence + 1, ..self }
        }
    }
}

/// Digits and nothing else. It runs once per entry, so without `str`.
fn number(digits: &[u8]) -> Option<u64> {
    let (first, rest) = digits.split_first()?;
    rest.iter().try_fold(digit(*first)?, |number, byte| number.checked_mul(10)?.checked_add(digit(*byte)?))
}

fn digit(byte: u8) -> Option<u64> {
    byte.is_ascii_digit().then(|| u64::from(byte - b'0'))
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_as_numbers() {
        let id = |text: &str| EntryId::parse(text.as_bytes()).unwrap();
        assert!(id("9-0") < id("10-0"));
        assert!(id("10-9") < id("10-10"));
        assert_eq!(id("18446744073709551615-7").to_string(), "18446744073709551615-7");
        for (of, before) in [("5-1", "5-0"), ("5-0", "4-18446744073709551615"), ("0-0", "0-0")] {
            assert_eq!(id(of).before(), id(before));
        }
        for bad in ["", "+1-1", "1-+1", "1", "-", "1-", "a-1", "1-1-1", "18446744073709551616-0"] {
            assert_eq!(EntryId::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
