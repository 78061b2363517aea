//! Promise: a source that stalls and breaks no connection costs nothing: what a plain subscriber gets after it,
//! tidegate gets as well, with one instance and with two.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Load, Options, Oracle, Server, Setup, Subscriber, Version, alert, assert_eventually, assert_exact,
    captured, gaps,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// What holds a server up for six seconds.
#[derive(Clone, Copy)]
enum Stall {
    /// It takes no command; connections and time-outs continue.
    Pause,
    /// It does nothing at all.
    Script,
}

/// Runs until six seconds have passed by the server's own clock.
const LOOP: &str = "local began = redis.call('TIME')
repeat local now = redis.call('TIME') until now[1] - began[1] + (now[2] - began[2]) / 1000000 > 6
return 1";

impl Stall {
    /// Begins; with a script it returns when the stall is over.
    fn begin(self, source: &Server) {
        match self {
            Self::Pause => source.ask::<()>(&["CLIENT", "PAUSE", "6000", "ALL"]),
            Self::Script => source.ask::<()>(&["EVAL", LOOP, "0"]),
        }
    }
}

/// A source whose scripts may take long: commands wait for them, and are not refused.
fn source() -> Server {
    Server::with(Version::Redis70, Options::default().with("lua-time-limit", "60000"))
}

fn setup(source: &Server, destination: &Server) -> Setup {
    Setup::orders(source, destination).expects(&[alert::SOURCE])
}

/// Publishers continue meanwhile, and what they say is delivered once the stall is over.
#[track_caller]
fn stalls(stall: Stall, source: &Server, destination: &Server) {
    let subscriber = Subscriber::start(source, &["orders"]);
    let oracle = Oracle::new(source);
    let load = oracle.start(&Load::new(8, usize::MAX / 2, &["orders"]).rate(2_000));
    destination.wait_longer("orders", 500);
    stall.begin(source);
    // In a pause these wait for its end, too.
    oracle.publish(&Load::new(8, 2_000, &["orders"]).first_publisher(8));
    load.stop();
    oracle.publish_last("orders", destination, "orders", PATIENCE);
    let published = oracle.sequence();
    assert_eventually("a plain subscriber hears as much", PATIENCE, published.len(), || subscriber.count());
    assert!(subscriber.heard() == published, "a plain subscriber hears everything");
    assert_eq!(gaps(destination, "orders"), []);
    assert_exact(&published, &captured(destination, "orders"));
}

#[track_caller]
fn one_instance(stall: Stall) {
    let (source, destination) = (source(), Server::start(Version::Redis70));
    let daemon = setup(&source, &destination).start_ready();
    stalls(stall, &source, &destination);
    daemon.wait_ready();
}

#[track_caller]
fn two_instances(stall: Stall) {
    let (source, destination) = (source(), Server::start(Version::Redis70));
    let first = setup(&source, &destination).start_ready();
    let second = first.start_twin();
    second.wait_state("orders", RouteState::Standby);
    stalls(stall, &source, &destination);
    first.wait_ready();
    second.wait_ready();
}

#[test]
fn one_instance_and_a_pause() {
    one_instance(Stall::Pause);
}

#[test]
fn one_instance_and_a_slow_script() {
    one_instance(Stall::Script);
}

#[test]
fn two_instances_and_a_pause() {
    two_instances(Stall::Pause);
}

#[test]
fn two_instances_and_a_slow_script() {
    two_instances(Stall::Script);
}
