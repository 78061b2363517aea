//! The broadcast loop on real servers, run in the test's own process: what it publishes, where it
//! begins, and that every fault ends at the cursor.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use redis::PubSub;
use tidegate::broadcast::{self, BroadcastParts};
use tidegate::config::{
    self, Address, After, Broadcast, Config, Daemon, Endpoint, MessageFormat, SecretSource, Servers, Start,
    Streams,
};
use tidegate::logs::Outages;
use tidegate::metrics::Metrics;
use tidegate::status::{Board, RouteKind, RouteState, RouteStatus, Slot};
use tidegate::text::template::Template;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use support::{Server, Version, assert_eventually, eventually};

const SOON: Duration = Duration::from_secs(20);

/// A route that runs until it is stopped.
struct Running {
    runtime: Runtime,
    task: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
    slot: Slot,
    metrics: Metrics,
}

impl Running {
    fn start(settings: Broadcast, source: Endpoint, destination: Endpoint) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let status =
            RouteStatus::new(&settings.name, RouteKind::Broadcast, &source.name, &destination.name, 0);
        let slot = Board::default().place(status);
        let metrics = Metrics::new();
        let parts = BroadcastParts {
            metrics: metrics.broadcast(&settings.name),
            source_metrics: metrics.endpoint(&source.name),
            destination_metrics: metrics.endpoint(&destination.name),
            settings: Arc::new(settings),
            source: Arc::new(source),
            destination: Arc::new(destination),
            outages: Outages::default(),
            slot: slot.clone(),
        };
        let stop = CancellationToken::new();
        let task = runtime.spawn(broadcast::run(parts, stop.clone(), SOON));
        Self { runtime, task, stop, slot, metrics }
    }

    fn on(server: &Server, settings: Broadcast) -> Self {
        Self::start(settings, endpoint(server, "events", "default"), endpoint(server, "shop", "default"))
    }

    fn wait_for(&self, state: RouteState) {
        eventually("the route's state", SOON, || {
            let status = self.slot.read();
            if status.state == state { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }

    fn wait_for_published(&self, count: u64) {
        assert_eventually("published", SOON, count, || self.slot.read().broadcast.unwrap().published);
    }

    fn stop(self) {
        self.stop.cancel();
        self.runtime.block_on(self.task).unwrap();
        assert_eq!(self.slot.read().state, RouteState::Stopped);
    }
}

fn endpoint(server: &Server, name: &str, user: &str) -> Endpoint {
    Endpoint {
        name: name.into(),
        servers: Servers::One(Address::Unix(server.socket())),
        username: Some(user.into()),
        password: SecretSource::Inline(tidegate::config::Secret::new("any".into())),
        database: 0,
        key_prefix: "tidegate:".into(),
        connect_timeout: Duration::from_secs(5),
        response_timeout: Duration::from_secs(5),
        durability: tidegate::config::Durability::default(),
        address_map: Vec::new(),
        reauthenticate: tidegate::config::Reauthenticate::default(),
        tls: None,
    }
}

fn settings() -> Broadcast {
    Broadcast {
        name: "stock".into(),
        source: "events".into(),
        streams: Streams::One("orders".into()),
        after: After::Added,
        destination: "shop".into(),
        channel: Template::parse("stock.changed").unwrap(),
        message: MessageFormat::Template(Template::parse("<field:payload>").unwrap()),
        conditions: Vec::new(),
        payload_field: "payload".into(),
        origin: None,
        sharded: false,
        rate_limit: None,
        max_deliveries: 5,
        start: None,
        max_message_size: 1024 * 1024,
    }
}

/// Adds entries whose payloads are the numbers of a range.
fn add(server: &Server, numbers: std::ops::Range<u32>) {
    let mut connection = server.connection();
    for first in numbers.clone().step_by(500) {
        let mut pipe = redis::pipe();
        for number in first..numbers.end.min(first + 500) {
            pipe.cmd("XADD").arg("orders").arg("*").arg("payload").arg(number).ignore();
        }
        pipe.query::<()>(&mut connection).unwrap();
    }
}

fn subscribe(connection: &mut redis::Connection) -> PubSub<'_> {
    let mut subscriber = connection.as_pubsub();
    subscriber.psubscribe("stock.*").unwrap();
    subscriber.set_read_timeout(Some(SOON)).unwrap();
    subscriber
}

fn assert_heard(subscriber: &mut PubSub<'_>, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let message = subscriber.get_message().unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(message.get_payload::<String>().unwrap(), number.to_string());
    }
}

