//! The route's spool: opened before anything else, so that nothing goes around what an earlier process left there.

use std::time::{Duration, Instant};

use super::Route;
use crate::position::Position;
use crate::rt;
use crate::spool::{self, Log, Spool, SpoolError, StateDirectory};

/// Where a route's spool is.
#[derive(Debug, Clone)]
pub struct SpoolPlace {
    /// Where all of them are; the route's name claims its own.
    pub state: StateDirectory,
    /// How it is kept.
    pub options: spool::Options,
}

/// How long a spool is waited for that the route before still has.
const IN_USE: Duration = Duration::from_secs(5);

impl Route {
    /// Opens the spool, and finds what an earlier process left there.
    pub(super) async fn open_spool(&mut self) {
        let Some(place) = self.parts.spool.clone() else { return };
        if self.destination.is_inheriting() {
            // The route that this one replaces has it, and hands it over.
            return;
        }
        let route = self.parts.capture.name.clone();
        let name = route.clone();
        let open = || {
            let (place, name) = (place.clone(), name.clone());
            rt::blocking("spool", move || Log::open(place.state.spool(&name)?, place.options))
        };
        let mut opened = open().await;
        let begun = Instant::now();
        // The route that had it has ended, and its thread still writes the last of it to disk.
        while matches!(opened, Err(SpoolError::InUse { .. })) && begun.elapsed() < IN_USE {
            tokio::time::sleep(IN_USE / 100).await;
            opened = open().await;
        }
        match opened {
            Ok((log, recovered)) => {
                if recovered.records > 0 || recovered.cut_bytes > 0 {
                    tracing::info!(
                        event = "spool_recovered",
                        route,
                        records = recovered.records,
                        bytes = recovered.bytes,
                        cut_bytes = recovered.cut_bytes,
                        "an earlier process left records; they are appended first"
                    );
                }
                match Spool::start(&route, log) {
                    Ok(spool) => {
                        self.spool = Some(spool);
                        self.engine
                            .on_spool_opened(recovered.last.map(Position::from_bytes), recovered.bytes);
                    }
                    Err(error) => tracing::error!(event = "spool_unavailable", route, "no thread: {error}"),
                }
            }
            Err(error) => tracing::error!(
                event = "spool_unavailable",
                route,
                "{error}; the route works without a spool: what memory cannot hold while the destination is \
                 away is lost, inside a recorded gap"
            ),
        }
    }
}
