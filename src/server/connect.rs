//! From an address of an endpoint to an authenticated connection. The one place where a password is read and sent.

pub(super) mod files;

use super::connection::Connection;
use super::connection::credentials::{Credentials, user_of};
use super::deployment;
use super::error::Error;
use super::resp::{Limits, Value};
use super::socket::{Socket, TimeLimit};
use crate::config::{Address, Endpoint, Secret};
use files::read_secret;

/// A server's role in its deployment.
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
/// If the server does not answer within the endpoint's connect timeout, or refuses.
pub(super) async fn connect_to(
    endpoint: &Endpoint,
    address: &Address,
    role: &str,
) -> Result<(Connection, Role), Error> {
    let limit = TimeLimit::new(endpoint.connect_timeout);
    let (mut connection, hello) = handshake(endpoint, address, role, limit).await?;
    refuse_mode(&hello)?;
    let Some(found) = role_in(&hello) else {
        return Err(Error::Protocol(format!("the reply to HELLO is {}", kind(&hello))));
    };
    connection.major_version = major_version_in(&hello);
    connection.is_replica = found == Role::Replica;
    if endpoint.database != 0 {
        let (database, doing) = (endpoint.database.to_string(), "selecting the database");
        let select: [&[u8]; 2] = [b"SELECT", database.as_bytes()];
        greet(&mut connection, limit, doing, &select).await?.map_err(|error| error.of_handshake(doing))?;
    }
    connection.reader.set_limits(Limits::default());
    Ok((connection, found))
}

/// Connects to a sentinel within a time limit. Cancel safe.
///
/// # Errors
/// As [`connect_to`]; and if the server is none.
pub(super) async fn connect_to_sentinel(
    sentinels: &Endpoint,
    address: &Address,
    limit: TimeLimit,
) -> Result<Connection, Error> {
    let (connection, hello) = handshake(sentinels, address, SENTINEL, limit).await?;
    match mode_in(&hello) {
        Some(b"sentinel") => Ok(connection),
        _ => Err(Error::Refused(format!("{address} is not a sentinel: its port is mostly 26379"))),
    }
}

/// The role of a connection to a sentinel.
const SENTINEL: &str = "sentinel";

/// Performs the handshake up to the reply to HELLO, and returns that reply.
async fn handshake(
    endpoint: &Endpoint,
    address: &Address,
    role: &str,
    limit: TimeLimit,
) -> Result<(Connection, Value), Error> {
    let known = deployment::of(endpoint);
    let password = read_secret(endpoint, &known).await?;
    let user = user_of(endpoint);
    let mut connection = Connection::new(Socket::open(endpoint, address, limit).await?);
    let name = format!("tidegate:{role}");
    let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
    // A user without a password (`nopass`) is a user all the same: left out, the server would take the default one.
    let authenticates = password.is_some() || endpoint.username.is_some();
    if authenticates {
        let password = password.as_ref().map_or("", Secret::reveal);
        hello.extend([b"AUTH".as_slice(), user.as_bytes(), password.as_bytes()]);
    }
    hello.extend([b"SETNAME".as_slice(), name.as_bytes()]);
    let doing = "authenticating";
    let answer = match greet(&mut connection, limit, doing, &hello).await? {
        Err(error) if error.code() == Some("WRONGPASS") => {
            let refused = error.of_handshake(doing);
            return Err(if role == SENTINEL {
                refused
            } else {
                unknown_user(connection, limit, refused).await
            });
        }
        // Some servers look at the user before the command. Who knows HELLO reads the user in it.
        Err(error) if authenticates && error.code() == Some("NOAUTH") => {
            return Err(Error::unknown_command("HELLO"));
        }
        Err(error) if is_plain_tcp(endpoint, address) && error.is_end() => {
            return Err(Error::Unanswered(endpoint.encryption_key()));
        }
        answer => answer.map_err(|error| error.of_handshake(doing))?,
    };
    connection.files = files::watch(endpoint, &known);
    connection.credentials = Credentials::new(endpoint, known, password.as_ref(), connection.files.as_ref());
    Ok((connection, answer))
}

/// Sends a part of the handshake. Of an error reply, `Error::of_handshake` must be passed on.
async fn greet(
    connection: &mut Connection,
    limit: TimeLimit,
    doing: &'static str,
    arguments: &[&[u8]],
) -> Result<Result<Value, Error>, Error> {
    limit.of(doing, connection.ask(limit.whole, doing, arguments)).await
}

fn is_plain_tcp(endpoint: &Endpoint, address: &Address) -> bool {
    endpoint.tls.is_none() && matches!(address, Address::Tcp { .. })
}

/// Why a server does not know the user: a sentinel has users of its own, and mostly none.
async fn unknown_user(mut connection: Connection, limit: TimeLimit, refused: Error) -> Error {
    match greet(&mut connection, limit, "asking for the kind of server", &[b"HELLO", b"3"]).await {
        Ok(Ok(answer)) => refuse_mode(&answer).err().unwrap_or(refused),
        _ => refused,
    }
}

/// Refuses a server that is not standalone. A cluster node forwards messages over links that may break, which loses
/// them without a trace; a sentinel holds no data.
fn refuse_mode(hello: &Value) -> Result<(), Error> {
    let why = match mode_in(hello) {
        Some(b"cluster") => "this is a node of a Redis Cluster, which this version does not support",
        Some(b"sentinel") => {
            "this is a Sentinel: name it under [redis.NAME.sentinel], and leave the host out of the url"
        }
        _ => return Ok(()),
    };
    Err(Error::Refused(why.to_owned()))
}

fn mode_in(hello: &Value) -> Option<&[u8]> {
    field(hello, b"mode").and_then(Value::bytes)
}

/// The role in HELLO's reply; `None` if it is another reply.
#[must_use]
pub fn role_in(hello: &Value) -> Option<Role> {
    hello.elements()?;
    Some(match field(hello, b"role").and_then(Value::bytes) {
        Some(b"replica" | b"slave") => Role::Replica,
        _ => Role::Master,
    })
}

fn major_version_in(hello: &Value) -> Option<u32> {
    let version = field(hello, b"version")?.bytes()?;
    std::str::from_utf8(version).ok()?.split('.').next()?.parse().ok()
}

/// A field of HELLO's reply.
fn field<'v>(hello: &'v Value, name: &[u8]) -> Option<&'v Value> {
    let mut pairs = hello.elements()?.chunks_exact(2);
    pairs.find(|pair| pair[0].bytes() == Some(name)).map(|pair| &pair[1])
}

/// The kind of a reply, for an error: never its content.
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