fn assert_silent(server: &Server, subscriber: &mut PubSub<'_>) {
    server.ask::<u32>(&["PUBLISH", "stock.end", "end"]);
    assert_eq!(subscriber.get_message().unwrap().get_payload::<String>().unwrap(), "end");
}

#[test]
fn every_entry_is_published_once_and_in_order() {
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        let (mut one, mut two) = (server.connection(), server.connection());
        let mut subscriber = subscribe(&mut one);
        let route = Running::on(&server, settings());
        route.wait_for(RouteState::Live);
        add(&server, 0..10_000);
        assert_heard(&mut subscriber, 0..10_000);
        route.wait_for_published(10_000);
        let counts: Vec<u64> = redis::cmd("HMGET")
            .arg(&["tidegate:stock:cursor", "published", "unheard", "rejected"])
            .query(&mut two)
            .unwrap();
        assert_eq!(counts, [10_000, 0, 0], "{version}");
        let metrics = route.metrics.render();
        for line in [
            "tidegate_published_total{route=\"stock\"} 10000",
            "tidegate_published_without_subscribers_total{route=\"stock\"} 0",
            "tidegate_route_state{route=\"stock\",state=\"live\"} 1",
        ] {
            assert!(metrics.contains(line), "{line} is not in\n{metrics}");
        }
        route.stop();
        assert_silent(&server, &mut subscriber);
    }
}

#[test]
fn killed_connections_neither_repeat_nor_lose_an_entry() {
    let server = Server::start(Version::Redis70);
    let mut connection = server.connection();
    let mut subscriber = subscribe(&mut connection);
    let route = Running::on(&server, settings());
    route.wait_for(RouteState::Live);
    for round in 0..20 {
        add(&server, round * 1_000..(round + 1) * 1_000);
        let clients: String = server.ask(&["CLIENT", "LIST"]);
        let ids: Vec<_> = clients
            .lines()
            .filter(|line| line.contains("name=tidegate:broadcast.stock"))
            .filter_map(|line| line.strip_prefix("id=")?.split(' ').next())
            .collect();
        if let Some(id) = ids.get(round as usize % 2) {
            let _: u32 = server.ask(&["CLIENT", "KILL", "ID", id]);
        }
    }
    assert_heard(&mut subscriber, 0..20_000);
    route.stop();
    assert_silent(&server, &mut subscriber);
}

#[test]
fn two_instances_publish_every_entry_once() {
    let server = Server::start(Version::Valkey91);
    let mut connection = server.connection();
    let mut subscriber = subscribe(&mut connection);
    let routes = [(); 2].map(|()| Running::on(&server, settings()));
    routes.iter().for_each(|route| route.wait_for(RouteState::Live));
    add(&server, 0..20_000);
    assert_heard(&mut subscriber, 0..20_000);
    routes.into_iter().for_each(Running::stop);
    assert_silent(&server, &mut subscriber);
}

