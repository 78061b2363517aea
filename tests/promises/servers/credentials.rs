//! Promise: a password that changes while connections are open costs no connection and no message, also where the
//! first attempt is wrong.

use std::collections::HashMap;
use std::time::Duration;

use crate::support::{
    Daemon, Load, Oracle, Payloads, Server, Setup, Version, alert, assert_exact, captured, eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The one connection of the daemon with this name, as CLIENT LIST shows it.
fn connection(server: &Server, name: &str) -> String {
    let list: String = server.ask(&["CLIENT", "LIST"]);
    let mut mine = list.lines().filter(|line| line.contains(&format!("name=tidegate:{name} ")));
    let found = mine.next().unwrap_or_default().to_owned();
    assert_eq!(mine.next(), None, "there is one such connection");
    found
}

/// Its id: another one where it was made anew.
fn id(server: &Server, name: &str) -> String {
    connection(server, name).split(' ').next().unwrap().to_owned()
}

fn last_command(server: &Server, name: &str) -> String {
    let line = connection(server, name);
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
        let mut daemon =
            Setup::orders(&source, &destination).expects(&[alert::REAUTHENTICATION]).start_ready();
        let oracle = Oracle::new(&source);
        daemon.watch(&oracle);
        let load =
            oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).payloads(Payloads::Unique).rate(2_000));
        let before = (id(&source, "orders:subscribe"), id(&destination, "orders:append"));

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
        let after = (id(&source, "orders:subscribe"), id(&destination, "orders:append"));
        assert_eq!(before, after, "{version}: no connection was made anew");
        assert_eq!(counted(&daemon, "\"reauthentication_rejected\""), 2, "once for each endpoint");
        for line in daemon.log() {
            assert!(!line.text.contains("unknown to the server") && !line.text.contains("second\""));
        }
    }
}
