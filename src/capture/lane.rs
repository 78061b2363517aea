//! A lane: the connection over which one route appends, made ready.
//!
//! Ready means: authenticated, the append script loaded, the state read, and the consumer groups of
//! streams that are there already in place. All of it is done anew at every connect, since between two
//! connects the server may have been restarted, emptied, or replaced.

use std::sync::Arc;
use std::time::Duration;

use super::append::{APPEND, Append, Keys};
use super::engine::{Connected, STAND, Scripts};
use super::history::HISTORY;
use super::state::{Revision, State};
use crate::config::{Capture, Endpoint, GroupsStart};
use crate::server::resp::Value;
use crate::server::{self, Connection, Error, load_script};

/// What a lane is made from.
#[derive(Debug, Clone)]
pub(crate) struct LaneSettings {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) capture: Arc<Capture>,
    pub(crate) keys: Keys,
    /// Under which revision it has written before.
    pub(crate) revision: Option<Revision>,
}

/// A lane that is ready.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) connection: Connection,
    pub(crate) connected: Connected,
}

impl Lane {
    /// Makes a lane. Cancel safe.
    pub(crate) async fn open(settings: LaneSettings) -> Result<Self, Error> {
        let LaneSettings { endpoint, capture, keys, revision } = settings;
        let role = format!("{}:append", capture.name);
        let mut connection = server::connect(&endpoint, &role).await?;
        let deadline = endpoint.response_timeout;
        let hash = load_script(&mut connection, APPEND, deadline).await?;
        let stand = load_script(&mut connection, STAND, deadline).await?;
        let history = load_script(&mut connection, HISTORY, deadline).await?;
        let state = connection.ask(deadline, "reading the state", &[b"HGETALL", &keys.state]).await?;
        let state = State::read(&state)?;
        ensure_groups(&mut connection, &capture, &keys, deadline).await?;
        let revision = revision.unwrap_or_else(|| Revision::after(&state, &Revision::hashes(&capture)));
        let append = Append::new(hash, keys, revision.to_string());
        let scripts = Scripts { append, stand, history };
        Ok(Self { connection, connected: Connected { scripts, state, revision } })
    }
}

/// Makes the route's groups on streams that exist already; streams that do not get theirs with their
/// first entry.
async fn ensure_groups(
    connection: &mut Connection,
    capture: &Capture,
    keys: &Keys,
    deadline: Duration,
) -> Result<(), Error> {
    if capture.groups.is_empty() {
        return Ok(());
    }
    let streams = match capture.stream.literal() {
        Some(stream) => vec![stream.as_bytes().to_vec()],
        None => {
            let names = connection
                .ask(deadline, "listing the route's streams", &[b"SMEMBERS", &keys.streams])
                .await?;
            let names = names.elements().unwrap_or_default();
            names.iter().filter_map(|name| name.bytes().map(<[u8]>::to_vec)).collect()
        }
    };
    for stream in streams {
        let groups =
            match connection.ask(deadline, "looking at groups", &[b"XINFO", b"GROUPS", &stream]).await {
                Ok(groups) => groups,
                // `ERR no such key`: nothing is there yet.
                Err(error) if error.code() == Some("ERR") => continue,
                Err(error) => return Err(error),
            };
        for group in &capture.groups {
            if !has_group(&groups, group.as_bytes()) {
                make_group(connection, capture, &stream, group, deadline).await?;
            }
        }
    }
    Ok(())
}

async fn make_group(
    connection: &mut Connection,
    capture: &Capture,
    stream: &[u8],
    group: &str,
    deadline: Duration,
) -> Result<(), Error> {
    let entries = connection.ask(deadline, "counting entries", &[b"XLEN", stream]).await?;
    let start = match (capture.groups_start, entries) {
        (Some(GroupsStart::Beginning), _) | (None, Value::Integer(0)) => b"0".as_slice(),
        (Some(GroupsStart::End), _) => b"$",
        (None, _) => {
            return Err(Error::Refused(format!(
                "the stream {:?} has entries but no consumer group {group:?}: set groups_start to \"0\" to start \
                 the group at the first entry, or to \"$\" to start after the last",
                String::from_utf8_lossy(stream)
            )));
        }
    };
    let make: [&[u8]; 5] = [b"XGROUP", b"CREATE", stream, group.as_bytes(), start];
    match connection.ask(deadline, "making a group", &make).await {
        Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
        _ => Ok(()),
    }
}

/// Whether XINFO GROUPS' reply names a group.
fn has_group(groups: &Value, wanted: &[u8]) -> bool {
    groups.elements().unwrap_or_default().iter().any(|group| {
        let fields = group.elements().unwrap_or_default();
        fields.chunks_exact(2).any(|pair| pair[0].bytes() == Some(b"name") && pair[1].bytes() == Some(wanted))
    })
}
