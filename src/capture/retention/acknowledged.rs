//! Retention by acknowledgement (`keep.until_acknowledged`): entries are removed once the named consumer groups have
//! acknowledged them. Entries beyond `keep.entries` are removed in any case, counted and logged.
//!
//! Constraints: it frees memory, so it must work on a server that is out of memory, and is a command of its own beside
//! the append. It must not block the server: one call removes a bounded number of entries of one stream. How far a
//! group was delivered and what is pending must be read at one moment.
//!
//! Operation: `acknowledged.lua` does one step on one stream. The route's own stream is checked every second; the
//! streams that a template made (`P R:streams`, at most `max_streams`) in turn, a few at a time, and each at most once
//! a second. Only the active instance trims.
//!
//! Failure: a step whose answer was lost is counted in the state, but not in the metrics of this process. Everything
//! else is tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::age::{millis, server_unix_ms};
use crate::capture::append::call::CaptureKeys;
use crate::config::{Capture, UntilAcknowledged};
use crate::logs::{Limited, LogCode};
use crate::metrics::CaptureMetrics;
use crate::server::{Class, ControlConnection, Error, Script, script};
use crate::status::{Fullest, KeepStatus, Slot};
use crate::text::printable;

pub(crate) const TRIM: Script = script!("acknowledged.lua");

/// Interval between steps of one stream. A stream may exceed `keep.entries` by the entries of one interval.
const INTERVAL: Duration = Duration::from_secs(1);
/// Interval between steps through the streams of a template. With `SCAN_COUNT` streams a step, and some 30 µs of the
/// server's time for a stream with nothing to remove, that is 3 % of a core at most.
const STEP_INTERVAL: Duration = Duration::from_millis(100);
/// About how many streams of a template are looked at in one step.
const SCAN_COUNT: usize = 100;
/// Entries that one call removes. Entries pending in two groups cost most, because they must be counted: 19 ms for
/// 5,000, against 0.2 ms for 5,000 acknowledged ones.
const CALL_ENTRIES: u64 = 1_000;
/// Calls for one stream, one after the other, until the next one has its turn.
const CALLS: usize = 500;
/// Number of streams without a group that are named at once.
const MISSING_SHOWN: usize = 10;

/// The trimming of a route.
#[derive(Debug)]
pub(crate) struct AcknowledgedTrimming {
    capture: Arc<Capture>,
    keys: CaptureKeys,
    /// The revision under which this instance writes, while it does.
    trims_under: watch::Receiver<Option<String>>,
    metrics: CaptureMetrics,
    slot: Slot,
    log: Limited,
    /// `acknowledged.lua` as the connection knows it, and whether the server knows ACKED.
    server: Option<(String, bool)>,
    /// Cursor of the scan of a template's streams.
    cursor: u64,
    /// Start of the present round, and its results so far.
    begun: Instant,
    round: KeepStatus,
}

/// The script's result for one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trimmed {
    outdated: bool,
    removed: u64,
    /// Number of these that were not acknowledged.
    forced: u64,
    again: bool,
    /// Not acknowledged, since the state was made.
    forced_in_all: u64,
    left: u64,
    slowest: String,
    missing: Vec<String>,
}

impl AcknowledgedTrimming {
    pub(crate) fn new(
        capture: Arc<Capture>,
        keys: CaptureKeys,
        trims_under: watch::Receiver<Option<String>>,
        metrics: CaptureMetrics,
        slot: Slot,
    ) -> Self {
        Self {
            capture,
            keys,
            trims_under,
            metrics,
            slot,
            log: Limited::new(),
            server: None,
            cursor: 0,
            begun: Instant::now(),
            round: KeepStatus::default(),
        }
    }

    /// Makes a new connection ready. Cancel safe.
    pub(crate) async fn on_connected(&mut self, connection: &mut ControlConnection) -> Result<(), Error> {
        let hash = redis::cmd("SCRIPT").arg("LOAD").arg(TRIM.source).query_async(connection).await?;
        let mut trim = redis::cmd("XTRIM");
        trim.arg(&self.keys.gaps).arg("MINID").arg("=").arg("0-0").arg("ACKED");
        let knows_acked = match trim.exec_async(connection).await.map_err(Error::from) {
            Ok(()) => true,
            Err(error) if error.code() == Some("ERR") => false,
            Err(error) => return Err(error),
        };
        self.server = Some((hash, knows_acked));
        Ok(())
    }

    /// Trims the next streams, and returns the time until the next step. Cancel safe: the call itself counts removed
    /// entries in the state.
    pub(crate) async fn step(&mut self, connection: &mut ControlConnection) -> Result<Duration, Error> {
        let capture = self.capture.clone();
        let (Some(until), true) = (capture.keep.until_acknowledged(), self.trims_under.borrow().is_some())
        else {
            self.restart();
            self.show(None);
            return Ok(INTERVAL);
        };
        if self.cursor == 0 {
            self.begun = Instant::now();
        }
        let old = match until.age {
            Some(age) => format!("{}-0", server_unix_ms(connection).await?.saturating_sub(millis(age))),
            None => String::new(),
        };
        if let Some(stream) = capture.stream.literal() {
            self.trim(connection, until, &old, stream.as_bytes()).await?;
        } else {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(&self.keys.streams).arg(self.cursor).arg("COUNT").arg(SCAN_COUNT);
            let (cursor, streams): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await?;
            for stream in streams {
                match self.trim(connection, until, &old, &stream).await {
                    // A key of another type is the append's to report; the others are trimmed all the same.
                    Err(error) if error.code() == Some("WRONGTYPE") => {}
                    other => other?,
                }
            }
            self.cursor = cursor;
            if cursor != 0 {
                return Ok(STEP_INTERVAL);
            }
        }
        let found = std::mem::take(&mut self.round);
        self.show(Some(found));
        Ok(INTERVAL.saturating_sub(self.begun.elapsed()).max(STEP_INTERVAL))
    }

