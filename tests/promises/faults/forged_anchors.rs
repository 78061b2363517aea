//! Promise: whatever somebody with the right to publish says on the control channel, or writes into a route's state,
//! nothing that was published is lost for it, it is told, and the log stays readable.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Daemon, Level, Load, Oracle, Payloads, Seen, Server, Setup, Version, alert, assert_accounted,
    assert_exact, captured, eventually, gaps,
};

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

/// What a forged marker may lead to.
const REJECTED: &[&[&str]] = &[alert::GAP, alert::SOURCE, &["marker_rejected"]];

fn anchor(epoch: u64, id: u64) -> String {
    format!("tidegate1 anchor {epoch:015} {id:016x}")
}

/// A source on whose control channel somebody speaks, and a daemon that hears it.
struct Forged {
    // Dropped before the servers, whose end it would tell of.
    daemon: Daemon,
    source: Server,
    destination: Server,
    oracle: Oracle,
}

impl Forged {
    fn start(alerts: &[&[&str]]) -> Self {
        let source = Server::start(Version::Redis70);
        let destination = Server::start(Version::Redis70);
        let mut daemon = Setup::orders(&source, &destination).expects(alerts).start_ready();
        let oracle = Oracle::new(&source);
        daemon.watch(&oracle);
        Self { daemon, source, destination, oracle }
    }

    /// Publishes 500 messages; those of each round differ from all others.
    fn publish(&self, round: usize) {
        let load = Load::new(2, 500, &["orders"]).payloads(Payloads::Unique);
        self.oracle.publish(&load.first_publisher(2 * round));
    }

    #[track_caller]
    fn publish_last(&self) {
        self.oracle.publish_last("orders", &self.destination, "orders", PATIENCE);
    }

    /// Ends the connections that listen.
    fn cut_listeners(&self) {
        self.source.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    }

    /// What is missing lies inside recorded gaps: how many messages.
    #[track_caller]
    fn assert_accounted(&self, causes: &[&str], others: &[Seen]) -> usize {
        let gaps = gaps(&self.destination, "orders");
        let captured = captured(&self.destination, "orders");
        let seen = [&[self.daemon.seen("orders")], others].concat();
        assert_accounted(&self.oracle.sequence(), &captured, &gaps, &seen, causes)
    }

    /// Every message is there.
    #[track_caller]
    fn assert_whole(&self) {
        assert_eq!(gaps(&self.destination, "orders"), []);
        assert_exact(&self.oracle.sequence(), &captured(&self.destination, "orders"));
    }

    fn alerts(&self) -> usize {
        self.daemon.log().iter().filter(|line| line.level > Level::Quiet).count()
    }
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

/// The epochs have not followed the forged ones.
#[track_caller]
fn assert_no_leap(source: &Server, before: u64) {
    let after = last_epoch(source);
    assert!(after - before < LEAP_MS, "the numbers have gone from {before} to {after}");
}

/// Anchors that lead to the end of the numbers.
fn to_the_end(source: &Server) -> Vec<String> {
    let last = last_epoch(source);
    let steps = (1..).map(|step| last + step * LEAP_MS).take_while(|epoch| *epoch < MOST).chain([MOST]);
    let texts: Vec<String> = (0..).zip(steps).map(|(id, epoch)| anchor(epoch, id)).collect();
    assert!(texts.len() > 600, "{} anchors", texts.len());
    texts
}

/// Waits until this number of instances listens, and each says that it is ready.
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
    let forged = Forged::start(REJECTED);
    let Forged { daemon, source, .. } = &forged;
    forged.publish(0);
    daemon.wait_settled("orders", 500);
    let last = last_epoch(source);
    for (round, epoch) in (1..).zip([last, last - 1, 0]) {
        let before = daemon.logged("session_opened");
        say(source, [anchor(epoch, 0xfeed)]);
        eventually("the window ends, and another one opens", PATIENCE, || {
            match daemon.logged("session_opened") {
                now if now > before => Ok(()),
                now => Err(format!("{now} windows")),
            }
        });
        wait_listening(source, &[daemon]);
        forged.publish(round);
    }
    forged.publish_last();
    assert_eq!(forged.assert_accounted(ENDED, &[]), 0, "it listened whenever something was published");
    let alerts = forged.alerts();
    assert!((1..=LINES).contains(&alerts), "{alerts} alerts");
}

/// Neither the source's clock nor its last epoch bears such anchors out.
#[test]
fn anchors_that_lead_to_the_end_of_the_numbers() {
    let mut forged = Forged::start(REJECTED);
    forged.publish(0);
    let before = last_epoch(&forged.source);
    say(&forged.source, to_the_end(&forged.source));
    forged.publish(1);
    forged.daemon.wait_alert(&["marker_rejected"]);
    for round in 2..4 {
        wait_listening(&forged.source, &[&forged.daemon]);
        forged.publish(round);
        forged.cut_listeners();
    }
    forged.daemon.restart();
    wait_listening(&forged.source, &[&forged.daemon]);
    forged.publish(4);
    forged.publish_last();
    forged.assert_accounted(&[ENDED, &["restart"]].concat(), &[]);
    assert_no_leap(&forged.source, before);
    let alerts = forged.alerts();
    assert!(alerts <= LINES, "{alerts} alerts");
}

