//! Finds the master of a deployment: by the servers' own answers, or by sentinels.

mod listed;
pub(super) mod sentinel;

pub(crate) use listed::{MasterWatch, agreed};
pub(crate) use sentinel::{Confirmation, MasterMoves, confirmation, doubt};
pub use sentinel::{Opinion, opinions};

use super::connect::connect_at;
use super::connection::Connection;
use super::error::Error;
use crate::config::{Address, Endpoint, Servers};

/// Connects to the server of an endpoint: its only one, or its master. Cancel safe.
///
/// # Errors
/// If the server does not answer in time, or refuses; if none of several is the master, or more than one claims to be;
/// if no sentinel knows it.
pub(super) async fn connect(endpoint: &Endpoint, role: &str) -> Result<Connection, Error> {
    match &endpoint.servers {
        Servers::One(address) => Ok(connect_at(endpoint, address, role).await?.0),
        Servers::Several(addresses) => listed::connect(endpoint, addresses, role).await,
        Servers::Sentinel(sentinels) => sentinel::connect(endpoint, sentinels, role).await,
    }
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
