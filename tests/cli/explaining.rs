//! Commands that explain: what a code means, what is configured, what a route makes of a message, what is missing.

use super::*;

#[test]
fn a_code_is_explained_in_each_of_its_meanings_and_an_unknown_one_has_similar_ones() {
    let explain = |code: &str| tidegate(&["explain", code]);
    assert_golden("explain-stale.txt", &printed(&explain("stale"), OK));
    assert_golden("explain-log-event.txt", &printed(&explain("source-silent"), OK));
    assert_golden("explain-metric.txt", &printed(&explain("tidegate_append_seconds"), OK));
    let misspelt = explain("soruce_lots");
    assert_eq!(printed(&misspelt, USAGE), "");
    assert!(text(&misspelt.stderr).contains("similar: source_lost"), "{}", text(&misspelt.stderr));
    let part = explain("spool");
    printed(&part, USAGE);
    assert!(text(&part.stderr).contains("spool_corrupt, "), "{}", text(&part.stderr));
    printed(&explain("\u{1b}[2J"), USAGE);
    let all = printed(&tidegate(&["explain"]), OK);
    for listed in ["log event:\n", "state of a route:\n", "\n  broadcast_live\n", "\n  deleted_unread\n"] {
        assert!(all.contains(listed), "{listed} is missing: {all}");
    }
}

#[test]
fn gaps_lists_the_records_as_a_table_and_as_lines() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("main", &server)
        .routes(
            "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
             stream = \"orders\"\nkeep = \"forever\"\n\
             [capture.other]\nsource = \"main\"\nchannels = [\"other\"]\ndestination = \"main\"\n\
             stream = \"other\"\nkeep = \"forever\"\n",
        )
        .prepare();
    assert_golden("gaps-none.txt", &printed(&daemon.run_command(&["gaps"]), OK));

    // More than two pages of them, and one that is not the route's.
    let record = "redis.call('XADD', KEYS[1], i .. '-1', 'from', 'a', 'to', 'b', 'started_at', 1000 * i, \
                  'ended_at', 1000 * i + 1, 'cause', 'restart', 'detail', 'tidegate was not running', 'dropped', i)";
    let many = format!("for i = 1, 2001 do {record} end");
    server.ask::<()>(&["EVAL", &many, "1", "tidegate:orders:gaps"]);
    server.ask::<()>(&["EVAL", &format!("local i = 7 {record}"), "1", "tidegate:other:gaps"]);

    let table = printed(&daemon.run_command(&["gaps", "orders"]), OK);
    assert_eq!(table.lines().count(), 1 + 2001);
    let first: Vec<&str> = table.lines().take(3).collect();
    assert_golden("gaps-first.txt", &format!("{}\n", first.join("\n")));
    let recent = printed(&daemon.run_command(&["gaps", "orders", "--since", "1970-01-01T00:33:20Z"]), OK);
    assert_eq!(recent.lines().count(), 1 + 2, "those of the seconds 2000 and 2001: {recent}");
    let last = printed(&daemon.run_command(&["gaps", "orders", "--last", "2"]), OK);
    let dropped: Vec<&str> =
        last.lines().skip(1).map(|line| line.split_whitespace().nth(4).unwrap()).collect();
    assert_eq!(dropped, ["2000", "2001"], "the latest stands last: {last}");
    let verbose = printed(&daemon.run_command(&["gaps", "other", "--verbose"]), OK);
    assert!(verbose.ends_with("  after position a\n  before position b\n"), "{verbose}");

    let lines = printed(&daemon.run_command(&["gaps", "--json"]), OK);
    let gaps: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(gaps.len(), 2002);
    for (number, gap) in gaps[..2001].iter().enumerate() {
        assert_eq!((&gap["route"], &gap["dropped"]), (&"orders".into(), &(number + 1).into()));
    }
    assert_eq!(
        gaps[2001],
        serde_json::json!({
            "route": "other", "started_at": 7000, "ended_at": 7001, "cause": "restart", "planned": false,
            "dropped": 7,
            "from": "a", "to": "b", "detail": "tidegate was not running"
        })
    );
}

