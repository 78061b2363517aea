//! The daemon's log, line by line as it is written.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

/// The stable codes of WARN and ERROR lines that a test may announce.
pub(crate) mod alert {
    /// A stretch of the source may have been missed.
    pub(crate) const GAP: &[&str] = &["gap"];
    /// The source is away, or does not answer.
    pub(crate) const SOURCE: &[&str] = &["source_lost", "source_silent", "source_unavailable"];
    /// The destination is away, does not answer, or refuses for the time being.
    pub(crate) const DESTINATION: &[&str] = &["destination_unavailable", "broadcast_waiting"];
    /// More than one address says that it is the master.
    pub(crate) const SEVERAL_MASTERS: &[&str] = &["several_masters"];
    /// No sentinel confirms the master.
    pub(crate) const UNCONFIRMED: &[&str] = &["master_unconfirmed"];
    /// Stored messages are not as durable as is asked for.
    pub(crate) const NOT_DURABLE: &[&str] = &["not_durable"];
    /// Files of TLS cannot be used; those before are.
    pub(crate) const TLS_FILES: &[&str] = &["tls_files_invalid"];
    /// The server refuses a password that has changed.
    pub(crate) const REAUTHENTICATION: &[&str] = &["reauthentication_rejected"];
    /// A message or an entry went to the dead letters.
    pub(crate) const DEAD_LETTER: &[&str] = &["dead_letter", "broadcast_dead_letter"];
    /// An acknowledgement may be none.
    pub(crate) const DOUBT: &[&str] = &["group_changed"];
    /// The consumer group that releases entries is not there.
    pub(crate) const NO_GROUP: &[&str] = &["broadcast_no_group"];
    /// Entries were deleted or trimmed before they were read.
    pub(crate) const MISSED: &[&str] = &["broadcast_entries_lost"];
    /// As many entries wait for acknowledgement as may be left behind.
    pub(crate) const HOLES: &[&str] = &["broadcast_ack_pending_full"];
    /// Entries were left behind in an order that the route no longer has.
    pub(crate) const HOLES_LEFT: &[&str] = &["broadcast_ack_pending_left"];
    /// Streams match a broadcast's pattern and are not read.
    pub(crate) const LEFT_OUT: &[&str] = &["broadcast_streams_left_out"];
    /// The spool is damaged, or its disk fails.
    pub(crate) const SPOOL: &[&str] =
        &["spool_corrupt", "spool_failed", "spool_put_aside", "spool_aside_removed"];
    /// The replication stream cannot be read.
    pub(crate) const REPLICATION: &[&str] = &["broadcast_replication_lost"];
    /// A route may not write, and an operator must act.
    pub(crate) const BLOCKED: &[&str] = &["blocked", "broadcast_blocked", "invalidate_blocked"];
    /// What a broadcast publishes comes back into its stream.
    /// The stream's server or the cache of an invalidation is away.
    pub(crate) const CACHE: &[&str] = &["invalidate_waiting"];
    /// A cache does not report on itself.
    pub(crate) const CACHE_INFO: &[&str] = &["cache_info_refused"];
    /// Entries are applied to a cache once more.
    pub(crate) const REPLAY: &[&str] = &["invalidate_replay"];
    /// Changes may have been missed by an invalidation.
    pub(crate) const MISSED_CHANGE: &[&str] = &["invalidate_missed"];
    /// Another instance runs a newer configuration.
    pub(crate) const OUTDATED: &[&str] = &["outdated"];
    /// A stop could not store everything, since the destination is away.
    pub(crate) const DRAIN: &[&str] = &["shutdown_incomplete"];
    /// A configuration that was read again is bad and changed nothing.
    pub(crate) const RELOAD: &[&str] = &["reload_failed"];
}

/// How bad a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Quiet,
    Warn,
    Error,
}

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct LogLine {
    pub(crate) level: Level,
    /// The stable code of what happened.
    pub(crate) event: Option<String>,
    pub(crate) text: String,
}

impl LogLine {
    /// A line that is not JSON comes from a panic or from outside the log: it counts as an error.
    fn parse(text: &str) -> Self {
        let Ok(json) = serde_json::from_str::<Value>(text) else {
            return Self { level: Level::Error, event: None, text: text.to_owned() };
        };
        let level = match json["level"].as_str() {
            Some("ERROR") => Level::Error,
            Some("WARN") => Level::Warn,
            _ => Level::Quiet,
        };
        let event = json["event"].as_str().or_else(|| json["fields"]["event"].as_str());
        Self { level, event: event.map(str::to_owned), text: text.to_owned() }
    }
}

/// What has been written so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<LogLine>>>);

impl Log {
    /// Reads a pipe to its end, in a thread of its own.
    pub(crate) fn follow(&self, pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { break };
                log.0.lock().unwrap_or_else(PoisonError::into_inner).push(LogLine::parse(&line));
            }
        })
    }

    pub(crate) fn lines(&self) -> Vec<LogLine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last lines, for the report of a failure.
    pub(crate) fn tail(&self) -> String {
        let lines = self.lines();
        let from = lines.len().saturating_sub(30);
        lines[from..].iter().map(|line| format!("  | {}\n", line.text)).collect()
    }
}
