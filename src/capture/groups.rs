//! The consumer groups of a route (`groups`).
//!
//! [`ensure`] makes them on existing streams at each connect; the append script makes them with each new stream. A
//! group that is destroyed in between would stay away until the next connect, and its consumers would fail meanwhile.
//! So [`GroupWatch`] checks the groups regularly, and makes a missing one again at `groups_start`. Without
//! `groups_start` the place of its consumers is unknown, so the loss is only logged.

use std::time::{Duration, Instant};

use super::append::call::CaptureKeys;
use crate::config::{Capture, GroupsStart};
use crate::logs::{Limited, LogCode};
use crate::server::resp::{self, Value};
use crate::server::{Connection, ControlConnection, Error};
use crate::text::printable;

/// Streams of a template that are looked at in one round, each with a command. The server answers them in well under
/// a millisecond.
const STREAMS_A_ROUND: usize = 100;

/// Makes the route's groups on streams that exist already; streams that do not get theirs with their
/// first entry.
pub(super) async fn ensure(
    connection: &mut Connection,
    capture: &Capture,
    keys: &CaptureKeys,
    deadline: Duration,
) -> Result<(), Error> {
    if capture.groups.is_empty() {
        return Ok(());
    }
    if let Some(stream) = capture.stream.literal() {
        return ensure_on(connection, capture, &[stream.as_bytes()], deadline).await;
    }
    let round = STREAMS_A_ROUND.to_string();
    let mut cursor = b"0".to_vec();
    loop {
        let scan: [&[u8]; 5] = [b"SSCAN", &keys.streams, &cursor, b"COUNT", round.as_bytes()];
        let page = connection.ask(deadline, "listing the route's streams", &scan).await;
        let page = page.map_err(|error| error.at(&[&keys.streams]))?;
        let Some([next, streams]) = page.elements() else {
            return Err(Error::Protocol("the reply to SSCAN has no cursor and names".to_owned()));
        };
        let streams: Vec<&[u8]> =
            streams.elements().unwrap_or_default().iter().filter_map(Value::bytes).collect();
        // A small set comes as a whole, whatever was asked for.
        for some in streams.chunks(STREAMS_A_ROUND) {
            ensure_on(connection, capture, some, deadline).await?;
        }
        cursor = next.bytes().unwrap_or(b"0").to_vec();
        if cursor == b"0" {
            return Ok(());
        }
    }
}

/// Makes the groups on some streams. All are asked at once: one after another, 20,000 streams would be as many round
/// trips before the first message is stored.
async fn ensure_on(
    connection: &mut Connection,
    capture: &Capture,
    streams: &[&[u8]],
    deadline: Duration,
) -> Result<(), Error> {
    for stream in streams {
        resp::command(connection.out(), &[b"XINFO", b"GROUPS", stream]);
    }
    let mut absent = Vec::new();
    for stream in streams {
        match connection.answer(deadline, "looking at groups").await {
            Ok(groups) => absent.extend(missing(capture, &groups).map(|group| (stream, group))),
            // `ERR no such key`: nothing is there yet.
            Err(error) if error.code() == Some("ERR") => {}
            Err(error) => return Err(error),
        }
    }
    for (stream, group) in absent {
        make(connection, capture, stream, group, deadline).await?;
    }
    Ok(())
}

/// Makes a group on a stream that may have entries already.
async fn make(
    connection: &mut Connection,
    capture: &Capture,
    stream: &[u8],
    group: &str,
    deadline: Duration,
) -> Result<(), Error> {
    let start = match capture.groups_start {
        Some(start) => start,
        None => match connection.ask(deadline, "counting entries", &[b"XLEN", stream]).await? {
            Value::Integer(0) => GroupsStart::Beginning,
            _ => {
                return Err(Error::Refused(format!(
                    "the stream {:?} has entries but no consumer group {group:?}: set groups_start to \"0\" to start \
                     the group at the first entry, or to \"$\" to start after the last",
                    String::from_utf8_lossy(stream)
                )));
            }
        },
    };
    match connection.ask(deadline, "making a group", &creation(stream, group, id_of(start))).await {
        Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
        _ => Ok(()),
    }
}