/// For scripts, and for a look at many gaps at once.
#[test]
fn gaps_are_counted_by_cause_and_tell_a_script_that_there_are_some() {
    let server = Server::start(Version::Redis70);
    let route = "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
                 stream = \"orders\"\nkeep = \"forever\"\n";
    let daemon = Setup::new().endpoint("main", &server).routes(route).prepare();
    printed(&daemon.run_command(&["gaps", "--exit-code"]), OK);
    for (number, cause) in [(1, "restart"), (2, "memory_full"), (3, "restart")] {
        let (started, ended) = (number * 1000, number * 1000 + 500);
        server.ask::<String>(&[
            "XADD",
            "tidegate:orders:gaps",
            &format!("{number}-1"),
            "started_at",
            &started.to_string(),
            "ended_at",
            &ended.to_string(),
            "cause",
            cause,
            "dropped",
            "2",
        ]);
    }
    let summary = printed(&daemon.run_command(&["gaps", "--summary"]), OK);
    let rows: Vec<Vec<&str>> = summary.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[1..],
        [
            ["orders", "memory_full", "1", "2", "1970-01-01T00:00:02.500Z", "500ms"],
            ["orders", "restart", "2", "4", "1970-01-01T00:00:03.500Z", "1s"],
        ],
        "{summary}"
    );
    let lines = printed(&daemon.run_command(&["gaps", "--summary", "--json", "--exit-code"]), 1);
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(
        last,
        serde_json::json!({
            "route": "orders", "cause": "restart", "planned": false, "gaps": 2, "milliseconds": 1000, "dropped": 4,
            "last_ended_at": 3500
        })
    );
    // A time without gaps is none to a script, with and without the sign.
    for since in ["1h", "-1h"] {
        printed(&daemon.run_command(&["gaps", "--exit-code", "--since", since]), OK);
    }
    printed(&daemon.run_command(&["gaps", "--since", "yesterday"]), USAGE);
}

#[test]
fn each_value_of_the_configuration_is_printed_with_its_place() {
    let all = printed(&tidegate(&["config", "--config", FULL]), OK);
    for line in [
        "daemon.force_after = \"5s\"  # default",
        "capture.tenants.stream = \"tenant:<1>\"  # config/examples/full/conf.d/tenants.toml:",
    ] {
        assert!(all.lines().any(|printed| printed.starts_with(line)), "{line} is missing: {all}");
    }
    let part = printed(&tidegate(&["config", "capture.tenants", "--config", FULL, "--json"]), OK);
    for line in part.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value["key"].as_str().unwrap().starts_with("capture.tenants."), "{line}");
        assert!(value["from"].is_null() || value["from"].as_str().unwrap().contains(".toml:"), "{line}");
    }
    printed(&tidegate(&["config", "capture.tenant", "--config", FULL]), USAGE);
}