    /// Logs that trimming fails, if the route's own connection does not report the reason.
    pub(crate) fn on_failed(&mut self, error: &Error) {
        self.restart();
        if self.trims_under.borrow().is_none() {
            return;
        }
        let text = error.with_hint();
        self.slot.update(|status| status.keep.get_or_insert_default().error = Some(text.clone()));
        let is_refused = error.class() == Class::Block || error.code() == Some("ERR");
        if is_refused
            && let Some(suppressed) = self.log.admit(LogCode::TrimmingFailed.as_str(), Instant::now())
        {
            tracing::warn!(
                event = LogCode::TrimmingFailed.as_str(),
                route = self.capture.name,
                class = error.class().as_str(),
                suppressed,
                "cannot trim acknowledged entries, so the streams grow: {text}; tidegate retries"
            );
        }
    }

    fn restart(&mut self) {
        self.cursor = 0;
        self.round = KeepStatus::default();
    }

    fn show(&self, found: Option<KeepStatus>) {
        self.slot.update(|status| status.keep = found);
    }

    /// Trims one stream, in several calls if much is to be removed. Acknowledged entries stay from the id `old` on.
    async fn trim(
        &mut self,
        connection: &mut ControlConnection,
        until: &UntilAcknowledged,
        old: &str,
        stream: &[u8],
    ) -> Result<(), Error> {
        for call in 1..=CALLS {
            let Some(revision) = self.trims_under.borrow().clone() else { return Ok(()) };
            let trimmed = self.call(connection, until, old, stream, &revision).await?;
            if trimmed.outdated {
                return Ok(());
            }
            self.metrics.trimmed.increment(trimmed.removed);
            self.metrics.trimmed_unacknowledged.increment(trimmed.forced);
            self.tell(until, stream, &trimmed);
            if !trimmed.again || call == CALLS {
                self.note(until, stream, trimmed);
                return Ok(());
            }
        }
        Ok(())
    }

    async fn call(
        &self,
        connection: &mut ControlConnection,
        until: &UntilAcknowledged,
        old: &str,
        stream: &[u8],
        revision: &str,
    ) -> Result<Trimmed, Error> {
        let (hash, knows_acked) = self.server.as_ref().map_or(("", false), |(hash, acked)| (hash, *acked));
        let mut command = redis::cmd("EVALSHA");
        command.arg(hash).arg(2).arg(&self.keys.state).arg(stream);
        command.arg(revision).arg(until.entries).arg(old).arg(CALL_ENTRIES).arg(u8::from(knows_acked));
        command.arg(&until.groups);
        let (verdict, removed, forced, again, forced_in_all, left, slowest, missing): (
            String,
            u64,
            u64,
            u8,
            u64,
            u64,
            String,
            Vec<String>,
        ) = command.query_async(connection).await?;
        let outdated = verdict != "OK";
        let again = again == 1;
        Ok(Trimmed { outdated, removed, forced, again, forced_in_all, left, slowest, missing })
    }

    /// Adds a stream's result to the round's report.
    fn note(&mut self, until: &UntilAcknowledged, stream: &[u8], trimmed: Trimmed) {
        let stream = printable::text(stream);
        let round = &mut self.round;
        round.limit = until.entries;
        round.trimmed_unacknowledged = round.trimmed_unacknowledged.max(trimmed.forced_in_all);
        for group in trimmed.missing {
            if round.missing_groups.len() < MISSING_SHOWN {
                round.missing_groups.push(format!("{group} of {stream}"));
            }
        }
        if trimmed.left > round.fullest.as_ref().map_or(0, |fullest| fullest.entries) {
            round.fullest = Some(Fullest { stream, entries: trimmed.left, slowest_group: trimmed.slowest });
        }
    }

    /// Reports what an operator should look at.
    fn tell(&mut self, until: &UntilAcknowledged, stream: &[u8], trimmed: &Trimmed) {
        let (route, now) = (&self.capture.name, Instant::now());
        let stream = printable::text(stream);
        if trimmed.forced > 0
            && let Some(suppressed) = self.log.admit(LogCode::UnacknowledgedTrimmed.as_str(), now)
        {
            tracing::warn!(
                event = LogCode::UnacknowledgedTrimmed.as_str(),
                route,
                stream = %stream,
                group = trimmed.slowest,
                entries = trimmed.forced,
                suppressed,
                "the stream had more than keep.entries = {}; {} unacknowledged entries were trimmed. The group {:?} is furthest \
                 behind: check its consumers, or raise keep.entries",
                until.entries,
                trimmed.forced,
                trimmed.slowest
            );
        }
        if let Some(group) = trimmed.missing.first()
            && let Some(suppressed) = self.log.admit(LogCode::GroupMissing.as_str(), now)
        {
            tracing::warn!(
                event = LogCode::GroupMissing.as_str(),
                route,
                stream = %stream,
                group,
                suppressed,
                "the stream has no group {group:?} of keep.until_acknowledged; nothing counts as acknowledged, and up to \
                 keep.entries = {} entries are kept. Create the group, add it to groups, or remove it",
                until.entries
            );
        }
    }
}

#[cfg(test)]
mod tests;
