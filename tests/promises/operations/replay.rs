//! Promise: `tidegate replay` publishes a range of a stream in its order; killed and begun again it continues
//! where it was, on one server without a repeat; and it touches no live channel unless told to.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Daemon, Options, Server, Setup, Subscriber, Version, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
/// Exit codes, as the module `cli` states them.
const OK: Option<i32> = Some(0);
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(64);
const UNAVAILABLE: Option<i32> = Some(69);

const CAPTURE: &str = "[capture.orders]\nsource = \"events\"\nchannels = [\"orders\"]\npatterns = [\"orders.*\"]\n\
         destination = \"events\"\nstream = \"orders\"\nkeep = \"forever\"\n";

/// An operator who may replay the stream `orders` of this server onto `again` and `again.*`.
fn operator(server: &Server) -> Daemon {
    Setup::new().endpoint("events", server).routes(CAPTURE).prepare().operator(&["again", "again.*"])
}

/// Adds entries with the ids 1000-0, 1001-0 and so on, whose payloads are their numbers.
fn fill(server: &Server, entries: usize) {
    let script = "for n = 0, ARGV[1] - 1 do redis.call('XADD', KEYS[1], (1000 + n) .. '-0', 'channel', 'orders', \
                  'payload', n) end";
    server.ask::<()>(&["EVAL", script, "1", "orders", &entries.to_string()]);
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn wait_heard(subscriber: &Subscriber, count: usize) {
    eventually("it is published", PATIENCE, || match subscriber.count() {
        heard if heard >= count => Ok(()),
        heard => Err(format!("{heard} of {count} heard")),
    });
}

fn printed(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

fn checkpoints(server: &Server) -> Vec<String> {
    server.ask(&["KEYS", "tidegate:orders:replay:*"])
}

fn output_file(operator: &Daemon) -> PathBuf {
    operator.configuration().with_file_name("output")
}

#[test]
fn killed_again_and_again_each_entry_is_published_exactly_once() {
    const ENTRIES: usize = 20_000;
    const KILLS: usize = 5;
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        fill(&server, ENTRIES);
        let subscriber = Subscriber::start(&server, &["again"]);
        let operator = operator(&server);
        let command =
            ["replay", "orders", "--from", "0", "--channel", "again", "--rate", "8000", "--onto-live"];
        for kill in 1..=KILLS {
            let mut replay = operator.start_command(&command, &output_file(&operator));
            wait_heard(&subscriber, kill * ENTRIES / (KILLS + 2));
            replay.kill();
            let left = checkpoints(&server);
            assert_eq!(left.len(), 1, "{version}: it was killed in the middle");
            assert!(server.ask::<i64>(&["PTTL", &left[0]]) > 0, "{version}: it is not kept for ever");
        }
        let output = operator.run_command(&command);
        let (stdout, stderr) = printed(&output);
        assert_eq!(output.status.code(), OK, "{version}: {stdout}{stderr}");
        assert!(stderr.contains("resuming after"), "{version}: {stderr}");
        assert!(stdout.contains(&format!("{ENTRIES} entries published")), "{version}: {stdout}");
        wait_heard(&subscriber, ENTRIES);
        assert!(subscriber.payloads() == numbers(0..ENTRIES), "{version}: each once, in order");
        assert_eq!(checkpoints(&server), [""; 0], "{version}: what is done is not kept");
    }
}

#[test]
fn across_servers_each_entry_is_published_at_least_once() {
    const ENTRIES: usize = 10_000;
    let events = Server::start(Version::Redis70);
    let shop = Server::start(Version::Redis62);
    fill(&events, ENTRIES);
    let subscriber = Subscriber::start(&shop, &["again"]);
    let operator = Setup::orders(&shop, &events).prepare().operator(&["again"]);
    let command = [
        "replay",
        "orders",
        "--from",
        "0",
        "--channel",
        "again",
        "--rate",
        "5000",
        "--onto-live",
        "--destination",
        "shop",
    ];
    for kill in 1..=3 {
        let mut replay = operator.start_command(&command, &output_file(&operator));
        wait_heard(&subscriber, kill * ENTRIES / 5);
        replay.kill();
    }
    let output = operator.run_command(&command);
    let (stdout, stderr) = printed(&output);
    assert_eq!(output.status.code(), OK, "{stdout}{stderr}");
    assert!(stderr.contains("on two servers"), "{stderr}");
    eventually("the last entry is published", PATIENCE, || match subscriber.payloads().last() {
        Some(last) if *last == (ENTRIES - 1).to_string() => Ok(()),
        last => Err(format!("{last:?}")),
    });
    let mut seen = HashSet::new();
    let first_times: Vec<_> =
        subscriber.payloads().into_iter().filter(|payload| seen.insert(payload.clone())).collect();
    assert!(first_times == numbers(0..ENTRIES), "each entry, in order");
}

#[test]
fn two_runs_of_one_job_publish_each_entry_once() {
    // Each spends its rate on what the other one has published already, so this takes several times as long as one.
    const ENTRIES: usize = 3_000;
    let server = Server::start(Version::Redis82);
    fill(&server, ENTRIES);
    let subscriber = Subscriber::start(&server, &["again"]);
    let operator = operator(&server);
    let command = ["replay", "orders", "--from", "0", "--channel", "again", "--rate", "3000", "--onto-live"];
    let files = ["first", "second"].map(|name| operator.configuration().with_file_name(name));
    let mut runs = files.each_ref().map(|file| operator.start_command(&command, file));
    let codes = runs.each_mut().map(|run| run.wait(PATIENCE).code());
    // The one that ends last may find that the other one has removed the checkpoint.
    assert!(codes.contains(&OK), "{codes:?}");
    let said = files.map(|file| std::fs::read_to_string(file).unwrap());
    assert!(said.iter().any(|said| said.contains("resuming after")), "both ran at once: {said:?}");
    wait_heard(&subscriber, ENTRIES);
    assert!(subscriber.payloads() == numbers(0..ENTRIES), "each once, in order");
}

#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    const ENTRIES: usize = 6_000;
    let server = Server::start(Version::Valkey91);
    fill(&server, ENTRIES);
    let subscriber = Subscriber::start(&server, &["again"]);
    let operator = operator(&server);
    let command = [
        "replay",
        "orders",
        "--from",
        "1000-0",
        "--channel",
        "again",
        "--rate",
        "2000",
        "--onto-live",
        "--job",
        "monday",
    ];
    let mut replay = operator.start_command(&command, &output_file(&operator));
    wait_heard(&subscriber, ENTRIES / 10);
    replay.signal(Signal::SIGINT);
    assert_eq!(replay.wait(PATIENCE).code(), FAILED);
    let said = std::fs::read_to_string(output_file(&operator)).unwrap();
    assert!(said.contains("stopped after") && said.contains("(job monday)"), "{said}");
    let position: String = server.ask(&["HGET", "tidegate:orders:replay:monday", "pos"]);
    assert!(said.contains(&position), "{position}: {said}");

    // Another one of that name is not taken for it.
    let other = ["replay", "orders", "--from", "0", "--channel", "again.b", "--job", "monday", "--onto-live"];
    let output = operator.run_command(&other);
    assert_eq!(output.status.code(), USAGE);
    assert!(printed(&output).1.contains("belongs to another replay"), "{}", printed(&output).1);

    assert_eq!(operator.run_command(&command).status.code(), OK);
    wait_heard(&subscriber, ENTRIES);
    assert!(subscriber.payloads() == numbers(0..ENTRIES), "each once, in order");
}

