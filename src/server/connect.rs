//! From an endpoint to an authenticated connection. The one place where a password is read and sent.

use std::time::Duration;

use tokio::time::timeout;

use super::connection::Connection;
use super::error::Error;
use super::resp::Value;
use super::socket::Socket;
use crate::config::{Endpoint, Secret, SecretSource};

/// Connects to an endpoint: socket, RESP3, user, client name, database; everything within the
/// endpoint's connect timeout. `role` becomes part of the name that CLIENT LIST shows.
///
/// RESP3, because there a message is told apart from a reply by its first byte, and a subscribed
/// connection may still run commands. Every server that tidegate supports speaks it (Redis 6.0).
///
/// Cancel safe: a dropped future leaves nothing behind.
///
/// # Errors
/// Where the server does not answer in time, or refuses.
pub async fn connect(endpoint: &Endpoint, role: &str) -> Result<Connection, Error> {
    let deadline = endpoint.connect_timeout;
    timeout(deadline, handshake(endpoint, role, deadline))
        .await
        .unwrap_or(Err(Error::Timeout(deadline, "connecting")))
}

async fn handshake(endpoint: &Endpoint, role: &str, deadline: Duration) -> Result<Connection, Error> {
    let password = read_secret(&endpoint.password)?;
    let mut connection = Connection::new(Socket::open(&endpoint.address).await?);
    let name = format!("tidegate:{role}");
    let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
    if let Some(password) = &password {
        let user = endpoint.username.as_deref().unwrap_or("default");
        hello.extend([b"AUTH".as_slice(), user.as_bytes(), password.reveal().as_bytes()]);
    }
    hello.extend([b"SETNAME".as_slice(), name.as_bytes()]);
    match connection.ask(deadline, "authenticating", &hello).await? {
        Value::Array(_) => {}
        other => return Err(Error::Protocol(format!("HELLO was answered with {}", kind(&other)))),
    }
    if endpoint.database != 0 {
        let database = endpoint.database.to_string();
        connection.ask(deadline, "selecting the database", &[b"SELECT", database.as_bytes()]).await?;
    }
    Ok(connection)
}

fn read_secret(source: &SecretSource) -> Result<Option<Secret>, Error> {
    match source {
        SecretSource::None => Ok(None),
        SecretSource::Inline(secret) => Ok(Some(secret.clone())),
        // A small local file: reading it blocks no longer than opening a socket does.
        SecretSource::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))),
            Err(error) => {
                Err(Error::Secret { path: path.display().to_string(), reason: error.kind().to_string() })
            }
        },
    }
}

/// What kind of reply it was, for an error: never its content.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Integer(_) => "a number",
        Value::Bytes(_) => "a string",
        Value::Error(_) => "an error",
        Value::Array(_) => "an array",
        Value::Push(_) => "a message",
    }
}
