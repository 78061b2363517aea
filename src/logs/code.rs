//! The codes of log lines: the field `event`. They are stable, and docs/ explains each.

macro_rules! codes {
    ($($name:ident = $code:literal,)*) => {
        /// What a log line is about. A line is logged with a code of this list and no other (`tests/docs/reference.rs`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum LogCode {
            $(#[doc = concat!("`", $code, "`.")] $name,)*
        }

        impl LogCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The value of the field `event`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

codes! {
    Starting = "starting",
    Ready = "ready",
    Stopping = "stopping",
    Stopped = "stopped",
    StartFailed = "start_failed",
    StoppedAtOnce = "stopped_at_once",
    Reloaded = "reloaded",
    ReloadFailed = "reload_failed",
    StartWaits = "start_waits",
    ConfigurationWarning = "configuration_warning",
    ShutdownOverrun = "shutdown_overrun",
    LoopStuck = "loop_stuck",
    Panic = "panic",
    LogFilter = "log_filter",
    LogLinesDropped = "log_lines_dropped",
    SystemdNotify = "systemd_notify",
    HttpAccept = "http_accept",
    HttpConnection = "http_connection",
    OpenFilesLimit = "open_files_limit",
    SecretReadable = "secret_readable",
    NoStateDirectory = "no_state_directory",
    StateDirectoryAvailable = "state_directory_available",
    Reauthenticated = "reauthenticated",
    ReauthenticationRejected = "reauthentication_rejected",
    PasswordFileInvalid = "password_file_invalid",
    PasswordFileValid = "password_file_valid",
    TlsFilesInvalid = "tls_files_invalid",
    TlsFilesValid = "tls_files_valid",
    SessionOpened = "session_opened",
    ReplicationOpened = "replication_opened",
    SourceSilent = "source_silent",
    SourceLost = "source_lost",
    SourceUnavailable = "source_unavailable",
    SourcePaused = "source_paused",
    BacklogShort = "backlog_short",
    EpochsAhead = "epochs_ahead",
    IdsAhead = "ids_ahead",
    SeveralMasters = "several_masters",
    MasterUnconfirmed = "master_unconfirmed",
    OneMaster = "one_master",
    MasterMoved = "master_moved",
    SentinelUnavailable = "sentinel_unavailable",
    SentinelAvailable = "sentinel_available",
    MarkerRejected = "marker_rejected",
    DestinationConnected = "destination_connected",
    DestinationUnavailable = "destination_unavailable",
    DurableUnknown = "durable_unknown",
    NotDurable = "not_durable",
    DurableAgain = "durable_again",
    Blocked = "blocked",
    Gap = "gap",
    DeadLetter = "dead_letter",
    Standby = "standby",
    Active = "active",
    RolloutAnnounced = "rollout_announced",
    Outdated = "outdated",
    CurrentAgain = "current_again",
    ShutdownIncomplete = "shutdown_incomplete",
    LeftBuffered = "left_buffered",
    SpoolRecovered = "spool_recovered",
    SpoolAvailable = "spool_available",
    SpoolUnavailable = "spool_unavailable",
    SpoolFailed = "spool_failed",
    SpoolCorrupt = "spool_corrupt",
    SpoolTorn = "spool_torn",
    SpoolPutAside = "spool_put_aside",
    SpoolAsideRemoved = "spool_aside_removed",
    GroupDestroyed = "group_destroyed",
    GroupMissing = "group_missing",
    UnacknowledgedTrimmed = "unacknowledged_trimmed",
    TrimmingFailed = "trimming_failed",
    HousekeepingFailed = "housekeeping_failed",
    BroadcastLive = "broadcast_live",
    BroadcastStandby = "broadcast_standby",
    BroadcastLeaseLapsed = "broadcast_lease_lapsed",
    BroadcastWaiting = "broadcast_waiting",
    BroadcastBlocked = "broadcast_blocked",
    BroadcastNoGroup = "broadcast_no_group",
    GroupChanged = "group_changed",
    BroadcastEntriesLost = "broadcast_entries_lost",
    BroadcastStreamRecreated = "broadcast_stream_recreated",
    BroadcastStreamsLeftOut = "broadcast_streams_left_out",
    BroadcastStreamGone = "broadcast_stream_gone",
    BroadcastAckPendingLeft = "broadcast_ack_pending_left",
    BroadcastAckPendingFull = "broadcast_ack_pending_full",
    BroadcastReplicationLost = "broadcast_replication_lost",
    BroadcastShutdownIncomplete = "broadcast_shutdown_incomplete",
    InvalidateLive = "invalidate_live",
    InvalidateWaiting = "invalidate_waiting",
    InvalidateBlocked = "invalidate_blocked",
    InvalidateReplay = "invalidate_replay",
    InvalidateMissed = "invalidate_missed",
    InvalidateCleared = "invalidate_cleared",
    CacheInfoRefused = "cache_info_refused",
}
