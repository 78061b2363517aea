//! Memory: over many messages, while a destination is away, and with many channels and streams.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::load::Load;
use crate::plan::Plan;
use crate::support::{self, Daemon, Oracle, Server, Setup, Version, alert};
use crate::throughput::start_capture;

/// Messages a second while the destination stands still.
const OUTAGE_RATE: u64 = 20_000;
const MEMORY_LIMIT_MIB: u64 = 64;
/// Channels of the run with many, each with a stream of its own.
const MANY: usize = 10_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    /// Messages captured, and MiB resident then.
    pub(crate) over_messages: Vec<(u64, f64)>,
    pub(crate) many: usize,
    /// With many channels into one stream, and each into its own.
    pub(crate) many_channels_mib: f64,
    pub(crate) many_streams_mib: f64,
    pub(crate) outage: Outage,
}

/// The destination was stopped for a while, and traffic went on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outage {
    pub(crate) seconds: f64,
    /// Messages a second, during the outage and after it.
    pub(crate) rate: u64,
    pub(crate) memory_limit_mib: u64,
    pub(crate) most_mib: f64,
    pub(crate) on_disk_mib: f64,
    /// Until what had waited was stored.
    pub(crate) catch_up_seconds: f64,
}

pub(crate) fn measure(plan: Plan) -> Memory {
    let over_messages = over_messages(plan.count(500_000, 10_000_000));
    let messages = plan.count(100_000, 1_000_000);
    let many = |streams| {
        let (server, daemon) =
            start_capture(Cell { bytes: 128, channels: MANY, streams }, "mode = \"subscribe\"");
        let load = Load::of_messages(&server, &server, Cell { bytes: 128, channels: MANY, streams });
        load.wait_until(messages);
        let mib = resident_mib(&daemon);
        load.stop();
        println!("{MANY} channels into {streams} streams: {mib:.1} MiB after {messages} messages");
        mib
    };
    let (many_channels_mib, many_streams_mib) = (many(1), many(MANY));
    let outage = outage(plan.seconds(5.0, 60.0));
    Memory { over_messages, many: MANY, many_channels_mib, many_streams_mib, outage }
}

fn resident_mib(daemon: &Daemon) -> f64 {
    daemon.process().resident_kib().expect("the daemon runs") as f64 / 1024.0
}

/// One route, and its memory at ten places.
fn over_messages(all: u64) -> Vec<(u64, f64)> {
    let (server, daemon) = start_capture(Cell::PLAIN, "mode = \"subscribe\"");
    let load = Load::of_messages(&server, &server, Cell::PLAIN);
    let points = (1..=10).map(|tenth| {
        let count = all / 10 * tenth;
        load.wait_until(count);
        let mib = resident_mib(&daemon);
        println!("{count:>9} messages: {mib:.1} MiB");
        (count, mib)
    });
    let points = points.collect();
    load.stop();
    points
}

fn outage(time: Duration) -> Outage {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("shop", &source)
        .endpoint("bench", &destination)
        .daemon(&format!("memory_limit = \"{MEMORY_LIMIT_MIB}MiB\""))
        .routes(
            r#"
            [capture.bench]
            source = "shop"
            channels = ["bench"]
            destination = "bench"
            stream = "captured"
            keep = { entries = 100_000 }
            "#,
        )
        .expects(&[alert::DESTINATION])
        .start_ready();
    let rate = usize::try_from(OUTAGE_RATE).expect("a small number");
    let oracle = Oracle::new(&source);
    let load = oracle.start(&support::Load::new(2, usize::MAX / 2, &["bench"]).rate(rate));
    destination.freeze();
    let begun = Instant::now();
    let mut most_mib = 0.0_f64;
    while begun.elapsed() < time {
        std::thread::sleep(Duration::from_millis(100));
        most_mib = most_mib.max(resident_mib(&daemon));
    }
    let waiting = daemon.route("bench").expect("it answers");
    destination.thaw();
    let thawed = Instant::now();
    loop {
        most_mib = most_mib.max(resident_mib(&daemon));
        let status = daemon.route("bench").expect("it answers");
        // Less than a tenth of a second's messages wait: that is always so.
        if status.counts.map_or(0, |ledger| ledger.buffered) < OUTAGE_RATE / 10 {
            break;
        }
        assert!(thawed.elapsed() < 10 * time + Duration::from_secs(60), "it does not catch up");
        std::thread::sleep(Duration::from_millis(100));
    }
    let outage = Outage {
        seconds: time.as_secs_f64(),
        rate: OUTAGE_RATE,
        memory_limit_mib: MEMORY_LIMIT_MIB,
        most_mib,
        on_disk_mib: waiting.spool_bytes as f64 / f64::from(1 << 20),
        catch_up_seconds: thawed.elapsed().as_secs_f64(),
    };
    println!(
        "an outage of {:.0} s at {OUTAGE_RATE}/s: at most {most_mib:.0} MiB with memory_limit {MEMORY_LIMIT_MIB} MiB, \
         {:.0} MiB on disk, caught up {:.1} s after it, with the traffic going on",
        outage.seconds, outage.on_disk_mib, outage.catch_up_seconds
    );
    load.stop();
    outage
}
