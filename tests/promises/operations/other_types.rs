//! Promise: where a key of tidegate has another type, the command of an operator names that key.

use crate::support::{Server, Setup, Version};

#[test]
fn a_command_names_the_key_that_has_another_type() {
    let server = Server::start(Version::Redis70);
    let routes = r#"
        [capture.orders]
        source = "events"
        channels = ["orders"]
        destination = "events"
        stream = "orders"
        keep = "forever"

        [capture.tenants]
        source = "events"
        patterns = ["tenant.*"]
        destination = "events"
        stream = "t:<channel>"
        keep = "forever"

        [broadcast.stock]
        source = "events"
        stream = "stock"
        destination = "events"
        channel = "stock"
        message = "<id>"

        [invalidate.products]
        source = "events"
        stream = "products"
        destination = "events"
        keys = ["product:<field:sku>"]
    "#;
    let operator = Setup::new().endpoint("events", &server).routes(routes).prepare().operator(&["again"]);
    let add = |words: &[&str]| server.ask::<String>(&[&["XADD"][..], words].concat());
    let letter = |route: &str, stream: &str| {
        let key = format!("tidegate:{route}:dead-letters");
        add(&[&key, "1-0", "stream", stream, "id", "1-0", "reason", "missing_field", "detail", "why"]);
    };
    for (command, key) in [
        ("gaps orders", "tidegate:orders:gaps"),
        ("tap orders --count 1", "orders"),
        ("tap tenants --count 1", "tidegate:tenants:streams"),
        ("dead-letters list orders", "tidegate:orders:dead-letters"),
        ("dead-letters show stock 1-0", "tidegate:stock:dead-letters"),
        ("dead-letters drop stock 1-0", "tidegate:stock:dead-letters"),
        ("dead-letters requeue stock 1-0", "stock"),
        ("dead-letters requeue products 1-0", "products"),
        ("replay orders --from 0 --channel again", "orders"),
        ("invalidate products --from 0", "products"),
    ] {
        server.ask::<()>(&["FLUSHALL"]);
        letter("stock", "stock");
        letter("products", "products");
        server.ask::<()>(&["SET", key, "of another type"]);
        let output = operator.run_command(&command.split(' ').collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{command}");
        assert!(said.contains(&format!("WRONGTYPE the key '{key}' has another type")), "{command}: {said}");
    }

    server.ask::<()>(&["FLUSHALL"]);
    add(&["orders", "1-0", "channel", "orders", "payload", "1"]);
    let replay = ["replay", "orders", "--from", "0", "--channel", "again", "--job", "night"];
    server.ask::<()>(&["SET", "tidegate:orders:replay:night", "of another type"]);
    let output = operator.run_command(&replay);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("WRONGTYPE the key 'tidegate:orders:replay:night' has another type"), "{said}");
}
