//! What `docs/guides/with-your-software.md` says of the programs that people use: here they run, against one server each.
//!
//! The programs are in `tests/clients/`. `scripts/servers.sh clients` brings what they need.

use std::path::Path;

use super::real_clients::{PATIENCE, run};
use crate::support::{Options, Server, Setup, Subscriber, Version, captured, eventually};

fn server() -> Server {
    Server::with(Version::Redis70, Options::default().tcp())
}

/// Runs a program of `tests/clients/` with the server's port and more arguments, and gives what it printed.
fn client(name: &str, server: &Server, arguments: &[&str]) -> String {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    let port = server.port().unwrap().to_string();
    let interpreter = if name.ends_with(".js") { "node" } else { "python3" };
    run(interpreter, &[&[program.to_str().unwrap(), &port], arguments].concat(), "")
}

/// A capture of these channels into `orders`, on one server.
fn capture(server: &Server, channels: &str) -> Setup {
    Setup::new().endpoint("main", server).routes(&format!(
        "[capture.orders]\nsource = \"main\"\n{channels}\ndestination = \"main\"\nstream = \"orders\"\n\
         groups = [\"inventory\"]\nkeep = \"forever\"\n"
    ))
}

/// Waits for this number of entries; the channels that they came on.
fn channels(server: &Server, count: usize) -> Vec<String> {
    eventually(&format!("{count} messages are stored"), PATIENCE, || {
        let length = server.stream_length("orders");
        if length >= count { Ok(()) } else { Err(format!("{length} are")) }
    });
    let channels = captured(server, "orders").into_iter().map(|entry| entry.message.channel);
    channels.map(|channel| String::from_utf8(channel).unwrap()).collect()
}

/// Its servers count the subscribers of `socket.io-request#/#`, and wait for an answer of each.
#[test]
fn socket_io_waits_for_a_subscriber_of_its_channel_and_not_for_one_of_a_pattern() {
    for (names, subscribers, said) in [
        ("patterns = [\"socket.io#/#*\", \"socket.io-request#/#*\"]", "2", "sockets 0"),
        ("channels = [\"socket.io-request#/#\"]", "3", "error timeout"),
    ] {
        let server = server();
        let _daemon = capture(&server, names).start_ready();
        let printed = client("socket_io.js", &server, &[subscribers]);
        assert!(printed.starts_with(said), "{names}: {printed}");
        let seen = channels(&server, 1);
        let event = seen.iter().any(|channel| channel == "socket.io#/#");
        assert_eq!(event, names.starts_with("patterns"), "{names}: {seen:?}");
    }
}

#[test]
fn celery_publishes_results_and_events() {
    let server = server();
    let _daemon = capture(&server, "patterns = [\"celery-task-meta-*\", \"/0.celeryev/*\"]").start_ready();
    client("celery_events.py", &server, &[]);
    assert_eq!(channels(&server, 2), ["/0.celeryev/task.succeeded", "celery-task-meta-4711"]);
}

#[test]
fn django_channels_publishes_what_is_sent_to_a_group() {
    let server = server();
    let _daemon = capture(&server, "patterns = [\"asgi__group__*\"]").start_ready();
    client("django_channels.py", &server, &[]);
    assert_eq!(channels(&server, 1), ["asgi__group__orders"]);
}

#[test]
fn faststream_takes_entries_of_a_group_as_dictionaries() {
    let server = server();
    let daemon = capture(&server, "patterns = [\"orders.*\"]").start_ready();
    server.ask::<u64>(&["PUBLISH", "orders.paid", r#"{"id":5}"#]);
    daemon.wait_settled("orders", 1);
    let printed = client("faststream_consumer.py", &server, &[]);
    let fields = r#"[('channel', 'orders.paid'), ('pattern', 'orders.*'), ('payload', '{"id":5}')]"#;
    assert_eq!(printed.trim(), fields);
    let pending: Vec<redis::Value> = server.ask(&["XPENDING", "orders", "inventory"]);
    assert_eq!(pending[0], redis::Value::Int(0), "it acknowledges");
}

#[test]
fn node_redis_publishes_and_reads_as_a_member_of_a_group() {
    let server = server();
    let _daemon = capture(&server, "patterns = [\"orders.*\"]").start_ready();
    // The group is there from the first message on.
    server.ask::<String>(&["XGROUP", "CREATE", "orders", "inventory", "0", "MKSTREAM"]);
    assert_eq!(client("node_redis.js", &server, &["200"]).trim(), "200");
}

#[test]
fn the_events_of_bullmq_are_broadcast() {
    let server = server();
    let _daemon = Setup::new()
        .endpoint("main", &server)
        .routes(
            r#"
            [broadcast.completed]
            source = "main"
            stream = "bull:orders:events"
            destination = "main"
            where = [{ entry = "event", equals = "completed" }]
            channel = "jobs.completed"
            message = "<field:jobId> <field:returnvalue>"
            start = "beginning"
            "#,
        )
        .start_ready();
    let subscriber = Subscriber::start(&server, &["jobs.*"]);
    client("bullmq_worker.js", &server, &[]);
    eventually("the subscriber hears of the job", PATIENCE, || {
        let heard = subscriber.heard();
        if heard.is_empty() { Err("nothing".to_owned()) } else { Ok(()) }
    });
    let heard: Vec<String> = subscriber
        .heard()
        .iter()
        .map(|message| String::from_utf8(message.payload.clone()).unwrap())
        .collect();
    assert_eq!(heard, ["1 10"]);
}
