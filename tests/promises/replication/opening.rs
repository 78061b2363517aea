//! Another instance writes on while one opens its link: what the checkpoint has passed by then is neither taken
//! twice nor taken for a part of another history.

use super::*;

/// Two instances; what the master says to the second one can be held back.
struct Opening<'a> {
    first: Daemon,
    second: Daemon,
    master: &'a Server,
    proxy: Proxy,
    destination: &'a Server,
}

impl<'a> Opening<'a> {
    fn start(master: &'a Server, replica: &Server, destination: &'a Server, alerts: &[&[&str]]) -> Self {
        let routes = ROUTES.replace("mode =", "prefer = \"master\"\nmode =");
        let rest = |setup: Setup| setup.endpoint("events", destination).routes(&routes).expects(alerts);
        let first = rest(Setup::new().deployment("shop", &[replica, master])).start_ready();
        let proxy = Proxy::start(master, 0);
        let port = replica.port().unwrap();
        let other = format!(
            "addresses = [\"127.0.0.1:{port}\"]\nconnect_timeout = \"60s\"\nresponse_timeout = \"60s\""
        );
        let second = rest(Setup::new().endpoint_through("shop", master, &proxy, &other)).prepare();
        Self { first, second, master, proxy, destination }
    }

    /// Starts the second instance, and returns while it opens its link behind all that is stored.
    fn open_slowly(&mut self) {
        let links = || self.master.clients(":orders:replicate").len();
        let before = links();
        self.proxy.hold();
        self.second.start_again();
        self.wait_for_the_second();
        eventually("it opens a link", PATIENCE, || match links() {
            now if now == before + 1 => Ok(()),
            now => Err(format!("{now} links, {before} before")),
        });
    }

    /// Waits until the second instance knows what the first one has stored.
    fn wait_for_the_second(&self) {
        eventually("the second one knows what is stored", PATIENCE, || {
            let (first, second) =
                (self.first.route("orders")?.position, self.second.route("orders")?.position);
            if first == second && first.is_some() { Ok(()) } else { Err(format!("{first:?}, {second:?}")) }
        });
    }

    /// The link opens, and only the second instance is left.
    fn go_on(&mut self) {
        self.proxy.release();
        eventually("its link is open", PATIENCE, || match self.second.route("orders")?.replication {
            Some(_) => Ok(()),
            None => Err("it is not".to_owned()),
        });
        self.first.kill();
        self.second.wait_leader("orders");
    }

    fn ends_exact(&self, oracle: &Oracle) {
        self.second.wait_ready();
        oracle.publish(&Load::new(2, 1000, &["orders"]).first_publisher(10));
        oracle.publish_last("orders", self.destination, "orders", PATIENCE);
        assert_exact(&oracle.sequence(), &captured(self.destination, "orders"));
    }
}

/// The checkpoint moves on in the history that the link is opened in.
#[test]
fn the_checkpoint_moves_meanwhile() {
    let master = Server::with(Version::Redis70, Options::replication_source().tcp());
    let replica = Server::replica_of(&master, Version::Redis70, Options::replication_source());
    let destination = Server::start(Version::Redis70);
    let mut opening = Opening::start(&master, &replica, &destination, &[]);
    let oracle = Oracle::new(&master);
    oracle.publish(&Load::new(3, 1000, &["orders", "returns.eu"]));
    opening.first.wait_settled("orders", 1000);
    opening.open_slowly();
    oracle.publish(&Load::new(3, 1000, &["orders", "returns.eu"]).first_publisher(3));
    opening.first.wait_settled("orders", 2000);
    opening.wait_for_the_second();
    opening.go_on();
    opening.ends_exact(&oracle);
    assert_eq!(gaps(&destination, "orders"), []);
}

/// The master is away for a while, its replica takes over, and the first instance continues there. The link of the
/// second one leads to the master that was, which nobody has told yet.
#[test]
fn the_source_fails_over_meanwhile() {
    let master = Server::with(Version::Redis70, Options::replication_source().tcp());
    let replica = Server::replica_of(&master, Version::Redis70, Options::replication_source());
    let destination = Server::start(Version::Redis70);
    let mut opening =
        Opening::start(&master, &replica, &destination, &[alert::SOURCE, alert::GAP, alert::SEVERAL_MASTERS]);
    let oracle = Oracle::new(&master);
    oracle.publish(&Load::new(3, 1000, &["orders", "returns.eu"]));
    replica.wait_caught_up_with(&master);
    opening.first.wait_settled("orders", 1000);
    opening.open_slowly();
    master.freeze();
    replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    let oracle = Oracle::new(&replica);
    oracle.publish(&Load::new(3, 1000, &["orders", "returns.eu"]).first_publisher(3));
    opening.first.wait_settled("orders", 2000);
    master.thaw();
    for n in 0..3000 {
        master.ask::<u64>(&["PUBLISH", "orders", &format!("{n}: only the master that was has this")]);
    }
    opening.wait_for_the_second();
    opening.go_on();
    let port = replica.port().unwrap().to_string();
    master.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
    opening.ends_exact(&oracle);
    let gaps = gaps(&destination, "orders");
    assert_eq!(gaps.iter().map(|gap| gap.cause.as_str()).collect::<Vec<_>>(), ["failover"]);
}
