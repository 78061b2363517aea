//! Promise: whatever somebody with the right to publish says on the control channel, or writes into a route's state,
//! nothing that was published is lost for it, it is told, and the log stays readable.

use std::time::Duration;

use crate::support::{
    Daemon, Level, Load, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted, assert_exact,
    captured, eventually, gaps, wait_for_last,
};

const LAST: &[u8] = b"the last message";
const PATIENCE: Duration = Duration::from_secs(60);
const CONTROL: &str = "tidegate:control";
/// More lines than this about one thing are a flood.
const LINES: usize = 40;

/// Causes that a window may end for.
const ENDED: &[&str] = &["source_disconnected", "source_broken", "epoch_lost"];

fn setup(source: &Server, destination: &Server) -> Setup {
    Setup::orders(source, destination).expects(&[alert::GAP, alert::SOURCE])
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
