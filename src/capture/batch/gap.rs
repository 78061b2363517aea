//! Stretches of a source's order that may be missing, and how a batch follows the one before.

use crate::event::{DropReason, GapCause};
use crate::position::Position;

/// Bytes of a detail at which no further cause is added.
const LONGEST_DETAIL: usize = 1_000;

/// A stretch that may have been missed, as it will be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The cause.
    pub cause: GapCause,
    /// More about why, for the operator.
    pub detail: String,
    /// Its beginning; milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Its end; milliseconds since 1970.
    pub ended_unix_ms: u64,
    /// Events that were received and given up in it.
    pub dropped: u64,
}

impl Gap {
    /// A stretch that begins now and has not ended.
    pub(crate) fn begins(cause: GapCause, detail: impl Into<String>, started_unix_ms: u64) -> Self {
        Self { cause, detail: detail.into(), started_unix_ms, ended_unix_ms: started_unix_ms, dropped: 0 }
    }

    /// The gap, ended at this time. If the clock went back, the beginning moves too: no gap ends before it begins.
    pub(crate) fn until(self, ended_unix_ms: u64) -> Self {
        Self { started_unix_ms: self.started_unix_ms.min(ended_unix_ms), ended_unix_ms, ..self }
    }

    /// The reason under which its losses are counted.
    pub(in crate::capture) fn reason(&self) -> DropReason {
        if self.cause == GapCause::SpoolCorrupt { DropReason::SpoolCorrupt } else { DropReason::Stale }
    }

    /// Joins a gap of the same stretch with another cause: this one's cause holds, the other's end.
    #[must_use]
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            detail: joined(self.detail, other.cause, &other.detail),
            started_unix_ms: self.started_unix_ms.min(other.started_unix_ms),
            ended_unix_ms: self.ended_unix_ms.max(other.ended_unix_ms),
            dropped: self.dropped + other.dropped,
            ..self
        }
    }
}

/// Adds a cause to a detail. Each record of a damaged spool may add one, so what is over the limit is only hinted at.
fn joined(mut detail: String, cause: GapCause, other: &str) -> String {
    if detail.len() >= LONGEST_DETAIL {
        return detail;
    }
    detail.push_str("; ");
    detail.push_str(cause.as_str());
    detail.push_str(": ");
    detail.push_str(other);
    if detail.len() >= LONGEST_DETAIL {
        let end = (0..=LONGEST_DETAIL).rev().find(|end| detail.is_char_boundary(*end)).unwrap_or_default();
        detail.truncate(end);
        detail.push_str("… and more");
    }
    detail
}

/// How a batch follows the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joint {
    /// Nothing lies between it and this item.
    Follows(Position),
    /// It opens this process's first window: the position before is known once the state has been read.
    Start,
    /// It opens a window, and this is why the one before had ended.
    Gap(Gap),
}

impl Joint {
    /// Returns whether a window begins here, so that the position before is not known from the batch alone.
    pub(crate) fn opens_window(&self) -> bool {
        !matches!(self, Self::Follows(_))
    }

    /// Since when messages are lost before the batch with a damaged spool; milliseconds since 1970.
    pub(crate) fn lost_since_unix_ms(&self) -> Option<u64> {
        match self {
            Self::Gap(gap) if gap.cause == GapCause::SpoolCorrupt => Some(gap.started_unix_ms),
            _ => None,
        }
    }

    /// Messages that were received and are lost before the batch with a damaged spool.
    pub(crate) fn lost(&self) -> u64 {
        match self {
            Self::Gap(gap) if gap.cause == GapCause::SpoolCorrupt => gap.dropped,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_has_an_end() {
        let damage = || Gap::begins(GapCause::SpoolCorrupt, "é".repeat(100), 7);
        let all = (0..10_000).map(|_| damage()).reduce(Gap::with).unwrap();
        assert!(
            all.detail.ends_with("… and more") && all.detail.len() < LONGEST_DETAIL + 20,
            "{}",
            all.detail
        );
        assert_eq!(damage().with(damage()).detail.len(), 2 * 200 + "; spool_corrupt: ".len());
    }
}
