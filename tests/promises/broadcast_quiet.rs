//! Promise: a broadcast that reads the replication stream of a server on which nothing happens leaves it alone.

use std::time::{Duration, Instant};

use super::{broadcast_acknowledged::make_group, replication};
use crate::support::{Server, Setup, Version, eventually};

const PATIENCE: Duration = Duration::from_secs(90);
/// Longer than any silence after which a link was given up: of a route 15 s, of the notice of acknowledgements 25 s.
const QUIET: Duration = Duration::from_secs(32);

const ROUTE: &str = r#"
    [broadcast.stock]
    source = "events"
    stream = "orders"
    after = "inventory"
    mode = "replication"
    destination = "events"
    channel = "stock.changed"
    message = "<id>"
    start = "beginning"
"#;

/// The server pings its replicas once an hour, so nothing at all comes over the link.
#[test]
fn one_full_sync_is_enough() {
    let server =
        Server::with(Version::Redis70, replication::options().with("repl-ping-replica-period", "3600"));
    make_group(&server);
    let daemon = Setup::new().endpoint("events", &server).routes(ROUTE).start_ready();
    let syncs = || -> Result<usize, String> {
        let stats: String = server.ask(&["INFO", "stats"]);
        let count = |name: &str| {
            let value = stats.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|count| count.trim().parse::<usize>().ok()).ok_or_else(|| stats.clone())
        };
        Ok(count("sync_full:")? + count("sync_partial_ok:")?)
    };
    eventually("it reads the replication stream", PATIENCE, || match syncs()? {
        1 => Ok(()),
        count => Err(format!("{count} syncs")),
    });
    // That something does not happen shows only in time.
    let began = Instant::now();
    eventually("nothing has happened for long enough", PATIENCE, || {
        let passed = began.elapsed();
        assert_eq!(syncs()?, 1, "another sync after {passed:?}");
        if passed > QUIET { Ok(()) } else { Err(format!("{passed:?}")) }
    });
    daemon.wait_ready();
}
