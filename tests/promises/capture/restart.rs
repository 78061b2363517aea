//! Promise: however the daemon ends, nothing is captured twice, and what was published while it was
//! away lies inside a recorded gap. An ordered stop loses nothing that was published before it.

use std::time::Duration;

use tidegate::rt;
use tidegate::status::RouteState;

use crate::support::{
    Daemon, Load, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted, assert_exact, captured,
    eventually, gaps, wait_for_last,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn setup(source: &Server, destination: &Server) -> Setup {
    Setup::between(source, destination).routes(
        r#"
        [capture.orders]
        source = "shop"
        patterns = ["orders.*"]
        destination = "events"
        stream = "orders"
        keep = "forever"
        include = ["id"]
        "#,
    )
}

#[test]
fn killed_under_load_nothing_is_twice_and_only_gaps_are_missing() {
    const KILLS: usize = 6;
    const EACH: usize = 5_000;
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(&source, &destination).expects(&[alert::GAP]).start_ready();

    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    let load = Load::new(4, usize::MAX / 2, &["orders.placed", "orders.paid"]);
    let load = oracle.start(&load.payloads(Payloads::Unique).rate(10_000));
    for kill in 1..=KILLS {
        eventually("the load goes on", PATIENCE, || match load.sent() {
            sent if sent >= kill * EACH => Ok(()),
            sent => Err(format!("{sent} sent")),
        });
        let before = destination.stream_length("orders");
        assert!(before > 0, "it captures before it is killed");
        daemon.restart();
        daemon.wait_state("orders", RouteState::Live);
        eventually("it captures again", PATIENCE, || match destination.stream_length("orders") {
            now if now > before => Ok(()),
            now => Err(format!("{now} entries")),
        });
    }
    load.stop();
    oracle.publish_last("orders.last", &destination, "orders", PATIENCE);

    let gaps = gaps(&destination, "orders");
    let (captured, seen) = (captured(&destination, "orders"), [daemon.seen("orders")]);
    let missing = assert_accounted(&oracle.sequence(), &captured, &gaps, &seen, &["restart"]);
    assert!(missing > 0, "ten thousand a second went on while the daemon was away");
    assert!(!gaps.is_empty() && gaps.len() <= KILLS, "at most one gap for each kill: {gaps:#?}");
}

#[test]
fn killed_right_after_its_start_it_still_repeats_nothing() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(&source, &destination).expects(&[alert::GAP]).start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    let load = Load::new(2, usize::MAX / 2, &["orders.placed"]);
    let load = oracle.start(&load.payloads(Payloads::Unique).rate(5_000));
    for _ in 0..10 {
        daemon.restart();
        // Anywhere between the first connection and the first append.
        eventually("it has begun", PATIENCE, || daemon.get("/healthz").map(drop));
    }
    daemon.wait_ready();
    daemon.wait_state("orders", RouteState::Live);
    load.stop();
    oracle.publish_last("orders.last", &destination, "orders", PATIENCE);
    let (gaps, captured) = (gaps(&destination, "orders"), captured(&destination, "orders"));
    let seen = [daemon.seen("orders")];
    assert_accounted(&oracle.sequence(), &captured, &gaps, &seen, &["restart"]);
}

#[test]
fn an_ordered_stop_appends_everything_that_was_published_before_it() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(&source, &destination).start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(4, 50_000, &["orders.placed", "orders.paid"]));
    let status = daemon.stop();
    assert_eq!(status.code(), Some(0));
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    assert_eq!(gaps(&destination, "orders"), []);
}

/// Everything is there until the stop, so nothing before it can be missing.
#[test]
fn the_gap_of_a_restart_begins_with_the_ordered_stop() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(&source, &destination).expects(&[alert::GAP]).start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish_one(b"orders.placed", b"first");
    wait_for_last(&destination, "orders", b"first", PATIENCE);
    let asked = rt::unix_ms();
    assert_eq!(daemon.stop().code(), Some(0));
    daemon.start_again();
    daemon.wait_ready();
    oracle.publish_one(b"orders.placed", b"last");
    wait_for_last(&destination, "orders", b"last", PATIENCE);
    let gaps = gaps(&destination, "orders");
    assert!(
        gaps.len() == 1 && (asked..=gaps[0].ended_at).contains(&gaps[0].started_at),
        "{gaps:?}, stopped at {asked}"
    );
}

