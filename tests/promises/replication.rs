//! Promise: a single instance that reads the replication stream loses nothing and repeats nothing, however
//! it ends and whatever happens to its link, as far as the source's backlog reaches.

mod failover;
mod opening;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tidegate::status::RouteState;

use crate::support::{
    Daemon, LAST, Load, Loading, Options, Oracle, Payloads, Proxy, Published, Server, Setup, Version, alert,
    assert_accounted, assert_exact, captured, dead_letters, eventually, gaps, wait_for_last,
};

const PATIENCE: Duration = Duration::from_secs(60);

const ROUTES: &str = r#"
    [capture.orders]
    source = "shop"
    channels = ["orders"]
    patterns = ["returns.*"]
    mode = "replication"
    destination = "events"
    stream = "orders"
    keep = "forever"
    include = ["id"]
"#;

fn source(version: Version) -> Server {
    Server::with(version, Options::replication_source())
}

/// Servers and a daemon between them.
struct Tapped {
    // Dropped before the servers, whose end it would tell of.
    daemon: Daemon,
    source: Server,
    destination: Server,
    oracle: Oracle,
}

impl Tapped {
    fn start(source: Server, alerts: &[&[&str]]) -> Self {
        let destination = Server::start(Version::Redis70);
        let setup = Setup::between(&source, &destination).routes(ROUTES);
        let daemon = setup.expects(alerts).start_ready();
        let oracle = Oracle::new(&source);
        Self { daemon, source, destination, oracle }
    }

    fn load(&self) -> Loading {
        let load = Load::new(3, usize::MAX / 2, &["orders", "returns.eu"]).rate(10_000);
        let load = self.oracle.start(&load);
        self.appends_go_on();
        load
    }

    #[track_caller]
    fn appends_go_on(&self) {
        self.destination.wait_longer("orders", 500);
    }

    /// Exactly what was published is there.
    #[track_caller]
    fn ends_exact(&self, load: Loading) {
        load.stop();
        self.oracle.publish_last("orders", &self.destination, "orders", PATIENCE);
        assert_eq!(gaps(&self.destination, "orders"), []);
        assert_exact(&self.oracle.sequence(), &captured(&self.destination, "orders"));
        self.daemon.wait_settled("orders", self.oracle.sequence().len());
    }
}

/// How often something is done to each server; `make soak` does it more often.
fn kills() -> usize {
    std::env::var("TIDEGATE_SOAK").map_or(20, |rounds| 5 * rounds.parse::<usize>().expect("a number"))
}

#[track_caller]
fn killed_under_load(version: Version) {
    let mut tapped = Tapped::start(source(version), &[]);
    let load = tapped.load();
    for _ in 0..kills() {
        tapped.daemon.restart();
        tapped.appends_go_on();
    }
    tapped.daemon.wait_state("orders", RouteState::Live);
    tapped.ends_exact(load);
}

#[test]
fn killed_under_load_on_redis_6_2() {
    killed_under_load(Version::Redis62);
}

#[test]
fn killed_under_load_on_redis_7_0() {
    killed_under_load(Version::Redis70);
}

#[test]
fn killed_under_load_on_redis_8_2() {
    killed_under_load(Version::Redis82);
}

#[test]
fn killed_under_load_on_valkey_8_0() {
    killed_under_load(Version::Valkey80);
}

#[test]
fn killed_under_load_on_valkey_9_1() {
    killed_under_load(Version::Valkey91);
}

/// Ends the daemon's link, and nothing else.
fn cut_link(source: &Server) {
    for id in source.clients(":orders:replicate") {
        source.end_client(&id);
    }
}

#[test]
fn its_link_is_killed() {
    for version in Version::SOURCES {
        let tapped = Tapped::start(source(version), &[alert::SOURCE]);
        let load = tapped.load();
        for _ in 0..5 {
            cut_link(&tapped.source);
            tapped.appends_go_on();
        }
        tapped.ends_exact(load);
    }
}

