//! That the lines of `tidegate acl` are what is needed, and all of it.

use super::*;

#[test]
fn the_lines_of_acl_are_all_that_the_daemon_needs_on_every_server() {
    let pairs = Version::SOURCES.into_iter().zip(Version::DESTINATIONS.into_iter().cycle());
    for (from, to) in pairs {
        let shop = Server::start(from);
        let events = Server::start(to);
        // A group that is added to streams which are there, one of them made by a template before.
        events.ask::<String>(&["XGROUP", "CREATE", "orders", "other", "0", "MKSTREAM"]);
        events.ask::<u64>(&["SADD", "tidegate:tenants:streams", "tenant:old"]);
        events.ask::<String>(&["XADD", "stock", "*", "sku", "before the start"]);
        for server in [&shop, &events] {
            server.ask::<()>(&["CONFIG", "RESETSTAT"]);
        }
        let mut daemon = Setup::between(&shop, &events)
            // The stream that is not there any more makes room for the one that comes.
            .routes(&ROUTES.replace("[capture.tenants]", "[capture.tenants]\nmax_streams = 1"))
            .expects(&[alert::GAP, alert::DEAD_LETTER])
            .start_ready();
        for (channel, message) in
            [("orders.placed", "1"), ("tenant.a", r#"{"a":1}"#), ("tenant.a", "no JSON")]
        {
            shop.ask::<u64>(&["PUBLISH", channel, message]);
        }
        for sku in ["4711", ""] {
            events.ask::<String>(&["XADD", "stock", "*", "sku", sku]);
        }
        events.ask::<String>(&["XADD", "stock", "*", "other", "rejected: no such field"]);
        let length = |key: &str| events.stream_length(key);
        eventually(&format!("{from} to {to}: everything is stored"), Duration::from_secs(20), || {
            let keys = ["orders", "tenant:a", "tidegate:tenants:dead-letters"];
            let lengths = keys.map(length);
            let published: Option<u64> = events.ask(&["HGET", "tidegate:local:cursor", "published"]);
            let elsewhere: Option<u64> = events.ask(&["HGET", "tidegate:stock:cursor", "published"]);
            if lengths == [1, 1, 1] && published.is_some() && elsewhere.is_some() {
                Ok(())
            } else {
                Err(format!("{lengths:?} {published:?} {elsewhere:?}"))
            }
        });
        daemon.restart();
        daemon.wait_ready();
        shop.ask::<u64>(&["PUBLISH", "orders.placed", "2"]);
        eventually("a gap is recorded", Duration::from_secs(20), || {
            if length("tidegate:orders:gaps") == 1 { Ok(()) } else { Err("none".to_owned()) }
        });
        printed(&daemon.run_command(&["gaps"]), OK);
        printed(&daemon.run_command(&["check", "--connect"]), OK);
        eventually("streams are looked after once", Duration::from_secs(20), || {
            // What a round asks for last.
            let clients: String = events.ask(&["CLIENT", "LIST"]);
            let done = ["orders:housekeeping", "tenants:housekeeping"]
                .map(|name| clients.lines().any(|line| line.contains(name) && line.contains("cmd=xinfo")));
            if done == [true; 2] { Ok(()) } else { Err(clients) }
        });
        assert!(daemon.stop().success());

        for (name, server) in [("shop", &shop), ("events", &events)] {
            // They suffice: the optional right is the only one that was refused.
            let log: Vec<HashMap<String, redis::Value>> = server.ask(&["ACL", "LOG", "100"]);
            let refused: BTreeSet<String> = log
                .into_iter()
                .map(|mut entry| redis::from_redis_value(entry.remove("object").unwrap()).unwrap())
                .collect();
            assert!(
                !refused.is_empty() && refused.iter().all(|object| object.starts_with("config")),
                "{from} to {to}: {refused:?}"
            );
            // And none is too much: each was used, what scripts call counted too.
            let granted = granted(&printed(&daemon.run_command(&["acl"]), OK), name);
            assert!(granted.len() > 8, "{granted:?}");
            let used: String = server.ask(&["INFO", "commandstats"]);
            for command in granted {
                let counted = format!("cmdstat_{command}:calls=");
                assert!(used.contains(&counted), "{from} to {to}: {name} never uses {command}\n{used}");
            }
        }
    }
}

/// Each right alone, on both servers: `check --connect` names it before a route needs it, and carries nothing out.
#[test]
fn each_right_that_is_taken_away_is_named() {
    let (shop, events) = (Server::start(Version::Valkey91), Server::start(Version::Redis82));
    let daemon = Setup::between(&shop, &events).routes(ROUTES).prepare();
    let lines = printed(&daemon.run_command(&["acl"]), OK);
    for (name, server) in [("shop", &shop), ("events", &events)] {
        let user = format!("tidegate-{name}");
        let mut silent = Vec::new();
        for command in granted(&lines, name) {
            server.ask::<()>(&["ACL", "SETUSER", &user, &format!("-{command}")]);
            let output = daemon.run_command(&["check", "--connect"]);
            let report = format!("{}{}", text(&output.stdout), text(&output.stderr));
            // Two are for the check itself: it says what is missing in its report.
            let (named, code) = match &*command {
                "info" => ("grant +info to let tidegate check them".to_owned(), OK),
                "multi" if name == "events" => ("the permissions could not be tested".to_owned(), OK),
                _ => (format!("problem: missing permission +{command}"), UNAVAILABLE),
            };
            if !report.contains(&named) || output.status.code() != Some(code) {
                silent.push(format!("{command}: {:?} {report}", output.status.code()));
            }
            server.ask::<()>(&["ACL", "SETUSER", &user, &format!("+{command}")]);
        }
        assert!(silent.is_empty(), "{name}: {}", silent.join("\n"));
        assert_eq!(server.ask::<u64>(&["DBSIZE"]), 0, "{name}");
    }
    printed(&daemon.run_command(&["check", "--connect"]), OK);
}

/// As managed services rename or disable them: all of a server's at once, so that one cannot hide another.
#[test]
fn each_command_that_a_server_does_not_know_is_named_with_what_it_costs() {
    for name in ["shop", "events"] {
        let plain = [Server::start(Version::Redis70), Server::start(Version::Redis82)];
        let with = |servers: &[Server]| Setup::between(&servers[0], &servers[1]).routes(ROUTES).prepare();
        let lines = printed(&with(&plain).run_command(&["acl"]), OK);
        // Without MULTI the others cannot be tried; INFO has a line of its own. The harness needs PING.
        let mut granted = granted(&lines, name);
        granted.retain(|right| !["multi", "info", "ping"].contains(&right.as_str()));
        let whole: BTreeSet<&str> = granted.iter().map(|right| right.split('|').next().unwrap()).collect();
        let options = whole.iter().fold(Options::default(), |options, command| options.renamed(command));
        let without = Server::with(if name == "shop" { Version::Redis70 } else { Version::Redis82 }, options);
        let servers = match name {
            "shop" => [without, Server::start(Version::Redis82)],
            _ => [Server::start(Version::Redis70), without],
        };
        let report = text(&with(&servers).run_command(&["check", "--connect"]).stdout);
        assert!(!report.contains("a command that tidegate needs"), "{report}");
        for command in whole.iter().map(|command| command.to_uppercase()) {
            let unknown = format!("the server does not know the command {command} (");
            // The cost stands between the right and the error.
            let named = |line: &str| line.contains(&unknown) && line.split(": ").count() == 4;
            let marker = |line: &str| {
                let rest = line.split_once("captures work without a standby: the server does not know ");
                rest.is_some_and(|(_, all)| all.split(", ").any(|one| one == command))
            };
            assert!(
                report.lines().any(|line| named(line) || marker(line)),
                "{name}: {command} is not in\n{report}"
            );
        }
    }
}

/// Streams that are found and that are gone need rights of their own.
#[test]
fn the_lines_of_a_broadcast_from_many_streams_are_all_that_it_needs() {
    for version in Version::DESTINATIONS {
        let events = Server::start(version);
        for stream in ["queue:a", "queue:b"] {
            events.ask::<String>(&["XADD", stream, "*", "payload", stream]);
        }
        events.ask::<()>(&["CONFIG", "RESETSTAT"]);
        let route = r#"
            [broadcast.queues]
            source = "events"
            streams = "queue:*"
            destination = "events"
            channel = "queues"
            message = "<field:payload>"
            start = "beginning"
        "#;
        let mut daemon = Setup::new().endpoint("events", &events).routes(route).start_ready();
        events.ask::<String>(&["XADD", "queue:a", "*", "none", "a dead letter"]);
        eventually("everything is dealt with", Duration::from_secs(20), || {
            let done = daemon.route("queues")?.broadcast.ok_or("no broadcast")?;
            if (done.published, done.rejected) == (2, 1) { Ok(()) } else { Err(format!("{done:?}")) }
        });
        events.ask::<u32>(&["DEL", "queue:b"]);
        eventually("the stream is forgotten", Duration::from_secs(20), || {
            match events.ask::<u32>(&["SCARD", "tidegate:queues:streams"]) {
                1 => Ok(()),
                count => Err(format!("{count} streams")),
            }
        });
        printed(&daemon.run_command(&["check", "--connect"]), OK);
        assert!(daemon.stop().success());
        let log: Vec<HashMap<String, redis::Value>> = events.ask(&["ACL", "LOG", "100"]);
        let refused: BTreeSet<String> = log
            .into_iter()
            .map(|mut entry| redis::from_redis_value(entry.remove("object").unwrap()).unwrap())
            .collect();
        assert!(refused.iter().all(|object| object.starts_with("config")), "{version}: {refused:?}");
        let used: String = events.ask(&["INFO", "commandstats"]);
        for command in granted(&printed(&daemon.run_command(&["acl"]), OK), "events") {
            assert!(used.contains(&format!("cmdstat_{command}:calls=")), "{version}: {command}\n{used}");
        }
    }
}

/// On the cache the route may touch its cursor and the keys of its templates.
#[test]
fn the_lines_of_an_invalidation_are_all_that_it_needs() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        for server in [&events, &cache] {
            server.ask::<()>(&["CONFIG", "RESETSTAT"]);
        }
        let routes = r#"
            [invalidate.products]
            source = "events"
            stream = "products"
            destination = "cache"
            keys = ["product:<field:sku>", "price:<field:sku>:v1"]
            set = { value = "<id>", version = "2" }
        "#;
        cache.ask::<()>(&["HSET", "product:1", "value", "old", "version", "1"]);
        let setup = Setup::new().endpoint("events", &events).endpoint("cache", &cache);
        let mut daemon = setup.routes(routes).expects(&[alert::DEAD_LETTER]).start_ready();
        let changed = |field: &str| events.ask::<String>(&["XADD", "products", "*", field, "1"]);
        changed("sku");
        let last = changed("other");
        let is_at = |place: &str| {
            eventually(&format!("{place} is at {last}"), Duration::from_secs(20), || {
                match cache.ask::<Option<String>>(&["HGET", "tidegate:products:cursor", place]) {
                    Some(found) if found == last => Ok(()),
                    found => Err(format!("{found:?}")),
                }
            });
        };
        is_at("pos");
        assert_eq!(
            cache.ask::<String>(&["HGET", "product:1", "version"]),
            "2",
            "{version}: it is written through"
        );
        // What waits for its second pass is read once more.
        daemon.restart();
        daemon.wait_ready();
        is_at("again");
        printed(&daemon.run_command(&["check", "--connect"]), OK);
        assert!(daemon.stop().success());
        for (name, server) in [("events", &events), ("cache", &cache)] {
            let log: Vec<HashMap<String, redis::Value>> = server.ask(&["ACL", "LOG", "100"]);
            let refused: BTreeSet<String> = log
                .into_iter()
                .map(|mut entry| redis::from_redis_value(entry.remove("object").unwrap()).unwrap())
                .collect();
            assert!(refused.iter().all(|object| object.starts_with("config")), "{version}: {refused:?}");
            let used: String = server.ask(&["INFO", "commandstats"]);
            for command in granted(&printed(&daemon.run_command(&["acl"]), OK), name) {
                let counted = format!("cmdstat_{command}:calls=");
                assert!(used.contains(&counted), "{version}: {name} never uses {command}\n{used}");
            }
        }
    }
}