/// By the routes' own functions: what is left out, stored, published, removed, or a dead letter.
#[test]
fn a_route_is_tried_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    let routes = r#"
[redis.main]
url = "redis://nowhere.invalid"
[capture.orders]
source = "main"
channels = ["orders.paid"]
patterns = ["orders.*"]
where = [{ field = "kind", equals = "order" }, { pointer = "/test", exists = false }]
origin = "here"
destination = "main"
stream = "o:<channel>:<pointer:/shop>"
keep = "forever"
[broadcast.out]
source = "main"
streams = "stock:*"
destination = "main"
channel = "stock.<field:sku>"
where = [{ entry = "kind", prefix = "st" }]
"#;
    fs::write(&file, [routes, INVALIDATIONS].concat()).unwrap();
    let tried = |route: &str, arguments: &[&str], code: i32| {
        let command = [&["try", route, "--config", file.to_str().unwrap()], arguments].concat();
        let output = tidegate(&command);
        printed(&output, code) + &text(&output.stderr)
    };
    let message = |channel: &str, payload: &str, code: i32| {
        tried("orders", &["--channel", channel, "--payload", payload], code)
    };
    assert_eq!(
        message("orders.eu", r#"{"kind":"order","shop":7}"#, OK),
        "stored in the stream o:orders.eu:7\n  channel: orders.eu\n  pattern: orders.*\n  \
         payload: {\"kind\":\"order\",\"shop\":7}\n"
    );
    let exact = message("orders.paid", r#"{"kind":"order","shop":7}"#, OK);
    assert!(!exact.contains("pattern"), "the exact name comes first: {exact}");
    for (channel, payload, expected) in [
        ("stock", "{}", "not received: "),
        ("orders.eu", "{}", "left out: where /kind = \"order\"\n"),
        ("orders.eu", r#"{"kind":"order","test":1}"#, "left out: where /test does not exist\n"),
        ("orders.eu", r#"{"kind":"order"}"#, "dead letter missing_variable: "),
    ] {
        let said = message(channel, payload, 1);
        assert!(said.starts_with(expected), "{payload}: {said}");
    }
    let out = |arguments: &[&str], code| tried("out", arguments, code);
    let entry = ["--stream", "stock:eu", "--entry", "kind=stock", "sku=7", "payload=a=b"];
    assert_eq!(out(&entry, OK), "published on the channel stock.7\n  a=b\n");
    let other = out(&["--stream", "stock:eu", "--entry", "kind=other"], 1);
    assert_eq!(other, "left out: where entry field kind begins with \"st\"\n");
    let missing = out(&["--stream", "stock:eu", "--entry", "kind=stock", "payload=x"], 1);
    assert!(missing.starts_with("dead letter missing_field: "), "{missing}");
    for wrong in [&["--entry", "kind=stock"][..], &["--stream", "other", "--entry", "a=b"], &[]] {
        out(wrong, USAGE);
    }
    let half = tried("cache", &["--entry", r#"payload={"sku":5}"#], OK);
    assert!(half.starts_with("removed: the key product:5\ndead letter no_key: "), "{half}");
    let written = |payload: &str| tried("written", &["--entry", &format!("payload={payload}")], OK);
    assert_eq!(
        written(r#"{"sku":5,"version":"007","product":{"price": 5}}"#),
        "stored if the cache has the key with a version older than 7: product:5\n  {\"price\": 5}\n"
    );
    assert_eq!(
        written(r#"{"sku":5,"version":-1,"product":{}}"#),
        "removed: the key product:5\n  not stored: the version is no decimal number\n"
    );
    tried("cache", &["--entry", "no-value"], USAGE);
    tried("nothing", &["--entry", "a=b"], USAGE);
}

/// It is named where it is off, and is tried like any other.
#[test]
fn a_disabled_route_is_named_by_check_and_can_be_tried() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    let routes = r#"
[redis.main]
url = "redis://nowhere.invalid"
[capture.orders]
enabled = false
source = "main"
channels = ["orders"]
destination = "main"
stream = "orders"
keep = "forever"
[capture.stays]
source = "main"
channels = ["stays"]
destination = "main"
stream = "stays"
keep = "forever"
[broadcast.stock]
enabled = false
source = "main"
stream = "stock"
destination = "main"
channel = "stock"
[invalidate.products]
enabled = false
source = "main"
channels = ["changed"]
destination = "main"
keys = ["product:<pointer:/sku>"]
set = { value = "<pointer:/product>", version = "<pointer:/version>" }
"#;
    fs::write(&file, routes).unwrap();
    let run = |arguments: &[&str]| {
        printed(&tidegate(&[arguments, &["--config", file.to_str().unwrap()]].concat()), OK)
    };
    let checked = run(&["check"]);
    let routes: Vec<&str> = checked.lines().filter(|line| line.contains('→')).collect();
    assert_golden("check-disabled.txt", &format!("{}\n", routes.join("\n")));
    let tried = run(&["try", "orders", "--channel", "orders", "--payload", "{}"]);
    assert!(tried.starts_with("stored in the stream orders\n"), "{tried}");
    let listed = run(&["config", "capture"]);
    assert!(listed.contains("capture.orders.enabled = false  # "), "{listed}");
    assert!(listed.contains("capture.stays.enabled = true  # default"), "{listed}");
}

/// Its parts follow each other whatever does not answer, and it has no secret.
#[test]
fn a_report_has_every_part_and_no_secret() {
    let parts = |report: &str| -> Vec<String> {
        report.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect()
    };
    let all = [
        "system of this command",
        "configuration",
        "/status",
        "/readyz",
        "check --connect",
        "gaps",
        "dead letters",
    ];
    let server = Server::start(Version::Redis70);
    let route = "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
                 stream = \"orders\"\nkeep = \"forever\"\n";
    let daemon = Setup::new().endpoint("main", &server).routes(route).start_ready();
    server.ask::<String>(&["XADD", "tidegate:orders:gaps", "1-1", "cause", "restart", "dropped", "3"]);
    server.ask::<String>(&["XADD", "tidegate:orders:dead-letters", "1-1", "payload", "of-a-customer"]);
    let running = printed(&daemon.run_command(&["report"]), OK);
    assert_eq!(parts(&running), all);
    for line in
        ["capture.orders.stream = \"orders\"  # ", "\"state\":\"live\"", "orders: 1\n", "open files: "]
    {
        assert!(running.contains(line), "{line} is missing: {running}");
    }
    let gap = running.lines().find(|line| line.starts_with("orders ") && line.contains(" restart "));
    assert!(gap.is_some() && !running.contains("of-a-customer"), "{running}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    let nowhere = "[redis.main]\nurl = \"redis://user@127.0.0.1:1\"\n[daemon]\nlisten = \"127.0.0.1:1\"\n";
    let made = |text: String| {
        fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["report", "--config", file.to_str().unwrap()]);
        command.env("TIDEGATE_REDIS__MAIN__PASSWORD", "hunter2").output().unwrap()
    };
    let away = printed(&made(format!("{nowhere}{route}")), OK);
    assert_eq!(parts(&away), all);
    assert!(away.contains("redis.main.password = \"***\"") && !away.contains("hunter2"), "{away}");
    assert!(away.contains("a server could not be asked") && away.contains("orders: server main: "), "{away}");
    let broken = made(format!("{nowhere}{}", route.replace("keep", "kept")));
    let broken = printed(&broken, CONFIGURATION);
    assert_eq!(parts(&broken), all[..4]);
    assert!(broken.contains("capture.orders.kept: is not a known key"), "{broken}");
}
