//! Promise: a password that changes while connections are open costs no connection and no message, also where the
//! first attempt is wrong.

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

fn counted(daemon: &Daemon, text: &str) -> usize {
    daemon.log().iter().filter(|line| line.text.contains(text)).count()
}

#[test]
fn a_password_changes_under_load() {
    for version in [Version::Redis70, Version::Valkey91] {
        let source = Server::start(version);
        let destination = Server::start(Version::Redis82);
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
        let refused = |server: &Server| {
            eventually("an open connection was refused, twice", PATIENCE, || {
                let errors: String = server.ask(&["INFO", "errorstats"]);
                let count = errors.lines().find_map(|line| line.strip_prefix("errorstat_WRONGPASS:count="));
                match count.map_or(0, |count| count.trim().parse::<usize>().unwrap()) {
                    0 | 1 => Err(format!("{errors}\n{:?}", daemon.route("orders"))),
                    _ => Ok(()),
                }
            });
        };
        refused(&source);
        refused(&destination);
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
