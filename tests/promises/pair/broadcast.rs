//! Promise: of two instances with one broadcast across two servers one publishes: each entry once in fair weather,
//! in order. The other is standby, and continues on where the first one is gone; then, and only then, entries may repeat.

use std::collections::HashSet;
use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{Daemon, Server, Setup, Subscriber, Version, alert, entries, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const ENTRIES: usize = 2_000;

const ROUTE: &str = r#"
    [broadcast.stock]
    source = "events"
    stream = "orders"
    destination = "shop"
    channel = "stock"
    message = "<id>"
    start = "beginning"
"#;

/// Two instances, of which the first publishes.
struct Pair {
    // Dropped before the servers, whose end they would tell of.
    first: Daemon,
    second: Daemon,
    events: Server,
    subscriber: Subscriber,
    _shop: Server,
}

impl Pair {
    fn start() -> Self {
        let events = Server::start(Version::Redis70);
        let shop = Server::start(Version::Redis70);
        let subscriber = Subscriber::start(&shop, &["stock"]);
        let setup = Setup::new().endpoint("events", &events).endpoint("shop", &shop).routes(ROUTE);
        let first = setup.expects(&[alert::DESTINATION]).start_ready();
        let second = first.start_twin();
        Self { first, second, events, subscriber, _shop: shop }
    }

    /// Adds entries, a pipeline at a time.
    fn add(&self, entries: usize) {
        let mut connection = self.events.connection();
        for _ in 0..entries / 20 {
            let mut pipeline = redis::pipe();
            for _ in 0..20 {
                pipeline.cmd("XADD").arg(&["orders", "*", "payload", "x"]).ignore();
            }
            pipeline.exec(&mut connection).expect("the server takes entries");
        }
    }

    fn ids(&self) -> Vec<String> {
        entries(&self.events, "orders").into_iter().map(|(id, _)| id).collect()
    }

    fn heard(&self) -> Vec<String> {
        let heard = self.subscriber.heard().into_iter();
        heard.map(|message| String::from_utf8(message.payload).expect("an id is text")).collect()
    }

    /// Waits until the last entry is heard, and gives all that was.
    #[track_caller]
    fn wait_heard(&self) -> Vec<String> {
        let last = self.ids().pop().expect("there are entries");
        eventually("the last entry is published", PATIENCE, || match self.heard() {
            heard if heard.contains(&last) => Ok(heard),
            heard => Err(format!("{} heard", heard.len())),
        })
    }
}

/// Entries that both instances say they have published.
fn published(daemons: [&Daemon; 2]) -> u64 {
    let of = |daemon: &Daemon| {
        let metrics = daemon.get("/metrics").expect("it answers").1;
        let name = "tidegate_published_total{route=\"stock\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |count| count.parse::<u64>().expect("a number"))
    };
    daemons.into_iter().map(of).sum()
}

#[test]
fn in_fair_weather_one_publishes() {
    let pair = Pair::start();
    pair.second.wait_state("stock", RouteState::Standby);
    pair.first.wait_state("stock", RouteState::Live);
    for _ in 0..3 {
        pair.add(ENTRIES);
        let heard = pair.wait_heard();
        assert!(heard == pair.ids(), "each once, in order: {} heard of {}", heard.len(), pair.ids().len());
    }
    pair.second.wait_state("stock", RouteState::Standby);
    eventually("what was published is counted, and once", PATIENCE, || {
        match published([&pair.first, &pair.second]) {
            count if count == 3 * ENTRIES as u64 => Ok(()),
            count => Err(format!("{count} are counted")),
        }
    });
}

#[test]
fn the_one_that_publishes_is_killed() {
    let mut pair = Pair::start();
    pair.second.wait_state("stock", RouteState::Standby);
    for _ in 0..3 {
        pair.add(ENTRIES);
        pair.first.kill();
        pair.add(ENTRIES);
        pair.second.wait_state("stock", RouteState::Live);
        pair.wait_heard();
        pair.first.start_again();
        pair.first.wait_state("stock", RouteState::Standby);
        std::mem::swap(&mut pair.first, &mut pair.second);
    }
    // Without the repeats it is the stream, in order.
    let mut seen = HashSet::new();
    let mut firsts = pair.wait_heard();
    firsts.retain(|id| seen.insert(id.clone()));
    assert!(firsts == pair.ids(), "each id, in stream order");
    // Nothing is taken over any more, so nothing repeats.
    let (heard, all) = (pair.heard().len(), pair.ids().len());
    pair.add(ENTRIES);
    let after = pair.wait_heard().split_off(heard);
    assert!(after == pair.ids().split_off(all), "each once again: {} heard", after.len());
}

/// With a pattern each stream has a lease of its own.
#[test]
fn of_many_streams_the_other_instance_takes_each_over() {
    let events = Server::start(Version::Valkey91);
    let shop = Server::start(Version::Redis70);
    let subscriber = Subscriber::start(&shop, &["stock"]);
    let route = ROUTE.replace("stream = \"orders\"", "streams = \"orders:*\"");
    let route = route.replace("\"<id>\"", "\"<stream> <id>\"");
    let setup = Setup::new().endpoint("events", &events).endpoint("shop", &shop).routes(&route);
    let add = |streams: &[&str]| {
        let mut pipeline = redis::pipe();
        for _ in 0..200 {
            for stream in streams {
                pipeline.cmd("XADD").arg(&[*stream, "*", "payload", "x"]).ignore();
            }
        }
        pipeline.exec(&mut events.connection()).expect("the server takes entries");
    };
    let messages = |stream: &str| -> Vec<String> {
        entries(&events, stream).into_iter().map(|(id, _)| format!("{stream} {id}")).collect()
    };
    let wait_last = |streams: &[&str]| {
        for stream in streams {
            let last = messages(stream).pop().expect("there are entries");
            eventually("the last entry is published", PATIENCE, || match subscriber.payloads() {
                heard if heard.contains(&last) => Ok(()),
                heard => Err(format!("{} heard", heard.len())),
            });
        }
    };
    let mut streams = vec!["orders:a", "orders:b"];
    add(&streams);
    let mut first = setup.expects(&[alert::DESTINATION]).start_ready();
    wait_last(&streams);
    let second = first.start_twin();
    second.wait_state("stock", RouteState::Standby);
    first.kill();
    streams.push("orders:c");
    add(&streams);
    second.wait_state("stock", RouteState::Live);
    wait_last(&streams);
    for stream in streams {
        let mut seen = HashSet::new();
        let mut heard = subscriber.payloads();
        heard.retain(|message| message.starts_with(stream) && seen.insert(message.clone()));
        assert!(heard == messages(stream), "{stream}: each, in order: {} heard", heard.len());
    }
}
