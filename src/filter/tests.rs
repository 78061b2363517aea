//! Messages that pass and messages that do not; and pointers against serde_json's own.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::config::{Scalar, Test};
use crate::text::json_pointer::Pointer;

struct SampleMessage<'a>(&'a [u8], &'a [u8]);

impl Filterable for SampleMessage<'_> {
    fn channel(&self) -> Option<&[u8]> {
        Some(self.0)
    }

    fn field(&self, name: &[u8]) -> Option<&[u8]> {
        (name == b"there").then_some(self.1)
    }

    fn payload(&self) -> Option<&[u8]> {
        Some(self.1)
    }
}

fn at(pointer: &str, test: Test) -> Condition {
    Condition { subject: Subject::Payload(Pointer::parse(pointer).unwrap()), test, negated: false }
}

fn channel(test: Test) -> Condition {
    Condition { subject: Subject::Channel, test, negated: false }
}

fn text(text: &str) -> Scalar {
    Scalar::Text(text.to_owned())
}

fn prefix(text: &str) -> Test {
    Test::Prefix(text.to_owned())
}

fn passes(conditions: &[Condition], channel: &[u8], payload: &[u8]) -> bool {
    Filter::new(conditions).passes(&SampleMessage(channel, payload))
}

fn payload_passes(condition: Condition, payload: &str) -> bool {
    passes(&[condition], b"any", payload.as_bytes())
}

#[test]
fn without_conditions_everything_passes() {
    assert!(passes(&[], b"a", b"{\"any\":1}"));
    assert!(passes(&[], b"\xff", b"\xff"));
}

#[test]
fn conditions_on_the_channel_do_not_ask_for_a_payload() {
    let conditions = [channel(prefix("orders.")), channel(Test::OneOf(vec![text("orders.eu"), text("x")]))];
    assert!(Filter::new(&conditions).payload.is_none());
    assert!(passes(&conditions, b"orders.eu", b"\xff{"));
    assert!(!passes(&conditions, b"orders.us", b""));
    assert!(!passes(&conditions, b"x", b""));
    assert!(!passes(&conditions, b"orders.eu\xff", b""));
}

#[test]
fn every_condition_must_hold() {
    let conditions = [
        channel(prefix("o")),
        at("/kind", Test::OneOf(vec![text("order")])),
        at("/kind", prefix("or")),
        at("/customer/id", Test::Exists(true)),
        at("/customer", Test::Exists(true)),
        at("/test", Test::Exists(false)),
    ];
    let good = r#" {"x":[1,{"kind":2}],"kind":"order","customer":{"n":{},"id":null}} "#;
    assert!(passes(&conditions, b"o", good.as_bytes()));
    assert!(!passes(&conditions, b"p", good.as_bytes()));
    for (part, other) in [
        ("order\"", "orders\""),
        ("\"id\"", "\"no\""),
        ("\"n\"", "\"id\":1},\"test\":{\""),
        ("{\"x\"", "{\"test\":0,\"x\""),
    ] {
        assert!(good.contains(part), "{part}");
        let bad = good.replace(part, other);
        assert!(!passes(&conditions, b"o", bad.as_bytes()), "{bad}");
    }
}

