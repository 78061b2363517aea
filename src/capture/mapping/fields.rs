//! The format `fields`: the top-level members of a JSON object become the entry's fields.
//!
//! Order and repeated names stay as they are written. A string becomes its content; everything else
//! stays the text that the publisher wrote, so that no number loses digits on its way.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{FieldSink, MAX_FIELDS, RejectReason, Rejection};

/// Adds the members of the object in `payload` to an entry that has `present` fields.
pub(super) fn map(payload: &[u8], present: usize, sink: &mut impl FieldSink) -> Result<(), Rejection> {
    let members = each_member(payload, |name, value| {
        sink.field(name.as_bytes(), &content(value)?);
        Ok(())
    })?;
    if members > MAX_FIELDS {
        return Err(Rejection::new(
            RejectReason::TooManyFields,
            format!("the JSON object has {members} members; an entry can have {MAX_FIELDS}"),
        ));
    }
    if members + present == 0 {
        return Err(Rejection::new(
            RejectReason::NoFields,
            "the JSON object is empty, but an entry needs a field",
        ));
    }
    Ok(())
}

/// Calls `take` with the first [`MAX_FIELDS`] members of a JSON object, and counts them all.
pub(super) fn each_member<'a>(
    payload: &'a [u8],
    take: impl FnMut(&str, &'a RawValue) -> Result<(), serde_json::Error>,
) -> Result<usize, Rejection> {
    let read = || {
        let text = std::str::from_utf8(payload).map_err(serde_json::Error::custom)?;
        let mut json = serde_json::Deserializer::from_str(text);
        let members = json.deserialize_map(ObjectMembers { take })?;
        json.end()?;
        Ok(members)
    };
    read().map_err(|error: serde_json::Error| {
        Rejection::new(RejectReason::NotJsonObject, format!("the payload is not a JSON object: {error}"))
    })
}

/// A value as the field will hold it.
fn content(value: &RawValue) -> Result<Cow<'_, [u8]>, serde_json::Error> {
    let text = value.get();
    if text.starts_with('"') { Ok(into_bytes(string(text)?)) } else { Ok(Cow::Borrowed(text.as_bytes())) }
}

/// The content of a JSON string.
pub(super) fn string(json: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    serde_json::from_str::<JsonString<'_>>(json).map(|text| text.0)
}

fn into_bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// A JSON string, borrowed where it holds no escape.
#[derive(Deserialize)]
struct JsonString<'a>(#[serde(borrow)] Cow<'a, str>);

struct ObjectMembers<F> {
    take: F,
}

impl<'de, F> Visitor<'de> for ObjectMembers<F>
where
    F: FnMut(&str, &'de RawValue) -> Result<(), serde_json::Error>,
{
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<usize, A::Error> {
        let mut members = 0;
        while members < MAX_FIELDS {
            let Some((name, value)) = map.next_entry::<JsonString<'de>, &'de RawValue>()? else {
                return Ok(members);
            };
            (self.take)(&name.0, value).map_err(A::Error::custom)?;
            members += 1;
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            members += 1;
        }
        Ok(members)
    }
}
