//! Promise: a route with `enabled = false` makes no connections and is missed by nobody; switched on again by a reload, it
//! continues where it was.

use tidegate::status::RouteState;

use super::{PATIENCE, assert_numbers_once};
use crate::support::{
    Daemon, LAST, Load, Options, Oracle, Payloads, Server, Setup, Subscriber, Version, alert, assert_exact,
    assert_nothing_lost_outside_gaps, captured, eventually, gaps, wait_for_last,
};

fn capture(name: &str, enabled: bool) -> String {
    format!(
        "[capture.{name}]\nenabled = {enabled}\nsource = \"shop\"\nchannels = [\"a\"]\ndestination = \"events\"\n\
         stream = \"{name}\"\nkeep = \"forever\"\ninclude = [\"id\"]\n"
    )
}

/// The connections of a route, by what their names begin with.
fn connections(name: &str, servers: &[&Server]) -> usize {
    servers.iter().map(|server| server.clients(&format!("name=tidegate:{name}")).len()).sum()
}

#[track_caller]
fn wait_disconnected(name: &str, servers: &[&Server]) {
    eventually("it has no connection any more", PATIENCE, || match connections(name, servers) {
        0 => Ok(()),
        left => Err(format!("{left} connections")),
    });
}

/// What `/readyz` answers about everything, and about one route.
fn ready(daemon: &Daemon, route: &str) -> (u16, (u16, String)) {
    let one = daemon.get(&format!("/readyz?route={route}")).unwrap();
    (daemon.get("/readyz").unwrap().0, one)
}

