//! Every key that a route can make, for an operator.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{EndpointError, Removal, Removed};
use crate::invalidate::cursor::on_scanned;
use crate::invalidate::sweep::{Step, Sweep};

/// The next stage of a clear of all keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EverythingStage {
    /// Leases are removed.
    Leases,
    /// Keys are removed.
    Keys,
    /// The second round begins so much later.
    Waits(Duration),
}

/// Whether a command reached its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything is done.
    Finished,
    /// It was stopped before.
    Stopped,
}

impl Removal {
    /// Removes every key that the route can make: leases first, to the end of a SCAN, then keys, and both once more after
    /// `again_after`. `dry` counts the first round and removes nothing. Not cancel safe; `stop` ends it between two steps.
    ///
    /// # Errors
    /// If the cache fails or refuses, with what was removed until then.
    pub async fn everything(
        &mut self,
        dry: bool,
        stop: &CancellationToken,
        watch: &mut impl FnMut(EverythingStage, &Removed),
    ) -> Result<(Ended, Removed), (EndpointError, Removed)> {
        let mut removed = Removed::default();
        match self.sweep(dry, stop, &mut removed, watch).await {
            Ok(ended) => Ok((ended, removed)),
            Err(error) => Err((error, removed)),
        }
    }

    async fn sweep(
        &mut self,
        dry: bool,
        stop: &CancellationToken,
        removed: &mut Removed,
        watch: &mut impl FnMut(EverythingStage, &Removed),
    ) -> Result<Ended, EndpointError> {
        let mut sweep = Sweep::new(&self.settings, Instant::now());
        sweep.begin(Instant::now());
        while let Some(due) = sweep.due() {
            if stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            let now = Instant::now();
            if due > now {
                if dry {
                    break;
                }
                watch(EverythingStage::Waits(due.saturating_duration_since(now)), removed);
                tokio::select! {
                    () = stop.cancelled() => return Ok(Ended::Stopped),
                    () = sleep_until(due) => continue,
                }
            }
            let stage = match sweep.step() {
                Step::Leases { .. } => EverythingStage::Leases,
                Step::Keys { .. } => EverythingStage::Keys,
                Step::None => break,
            };
            watch(stage, removed);
            if let Some(found) = sweep.take_found() {
                let there = if dry { found.len() as u64 } else { self.unlink(&found).await? };
                if stage == EverythingStage::Leases {
                    removed.refused += there;
                } else {
                    removed.keys += found.len() as u64;
                    removed.cleared += there;
                }
            } else if sweep.advance(now) {
                break;
            } else if let Some(scan) = sweep.scan() {
                let reply = self.ask("looking for keys", &scan).await?;
                let (cursor, found) = on_scanned(&reply).map_err(|error| (self.name.clone(), error))?;
                sweep.on_scanned(&cursor, found);
            }
        }
        Ok(Ended::Finished)
    }
}
