//! Commands that are not hot: probing a server, housekeeping, commands of the command line.
//!
//! The redis crate builds the commands and turns replies into Rust's types. Its own connection is not used, since its
//! parser believes any length that a server announces. [`ControlConnection`] brings the replies, through the bounded
//! reader that is used everywhere.

use std::error::Error as _;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, RedisFuture, ServerError};
use tokio::time::timeout;

use super::connection::Connection;
use super::discovery::connect;
use super::error::Error;
use super::resp::{Value, command};
use crate::config::Endpoint;

/// A connection on which the redis crate's commands are sent. It does not reconnect: an error ends its use.
///
/// Cancel safe: replies to a command whose future was dropped are skipped before the next one is sent.
#[derive(Debug)]
pub struct ControlConnection {
    connection: Connection,
    /// Longest time for one reply.
    deadline: Duration,
    /// The database that is selected.
    database: u32,
    /// Replies that are still to come to commands that were sent.
    owed: usize,
}

/// Connects as [`connect`] does. Cancel safe.
///
/// # Errors
/// As [`connect`].
pub async fn control(endpoint: &Endpoint, role: &str) -> Result<ControlConnection, Error> {
    let connection = connect(endpoint, role).await?;
    Ok(ControlConnection {
        connection,
        deadline: endpoint.response_timeout,
        database: endpoint.database,
        owed: 0,
    })
}

impl ControlConnection {
    /// Sends one command and reads its reply.
    ///
    /// # Errors
    /// An error reply is one; so is a connection that fails or is too slow.
    pub(crate) async fn ask(&mut self, arguments: &[&[u8]]) -> Result<Value, Error> {
        while self.owed > 0 {
            self.reply().await?;
        }
        command(self.connection.out(), arguments);
        self.owed = 1;
        match self.reply().await? {
            Value::Error(text) => Err(Error::reply(&text)),
            reply => Ok(reply),
        }
    }

    /// Sends commands and reads a reply to each; the first `skip` replies are dropped.
    async fn call(&mut self, commands: &[u8], skip: usize, count: usize) -> Result<Vec<redis::Value>, Error> {
        while self.owed > 0 {
            self.reply().await?;
        }
        self.connection.out().extend_from_slice(commands);
        self.owed = skip + count;
        let mut replies = Vec::with_capacity(count.min(128));
        while self.owed > 0 {
            let reply = self.reply().await?;
            if self.owed < count {
                replies.push(value(reply));
            }
        }
        Ok(replies)
    }

    /// The next reply. There are no subscriptions here, so a push is skipped.
    async fn reply(&mut self) -> Result<Value, Error> {
        loop {
            let reply = timeout(self.deadline, self.connection.reply()).await;
            match reply.map_err(|_| Error::Timeout(self.deadline, "waiting for a reply"))?? {
                Value::Push(_) => {}
                reply => {
                    self.owed = self.owed.saturating_sub(1);
                    return Ok(reply);
                }
            }
        }
    }
}

impl ConnectionLike for ControlConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, redis::Value> {
        Box::pin(async move {
            let replies = self.call(&command.get_packed_command(), 0, 1).await?;
            replies.into_iter().next().ok_or_else(|| Error::Closed.into())
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<redis::Value>> {
        Box::pin(async move { Ok(self.call(&pipeline.get_packed_pipeline(), offset, count).await?) })
    }

    fn get_db(&self) -> i64 {
        self.database.into()
    }
}

/// A reply as the redis crate knows it.
fn value(reply: Value) -> redis::Value {
    match reply {
        Value::Null => redis::Value::Nil,
        Value::Integer(number) => redis::Value::Int(number),
        Value::Bytes(bytes) => redis::Value::BulkString(bytes),
        Value::Array(all) | Value::Push(all) => redis::Value::Array(all.into_iter().map(value).collect()),
        Value::Error(text) => {
            let error = RedisError::from(Error::reply(&text));
            // The crate makes its type for an error reply only inside of an error.
            match error.source().and_then(|source| source.downcast_ref::<ServerError>()) {
                Some(error) => redis::Value::ServerError(error.clone()),
                None => redis::Value::Nil,
            }
        }
    }
}
