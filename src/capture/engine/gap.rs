//! Gaps: stretches of the source with possible loss, from their cause to their record.
//!
//! ```text
//! Gap    why, since when, until when, how many received messages are lost in it
//! Joint  how a batch follows the one before it; a gap travels with the batch behind it
//! Note   a gap that lies before the checkpoint already: recorded by a call of its own (`note.lua`)
//! ```
//!
//! A gap with a batch behind it is recorded in the step that appends the batch, because only that step knows where the
//! state stands. A loss that the checkpoint has passed cannot travel with a batch; it becomes a note.

use crate::event::{DropReason, GapCause};
use crate::position::Position;

/// The most bytes of a detail. Merged gaps keep the beginning.
const DETAIL_BYTES: usize = 400;

/// A stretch with possible loss, as its record will say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub cause: GapCause,
    /// More about the cause, for the operator.
    pub detail: String,
    /// Its beginning; milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Its end; milliseconds since 1970. A gap that is still open says 0.
    pub ended_unix_ms: u64,
    /// Received messages that are lost in it.
    pub dropped: u64,
}

impl Gap {
    /// An open gap that begins at a moment.
    pub(crate) fn begins(cause: GapCause, detail: impl Into<String>, started_unix_ms: u64) -> Self {
        Self { cause, detail: detail.into(), started_unix_ms, ended_unix_ms: 0, dropped: 0 }
    }

    /// The gap with its end. A clock that went back meanwhile makes no gap end before it begins.
    #[must_use]
    pub(crate) fn until(self, unix_ms: u64) -> Self {
        Self { ended_unix_ms: unix_ms.max(self.started_unix_ms), ..self }
    }

    /// The gap with a number of lost messages.
    #[must_use]
    pub(crate) fn dropping(self, dropped: u64) -> Self {
        Self { dropped, ..self }
    }

    /// One record for two gaps that touch: the cause of `self`, the span and the losses of both.
    #[must_use]
    pub(crate) fn with(self, other: Self) -> Self {
        let mut detail = self.detail;
        if other.detail != detail && detail.len() < DETAIL_BYTES {
            detail = format!("{detail}; {}: {}", other.cause.as_str(), other.detail);
        }
        Self {
            cause: self.cause,
            detail,
            started_unix_ms: self.started_unix_ms.min(other.started_unix_ms),
            ended_unix_ms: self.ended_unix_ms.max(other.ended_unix_ms),
            dropped: self.dropped.saturating_add(other.dropped),
        }
    }

    /// The reason under which its losses are counted.
    pub(crate) fn reason(&self) -> DropReason {
        match self.cause {
            GapCause::SpoolCorrupt => DropReason::SpoolCorrupt,
            GapCause::Rollout => DropReason::Rollout,
            GapCause::EpochLost => DropReason::EpochLost,
            _ => DropReason::Stale,
        }
    }
}

/// How a batch follows the batch before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joint {
    /// Directly after this item.
    Follows(Position),
    /// As the first window of this process. The state tells what came before.
    Start,
    /// After a gap.
    Gap(Gap),
}

impl Joint {
    /// Whether a window begins here, so that the batch alone does not tell what came before.
    pub(crate) fn opens_window(&self) -> bool {
        !matches!(self, Self::Follows(_))
    }

    /// Received messages that are lost before the batch and not recorded yet.
    pub(crate) fn lost(&self) -> u64 {
        match self {
            Self::Gap(gap) => gap.dropped,
            Self::Follows(_) | Self::Start => 0,
        }
    }
}

/// A loss that the checkpoint has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// The record's identity: a call that is sent twice writes one record.
    pub(crate) id: u64,
    /// The first lost item.
    pub(crate) from: Position,
    /// The last lost item.
    pub(crate) to: Position,
    pub(crate) gap: Gap,
}
