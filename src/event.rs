//! The words that every part shares: why events may be missing, and why one was given up.
//! No I/O here, and nothing that knows a connection.

/// Why a stretch of the source may hold events that were missed. The name is part of the gap record
/// and of the metric `tidegate_gaps_total{cause}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// tidegate was not running: stopped, killed, or the machine was away.
    Restart,
    /// The connection to the source ended.
    SourceDisconnected,
    /// Heartbeats stopped coming back, so the connection was given up.
    SourceSilent,
    /// The source became a replica: messages on its new master may not come through it.
    SourceDemoted,
    /// The source violated the protocol, so the connection was given up.
    SourceBroken,
    /// Memory was full because the destination did not take events fast enough, and there was no spool.
    MemoryFull,
    /// The spool had reached its limit.
    SpoolFull,
    /// The spool's disk refused to be written while memory was full.
    SpoolFailed,
    /// A part of the spool could not be read any more.
    SpoolCorrupt,
    /// The route's state vanished from the destination (FLUSHALL, empty restart).
    StateLost,
    /// The destination went back to an earlier position (a failover that lost acknowledged writes),
    /// and what stood between is no longer buffered.
    DestinationWentBack,
    /// Another writer moved the position past events that were buffered here.
    Stale,
    /// The source's backlog no longer held what followed.
    BacklogExceeded,
    /// The source was started again or replaced, and does not know what had been read before.
    HistoryLost,
    /// The source handed out an epoch that the route's state had passed already.
    EpochLost,
    /// Another instance wrote by a configuration that counts messages otherwise, and has ended.
    Rollout,
}

impl GapCause {
    /// Every cause.
    pub const ALL: [Self; 16] = [
        Self::Restart,
        Self::SourceDisconnected,
        Self::SourceSilent,
        Self::SourceDemoted,
        Self::SourceBroken,
        Self::MemoryFull,
        Self::SpoolFull,
        Self::SpoolFailed,
        Self::SpoolCorrupt,
        Self::StateLost,
        Self::DestinationWentBack,
        Self::Stale,
        Self::BacklogExceeded,
        Self::HistoryLost,
        Self::EpochLost,
        Self::Rollout,
    ];

    /// The name in records, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::SourceDisconnected => "source_disconnected",
            Self::SourceSilent => "source_silent",
            Self::SourceDemoted => "source_demoted",
            Self::SourceBroken => "source_broken",
            Self::MemoryFull => "memory_full",
            Self::SpoolFull => "spool_full",
            Self::SpoolFailed => "spool_failed",
            Self::SpoolCorrupt => "spool_corrupt",
            Self::StateLost => "state_lost",
            Self::DestinationWentBack => "destination_went_back",
            Self::Stale => "stale",
            Self::BacklogExceeded => "backlog_exceeded",
            Self::HistoryLost => "history_lost",
            Self::EpochLost => "epoch_lost",
            Self::Rollout => "rollout",
        }
    }
}

/// Why a received event was given up. Each lies inside a recorded gap. The name is part of the
/// metric `tidegate_dropped_total{reason}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Another writer had moved the position past it.
    Stale,
    /// It was not stored yet when tidegate had to end, and there was no spool to keep it.
    Stopped,
    /// Its record in the spool was damaged.
    SpoolCorrupt,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Stale, Self::Stopped, Self::SpoolCorrupt];

    /// The name in the ledger, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Stopped => "stopped",
            Self::SpoolCorrupt => "spool_corrupt",
        }
    }
}

/// Why an invalidation applies entries once more. The name is part of `tidegate_invalidate_replays_total{trigger}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayTrigger {
    /// The cache has an older cursor than before: a failover, or a restored file.
    WentBack,
    /// The cache has no cursor: it is new, was flushed, or evicted it.
    NoCursor,
    /// The cursor is of a configuration that makes other keys.
    Revision,
    /// The stream was deleted and begun anew, or went back.
    StreamAnew,
}

impl ReplayTrigger {
    /// Every trigger.
    pub const ALL: [Self; 4] = [Self::WentBack, Self::NoCursor, Self::Revision, Self::StreamAnew];

    /// The name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WentBack => "went_back",
            Self::NoCursor => "no_cursor",
            Self::Revision => "revision",
            Self::StreamAnew => "stream_anew",
        }
    }
}

/// How an invalidation may have missed changes. The name is part of `tidegate_invalidate_missed_total{loss}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidateLoss {
    /// Entries were trimmed or deleted before they were read.
    Trimmed,
    /// Entries were trimmed or deleted before their keys were cleared once more.
    SecondPass,
    /// The stream was deleted and begun anew, or went back: what it had is unknown.
    StreamAnew,
    /// The route begins at the stream's first entry, and that is not the first one ever.
    BeginsLate,
    /// An entry makes more keys than are cleared in one step.
    TooManyKeys,
    /// A capture that writes the stream has recorded a gap.
    Gap,
}

impl InvalidateLoss {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Trimmed, Self::SecondPass, Self::StreamAnew, Self::BeginsLate, Self::TooManyKeys, Self::Gap];

    /// The name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::SecondPass => "second_pass",
            Self::StreamAnew => "stream_anew",
            Self::BeginsLate => "begins_late",
            Self::TooManyKeys => "too_many_keys",
            Self::Gap => "gap",
        }
    }
}
