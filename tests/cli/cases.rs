//! `tidegate test`: cases beside the configuration.

use super::*;

#[test]
fn the_cases_of_the_example_pass_and_others_say_what_they_got() {
    assert_eq!(printed(&tidegate(&["test", "--config", FULL]), OK), "5 cases passed\n");
    let failing = tidegate(&["test", "--config", FULL, "tests/golden/cli/cases.toml"]);
    assert_golden("test-failing.txt", &printed(&failing, 1));
}

/// A configuration in a directory of its own, and what `tidegate test` says to these cases.
fn tested(routes: &str, cases: &str, code: i32) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, routes).unwrap();
    fs::create_dir(directory.path().join("tests")).unwrap();
    fs::write(directory.path().join("tests/cases.toml"), cases).unwrap();
    // Only *.toml has cases.
    fs::write(directory.path().join("tests/cases.toml~"), "no case").unwrap();
    let output = tidegate(&["test", "--config", file.to_str().unwrap()]);
    (printed(&output, code) + &text(&output.stderr)).replace(directory.path().to_str().unwrap(), "DIR")
}

const ROUTES: &str = r#"
[redis.main]
url = "redis://nowhere.invalid"
[capture.orders]
source = "main"
patterns = ["orders.*"]
where = [{ field = "kind", equals = "order" }]
destination = "main"
stream = "orders"
keep = "forever"
[broadcast.out]
source = "main"
streams = "stock:*"
destination = "main"
channel = "stock.<field:sku>"
envelope = "json"
"#;

fn routes() -> String {
    [ROUTES, INVALIDATIONS].concat()
}

const CASES: &str = r#"
[[test]]
route = "orders"
channel = "orders.paid"
payload = '{"kind":"order"}'
expect.left_out = false
expect.received = true

[[test]]
route = "orders"
channel = "orders.paid"
payload = "{}"
expect.left_out = '/kind = "order"'

[[test]]
route = "out"
stream = "stock:eu"
id = "7-1"
entry = { sku = 7, b = "2", a = "1", payload = "x" }
expect.channel = "stock.7"
expect.message = '{"stream":"stock:eu","id":"7-1","fields":{"sku":"7","b":"2","a":"1","payload":"x"}}'

[[test]]
route = "cache"
entry = { name = "tea", payload = '{"sku":7}' }
expect.keys = ["by:tea", "product:7"]

[[test]]
route = "cache"
entry = { payload = '{"sku":7}' }
expect.keys = ["product:7"]
expect.dead_letter = "no_key"

[[test]]
route = "written"
entry = { payload = '{"sku":7,"version":"007","product":{"price":5}}' }
expect = { keys = ["product:7"], version = 7, value = '{"price":5}' }
"#;

#[test]
fn a_case_names_what_comes_out_of_each_kind_of_route() {
    assert_eq!(tested(&routes(), CASES, OK), "6 cases passed\n");
    for (right, wrong) in [
        ("left_out = false", "left_out = true"),
        ("received = true", "received = false"),
        (r#"/kind = "order"'"#, r#"/kind = "bill"'"#),
        (r#""stock.7""#, r#""stock.8""#),
        (r#""b":"2","a":"1""#, r#""a":"1","b":"2""#),
        (r#"["by:tea", "product:7"]"#, r#"["product:7"]"#),
        (r#""no_key""#, r#""too_many_keys""#),
        ("version = 7", "version = 8"),
        (r#"'{"price":5}' }"#, r#"'{"price":6}' }"#),
    ] {
        let wrong = CASES.replacen(right, wrong, 1);
        assert_ne!(wrong, CASES, "{right}");
        let said = tested(&routes(), &wrong, 1);
        assert_eq!(said.matches("  expected ").count(), 1, "{right}: {said}");
        assert!(said.ends_with("1 failed, 5 passed\n"), "{right}: {said}");
    }
}

#[test]
fn a_run_without_a_case_does_not_pass() {
    for (cases, expected) in [
        ("", "DIR/tests/cases.toml: there is no case: each has [[test]] above it\n1 failed, 0 passed\n"),
        (
            "\n[[test]",
            "DIR/tests/cases.toml:2: invalid table header, expected `.`, `]]`\n1 failed, 0 passed\n",
        ),
        ("[[test]]\n", "DIR/tests/cases.toml:1: missing field `route`\n1 failed, 0 passed\n"),
        (
            "a = 1\n[[test]]\n",
            "DIR/tests/cases.toml:1: a: expected only cases, each with [[test]] above it\n1 failed, 0 passed\n",
        ),
    ] {
        assert_eq!(tested(&routes(), cases, 1), expected);
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, routes()).unwrap();
    let arguments = ["test", "--config", file.to_str().unwrap()];
    printed(&tidegate(&arguments), USAGE);
    fs::create_dir(directory.path().join("tests")).unwrap();
    let none = tidegate(&arguments);
    assert_eq!(printed(&none, USAGE), "");
    assert!(text(&none.stderr).contains("there is no file *.toml in "), "{}", text(&none.stderr));
    let absent = tidegate(&[&arguments[..], &["/nonexistent/cases.toml"]].concat());
    assert!(printed(&absent, 1).starts_with("/nonexistent/cases.toml: cannot be read: "));
}

/// A reader that is gone does not make a failed test a passed one.
#[test]
fn a_failure_is_one_although_nobody_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, routes()).unwrap();
    let cases = directory.path().join("cases.toml");
    fs::write(&cases, CASES.replacen("received = true", "received = false", 1)).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["test", "--config", file.to_str().unwrap(), cases.to_str().unwrap()]);
    assert_eq!(command.stdout(writer).output().unwrap().status.code(), Some(1));

    // A device without an end is no file of cases.
    let output = tidegate(&["test", "--config", file.to_str().unwrap(), "/dev/zero"]);
    assert!(printed(&output, 1).contains("is no regular file"), "{output:?}");
}
