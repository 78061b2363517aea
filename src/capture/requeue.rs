//! Requeue of a capture's dead letters: a letter becomes an entry after its cause is repaired.
//!
//! There are two kinds of letters. A letter that the destination refused holds the stream and the entry's own fields,
//! which are appended as they are. A letter that tidegate rejected holds the message, which is mapped again by the
//! current configuration. In both cases one script appends the entry and removes the letter, so a command that is cut
//! off neither loses nor repeats it. The entry stands at the stream's end: its place in the order is gone
//! (docs/guides/dead-letters.md).

use super::mapping::{Context, FieldSink, Mapping, RejectReason};
use crate::config::{Capture, Endpoint, redis_keys};
use crate::server::resp::Message;
use crate::server::{ControlConnection, Error, Script, redacted, script};

/// Appends the entry and removes the letter.
const REQUEUE: Script = script!("requeue.lua");

/// The result of requeuing a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequeueOutcome {
    /// It is an entry now, and no letter any more.
    Appended {
        /// The stream.
        stream: Vec<u8>,
        /// The entry's id.
        id: String,
    },
    /// It was removed meanwhile.
    Gone,
    /// It stays, and why.
    Stays(String),
}

/// Names and values, in order.
pub type LetterFields = Vec<(Vec<u8>, Vec<u8>)>;

/// An entry as it is to be appended.
#[derive(Debug, Default)]
pub(super) struct RequeuedEntry {
    pub(super) stream: Vec<u8>,
    pub(super) fields: LetterFields,
}

impl FieldSink for RequeuedEntry {
    fn stream(&mut self, name: &[u8]) {
        self.stream = name.to_vec();
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.fields.push((name.to_vec(), value.to_vec()));
    }
}

/// Appends a letter's entry. `added_unix_ms` is when the letter was written; it replaces the time when the message was
/// received.
///
/// Cancel safety: if the future is dropped, the letter is either unchanged or an entry.
///
/// # Errors
/// If the connection fails or the server refuses. Then the result is unknown, and asking again finds out.
pub async fn requeue(
    connection: &mut ControlConnection,
    endpoint: &Endpoint,
    route: &Capture,
    id: &str,
    added_unix_ms: u64,
    letter: &LetterFields,
) -> Result<RequeueOutcome, Error> {
    let entry = match entry(route, added_unix_ms, letter) {
        Ok(entry) => entry,
        Err(why) => return Ok(RequeueOutcome::Stays(why)),
    };
    let key = |what: &str| redis_keys::of_route(&endpoint.key_prefix, &route.name, what);
    let templated = route.stream.literal().is_none();
    let mut call = redis::cmd("EVAL");
    call.arg(REQUEUE.source).arg(3).arg(key("dead-letters")).arg(&entry.stream).arg(key("streams"));
    call.arg(id).arg(u8::from(templated)).arg(route.max_streams).arg(route.groups.len());
    for group in &route.groups {
        call.arg(group);
    }
    for (name, value) in &entry.fields {
        call.arg(name).arg(value);
    }
    let reply = call.query_async(connection).await;
    let keys = [key("dead-letters").into_bytes(), entry.stream.clone(), key("streams").into_bytes()];
    let reply: Vec<redis::Value> = reply.map_err(|error| Error::from(error).at(&keys))?;
    let text =
        |value: &redis::Value| redacted(&redis::from_redis_value_ref::<Vec<u8>>(value).unwrap_or_default());
    Ok(match reply.as_slice() {
        [redis::Value::Int(1), id] => RequeueOutcome::Appended { stream: entry.stream, id: text(id) },
        [redis::Value::Int(2), why] => {
            let why = Error::reply(text(why).as_bytes()).at(&[&entry.stream]);
            RequeueOutcome::Stays(why.to_string())
        }
        [redis::Value::Int(0)] => RequeueOutcome::Gone,
        _ => return Err(REQUEUE.invalid_reply()),
    })
}

/// The entry that a letter makes now.
fn entry(route: &Capture, added_unix_ms: u64, letter: &LetterFields) -> Result<RequeuedEntry, String> {
    let value = |name: &str| {
        // An entry's own fields come last, so tidegate's is the first of a name.
        letter.iter().find(|(found, _)| found == name.as_bytes()).map(|(_, value)| value.as_slice())
    };
    // position, reason, detail, and then the field that distinguishes the kinds.
    let kind = letter.get(3).map(|(name, _)| name.as_slice());
    if kind == Some(b"stream") {
        let [_, _, _, (_, stream), fields @ ..] = letter.as_slice() else { return Err(unknown()) };
        return Ok(RequeuedEntry { stream: stream.clone(), fields: fields.to_vec() });
    }
    let (Some(b"channel"), Some(channel), Some(payload)) = (kind, value("channel"), value("payload")) else {
        return Err(unknown());
    };
    let size = value("size").and_then(|size| std::str::from_utf8(size).ok()?.parse().ok());
    let size: usize = size.unwrap_or(payload.len());
    if size > payload.len() {
        return Err(format!(
            "only the first {} of the message's {size} bytes were kept, so it cannot be stored completely",
            payload.len()
        ));
    }
    if value("reason") == Some(RejectReason::ChannelTooLong.as_str().as_bytes()) {
        return Err(format!("only the first {} bytes of the channel's name were kept", channel.len()));
    }
    let position = value("position").map(String::from_utf8_lossy).unwrap_or_default();
    let message = Message { channel, pattern: value("pattern"), payload };
    let context = Context { position: &position, received_unix_ms: added_unix_ms };
    let mut entry = RequeuedEntry::default();
    match Mapping::new(route).map(&message, size, &context, &mut entry) {
        Ok(()) => Ok(entry),
        Err(rejection) => Err(format!(
            "the configuration still rejects it: {} ({})",
            rejection.detail,
            rejection.reason.as_str()
        )),
    }
}

fn unknown() -> String {
    "it lacks the fields of a capture's dead letter; another release may have written it".to_owned()
}