#[test]
fn its_link_breaks_after_any_byte() {
    let source = source(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let seed = fastrand::u64(..);
    eprintln!("the proxy's seed is {seed}");
    let proxy = Proxy::start(&source, seed);
    let setup = Setup::new().endpoint_through("shop", &source, &proxy, "").endpoint("events", &destination);
    let daemon = setup.routes(ROUTES).expects(&[alert::SOURCE]).start_ready();
    let oracle = Oracle::new(&source);
    let load = Load::new(3, usize::MAX / 2, &["orders", "returns.eu"]).rate(5_000);
    let load = oracle.start(&load);
    proxy.breaks(true);
    // The link is whole yet: it is the ones after it that break.
    cut_link(&source);
    eventually("links break", PATIENCE, || match proxy.cuts() {
        cuts if cuts >= 20 => Ok(()),
        cuts => Err(format!("{cuts} cuts")),
    });
    proxy.breaks(false);
    let tapped = Tapped { daemon, source, destination, oracle };
    tapped.ends_exact(load);
}

/// Everything that reaches a subscriber also reaches a tap, however it was published.
#[test]
fn every_way_to_publish() {
    for version in Version::SOURCES {
        let routes = ROUTES.replace("mode =", "sharded = true\nmax_message_size = \"64KiB\"\nmode =");
        let source = source(version);
        let destination = Server::start(Version::Redis70);
        let setup = Setup::between(&source, &destination);
        let _daemon = setup.routes(&routes).expects(&[alert::DEAD_LETTER]).start_ready();
        let mut connection = source.connection();
        let mut expected = Vec::new();
        let mut expect = |payload: &[u8]| {
            expected.push(Published { channel: b"orders".to_vec(), payload: payload.to_vec() });
        };
        source.ask::<()>(&["PUBLISH", "orders", "plain"]);
        expect(b"plain");
        source.ask::<()>(&["pUbLiSh", "orders", "in any case"]);
        expect(b"in any case");
        let mut pipeline = redis::pipe();
        for n in 0..100 {
            pipeline.cmd("PUBLISH").arg("orders").arg(n).ignore();
            expect(n.to_string().as_bytes());
        }
        pipeline.exec(&mut connection).unwrap();
        let mut transaction = redis::pipe();
        transaction.atomic().cmd("SET").arg("key").arg("PUBLISH").ignore();
        transaction.cmd("PUBLISH").arg("orders").arg("in MULTI").ignore();
        transaction.exec(&mut connection).unwrap();
        expect(b"in MULTI");
        source.ask::<()>(&["EVAL", "redis.call('publish', 'orders', 'from Lua')", "0"]);
        expect(b"from Lua");
        if version != Version::Redis62 {
            let library = "#!lua name=l\nredis.register_function('f', function() \
                           redis.call('PUBLISH', 'orders', 'from a function') end)";
            source.ask::<()>(&["FUNCTION", "LOAD", library]);
            source.ask::<()>(&["FCALL", "f", "0"]);
            expect(b"from a function");
            source.ask::<()>(&["SPUBLISH", "orders", "sharded"]);
            expect(b"sharded");
        }
        redis::cmd("SELECT").arg(9).exec(&mut connection).unwrap();
        redis::cmd("PUBLISH").arg("orders").arg("from another database").exec(&mut connection).unwrap();
        expect(b"from another database");
        for payload in [b"".as_slice(), b"\r\n*3\r\n$7\r\nPUBLISH\r\n", &[0, 255, 13, 10], &[b'x'; 64 * 1024]]
        {
            redis::cmd("PUBLISH").arg("orders").arg(payload).exec(&mut connection).unwrap();
            expect(payload);
        }
        redis::cmd("PUBLISH").arg("orders").arg(&[b'y'; 64 * 1024 + 1]).exec(&mut connection).unwrap();
        redis::cmd("PUBLISH").arg("others").arg("not wanted").exec(&mut connection).unwrap();
        redis::cmd("PUBLISH").arg("orders").arg(LAST).exec(&mut connection).unwrap();
        expect(LAST);
        wait_for_last(&destination, "orders", LAST, PATIENCE);
        assert_exact(&expected, &captured(&destination, "orders"));
        let letters = dead_letters(&destination, "orders");
        assert_eq!(letters.len(), 1, "{version}: the one that is too large: {letters:?}");
    }
}

/// A restart takes the route up inside a MULTI block, and behind what was not wanted.
#[test]
fn the_checkpoint_moves_with_nothing_to_append() {
    let mut tapped = Tapped::start(source(Version::Redis70), &[]);
    let wait_checkpoint = |tapped: &Tapped, offset: u64| {
        eventually("the checkpoint comes to the end of the stream", PATIENCE, || {
            let position = tapped.daemon.route("orders")?.position.unwrap_or_default();
            let reached = position.rsplit('-').next().and_then(|ordinal| ordinal.parse::<u64>().ok());
            if reached >= Some(offset) { Ok(()) } else { Err(position) }
        });
    };
    for _ in 0..1000 {
        tapped.source.ask::<()>(&["SET", "key", "a value that nobody listens for"]);
    }
    wait_checkpoint(&tapped, tapped.source.replication_offset());
    tapped.daemon.kill();
    let mut transaction = redis::pipe();
    transaction.atomic();
    for n in 0..500 {
        transaction.cmd("SET").arg("key").arg(n).ignore();
        transaction.cmd("PUBLISH").arg("orders").arg(format!("in MULTI {n}")).ignore();
    }
    transaction.exec(&mut tapped.source.connection()).unwrap();
    // The first batch ends inside the block, and there the daemon is killed again.
    tapped.daemon.start_again();
    eventually("a batch of the block is stored", PATIENCE, || {
        match tapped.destination.stream_length("orders") {
            0 => Err("nothing yet".to_owned()),
            _ => Ok(()),
        }
    });
    tapped.daemon.restart();
    tapped.oracle.publish_last("orders", &tapped.destination, "orders", PATIENCE);
    let expected: Vec<Published> = (0..500)
        .map(|n| format!("in MULTI {n}").into_bytes())
        .chain([LAST.to_vec()])
        .map(|payload| Published { channel: b"orders".to_vec(), payload })
        .collect();
    assert_exact(&expected, &captured(&tapped.destination, "orders"));
    assert_eq!(gaps(&tapped.destination, "orders"), []);
}

#[test]
fn beyond_the_backlog_is_one_gap() {
    let small = Options::replication_source().with("repl-backlog-size", "16kb");
    let mut tapped = Tapped::start(Server::with(Version::Redis70, small), &[alert::GAP]);
    let messages = |count| Load::new(1, count, &["orders"]).payloads(Payloads::Unique);
    tapped.oracle.publish(&messages(1000));
    tapped.daemon.wait_settled("orders", 1000);
    tapped.daemon.kill();
    tapped.oracle.publish(&messages(1000).first_publisher(1));
    tapped.daemon.start_again();
    tapped.daemon.wait_state("orders", RouteState::Live);
    tapped.oracle.publish(&messages(1000).first_publisher(2));
    tapped.oracle.publish_last("orders", &tapped.destination, "orders", PATIENCE);
    let gaps = gaps(&tapped.destination, "orders");
    let captured = captured(&tapped.destination, "orders");
    let seen = [tapped.daemon.seen("orders")];
    let missing = assert_accounted(&tapped.oracle.sequence(), &captured, &gaps, &seen, &["backlog_exceeded"]);
    assert_eq!(missing, 1000, "what was published while nobody read, and the backlog was too small for");
    assert_eq!(gaps.len(), 1, "{gaps:#?}");
}

#[test]
fn a_master_that_is_started_again_is_a_gap() {
    let mut tapped = Tapped::start(source(Version::Redis70), &[alert::GAP, alert::SOURCE]);
    let messages = Load::new(1, 1000, &["orders"]).payloads(Payloads::Unique);
    tapped.oracle.publish(&messages);
    tapped.daemon.wait_settled("orders", 1000);
    let before = tapped.oracle.sequence();
    tapped.source.restart();
    tapped.daemon.wait_state("orders", RouteState::Live);
    tapped.oracle.publish(&messages.first_publisher(1));
    tapped.oracle.publish_last("orders", &tapped.destination, "orders", PATIENCE);
    let all = [before, tapped.oracle.sequence()].concat();
    assert_exact(&all, &captured(&tapped.destination, "orders"));
    let gaps = gaps(&tapped.destination, "orders");
    assert_eq!(gaps.len(), 1, "{gaps:#?}");
    assert_eq!(gaps[0].cause, "history_lost");
}

/// The first sync of an old server brings its whole dataset: it is read and dropped.
#[test]
fn a_large_dataset_is_skipped_with_flat_memory() {
    let source = source(Version::Redis62);
    source.ask::<()>(&["CONFIG", "SET", "rdbcompression", "no"]);
    source.ask::<()>(&["DEBUG", "POPULATE", "1024", "large", "1048576"]);
    let tapped = Tapped::start(source, &[]);
    let resident = tapped.daemon.process().resident_kib().unwrap();
    assert!(resident < 64 * 1024, "{resident} KiB after a snapshot of 1 GiB");
    tapped.oracle.publish_last("orders", &tapped.destination, "orders", PATIENCE);
    assert_exact(&tapped.oracle.sequence(), &captured(&tapped.destination, "orders"));
}

/// A destination that is away for long: first memory fills, then reading stops; nothing is lost.
#[test]
fn reading_stops_where_nothing_more_fits() {
    let source = source(Version::Redis70);
    let mut destination = Server::with(Version::Redis70, Options::default().durable());
    let setup = Setup::between(&source, &destination)
        .routes(&ROUTES.replace("mode =", "max_message_size = \"64KiB\"\nmode ="));
    let daemon = setup
        .daemon("memory_limit = \"16MiB\"\nspool = { limit = \"16MiB\" }")
        .expects(&[alert::DESTINATION, alert::SOURCE, &["source_paused", "spool_failed"]])
        .start_ready();
    let oracle = Oracle::new(&source);
    destination.kill();
    for n in 0..1200_u32 {
        oracle.publish_one(b"orders", &n.to_le_bytes().repeat(12 * 1024));
    }
    daemon.wait_alert(&["source_paused"]);
    destination.start_again();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_eq!(gaps(&destination, "orders"), []);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
}

/// Two instances need no anchors: offsets are the same for both.
#[test]
fn two_instances_take_turns() {
    for version in Version::SOURCES {
        let mut tapped = Tapped::start(source(version), &[alert::DESTINATION, alert::SOURCE]);
        let mut second = tapped.daemon.start_twin();
        second.wait_state("orders", RouteState::Standby);
        let load = tapped.load();
        for _ in 0..4 {
            tapped.daemon.kill();
            second.wait_leader("orders");
            tapped.appends_go_on();
            tapped.daemon.start_again();
            tapped.daemon.wait_state("orders", RouteState::Standby);
            std::mem::swap(&mut tapped.daemon, &mut second);
            cut_link(&tapped.source);
            tapped.appends_go_on();
            second.wait_ready();
            tapped.daemon.wait_ready();
        }
        load.stop();
        tapped.oracle.publish_last("orders", &tapped.destination, "orders", PATIENCE);
        assert_eq!(gaps(&tapped.destination, "orders"), [], "{version}");
        assert_exact(&tapped.oracle.sequence(), &captured(&tapped.destination, "orders"));
    }
}

/// A reload changes what is captured at one point of the sequence, and nothing is missing.
#[test]
fn a_reload_loses_nothing() {
    let mut tapped = Tapped::start(source(Version::Redis70), &[]);
    let load = tapped.load();
    for batch in 0..5 {
        let other = ROUTES.replace("\"orders\"]", &format!("\"orders\", \"more.{batch}\"]"));
        tapped.daemon.reload(&other);
        tapped.appends_go_on();
        tapped.daemon.wait_ready();
    }
    tapped.ends_exact(load);
}

/// Twice, so that the second one knows its place from the first alone.
#[test]
fn reloads_while_the_destination_is_away_lose_nothing() {
    for was_read in [true, false] {
        let source = source(Version::Redis70);
        let mut destination = Server::with(Version::Redis70, Options::default().durable());
        let setup = Setup::between(&source, &destination).routes(ROUTES);
        let mut daemon = setup.expects(&[alert::DESTINATION]).start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(3, 1_000, &["orders", "returns.eu"]));
        daemon.wait_settled("orders", 1_000);
        if was_read {
            destination.kill();
        } else {
            daemon.kill();
            destination.kill();
            daemon.start_again();
            daemon.wait_alert(alert::DESTINATION);
        }
        for batch in 0..2 {
            oracle.publish(&Load::new(3, 1_000, &["orders"]).first_publisher(3 * batch + 3));
            daemon.reload_settings(
                &ROUTES.replace("\"forever\"", &format!("{{ entries = {} }}", 1_000_000 + batch)),
            );
        }
        destination.start_again();
        oracle.publish_last("orders", &destination, "orders", PATIENCE);
        assert_eq!(gaps(&destination, "orders"), [], "{was_read}");
        assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    }
}

