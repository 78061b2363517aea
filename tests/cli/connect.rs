//! What `tidegate check --connect` says.

use super::*;

/// The report without what differs from run to run.
fn without_versions(report: &str, daemon: &Daemon, servers: &[(&str, &Server)]) -> String {
    let mut found = report.to_owned();
    for (name, server) in servers {
        found = found.replace(&server.socket().display().to_string(), &format!("/run/{name}.sock"));
    }
    let directory = daemon.configuration().parent().unwrap().display().to_string();
    found = found.replace(&directory, "/etc/tidegate");
    let lines =
        found.lines().map(|line| match line.strip_prefix("  Redis ").or(line.strip_prefix("  Valkey ")) {
            Some(rest) => format!("  SERVER VERSION,{}\n", rest.split_once(',').unwrap().1),
            None => format!("{line}\n"),
        });
    lines.collect()
}

#[test]
fn check_connect_says_how_what_is_acknowledged_is_trimmed() {
    for to in Version::DESTINATIONS {
        let events = Server::with(to, Options::default().durable());
        let routes = r#"
            [capture.orders]
            source = "events"
            channels = ["orders"]
            destination = "events"
            stream = "orders"
            groups = ["inventory", "catalog"]
            keep = { entries = 1_000, until_acknowledged = ["inventory", "catalog"] }
        "#;
        let daemon = Setup::new().endpoint("events", &events).routes(routes).prepare();
        let report = printed(&daemon.run_command(&["check", "--connect"]), OK);
        let what = "  trimming: entries that inventory and catalog acknowledged; above 1000 entries also the oldest\n";
        let how = match to {
            Version::Redis82 => "    with XTRIM ACKED: also entries after a pending one",
            _ => "    only entries before the first pending one (XTRIM ACKED needs Redis 8.2)\n",
        };
        assert!(report.contains(&format!("{what}{how}")), "{to}: {report}");
        events.ask::<()>(&["ACL", "SETUSER", "tidegate-events", "-xpending"]);
        let report = printed(&daemon.run_command(&["check", "--connect"]), UNAVAILABLE);
        assert!(report.contains("problem: missing permission +xpending on the key orders"), "{to}: {report}");
    }
}

#[test]
fn check_connect_says_what_a_broadcast_waits_for() {
    let events = Server::with(Version::Redis82, Options::default().durable());
    for (lines, pending, noticed) in [
        ("", "an unacknowledged entry holds up all later entries", "by polling"),
        (
            "order = \"acknowledgement\"\nmax_ack_pending = 30\nmode = \"replication\"",
            "up to 30 unacknowledged entries are left behind; then publishing waits",
            "in the replication stream, or by polling if it cannot be read",
        ),
    ] {
        let routes = format!(
            r#"
            [broadcast.stock]
            source = "events"
            stream = "orders"
            after = "inventory"
            {lines}
            destination = "events"
            channel = "stock.changed"
            "#
        );
        let daemon = Setup::new().endpoint("events", &events).routes(&routes).prepare();
        let report = printed(&daemon.run_command(&["check", "--connect"]), OK);
        let expected = format!(
            "  waits for: the group inventory; {pending}\n    acknowledgements are noticed {noticed}"
        );
        assert!(report.contains(&expected), "{report}");
    }
}

#[test]
fn check_connect_says_on_every_server_what_it_found_and_what_is_guaranteed() {
    let pairs = Version::SOURCES.into_iter().zip(Version::DESTINATIONS.into_iter().cycle());
    for (from, to) in pairs {
        let shop = Server::start(from);
        let events = Server::with(to, Options::default().durable());
        let daemon = Setup::between(&shop, &events).routes(ROUTES).prepare();
        events.ask::<()>(&["ACL", "SETUSER", "tidegate-events", "+config|get"]);
        let before: u64 = events.ask(&["DBSIZE"]);
        let output = daemon.run_command(&["check", "--connect"]);
        let report = printed(&output, OK);
        let (program, version) = match to {
            Version::Valkey80 => ("Valkey", "8.0."),
            Version::Valkey91 => ("Valkey", "9.1."),
            Version::Redis82 => ("Redis", "8.2."),
            _ => ("Redis", "7.0."),
        };
        assert!(report.contains(&format!("  {program} {version}")), "{to}: {report}");
        let found = without_versions(&report, &daemon, &[("shop", &shop), ("events", &events)]);
        assert_golden("check-connect.txt", &found);
        assert!(!report.contains("because"), "{report}");
        let explained = printed(&daemon.run_command(&["check", "--connect", "--explain"]), OK);
        assert!(explained.contains("    because Pub/Sub keeps no messages for a subscriber"), "{explained}");
        assert_eq!(events.ask::<u64>(&["DBSIZE"]), before, "{to}: checking writes nothing");
    }
}

