//! The format `cloudevents`: a CloudEvents 1.0 structured JSON document in one field.
//!
//! Variables in `source` and `type` are percent-encoded wherever RFC 3986 does not allow a byte: "source … MUST be a
//! non-empty URI-reference", channels are any bytes, and this loses none of them.
//!
//! `traceparent` and `tracestate` (the distributed tracing extension) are taken from well-formed members of those names
//! at the top of a JSON payload; others stay in `data` only.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::render::{NamePiece, TemplateInput, render};
use super::{Context, RejectReason, Rejection, append, fields};
use crate::text::glob::Captures;
use crate::text::template::{Part, Template};

#[derive(Debug)]
pub(super) struct CloudEventsFormat {
    source: Vec<Part>,
    r#type: Vec<Part>,
    captures: Captures,
    /// The document. Kept from message to message, so that it is allocated once.
    document: Vec<u8>,
}

impl CloudEventsFormat {
    pub(super) fn new(source: &Template, r#type: &Template) -> Self {
        Self {
            source: source.parts().to_vec(),
            r#type: r#type.parts().to_vec(),
            captures: Captures::default(),
            document: Vec::new(),
        }
    }

    /// The document for a message.
    pub(super) fn make(
        &mut self,
        input: TemplateInput<'_>,
        context: &Context<'_>,
    ) -> Result<&[u8], Rejection> {
        let out = &mut self.document;
        out.clear();
        out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":\"");
        append(out, context.position);
        out.extend_from_slice(b"\",\"source\":\"");
        attribute(out, "source", &self.source, input, &mut self.captures)?;
        out.extend_from_slice(b"\",\"type\":\"");
        attribute(out, "type", &self.r#type, input, &mut self.captures)?;
        out.extend_from_slice(b"\",\"time\":\"");
        let received = UNIX_EPOCH.checked_add(Duration::from_millis(context.received_unix_ms));
        append(out, &humantime::format_rfc3339_millis(received.unwrap_or(UNIX_EPOCH)));
        out.extend_from_slice(b"\",");
        data(out, input.message.payload);
        out.push(b'}');
        Ok(out)
    }
}

/// Appends the content of `source` or `type`, which may not be empty.
fn attribute(
    out: &mut Vec<u8>,
    name: &str,
    parts: &[Part],
    input: TemplateInput<'_>,
    captures: &mut Captures,
) -> Result<(), Rejection> {
    let begin = out.len();
    render(parts, input, captures, |piece| match piece {
        NamePiece::Literal(text) => escape(out, &String::from_utf8_lossy(text)),
        NamePiece::Variable(bytes) => percent_encode(out, bytes),
    })?;
    if out.len() == begin {
        return Err(Rejection::new(
            RejectReason::MissingVariable,
            format!("the attribute {name} is empty, but CloudEvents requires it"),
        ));
    }
    Ok(())
}

/// Appends `datacontenttype` and the payload, and what tracing members a JSON payload has.
fn data(out: &mut Vec<u8>, payload: &[u8]) {
    let Ok(text) = std::str::from_utf8(payload) else {
        out.extend_from_slice(b"\"datacontenttype\":\"application/octet-stream\",\"data_base64\":\"");
        out.extend_from_slice(STANDARD.encode(payload).as_bytes());
        out.push(b'"');
        return;
    };
    if let Ok(json) = serde_json::from_str::<&RawValue>(text) {
        trace(out, json);
        out.extend_from_slice(b"\"datacontenttype\":\"application/json\",\"data\":");
        out.extend_from_slice(json.get().as_bytes());
    } else {
        out.extend_from_slice(b"\"datacontenttype\":\"text/plain\",\"data\":");
        quote(out, text);
    }
}