/// The commands that the line of an endpoint's user grants.
fn granted(lines: &str, endpoint: &str) -> Vec<String> {
    let users = ["tidegate", "operator"].map(|who| format!("ACL SETUSER {who}-{endpoint} "));
    let line = lines.lines().find(|text| users.iter().any(|user| text.starts_with(user))).unwrap();
    line.split(' ').filter_map(|rule| rule.strip_prefix('+')).map(str::to_owned).collect()
}

#[test]
fn the_lines_of_an_operator_are_as_their_golden_file_says() {
    let command = ["acl", "--operator", "--replay-channel", "again.*", "--config", FULL];
    let output = tidegate(&command);
    assert_golden("acl-operator.txt", &printed(&output, OK));
    assert_golden("acl-operator-comments.txt", &text(&output.stderr));
    printed(&tidegate(&["acl", "--replay-channel", "again.*", "--config", FULL]), USAGE);
}

/// The user of the routes may not do what the commands do.
#[test]
fn a_command_without_a_right_names_the_lines_of_an_operator() {
    let [shop, events] = [(); 2].map(|()| Server::start(Version::Redis70));
    let daemon = Setup::between(&shop, &events).routes(ROUTES).prepare();
    for command in ["dead-letters list", "replay orders --from 0 --channel again.1"] {
        let output = daemon.run_command(&command.split(' ').collect::<Vec<_>>());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{command}: {said}");
        assert!(said.contains("NOPERM") && said.contains("`tidegate acl --operator`"), "{command}: {said}");
    }
}

