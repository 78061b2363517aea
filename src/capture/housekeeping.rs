//! Housekeeping of a destination, away from the hot path: retention by age and by acknowledgement, and consumer groups
//! that were destroyed. It also reaches streams to which nothing is appended any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::append::call::CaptureKeys;
use super::groups::GroupWatch;
use super::retention::acknowledged::AcknowledgedTrimming;
use super::retention::age::AgeTrimming;
use crate::config::{Capture, Endpoint};
use crate::logs::LogCode;
use crate::server::{self, Backoff, Error, MasterMoves};

/// Interval of the rounds: entries exceed their age by this much at most.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often an instance that does not write checks whether it does by now.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until it is stopped.
pub(crate) async fn keep(
    endpoint: Arc<Endpoint>,
    capture: Arc<Capture>,
    keys: CaptureKeys,
    trims_under: watch::Receiver<Option<String>>,
    mut trimming: Option<AcknowledgedTrimming>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    let mut moves = MasterMoves::of(endpoint.clone());
    let (mut groups, mut ages) = (GroupWatch::default(), AgeTrimming::default());
    loop {
        let Err(error) = tokio::select! {
            () = stop.cancelled() => return,
            ended = rounds(&endpoint, (&capture, &keys), &trims_under, (trimming.as_mut(), &mut groups, &mut ages), &mut backoff) => ended,
        };
        // The route's own connection reports a server that is down; this is for other errors.
        tracing::debug!(event = LogCode::HousekeepingFailed.as_str(), route = capture.name, "{error}");
        if let Some(trimming) = &mut trimming {
            trimming.on_failed(&error);
        }
        let wait = backoff.next_wait();
        tokio::select! {
            () = stop.cancelled() => return,
            () = moves.wait(wait, &mut backoff) => {}
        }
    }
}

async fn rounds(
    endpoint: &Endpoint,
    (capture, keys): (&Capture, &CaptureKeys),
    trims_under: &watch::Receiver<Option<String>>,
    (mut trimming, groups, ages): (Option<&mut AcknowledgedTrimming>, &mut GroupWatch, &mut AgeTrimming),
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, Error> {
    let mut connection = server::control(endpoint, &format!("{}:housekeeping", capture.name)).await?;
    ages.on_connected(&mut connection).await?;
    if let Some(trimming) = &mut trimming {
        trimming.on_connected(&mut connection).await?;
    }
    let mut due = Instant::now();
    loop {
        // Another instance may run another configuration, and keep more: only the one that writes trims.
        let revision = trims_under.borrow().clone();
        let writes = revision.is_some();
        if due <= Instant::now()
            && let Some(revision) = revision
        {
            ages.trim(&mut connection, capture, keys, &revision).await?;
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