/// Appends the tracing members of a JSON object, if it has well-formed ones.
fn trace(out: &mut Vec<u8>, json: &RawValue) {
    let bytes = json.get().as_bytes();
    if !bytes.starts_with(b"{") || memchr::memmem::find(bytes, b"\"traceparent\"").is_none() {
        return;
    }
    let (mut parent, mut state) = (None::<Cow<'_, str>>, None::<Cow<'_, str>>);
    let read = fields::each_member(bytes, |name, value| {
        let slot = match name {
            "traceparent" => &mut parent,
            "tracestate" => &mut state,
            _ => return Ok(()),
        };
        if slot.is_none() && value.get().starts_with('"') {
            // A value that is not a string of whole characters is not well-formed, and stays in the data only.
            *slot = fields::string(value.get()).ok();
        }
        Ok(())
    });
    if read.is_err() {
        return;
    }
    let Some(parent) = parent.filter(|text| is_traceparent(text.as_bytes())) else { return };
    out.extend_from_slice(b"\"traceparent\":\"");
    out.extend_from_slice(parent.as_bytes());
    out.extend_from_slice(b"\",");
    if let Some(state) = state.filter(|text| is_tracestate(text.as_bytes())) {
        out.extend_from_slice(b"\"tracestate\":\"");
        escape(out, &state);
        out.extend_from_slice(b"\",");
    }
}

/// Returns whether a text is a `traceparent` of W3C Trace Context: version, trace id, parent id, flags.
fn is_traceparent(text: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let Some((head, tail)) = text.split_at_checked(55) else { return false };
    let mut parts = head.split(|byte| *byte == b'-');
    let (Some(version), Some(trace), Some(parent), Some(flags), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let lengths = (version.len(), trace.len(), parent.len(), flags.len()) == (2, 32, 16, 2);
    // A later version may add parts; version 00 has none, and ff is forbidden.
    let tail_fits = tail.is_empty()
        || (version != b"00" && tail[0] == b'-' && tail.iter().all(|byte| matches!(byte, b'!'..=b'~')));
    let plain = !tail.iter().any(|byte| matches!(byte, b'"' | b'\\'));
    lengths
        && tail_fits
        && plain
        && [version, trace, parent, flags].into_iter().all(hex)
        && version != b"ff"
        && !zero(trace)
        && !zero(parent)
}

/// Returns whether a text can be a `tracestate`: up to 32 members `key=value` of printable ASCII, and no longer than
/// the 512 characters that W3C Trace Context asks everyone to carry.
fn is_tracestate(text: &[u8]) -> bool {
    let member = |member: &[u8]| {
        let member = member.trim_ascii();
        member.is_empty() || memchr::memchr(b'=', member).is_some_and(|at| at > 0 && at + 1 < member.len())
    };
    !text.is_empty()
        && text.len() <= 512
        && text.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        && text.split(|byte| *byte == b',').count() <= 32
        && text.split(|byte| *byte == b',').all(member)
}

/// Appends text as a JSON string.
fn quote(out: &mut Vec<u8>, text: &str) {
    // A string always has a JSON form, and writing into a Vec cannot fail.
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok());
}

/// Appends a short text as a part of a JSON string.
fn escape(out: &mut Vec<u8>, text: &str) {
    let begin = out.len();
    quote(out, text);
    out.remove(begin);
    out.pop();
}

/// Appends bytes, those percent-encoded that a URI-reference may not hold as they are.
fn percent_encode(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~:/?@!$&'()*+,;=".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_well_formed_or_not_carried() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good.as_bytes()));
        assert!(is_traceparent(format!("01{}-more", &good[2..]).as_bytes()));
        for bad in [
            String::new(),
            good.to_uppercase(),
            format!("{good}-more"),
            format!("ff{}", &good[2..]),
            good.replace('-', "_"),
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            format!("01{}-\"", &good[2..]),
            good.replacen("00-", "0-0", 1),
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_tracestate_is_well_formed_or_not_carried() {
        assert!(is_tracestate(b"rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"));
        for bad in ["", "rojo", "=1", "a=", "a=\u{7f}", &"a=b,".repeat(40), &format!("a={}", "b".repeat(600))]
        {
            assert!(!is_tracestate(bad.as_bytes()), "{bad}");
        }
    }
}