#[test]
fn a_lost_script_is_loaded_again_and_a_lost_cursor_is_made_again() {
    let server = Server::start(Version::Redis82);
    let mut connection = server.connection();
    let mut subscriber = subscribe(&mut connection);
    let route = Running::on(&server, settings());
    route.wait_for(RouteState::Live);
    add(&server, 0..10);
    assert_heard(&mut subscriber, 0..10);
    server.ask::<()>(&["SCRIPT", "FLUSH"]);
    add(&server, 10..20);
    assert_heard(&mut subscriber, 10..20);
    let metrics = route.metrics.render();
    assert!(metrics.contains("tidegate_reconnects_total{server=\"events\"} 1"), "{metrics}");
    route.wait_for_published(20);
    assert_eq!(server.ask::<u32>(&["DEL", "tidegate:stock:cursor"]), 1);
    add(&server, 20..30);
    assert_heard(&mut subscriber, 20..30);
    route.stop();
    assert_silent(&server, &mut subscriber);
}

#[test]
fn across_servers_the_cursor_follows_what_was_published() {
    let (events, shop) = (Server::start(Version::Redis70), Server::start(Version::Redis62));
    let mut connection = shop.connection();
    let mut subscriber = subscribe(&mut connection);
    let start = || {
        Running::start(settings(), endpoint(&events, "events", "default"), endpoint(&shop, "shop", "default"))
    };
    let route = start();
    route.wait_for(RouteState::Live);
    add(&events, 0..5_000);
    events.ask::<String>(&["XADD", "orders", "*", "other", "field"]);
    add(&events, 5_000..5_100);
    assert_heard(&mut subscriber, 0..5_100);
    route.wait_for_published(5_100);
    assert_eventually("rejected", SOON, 1, || route.slot.read().broadcast.unwrap().rejected);
    route.stop();
    add(&events, 5_100..5_200);
    let route = start();
    assert_heard(&mut subscriber, 5_100..5_200);
    route.stop();
    assert_silent(&shop, &mut subscriber);
    assert_eq!(events.stream_length("tidegate:stock:dead-letters"), 1);
}

#[test]
fn entries_that_cannot_be_published_become_dead_letters_in_their_place() {
    let server = Server::start(Version::Redis70);
    let mut connection = server.connection();
    let mut subscriber = subscribe(&mut connection);
    let route = Running::on(
        &server,
        Broadcast {
            channel: Template::parse("stock.<field:sku>").unwrap(),
            max_message_size: 5,
            ..settings()
        },
    );
    route.wait_for(RouteState::Live);
    server.ask::<String>(&["XADD", "orders", "1-0", "sku", "a", "payload", "1"]);
    server.ask::<String>(&["XADD", "orders", "2-0", "payload", "1"]);
    server.ask::<String>(&["XADD", "orders", "3-0", "sku", "a", "payload", "123456"]);
    server.ask::<String>(&["XADD", "orders", "4-0", "sku", "a", "payload", "12345"]);
    for expected in ["1", "12345"] {
        let message = subscriber.get_message().unwrap();
        assert_eq!(message.get_channel_name(), "stock.a");
        assert_eq!(message.get_payload::<String>().unwrap(), expected);
    }
    route.stop();
    let letters: Vec<(String, Vec<String>)> =
        server.ask(&["XRANGE", "tidegate:stock:dead-letters", "-", "+"]);
    let letters: Vec<_> = letters.iter().map(|(_, fields)| fields.join(" ")).collect();
    assert_eq!(
        letters,
        [
            "stream orders id 2-0 reason missing_field detail the entry has no field 'sku'",
            "stream orders id 3-0 reason too_large detail the message has 6 bytes, max_message_size is 5",
        ]
    );
}

