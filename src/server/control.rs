//! A connection of the redis crate over our own connector, for everything that is not hot: looking
//! at a server, housekeeping, commands of the command line.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};

use super::connect::connect;
use super::error::Error;
use crate::config::Endpoint;
use crate::rt;

/// Connects as [`connect`] does, and hands the authenticated socket to the redis crate. It does not
/// reconnect: an error ends its use. Cancel safe.
///
/// # Errors
/// As [`connect`].
pub async fn control(endpoint: &Endpoint, role: &str) -> Result<MultiplexedConnection, Error> {
    let socket = connect(endpoint, role).await?.into_socket();
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(endpoint.response_timeout));
    // User, database and client name are set already.
    let info =
        RedisConnectionInfo::default().set_protocol(redis::ProtocolVersion::RESP2).set_skip_set_lib_name();
    let (connection, driver) = MultiplexedConnection::new_with_config(&info, socket, config).await?;
    rt::spawn("control connection", driver);
    Ok(connection)
}
