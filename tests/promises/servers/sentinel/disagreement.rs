//! Sentinels that are dead, do not know the master, refuse, or do not agree: each route reports it with the remedy.

use super::*;

#[test]
fn two_dead_sentinels_are_told_and_one_is_enough() {
    let mut watched = Watched::start(Version::Redis70, CAPTURE, "");
    let report = |watched: &Watched| {
        let output = watched.daemon.run_command(&["check", "--connect"]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, all) = report(&watched);
    assert_eq!(code, Some(0), "{all}");
    assert!(all.contains("server shop (Sentinel master shop, user tidegate-shop)"), "{all}");
    assert!(all.contains("master \"shop\": 3 of 3 sentinels answer"), "{all}");
    let port = watched.master.port().unwrap();
    assert_eq!(all.matches(&format!(": 127.0.0.1:{port}, configuration epoch 0")).count(), 3, "{all}");
    watched.sentinels[0].kill();
    watched.sentinels[1].kill();
    let (code, one) = report(&watched);
    assert_eq!(code, Some(0), "{one}");
    assert!(one.contains("master \"shop\": 1 of 3 sentinels answer"), "{one}");
    assert!(one.contains("warning: no more than half of the sentinels answer"), "{one}");
    watched.daemon.wait_alert(&["sentinel_unavailable"]);
    watched.daemon.restart();
    watched.daemon.wait_ready();
    watched.sentinels[2].kill();
    watched.daemon.restart();
    eventually("no sentinel answers", PATIENCE, || match watched.daemon.route("orders")?.reason {
        Some(reason) if reason.contains("no sentinel of \"shop\" answers: sentinel 127.0.0.1:") => Ok(()),
        reason => Err(format!("{reason:?}")),
    });
    watched.sentinels[2].start_again();
}

/// A sentinel with `requirepass` has no users: the password belongs to its user default.
#[test]
fn a_name_that_the_sentinels_do_not_know_is_told_with_those_that_they_know() {
    let master = Server::with(Version::Redis70, Options::default().tcp());
    let sentinel = Server::sentinel(Version::Redis70, "shop", &master);
    sentinel.ask::<()>(&["ACL", "SETUSER", "default", "resetpass", ">first-stock"]);
    let events = Server::start(Version::Redis70);
    let routes = CAPTURE.replace("\"shop\"", "\"stock\"");
    let daemon = Setup::new()
        .endpoint("events", &events)
        .watched("stock", &[&master], &[&sentinel], "")
        .with_settings_replaced("username = \"watcher-stock\"", "")
        .routes(&routes)
        .expects(&[alert::SOURCE])
        .start();
    eventually("the names are told", PATIENCE, || match daemon.route("orders")?.reason {
        Some(reason) if reason.contains("the sentinels do not know the master \"stock\"; they know shop") => {
            Ok(())
        }
        reason => Err(format!("{reason:?}")),
    });
}

/// Their epochs begin anew below what was seen. All of them say the same, so they are believed.
#[test]
fn sentinels_that_are_made_anew_are_believed_once_they_agree() {
    let watched = Watched::start(Version::Redis70, CAPTURE, "");
    watched.sentinels[0].fail_over("shop");
    watched.wait_switched(&watched.sentinels);
    watched.wait_listening();
    let port = watched.replica.port().unwrap().to_string();
    for sentinel in &watched.sentinels {
        sentinel.ask::<()>(&["SENTINEL", "REMOVE", "shop"]);
    }
    for sentinel in &watched.sentinels {
        sentinel.ask::<()>(&["SENTINEL", "MONITOR", "shop", "127.0.0.1", &port, "2"]);
    }
    let output = watched.daemon.run_command(&["check", "--connect"]);
    let report = String::from_utf8_lossy(&output.stdout);
    let epochs = format!(": 127.0.0.1:{port}, configuration epoch 0");
    assert_eq!(report.matches(&epochs).count(), 3, "{report}");
    // A connection that is made now needs an answer that is believed.
    watched.replica.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    watched.assert_captured(0);
}

/// What one of the dead sentinels knew may be newer: nothing is believed, and the remedy is told.
#[test]
fn sentinels_that_are_made_anew_while_one_is_dead_are_told_with_the_remedy() {
    let mut watched = Watched::start(Version::Redis70, CAPTURE, "");
    watched.sentinels[0].fail_over("shop");
    watched.wait_switched(&watched.sentinels);
    watched.wait_listening();
    let heartbeats = |watched: &Watched| watched.replica.clients("name=tidegate:heartbeat");
    eventually("the new master is used for heartbeats too", PATIENCE, || match heartbeats(&watched).len() {
        1 => Ok(()),
        count => Err(count.to_string()),
    });
    watched.sentinels[0].kill();
    let port = watched.replica.port().unwrap().to_string();
    for sentinel in &watched.sentinels[1..] {
        sentinel.ask::<()>(&["SENTINEL", "REMOVE", "shop"]);
        sentinel.ask::<()>(&["SENTINEL", "MONITOR", "shop", "127.0.0.1", &port, "2"]);
    }
    let remedy = [
        "the sentinels report an older master of \"shop\" than was known: ",
        "If the sentinels were made anew, all of redis.shop.sentinel.addresses must name the same master: start the missing ones, \
         or take those that are gone out of it and reload",
    ];
    let words = [&["no sentinel has confirmed for 10 s that 127.0.0.1:"], &remedy[..]].concat();
    wait_reasons(&watched.daemon, &words);
    let line = watched.daemon.wait_alert(alert::UNCONFIRMED);
    assert!(line.text.contains("take those that are gone out of it and reload"), "{}", line.text);
    // The same where a connection is missing.
    for client in heartbeats(&watched) {
        watched.replica.end_client(&client);
    }
    let words = [&["no heartbeat came back, and no other session can be opened: "], &remedy[..]].concat();
    wait_reasons(&watched.daemon, &words);
    // The remedy.
    let configuration = watched.daemon.configuration();
    let gone = format!("\"127.0.0.1:{}\", ", watched.sentinels[0].port().unwrap());
    let text = std::fs::read_to_string(&configuration).unwrap();
    assert!(text.contains(&gone), "{text}");
    std::fs::write(&configuration, text.replace(&gone, "")).unwrap();
    watched.daemon.process().signal(nix::sys::signal::Signal::SIGHUP);
    watched.daemon.wait_ready();
    watched.assert_captured(0);
}

/// All of them take another password, and connections that the old one opened are closed.
#[test]
fn sentinels_that_refuse_the_password_are_told_with_their_option() {
    let watched = Watched::start(Version::Redis70, CAPTURE, "");
    let passwords = |change: &[&str]| {
        for sentinel in &watched.sentinels {
            sentinel.ask::<()>(&[&["ACL", "SETUSER", "watcher-shop"], change].concat());
            for client in sentinel.clients("user=watcher-shop") {
                sentinel.end_client(&client);
            }
        }
    };
    for sentinel in &watched.sentinels {
        eventually("it is asked", PATIENCE, || match sentinel.clients("name=tidegate:sentinel").len() {
            0 => Err("nobody asks".to_owned()),
            _ => Ok(()),
        });
    }
    passwords(&["resetpass", ">another"]);
    let ports = [0, 1, 2]
        .map(|at| format!("sentinel 127.0.0.1:{}: WRONGPASS", watched.sentinels[at].port().unwrap()));
    let mut words = ports.each_ref().map(String::as_str).to_vec();
    words.push("no sentinel has confirmed for 10 s that 127.0.0.1:");
    words.push("check redis.shop.sentinel.username and the password beside it");
    wait_reasons(&watched.daemon, &words);
    assert_eq!(watched.daemon.logged("several_masters"), 0, "there is one");
    for code in [alert::UNCONFIRMED, &["sentinel_unavailable"]] {
        let line = watched.daemon.wait_alert(code);
        assert!(line.text.contains("WRONGPASS") && line.text.contains(words[4]), "{}", line.text);
    }
    let line = watched.daemon.wait_alert(&["sentinel_unavailable"]);
    assert!(line.text.contains("\"class\":\"block\""), "{}", line.text);
    passwords(&["resetpass", ">first-shop"]);
    watched.daemon.wait_ready();
    let oracle = Oracle::new(&watched.master);
    oracle.publish(&Load::new(1, 100, &["orders"]).payloads(Payloads::Unique));
    oracle.publish_last("orders", &watched.events, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&watched.events, "orders"));
}