#[test]
fn the_lines_of_an_operator_are_all_that_the_commands_need_on_every_server() {
    let pairs = Version::SOURCES.into_iter().zip(Version::DESTINATIONS.into_iter().cycle());
    for (from, to) in pairs {
        let shop = Server::start(from);
        let events = Server::start(to);
        // The stream that is not there any more makes room for the one that a letter makes.
        let routes = ROUTES.replace("[capture.tenants]", "[capture.tenants]\nmax_streams = 1");
        let daemon = Setup::between(&shop, &events).routes(&routes).prepare();
        let operator = daemon.operator(&["again.*"]);
        let add = |words: &[&str]| events.ask::<String>(&[&["XADD"][..], words].concat());
        let letter = "position p reason refused detail why stream";
        let letter: Vec<&str> = letter.split(' ').collect();
        let tenant = [&["tidegate:tenants:dead-letters", "1-0"], &letter[..], &["tenant:x", "a", "1"]];
        add(&tenant.concat());
        add(&["orders", "1-0", "channel", "a", "payload", "1"]);
        add(&["stock", "1-0", "sku", "1"]);
        for route in ["stock", "local"] {
            let key = format!("tidegate:{route}:dead-letters");
            add(&[&key, "1-0", "stream", "stock", "id", "1-0", "reason", "missing_field", "detail", "why"]);
            add(&[&key, "2-0", "stream", "stock", "id", "9-0", "reason", "missing_field", "detail", "why"]);
        }
        events.ask::<u64>(&["SADD", "tidegate:tenants:streams", "tenant:old"]);
        for server in [&shop, &events] {
            server.ask::<()>(&["CONFIG", "RESETSTAT"]);
            server.ask::<()>(&["ACL", "LOG", "RESET"]);
        }
        let run = |command: &str| {
            let output = operator.run_command(&command.split(' ').collect::<Vec<_>>());
            assert!(output.status.success(), "{from} to {to}: {command}: {}", text(&output.stderr));
        };
        run("gaps");
        run("dead-letters list --limit 1");
        run("dead-letters show tenants 1-0");
        for route in ["tenants", "stock", "local"] {
            run(&format!("dead-letters requeue {route} 1-0"));
        }
        for route in ["stock", "local"] {
            run(&format!("dead-letters drop {route} 2-0"));
        }
        run("replay orders --from 0 --channel again.1");
        for destination in ["events", "shop"] {
            let onto = format!("--channel again.<field:sku> --message <id> --destination {destination}");
            run(&format!("replay stock --from 0 {onto}"));
        }
        run("replay stock --from 0 --channel again.2 --message <id> --destination shop");
        for route in ["tenants", "stock"] {
            let file = operator.configuration().with_file_name(format!("output-{route}"));
            let mut tap = operator.start_command(&["tap", route], &file);
            eventually("it reads", Duration::from_secs(20), || {
                let said = fs::read_to_string(&file).unwrap();
                if said.contains("Ctrl-C to stop") { Ok(()) } else { Err(said) }
            });
            eventually("it waits for entries", Duration::from_secs(20), || {
                let clients: String = events.ask(&["CLIENT", "LIST"]);
                if clients.contains("cmd=xread") { Ok(()) } else { Err(clients) }
            });
            tap.signal(Signal::SIGINT);
            assert_eq!(tap.wait(Duration::from_secs(20)).code(), Some(OK));
        }

        let command = ["acl", "--operator", "--replay-channel", "again.*"];
        let lines = printed(&operator.run_command(&command), OK);
        for (name, server, least) in [("shop", &shop, 3), ("events", &events, 20)] {
            let log: Vec<redis::Value> = server.ask(&["ACL", "LOG", "100"]);
            assert!(log.is_empty(), "{from} to {to}: {name} refused {log:?}");
            let granted = granted(&lines, name);
            assert!(granted.len() > least, "{granted:?}");
            let used: String = server.ask(&["INFO", "commandstats"]);
            for command in granted {
                // Redis 6.2 counts subcommands together.
                let whole = command.split('|').next().unwrap();
                let counted = [&command, whole].map(|name| format!("cmdstat_{name}:calls="));
                let counted = counted.iter().any(|counted| used.contains(counted));
                assert!(counted, "{from} to {to}: {name} never uses {command}\n{used}");
            }
        }
    }
}

