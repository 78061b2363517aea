//! The origin of a message: a member of its JSON object that names the bridges it has passed.
//!
//! Problem: two routes bridge A to B and B to A. The second captures on B what the first publishes there, so each
//! message would return as an echo, for ever. A message of Pub/Sub is bytes alone, without a place for a mark.
//!
//! Constraints: only a JSON object can carry a mark without a format of its own. Its subscribers must still read it, so
//! it stays the same object with one more member. A CloudEvent is such an object. It takes attributes of lower-case
//! letters and digits, with a text as value.
//!
//! ```text
//! {"n":1}  ──broadcast, origin "x"──▶  {"tidegateorigin":"x","n":1}  ──broadcast, origin "y"──▶  {"tidegateorigin":"x,y","n":1}
//! ```
//!
//! Failure: a message that is no JSON object carries no origin, and none can be added.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The name of the member.
const MEMBER: &str = "tidegateorigin";
/// How many bridges a message passes at most: more are a loop whose bridges take off each other's mark.
const MOST: usize = 32;

/// Why a message cannot be marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unmarkable {
    /// It carries the origin already.
    #[error("the message carries the origin of this route: it has been published by it before")]
    Marked,
    /// It is no JSON object.
    #[error("the message is not a JSON object, so it cannot carry an origin")]
    NoObject,
    /// It has passed too many bridges.
    #[error("the message has passed {MOST} bridges, which is taken for a loop")]
    TooMany,
}

/// Returns whether a payload carries an origin.
pub(crate) fn carries(payload: &[u8], origin: &str) -> bool {
    origins(payload).is_some_and(|origins| names(&origins).any(|name| name == origin))
}

/// Writes a message with one origin more, in the place of what `out` holds. `carried` is a payload inside the message
/// whose origins count as the message's own.
///
/// # Errors
/// Why it cannot be marked.
pub(crate) fn mark(
    message: &[u8],
    carried: Option<&[u8]>,
    origin: &str,
    out: &mut Vec<u8>,
) -> Result<(), Unmarkable> {
    let members = members(message).ok_or(Unmarkable::NoObject)?;
    let before = origins(carried.unwrap_or(message)).unwrap_or_default();
    if names(&before).any(|name| name == origin) {
        return Err(Unmarkable::Marked);
    }
    if names(&before).count() >= MOST {
        return Err(Unmarkable::TooMany);
    }
    let all: Vec<&str> = names(&before).chain([origin]).collect();
    out.clear();
    out.push(b'{');
    text(out, MEMBER);
    out.push(b':');
    text(out, &all.join(","));
    for (name, value) in members.iter().filter(|(name, _)| name != MEMBER) {
        out.push(b',');
        text(out, name);
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b'}');
    Ok(())
}

/// The member's value; if it is named twice, the last counts.
fn origins(payload: &[u8]) -> Option<String> {
    // Nearly every message of other programs ends here. An escaped name is none that tidegate wrote.
    memchr::memmem::find(payload, MEMBER.as_bytes())?;
    let members = members(payload)?;
    let (_, value) = members.iter().rfind(|(name, _)| name == MEMBER)?;
    serde_json::from_str(value.get()).ok()
}

fn names(origins: &str) -> impl Iterator<Item = &str> {
    origins.split(',').filter(|name| !name.is_empty())
}

/// The members of a JSON object, in order; `None` if it is none.
fn members(payload: &[u8]) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    let text = std::str::from_utf8(payload).ok()?;
    let mut json = serde_json::Deserializer::from_str(text);
    let members = json.deserialize_map(Members).ok()?;
    json.end().ok()?;
    Some(members)
}

/// Appends a JSON string.
fn text(out: &mut Vec<u8>, text: &str) {
    // A string always has a JSON form, and writing into a Vec cannot fail.
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok());
}

/// A name, borrowed where it holds no escape.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) =
            map.next_entry::<Name<'de>, &'de RawValue>().map_err(A::Error::custom)?
        {
            members.push((name.0, value));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(message: &str, carried: Option<&str>, origin: &str) -> Result<String, Unmarkable> {
        let mut out = b"left over".to_vec();
        mark(message.as_bytes(), carried.map(str::as_bytes), origin, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_mark_is_one_member_more_and_the_rest_stays_as_it_was_written() {
        for (message, expected) in [
            ("{}", r#"{"tidegateorigin":"x"}"#),
            (
                r#" { "b" : 1.50, "a" : { "b" : [ ] }, "b" : "é" } "#,
                r#"{"tidegateorigin":"x","b":1.50,"a":{ "b" : [ ] },"b":"é"}"#,
            ),
            (r#"{"n":1,"tidegateorigin":"y"}"#, r#"{"tidegateorigin":"y,x","n":1}"#),
            (r#"{"tidegateorigin":7,"q\"":0}"#, r#"{"tidegateorigin":"x","q\"":0}"#),
        ] {
            let found = marked(message, None, "x").unwrap();
            assert_eq!(found, expected);
            assert!(carries(found.as_bytes(), "x"));
            assert_eq!(marked(&found, None, "x"), Err(Unmarkable::Marked));
        }
        let lifted = marked(r#"{"stream":"s"}"#, Some(r#"{"tidegateorigin":"y"}"#), "x").unwrap();
        assert_eq!(lifted, r#"{"tidegateorigin":"y,x","stream":"s"}"#);
        assert_eq!(marked("{}", Some(r#"{"tidegateorigin":"x"}"#), "x"), Err(Unmarkable::Marked));
    }

    #[test]
    fn what_is_no_object_carries_nothing_and_a_long_way_is_a_loop() {
        for message in ["", "7", "[]", "{", "{}{}", "plain", r#"{"a":}"#] {
            assert_eq!(marked(message, None, "x"), Err(Unmarkable::NoObject), "{message}");
        }
        for payload in [
            "tidegateorigin x",
            r#"["tidegateorigin","x"]"#,
            r#"{"a":{"tidegateorigin":"x"}}"#,
            r#"{"tidegateorigin":"xy"}"#,
        ] {
            assert!(!carries(payload.as_bytes(), "x"), "{payload}");
        }
        let mut message = "{}".to_owned();
        for bridge in 0..MOST {
            message = marked(&message, None, &format!("b{bridge}")).unwrap();
        }
        assert_eq!(marked(&message, None, "x"), Err(Unmarkable::TooMany));
    }
}