/// State between the rounds.
#[derive(Debug, Default)]
pub(super) struct GroupWatch {
    log: Limited,
    /// Cursor of the scan of a template's streams.
    cursor: u64,
}

impl GroupWatch {
    /// Looks at the route's stream, or at some of those that its template made. `made` is the set of their names.
    pub(super) async fn look(
        &mut self,
        connection: &mut ControlConnection,
        capture: &Capture,
        made: &[u8],
    ) -> Result<(), Error> {
        if capture.groups.is_empty() {
            return Ok(());
        }
        let streams = match capture.stream.literal() {
            Some(stream) => vec![stream.as_bytes().to_vec()],
            None => {
                let mut scan = redis::cmd("SSCAN");
                scan.arg(made).arg(self.cursor).arg("COUNT").arg(STREAMS_A_ROUND);
                let (next, streams): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await?;
                self.cursor = next;
                streams
            }
        };
        for stream in streams {
            let groups = match connection.ask(&[b"XINFO", b"GROUPS", &stream]).await {
                Ok(groups) => groups,
                // Without the stream there is no group; its first entry makes both. The append reports other types.
                Err(error) if matches!(error.code(), Some("ERR" | "WRONGTYPE")) => continue,
                Err(error) => return Err(error),
            };
            for group in missing(capture, &groups) {
                self.on_destroyed(connection, capture, &stream, group).await?;
            }
        }
        Ok(())
    }

    async fn on_destroyed(
        &mut self,
        connection: &mut ControlConnection,
        capture: &Capture,
        stream: &[u8],
        group: &str,
    ) -> Result<(), Error> {
        let start = capture.groups_start.map(id_of);
        if let Some(start) = start {
            match connection.ask(&creation(stream, group, start)).await {
                // Another instance was faster, or the stream is gone as well.
                Err(error) if matches!(error.code(), Some("BUSYGROUP" | "ERR")) => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        let Some(suppressed) = self.log.admit(LogCode::GroupDestroyed.as_str(), Instant::now()) else {
            return Ok(());
        };
        let (route, stream) = (&capture.name, printable::text(stream));
        let done = match start {
            Some(start) => format!("tidegate creates it again, starting at {start} (groups_start)"),
            None => "its consumers receive nothing until you create it, or set groups_start".into(),
        };
        tracing::warn!(
            event = LogCode::GroupDestroyed.as_str(),
            route,
            stream,
            group,
            suppressed,
            "the consumer group {group:?} of the stream {stream:?} was destroyed; {done}"
        );
        Ok(())
    }
}

/// The route's groups that a reply to XINFO GROUPS does not name.
fn missing<'c>(capture: &'c Capture, groups: &Value) -> impl Iterator<Item = &'c String> {
    capture.groups.iter().filter(|group| !has_group(groups, group.as_bytes()))
}

fn has_group(groups: &Value, wanted: &[u8]) -> bool {
    groups.elements().unwrap_or_default().iter().any(|group| {
        let fields = group.elements().unwrap_or_default();
        fields.chunks_exact(2).any(|pair| pair[0].bytes() == Some(b"name") && pair[1].bytes() == Some(wanted))
    })
}

/// The id behind which a group begins.
fn id_of(start: GroupsStart) -> &'static str {
    match start {
        GroupsStart::Beginning => "0",
        GroupsStart::End => "$",
    }
}

/// The command that makes a group on a stream.
fn creation<'a>(stream: &'a [u8], group: &'a str, start: &'a str) -> [&'a [u8]; 5] {
    [b"XGROUP", b"CREATE", stream, group.as_bytes(), start.as_bytes()]
}
