//! A lane: the connection over which one route appends, made ready.
//!
//! Ready means: authenticated, the append script loaded, the state read, and the consumer groups of
//! streams that are there already in place. All of it is done anew at every connect, since between two
//! connects the server may have been restarted, emptied, or replaced.

use std::sync::Arc;
use std::time::Duration;

use crate::capture::append::call::{APPEND, Append, CaptureKeys};
use crate::capture::append::state::{RankedRevision, StoredState};
use crate::capture::engine::{Connected, STAND, Scripts};
use crate::config::{Capture, Endpoint, GroupsStart};
use crate::server::resp::Value;
use crate::server::{self, Connection, Error, load_script};
use crate::source::replication::epochs::HISTORY;

/// What a lane is made from.
#[derive(Debug, Clone)]
pub(crate) struct AppendConnectionSettings {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) capture: Arc<Capture>,
    pub(crate) keys: CaptureKeys,
    /// Under which revision it has written before.
    pub(crate) revision: Option<RankedRevision>,
}

/// A lane that is ready.
#[derive(Debug)]
pub(crate) struct AppendConnection {
    pub(crate) connection: Connection,
    pub(crate) connected: Connected,
}

impl AppendConnection {
    /// Makes a lane. Cancel safe.
    pub(crate) async fn open(settings: AppendConnectionSettings) -> Result<Self, Error> {
        let AppendConnectionSettings { endpoint, capture, keys, revision } = settings;
        let role = format!("{}:append", capture.name);
        let mut connection = server::connect(&endpoint, &role).await?;
        let deadline = endpoint.response_timeout;
        let hash = load_script(&mut connection, APPEND, deadline).await?;
        let stand = load_script(&mut connection, STAND, deadline).await?;
        let history = load_script(&mut connection, HISTORY, deadline).await?;
        let state = connection.ask(deadline, "reading the state", &[b"HGETALL", &keys.state]).await?;
        let state = StoredState::read(&state)?;
        ensure_groups(&mut connection, &capture, &keys, deadline).await?;
        let revision =
            revision.unwrap_or_else(|| RankedRevision::after(&state, &RankedRevision::hashes(&capture)));
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
    keys: &CaptureKeys,
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
                "the stream {:?} has entries but no consumer group {group:?}: set groups_start = \"0\" to let the \
                 group begin with the oldest entry, or \"$\" with the next one",
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
