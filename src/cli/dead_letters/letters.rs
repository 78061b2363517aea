//! The dead letters of one route, as they stand in `P R:dead-letters`.

use std::sync::Arc;

use crate::capture::requeue::LetterFields;
use crate::cli::Refusal;
use crate::config::{Broadcast, Capture, Config, Endpoint, Invalidate, redis_keys};
use crate::server::{self, ControlConnection, Error};
use crate::stream::EntryId;
use crate::text::printable;

/// Letters a page: one that the destination refused holds a whole message.
const PAGE: usize = 10;

/// A route of any kind. Their names do not overlap.
#[derive(Debug, Clone)]
pub(super) enum LetterRoute {
    Capture(Arc<Capture>),
    Broadcast(Arc<Broadcast>),
    Invalidate(Arc<Invalidate>),
}

impl LetterRoute {
    /// All routes, captures first.
    pub(super) fn all(config: &Config) -> Vec<Self> {
        let captures = config.capture.values().cloned().map(Self::Capture);
        let broadcasts = config.broadcast.values().cloned().map(Self::Broadcast);
        let invalidations = config.invalidate.values().cloned().map(Self::Invalidate);
        captures.chain(broadcasts).chain(invalidations).collect()
    }

    pub(super) fn find(config: &Config, name: &str) -> Result<Self, Refusal> {
        let mut all = Self::all(config);
        match all.iter().position(|route| route.name() == name) {
            Some(at) => Ok(all.swap_remove(at)),
            None => {
                let known: Vec<&str> = all.iter().map(Self::name).collect();
                Err(Refusal::usage(format!(
                    "there is no route '{name}' in the configuration; known: {}",
                    known.join(", ")
                )))
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Capture(route) => &route.name,
            Self::Broadcast(route) => &route.name,
            Self::Invalidate(route) => &route.name,
        }
    }

    /// The endpoint that holds the route's streams, and so its dead letters.
    pub(super) fn endpoint(&self) -> &str {
        match self {
            Self::Capture(route) => &route.destination,
            Self::Broadcast(route) => &route.source,
            Self::Invalidate(route) => &route.source,
        }
    }
}

/// One letter.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) id: String,
    pub(super) fields: LetterFields,
}

impl Letter {
    /// The value of the first field of a name; tidegate's own come before an entry's.
    pub(super) fn field(&self, name: &str) -> Option<&[u8]> {
        let found = self.fields.iter().find(|(found, _)| found == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// Returns whether it is a broadcast's: these begin with the stream of an entry and its id.
    pub(super) fn names_entry(&self) -> bool {
        self.fields.first().is_some_and(|(name, _)| name == b"stream")
    }

    pub(super) fn entry_id(&self) -> Option<EntryId> {
        EntryId::parse(self.id.as_bytes())
    }

    /// When it was written; milliseconds since 1970 by the server's clock.
    pub(super) fn added_unix_ms(&self) -> u64 {
        self.entry_id().map_or(0, |id| id.milliseconds)
    }
}

/// A connection to the letters of a route.
pub(super) struct Letters {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) connection: ControlConnection,
    key: String,
}

/// A letter as the server sends it: its id, then names and values in turn.
type LetterReply = (String, Vec<Vec<u8>>);

impl Letters {
    pub(super) async fn open(config: &Config, route: &LetterRoute) -> Result<Self, Refusal> {
        let endpoint = Arc::clone(&config.redis[route.endpoint()]);
        let key = redis_keys::of_route(&endpoint.key_prefix, route.name(), "dead-letters");
        let connection = server::control(&endpoint, "dead-letters").await;
        let connection = connection.map_err(|error| Refusal::server(&endpoint.name, &error))?;
        Ok(Self { endpoint, connection, key })
    }

    /// Number of letters.
    pub(super) async fn count(&mut self) -> Result<u64, Refusal> {
        self.ask(redis::cmd("XLEN").arg(&self.key)).await
    }

    /// The newest before one of them, or of all; at most `most`, and no more than a page.
    pub(super) async fn newest(&mut self, before: Option<&str>, most: usize) -> Result<Vec<Letter>, Refusal> {
        let end = before.map_or_else(|| "+".to_owned(), |before| format!("({before}"));
        self.read(redis::cmd("XREVRANGE").arg(&self.key).arg(end).arg("-").arg("COUNT").arg(most.min(PAGE)))
            .await
    }

    /// The oldest after one of them, or of all; a page.
    pub(super) async fn oldest(&mut self, after: Option<&str>) -> Result<Vec<Letter>, Refusal> {
        let start = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        self.read(redis::cmd("XRANGE").arg(&self.key).arg(start).arg("+").arg("COUNT").arg(PAGE)).await
    }

    /// The letter with this id.
    pub(super) async fn one(&mut self, id: &str) -> Result<Option<Letter>, Refusal> {
        let found = self.read(redis::cmd("XRANGE").arg(&self.key).arg(id).arg(id)).await?;
        Ok(found.into_iter().next())
    }

    /// Removes them; how many were there.
    pub(super) async fn remove(&mut self, ids: &[String]) -> Result<u64, Refusal> {
        if ids.is_empty() {
            return Ok(0);
        }
        self.ask(redis::cmd("XDEL").arg(&self.key).arg(ids)).await
    }

    async fn read(&mut self, command: &redis::Cmd) -> Result<Vec<Letter>, Refusal> {
        let sent: Vec<LetterReply> = self.ask(command).await?;
        let letter = |(id, values): LetterReply| {
            let mut values = values.into_iter();
            let mut fields = LetterFields::new();
            while let (Some(name), Some(value)) = (values.next(), values.next()) {
                fields.push((name, value));
            }
            Letter { id: printable::text(id.as_bytes()), fields }
        };
        Ok(sent.into_iter().map(letter).collect())
    }

    async fn ask<T: redis::FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, Refusal> {
        let answer = command.query_async(&mut self.connection).await;
        answer.map_err(|error| Refusal::server(&self.endpoint.name, &Error::from(error).at(&[&self.key])))
    }
}