#[test]
fn a_capture_stores_nothing_meanwhile_and_its_gap_says_so() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let routes = |enabled| capture("stays", true) + &capture("orders", enabled);
    let mut daemon =
        Setup::between(&source, &destination).routes(&routes(true)).expects(&[alert::GAP]).start_ready();
    let oracle = Oracle::new(&source);
    let load = |number| Load::new(1, 500, &["a"]).payloads(Payloads::Numbered).first_publisher(number);
    oracle.publish(&load(0));
    assert_eq!([&source, &destination].map(|server| connections("orders:", &[server]) > 0), [true; 2]);
    daemon.reload_settings(&routes(false));
    let off = daemon.wait_state("orders", RouteState::Disabled);
    wait_disconnected("orders:", &[&source, &destination]);
    eventually("it has ended", PATIENCE, || match daemon.route("orders")?.reason {
        None => Ok(()),
        reason => Err(format!("{reason:?}")),
    });
    daemon.wait_ready();
    let (all, (one, said)) = ready(&daemon, "orders");
    assert!(all == 200 && one == 503 && said.contains("enabled = false"), "{all} {one} {said}");
    eventually("the service manager is told", PATIENCE, || match daemon.last_status() {
        Some(status) if status == "1 of 1 routes ready, 1 disabled" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let metrics = daemon.get("/metrics").unwrap().1;
    assert!(!metrics.contains("route=\"orders\"") && metrics.contains("route=\"stays\""), "{metrics}");
    assert_eq!(destination.stream_length("orders"), 500, "what it had received is stored");

    oracle.publish(&load(1));
    daemon
        .reload_settings(&routes(false).replace("stream = \"stays\"", "stream = \"stays\"\nmax_streams = 9"));
    let still = daemon.wait_state("orders", RouteState::Disabled);
    assert_eq!(still.since_unix_ms, off.since_unix_ms, "another reload is none of its business");
    daemon.restart();
    daemon.wait_ready();
    assert_eq!(destination.stream_length("orders"), 500);

    daemon.reload_settings(&routes(true));
    daemon.wait_ready();
    oracle.publish(&load(2));
    oracle.publish_one(b"a", LAST);
    for route in ["orders", "stays"] {
        wait_for_last(&destination, route, LAST, PATIENCE);
    }
    let expected = oracle.sequence();
    let (found, recorded) = (captured(&destination, "orders"), gaps(&destination, "orders"));
    assert_eq!(assert_nothing_lost_outside_gaps(&expected, &found, &recorded), 500);
    let causes: Vec<&str> = recorded.iter().map(|gap| gap.cause.as_str()).collect();
    assert_eq!(causes, ["restart"]);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_capture_that_reads_the_replication_stream_reads_what_it_missed() {
    let source = Server::with(Version::Redis70, Options::replication_source());
    let destination = Server::start(Version::Redis70);
    let routes = |enabled| format!("{}mode = \"replication\"\n", capture("orders", enabled));
    let mut daemon = Setup::between(&source, &destination).routes(&routes(true)).start_ready();
    let oracle = Oracle::new(&source);
    let load = |number| Load::new(1, 500, &["a"]).payloads(Payloads::Numbered).first_publisher(number);
    oracle.publish(&load(0));
    daemon.reload_settings(&routes(false));
    daemon.wait_state("orders", RouteState::Disabled);
    wait_disconnected("orders:", &[&source, &destination]);
    oracle.publish(&load(1));
    daemon.reload_settings(&routes(true));
    daemon.wait_ready();
    oracle.publish_last("a", &destination, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
    assert_eq!(gaps(&destination, "orders"), []);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_broadcast_continues_at_its_cursor() {
    let server = Server::start(Version::Redis70);
    let routes = |enabled| {
        format!(
            "[broadcast.told]\nenabled = {enabled}\nsource = \"events\"\nstream = \"told\"\ndestination = \"events\"\n\
             channel = \"heard\"\nmessage = \"<field:n>\"\nstart = \"beginning\"\n"
        )
    };
    let mut daemon = Setup::new().endpoint("events", &server).routes(&routes(true)).start_ready();
    let heard = Subscriber::start(&server, &["heard"]);
    for n in 0..200 {
        server.ask::<String>(&["XADD", "told", "*", "n", &n.to_string()]);
        if n % 40 == 10 {
            assert!(connections("broadcast.told", &[&server]) > 0);
            daemon.reload_settings(&routes(false));
            daemon.wait_state("told", RouteState::Disabled);
            wait_disconnected("broadcast.told", &[&server]);
        }
        if n % 40 == 30 {
            daemon.reload_settings(&routes(true));
            daemon.wait_ready();
        }
    }
    assert_numbers_once(heard, 200);
    daemon.wait_ready();
    assert_eq!(daemon.stop().code(), Some(0));
}

/// Both of them, at a start and by a reload.
#[test]
fn an_invalidation_with_channels_takes_its_capture_with_it() {
    let server = Server::start(Version::Redis70);
    let routes = |enabled| {
        format!(
            "[invalidate.products]\nenabled = {enabled}\nsource = \"main\"\nchannels = [\"changed\"]\n\
             destination = \"main\"\nkeys = [\"product:<pointer:/sku>\"]\nagain_after = \"0s\"\n"
        )
    };
    let mut daemon = Setup::new().endpoint("main", &server).routes(&routes(false)).start_ready();
    for route in ["products", "products-events"] {
        daemon.wait_state(route, RouteState::Disabled);
    }
    assert_eq!(connections("", &[&server]), 0, "no connection was made");
    let receivers = || server.ask::<usize>(&["PUBLISH", "changed", r#"{"sku":7}"#]);
    let holds = |sku: &str| server.ask::<usize>(&["EXISTS", &format!("product:{sku}")]) == 1;
    server.ask::<()>(&["SET", "product:7", "old"]);
    assert_eq!(receivers(), 0);
    daemon.reload_settings(&routes(true));
    daemon.wait_ready();
    assert_eq!(receivers(), 1);
    eventually("the key is removed", PATIENCE, || {
        if holds("7") { Err("it is there".to_owned()) } else { Ok(()) }
    });
    daemon.reload_settings(&routes(false));
    for route in ["products", "products-events"] {
        daemon.wait_state(route, RouteState::Disabled);
    }
    wait_disconnected("", &[&server]);
    server.ask::<()>(&["SET", "product:7", "new"]);
    assert_eq!(receivers(), 0);
    assert!(holds("7"));
    assert_eq!(daemon.stop().code(), Some(0));
}