#[test]
fn the_lines_of_an_operator_are_all_that_an_invalidation_needs() {
    for version in Version::DESTINATIONS {
        let (events, cache) = (Server::start(version), Server::start(version));
        let routes = r#"
            [invalidate.products]
            source = "events"
            stream = "products"
            destination = "cache"
            keys = ["product:<field:sku>", "price:<field:sku>:v1"]
            again_after = "0s"
        "#;
        let setup = Setup::new().endpoint("events", &events).endpoint("cache", &cache);
        let operator = setup.routes(routes).prepare().operator(&[]);
        let add = |words: &[&str]| events.ask::<String>(&[&["XADD"][..], words].concat());
        add(&["products", "1-0", "sku", "1"]);
        let letter = ["stream", "products", "id", "1-0", "reason", "no_key", "detail", "why"];
        for id in ["1-0", "2-0"] {
            add(&[&["tidegate:products:dead-letters", id][..], &letter].concat());
        }
        cache.ask::<()>(&["MSET", "product:1", "old", "price:1:v1", "old"]);
        for server in [&events, &cache] {
            server.ask::<()>(&["CONFIG", "RESETSTAT"]);
            server.ask::<()>(&["ACL", "LOG", "RESET"]);
        }
        for command in [
            "dead-letters list --limit 1",
            "dead-letters requeue products 1-0",
            "dead-letters drop products 2-0",
            "invalidate products --key product:1 price:1:v1",
            "invalidate products --from -1h",
            "invalidate products --from 1-0",
            "invalidate products --missed --yes",
        ] {
            let output = operator.run_command(&command.split(' ').collect::<Vec<_>>());
            let said = text(&output.stderr);
            // The entry's id is no time of the last hour.
            let expected = if command.ends_with("-1h") { Some(1) } else { OK.into() };
            assert_eq!(output.status.code(), expected, "{version}: {command}: {said}");
        }
        let lines = printed(&operator.run_command(&["acl", "--operator"]), OK);
        for (name, server) in [("events", &events), ("cache", &cache)] {
            let log: Vec<redis::Value> = server.ask(&["ACL", "LOG", "100"]);
            assert!(log.is_empty(), "{version}: {name} refused {log:?}");
            let used: String = server.ask(&["INFO", "commandstats"]);
            for command in granted(&lines, name) {
                let counted = format!("cmdstat_{command}:calls=");
                assert!(used.contains(&counted), "{version}: {name} never uses {command}\n{used}");
            }
        }
    }
}

