//! What a route's destination needs now and then, away from the hot path: entries past their age are
//! trimmed, also from streams to which nothing is appended any more, and the route's own records too; and
//! what is acknowledged, where `keep.until_acknowledged` says so (`trimming`); and consumer groups that were destroyed
//! (`groups`).
//!
//! Trimming is a command of its own, and works when memory is full: it is what frees it. It trims
//! exactly (`MINID =`), since `~` would leave a stream of less than a node's 100 entries as it is.

mod groups;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::groups::Groups;
use super::append::Keys;
use super::trimming::Trimming;
use crate::config::{Capture, Endpoint, Keep};
use crate::logs::LogCode;
use crate::server::{self, Backoff, ControlConnection, Error};

/// Between two rounds: what is too old stays this much longer at most.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often an instance that does not write looks whether it does by now.
const LOOK: Duration = Duration::from_secs(1);
/// How long gap records and dead letters are kept.
const RECORDS_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Streams trimmed in one pipeline: the server is held up for well under a millisecond.
const STREAMS_A_PIPELINE: usize = 100;

/// Keeps house until told to stop.
pub(crate) async fn keep(
    endpoint: Arc<Endpoint>,
    capture: Arc<Capture>,
    keys: Keys,
    writes_as: watch::Receiver<Option<String>>,
    mut trimming: Option<Trimming>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    let mut groups = Groups::default();
    loop {
        let Err(error) = tokio::select! {
            () = stop.cancelled() => return,
            ended = rounds(&endpoint, (&capture, &keys), &writes_as, (trimming.as_mut(), &mut groups), &mut backoff) => ended,
        };
        // The route's own connection tells of a server that is away; this is for the rest.
        tracing::debug!(event = LogCode::HousekeepingFailed.as_str(), route = capture.name, "{error}");
        if let Some(trimming) = &mut trimming {
            trimming.failed(&error);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

async fn rounds(
    endpoint: &Endpoint,
    (capture, keys): (&Capture, &Keys),
    writes_as: &watch::Receiver<Option<String>>,
    (mut trimming, groups): (Option<&mut Trimming>, &mut Groups),
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, Error> {
    let mut connection = server::control(endpoint, &format!("{}:housekeeping", capture.name)).await?;
    if let Some(trimming) = &mut trimming {
        trimming.connected(&mut connection).await?;
    }
    let mut due = Instant::now();
    loop {
        // Another instance may run another configuration, and keep more: only the one that writes trims.
        let writes = writes_as.borrow().is_some();
        if due <= Instant::now() && writes {
            by_age(&mut connection, capture, keys).await?;
            groups.look(&mut connection, capture, &keys.streams).await?;
            due = Instant::now() + INTERVAL;
        }
        let pause = match &mut trimming {
            Some(trimming) => trimming.step(&mut connection).await?,
            None if writes => INTERVAL,
            None => LOOK,
        };
        backoff.reset();
        tokio::time::sleep(pause).await;
    }
}

async fn by_age(connection: &mut ControlConnection, capture: &Capture, keys: &Keys) -> Result<(), Error> {
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
