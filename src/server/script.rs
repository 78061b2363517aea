//! Server-side scripts: text in files beside the code that calls them, known to the server by hash.

use std::time::Duration;

use super::connection::Connection;
use super::error::Error;
use super::resp::Value;

/// A script and what it is for.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// What it does, for errors.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
}

/// The hash under which a server knows a script: 40 hexadecimal digits.
pub type Hash = [u8; 40];

/// Scripts say with `#!lua flags=…` what they do, which servers know since Redis 7.0, and every Valkey.
const FLAGS_SINCE: u32 = 7;

/// Loads a script and returns its hash. After NOSCRIPT (SCRIPT FLUSH, a restart, a failover) this is
/// the repair.
///
/// # Errors
/// Where the connection fails, or the server refuses (no right), or is too old.
pub async fn load_script(
    connection: &mut Connection,
    script: Script,
    deadline: Duration,
) -> Result<Hash, Error> {
    if let Some(major) = connection.major_version
        && major < FLAGS_SINCE
    {
        // Its own words would be a syntax error.
        return Err(Error::Refused(format!(
            "this server is Redis {major} and cannot run tidegate's scripts: a server with streams must be Redis 7.0 or newer, or \
             Valkey. An older one can only be the source of captures or the destination of broadcasts"
        )));
    }
    let reply =
        connection.ask(deadline, "loading a script", &[b"SCRIPT", b"LOAD", script.source.as_bytes()]).await?;
    match &reply {
        Value::Bytes(hash) => hash.as_slice().try_into().ok(),
        _ => None,
    }
    .ok_or_else(|| Error::Protocol(format!("the reply to SCRIPT LOAD of {} is not a hash", script.name)))
}