/// What the server does besides is skipped in time: the route never falls far behind.
#[test]
fn unrelated_writes_do_not_hold_it_up() {
    let tapped = Tapped::start(source(Version::Redis70), &[&["backlog_short"]]);
    let load = Load::new(2, usize::MAX / 2, &["orders"]).rate(2_000);
    let load = tapped.oracle.start(&load);
    let client = tapped.source.client();
    let writer = std::thread::spawn(move || {
        let mut connection = client.get_connection().unwrap();
        let mut pipeline = redis::Pipeline::with_capacity(500);
        for n in 0..500 {
            pipeline.cmd("SET").arg(format!("key{n}")).arg("a value that nobody listens for").ignore();
        }
        for _ in 0..1000 {
            pipeline.exec(&mut connection).unwrap();
        }
    });
    let mut worst = 0;
    let mut asked = 0;
    while !writer.is_finished() {
        // As an operator would: both at about the same time.
        let source = tapped.source.replication_offset();
        let read = tapped.daemon.route("orders").unwrap().replication.map_or(0, |tap| tap.offset);
        worst = worst.max(source.saturating_sub(read));
        asked += 1;
    }
    writer.join().unwrap();
    assert!(asked > 0);
    tapped.ends_exact(load);
    // The status is published at least once a second, so what it says may be that old: the lag that counts
    // is the one below, in the server's own words.
    let end = tapped.source.replication_offset();
    eventually("the route has read everything", Duration::from_secs(5), || {
        let read = tapped.daemon.route("orders")?.replication.map_or(0, |tap| tap.offset);
        if read >= end { Ok(()) } else { Err(format!("{read} of {end}; at worst {worst} behind")) }
    });
}

