//! The filter against a second one, which is slow and plain.

#![allow(clippy::unwrap_used, reason = "what cannot go on has found something")]

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Filter, Filterable};
use crate::config::{Condition, Scalar, Subject, Test};
use crate::text::fuzz_input::FuzzInput;
use crate::text::json_pointer::Pointer;

const CONDITIONS: u8 = 4;
/// Few names, so that payloads have some of them.
const TOKENS: [&str; 8] = ["a", "b", "0", "1", "01", "", "~1", "~0"];
const TEXTS: [&str; 4] = ["", "a", "1", "\u{e9}\n"];

struct FuzzedMessage<'a> {
    channel: &'a [u8],
    payload: &'a [u8],
}

impl Filterable for FuzzedMessage<'_> {
    fn channel(&self) -> Option<&[u8]> {
        Some(self.channel)
    }

    fn field(&self, name: &[u8]) -> Option<&[u8]> {
        (name == b"there").then_some(self.channel)
    }

    fn payload(&self) -> Option<&[u8]> {
        Some(self.payload)
    }
}

/// Some conditions, a channel, and the rest as the payload.
pub fn filter(input: &[u8]) {
    let mut input = FuzzInput(input);
    let count = input.byte() % CONDITIONS;
    let conditions: Vec<Condition> = (0..count).map(|_| condition(&mut input)).collect();
    let length = usize::from(input.byte() % 8);
    let message = FuzzedMessage { channel: input.bytes(length), payload: input.0 };
    let mut filter = Filter::new(&conditions);
    let passes = filter.passes(&message);
    let expected = conditions.iter().all(|condition| holds(condition, &message));
    assert_eq!(passes, expected, "{conditions:?} {:?}", message.payload.escape_ascii().to_string());
    // Nothing is left of the message before.
    let _ = filter.passes(&FuzzedMessage { channel: b"", payload: b"{\"a\":{\"b\":[1]},\"0\":\"a\"}" });
    assert_eq!(filter.passes(&message), passes, "another message made a difference");
}

fn condition(input: &mut FuzzInput<'_>) -> Condition {
    let kind = input.byte();
    let subject = match kind % 8 {
        0 if kind & 128 == 0 => Subject::Channel,
        0 => Subject::Text,
        1 => Subject::Field("there".to_owned()),
        2 => Subject::Field("gone".to_owned()),
        steps => {
            let pointer: String = (3..steps).map(|_| format!("/{}", input.of(&TOKENS))).collect();
            Subject::Payload(Pointer::parse(&pointer).unwrap())
        }
    };
    let kind = input.byte();
    let test = match kind % 4 {
        0 => Test::Exists(true),
        1 => Test::Exists(false),
        2 => Test::Prefix(input.of(&TEXTS).to_owned()),
        _ => Test::OneOf((0..=input.byte() % 3).map(|_| scalar(input)).collect()),
    };
    Condition { subject, test, negated: kind & 128 != 0 }
}

fn scalar(input: &mut FuzzInput<'_>) -> Scalar {
    match input.byte() % 4 {
        0 => Scalar::Text(input.of(&TEXTS).to_owned()),
        1 => Scalar::Integer(i64::from_ne_bytes(input.number().to_ne_bytes())),
        // The configuration takes no other.
        2 => Scalar::Float(
            Some(f64::from_bits(input.number())).filter(|float| float.is_finite()).unwrap_or(0.5),
        ),
        _ => Scalar::Bool(input.byte() & 1 == 1),
    }
}

/// Returns whether one condition holds.
fn holds(condition: &Condition, message: &FuzzedMessage<'_>) -> bool {
    let text = |found: Option<&[u8]>| match (&condition.test, found) {
        (Test::Exists(exists), found) => *exists == found.is_some(),
        (Test::Prefix(prefix), Some(text)) => text.starts_with(prefix.as_bytes()),
        (Test::OneOf(values), Some(text)) => {
            values.iter().any(|value| matches!(value, Scalar::Text(wanted) if wanted.as_bytes() == text))
        }
        (Test::Prefix(_) | Test::OneOf(_), None) => false,
    };
    let holds = match &condition.subject {
        Subject::Channel => text(message.channel()),
        Subject::Text => text(message.payload()),
        Subject::Field(name) => text(message.field(name.as_bytes())),
        Subject::Payload(pointer) => holds_at(&condition.test, &value_at(message.payload, pointer)),
    };
    holds != condition.negated
}

/// The members of an object, as they are written.
struct Members(Vec<(Box<RawValue>, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(All)
    }
}

/// The value at a pointer, as it is written.
fn value_at(payload: &[u8], pointer: &Pointer) -> Option<String> {
    let mut value = serde_json::from_slice::<Box<RawValue>>(payload).ok()?;
    for token in pointer.tokens() {
        value = match value.get().as_bytes().first()? {
            b'{' => {
                let members = serde_json::from_str::<Members>(value.get()).ok()?.0;
                let named = |name: &RawValue| serde_json::from_str::<String>(name.get()).ok();
                members.into_iter().rfind(|(name, _)| named(name).as_ref() == Some(token))?.1
            }
            b'[' => {
                let place: usize = token.parse().ok().filter(|place: &usize| place.to_string() == *token)?;
                let mut elements = serde_json::from_str::<Vec<Box<RawValue>>>(value.get()).ok()?;
                (place < elements.len()).then(|| elements.swap_remove(place))?
            }
            _ => return None,
        };
    }
    Some(value.get().to_owned())
}

fn holds_at(test: &Test, value: &Option<String>) -> bool {
    let Some(value) = value else { return matches!(test, Test::Exists(false)) };
    let text = serde_json::from_str::<String>(value).ok();
    match test {
        Test::Exists(exists) => *exists,
        Test::Prefix(prefix) => text.is_some_and(|text| text.starts_with(prefix)),
        Test::OneOf(values) => values.iter().any(|wanted| match wanted {
            Scalar::Text(wanted) => text.as_ref() == Some(wanted),
            Scalar::Bool(wanted) => *value == wanted.to_string(),
            Scalar::Integer(wanted) => match value.parse::<i128>() {
                Ok(number) => number == i128::from(*wanted),
                // A double that is this whole number; the sum makes one zero of both.
                Err(_) => value.parse::<f64>().is_ok_and(|float| {
                    format!("{:.0}", float + 0.0) == wanted.to_string() && float.fract() == 0.0
                }),
            },
            Scalar::Float(wanted) => match value.parse::<i128>() {
                Ok(number) => {
                    wanted.fract() == 0.0
                        && (format!("{wanted:.0}") == number.to_string() || (*wanted == 0.0 && number == 0))
                }
                Err(_) => value.parse::<f64>() == Ok(*wanted),
            },
        }),
    }
}
