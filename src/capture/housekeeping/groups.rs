//! Consumer groups that somebody destroyed while the route runs.
//!
//! The route was asked for them (`groups`), and makes them when it connects and with each new stream. One that is
//! destroyed in between would be missed by nobody before the next connect, and its consumers would fail meanwhile.
//! So the groups are looked at now and then, and one that is gone is made again where `groups_start` says; without
//! that it cannot be known where its consumers stood, so it is only told.

use std::time::Instant;

use crate::config::{Capture, GroupsStart};
use crate::harmless;
use crate::logs::{Limited, LogCode};
use crate::server::{ControlConnection, Error};

/// Streams of a template that are looked at in one round, each with a command.
const STREAMS_A_ROUND: usize = 100;

/// What is remembered between the rounds.
#[derive(Debug, Default)]
pub(super) struct Groups {
    log: Limited,
    /// Where the round through the streams of a template has come to.
    cursor: u64,
}

impl Groups {
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
            let mut ask = redis::cmd("XINFO");
            ask.arg("GROUPS").arg(&stream);
            let found: Vec<redis::Value> = match ask.query_async(connection).await.map_err(Error::from) {
                Ok(found) => found,
                // Without the stream there is no group; its first entry makes both. What is no stream the append tells.
                Err(error) if matches!(error.code(), Some("ERR" | "WRONGTYPE")) => continue,
                Err(error) => return Err(error),
            };
            for group in capture.groups.iter().filter(|group| !found.iter().any(|one| is_named(one, group))) {
                self.is_gone(connection, capture, &stream, group).await?;
            }
        }
        Ok(())
    }

    async fn is_gone(
        &mut self,
        connection: &mut ControlConnection,
        capture: &Capture,
        stream: &[u8],
        group: &str,
    ) -> Result<(), Error> {
        let start = match capture.groups_start {
            Some(GroupsStart::Beginning) => Some("0"),
            Some(GroupsStart::End) => Some("$"),
            None => None,
        };
        if let Some(start) = start {
            let mut make = redis::cmd("XGROUP");
            make.arg("CREATE").arg(stream).arg(group).arg(start);
            match make.exec_async(connection).await.map_err(Error::from) {
                // Another instance was faster, or the stream is gone as well.
                Err(error) if matches!(error.code(), Some("BUSYGROUP" | "ERR")) => return Ok(()),
                made => made?,
            }
        }
        let Some(suppressed) = self.log.admit(LogCode::GroupDestroyed.as_str(), Instant::now()) else {
            return Ok(());
        };
        let (route, stream) = (&capture.name, harmless::text(stream));
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

/// Whether one of XINFO GROUPS' descriptions, names and values in turn, is of this group.
fn is_named(group: &redis::Value, wanted: &str) -> bool {
    let redis::Value::Array(fields) = group else { return false };
    let is = |value: &redis::Value, text: &str| matches!(value, redis::Value::BulkString(bytes) if bytes == text.as_bytes());
    fields.chunks_exact(2).any(|pair| is(&pair[0], "name") && is(&pair[1], wanted))
}
