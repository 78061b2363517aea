//! Promise: a password that changes while connections are open costs no connection and no message, also where the
//! first attempt is wrong.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tidegate::config::{Address, Durability, Endpoint, Reauthenticate, SecretSource, Servers};
use tidegate::server::connect;

use crate::support::{
    Daemon, Load, Oracle, Payloads, Server, Setup, Subscriber, Version, alert, assert_exact, captured,
    eventually, gaps,
};

const ROUTES: &str = r#"
    [capture.orders]
    source = "shop"
    channels = ["orders"]
    destination = "events"
    stream = "orders"
    keep = "forever"
    include = ["id"]

    [broadcast.back]
    source = "events"
    stream = "orders"
    destination = "shop"
    channel = "back"
    message = "<field:payload>"
    start = "beginning"
    "#;

const PATIENCE: Duration = Duration::from_secs(60);

/// The connections of the daemon's routes, as CLIENT LIST shows them.
fn connections(server: &Server) -> Vec<String> {
    let list: String = server.ask(&["CLIENT", "LIST"]);
    list.lines().filter(|line| line.contains(" name=tidegate:")).map(str::to_owned).collect()
}

/// The ids of those that stay open: one that was made anew has another.
fn ids(server: &Server) -> BTreeSet<String> {
    let lasting = ["=tidegate:orders:subscribe ", "=tidegate:orders:append ", "=tidegate:broadcast.back "];
    connections(server)
        .iter()
        .filter(|line| lasting.iter().any(|name| line.contains(name)))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

fn last_command(server: &Server, name: &str) -> String {
    let found = connections(server).into_iter().find(|line| line.contains(&format!("=tidegate:{name} ")));
    let line = found.expect("it is connected");
    line.split(' ').find_map(|field| field.strip_prefix("cmd=")).unwrap_or_default().to_owned()
}

/// How often a server refused a password of that endpoint's user. Not every server answers or counts it as an error.
fn refusals(server: &Server, endpoint: &str) -> u64 {
    let log: Vec<HashMap<String, redis::Value>> = server.ask(&["ACL", "LOG"]);
    let number = |entry: &HashMap<String, redis::Value>| {
        redis::from_redis_value::<u64>(entry["count"].clone()).unwrap()
    };
    let user = redis::Value::BulkString(format!("tidegate-{endpoint}").into_bytes());
    log.iter().filter(|entry| entry["username"] == user).map(number).sum()
}

fn counted(daemon: &Daemon, text: &str) -> usize {
    daemon.log().iter().filter(|line| line.text.contains(text)).count()
}

#[test]
fn a_password_changes_under_load() {
    // Redis 8.2 and Valkey 8.0 do not answer a refused login that follows another command at once.
    for (version, destination) in
        [(Version::Redis70, Version::Redis82), (Version::Valkey80, Version::Valkey91)]
    {
        let source = Server::start(version);
        let destination = Server::start(destination);
        let mut daemon = Setup::between(&source, &destination)
            .routes(ROUTES)
            .expects(&[alert::REAUTHENTICATION])
            .start_ready();
        // The broadcast asks the server that it publishes on for its role, again and again.
        let heard = Subscriber::start(&source, &["back"]);
        let oracle = Oracle::new(&source);
        daemon.watch(&oracle);
        let load =
            oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).payloads(Payloads::Unique).rate(2_000));
        let before = (ids(&source), ids(&destination));
        assert_eq!((before.0.len(), before.1.len()), (2, 3), "{version}: {before:?}");

        // The server does not know it: that is told once for each endpoint, and tried again.
        daemon.write_password("shop", "unknown to the server");
        daemon.write_password("events", "unknown to the server");
        let refused = |server: &Server, endpoint: &str| {
            eventually("an open connection was refused, twice", PATIENCE, || {
                match refusals(server, endpoint) {
                    0 | 1 => Err(format!("{:?}", daemon.route("orders"))),
                    _ => Ok(()),
                }
            });
        };
        refused(&source, "shop");
        refused(&destination, "events");
        daemon.wait_alert(alert::REAUTHENTICATION);

        // Now a further one on the server, then the file: as a rotation should be.
        for (endpoint, server) in [("shop", &source), ("events", &destination)] {
            server.ask::<()>(&["ACL", "SETUSER", &format!("tidegate-{endpoint}"), ">second"]);
            daemon.write_password(endpoint, "second");
        }
        eventually("the subscribed connection has logged in", PATIENCE, || {
            match last_command(&source, "orders:subscribe") {
                command if command.starts_with("hello") => Ok(()),
                command => Err(command),
            }
        });
        eventually("both servers took it", PATIENCE, || match counted(&daemon, "\"reauthenticated\"") {
            2 => Ok(()),
            count => Err(count.to_string()),
        });
        load.stop();
        oracle.publish_last("orders", &destination, "orders", PATIENCE);
        assert_exact(&oracle.sequence(), &captured(&destination, "orders"));
        assert_eq!(gaps(&destination, "orders"), [], "{version}");
        let entries = captured(&destination, "orders").len();
        eventually("everything is published", PATIENCE, || match heard.heard().len() {
            count if count < entries => Err(format!("{count} of {entries}")),
            _ => Ok(()),
        });
        assert_eq!(heard.heard().len(), entries, "{version}: once");
        assert_eq!(before, (ids(&source), ids(&destination)), "{version}: no connection was made anew");
        assert_eq!(counted(&daemon, "\"reauthentication_rejected\""), 2, "once for each endpoint");
        for line in daemon.log() {
            assert!(!line.text.contains("unknown to the server") && !line.text.contains("second\""));
        }
    }
}

/// Each takes the new password, and none is made anew.
#[test]
fn a_thousand_connections_take_a_new_password() {
    const CONNECTIONS: usize = 1_000;
    let server = Server::start(Version::Redis70);
    server.ask::<()>(&["ACL", "SETUSER", "many", "on", ">first", "+@all"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("many.pass");
    std::fs::write(&file, "first").unwrap();
    let endpoint = Endpoint {
        name: "many".to_owned(),
        servers: Servers::One(Address::Unix(server.socket())),
        username: Some("many".to_owned()),
        password: SecretSource::File(file.clone()),
        database: 0,
        key_prefix: "tidegate:".to_owned(),
        connect_timeout: PATIENCE,
        response_timeout: PATIENCE,
        durability: Durability::default(),
        address_map: Vec::new(),
        reauthenticate: Reauthenticate::default(),
        tls: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut connections = runtime.block_on(async {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(connect(&endpoint, "test").await.unwrap());
        }
        connections
    });
    server.ask::<()>(&["ACL", "SETUSER", "many", "resetpass", ">second"]);
    std::fs::write(&file, "second").unwrap();
    eventually("each has logged in once", PATIENCE, || {
        // As a route does with each, again and again.
        runtime.block_on(async {
            for connection in &mut connections {
                connection.ask(PATIENCE, "asking", &[b"PING"]).await.unwrap();
            }
        });
        match server.calls("auth") {
            calls if calls == CONNECTIONS as u64 => Ok(()),
            calls => Err(calls.to_string()),
        }
    });
    assert_eq!(server.clients("name=tidegate:test").len(), CONNECTIONS, "none was made anew");
}