#[test]
fn check_connect_names_what_stands_in_the_way_and_is_69() {
    let shop = Server::start(Version::Redis70);
    let events = Server::with(Version::Redis62, Options::default().with("maxmemory-policy", "allkeys-lru"));
    let daemon = Setup::between(&shop, &events)
        .dead_endpoint("gone")
        .routes(&format!(
            "{ROUTES}\n[capture.lost]\nsource = \"gone\"\nchannels = [\"a\"]\ndestination = \"events\"\n\
             stream = \"lost\"\nkeep = \"forever\"\n"
        ))
        .prepare();
    shop.ask::<()>(&["ACL", "SETUSER", "tidegate-shop", "-psubscribe", "resetchannels", "&tidegate:control"]);
    let report = printed(&daemon.run_command(&["check", "--connect"]), UNAVAILABLE);
    for told in [
        "problem: cannot be used: /nonexistent/gone.sock: No such file or directory",
        "problem: missing permission +psubscribe on the channel orders.eu.*: NOPERM",
        "problem: missing permission +subscribe on the channel orders.placed: NOPERM",
        "problem: missing permission +publish on the channel stock.changed: NOPERM",
        "is too old: a server with streams must be Redis 7.0 or newer",
        "warning: maxmemory-policy is allkeys-lru",
        "warning: appendonly is no",
    ] {
        assert!(report.contains(told), "no {told:?} in\n{report}");
    }
    assert!(
        !report.contains("+subscribe on the channel tidegate:control"),
        "what is allowed is not told: {report}"
    );
}

#[test]
fn check_connect_says_why_a_server_takes_no_writes() {
    let shop = Server::start(Version::Redis82);
    let events = Server::start(Version::Valkey91);
    let daemon = Setup::between(&shop, &events).routes(ROUTES).prepare();
    shop.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    events.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let report = printed(&daemon.run_command(&["check", "--connect"]), UNAVAILABLE);
    for told in [
        "problem: the server is a replica and accepts no writes: put the master into url",
        "OOM command not allowed when used memory > 'maxmemory'. (raise maxmemory, trim streams",
    ] {
        assert!(report.contains(told), "no {told:?} in\n{report}");
    }
    assert_eq!(report.matches("OOM").count(), 1, "it is said once:\n{report}");
}

#[test]
fn check_says_what_a_server_does_not_publish_and_what_counts_its_subscribers() {
    let shop = Server::start(Version::Redis82);
    let events = Server::with(Version::Redis82, Options::default().durable());
    let routes = r#"
        [capture.expired]
        source = "shop"
        channels = ["__keyevent@0__:expired"]
        destination = "events"
        stream = "expired"
        keep = "forever"

        [capture.sockets]
        source = "shop"
        channels = ["socket.io-request#/#"]
        patterns = ["socket.io#/#*"]
        destination = "events"
        stream = "sockets"
        keep = "forever"
    "#;
    let daemon = Setup::between(&shop, &events).routes(routes).prepare();
    shop.ask::<()>(&["ACL", "SETUSER", "tidegate-shop", "+config|get"]);
    let report = printed(&daemon.run_command(&["check", "--connect"]), OK);
    let note = "note: Socket.IO counts each subscriber of \"socket.io-request#/#\" as one of its servers";
    assert!(report.contains(note), "{report}");
    let warning = "warning: notify-keyspace-events is \"\" on server shop: \"__keyevent@0__:expired\" needs \
                   \"Ex\" in it";
    assert!(report.contains(warning), "{report}");
    shop.ask::<()>(&["CONFIG", "SET", "notify-keyspace-events", "Ex"]);
    let report = printed(&daemon.run_command(&["check", "--connect"]), OK);
    assert!(!report.contains("notify-keyspace-events"), "{report}");
}