#[test]
fn a_channel_that_is_in_use_is_refused_and_nothing_is_published() {
    let server = Server::start(Version::Redis70);
    fill(&server, 10);
    let operator = operator(&server);
    let refused = |channel: &str, why: &str| {
        let before: u64 = server.ask(&["DBSIZE"]);
        let output = operator.run_command(&["replay", "orders", "--from", "0", "--channel", channel]);
        let (stdout, stderr) = printed(&output);
        assert_eq!((output.status.code(), stdout.as_str()), (USAGE, ""), "{channel}: {stderr}");
        assert!(stderr.contains(why), "{channel}: {stderr}");
        assert_eq!(server.ask::<u64>(&["DBSIZE"]), before, "{channel}: nothing is written");
    };
    refused("orders", "capture.orders listens to the channel \"orders\"");
    refused("orders.eu.<field:payload>", "capture.orders listens to the pattern \"orders.*\"");
    refused("<field:channel>", "capture.orders listens to");
    refused("tidegate:control", "heartbeats");
    refused("<channel>", "means nothing here");

    let mut connection = server.connection();
    let mut plain = connection.as_pubsub();
    plain.subscribe("again.1").unwrap();
    refused("again.1", "1 clients are subscribed to it");
    refused("again.<field:payload>", "1 channels that match it have subscribers");
    let subscriber = Subscriber::start(&server, &["ag*"]);
    refused("again", "subscribed to 1 patterns");
    assert_eq!(subscriber.count(), 0);

    // A dry run says the same, and publishes nothing.
    let output = operator.run_command(&[
        "replay",
        "orders",
        "--from",
        "0",
        "--channel",
        "again",
        "--rate",
        "2",
        "--dry-run",
    ]);
    let (stdout, stderr) = printed(&output);
    assert_eq!(output.status.code(), OK, "{stderr}");
    for told in
        ["would publish 10 entries, 10 bytes", "about 5s", "in use: clients are subscribed to 1 patterns"]
    {
        assert!(stdout.contains(told), "no {told:?} in {stdout}");
    }
    assert_eq!(checkpoints(&server), [""; 0]);
    assert_eq!(subscriber.count(), 0);
}

