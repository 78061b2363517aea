//! Promise: whatever somebody with the right to publish says on the control channel, or writes into a route's state,
//! nothing that was published is lost for it, it is told, and the log stays readable.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Daemon, Level, Load, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted, assert_exact,
    captured, eventually, gaps, wait_for_last,
};

const LAST: &[u8] = b"the last message";
const PATIENCE: Duration = Duration::from_secs(60);
const CONTROL: &str = "tidegate:control";
/// Far beyond what the source's clock bears out, and near enough for a thousand steps to the end: 50 years, in
/// milliseconds.
const LEAP_MS: u64 = 50 * 366 * 24 * 60 * 60 * 1000;
/// The largest number of an epoch.
const MOST: u64 = 999_999_999_999_999;
/// More lines than this about one thing are a flood.
const LINES: usize = 40;

/// Causes that a window may end for.
const ENDED: &[&str] = &["source_disconnected", "source_broken", "epoch_lost"];

fn setup(source: &Server, destination: &Server) -> Setup {
    Setup::orders(source, destination).expects(&[alert::GAP, alert::SOURCE, &["marker_rejected"]])
}

fn anchor(epoch: u64, id: u64) -> String {
    format!("tidegate1 anchor {epoch:015} {id:016x}")
}

/// Publishes on the control channel, one after the other.
fn say(source: &Server, texts: impl IntoIterator<Item = String>) {
    let mut pipeline = redis::pipe();
    for text in texts {
        pipeline.cmd("PUBLISH").arg(CONTROL).arg(text).ignore();
    }
    pipeline.exec(&mut source.connection()).expect("the default user may");
}

/// The last epoch that the source has handed out.
fn last_epoch(source: &Server) -> u64 {
    let last: String = source.ask(&["GET", "tidegate:epoch"]);
    last.parse().expect("a number")
}

/// Anchors that lead to the end of the numbers.
fn to_the_end(source: &Server) -> Vec<String> {
    let last = last_epoch(source);
    let steps = (1..).map(|step| last + step * LEAP_MS).take_while(|epoch| *epoch < MOST).chain([MOST]);
    let texts: Vec<String> = (0..).zip(steps).map(|(id, epoch)| anchor(epoch, id)).collect();
    assert!(texts.len() > 600, "{} anchors", texts.len());
    texts
}

/// Waits until so many instances listen, and each says that it is ready.
#[track_caller]
fn wait_listening(source: &Server, daemons: &[&Daemon]) {
    eventually("it listens", PATIENCE, || {
        match source.ask::<(String, usize)>(&["PUBSUB", "NUMSUB", "orders"]).1 {
            count if count == daemons.len() => Ok(()),
            count => Err(format!("{count} subscribers")),
        }
    });
    for daemon in daemons {
        daemon.wait_route_ready("orders");
        let gap = || daemon.route("orders").map(|status| status.gap_open_since_unix_ms);
        eventually("what it missed is recorded", PATIENCE, || match gap()? {
            None => Ok(()),
            since => Err(format!("{since:?}")),
        });
    }
}

/// The source's own numbers went back, as far as the window can tell: what follows is in no doubt only in a new one.
#[test]
fn an_anchor_that_is_not_above_the_one_before() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(&source, &destination).start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    let load =
        |number: usize| Load::new(2, 500, &["orders"]).payloads(Payloads::Unique).first_publisher(2 * number);
    oracle.publish(&load(0));
    daemon.wait_settled("orders", 500);
    let last: String = source.ask(&["GET", "tidegate:epoch"]);
    let last: u64 = last.parse().expect("a number");
    let opened = |daemon: &Daemon| {
        daemon.log().iter().filter(|line| line.event.as_deref() == Some("session_opened")).count()
    };
    for (round, epoch) in [last, last - 1, 0].into_iter().enumerate() {
        let before = opened(&daemon);
        say(&source, [anchor(epoch, 0xfeed)]);
        eventually("the window ends, and another one opens", PATIENCE, || match opened(&daemon) {
            now if now > before => Ok(()),
            now => Err(format!("{now} windows")),
        });
        wait_listening(&source, &[&daemon]);
        oracle.publish(&load(1 + round));
    }
    oracle.publish_one(b"orders", LAST);
    wait_for_last(&destination, "orders", LAST, PATIENCE);
    let (gaps, captured) = (gaps(&destination, "orders"), captured(&destination, "orders"));
    let missing = assert_accounted(&oracle.sequence(), &captured, &gaps, &[daemon.seen("orders")], ENDED);
    assert_eq!(missing, 0, "it listened whenever something was published: {gaps:#?}");
    let alerts = daemon.log().into_iter().filter(|line| line.level > Level::Quiet).count();
    assert!((1..=LINES).contains(&alerts), "{alerts} alerts");
}

