//! A revision follows what a route does and nothing else, and stays what it is from release to release.

use super::*;

/// Known hashes. A route's revision is in its state: where one of these changes, every running pair
/// would hold the two versions for different configurations.
#[test]
fn revisions_stay_what_they_are() {
    let revision = |text: &str| {
        let config = Files::new(&[("tidegate.toml", text)]).load(&[]).unwrap();
        config.capture["orders"].revision()
    };
    let minimal = revision(ORDERS);
    let full = revision(
        r#"
        [redis.main]
        url = "redis://elsewhere:7000/3"
        [capture.orders]
        source = "main"
        channels = ["b", "a"]
        patterns = ["p.*"]
        destination = "main"
        stream = "orders:<channel>"
        groups = ["g2", "g1"]
        groups_start = "$"
        keep = { age = "7d" }
        format = "cloudevents"
        cloudevents = { source = "/s", type = "t.<channel>" }
        include = ["id", "received_at"]
        max_streams = 5
        max_message_size = "1MiB"
        "#,
    );
    assert_eq!(
        [&minimal.numbering, &minimal.mapping, &full.numbering, &full.mapping],
        ["e643f58cb9150bb2", "0a06d0bec27bd4fd", "1d1db461a97baee1", "40670e0fef15e1b6"]
    );
    let keep = "{ entries = 1000, until_acknowledged = [\"g\"] }";
    let until = revision(&ORDERS.replace("{ entries = 1000 }", keep));
    assert_eq!([&until.numbering, &until.mapping], ["e643f58cb9150bb2", "a9c987217f9bf5f8"]);
    let named = "include = [\"id\"]\nfields = { payload = \"data\", pattern = false, id = \"position\" }\n";
    let named = revision(&format!("{ORDERS}{named}"));
    assert_eq!([&named.numbering, &named.mapping], ["e643f58cb9150bb2", "f9f8aaecf3787d65"]);
    let added = |text: &str| revision(&format!("{ORDERS}add = {{ {text} }}\n")).mapping;
    let known = added("b = \"<pointer:/a~1b>\", a = \"1\"");
    assert_eq!(known, "fc1c89ac5eae9d9f");
    assert_eq!(added("a = \"1\", b = \"<pointer:/a~1b>\""), known, "their order means nothing");
}

#[test]
fn a_filter_written_in_another_way_is_the_same_revision() {
    let mapping = |conditions: &str| {
        let text = format!("{ORDERS}where = [{conditions}]\n");
        Files::new(&[("tidegate.toml", &text)]).load(&[]).unwrap().capture["orders"].revision().mapping
    };
    let known = mapping(r#"{ field = "a/b", in = ["x", 2, 0.5, true] }, { channel = true, prefix = "o" }"#);
    assert_eq!(known, "b5e940e34028c4eb");
    let other_way = r#"{ channel = true, prefix = "o" }, { pointer = "/a~1b", in = [0.5, true, "x", 2] }"#;
    assert_eq!(mapping(other_way), known);
    assert_ne!(mapping(r#"{ channel = true, prefix = "o" }"#), known);
    let positive = mapping(r#"{ payload = true, prefix = "o" }"#);
    assert_eq!(mapping(r#"{ payload = true, prefix = "o", not = false }"#), positive);
    let negative = mapping(r#"{ payload = true, prefix = "o", not = true }"#);
    assert_eq!([positive, negative], ["a8aa42b125c73933", "f4dc8adf67e607c5"]);
}

#[test]
fn a_revision_follows_what_the_route_does_and_nothing_else() {
    let revision = |text: &str| {
        let config = Files::new(&[("tidegate.toml", text)]).load(&[]).unwrap();
        config.capture["orders"].revision()
    };
    let base = revision(ORDERS);
    let defaults = "max_streams = 10_000\nmax_message_size = \"16MiB\"\nmode = \"subscribe\"\nformat = \"raw\"\n\
         fields = { channel = \"channel\", payload = \"payload\" }\n";
    assert_eq!(revision(&format!("{ORDERS}{defaults}")), base, "a default that is written out");
    assert_eq!(revision(&ORDERS.replace("localhost", "elsewhere:7000")), base, "the server moved");
    let channels = |list: &str| revision(&ORDERS.replace("[\"orders\"]", list));
    let more = channels("[\"orders\", \"a\"]");
    assert_ne!(more.numbering, base.numbering);
    assert_eq!(more.mapping, base.mapping);
    assert_eq!(channels("[\"a\", \"orders\"]"), more, "the order of channels means nothing");
    for option in [
        "groups = [\"g\"]",
        "format = \"fields\"",
        "format = \"cloudevents\"",
        "include = [\"id\"]",
        "fields = { payload = \"data\" }",
        "fields = { pattern = false }",
        "add = { version = \"1\" }",
        "add = { tenant = \"<pointer:/tenant>\" }",
        "fields = { channel = \"topic\" }",
        "format = \"fields\"\ninclude = [\"channel\"]",
        "where = [{ channel = true, prefix = \"o\" }]",
        "where = [{ field = \"a\", equals = 1 }]",
        "where = [{ field = \"a\", equals = \"1\" }]",
        "where = [{ field = \"a\", exists = false }]",
        "where = [{ field = \"a\", equals = 1, not = true }]",
        "where = [{ payload = true, prefix = \"a\" }]",
        "origin = \"bridge\"",
        "max_streams = 3",
        "max_message_size = \"1KiB\"",
    ] {
        let changed = revision(&format!("{ORDERS}{option}\n"));
        assert_eq!(changed.numbering, base.numbering, "{option}");
        assert_ne!(changed.mapping, base.mapping, "{option}");
    }
    let keep = |keep: &str| revision(&ORDERS.replace("{ entries = 1000 }", keep));
    let plain = keep("{ entries = 5 }");
    let until = keep("{ entries = 5, until_acknowledged = [\"b\", \"a\"] }");
    assert_eq!(keep("{ entries = 5, until_acknowledged = [\"a\", \"b\"] }"), until, "nor that of groups");
    assert_eq!(keep("{ entries = 5, until_acknowledged = [] }"), plain);
    assert_eq!(until.numbering, plain.numbering);
    assert_ne!(until.mapping, plain.mapping);
}

/// The hash is in the cursor on the cache: one that changes makes every cache be cleared of what its streams name.
#[test]
fn the_revision_of_an_invalidation_is_which_keys_its_entries_make() {
    let revision = |options: &str| {
        let text = format!(
            r#"
            [redis.main]
            url = "redis://localhost"
            [invalidate.products]
            source = "main"
            stream = "products"
            destination = "main"
            {options}
            "#
        );
        Files::new(&[("tidegate.toml", &text)]).load(&[]).unwrap().invalidate["products"].revision()
    };
    let known = revision("keys = [\"a:<id>\", \"b:<pointer:/x>\"]");
    assert_eq!(known, "38f2a5ed8d7d32d3");
    assert_eq!(revision("keys = [\"b:<pointer:/x>\", \"a:<id>\"]\nagain_after = \"0s\""), known);
    for other in [
        "lease = \"\"",
        "payload_field = \"data\"",
        "where = [{ entry = \"x\", exists = true }]",
        "set = { value = \"<id>\", version = \"1\" }",
    ] {
        assert_ne!(revision(&format!("keys = [\"a:<id>\", \"b:<pointer:/x>\"]\n{other}")), known, "{other}");
    }
    assert_ne!(revision("keys = [\"a:<id>\"]"), known);
}
