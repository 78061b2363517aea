//! Promise: where sentinels know the master, tidegate is at the master that they agree on: after a failover that was asked
//! for, after a death, and after a partition in which the old master continues. What was missed meanwhile is on record.

mod disagreement;
mod encrypted;
mod failovers;

use std::collections::HashMap;
use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Authority, Daemon, Load, Options, Oracle, Payloads, Server, Setup, Subscriber, Version, alert,
    assert_exact, assert_nothing_lost_outside_gaps, captured, eventually, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);
const ALERTS: &[&[&str]] = &[
    alert::SOURCE,
    alert::GAP,
    alert::DESTINATION,
    alert::UNCONFIRMED,
    // A replica is missing during a failover.
    alert::NOT_DURABLE,
    alert::BLOCKED,
    &["master_moved", "sentinel_unavailable"],
    // Of a server with the backlog of its defaults.
    &["backlog_short"],
];

/// Sentinels do nothing by themselves. On a busy machine the new master may get no processor for seconds; they would
/// promote the old one again, without what it lacks.
const NEVER: Duration = Duration::from_secs(600);
/// While the master is to be lost.
const SOON: Duration = Duration::from_secs(1);

/// `shop` is watched by sentinels, `events` stands alone.
const CAPTURE: &str = r#"
[capture.orders]
source = "shop"
channels = ["orders"]
destination = "events"
stream = "orders"
keep = "forever"
include = ["id"]
"#;

struct Watched {
    daemon: Daemon,
    master: Server,
    replica: Server,
    sentinels: [Server; 3],
    /// The server that stands alone.
    events: Server,
}

impl Watched {
    fn start(version: Version, routes: &str, settings: &str) -> Self {
        let master = Server::with(version, Options::default().tcp());
        let replica = Server::replica_of(&master, version, Options::default());
        let sentinels = Server::sentinels(version, "shop", &master, 1);
        for sentinel in &sentinels {
            sentinel.set_down_after("shop", NEVER);
        }
        let events = Server::start(Version::Redis70);
        let [one, two, three] = &sentinels;
        let daemon = Setup::new()
            .endpoint("events", &events)
            .watched("shop", &[&master, &replica], &[one, two, three], settings)
            .routes(routes)
            .expects(ALERTS)
            .start_ready();
        Self { daemon, master, replica, sentinels, events }
    }

    /// Waits until these sentinels name the replica as the master. From then on it stays that.
    #[track_caller]
    fn wait_switched(&self, sentinels: &[Server]) {
        let port = self.replica.port().unwrap().to_string();
        for sentinel in sentinels {
            eventually("the sentinels have switched", PATIENCE, || {
                let known: HashMap<String, String> = sentinel.ask(&["SENTINEL", "MASTER", "shop"]);
                if known["port"] == port { Ok(()) } else { Err(format!("{known:?}")) }
            });
            sentinel.set_down_after("shop", NEVER);
        }
    }

    /// Kills the master; these sentinels notice.
    fn kill_master(&mut self, noticed_by: std::ops::Range<usize>) {
        for sentinel in &self.sentinels[noticed_by] {
            sentinel.set_down_after("shop", SOON);
        }
        self.master.kill();
    }

    /// Keeps the sentinels from the old master, as a partition does: it does not answer their PING any more. Publishers and
    /// tidegate continue there.
    fn cut_off(&self) {
        for sentinel in &self.sentinels {
            sentinel.set_down_after("shop", SOON);
        }
        self.master.ask::<()>(&["ACL", "SETUSER", "default", "-ping"]);
    }

    /// Waits until the promoted server is listened to.
    #[track_caller]
    fn wait_listening(&self) {
        eventually("the new master has a subscriber", PATIENCE, || match subscribers(&self.replica) {
            0 => Err(self.daemon.route("orders").ok().and_then(|status| status.reason).unwrap_or_default()),
            _ => Ok(()),
        });
    }

