//! Promise: a route that a reload removes and another one brings back never runs twice, and a source that nothing
//! reads any more is left alone.

use tidegate::status::RouteState;

use super::{PATIENCE, assert_numbers_once};
use crate::support::{
    Daemon, LAST, Load, Oracle, Payloads, Server, Setup, Subscriber, Version, alert, assert_exact,
    assert_nothing_lost_outside_gaps, captured, eventually, gaps, wait_for_last,
};

fn capture(name: &str, source: &str) -> String {
    format!(
        "[capture.{name}]\nsource = \"{source}\"\nchannels = [\"a\"]\ndestination = \"events\"\n\
         stream = \"{name}\"\nkeep = \"forever\"\ninclude = [\"id\"]\n"
    )
}

fn events(daemon: &Daemon, route: &str) -> Vec<String> {
    let of_route = |text: &str| text.contains(&format!("\"route\":\"{route}\""));
    let lines = daemon.log().into_iter().filter(|line| of_route(&line.text));
    lines.filter_map(|line| line.event).collect()
}

#[test]
fn while_it_still_ends() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let (there, both) = (capture("stays", "shop"), capture("stays", "shop") + &capture("moves", "shop"));
    let mut daemon = Setup::between(&source, &destination)
        .daemon("shutdown_timeout = \"5s\"")
        .routes(&both)
        .expects(&[alert::DESTINATION, alert::GAP])
        .start_ready();
    let oracle = Oracle::new(&source);
    let load = Load::new(4, usize::MAX / 2, &["a"]).payloads(Payloads::Unique).rate(5_000);
    let load = oracle.start(&load);
    destination.wait_longer("moves", 1_000);
    destination.freeze();
    for route in ["moves", "stays"] {
        eventually("it writes to its spool", PATIENCE, || {
            let status = daemon.route(route)?;
            if status.spool_bytes > 0 { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }
    daemon.reload_settings(&there);
    assert!(daemon.route("moves").is_err(), "it is not configured");
    daemon.reload_settings(&both);
    assert_eq!(daemon.wait_state("moves", RouteState::Stopping).route, "moves", "the old one ends first");
    // Gone, back, and changed meanwhile: only the last word counts.
    daemon.reload_settings(&there);
    daemon.reload_settings(&both.replace("stream = \"moves\"", "stream = \"elsewhere\""));
    daemon.reload_settings(&both);
    destination.thaw();
    daemon.wait_ready();
    load.stop();
    oracle.publish_one(b"a", LAST);
    for route in ["moves", "stays"] {
        wait_for_last(&destination, route, LAST, PATIENCE);
    }

    let expected = oracle.sequence();
    assert_exact(&expected, &captured(&destination, "stays"));
    let recorded = gaps(&destination, "moves");
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_nothing_lost_outside_gaps(&expected, &captured(&destination, "moves"), &recorded);
    assert_eq!(destination.stream_length("elsewhere"), 0, "that one never ran");
    let opened = events(&daemon, "moves").iter().filter(|event| *event == "session_opened").count();
    assert_eq!(opened, 2, "at the start, and when it came back: {:?}", events(&daemon, "moves"));
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn as_a_broadcast_it_goes_on_at_its_cursor() {
    let server = Server::start(Version::Redis70);
    let broadcast = "[broadcast.told]\nsource = \"events\"\nstream = \"told\"\ndestination = \"events\"\n\
                     channel = \"heard\"\nmessage = \"<field:n>\"\nstart = \"beginning\"\n";
    let capture = "[capture.kept]\nsource = \"events\"\nchannels = [\"b\"]\ndestination = \"events\"\n\
                   stream = \"kept\"\nkeep = \"forever\"\n";
    let both = format!("{broadcast}{capture}");
    let mut daemon = Setup::new().endpoint("events", &server).routes(&both).start_ready();
    let heard = Subscriber::start(&server, &["heard"]);
    for n in 0..200 {
        let number = n.to_string();
        server.ask::<String>(&["XADD", "told", "*", "n", &number]);
        if n % 20 == 10 {
            daemon.reload_settings(capture);
            daemon.reload_settings(&both);
        }
    }
    assert_numbers_once(heard, 200);
    daemon.wait_ready();
    assert_eq!(daemon.stop().code(), Some(0));
}

/// Who publishes heartbeats on a server.
fn heartbeats(server: &Server) -> usize {
    server.clients(":heartbeat").len()
}

#[test]
fn the_heartbeat_of_a_source_ends_with_the_last_route_that_reads_it() {
    let shop = Server::start(Version::Redis70);
    let store = Server::start(Version::Redis70);
    let events = Server::start(Version::Redis70);
    // The route that stays keeps the endpoint `shop` in use, as a destination.
    let back = "[capture.back]\nsource = \"store\"\nchannels = [\"b\"]\ndestination = \"shop\"\nstream = \"back\"\n\
                keep = \"forever\"\n";
    let all = capture("one", "shop") + &capture("two", "shop") + back;
    let mut daemon = Setup::new()
        .endpoint("shop", &shop)
        .endpoint("store", &store)
        .endpoint("events", &events)
        .routes(&all)
        .expects(&[alert::GAP])
        .start_ready();
    assert_eq!((heartbeats(&shop), heartbeats(&store)), (1, 1), "one for each source");
    daemon.reload_settings(&(capture("one", "shop") + back));
    daemon.wait_ready();
    assert_eq!(heartbeats(&shop), 1, "one capture is left");
    daemon.reload_settings(back);
    eventually("nothing publishes heartbeats any more", PATIENCE, || match heartbeats(&shop) {
        0 => Ok(()),
        left => Err(format!("{left} left")),
    });
    assert_eq!(heartbeats(&store), 1);
    daemon.reload_settings(&all);
    eventually("heartbeats come again", PATIENCE, || match heartbeats(&shop) {
        1 => Ok(()),
        count => Err(format!("{count}")),
    });
    daemon.wait_ready();
    assert_eq!(daemon.stop().code(), Some(0));
}
