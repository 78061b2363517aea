//! What stands in the streams: entries, gap records, dead letters.

use std::time::Duration;

use redis::Value;

use super::oracle::Published;
use super::server::Server;
use super::wait::eventually;

/// One entry: id, then fields in order.
pub(crate) type Entry = (String, Vec<(Vec<u8>, Vec<u8>)>);

/// One entry of a capture in format `raw`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Captured {
    pub(crate) message: Published,
    pub(crate) pattern: Option<Vec<u8>>,
    /// Of `include = ["id"]`.
    pub(crate) position: Option<String>,
}

/// One gap record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Position of the last item that is known before; empty where there is none.
    pub(crate) from: String,
    /// Position of the first item after.
    pub(crate) to: String,
    pub(crate) started_at: u64,
    pub(crate) ended_at: u64,
    pub(crate) cause: String,
    /// It begins with an ordered stop.
    pub(crate) planned: bool,
    /// Messages that were received and given up.
    pub(crate) dropped: u64,
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub(crate) reason: String,
    pub(crate) detail: String,
    pub(crate) channel: Vec<u8>,
    /// The payload, or its first bytes where it is large.
    pub(crate) payload: Vec<u8>,
    /// Of the whole payload; only where tidegate itself refused the message.
    pub(crate) size: Option<usize>,
    pub(crate) position: String,
}

/// All entries of a stream, oldest first; none for a key that does not exist.
#[track_caller]
pub(crate) fn entries(server: &Server, stream: &str) -> Vec<Entry> {
    const CHUNK: usize = 10_000;
    let mut connection = server.connection();
    let mut all: Vec<Entry> = Vec::new();
    let mut from = "-".to_owned();
    loop {
        let chunk: Vec<Value> = redis::cmd("XRANGE")
            .arg(stream)
            .arg(&from)
            .arg("+")
            .arg("COUNT")
            .arg(CHUNK)
            .query(&mut connection)
            .unwrap_or_else(|error| panic!("XRANGE {stream}: {error}"));
        // A chunk with room left ends it: a stream that grows meanwhile would never give an empty one.
        let ends = chunk.len() < CHUNK;
        all.extend(chunk.into_iter().map(entry));
        match all.last() {
            Some((last, _)) if !ends => from = format!("({last}"),
            _ => return all,
        }
    }
}

fn entry(value: Value) -> Entry {
    let (id, fields): (String, Vec<Vec<u8>>) =
        redis::from_redis_value(value).expect("an entry is an id and fields");
    assert!(fields.len().is_multiple_of(2), "fields come in pairs");
    let fields = fields.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    (id, fields)
}

/// Takes a field out by its name.
fn take(fields: &mut Vec<(Vec<u8>, Vec<u8>)>, name: &str) -> Option<Vec<u8>> {
    let at = fields.iter().position(|(field, _)| field == name.as_bytes())?;
    Some(fields.remove(at).1)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("tidegate's own fields are text")
}

/// All entries of a capture in format `raw`; any field that does not belong there fails the test.
#[track_caller]
pub(crate) fn captured(server: &Server, stream: &str) -> Vec<Captured> {
    let all = entries(server, stream).into_iter().map(|(id, mut fields)| {
        let mut need =
            |name| take(&mut fields, name).unwrap_or_else(|| panic!("{stream} {id} has no field {name}"));
        let message = Published { channel: need("channel"), payload: need("payload") };
        let pattern = take(&mut fields, "pattern");
        let position = take(&mut fields, "id").map(text);
        assert!(fields.is_empty(), "{stream} {id} has further fields: {fields:?}");
        Captured { message, pattern, position }
    });
    all.collect()
}

/// The entries of several streams of one route (with `include = ["id"]`), in the order of positions.
#[track_caller]
pub(crate) fn captured_in_all<'a>(
    server: &Server,
    streams: impl IntoIterator<Item = &'a str>,
) -> Vec<Captured> {
    let mut all: Vec<_> = streams.into_iter().flat_map(|stream| captured(server, stream)).collect();
    assert!(all.iter().all(|entry| entry.position.is_some()), "the route includes positions");
    all.sort_by(|left, right| left.position.cmp(&right.position));
    all
}

/// The gap records of a route.
#[track_caller]
pub(crate) fn gaps(server: &Server, route: &str) -> Vec<Gap> {
    let key = format!("tidegate:{route}:gaps");
    let all = entries(server, &key).into_iter().map(|(id, mut fields)| {
        let planned = take(&mut fields, "planned").map(text);
        let mut need =
            |name| text(take(&mut fields, name).unwrap_or_else(|| panic!("{key} {id} has no field {name}")));
        let number =
            |text: String| text.parse().unwrap_or_else(|_| panic!("{key} {id}: not a number: {text}"));
        Gap {
            from: need("from"),
            to: need("to"),
            started_at: number(need("started_at")),
            ended_at: number(need("ended_at")),
            cause: need("cause"),
            planned: planned.as_deref() == Some("1"),
            dropped: number(need("dropped")),
        }
    });
    all.collect()
}

/// The dead letters of a route.
#[track_caller]
pub(crate) fn dead_letters(server: &Server, route: &str) -> Vec<DeadLetter> {
    let key = format!("tidegate:{route}:dead-letters");
    let all = entries(server, &key).into_iter().map(|(id, mut fields)| {
        let number = |size| text(size).parse().unwrap_or_else(|_| panic!("{key} {id}: size is not a number"));
        let size = take(&mut fields, "size").map(number);
        let mut need =
            |name| take(&mut fields, name).unwrap_or_else(|| panic!("{key} {id} has no field {name}"));
        DeadLetter {
            reason: text(need("reason")),
            detail: text(need("detail")),
            channel: need("channel"),
            payload: need("payload"),
            size,
            position: text(need("position")),
        }
    });
    all.collect()
}

/// Waits until a stream's last entry carries this payload. The source's order is total: once a
/// message is in its stream, everything published before it has been dealt with.
#[track_caller]
pub(crate) fn wait_for_last(server: &Server, stream: &str, payload: &[u8], within: Duration) {
    wait_for_last_after(server, stream, payload, None, within);
}

/// The same, of an entry other than the one with this id: an earlier message may have been the same.
#[track_caller]
pub(crate) fn wait_for_last_after(
    server: &Server,
    stream: &str,
    payload: &[u8],
    after: Option<&str>,
    within: Duration,
) {
    eventually(&format!("the last message is in {stream}"), within, || {
        let last = last_entry(server, stream)?.ok_or("no entry")?;
        if after != Some(last.0.as_str()) && last.1.iter().any(|(_, value)| value == payload) {
            Ok(())
        } else {
            Err(format!("{} entries, the last is {}", server.stream_length(stream), last.0))
        }
    });
}

/// A stream's last entry, where it has one and the server answers.
pub(crate) fn last_entry(server: &Server, stream: &str) -> Result<Option<Entry>, String> {
    let last: Vec<Value> =
        server.try_ask(&["XREVRANGE", stream, "+", "-", "COUNT", "1"]).map_err(|error| error.to_string())?;
    Ok(last.into_iter().next().map(entry))
}
