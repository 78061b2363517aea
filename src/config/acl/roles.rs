//! What a user is for.

use std::fmt;

use crate::config::settings::Broadcast;

/// What a user does on an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AclRole {
    /// Reads the channels of a capture.
    CaptureSource,
    /// Reads the replication stream for a capture.
    CaptureTap,
    /// Writes the streams of a capture.
    CaptureDestination,
    /// Reads the stream of a broadcast and keeps its cursor.
    BroadcastSource,
    /// Reads the replication stream, to be woken by acknowledgements.
    BroadcastTap,
    /// Publishes for a broadcast.
    BroadcastDestination,
    /// Publishes for a broadcast with `sharded = true`.
    BroadcastShards,
    /// Reads the stream of an invalidation and keeps its dead letters.
    InvalidateSource,
    /// Clears keys of a cache, and keeps the cursor there.
    InvalidateDestination,
    /// Looks after what a capture has written: `gaps`, `dead-letters`, `tap`.
    OperatorOfCapture,
    /// Looks after the stream of a broadcast: `dead-letters`, `tap`.
    OperatorOfBroadcast,
    /// Looks after the dead letters of an invalidation, and applies entries once more: `dead-letters`, `invalidate`.
    OperatorOfInvalidate,
    /// Removes keys of an invalidation: `dead-letters requeue`, `invalidate`.
    OperatorOfCache,
    /// Publishes dead letters of a broadcast again.
    OperatorPublishing,
    /// The same with `sharded = true`.
    OperatorShards,
    /// Reads a stream for `replay` and keeps the checkpoint.
    ReplaySource,
    /// Publishes for `replay`.
    ReplayDestination,
    /// Publishes for `replay --sharded`.
    ReplayShards,
    /// Asks a sentinel for the master.
    Sentinel,
}

impl AclRole {
    /// What a broadcast does where it publishes.
    #[must_use]
    pub fn of_publishing(route: &Broadcast) -> Self {
        if route.sharded { Self::BroadcastShards } else { Self::BroadcastDestination }
    }

    pub(super) const fn is_operators(self) -> bool {
        matches!(
            self,
            Self::OperatorOfCapture
                | Self::OperatorOfBroadcast
                | Self::OperatorOfInvalidate
                | Self::OperatorOfCache
                | Self::OperatorPublishing
                | Self::OperatorShards
                | Self::ReplaySource
                | Self::ReplayDestination
                | Self::ReplayShards
        )
    }
}

impl fmt::Display for AclRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CaptureSource => "source of capture",
            Self::CaptureTap => "replication source of capture",
            Self::CaptureDestination => "destination of capture",
            Self::BroadcastSource => "source of broadcast",
            Self::BroadcastTap => "replication source of broadcast",
            Self::BroadcastDestination => "destination of broadcast",
            Self::BroadcastShards => "sharded destination of broadcast",
            Self::InvalidateSource => "source of invalidation",
            Self::InvalidateDestination => "cache of invalidation",
            Self::OperatorOfCapture => "operator, destination of capture",
            Self::OperatorOfBroadcast => "operator, source of broadcast",
            Self::OperatorOfInvalidate => "operator, source of invalidation",
            Self::OperatorOfCache => "operator, cache of invalidation",
            Self::OperatorPublishing => "operator, destination of broadcast",
            Self::OperatorShards => "operator, sharded destination of broadcast",
            Self::ReplaySource => "operator, replay of the streams of",
            Self::ReplayDestination => "operator, replay onto",
            Self::ReplayShards => "operator, sharded replay onto",
            Self::Sentinel => "every sentinel that watches",
        })
    }
}
