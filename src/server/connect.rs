//! From an endpoint to an authenticated connection. The one place where a password is read and sent.

use std::time::Duration;

use tokio::time::timeout;

use super::connection::Connection;
use super::error::Error;
use super::resp::{Limits, Value};
use super::said;
use super::socket::Socket;
use crate::config::{Address, Endpoint, Secret, SecretSource, read_password};

/// Connects to an endpoint: socket, RESP3, user, client name, database; everything within the
/// endpoint's connect timeout. `role` becomes part of the name that CLIENT LIST shows.
///
/// RESP3, because there a message is told apart from a reply by its first byte, and a subscribed
/// connection may still run commands. Every server that tidegate supports speaks it (Redis 6.0).
///
/// Where the endpoint has several addresses, each is tried in turn until one is the master.
///
/// Cancel safe: a dropped future leaves nothing behind.
///
/// # Errors
/// Where the server does not answer in time, or refuses; of several addresses, where none is a master: what
/// the last one of them said.
pub async fn connect(endpoint: &Endpoint, role: &str) -> Result<Connection, Error> {
    if endpoint.further.is_empty() {
        return Ok(connect_at(endpoint, &endpoint.address, role).await?.0);
    }
    let mut last = None;
    for address in endpoint.addresses() {
        match connect_at(endpoint, address, role).await {
            Ok((connection, Role::Master)) => return Ok(connection),
            Ok((_, Role::Replica)) => {}
            Err(error) => last = Some(error),
        }
    }
    let none = || Error::Reply("MASTERDOWN none of the addresses is a master now".to_owned());
    Err(last.unwrap_or_else(none))
}

/// Connects as [`connect`] does, to publish: a replica takes PUBLISH as a master does, and the message reaches none of
/// the master's subscribers.
///
/// # Errors
/// As [`connect`]; and where the server is a replica.
pub async fn connect_to_publish(endpoint: &Endpoint, role: &str) -> Result<Connection, Error> {
    let connection = connect(endpoint, role).await?;
    if connection.is_replica { Err(Error::replica()) } else { Ok(connection) }
}

/// What a server is among those of its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Master,
    /// It follows another one.
    Replica,
}

/// Connects to one address of an endpoint, whatever its role. Cancel safe.
///
/// # Errors
/// Where the server does not answer within the endpoint's connect timeout, or refuses.
pub async fn connect_at(
    endpoint: &Endpoint,
    address: &Address,
    role: &str,
) -> Result<(Connection, Role), Error> {
    let deadline = endpoint.connect_timeout;
    timeout(deadline, handshake(endpoint, address, role, deadline))
        .await
        .unwrap_or(Err(Error::Timeout(deadline, "connecting")))
}

async fn handshake(
    endpoint: &Endpoint,
    address: &Address,
    role: &str,
    deadline: Duration,
) -> Result<(Connection, Role), Error> {
    let password = read_secret(&endpoint.password)?;
    let mut connection = Connection::new(Socket::open(address).await?);
    let name = format!("tidegate:{role}");
    let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
    // A user without a password (`nopass`) is a user all the same: left out, the server would take the default one.
    if password.is_some() || endpoint.username.is_some() {
        let user = endpoint.username.as_deref().unwrap_or("default");
        let password = password.as_ref().map_or("", Secret::reveal);
        hello.extend([b"AUTH".as_slice(), user.as_bytes(), password.as_bytes()]);
    }
    hello.extend([b"SETNAME".as_slice(), name.as_bytes()]);
    let answer = greet(&mut connection, deadline, "authenticating", &hello).await?;
    let Some(found) = role_in(&answer) else {
        return Err(Error::Protocol(format!("HELLO was answered with {}", kind(&answer))));
    };
    connection.major_version = major_version_in(&answer);
    connection.is_replica = found == Role::Replica;
    if endpoint.database != 0 {
        let database = endpoint.database.to_string();
        greet(&mut connection, deadline, "selecting the database", &[b"SELECT", database.as_bytes()]).await?;
    }
    connection.reader.set_limits(Limits::default());
    Ok((connection, found))
}

/// Asks a part of the handshake: nothing that the server says there is passed on as it is.
async fn greet(
    connection: &mut Connection,
    deadline: Duration,
    doing: &'static str,
    arguments: &[&[u8]],
) -> Result<Value, Error> {
    connection.ask(deadline, doing, arguments).await.map_err(|error| error.of_handshake(doing))
}

/// The role in HELLO's reply; `None` where it is no such reply.
#[must_use]
pub fn role_in(hello: &Value) -> Option<Role> {
    let mut pairs = hello.elements()?.chunks_exact(2);
    let role = pairs.find(|pair| pair[0].bytes() == Some(b"role"));
    Some(match role.and_then(|pair| pair[1].bytes()) {
        Some(b"replica" | b"slave") => Role::Replica,
        _ => Role::Master,
    })
}

fn major_version_in(hello: &Value) -> Option<u32> {
    let mut pairs = hello.elements()?.chunks_exact(2);
    let version = pairs.find(|pair| pair[0].bytes() == Some(b"version"))?;
    std::str::from_utf8(version[1].bytes()?).ok()?.split('.').next()?.parse().ok()
}

fn read_secret(source: &SecretSource) -> Result<Option<Secret>, Error> {
    let secret = match source {
        SecretSource::None => return Ok(None),
        SecretSource::Inline(secret) => secret.clone(),
        // A small local file: reading it blocks no longer than opening a socket does.
        SecretSource::File(path) => read_password(path)
            .map_err(|error| Error::Secret { path: path.display().to_string(), reason: error.to_string() })?,
    };
    said::remember(secret.reveal());
    Ok(Some(secret))
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