/// `redis-cli` knows no comments, and executes the other lines after one that it cannot read.
#[test]
fn what_acl_prints_can_be_piped_into_redis_cli() {
    let servers = [(); 2].map(|()| Server::with(Version::Redis70, Options::default().tcp()));
    let daemon =
        Setup::new().endpoint("shop", &servers[0]).endpoint("events", &servers[1]).routes(ROUTES).prepare();
    let run = |lines: String, server: &Server| {
        let port = server.port().unwrap().to_string();
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &port]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cli = cli.spawn().unwrap();
        std::io::Write::write_all(&mut cli.stdin.take().unwrap(), lines.as_bytes()).unwrap();
        text(&cli.wait_with_output().unwrap().stdout)
    };
    for (name, server) in [("shop", &servers[0]), ("events", &servers[1])] {
        let user = format!("tidegate-{name}");
        server.ask::<u64>(&["ACL", "DELUSER", &user]);
        // Without a password the line makes no user that everybody knows.
        let line = printed(&daemon.run_command(&["acl", "--server", name]), OK);
        assert!(run(line, server).starts_with("ERR "));
        assert_eq!(server.ask::<Option<Vec<redis::Value>>>(&["ACL", "GETUSER", &user]), None);

        let output = daemon.run_command(&["acl", "--server", name, "--hash-passwords"]);
        let comments = text(&output.stderr);
        assert!(
            comments.lines().all(|line| line.starts_with('#')) && !comments.contains("PASSWORD"),
            "{comments}"
        );
        assert_eq!(run(printed(&output, OK), server), "OK\n");
    }
    printed(&daemon.run_command(&["check", "--connect"]), OK);
    let unknown = daemon.run_command(&["acl", "--server", "shoop"]);
    printed(&unknown, USAGE);
    assert!(text(&unknown.stderr).contains("known: events, shop"), "{}", text(&unknown.stderr));
    fs::remove_file(daemon.configuration().with_file_name("shop.pass")).unwrap();
    let unreadable = daemon.run_command(&["acl", "--hash-passwords"]);
    assert_eq!(printed(&unreadable, CONFIGURATION), "", "half of the lines");
    assert!(text(&unreadable.stderr).contains("shop.pass cannot be read"), "{}", text(&unreadable.stderr));
}
