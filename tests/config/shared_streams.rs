//! Which captures share a stream, so that both must keep the same amount of it.

use super::loops::SERVERS;
use super::*;

fn capture(name: &str, keep: &str, lines: &str) -> String {
    format!("[capture.{name}]\nsource = \"main\"\nkeep = {keep}\n{lines}\n")
}

fn load(one: (&str, &str), other: (&str, &str)) -> Result<Config, String> {
    let text = format!("{SERVERS}{}{}", capture("one", one.0, one.1), capture("other", other.0, other.1));
    Files::new(&[("tidegate.toml", &text)]).load(&[])
}

#[test]
fn unlike_amounts_of_one_stream_are_refused() {
    let to = |destination: &str, subscribed: &str, stream: &str| {
        format!("{subscribed}\ndestination = \"{destination}\"\nstream = \"{stream}\"")
    };
    let (channel, pattern) = ("channels = [\"a.b\"]", "patterns = [\"a.*\"]");
    let orders = to("main", channel, "orders");
    let named = to("main", "channels = [\"c\", \"a.b\"]", "<channel>");
    let cases = [
        ("one name", &orders, to("main", channel, "orders"), true),
        ("two names", &orders, to("main", channel, "order"), false),
        ("another name of the server", &orders, to("again", channel, "orders"), true),
        ("another database", &orders, to("second", channel, "orders"), false),
        ("a value of the payload", &orders, to("main", channel, "ord<pointer:/x>"), true),
        ("another begin", &orders, to("main", channel, "x<pointer:/x>"), false),
        ("the same channel", &named, to("main", channel, "<channel>"), true),
        ("unlike channels", &named, to("main", "channels = [\"a.c\"]", "<channel>"), false),
        ("a pattern of the channel", &named, to("main", pattern, "<channel>"), true),
        ("a pattern of other channels", &named, to("main", "patterns = [\"b.*\"]", "<channel>"), false),
        ("what a pattern matched", &named, to("main", pattern, "a.<1>"), true),
        ("the pattern itself", &named, to("main", "patterns = [\"c\"]", "<pattern>"), true),
        ("another pattern itself", &named, to("main", pattern, "<pattern>"), false),
    ];
    let unlike = [
        ("{ entries = 1000 }", "\"forever\""),
        ("{ entries = 1000 }", "{ entries = 1000, age = \"1h\" }"),
        (
            "{ entries = 1000, until_acknowledged = [\"a\", \"b\"] }",
            "{ entries = 1000, until_acknowledged = [\"a\"] }",
        ),
    ];
    let alike = [
        ("{ entries = 1000, age = \"1h\" }", "{ age = \"60m\", entries = 1_000 }"),
        (
            "{ entries = 1000, until_acknowledged = [\"a\", \"b\"] }",
            "{ entries = 1000, until_acknowledged = [\"b\", \"a\"] }",
        ),
    ];
    for (case, one, other, shared) in &cases {
        for (first, second) in unlike {
            match (load((first, one), (second, other)), shared) {
                (Ok(_), false) => {}
                (Err(problems), true) => assert!(
                    problems.contains("capture.other.keep: differs from capture.one.keep"),
                    "{case}:\n{problems}"
                ),
                (Ok(_), true) => panic!("{case} with {first} and {second} is accepted"),
                (Err(problems), false) => panic!("{case} with {first} and {second} is refused:\n{problems}"),
            }
        }
        for (first, second) in alike {
            load((first, one), (second, other)).unwrap_or_else(|problems| panic!("{case}:\n{problems}"));
        }
    }
}

/// What an invalidation keeps for itself is written by its capture alone, whatever a template can make.
#[test]
fn the_stream_of_an_invalidation_is_not_shared() {
    let every =
        capture("every", "\"forever\"", "patterns = [\"*\"]\ndestination = \"main\"\nstream = \"<channel>\"");
    let products = "[invalidate.products]\nsource = \"main\"\nchannels = [\"products\"]\ndestination = \"second\"\n\
                    keys = [\"product:<pointer:/sku>\"]\n";
    let text = format!("{SERVERS}{every}{products}");
    let config = Files::new(&[("tidegate.toml", &text)]).load(&[]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.capture.len(), 2);
}
