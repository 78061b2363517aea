//! Finds the master of a deployment: by the servers' own answers, or by sentinels.

mod listed;
mod sentinel;

pub(crate) use listed::{MasterWatch, agreed};
pub use sentinel::opinions;
pub(crate) use sentinel::{MasterMoves, confirmation, doubt};

use super::connect::{Role, connect_to};
use super::connection::Connection;
use super::error::Error;
use crate::config::{Address, Endpoint, Servers};

/// Connects to an endpoint: socket, TLS if configured, RESP3, user, client name, database; all of it within the
/// endpoint's connect timeout. `role` becomes part of the name in CLIENT LIST.
///
/// RESP3, because the first byte distinguishes a message from a reply, and a subscribed connection may still run
/// commands. Every server that tidegate supports speaks it (Redis 6.0).
///
/// If several addresses are configured, or sentinels, connects to the master.
///
/// Cancel safe: a dropped future leaves nothing behind.
///
/// # Errors
/// If the server does not answer in time, or refuses. With several addresses: if none is the master (the last one's
/// error), or if more than one claims to be. With sentinels: if none knows the master.
pub async fn connect(endpoint: &Endpoint, role: &str) -> Result<Connection, Error> {
    match &endpoint.servers {
        Servers::One(address) => Ok(connect_to(endpoint, address, role).await?.0),
        Servers::Several(addresses) => listed::connect(endpoint, addresses, role).await,
        Servers::Sentinel(sentinels) => sentinel::connect(endpoint, sentinels, role).await,
    }
}

/// Connects as [`connect`] does, to publish. A replica accepts PUBLISH as a master does, but the message does not reach
/// the master's subscribers.
///
/// # Errors
/// As [`connect`]; and if the server is a replica.
pub async fn connect_to_publish(endpoint: &Endpoint, role: &str) -> Result<Connection, Error> {
    let connection = connect(endpoint, role).await?;
    if connection.is_replica { Err(Error::replica()) } else { Ok(connection) }
}

/// Connects to one address of an endpoint, whatever its role. With sentinels the connection ends once they report
/// another master. Cancel safe.
///
/// # Errors
/// If the server does not answer within the endpoint's connect timeout, or refuses.
pub async fn connect_at(
    endpoint: &Endpoint,
    address: &Address,
    role: &str,
) -> Result<(Connection, Role), Error> {
    // Taken first, so that a move meanwhile ends it.
    let master = sentinel::ticket(endpoint);
    let (mut connection, found) = connect_to(endpoint, address, role).await?;
    connection.master = master;
    Ok((connection, found))
}

/// The addresses of an endpoint's servers: those of the configuration, or the sentinels' master. Cancel safe.
///
/// # Errors
/// If no sentinel knows the master.
pub(crate) async fn known_addresses(endpoint: &Endpoint) -> Result<Vec<Address>, Error> {
    match &endpoint.servers {
        Servers::Sentinel(sentinels) => Ok(vec![sentinel::master(endpoint, sentinels).await?]),
        servers => Ok(servers.addresses().to_vec()),
    }
}