#[test]
fn anchors_that_lead_to_the_end_of_the_numbers_beside_a_pair() {
    let forged = Forged::start(REJECTED);
    let Forged { daemon: first, source, destination, oracle } = &forged;
    let mut second = first.start_twin();
    second.watch(oracle);
    second.wait_state("orders", RouteState::Standby);
    let load =
        oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).payloads(Payloads::Unique).rate(5_000));
    destination.wait_longer("orders", 500);
    let before = last_epoch(source);
    say(source, to_the_end(source));
    wait_listening(source, &[first, &second]);
    eventually("one of them writes, and the other one could", PATIENCE, || {
        let states = [first.route("orders")?.state, second.route("orders")?.state];
        let well = [RouteState::Live, RouteState::Standby].iter().all(|state| states.contains(state));
        if well { Ok(()) } else { Err(format!("{states:?}")) }
    });
    destination.wait_longer("orders", 500);
    load.stop();
    forged.publish_last();
    forged.assert_accounted(ENDED, &[second.seen("orders")]);
    assert_no_leap(source, before);
}

/// Somebody writes the epoch key. The route says which keys to delete, and continues with a gap once they are.
#[test]
fn no_number_is_left() {
    let forged = Forged::start(&[alert::GAP, alert::SOURCE, &["marker_rejected", "epochs_ahead", "blocked"]]);
    let Forged { daemon, source, destination, oracle } = &forged;
    forged.publish(0);
    daemon.wait_settled("orders", 500);
    source.ask::<()>(&["SET", "tidegate:epoch", &(MOST - 1).to_string()]);
    forged.cut_listeners();
    daemon.wait_alert(&["epochs_ahead"]);
    wait_listening(source, &[daemon]);
    forged.publish(1);
    daemon.wait_settled("orders", 1_000);
    forged.cut_listeners();
    let said = daemon.wait_alert(&["blocked"]);
    for key in ["tidegate:epoch", "tidegate:orders:state"] {
        assert!(said.text.contains(key), "{said:?}");
    }
    daemon.wait_state("orders", RouteState::Blocked);
    assert_eq!(daemon.get("/readyz").expect("it answers").0, 503);
    let before = oracle.sequence().len();
    assert_eq!(forged.assert_accounted(ENDED, &[]), 0);
    // Positions begin anew as well, so what is stored from here on is looked at by itself.
    source.ask::<()>(&["DEL", "tidegate:epoch"]);
    destination.ask::<()>(&["DEL", "tidegate:orders:state", "orders", "tidegate:orders:gaps"]);
    wait_listening(source, &[daemon]);
    forged.publish(2);
    forged.publish_last();
    assert_exact(&oracle.sequence()[before..], &captured(destination, "orders"));
    let gaps = gaps(destination, "orders");
    assert!(gaps.iter().any(|gap| gap.cause == "state_lost"), "{gaps:#?}");
}

#[test]
fn heartbeats_of_absurd_numbers() {
    let forged = Forged::start(REJECTED);
    let Forged { daemon, source, .. } = &forged;
    let instance = daemon.log().into_iter().find_map(|line| {
        let json: serde_json::Value = serde_json::from_str(&line.text).ok()?;
        Some(json["instance"].as_str()?.to_owned())
    });
    let instance = instance.expect("it says which instance it is");
    forged.publish(0);
    let numbers = ["0", "1", "18446744073709551615", "18446744073709551614", "-1", "99999999999999999999"];
    for _ in 0..100 {
        say(source, numbers.map(|sent| format!("tidegate1 heartbeat {instance} {sent}")));
    }
    forged.publish(1);
    forged.publish_last();
    daemon.wait_ready();
    let answered = eventually("a heartbeat has come back", PATIENCE, || {
        let status = daemon.route("orders")?;
        status.source.last_answer_unix_ms.ok_or_else(|| format!("{status:?}"))
    });
    let since = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_millis();
    assert!(u128::from(answered) <= since, "no answer comes from the future: {answered}");
    forged.assert_whole();
    assert!(daemon.log().len() <= LINES, "{} lines", daemon.log().len());
}

#[test]
fn a_state_that_names_the_largest_revision() {
    for revision in ["9999999999", "18446744073709551615"] {
        let unsure: &[&str] = &["blocked", "outdated", "current_again", "destination_unavailable"];
        let forged = Forged::start(&[alert::SOURCE, unsure]);
        let Forged { daemon, destination, oracle, .. } = &forged;
        forged.publish(0);
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
        forged.publish_last();
        forged.assert_whole();
    }
}
