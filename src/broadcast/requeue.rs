//! Publishes a dead letter's entry, once its cause is fixed.
//!
//! The letter names an entry, which stays in its stream; it is read again and rendered by the present configuration. On
//! one server a script publishes it and removes the letter in one step. Across servers the message goes out first, so a
//! command that is interrupted in between publishes it again. The message comes late, out of its order.

use std::time::Duration;

use super::message::render::Renderer;
use super::publish::call::BroadcastKeys;
use crate::config::{Broadcast, Endpoint};
use crate::server::resp::Value;
use crate::server::{Connection, Error, Role, Script, connect, connect_to_publish, role_in, script};
use crate::stream::EntryId;
use crate::stream::entries::StreamEntries;
use crate::stream::range::RangeReader;

/// Publishes the entry and removes the letter.
const REQUEUE: Script = script!("requeue.lua");
/// Name of its connections in CLIENT LIST.
const CLIENT: &str = "dead-letters";

/// The result of requeuing a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequeueOutcome {
    /// It is published, and no letter any more.
    Published {
        /// The channel.
        channel: Vec<u8>,
        /// Number of receivers on the asked node.
        receivers: u64,
    },
    /// It was removed meanwhile.
    Gone,
    /// It stays, and why.
    Stays(String),
}

/// Connections that publish the letters of one route.
#[derive(Debug)]
pub struct Requeue {
    letters: String,
    source: Connection,
    reader: RangeReader,
    /// The destination, if it is another server than the stream's.
    other: Option<Connection>,
    route: Broadcast,
    command: &'static str,
    deadlines: (Duration, Duration),
    names: (String, String),
}

impl Requeue {
    /// Connects. Cancel safe.
    ///
    /// # Errors
    /// Which endpoint cannot be used, and why.
    pub async fn open(
        route: &Broadcast,
        source: &Endpoint,
        destination: &Endpoint,
    ) -> Result<Self, (String, Error)> {
        let at = |endpoint: &Endpoint| {
            let name = endpoint.name.clone();
            move |error: Error| (name, error)
        };
        let reader = connect(source, CLIENT).await.map_err(at(source))?;
        let writer = connect(source, CLIENT).await.map_err(at(source))?;
        let other = if source.is_same_server(destination) {
            None
        } else {
            Some(connect_to_publish(destination, CLIENT).await.map_err(at(destination))?)
        };
        let keys = BroadcastKeys::new(&source.key_prefix, route);
        Ok(Self {
            letters: keys.dead_letters,
            command: keys.command,
            source: writer,
            reader: RangeReader::new(reader, route.stream(), source.response_timeout),
            other,
            route: route.clone(),
            deadlines: (source.response_timeout, destination.response_timeout),
            names: (source.name.clone(), destination.name.clone()),
        })
    }

    /// Publishes the entry of a stream that a letter names. Not cancel safe: a dropped future leaves connections that
    /// wait for an answer.
    ///
    /// # Errors
    /// At which endpoint a connection fails or the server refuses; then it is not known what became of the
    /// letter, and asking again finds out.
    pub async fn publish(
        &mut self,
        letter: &str,
        stream: &str,
        entry: EntryId,
    ) -> Result<RequeueOutcome, (String, Error)> {
        let (source, destination) = self.names.clone();
        let here = |error: Error| (source.clone(), error);
        let there = |error: Error| (destination.clone(), error);
        self.reader.turn_to(stream);
        let page = self.reader.page(entry.before()).await.map_err(here)?;
        let mut renderer = Renderer::new(&self.route.for_stream(stream, self.route.start));
        let mut entries = StreamEntries::new(&page, Vec::new()).map_err(here)?;
        let found = entries.next().map_err(here)?.filter(|found| found.id == entry);
        let Some(found) = found else {
            return Ok(RequeueOutcome::Stays(format!("its entry {entry} is no longer in the stream")));
        };
        let (channel, message) = match renderer.render(&found) {
            Ok(rendered) => rendered,
            Err(why) => {
                let why = format!("the configuration still rejects it: {why} ({})", why.reason());
                return Ok(RequeueOutcome::Stays(why));
            }
        };
        let mut receivers = 0;
        let mut rest = (channel, message);
        if let Some(other) = &mut self.other {
            // Checks, before the message goes out, that no other client has removed the letter.
            let look: [&[u8]; 4] = [b"XRANGE", self.letters.as_bytes(), letter.as_bytes(), letter.as_bytes()];
            let found = self.source.ask(self.deadlines.0, "looking for the letter", &look).await;
            let found = found.map_err(|error| error.at(&[&self.letters]));
            if found.map_err(here)?.elements().is_none_or(<[Value]>::is_empty) {
                return Ok(RequeueOutcome::Gone);
            }
            let publish: [&[u8]; 3] = [self.command.as_bytes(), channel, message];
            let reply = other.ask(self.deadlines.1, "publishing", &publish).await;
            receivers = reply.and_then(|reply| number(&reply)).map_err(&there)?;
            // It may have become a replica since it greeted.
            let hello =
                other.ask(self.deadlines.1, "asking for the role", &[b"HELLO"]).await.map_err(&there)?;
            if role_in(&hello) == Some(Role::Replica) {
                return Err(there(Error::replica()));
            }
            rest = (b"", b"");
        }
        let call: [&[u8]; 8] = [
            b"EVAL",
            REQUEUE.source.as_bytes(),
            b"1",
            self.letters.as_bytes(),
            letter.as_bytes(),
            rest.0,
            rest.1,
            self.command.as_bytes(),
        ];
        let reply = self.source.ask(self.deadlines.0, "publishing", &call).await;
        let reply = reply.map_err(|error| error.at(&[&self.letters]));
        match reply.and_then(|reply| number(&reply)).map_err(here)? {
            -1 => Ok(RequeueOutcome::Gone),
            count => {
                let receivers = u64::try_from(receivers.max(count)).unwrap_or(0);
                Ok(RequeueOutcome::Published { channel: channel.to_vec(), receivers })
            }
        }
    }
}

fn number(reply: &Value) -> Result<i64, Error> {
    reply.integer().ok_or_else(|| REQUEUE.invalid_reply())
}
