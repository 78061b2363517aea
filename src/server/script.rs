//! Server-side scripts: text in files beside the code that calls them, known to the server by hash.

use std::time::Duration;

use super::connection::Connection;
use super::error::Error;
use super::resp::Value;

/// A script. Its constant is named after its file.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// The name of its file, for errors.
    pub name: &'static str,
    /// The source text.
    pub source: &'static str,
}

/// The [`Script`] in a file, named from the file that names it.
macro_rules! script {
    ($path:literal) => {
        $crate::server::Script { name: $crate::server::Script::file_name($path), source: include_str!($path) }
    };
}
pub(crate) use script;

impl Script {
    /// The last part of a path.
    pub(crate) const fn file_name(path: &'static str) -> &'static str {
        let bytes = path.as_bytes();
        let mut start = bytes.len();
        while start > 0 && bytes[start - 1] != b'/' {
            start -= 1;
        }
        path.split_at(start).1
    }

    /// The error for a reply that the script never gives.
    pub(crate) fn invalid_reply(&self) -> Error {
        Error::Protocol(format!("the reply to {} is not valid", self.name))
    }
}

/// The hash under which a server knows a script: 40 hexadecimal digits.
pub type Hash = [u8; 40];

/// Scripts declare their flags by `#!lua flags=…`, which servers know since Redis 7.0, and every Valkey.
const FLAGS_SINCE: u32 = 7;

/// Checks whether the server knows the flags of scripts.
///
/// # Errors
/// It is too old, in words. The server's own error would be a syntax error.
pub fn can_run_scripts(connection: &Connection) -> Result<(), Error> {
    if let Some(major) = connection.major_version
        && major < FLAGS_SINCE
    {
        return Err(Error::Refused(format!(
            "this server is Redis {major} and cannot run tidegate's scripts: a server with streams must be Redis 7.0 or newer, or \
             Valkey. An older one can only be the source of captures or the destination of broadcasts"
        )));
    }
    Ok(())
}

/// Loads a script and returns its hash. After NOSCRIPT (SCRIPT FLUSH, a restart, a failover) this is
/// the repair.
///
/// # Errors
/// If the connection fails, or the server refuses (no right), or is too old.
pub async fn load_script(
    connection: &mut Connection,
    script: Script,
    deadline: Duration,
) -> Result<Hash, Error> {
    can_run_scripts(connection)?;
    let reply =
        connection.ask(deadline, "loading a script", &[b"SCRIPT", b"LOAD", script.source.as_bytes()]).await?;
    match &reply {
        Value::Bytes(hash) => hash.as_slice().try_into().ok(),
        _ => None,
    }
    .ok_or_else(|| Error::Protocol(format!("the reply to SCRIPT LOAD of {} is not a hash", script.name)))
}