/// A gap that a restart makes is recorded, and counted, before the new process is scraped for the first time, and
/// its own counter is then what it was before. What an alert looks at must show each of them.
#[test]
fn the_metrics_show_the_gap_of_every_restart() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(&source, &destination).expects(&[alert::GAP]).start_ready();
    let oracle = Oracle::new(&source);
    let value = |daemon: &Daemon, series: &str| -> Result<f64, String> {
        let (_, text) = daemon.get("/metrics")?;
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.and_then(|value| value.parse().ok()).ok_or_else(|| format!("no {series} in {text}"))
    };
    let [all, received, last] = [
        "tidegate_route_gaps_total{route=\"orders\"}",
        "tidegate_route_events_total{route=\"orders\",outcome=\"received\"}",
        "tidegate_last_gap_timestamp_seconds{route=\"orders\"}",
    ];
    let mut before = 0.0;
    for restart in 0..=2_u32 {
        let message = format!("message {restart}");
        oracle.publish_one(b"orders.placed", message.as_bytes());
        wait_for_last(&destination, "orders", message.as_bytes(), PATIENCE);
        let expected = (f64::from(restart), f64::from(restart + 1));
        eventually("the metrics count what every process did", PATIENCE, || {
            match (value(&daemon, all)?, value(&daemon, received)?) {
                found if found == expected => Ok(()),
                found => Err(format!("{found:?} instead of {expected:?}")),
            }
        });
        let gap = value(&daemon, last).unwrap();
        let records = gaps(&destination, "orders");
        assert_eq!(records.len(), restart as usize);
        let recorded = records.last().map_or(0.0, |gap| gap.ended_at as f64 / 1_000.0);
        assert!((gap - recorded).abs() < 0.001, "{gap}, recorded {recorded}");
        assert!(restart == 0 || gap > before, "a later gap is told: {gap}");
        before = gap;
        daemon.restart();
        daemon.wait_ready();
    }
}

/// An operator looks into a kill, and not into a deploy.
#[test]
fn a_planned_restart_is_told_apart_from_an_accident() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis82);
    let mut daemon = setup(&source, &destination).expects(&[alert::GAP]).start_ready();
    let recorded = |count: usize| {
        eventually(&format!("{count} gaps are recorded"), PATIENCE, || {
            let gaps = gaps(&destination, "orders");
            if gaps.len() == count { Ok(gaps) } else { Err(format!("{gaps:?}")) }
        })
    };
    let ends: [fn(&mut Daemon); 4] = [
        |daemon| assert_eq!(daemon.stop().code(), Some(0)),
        Daemon::kill,
        // What was left by the first stop does not count again.
        Daemon::kill,
        |daemon| assert_eq!(daemon.stop().code(), Some(0)),
    ];
    for (number, end) in (1..).zip(ends) {
        end(&mut daemon);
        daemon.start_again();
        daemon.wait_state("orders", RouteState::Live);
        recorded(number);
    }
    let found: Vec<(String, bool)> = recorded(4).into_iter().map(|gap| (gap.cause, gap.planned)).collect();
    let restart = |planned: bool| ("restart".to_owned(), planned);
    assert_eq!(found, [restart(true), restart(false), restart(false), restart(true)]);

    let printed = |arguments: &[&str]| {
        let output = daemon.run_command(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let table = printed(&["gaps", "orders"]);
    assert_eq!(table.matches("restart, planned ").count(), 2, "{table}");
    let lines = printed(&["gaps", "orders", "--json"]);
    let planned: Vec<bool> = lines.lines().map(|line| line.contains("\"planned\":true")).collect();
    assert_eq!(planned, [true, false, false, true], "{lines}");
    let summary = printed(&["gaps", "orders", "--summary"]);
    assert_eq!(summary.matches(" restart ").count(), 1, "{summary}");
    assert_eq!(summary.matches(" restart, planned ").count(), 1, "{summary}");
}

/// Messages that were not stored are lost or in the spool: the gap that follows does not begin with the stop alone.
#[test]
fn a_stop_that_stores_not_everything_leaves_no_planned_restart() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let setup = setup(&source, &destination).daemon("shutdown_timeout = \"1s\"\nspool.limit = \"0B\"");
    let mut daemon = setup.expects(&[alert::GAP, alert::DESTINATION, alert::DRAIN]).start_ready();
    let oracle = Oracle::new(&source);
    destination.freeze();
    oracle.publish_one(b"orders.paid", b"not stored");
    daemon.stop();
    destination.thaw();
    daemon.start_again();
    let gap = eventually("the gap is recorded", PATIENCE, || match &gaps(&destination, "orders")[..] {
        [gap] => Ok(gap.clone()),
        gaps => Err(format!("{gaps:?}")),
    });
    assert_eq!((gap.cause.as_str(), gap.planned), ("restart", false), "{gap:?}");
}