/// Neither the source's clock nor its last epoch bears such anchors out.
#[test]
fn anchors_that_lead_to_the_end_of_the_numbers() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(&source, &destination).start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    let load =
        |number: usize| Load::new(2, 500, &["orders"]).payloads(Payloads::Unique).first_publisher(2 * number);
    oracle.publish(&load(0));
    let before = last_epoch(&source);
    say(&source, to_the_end(&source));
    oracle.publish(&load(1));
    daemon.wait_alert(&["marker_rejected"]);
    for round in 2..4 {
        wait_listening(&source, &[&daemon]);
        oracle.publish(&load(round));
        source.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    }
    daemon.restart();
    wait_listening(&source, &[&daemon]);
    oracle.publish(&load(4));
    oracle.publish_one(b"orders", LAST);
    wait_for_last(&destination, "orders", LAST, PATIENCE);
    let (gaps, captured) = (gaps(&destination, "orders"), captured(&destination, "orders"));
    let causes = [ENDED, &["restart"]].concat();
    assert_accounted(&oracle.sequence(), &captured, &gaps, &[daemon.seen("orders")], &causes);
    let after = last_epoch(&source);
    assert!(after - before < LEAP_MS, "the numbers have gone from {before} to {after}");
    let alerts = daemon.log().into_iter().filter(|line| line.level > Level::Quiet).count();
    assert!(alerts <= LINES, "{alerts} alerts");
}

#[test]
fn anchors_that_lead_to_the_end_of_the_numbers_beside_a_pair() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut first = setup(&source, &destination).start_ready();
    let mut second = first.twin();
    second.start_again();
    second.wait_state("orders", RouteState::Standby);
    let oracle = Oracle::new(&source);
    first.watch(&oracle);
    second.watch(&oracle);
    let load =
        oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).payloads(Payloads::Unique).rate(5_000));
    destination.wait_longer("orders", 500);
    let before = last_epoch(&source);
    say(&source, to_the_end(&source));
    wait_listening(&source, &[&first, &second]);
    eventually("one of them writes, and the other one could", PATIENCE, || {
        let states = [first.route("orders")?.state, second.route("orders")?.state];
        let well = [RouteState::Live, RouteState::Standby].iter().all(|state| states.contains(state));
        if well { Ok(()) } else { Err(format!("{states:?}")) }
    });
    destination.wait_longer("orders", 500);
    load.stop();
    oracle.publish_one(b"orders", LAST);
    wait_for_last(&destination, "orders", LAST, PATIENCE);
    let (gaps, captured) = (gaps(&destination, "orders"), captured(&destination, "orders"));
    let seen = [first.seen("orders"), second.seen("orders")];
    assert_accounted(&oracle.sequence(), &captured, &gaps, &seen, ENDED);
    let after = last_epoch(&source);
    assert!(after - before < LEAP_MS, "the numbers have gone from {before} to {after}");
}