/// A server that drops the link, because nobody reads from it, is read on from its backlog.
#[test]
fn the_server_drops_a_link_that_is_not_read() {
    // The hard limit must be above what is sent at a resume; newer servers see to that themselves.
    let source = source(Version::Redis62);
    source.ask::<()>(&["CONFIG", "SET", "client-output-buffer-limit", "replica 256mb 4mb 1"]);
    let destination = Server::with(Version::Redis70, Options::default().durable());
    let routes = ROUTES.replace("mode =", "max_message_size = \"64KiB\"\nmode =");
    let setup = Setup::between(&source, &destination).routes(&routes);
    let daemon = setup
        .daemon("memory_limit = \"16MiB\"\nspool = { limit = \"16MiB\" }")
        .expects(&[alert::DESTINATION, alert::SOURCE, &["source_paused", "spool_failed"]])
        .start_ready();
    let oracle = Oracle::new(&source);
    destination.freeze();
    // Some is taken by memory and the spool; the rest must fit into the backlog, with the oracle's list.
    for n in 0..650_u32 {
        oracle.publish_one(b"orders", &n.to_le_bytes().repeat(12 * 1024));
    }
    daemon.wait_alert(&["source_paused"]);
    eventually("the server drops the link", PATIENCE, || {
        let clients: String = source.ask(&["CLIENT", "LIST", "TYPE", "replica"]);
        if clients.trim().is_empty() { Ok(()) } else { Err(clients) }
    });
    destination.thaw();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_eq!(gaps(&destination, "orders"), []);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
}