/// Routes of every kind: those that are connected continue and are not ready, and none begins.
#[test]
fn a_master_that_no_sentinel_confirms_is_told_by_each_route() {
    let routes = r#"
        [capture.stored]
        source = "events"
        channels = ["orders"]
        destination = "shop"
        stream = "orders"
        keep = "forever"

        [broadcast.told]
        source = "events"
        stream = "told"
        destination = "shop"
        channel = "told"
        message = "<field:payload>"
        start = "beginning"

        [broadcast.found]
        source = "shop"
        streams = "found:*"
        destination = "events"
        channel = "found"
        message = "<field:payload>"
        start = "beginning"

        [invalidate.products]
        source = "events"
        stream = "told"
        destination = "shop"
        keys = ["product:<pointer:/sku>"]
    "#;
    let mut watched = Watched::start(Version::Redis70, routes, "");
    let watcher = |watched: &Watched, rule: &str| {
        for sentinel in &watched.sentinels {
            sentinel.ask::<()>(&["ACL", "SETUSER", "watcher-shop", rule]);
        }
    };
    watcher(&watched, "-sentinel|master");
    let line = watched.daemon.wait_alert(&["sentinel_unavailable"]);
    assert!(line.text.contains("NOPERM") && line.text.contains("\"class\":\"block\""), "{}", line.text);
    let names = ["stored", "told", "found", "products"];
    let doubt = "shop: no sentinel has confirmed for 10 s that 127.0.0.1:";
    for name in names {
        eventually("it is not ready, and is connected", PATIENCE, || {
            let (code, body) = watched.daemon.get(&format!("/readyz?route={name}"))?;
            let status = watched.daemon.route(name)?;
            let says = code == 503 && body.contains(doubt) && body.contains("NOPERM");
            if says && status.state == RouteState::Live { Ok(()) } else { Err(format!("{body} {status:?}")) }
        });
    }
    let output = watched.daemon.run_command(&["status"]);
    let output = String::from_utf8_lossy(&output.stdout);
    assert!(output.matches("no sentinel has confirmed for 10 s").count() >= names.len(), "{output}");
    watched.daemon.wait_alert(alert::UNCONFIRMED);
    assert_eq!(watched.daemon.logged("master_unconfirmed"), 1, "once for all routes");
    // Only an operator can help.
    watched.daemon.restart();
    for name in names {
        watched.daemon.wait_state(name, RouteState::Blocked);
    }
    watcher(&watched, "+sentinel|master");
    watched.daemon.restart();
    watched.daemon.wait_ready();
}