#[test]
fn the_range_is_given_by_ids_by_times_and_by_distances() {
    let server = Server::start(Version::Redis70);
    let subscriber = Subscriber::start(&server, &["again.*"]);
    let operator = operator(&server);
    fill(&server, 10);
    // And one of just now.
    server.ask::<String>(&["XADD", "orders", "*", "channel", "orders", "payload", "now"]);
    let mut heard = 0;
    let mut replay = |arguments: &[&str], expected: &[&str]| {
        let mut command = vec!["replay", "orders", "--channel", "again.<field:channel>", "--onto-live"];
        command.extend(arguments);
        let output = operator.run_command(&command);
        assert_eq!(output.status.code(), OK, "{arguments:?}: {:?}", printed(&output));
        wait_heard(&subscriber, heard + expected.len());
        assert_eq!(subscriber.payloads()[heard..], *expected, "{arguments:?}");
        heard += expected.len();
    };
    replay(&["--from", "1002-0", "--to", "1003-0"], &["2", "3"]);
    replay(&["--from", "1002-1", "--to", "1003"], &["3"]);
    replay(&["--from", "1970-01-01T00:00:01.008Z", "--to", "1970-01-01T01:00:01.009+01:00"], &["8", "9"]);
    replay(&["--from", "-1h"], &["now"]);
    replay(&["--from", "1009", "--to", "now", "--speed", "1e12"], &["9", "now"]);
    // Once more: what is finished is not remembered.
    replay(&["--from", "-1h"], &["now"]);

    let none =
        operator.run_command(&["replay", "orders", "--from", "5", "--to", "6", "--channel", "again.x"]);
    assert_eq!(none.status.code(), USAGE, "the subscriber's pattern is in the way");
    let none = operator.run_command(&[
        "replay",
        "orders",
        "--from",
        "5",
        "--to",
        "6",
        "--channel",
        "again.x",
        "--onto-live",
    ]);
    assert_eq!(none.status.code(), FAILED);
    assert!(printed(&none).1.contains("has no entries in that range"), "{:?}", printed(&none));
}

