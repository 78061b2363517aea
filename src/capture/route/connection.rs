//! The append connection, made ready: authenticated, the scripts loaded, the state read, and the consumer groups of
//! existing streams in place.
//!
//! All of it is done at every connect: in between, the server may have been restarted, emptied or replaced.

use std::sync::Arc;

use crate::capture::append::call::{APPEND, Append, CaptureKeys};
use crate::capture::append::state::StoredState;
use crate::capture::append::state::revision::RankedRevision;
use crate::capture::engine::{Connected, LEASE, Scripts};
use crate::capture::groups;
use crate::config::{Capture, Endpoint};
use crate::server::{self, Connection, Error, load_script};
use crate::source::replication::histories::EPOCHS;

/// The settings of an append connection.
#[derive(Debug, Clone)]
pub(crate) struct AppendConnectionSettings {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) capture: Arc<Capture>,
    pub(crate) keys: CaptureKeys,
    /// Under which revision it has written before.
    pub(crate) revision: Option<RankedRevision>,
}

/// An append connection that is ready.
#[derive(Debug)]
pub(crate) struct AppendConnection {
    pub(crate) connection: Connection,
    pub(crate) connected: Connected,
}

impl AppendConnection {
    /// Opens one. Cancel safe.
    pub(crate) async fn open(settings: AppendConnectionSettings) -> Result<Self, Error> {
        let AppendConnectionSettings { endpoint, capture, keys, revision } = settings;
        let role = format!("{}:append", capture.name);
        let mut connection = server::connect(&endpoint, &role).await?;
        let deadline = endpoint.response_timeout;
        let hash = load_script(&mut connection, APPEND, deadline).await?;
        let lease = load_script(&mut connection, LEASE, deadline).await?;
        let epochs = load_script(&mut connection, EPOCHS, deadline).await?;
        let state = connection.ask(deadline, "reading the state", &[b"HGETALL", &keys.state]).await;
        let state = state.map_err(|error| error.at(&[&keys.state]))?;
        let state = StoredState::read(&state)?;
        groups::ensure(&mut connection, &capture, &keys, deadline).await?;
        let revision =
            revision.unwrap_or_else(|| RankedRevision::after(&state, &RankedRevision::hashes(&capture)));
        let append = Append::new(hash, keys, revision.to_string());
        let scripts = Scripts { append, lease, epochs };
        Ok(Self { connection, connected: Connected { scripts, state, revision } })
    }
}
