//! Promise: a reload under load loses nothing and repeats nothing, and a bad one changes nothing.

use std::time::Duration;

use crate::support::{
    LAST, Load, Oracle, Server, Setup, Version, alert, assert_exact, captured, captured_in_all, eventually,
    gaps, wait_for_last,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn routes(subscriptions: &str, stream: &str) -> String {
    format!(
        r#"
        [capture.changed]
        source = "shop"
        {subscriptions}
        destination = "events"
        stream = "{stream}"
        keep = "forever"
        include = ["id"]

        [capture.unchanged]
        source = "shop"
        channels = ["a", "b"]
        destination = "events"
        stream = "unchanged"
        keep = "forever"
        include = ["id"]
        "#
    )
}

fn grows(destination: &Server, stream: &str) {
    let before = destination.stream_length(stream);
    eventually(&format!("{stream} grows"), PATIENCE, || match destination.stream_length(stream) {
        now if now > before + 500 => Ok(()),
        now => Err(format!("{before}, now {now} entries")),
    });
}

#[test]
fn where_the_mapping_changes() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let subscriptions = "channels = [\"a\", \"b\"]";
    let mut daemon =
        Setup::between(&source, &destination).routes(&routes(subscriptions, "one")).start_ready();
    let oracle = Oracle::new(&source);
    let load = oracle.start(&Load::new(4, usize::MAX / 2, &["a", "b"]).rate(10_000));
    let streams = ["one", "two", "three", "four"];
    for stream in &streams[1..] {
        grows(&destination, "unchanged");
        daemon.reload(&routes(subscriptions, stream));
        grows(&destination, stream);
    }
    load.stop();
    oracle.publish_last("a", &destination, "four", PATIENCE);
    wait_for_last(&destination, "unchanged", LAST, PATIENCE);

    let expected = oracle.sequence();
    assert_exact(&expected, &captured(&destination, "unchanged"));
    assert_exact(&expected, &captured_in_all(&destination, streams));
    for route in ["changed", "unchanged"] {
        assert_eq!(gaps(&destination, route), []);
        daemon.wait_settled(route, expected.len());
    }
}

#[test]
fn where_the_subscriptions_change() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = Setup::between(&source, &destination)
        .routes(&routes("channels = [\"a\", \"b\"]", "changed"))
        .start_ready();
    let oracle = Oracle::new(&source);
    let load = oracle.start(&Load::new(4, usize::MAX / 2, &["a", "b", "c"]).rate(10_000));
    grows(&destination, "changed");
    daemon.reload(&routes("channels = [\"a\", \"b\", \"c\"]", "changed"));
    eventually("the new channel is captured", PATIENCE, || {
        let new =
            captured(&destination, "changed").iter().filter(|entry| entry.message.channel == b"c").count();
        if new > 0 { Ok(()) } else { Err(format!("{new} messages of c")) }
    });
    load.stop();
    oracle.publish_last("a", &destination, "changed", PATIENCE);
    wait_for_last(&destination, "unchanged", LAST, PATIENCE);

    let old = |channel: &[u8]| channel != b"c";
    assert_exact(&oracle.sequence_of(old), &captured(&destination, "unchanged"));
    let mut stream = captured(&destination, "changed");
    // From its first message on, the new channel is complete and stands in its place.
    let first = stream.iter().position(|entry| entry.message.channel == b"c").unwrap();
    let all = oracle.sequence();
    let from_first = all.len() - (stream.len() - first);
    assert_exact(&all[from_first..], &stream[first..]);
    stream.retain(|entry| entry.message.channel != b"c");
    assert_exact(&oracle.sequence_of(old), &stream);
    for route in ["changed", "unchanged"] {
        assert_eq!(gaps(&destination, route), []);
    }
}

#[test]
fn of_a_bad_configuration() {
    let source = Server::start(Version::Redis70);
    let destination = Server::start(Version::Redis70);
    let mut daemon = Setup::between(&source, &destination)
        .routes(&routes("channels = [\"a\", \"b\"]", "changed"))
        .expects(&[alert::RELOAD])
        .start_ready();
    let oracle = Oracle::new(&source);
    oracle.publish(&Load::new(2, 2_000, &["a", "b"]));
    daemon.reload_broken();
    daemon.wait_alert(alert::RELOAD);
    let metrics = daemon.get("/metrics").unwrap().1;
    assert!(metrics.lines().any(|line| line == "tidegate_config_reload_success 0"), "{metrics}");
    oracle.publish(&Load::new(2, 2_000, &["a", "b"]));
    oracle.publish_last("a", &destination, "changed", PATIENCE);
    assert_exact(&oracle.sequence(), &captured(&destination, "changed"));
    assert_eq!(gaps(&destination, "changed"), []);
}
