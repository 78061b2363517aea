//! Promise: publishers and consumers change nothing. Here they are the libraries that people use.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Options, Server, Setup, Version, captured, client_libraries, gaps, wait_for_last};

pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const EACH: usize = 200;

const PYTHON_PUBLISHER: &str = "
import redis, sys
client = redis.Redis(port=int(sys.argv[1]))
for n in range(int(sys.argv[2])):
    client.publish('orders.python', b'\\xff\\x00\\r\\n%d' % n)
";

const NODE_PUBLISHER: &str = "
const Redis = require('ioredis');
const [port, count] = process.argv.slice(1).map(Number);
(async () => {
    const client = new Redis({ port });
    for (let n = 0; n < count; n++) await client.publish('orders.node', JSON.stringify({ n, text: 'h\u{e9}' }));
    await client.quit();
})();
";

const PYTHON_CONSUMER: &str = "
import redis, sys
client = redis.Redis(port=int(sys.argv[1]))
seen = 0
while True:
    reply = client.xreadgroup('inventory', 'worker', {'orders': '>'}, count=50)
    if not reply:
        break
    for id, fields in reply[0][1]:
        assert b'payload' in fields, fields
        seen += client.xack('orders', 'inventory', id)
print(seen)
";

pub(super) fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .env("PYTHONPATH", client_libraries().join("python"))
        .env("NODE_PATH", client_libraries().join("node/node_modules"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn redis_cli_python_and_node_publish_and_a_consumer_group_reads() {
    let source = Server::with(Version::Redis70, Options::default().tcp());
    let destination = Server::with(Version::Redis70, Options::default().tcp());
    let port = source.port().unwrap().to_string();
    let _daemon = Setup::between(&source, &destination)
        .routes(
            r#"
            [capture.orders]
            source = "shop"
            patterns = ["orders.*"]
            destination = "events"
            stream = "orders"
            groups = ["inventory"]
            keep = "forever"
            "#,
        )
        .start_ready();

    let commands: String = (0..EACH).map(|n| format!("PUBLISH orders.cli \"number {n}\\r\\n\"\n")).collect();
    run("redis-cli", &["-p", &port], &commands);
    run("python3", &["-c", PYTHON_PUBLISHER, &port, &EACH.to_string()], "");
    run("node", &["-e", NODE_PUBLISHER, &port, &EACH.to_string()], "");
    run("redis-cli", &["-p", &port], "PUBLISH orders.cli last\n");
    wait_for_last(&destination, "orders", b"last", PATIENCE);

    let mut expected: Vec<(&[u8], Vec<u8>)> = Vec::new();
    expected.extend((0..EACH).map(|n| (&b"orders.cli"[..], format!("number {n}\r\n").into_bytes())));
    expected.extend(
        (0..EACH).map(|n| (&b"orders.python"[..], [b"\xff\x00\r\n", n.to_string().as_bytes()].concat())),
    );
    expected.extend(
        (0..EACH).map(|n| (&b"orders.node"[..], format!("{{\"n\":{n},\"text\":\"h\u{e9}\"}}").into_bytes())),
    );
    expected.push((b"orders.cli", b"last".to_vec()));
    let stream = captured(&destination, "orders");
    let seen: Vec<_> = stream
        .iter()
        .map(|entry| (entry.message.channel.as_slice(), entry.message.payload.clone()))
        .collect();
    assert_eq!(seen, expected);
    assert_eq!(gaps(&destination, "orders"), []);

    let port = destination.port().unwrap().to_string();
    let acknowledged = run("python3", &["-c", PYTHON_CONSUMER, &port], "");
    assert_eq!(acknowledged.trim().parse::<usize>().unwrap(), expected.len());
}
