//! What people and machines see of the running daemon: HTTP, systemd, and the commands that ask it.
//!
//! **Constraints.** It reads snapshots ([`crate::status::Board`], [`crate::metrics::Metrics`]) and
//! knows nothing of the loops; no loop ever waits for it. Health never depends on Redis: a Redis
//! outage must not get the process killed, with everything that it holds in memory.
//!
//! **Operation.** Two questions are answered in one place ([`readiness`]) and asked in three:
//!
//! ```text
//! do the loops come round?   stuck() ─▶ /healthz, WATCHDOG=1
//! does each route work now?  ready() ─▶ /readyz, STATUS=, `tidegate wait`
//! ```
//!
//! **Failure.** A listener that cannot accept, or a service manager that cannot be told, is logged and
//! tried again; the loops continue.

pub mod client;
pub mod http;
pub mod readiness;
pub mod report;
pub mod systemd;

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Samples wait in memory at 16 bytes each: at 10,000 a second this is under a megabyte.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Moves the histograms' samples into their buckets until it is told to stop. Cancel safe.
pub async fn upkeep(metrics: Metrics, stop: CancellationToken) {
    let mut tick = interval(UPKEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        metrics.upkeep();
    }
}
