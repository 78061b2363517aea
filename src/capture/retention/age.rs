//! Retention by age: entries older than `keep.age`, and the route's own records.
//!
//! Trimming is a command of its own and works when memory is full: it is what frees memory. It trims exactly
//! (`MINID =`): `~` would leave a stream with fewer entries than a node holds, about 100, as it is.

use std::time::Duration;

use crate::capture::append::call::CaptureKeys;
use crate::config::{Capture, Keep};
use crate::server::{ControlConnection, Error};

/// How long gap records and dead letters are kept.
const RECORDS_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Streams trimmed in one pipeline: the server is held up for well under a millisecond.
const STREAMS_A_PIPELINE: usize = 100;

/// Trims the route's records and, with `keep.age`, its streams.
pub(crate) async fn trim_old(
    connection: &mut ControlConnection,
    capture: &Capture,
    keys: &CaptureKeys,
) -> Result<(), Error> {
    // Ids carry the server's time, so age is counted by its clock: this machine's may be wrong by hours.
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
    let now = seconds.saturating_mul(1000);
    let records = now.saturating_sub(millis(RECORDS_AGE));
    trim(connection, &[keys.gaps.clone(), keys.dead_letters.clone()], records).await?;
    let Keep::Limits { age: Some(age), .. } = capture.keep else { return Ok(()) };
    let oldest = now.saturating_sub(millis(age));
    match capture.stream.literal() {
        Some(stream) => trim(connection, &[stream.as_bytes().to_vec()], oldest).await,
        None => trim_made(connection, &keys.streams, oldest).await,
    }
}

/// Trims the streams that the route's template made, a cursor's step at a time.
async fn trim_made(connection: &mut ControlConnection, set: &[u8], oldest: u64) -> Result<(), Error> {
    let mut cursor = 0u64;
    loop {
        let mut scan = redis::cmd("SSCAN");
        scan.arg(set).arg(cursor).arg("COUNT").arg(STREAMS_A_PIPELINE);
        let (next, streams): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await?;
        trim(connection, &streams, oldest).await?;
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}

async fn trim(connection: &mut ControlConnection, streams: &[Vec<u8>], oldest: u64) -> Result<(), Error> {
    for some in streams.chunks(STREAMS_A_PIPELINE) {
        let mut pipeline = redis::pipe();
        // A key of another type is the append's to report; the others are trimmed all the same.
        pipeline.ignore_errors();
        for stream in some {
            pipeline.cmd("XTRIM").arg(stream).arg("MINID").arg("=").arg(oldest).ignore();
        }
        pipeline.query_async::<Vec<redis::Value>>(connection).await?;
    }
    Ok(())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
