//! Retention by age: entries older than `keep.age`, and the route's own records.
//!
//! Trimming is a command of its own and works when memory is full: it is what frees memory. It trims exactly
//! (`MINID =`): `~` would leave a stream with fewer entries than a node holds, about 100, as it is.

use std::time::{Duration, Instant};

use crate::capture::append::call::CaptureKeys;
use crate::config::{Capture, Keep};
use crate::logs::{Limited, LogCode};
use crate::server::{ControlConnection, Error};
use crate::text::printable;

/// Maximum age of gap records and dead letters.
const RECORDS_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Ids that are this far ahead of the server's clock are not removed in time by `keep.age`.
const AHEAD: Duration = Duration::from_secs(60 * 60);
/// Streams trimmed in one pipeline: the server is held up for well under a millisecond.
const STREAMS_A_PIPELINE: usize = 100;

/// Trims by age, and keeps its state between the rounds.
#[derive(Debug, Default)]
pub(crate) struct AgeTrimming {
    log: Limited,
}

impl AgeTrimming {
    /// Trims the route's records and, with `keep.age`, its streams.
    pub(crate) async fn trim(
        &mut self,
        connection: &mut ControlConnection,
        capture: &Capture,
        keys: &CaptureKeys,
    ) -> Result<(), Error> {
        let now = server_unix_ms(connection).await?;
        let records = now.saturating_sub(millis(RECORDS_AGE));
        trim(connection, &[keys.gaps.clone(), keys.dead_letters.clone()], records, now).await?;
        let Keep::Limits { age: Some(age), .. } = capture.keep else { return Ok(()) };
        let oldest = now.saturating_sub(millis(age));
        let ahead = match capture.stream.literal() {
            Some(stream) => trim(connection, &[stream.as_bytes().to_vec()], oldest, now).await?,
            None => trim_made(connection, &keys.streams, oldest, now).await?,
        };
        if let Some(stream) = ahead
            && let Some(suppressed) = self.log.admit(LogCode::IdsAhead.as_str(), Instant::now())
        {
            let stream = printable::text(&stream);
            tracing::warn!(
                event = LogCode::IdsAhead.as_str(),
                route = capture.name,
                stream = %stream,
                suppressed,
                "the stream {stream:?} has entries with ids more than an hour ahead of the server's clock, so keep.age \
                 does not remove them before the clock has reached these ids. Limit the stream with keep.entries, or \
                 remove the entries with XTRIM"
            );
        }
        Ok(())
    }
}

/// The server's clock. Ids carry its time, so age is counted by it: this machine's clock may be wrong by hours.
pub(super) async fn server_unix_ms(connection: &mut ControlConnection) -> Result<u64, Error> {
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
    Ok(seconds.saturating_mul(1000))
}

/// Trims the streams that the route's template made, a cursor's step at a time. Gives one with entries from the future.
async fn trim_made(
    connection: &mut ControlConnection,
    set: &[u8],
    oldest: u64,
    now: u64,
) -> Result<Option<Vec<u8>>, Error> {
    let (mut cursor, mut ahead) = (0u64, None);
    loop {
        let mut scan = redis::cmd("SSCAN");
        scan.arg(set).arg(cursor).arg("COUNT").arg(STREAMS_A_PIPELINE);
        let (next, streams): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await?;
        ahead = trim(connection, &streams, oldest, now).await?.or(ahead);
        cursor = next;
        if cursor == 0 {
            return Ok(ahead);
        }
    }
}

/// Trims entries that are older than the id `oldest`. Gives a stream with entries from the future.
async fn trim(
    connection: &mut ControlConnection,
    streams: &[Vec<u8>],
    oldest: u64,
    now: u64,
) -> Result<Option<Vec<u8>>, Error> {
    let future = now.saturating_add(millis(AHEAD));
    let mut ahead = None;
    for some in streams.chunks(STREAMS_A_PIPELINE) {
        let mut pipeline = redis::pipe();
        // A key of another type is the append's to report; the others are trimmed all the same.
        pipeline.ignore_errors();
        for stream in some {
            pipeline.cmd("XTRIM").arg(stream).arg("MINID").arg("=").arg(oldest).ignore();
            pipeline.cmd("XRANGE").arg(stream).arg(future).arg("+").arg("COUNT").arg(1);
        }
        let found: Vec<redis::Value> = pipeline.query_async(connection).await?;
        let is_ahead =
            |value: &redis::Value| matches!(value, redis::Value::Array(entries) if !entries.is_empty());
        let streams = some.iter().zip(&found).filter(|(_, value)| is_ahead(value));
        ahead = streams.map(|(stream, _)| stream.clone()).next().or(ahead);
    }
    Ok(ahead)
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