    /// What is published on the new master from now on is stored, behind what was stored before.
    #[track_caller]
    fn assert_captured(&self, first_publisher: usize) {
        self.wait_listening();
        let oracle = Oracle::new(&self.replica);
        oracle.publish(
            &Load::new(2, 1000, &["orders"]).payloads(Payloads::Unique).first_publisher(first_publisher),
        );
        oracle.publish_last("orders", &self.events, "orders", PATIENCE);
        let (sequence, stored) = (oracle.sequence(), captured(&self.events, "orders"));
        let gaps = gaps(&self.events, "orders");
        let missing = assert_nothing_lost_outside_gaps(&sequence, &stored, &gaps);
        assert_eq!(missing, 0, "nothing was published while nobody listened: {gaps:#?}");
    }
}

/// How many clients listen to the channel. A server closes its connections when its role changes: then it is asked anew.
#[track_caller]
fn subscribers(server: &Server) -> usize {
    eventually("the server answers", PATIENCE, || {
        let answer = server.try_ask::<(String, usize)>(&["PUBSUB", "NUMSUB", "orders"]);
        answer.map(|(_, count)| count).map_err(|error| error.to_string())
    })
}

fn before_the_failover(watched: &Watched) {
    let oracle = Oracle::new(&watched.master);
    oracle.publish(&Load::new(2, 1000, &["orders"]).payloads(Payloads::Unique));
    watched.daemon.wait_settled("orders", 1000);
    watched.replica.wait_caught_up_with(&watched.master);
}

#[test]
fn a_failover_that_is_asked_for_is_followed() {
    for version in [Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey91] {
        let watched = Watched::start(version, CAPTURE, "");
        before_the_failover(&watched);
        watched.sentinels[0].fail_over("shop");
        watched.wait_switched(&watched.sentinels);
        watched.assert_captured(2);
        assert_eq!(subscribers(&watched.master), 0, "{version}");
    }
}

/// One sentinel is stopped meanwhile, and comes back with old news.
#[test]
fn a_master_that_is_killed_is_left_for_good() {
    for version in [Version::Redis70, Version::Valkey91] {
        let mut watched = Watched::start(version, CAPTURE, "");
        before_the_failover(&watched);
        watched.sentinels[2].freeze();
        watched.kill_master(0..2);
        watched.wait_switched(&watched.sentinels[..2]);
        watched.sentinels[2].thaw();
        watched.assert_captured(2);
        // Back, it says for ten seconds that it is the master.
        watched.master.start_again();
        let listeners = watched.replica.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert!(listeners > 0, "{version}: somebody listened");
        eventually("the window is open again", PATIENCE, || match gaps(&watched.events, "orders").len() {
            0 | 1 => Err("no second gap yet".to_owned()),
            _ => Ok(()),
        });
        watched.assert_captured_again();
        assert_eq!(subscribers(&watched.master), 0, "{version}");
    }
}

impl Watched {
    #[track_caller]
    fn assert_captured_again(&self) {
        self.wait_listening();
        let before = captured(&self.events, "orders").len();
        Oracle::new(&self.replica).publish(&Load::new(1, 100, &["orders"]).first_publisher(9));
        eventually("what the new master publishes is stored", PATIENCE, || {
            match captured(&self.events, "orders").len() - before {
                100 => Ok(()),
                count => Err(format!("{count} of 100")),
            }
        });
    }
}

/// The sentinels cannot reach the old master any more, while tidegate and publishers can: it continues to take writes.
#[test]
fn an_old_master_behind_a_partition_is_left() {
    let watched = Watched::start(Version::Redis70, CAPTURE, "");
    before_the_failover(&watched);
    watched.cut_off();
    watched.wait_switched(&watched.sentinels);
    watched.wait_listening();
    eventually("nobody listens to the old master", PATIENCE, || match subscribers(&watched.master) {
        0 => Ok(()),
        count => Err(format!("{count} subscribers")),
    });
    let role: (String, i64, Vec<(String, String, String)>) = watched.master.ask(&["ROLE"]);
    assert_eq!(role.0, "master", "it goes on");
    watched.assert_captured(2);
}