#[test]
fn a_stream_that_has_entries_needs_to_be_told_where_to_begin() {
    for (start, expected) in [
        (Some(Start::Beginning), 0..20),
        (Some(Start::End), 10..20),
        (Some(Start::After(4, 0)), 4..20),
        (None, 0..0),
    ] {
        let server = Server::start(Version::Redis70);
        let mut connection = server.connection();
        let mut subscriber = subscribe(&mut connection);
        for number in 0..10 {
            let id = format!("{number}-1");
            server.ask::<String>(&["XADD", "orders", &id, "payload", &number.to_string()]);
        }
        let route = Running::on(&server, Broadcast { start, ..settings() });
        if start.is_none() {
            route.wait_for(RouteState::Blocked);
            let reason = route.slot.read().reason.unwrap();
            assert!(reason.contains("set start in"), "{reason}");
        } else {
            route.wait_for(RouteState::Live);
            add(&server, 10..20);
        }
        assert_heard(&mut subscriber, expected);
        route.stop();
        assert_silent(&server, &mut subscriber);
    }
}

#[test]
fn a_channel_without_the_right_parks_the_route_and_nothing_is_repeated_or_skipped() {
    for version in Version::DESTINATIONS {
        for servers in [1, 2] {
            let events = Server::start(version);
            let second = (servers == 2).then(|| Server::start(version));
            let shop = second.as_ref().unwrap_or(&events);
            let mut connection = shop.connection();
            let mut subscriber = subscribe(&mut connection);
            let grant = |channels: &str| {
                let user = ["ACL", "SETUSER", "narrow", "reset", "on", "nopass", "+@all", "~*", channels];
                events.ask::<()>(&user);
                shop.ask::<()>(&user);
            };
            grant("&nothing");
            let start = || {
                Running::start(
                    settings(),
                    endpoint(&events, "events", "narrow"),
                    endpoint(shop, "shop", "narrow"),
                )
            };
            let route = start();
            route.wait_for(RouteState::Live);
            events.ask::<String>(&["XADD", "orders", "1-0", "payload", "0"]);
            events.ask::<String>(&["XADD", "orders", "2-0", "payload", "1"]);
            route.wait_for(RouteState::Blocked);
            let reason = route.slot.read().reason.unwrap();
            assert!(reason.contains("publishing the entry 1-0 failed"), "{reason}");
            route.stop();
            grant("&stock.*");
            let route = start();
            route.wait_for(RouteState::Live);
            assert_heard(&mut subscriber, 0..2);
            route.stop();
            assert_silent(shop, &mut subscriber);
        }
    }
}

#[test]
fn a_key_of_another_type_parks_the_route_and_is_named() {
    for key in ["orders", "tidegate:stock:cursor"] {
        let server = Server::start(Version::Redis70);
        server.ask::<()>(&["SET", key, "x"]);
        let route = Running::on(&server, settings());
        route.wait_for(RouteState::Blocked);
        let reason = route.slot.read().reason.unwrap();
        let named = format!(": WRONGTYPE the key '{key}' has another type (");
        assert!(reason.contains(&named), "{reason}");
        assert!(route.slot.was_tried());
        route.stop();
    }
}

/// The route has a cursor, so only reading finds it.
#[test]
fn a_stream_that_becomes_another_key_is_named() {
    let server = Server::start(Version::Redis70);
    let route = Running::on(&server, settings());
    route.wait_for(RouteState::Live);
    add(&server, 0..1);
    route.wait_for_published(1);
    route.stop();
    server.ask::<()>(&["SET", "orders", "x"]);
    let route = Running::on(&server, settings());
    route.wait_for(RouteState::Blocked);
    let reason = route.slot.read().reason.unwrap();
    assert!(reason.contains("WRONGTYPE the key 'orders' has another type ("), "{reason}");
    route.stop();
}

#[test]
fn a_frozen_server_is_noticed_and_a_thawed_one_gets_the_rest() {
    let server = Server::start(Version::Redis70);
    let mut connection = server.connection();
    let mut subscriber = subscribe(&mut connection);
    let quick = |name| Endpoint {
        response_timeout: Duration::from_millis(300),
        connect_timeout: Duration::from_millis(300),
        ..endpoint(&server, name, "default")
    };
    let route = Running::start(settings(), quick("events"), quick("shop"));
    route.wait_for(RouteState::Live);
    server.freeze();
    route.wait_for(RouteState::Waiting);
    let reason = route.slot.read().reason.unwrap();
    assert!(reason.contains("no reply within"), "{reason}");
    server.thaw();
    add(&server, 0..100);
    assert_heard(&mut subscriber, 0..100);
    route.stop();
    assert_silent(&server, &mut subscriber);
}