#[test]
fn one_filter_forgets_the_message_before() {
    let mut filter = Filter::new(&[at("/a/b", Test::Exists(true))]);
    let mut ask = |payload: &[u8]| filter.passes(&SampleMessage(b"c", payload));
    assert!(ask(br#"{"a":{"b":1}}"#));
    assert!(!ask(br#"{"a":{"c":1}}"#));
    assert!(!ask(b"{}"));
    assert!(!ask(br#"{"a":{"b":1}"#));
    assert!(!ask(b""));
    assert!(ask(br#"{"a":{"b":1}}"#));
}

#[test]
fn a_payload_that_is_not_json_has_no_fields() {
    let payloads: [&[u8]; 9] = [
        b"",
        b"no json",
        b"{\"a\":1",
        b"{\"a\":1}}",
        b"{\"a\":1} x",
        b"{\"a\":\"\xff\"}",
        b"{'a':1}",
        b"\xef\xbb\xbf{\"a\":1}",
        b"[{\"a\":1}]",
    ];
    for payload in payloads {
        let shown = payload.escape_ascii();
        assert!(!passes(&[at("/a", Test::Exists(true))], b"c", payload), "{shown}");
        assert!(!passes(&[at("/a", Test::OneOf(vec![Scalar::Integer(1)]))], b"c", payload), "{shown}");
        assert!(!passes(&[at("/a", prefix("1"))], b"c", payload), "{shown}");
        assert!(passes(&[at("/a", Test::Exists(false))], b"c", payload), "{shown}");
    }
}

#[test]
fn the_whole_payload_has_a_pointer_too() {
    let whole = |test: Test| at("", test);
    assert!(payload_passes(whole(Test::Exists(true)), " 1 "));
    assert!(payload_passes(whole(Test::OneOf(vec![Scalar::Integer(1)])), " 1 "));
    assert!(payload_passes(whole(prefix("a")), "\"a\\u0062\""));
    assert!(!payload_passes(whole(Test::Exists(true)), "1 1"));
    assert!(payload_passes(whole(Test::Exists(false)), "word"));
    let both = [whole(Test::Exists(true)), at("/0", Test::OneOf(vec![Scalar::Bool(true)]))];
    assert!(passes(&both, b"c", b"[true]"));
    assert!(!passes(&both, b"c", b"[true"));
}

#[test]
fn a_payload_as_text_need_not_be_json() {
    let whole = |test: Test| Condition { subject: Subject::Text, test, negated: false };
    for (test, payload, expected) in [
        (prefix("session:"), &b"session:7"[..], true),
        (prefix("session:"), b" session:7", false),
        (prefix("session:"), b"session:\xff", true),
        (prefix("\""), b"\"in quotes\"", true),
        (Test::OneOf(vec![text("a"), text("")]), b"", true),
        (Test::OneOf(vec![text("a")]), b"a", true),
        (Test::OneOf(vec![text("a")]), b"\"a\"", false),
    ] {
        let conditions = [whole(test)];
        assert!(Filter::new(&conditions).payload.is_none(), "no JSON is read");
        assert_eq!(passes(&conditions, b"c", payload), expected, "{conditions:?} {}", payload.escape_ascii());
    }
}

#[test]
fn a_negated_condition_holds_where_its_test_does_not() {
    let not = |condition: Condition| Condition { negated: true, ..condition };
    let one = || Test::OneOf(vec![Scalar::Integer(1)]);
    for payload in [r#"{"v":2}"#, r#"{"v":"1"}"#, r#"{"v":null}"#, "{}", "no json", "", r#"{"v":1"#] {
        assert!(payload_passes(not(at("/v", one())), payload), "{payload}");
        assert!(payload_passes(not(at("/v", prefix("x"))), payload), "{payload}");
    }
    assert!(!payload_passes(not(at("/v", one())), r#"{"v":1.0}"#));
    assert!(!payload_passes(not(at("/v", prefix("x"))), r#"{"v":"xy"}"#));
    assert!(
        payload_passes(not(at("/v", prefix("x"))), r#"{"v":"\ud800"}"#),
        "what is no text begins with nothing"
    );
    let both = [not(channel(prefix("a"))), not(at("/v", one()))];
    assert!(passes(&both, b"b", b"{}"));
    assert!(!passes(&both, b"ab", b"{}"));
    let field = |name: &str| not(Condition { subject: Subject::Field(name.into()), ..channel(prefix("x")) });
    assert!(passes(&[field("there")], b"c", b"y") && !passes(&[field("there")], b"c", b"x"));
    assert!(passes(&[field("gone")], b"c", b"x"));
}

#[test]
fn values_are_compared_by_what_they_are() {
    let equals = |value: Scalar, payload: &str| payload_passes(at("/v", Test::OneOf(vec![value])), payload);
    for (value, payload, expected) in [
        (text("1"), r#"{"v":"1"}"#, true),
        (text("1"), r#"{"v":1}"#, false),
        (text("a/é\n"), r#"{"v":"\u0061\/\u00e9\n"}"#, true),
        (text("true"), r#"{"v":true}"#, false),
        (text("null"), r#"{"v":null}"#, false),
        (text(""), r#"{"v":""}"#, true),
        (text("{}"), r#"{"v":{}}"#, false),
        (Scalar::Bool(true), r#"{"v": true }"#, true),
        (Scalar::Bool(false), r#"{"v":false}"#, true),
        (Scalar::Bool(false), r#"{"v":null}"#, false),
        (Scalar::Bool(false), r#"{"v":true}"#, false),
        (Scalar::Integer(1), r#"{"v":1}"#, true),
        (Scalar::Integer(1), r#"{"v":1.0}"#, true),
        (Scalar::Integer(100), r#"{"v":1e2}"#, true),
        (Scalar::Integer(1), r#"{"v":"1"}"#, false),
        (Scalar::Integer(0), r#"{"v":-0}"#, true),
        (Scalar::Integer(-7), r#"{"v":-7}"#, true),
        (Scalar::Integer(9_007_199_254_740_993), r#"{"v":9007199254740993}"#, true),
        (Scalar::Integer(9_007_199_254_740_993), r#"{"v":9007199254740992}"#, false),
        (Scalar::Integer(9_007_199_254_740_993), r#"{"v":9007199254740992.0}"#, false),
        (Scalar::Integer(i64::MAX), r#"{"v":9223372036854775808}"#, false),
        (Scalar::Integer(i64::MIN), r#"{"v":-9223372036854775808.0}"#, true),
        (Scalar::Float(1.0), r#"{"v":1}"#, true),
        (Scalar::Float(0.1), r#"{"v":0.10}"#, true),
        (Scalar::Float(0.1), r#"{"v":1e-1}"#, true),
        (Scalar::Float(0.5), r#"{"v":0}"#, false),
        (Scalar::Float(1e30), r#"{"v":1e30}"#, true),
        (Scalar::Float(f64::MAX), r#"{"v":1e999}"#, false),
        (Scalar::Integer(1), r#"{"v":[1]}"#, false),
    ] {
        assert_eq!(equals(value.clone(), payload), expected, "{value:?} {payload}");
    }
    let starts = |payload: &str| payload_passes(at("/v", prefix("or")), payload);
    assert!(starts(r#"{"v":"or"}"#) && starts(r#"{"v":"\u006frder"}"#));
    assert!(!starts(r#"{"v":"xor"}"#) && !starts(r#"{"v":["or"]}"#) && !starts(r#"{"v":null}"#));
}

#[test]
fn a_value_that_no_test_can_read_is_still_there() {
    for value in ["null", "1e999", "\"\\ud800\"", "[]", "{}"] {
        let payload = format!("{{\"v\":{value}}}");
        assert!(payload_passes(at("/v", Test::Exists(true)), &payload), "{payload}");
        assert!(!payload_passes(at("/v", Test::OneOf(vec![text("x")])), &payload), "{payload}");
        assert!(!payload_passes(at("/v/a", Test::Exists(true)), &payload), "{payload}");
    }
}

#[test]
fn of_a_member_that_is_named_twice_the_last_counts() {
    let payload = r#"{"a":{"b":1},"a":{"c":2}}"#;
    assert!(!payload_passes(at("/a/b", Test::Exists(true)), payload));
    assert!(payload_passes(at("/a/c", Test::Exists(true)), payload));
    assert!(payload_passes(at("/a", Test::OneOf(vec![text("y")])), r#"{"a":"x","a":"y"}"#));
}

#[test]
fn a_field_that_is_not_there_is_told_from_one_that_is() {
    let field = |name: &str, test| Condition { subject: Subject::Field(name.into()), test, negated: false };
    for (condition, expected) in [
        (field("there", Test::OneOf(vec![text("x")])), true),
        (field("there", prefix("y")), false),
        (field("there", Test::Exists(false)), false),
        (field("gone", Test::Exists(false)), true),
        (field("gone", prefix("x")), false),
    ] {
        assert_eq!(passes(std::slice::from_ref(&condition), b"c", b"x"), expected, "{condition:?}");
    }
}

/// A document as it is written: names may repeat, numbers have several forms.
#[derive(Debug, Clone)]
enum Document {
    Plain(&'static str),
    List(Vec<Document>),
    Object(Vec<(&'static str, Document)>),
}

impl Document {
    fn write(&self, out: &mut String) {
        match self {
            Self::Plain(text) => out.push_str(text),
            Self::List(elements) => {
                out.push('[');
                for (at, element) in elements.iter().enumerate() {
                    out.push_str(if at > 0 { " ,\n" } else { "" });
                    element.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push_str("\t{ ");
                for (at, (name, value)) in members.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    out.push_str(&serde_json::to_string(name).unwrap());
                    out.push_str(" :");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

const NAMES: &[&str] = &["a", "b", "0", "1", "01", "-", "", "~", "/", "~1", "é\"", "a/b"];
const PLAIN: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "1",
    "1.0",
    "10e-1",
    "-1",
    "0.5",
    "\"1\"",
    "\"\"",
    "\"true\"",
    "\"\\u0031x\"",
];

fn documents() -> impl Strategy<Value = Document> {
    proptest::sample::select(PLAIN).prop_map(Document::Plain).prop_recursive(4, 24, 4, |inner| {
        let member = (proptest::sample::select(NAMES), inner.clone());
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Document::List),
            proptest::collection::vec(member, 0..4).prop_map(Document::Object),
        ]
    })
}

fn conditions() -> impl Strategy<Value = Condition> {
    let pointer = proptest::collection::vec(proptest::sample::select(NAMES), 0..4).prop_map(|tokens| {
        let escaped = tokens.iter().map(|token| token.replace('~', "~0").replace('/', "~1"));
        escaped.fold(String::new(), |text, token| format!("{text}/{token}"))
    });
    let scalar = proptest::sample::select(vec![
        text("1"),
        text(""),
        text("1x"),
        Scalar::Integer(1),
        Scalar::Integer(-1),
        Scalar::Float(0.5),
        Scalar::Float(1.0),
        Scalar::Bool(true),
        Scalar::Bool(false),
    ]);
    let test = prop_oneof![
        any::<bool>().prop_map(Test::Exists),
        Just(prefix("1")),
        proptest::collection::vec(scalar, 1..4).prop_map(Test::OneOf),
    ];
    let condition = (pointer, test, any::<bool>());
    condition.prop_map(|(pointer, test, negated)| Condition { negated, ..at(&pointer, test) })
}

/// The same by way of serde_json's own values and pointers.
fn expected(condition: &Condition, document: Option<&Value>) -> bool {
    let Subject::Payload(pointer) = &condition.subject else { panic!("only payloads here") };
    let value = document.and_then(|document| document.pointer(&pointer.to_string()));
    let holds = match &condition.test {
        Test::Exists(exists) => value.is_some() == *exists,
        Test::Prefix(prefix) => value.and_then(Value::as_str).is_some_and(|text| text.starts_with(prefix)),
        Test::OneOf(scalars) => value.is_some_and(|value| {
            scalars.iter().any(|scalar| match scalar {
                Scalar::Text(text) => value.as_str() == Some(text),
                Scalar::Integer(number) => value.as_f64() == Some(f64::from(i32::try_from(*number).unwrap())),
                Scalar::Float(number) => value.as_f64() == Some(*number),
                Scalar::Bool(expected) => value.as_bool() == Some(*expected),
            })
        }),
    };
    holds != condition.negated
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn it_looks_where_serde_json_points(
        document in documents(),
        conditions in proptest::collection::vec(conditions(), 1..4),
        cut in proptest::option::weighted(0.2, 0.0..1.0),
    ) {
        let mut payload = String::new();
        document.write(&mut payload);
        if let Some(cut) = cut {
            let kept = payload.chars().count() as f64 * cut;
            payload = payload.chars().enumerate().filter(|(at, _)| (*at as f64) < kept).map(|(_, c)| c).collect();
        }
        let value = serde_json::from_str::<Value>(&payload).ok();
        for condition in &conditions {
            let expected = expected(condition, value.as_ref());
            prop_assert_eq!(payload_passes(condition.clone(), &payload), expected, "{:?} {}", condition, payload);
        }
        let all = conditions.iter().all(|condition| expected(condition, value.as_ref()));
        prop_assert_eq!(passes(&conditions, b"c", payload.as_bytes()), all, "{}", payload);
    }
}
