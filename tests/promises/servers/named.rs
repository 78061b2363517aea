//! Promise: where one server of a route rejects or is away, readiness, status and the log name that server, and no other.

use std::time::Duration;

use serde_json::Value;
use tidegate::status::{RouteEndpoint, RouteState};

use crate::support::{Daemon, Server, Setup, Version, alert, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

const BROADCAST: &str = "[broadcast.stock]\nsource = \"events\"\nstream = \"stock\"\ndestination = \"shop\"\n\
                         channel = \"stock\"\nmessage = \"<field:payload>\"\nstart = \"end\"\n";
const INVALIDATE: &str = "[invalidate.stock]\nsource = \"events\"\nstream = \"stock\"\ndestination = \"shop\"\n\
                          keys = [\"stock:<pointer:/sku>\"]\n";

/// The reasons why the route is not ready, and the servers that are away.
fn unready(daemon: &Daemon) -> Result<(Vec<String>, Vec<String>), String> {
    let (code, body) = daemon.get("/readyz")?;
    let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
    let list = |name: &str| {
        let list = body["routes"][0][name].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|item| Some(item.as_str()?.to_owned())).collect()
    };
    if code == 503 { Ok((list("reasons"), list("away"))) } else { Err(format!("{code} {body}")) }
}

#[track_caller]
fn assert_named(daemon: &mut Daemon, blamed: RouteEndpoint, state: RouteState, words: &str) {
    let (name, other) = match blamed {
        RouteEndpoint::Source => ("source events: ", "destination shop"),
        RouteEndpoint::Destination => ("destination shop: ", "source events"),
    };
    let mut status = daemon.wait_state("stock", state);
    let (reasons, away) = eventually(&format!("{name}{words}"), PATIENCE, || {
        let found = unready(daemon)?;
        if found.0.iter().any(|reason| reason.contains(words)) {
            Ok(found)
        } else {
            Err(format!("{found:?}"))
        }
    });
    let [reason] = &reasons[..] else { panic!("one thing is wrong: {reasons:?}") };
    assert!(reason.contains(name) && !reason.contains(other), "{reason}");
    let server = status.side(blamed).server.clone();
    assert_eq!(away, [server.as_str()]);
    let errors = [&status.source, &status.destination].map(|side| side.error.is_some());
    assert_eq!(errors, [blamed == RouteEndpoint::Source, blamed == RouteEndpoint::Destination]);
    let codes: Vec<&str> = [alert::BLOCKED, alert::DESTINATION, alert::CACHE].concat();
    let line = eventually("the log names it", PATIENCE, || {
        let lines = daemon.log();
        let found = lines
            .into_iter()
            .rev()
            .find(|line| line.event.as_deref().is_some_and(|event| codes.contains(&event)));
        found.ok_or_else(|| "no line".to_owned())
    });
    assert!(
        line.text.contains(name) && line.text.contains(words) && !line.text.contains(other),
        "{}",
        line.text
    );
}

/// Each route, each side; rejected and away.
#[test]
fn one_server_is_the_trouble_and_no_other_is_named() {
    for (routes, command) in [(BROADCAST, "-publish"), (INVALIDATE, "-unlink")] {
        let (events, mut shop) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
        let setup = Setup::new().endpoint("events", &events).endpoint("shop", &shop).routes(routes);
        let mut daemon = setup.expects(&[alert::BLOCKED, alert::DESTINATION, alert::CACHE]).start_ready();
        shop.ask::<()>(&["ACL", "SETUSER", "tidegate-shop", command]);
        events.ask::<String>(&["XADD", "stock", "*", "payload", r#"{"sku":1}"#]);
        assert_named(&mut daemon, RouteEndpoint::Destination, RouteState::Blocked, "NOPERM");
        shop.ask::<()>(&["ACL", "SETUSER", "tidegate-shop", &command.replace('-', "+")]);
        daemon.restart();
        daemon.wait_ready();
        // Nothing was asked of the source since it ended: it is not what is missing.
        shop.kill();
        assert_named(&mut daemon, RouteEndpoint::Destination, RouteState::Waiting, "shop: ");
        // From the start: the other one was reached, or not tried before.
        daemon.restart();
        assert_named(&mut daemon, RouteEndpoint::Destination, RouteState::Waiting, "shop: ");
        shop.start_again();
        daemon.wait_ready();
        events.ask::<()>(&["ACL", "SETUSER", "tidegate-events", "-xread"]);
        daemon.restart();
        assert_named(&mut daemon, RouteEndpoint::Source, RouteState::Blocked, "NOPERM");
    }
}

/// A line in 30 s for each server, and not for each route: the outage of one does not hide that of the other.
#[test]
fn the_next_server_to_go_is_told_at_once() {
    for (routes, waiting) in [(BROADCAST, "broadcast_waiting"), (INVALIDATE, "invalidate_waiting")] {
        let (mut events, mut shop) = (Server::start(Version::Redis70), Server::start(Version::Redis70));
        let setup = Setup::new().endpoint("events", &events).endpoint("shop", &shop).routes(routes);
        let daemon = setup.expects(&[alert::DESTINATION, alert::CACHE]).start_ready();
        for (server, name) in [(&mut events, "events"), (&mut shop, "shop")] {
            server.kill();
            let line = eventually("the log names it", PATIENCE, || {
                let named = format!("\"server\":\"{name}\"");
                let mut lines = daemon.log().into_iter();
                let found =
                    lines.find(|line| line.event.as_deref() == Some(waiting) && line.text.contains(&named));
                found.ok_or_else(|| "no line".to_owned())
            });
            assert!(line.text.contains("\"suppressed\":0"), "the first of this server: {}", line.text);
            server.start_again();
            daemon.wait_ready();
        }
    }
}
