//! Promise: names that publishers choose, streams that somebody deletes and groups that somebody destroys do neither
//! reach tidegate's own records nor stop a capture without a word.

use std::time::Duration;

use crate::support::{Server, Setup, Version, alert, assert_eventually, dead_letters, entries, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_channel_that_is_named_like_tidegates_own_keys_becomes_a_dead_letter() {
    let shop = Server::start(Version::Redis70);
    let events = Server::start(Version::Redis82);
    let daemon = Setup::new()
        .endpoint_with("shop", &shop, "key_prefix = \"shop:\"")
        .endpoint("events", &events)
        .routes(
            r#"
            [capture.orders]
            source = "shop"
            channels = ["tidegate:orders:gaps", "tidegate:orders:dead-letters", "fine"]
            destination = "events"
            stream = "<channel>"
            keep = "forever"
            "#,
        )
        .expects(&[alert::DEAD_LETTER])
        .start_ready();
    for channel in ["tidegate:orders:gaps", "tidegate:orders:dead-letters", "fine"] {
        shop.ask::<u64>(&["PUBLISH", channel, "forged"]);
    }
    daemon.wait_settled("orders", 3);
    let reasons: Vec<_> = dead_letters(&events, "orders").into_iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, ["reserved_name", "reserved_name"]);
    assert_eq!(entries(&events, "fine").len(), 1);
    assert_eq!(entries(&events, "tidegate:orders:gaps").len(), 0);
}

#[test]
fn streams_that_were_deleted_are_not_counted() {
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        let daemon = Setup::new()
            .endpoint("main", &server)
            .routes(
                r#"
                [capture.orders]
                source = "main"
                patterns = ["c*"]
                destination = "main"
                stream = "s:<channel>"
                keep = "forever"
                max_streams = 3
                "#,
            )
            .expects(&[alert::DEAD_LETTER])
            .start_ready();
        let publish = |names: std::ops::RangeInclusive<u32>| {
            for name in names {
                server.ask::<u64>(&["PUBLISH", &format!("c{name}"), "x"]);
            }
        };
        publish(1..=3);
        daemon.wait_settled("orders", 3);
        server.ask::<()>(&["DEL", "s:c1", "s:c2"]);
        publish(4..=6);
        daemon.wait_settled("orders", 6);
        assert_eq!(entries(&server, "s:c4").len() + entries(&server, "s:c5").len(), 2, "{version}");
        let reasons: Vec<_> =
            dead_letters(&server, "orders").into_iter().map(|letter| letter.reason).collect();
        assert_eq!(reasons, ["too_many_streams"], "{version}: s:c3, s:c4 and s:c5 are there");
        let mut made: Vec<String> = server.ask(&["SMEMBERS", "tidegate:orders:streams"]);
        made.sort();
        assert_eq!(made, ["s:c3", "s:c4", "s:c5"], "{version}: what is gone is forgotten");
    }
}

#[test]
fn a_group_that_is_added_later_comes_to_every_stream_that_a_template_has_made() {
    const STREAMS: usize = 1_250;
    let server = Server::start(Version::Redis70);
    let names: Vec<String> = (0..STREAMS).map(|number| format!("s:{number}")).collect();
    for name in &names {
        server.ask::<String>(&["XADD", name, "*", "a", "1"]);
        server.ask::<u64>(&["SADD", "tidegate:orders:streams", name]);
    }
    // Of one that was deleted only the name is left.
    server.ask::<u64>(&["DEL", "s:7"]);
    let _daemon = Setup::new()
        .endpoint("main", &server)
        .routes(
            "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
             stream = \"s:<channel>\"\ngroups = [\"inventory\"]\ngroups_start = \"0\"\nkeep = \"forever\"\n",
        )
        .start_ready();
    for name in names.iter().filter(|name| *name != "s:7") {
        assert_eq!(server.ask::<Vec<redis::Value>>(&["XINFO", "GROUPS", name]).len(), 1, "{name}");
    }
}

#[test]
fn a_group_that_is_destroyed_is_made_again_and_told() {
    for stream in ["orders", "s:<channel>"] {
        let server = Server::start(Version::Valkey91);
        let daemon = Setup::new()
            .endpoint("main", &server)
            .routes(&format!(
                "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
                 stream = \"{stream}\"\ngroups = [\"inventory\"]\ngroups_start = \"$\"\nkeep = \"forever\"\n"
            ))
            .expects(&[&["group_destroyed"]])
            .start_ready();
        server.ask::<u64>(&["PUBLISH", "orders", "x"]);
        daemon.wait_settled("orders", 1);
        let stream = if stream == "orders" { "orders" } else { "s:orders" };
        server.ask::<()>(&["XGROUP", "DESTROY", stream, "inventory"]);
        assert_eventually("it is there again", PATIENCE, 1, || {
            server.ask::<Vec<redis::Value>>(&["XINFO", "GROUPS", stream]).len()
        });
        daemon.wait_alert(&["group_destroyed"]);
    }
}

#[test]
fn a_group_that_is_destroyed_is_told_where_nothing_says_where_it_begins() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("main", &server)
        .routes(
            "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
             stream = \"orders\"\ngroups = [\"inventory\"]\nkeep = \"forever\"\n",
        )
        .expects(&[&["group_destroyed"]])
        .start_ready();
    server.ask::<u64>(&["PUBLISH", "orders", "x"]);
    daemon.wait_settled("orders", 1);
    server.ask::<()>(&["XGROUP", "DESTROY", "orders", "inventory"]);
    let line = daemon.wait_alert(&["group_destroyed"]);
    assert!(line.text.contains("groups_start"), "{}", line.text);
    eventually("the route goes on", PATIENCE, || match daemon.get("/readyz")?.0 {
        200 => Ok(()),
        code => Err(code.to_string()),
    });
}