/// The sentinels keep tidegate out while they fail over: what is published on the new master meanwhile lies in the gap, also
/// by the clock.
#[test]
fn the_gap_begins_where_the_old_master_was_last_confirmed() {
    let watched = Watched::start(Version::Redis70, CAPTURE, "");
    before_the_failover(&watched);
    let watcher = |rule: &str| {
        for sentinel in &watched.sentinels {
            sentinel.ask::<()>(&["ACL", "SETUSER", "watcher-shop", rule]);
        }
    };
    watcher("-sentinel|master");
    watched.daemon.wait_alert(&["sentinel_unavailable"]);
    watched.cut_off();
    watched.wait_switched(&watched.sentinels);
    let (seconds, _) = watched.events.ask::<(u64, u64)>(&["TIME"]);
    let switched = (seconds + 1) * 1_000;
    let reason = "no sentinel has confirmed for 10 s that 127.0.0.1:";
    eventually("the doubt is told", PATIENCE, || {
        let status = watched.daemon.route("orders")?;
        match (status.state, status.reason) {
            (RouteState::Waiting, Some(text)) if text.contains(reason) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(subscribers(&watched.replica), 0, "it stays where it is");
    Oracle::new(&watched.replica)
        .publish(&Load::new(1, 100, &["orders"]).payloads(Payloads::Unique).first_publisher(7));
    watcher("+sentinel|master");
    watched.wait_listening();
    watched.daemon.wait_state("orders", RouteState::Live);
    let oracle = Oracle::new(&watched.replica);
    oracle.publish_last("orders", &watched.events, "orders", PATIENCE);
    let gaps = gaps(&watched.events, "orders");
    let missing =
        assert_nothing_lost_outside_gaps(&oracle.sequence(), &captured(&watched.events, "orders"), &gaps);
    assert_eq!((missing, gaps.len()), (100, 1), "{gaps:#?}");
    assert!(gaps[0].started_at < switched, "{gaps:#?}, and the sentinels switched before {switched}");
}

/// They name servers by their host names, and have a password and no users.
#[test]
fn sentinels_that_say_host_names_and_have_a_password() {
    let version = Version::Redis70;
    let named = || Options::default().tcp().with("replica-announce-ip", "localhost");
    let master = Server::with(version, named());
    let replica = Server::replica_of(&master, version, named());
    let port = master.port().unwrap().to_string();
    let sentinels = [(); 3].map(|()| Server::sentinel_with(version, "shop", &master, 2, Options::default()));
    for sentinel in &sentinels {
        for command in [
            &["CONFIG", "SET", "resolve-hostnames", "yes"] as &[&str],
            &["CONFIG", "SET", "announce-hostnames", "yes"],
            &["REMOVE", "shop"],
            &["MONITOR", "shop", "localhost", &port, "2"],
            &["SET", "shop", "down-after-milliseconds", "1000"],
            &["SET", "shop", "failover-timeout", "5000"],
        ] {
            sentinel.ask::<()>(&[&["SENTINEL"], command].concat());
        }
    }
    for sentinel in &sentinels {
        eventually("the sentinels know each other and the replica", PATIENCE, || {
            let known: HashMap<String, String> = sentinel.ask(&["SENTINEL", "MASTER", "shop"]);
            match (known["num-other-sentinels"].as_str(), known["num-slaves"].as_str()) {
                ("2", "1") => Ok(()),
                _ => Err(format!("{known:?}")),
            }
        });
        sentinel.ask::<()>(&["ACL", "SETUSER", "default", "resetpass", ">first-shop"]);
    }
    let events = Server::start(Version::Redis70);
    let [one, two, three] = &sentinels;
    let daemon = Setup::new()
        .endpoint("events", &events)
        .watched("shop", &[&master, &replica], &[one, two, three], "")
        .with_settings_replaced("username = \"watcher-shop\"", "")
        .routes(CAPTURE)
        .expects(ALERTS)
        .start_ready();
    let mut watched = Watched { daemon, master, replica, sentinels, events };
    let names = |watched: &Watched, server: &Server, epoch: u8| {
        let named = format!(": localhost:{}, configuration epoch {epoch}", server.port().unwrap());
        eventually("each sentinel says the name", PATIENCE, || {
            let output = watched.daemon.run_command(&["check", "--connect"]);
            let report = String::from_utf8_lossy(&output.stdout).into_owned();
            if report.matches(&named).count() == 3 { Ok(()) } else { Err(report) }
        });
    };
    names(&watched, &watched.master, 0);
    before_the_failover(&watched);
    watched.master.kill();
    watched.assert_captured(2);
    names(&watched, &watched.replica, 1);
}

/// What sentinels say may lead nowhere from here, as behind NAT.
#[test]
fn what_sentinels_say_goes_through_the_address_map() {
    let version = Version::Valkey91;
    let master = Server::with(version, Options::default().tcp());
    let sentinel = Server::sentinel(version, "shop", &master);
    let events = Server::start(Version::Redis70);
    let (told, reached) = (master.port().unwrap(), master.socket());
    let map = format!("address_map = {{ \"127.0.0.1:{told}\" = \"{}\" }}", reached.display());
    let daemon = Setup::new()
        .endpoint("events", &events)
        .watched("shop", &[&master], &[&sentinel], &map)
        .routes(CAPTURE)
        .start_ready();
    let clients: String = master.ask(&["CLIENT", "LIST"]);
    let own: Vec<&str> = clients.lines().filter(|line| line.contains("name=tidegate:")).collect();
    let socket = reached.display().to_string();
    assert!(own.len() >= 2 && own.iter().all(|line| line.contains(&socket)), "{clients}");
    let output = daemon.run_command(&["check", "--connect"]);
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && report.contains(&format!("{socket}, configuration epoch 0")),
        "{report}"
    );
}

/// Waits until the state's reason and readiness both say these words.
#[track_caller]
fn wait_reasons(daemon: &Daemon, words: &[&str]) {
    let all = |text: &str| words.iter().all(|words| text.contains(words));
    eventually("the reason says it", PATIENCE, || {
        let status = daemon.route("orders")?;
        let (code, body) = daemon.get("/readyz")?;
        // Quotes are escaped there.
        let body = body.replace("\\\"", "\"");
        match (status.state, status.reason) {
            (RouteState::Waiting, Some(text)) if all(&text) && all(&body) && code == 503 => Ok(()),
            other => Err(format!("{other:?} {body}")),
        }
    });
}

/// Servers, sentinels and their links among each other.
#[test]
fn everything_over_tls() {
    let authority = Authority::new();
    let own = authority.issue("server", "IP:127.0.0.1");
    let options = || Options::default().tls(&authority, &own, "no").with("tls-replication", "yes");
    let master = Server::with(Version::Redis70, options());
    let replica = Server::replica_of(&master, Version::Redis70, options());
    let sentinel = Server::sentinel_with(Version::Redis70, "shop", &master, 1, options());
    let events = Server::start(Version::Redis70);
    let table = format!("tls = {{ ca_file = \"{}\" }}", authority.certificate().display());
    let daemon = Setup::new()
        .endpoint("events", &events)
        .watched("shop", &[&master, &replica], &[&sentinel], &table)
        .with_settings(&table)
        .routes(CAPTURE)
        .expects(ALERTS)
        .start_ready();
    sentinel.fail_over("shop");
    eventually("the new master has a subscriber", PATIENCE, || match subscribers(&replica) {
        0 => Err(daemon.route("orders").ok().and_then(|status| status.reason).unwrap_or_default()),
        _ => Ok(()),
    });
    let oracle = Oracle::new(&replica);
    oracle.publish(&Load::new(2, 1000, &["orders"]));
    oracle.publish_last("orders", &events, "orders", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&events, "orders"));
}