/// What an earlier process left in its spool comes first, and reading continues behind it.
#[test]
fn killed_while_the_destination_is_away() {
    let source = source(Version::Redis70);
    let mut destination = Server::with(Version::Redis70, Options::default().durable());
    let setup = Setup::between(&source, &destination).routes(ROUTES);
    let mut daemon = setup.expects(&[alert::DESTINATION, alert::SOURCE]).start_ready();
    let oracle = Oracle::new(&source);
    let load = oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).rate(5_000));
    for _ in 0..3 {
        eventually("appends go on", PATIENCE, || match daemon.route("orders")?.counts {
            Some(ledger) if ledger.buffered < 1000 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        destination.kill();
        eventually("something is spooled", PATIENCE, || match daemon.route("orders")?.spool_bytes {
            0 => Err("nothing yet".to_owned()),
            _ => Ok(()),
        });
        daemon.restart();
        eventually("it has begun", PATIENCE, || daemon.get("/healthz").map(drop));
        destination.start_again();
        daemon.wait_state("orders", RouteState::Live);
    }
    load.stop();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    assert_eq!(gaps(&destination, "orders"), []);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
}

/// From subscriptions to the stream and back: what may be missing is recorded, nothing is twice.
#[test]
fn a_reload_changes_the_mode() {
    let mut tapped = Tapped::start(source(Version::Redis70), &[alert::GAP]);
    let subscribing = ROUTES.replace("mode = \"replication\"", "mode = \"subscribe\"");
    let load = Load::new(3, usize::MAX / 2, &["orders", "returns.eu"]).payloads(Payloads::Unique).rate(5_000);
    let load = tapped.oracle.start(&load);
    for routes in [&subscribing, ROUTES, &subscribing, ROUTES] {
        tapped.appends_go_on();
        tapped.daemon.reload(routes);
        let tap = routes == ROUTES;
        eventually("it reads in the other way", PATIENCE, || {
            let status = tapped.daemon.route("orders")?;
            if status.replication.is_some() == tap && status.state == RouteState::Live {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        });
    }
    tapped.appends_go_on();
    load.stop();
    tapped.oracle.publish_last("orders", &tapped.destination, "orders", PATIENCE);
    let gaps = gaps(&tapped.destination, "orders");
    let captured = captured(&tapped.destination, "orders");
    let seen = [tapped.daemon.seen("orders")];
    assert_accounted(&tapped.oracle.sequence(), &captured, &gaps, &seen, &["restart"]);
    assert!(gaps.len() <= 2, "only where the stream takes over from subscriptions: {gaps:#?}");
}

/// `check --connect` tells what the mode rests on, and begins no sync by asking.
#[test]
fn check_tells_what_it_rests_on() {
    for version in Version::SOURCES {
        let source = source(version);
        let destination = Server::start(Version::Redis70);
        let setup = Setup::between(&source, &destination).routes(ROUTES);
        let daemon = setup.prepare();
        let check = || {
            let output = daemon.run_command(&["check", "--connect"]);
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (usable, said) = check();
        assert!(usable, "{version}: {said}");
        assert!(said.contains("backlog: 67108864 bytes"), "{version}: {said}");
        assert!(said.contains("the master is read"), "{version}: {said}");
        let stats: String = source.ask(&["INFO", "stats"]);
        assert!(stats.contains("sync_full:0"), "{version}: no sync was begun: {stats}");
        source.ask::<()>(&["ACL", "SETUSER", "tidegate-shop", "-psync"]);
        if version == Version::Redis62 {
            // It cannot be tried there without a sync.
            continue;
        }
        let (usable, said) = check();
        assert!(!usable && said.contains("missing permission +psync"), "{version}: {said}");
    }
}