#[test]
fn a_stop_in_the_middle_neither_repeats_nor_loses_an_entry() {
    let server = Server::start(Version::Redis82);
    let mut connection = server.connection();
    let mut subscriber = subscribe(&mut connection);
    add(&server, 0..30_000);
    let settings = Broadcast { start: Some(Start::Beginning), ..settings() };
    let route = Running::on(&server, settings.clone());
    assert_heard(&mut subscriber, 0..1_000);
    route.stop();
    let route = Running::on(&server, settings);
    assert_heard(&mut subscriber, 1_000..30_000);
    route.stop();
    assert_silent(&server, &mut subscriber);
}

#[test]
fn the_rights_that_acl_names_are_enough() {
    for (version, servers) in Version::DESTINATIONS.into_iter().zip([1, 2, 1]) {
        let events = Server::start(version);
        let second = (servers == 2).then(|| Server::start(version));
        let shop = second.as_ref().unwrap_or(&events);
        let mut connection = shop.connection();
        let mut subscriber = subscribe(&mut connection);
        events.ask::<String>(&["XADD", "orders", "*", "payload", "before"]);
        let settings = Broadcast { start: Some(Start::End), ..settings() };
        let endpoints = [endpoint(&events, "events", "reader"), endpoint(shop, "shop", "speaker")];
        let config = Config {
            daemon: Daemon {
                hosts: Vec::new(),
                listen: ([127, 0, 0, 1], 0).into(),
                state_directory: "/nowhere".into(),
                memory_limit: 0,
                force_after: SOON,
                spool: tidegate::config::settings::SpoolSettings {
                    limit: 0,
                    fsync: tidegate::config::settings::Fsync::Never,
                },
                shutdown_timeout: SOON,
            },
            redis: endpoints.clone().map(|one| (one.name.clone(), Arc::new(one))).into(),
            capture: [].into(),
            invalidate: [].into(),
            disabled: [].into(),
            broadcast: [(settings.name.clone(), Arc::new(settings.clone()))].into(),
        };
        let users = config::acl::users(&config);
        assert_eq!(users.len(), servers, "{version}: {users:?}");
        for user in users {
            let rules = user.rules(&config::acl::PasswordRule::Plain("any".to_owned()));
            let mut command = vec!["ACL", "SETUSER", &user.name];
            command.extend(rules.iter().map(String::as_str));
            let server = if user.endpoints.contains("events") { &events } else { shop };
            server.ask::<()>(&command);
        }
        let [source, destination] = endpoints;
        let route = Running::start(settings, source, destination);
        route.wait_for(RouteState::Live);
        add(&events, 0..10);
        events.ask::<String>(&["XADD", "orders", "*", "no", "payload"]);
        add(&events, 10..20);
        assert_heard(&mut subscriber, 0..20);
        route.stop();
        assert_eq!(events.stream_length("tidegate:stock:dead-letters"), 1, "{version}");
    }
}

#[test]
fn large_entries_behind_many_small_ones_are_read_within_bounds() {
    let server = Server::start(Version::Redis70);
    add(&server, 0..2_000);
    let large = "x".repeat(1024 * 1024);
    for _ in 0..80 {
        server.ask::<String>(&["XADD", "orders", "*", "payload", &large]);
    }
    let route = Running::on(&server, Broadcast { start: Some(Start::Beginning), ..settings() });
    route.wait_for_published(2_080);
    assert_eq!(route.slot.read().broadcast.unwrap().without_subscribers, 2_080);
    route.stop();
    assert_eq!(server.stream_length("tidegate:stock:dead-letters"), 0);
}