/// Somebody writes the epoch key. The route says which keys to delete, and goes on with a gap once they are.
#[test]
fn no_number_is_left() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = setup(&source, &destination).expects(&[&["epochs_ahead", "blocked"]]).start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    let load =
        |number: usize| Load::new(2, 500, &["orders"]).payloads(Payloads::Unique).first_publisher(2 * number);
    oracle.publish(&load(0));
    daemon.wait_settled("orders", 500);
    source.ask::<()>(&["SET", "tidegate:epoch", &(MOST - 1).to_string()]);
    source.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    daemon.wait_alert(&["epochs_ahead"]);
    wait_listening(&source, &[&daemon]);
    oracle.publish(&load(1));
    daemon.wait_settled("orders", 1_000);
    source.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let said = daemon.wait_alert(&["blocked"]);
    for key in ["tidegate:epoch", "tidegate:orders:state"] {
        assert!(said.text.contains(key), "{said:?}");
    }
    daemon.wait_state("orders", RouteState::Blocked);
    assert_eq!(daemon.get("/readyz").expect("it answers").0, 503);
    let before = oracle.sequence();
    let found = (captured(&destination, "orders"), gaps(&destination, "orders"));
    assert_eq!(assert_accounted(&before, &found.0, &found.1, &[daemon.seen("orders")], ENDED), 0);
    // Positions begin anew as well, so what is stored from here on is looked at by itself.
    source.ask::<()>(&["DEL", "tidegate:epoch"]);
    destination.ask::<()>(&["DEL", "tidegate:orders:state", "orders", "tidegate:orders:gaps"]);
    wait_listening(&source, &[&daemon]);
    oracle.publish(&load(2));
    oracle.publish_one(b"orders", LAST);
    wait_for_last(&destination, "orders", LAST, PATIENCE);
    assert_exact(&oracle.sequence()[before.len()..], &captured(&destination, "orders"));
    let gaps = gaps(&destination, "orders");
    assert!(gaps.iter().any(|gap| gap.cause == "state_lost"), "{gaps:#?}");
}

#[test]
fn heartbeats_of_absurd_numbers() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let daemon = setup(&source, &destination).start_ready();
    let instance = daemon.log().into_iter().find_map(|line| {
        let json: serde_json::Value = serde_json::from_str(&line.text).ok()?;
        Some(json["instance"].as_str()?.to_owned())
    });
    let instance = instance.expect("it says which instance it is");
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(2, 500, &["orders"]));
    let numbers = ["0", "1", "18446744073709551615", "18446744073709551614", "-1", "99999999999999999999"];
    for _ in 0..100 {
        say(&source, numbers.map(|sent| format!("tidegate1 heartbeat {instance} {sent}")));
    }
    oracle.publish(&Load::new(2, 500, &["orders"]));
    oracle.publish_one(b"orders", LAST);
    wait_for_last(&destination, "orders", LAST, PATIENCE);
    daemon.wait_ready();
    let mut answered = 0;
    eventually("a heartbeat has come back", PATIENCE, || {
        let status = daemon.route("orders")?;
        answered = status.source.last_answer_unix_ms.ok_or_else(|| format!("{status:?}"))?;
        Ok(())
    });
    let since = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_millis();
    assert!(u128::from(answered) <= since, "no answer comes from the future: {answered}");
    assert_eq!(gaps(&destination, "orders"), []);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    assert!(daemon.log().len() <= LINES, "{} lines", daemon.log().len());
}

#[test]
fn a_state_that_names_the_largest_revision() {
    for revision in ["9999999999", "18446744073709551615"] {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(Version::Redis70);
        let unsure: &[&str] = &["blocked", "outdated", "current_again", "destination_unavailable"];
        let daemon = setup(&source, &destination).expects(&[unsure]).start_ready();
        let oracle = Oracle::new(&source);
        oracle.publish(&Load::new(2, 500, &["orders"]));
        daemon.wait_settled("orders", 500);
        let largest = format!("{revision}-ffffffffffffffff-ffffffffffffffff");
        destination.ask::<()>(&["HSET", "tidegate:orders:state", "revision", &largest]);
        // Five seconds of messages, while it makes of that what it can.
        oracle.publish(&Load::new(2, 500, &["orders"]).rate(100));
        assert_eq!(daemon.get("/healthz").expect("it runs").0, 200);
        let lines = daemon.log().len();
        assert!(lines <= LINES, "{revision}: {lines} lines");
        // An operator takes it away.
        destination.ask::<()>(&["HDEL", "tidegate:orders:state", "revision"]);
        destination.ask::<()>(&["CLIENT", "KILL", "USER", "tidegate-events"]);
        oracle.publish_one(b"orders", LAST);
        wait_for_last(&destination, "orders", LAST, PATIENCE);
        assert_eq!(gaps(&destination, "orders"), [], "{revision}");
        assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    }
}