#[test]
fn a_server_that_dies_ends_it_and_the_same_command_goes_on() {
    const ENTRIES: usize = 6_000;
    let mut server = Server::with(Version::Redis70, Options::default().durable());
    fill(&server, ENTRIES);
    let operator = operator(&server);
    let command = ["replay", "orders", "--from", "0", "--channel", "again", "--rate", "2000"];
    let mut replay = operator.start_command(&command, &output_file(&operator));
    let key = eventually("it has begun", PATIENCE, || checkpoints(&server).pop().ok_or_else(String::new));
    let published = |server: &Server| server.ask::<Option<usize>>(&["HGET", &key, "published"]).unwrap_or(0);
    eventually("it publishes", PATIENCE, || match published(&server) {
        count if count >= ENTRIES / 6 => Ok(()),
        count => Err(count.to_string()),
    });
    server.kill();
    assert_eq!(replay.wait(PATIENCE).code(), UNAVAILABLE);
    let said = std::fs::read_to_string(output_file(&operator)).unwrap();
    assert!(
        said.contains("server events: ") && said.contains("run the same command again to continue"),
        "{said}"
    );
    assert_eq!(operator.run_command(&command).status.code(), UNAVAILABLE, "as long as it is away");

    server.start_again();
    let before = published(&server);
    assert!(before < ENTRIES, "it died in the middle");
    let output = operator.run_command(&command);
    let (stdout, stderr) = printed(&output);
    assert_eq!(output.status.code(), OK, "{stderr}");
    assert!(stderr.contains(&format!("{before} entries are published already")), "{before}: {stderr}");
    assert!(stdout.contains(&format!("{ENTRIES} entries published")), "{stdout}");
}

#[test]
fn an_entry_that_makes_no_message_is_skipped_and_named() {
    let server = Server::start(Version::Redis70);
    let subscriber = Subscriber::start(&server, &["again"]);
    let operator = operator(&server);
    server.ask::<String>(&["XADD", "orders", "1-0", "other", "field"]);
    server.ask::<String>(&["XADD", "orders", "2-0", "payload", "good"]);
    server.ask::<String>(&["XADD", "orders", "3-0", "other", "field"]);
    let command = ["replay", "orders", "--from", "0", "--channel", "again", "--onto-live"];
    let output = operator.run_command(&command);
    let (stdout, stderr) = printed(&output);
    assert_eq!(output.status.code(), OK, "{stderr}");
    assert!(
        stdout.contains("1 entry published, 2 skipped because the message template does not fit"),
        "{stdout}"
    );
    assert!(stderr.contains("skipped 3-0: the entry has no field 'payload'"), "{stderr}");
    wait_heard(&subscriber, 1);
    assert_eq!(subscriber.payloads(), ["good"]);
    assert_eq!(checkpoints(&server), [""; 0]);
    // A template that fits nothing is a mistake.
    let nothing = operator.run_command(&[&command[..], &["--message", "<field:no>"]].concat());
    assert_eq!(nothing.status.code(), FAILED);
}

#[test]
fn shard_channels_and_the_envelope_of_a_broadcast() {
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        fill(&server, 2);
        let operator =
            Setup::new().endpoint("events", &server).routes(CAPTURE).prepare().operator(&["shard:again"]);
        let command = ["replay", "orders", "--from", "0", "--channel", "again", "--sharded", "--envelope"];
        // A pattern hears nothing of SPUBLISH, so it is not in the way.
        let pattern = Subscriber::start(&server, &["*"]);
        let dry = operator.run_command(&[&command[..], &["--dry-run"]].concat());
        assert!(!printed(&dry).0.contains("in use"), "{version}: {:?}", printed(&dry));
        let subscriber = Subscriber::start_sharded(&server, &["again"]);
        let refused = operator.run_command(&command);
        assert_eq!(refused.status.code(), USAGE, "{version}");
        assert!(printed(&refused).1.contains("1 clients are subscribed to it"), "{version}");
        let output = operator.run_command(&[&command[..], &["--onto-live"]].concat());
        assert_eq!(output.status.code(), OK, "{version}: {:?}", printed(&output));
        wait_heard(&subscriber, 2);
        let first = r#"{"stream":"orders","id":"1000-0","fields":{"channel":"orders","payload":"0"}}"#;
        assert_eq!(subscriber.payloads()[0], first, "{version}");
        assert_eq!(pattern.count(), 0, "{version}");
    }
}
