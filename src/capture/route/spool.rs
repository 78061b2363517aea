//! The route's spool: opened before anything else, so that nothing goes around what an earlier process left there.

use super::CaptureRoute;
use crate::logs::LogCode;
use crate::spool::{self, Spool};

/// The place of a route's spool.
#[derive(Debug, Clone)]
pub struct SpoolPlace {
    /// The place of all spools, and their threads; the route's name claims its own.
    pub keeper: spool::Keeper,
    /// How it is kept.
    pub options: spool::Options,
}

impl CaptureRoute {
    /// Opens the spool, and finds what an earlier process left there.
    pub(super) async fn open_spool(&mut self) {
        let Some(place) = self.parts.spool.clone() else { return };
        if self.destination.is_inheriting() {
            // The route that this one replaces has it, and hands it over.
            return;
        }
        let route = self.parts.capture.name.clone();
        let mut spool = Spool::open(&place.keeper, &route, place.options);
        match spool.opened().await {
            Ok(recovered) => {
                if recovered.records > 0 || recovered.cut_bytes > 0 {
                    tracing::info!(
                        event = LogCode::SpoolRecovered.as_str(),
                        route,
                        records = recovered.records,
                        bytes = recovered.bytes,
                        cut_bytes = recovered.cut_bytes,
                        "the spool has records of an earlier process; they are stored first"
                    );
                }
                self.engine.on_spool_opened(&recovered);
            }
            Err(error) => tracing::error!(
                event = LogCode::SpoolUnavailable.as_str(),
                route,
                "{error}; the route runs without a spool: during an outage, messages that exceed memory are lost (gap \
                 recorded). tidegate retries every 5 s"
            ),
        }
        self.spool = Some(spool);
    }
}
