//! Promise: a route that waits for acknowledgements hears of them at once, by the replication stream or by asking, and
//! leaves a server alone on which nothing happens.

use std::time::{Duration, Instant};

use super::consumers::{Order, PATIENCE, acknowledge, add, make_group, read, route, wait_published};
use crate::support::{
    Daemon, Options, Server, Setup, Subscriber, Version, alert, assert_eventually, eventually,
};

/// How often each command was called, but for those of the test itself.
fn commands(server: &Server) -> u64 {
    let stats: String = server.ask(&["INFO", "commandstats"]);
    let own = ["info", "hello", "client|setinfo", "client|setname", "auth", "replconf", "psync", "ping"];
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    let others = lines.filter(|(name, _)| !own.contains(name));
    others.map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn an_idle_route_sends_at_most_five_commands_a_second() {
    for more in ["", "mode = \"replication\""] {
        // What the route waits for: that an entry is acknowledged, that one is added, or given out.
        for (acknowledged, unread) in [(false, 0), (true, 0), (true, 1)] {
            let server = Server::with(Version::Redis70, Options::default().tcp());
            make_group(&server);
            let routes = route("events", Order::Stream) + more;
            let _daemon = Setup::new().endpoint("events", &server).routes(&routes).start_ready();
            add(&server, "x");
            let id = read(&server, "one", 1).remove(0);
            if acknowledged {
                acknowledge(&server, &id);
            }
            (0..unread).for_each(|_| drop(add(&server, "x")));
            // It comes to rest by and by. A slow machine only makes the rate lower.
            eventually("it has come to rest", PATIENCE, || {
                let (before, begin) = (commands(&server), Instant::now());
                let mut now = before;
                while now < before + 12 && begin.elapsed() < PATIENCE {
                    now = commands(&server);
                }
                let (sent, took) = (now - before, begin.elapsed().as_secs_f64());
                let rate = sent as f64 / took;
                // One more than the rate: the window ends with the first command of the next look.
                if sent as f64 <= 5.0 * took + 3.0 { Ok(()) } else { Err(format!("{rate} a second")) }
            });
        }
    }
}

/// A server and a route that hears of acknowledgements by its replication stream.
struct Notified {
    // Dropped before the server, whose end it would tell of.
    daemon: Daemon,
    subscriber: Subscriber,
    server: Server,
}

impl Notified {
    fn start(version: Version, options: Options) -> Self {
        let server = Server::with(version, options.tcp());
        make_group(&server);
        let subscriber = Subscriber::start(&server, &["stock.*"]);
        let routes = route("events", Order::Stream) + "mode = \"replication\"";
        let setup = Setup::new().endpoint("events", &server).routes(&routes);
        let daemon = setup.expects(&[alert::REPLICATION]).start_ready();
        let notified = Self { daemon, subscriber, server };
        notified.wait_linked();
        notified
    }

    #[track_caller]
    fn wait_linked(&self) {
        assert_eventually("the link is open", PATIENCE, 1, || {
            self.server.info("replication", "connected_slaves")
        });
    }

    fn cut_link(&self) {
        self.server.ask::<u32>(&["CLIENT", "KILL", "TYPE", "replica"]);
    }

    /// An entry that is given out and not acknowledged.
    fn add_and_read(&self) -> String {
        let added = add(&self.server, "x");
        assert_eq!(read(&self.server, "one", 1), [added.as_str()]);
        added
    }

    /// Full ones, and those that went on where the link was.
    fn syncs(&self) -> (u64, u64) {
        (self.server.info("stats", "sync_full"), self.server.info("stats", "sync_partial_ok"))
    }
}

#[test]
fn without_its_replication_link_a_route_polls_and_goes_back_to_it() {
    let notified = Notified::start(Version::Valkey80, Options::default());
    let mut all = Vec::new();
    for _ in 0..2 {
        all.push(notified.add_and_read());
        notified.cut_link();
        acknowledge(&notified.server, all.last().unwrap());
        wait_published(&notified.daemon, &notified.subscriber, &all);
        notified.wait_linked();
    }
    notified.daemon.wait_alert(alert::REPLICATION);
}

/// A server that sends no PING for hours and where nothing is written is silent. That is no dead link.
#[test]
fn on_a_quiet_server_the_replication_link_stays_and_goes_on_where_it_was() {
    /// Longer than any silence that was ever taken for a dead link.
    const QUIET: Duration = Duration::from_secs(40);
    let quiet = Options::replication_source().with("repl-ping-replica-period", "3600");
    let notified = Notified::start(Version::Redis70, quiet);
    // That something does not happen shows only in time.
    let began = Instant::now();
    eventually("nothing has happened for long enough", PATIENCE, || {
        let passed = began.elapsed();
        assert_eq!(notified.syncs(), (1, 0), "another sync after {passed:?}");
        if passed > QUIET { Ok(()) } else { Err(format!("{passed:?}")) }
    });
    notified.daemon.wait_ready();
    let mut all = Vec::new();
    for cut in [false, true] {
        if cut {
            notified.cut_link();
            notified.wait_linked();
        }
        all.push(notified.add_and_read());
        acknowledge(&notified.server, &all[all.len() - 1]);
        wait_published(&notified.daemon, &notified.subscriber, &all);
    }
    assert_eq!(notified.syncs(), (1, 1), "it goes on where it was");
}
