//! Applies a dead letter's entry, once its cause is fixed.
//!
//! The letter names an entry, which stays in its stream; it is read again, and the present configuration makes its keys.
//! They are removed, and then the letter is. A command that is interrupted in between removes them again, which is
//! harmless. The cursor stays where it is.

use std::sync::Arc;

use super::change::keys::{EntryKeys, KeyMaker};
use super::removal::{EndpointError, Removal, Removed};
use crate::config::{Endpoint, Invalidate, redis_keys};
use crate::server::{Error, connect};
use crate::stream::EntryId;
use crate::stream::entries::StreamEntries;
use crate::stream::range::RangeReader;

/// Name of its connections in CLIENT LIST.
const CLIENT: &str = "dead-letters";

/// The result of requeuing a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequeueOutcome {
    /// Its keys are removed, and it is no letter any more.
    Removed(Removed),
    /// It was removed meanwhile.
    Gone,
    /// It stays, and why.
    Stays(String),
}

/// Connections that apply the letters of one route.
#[derive(Debug)]
pub struct Requeue {
    letters: String,
    stream: String,
    reader: RangeReader,
    source: String,
    cache: Removal,
    keys: KeyMaker,
}

impl Requeue {
    /// Connects. Cancel safe.
    ///
    /// # Errors
    /// Which endpoint cannot be used, and why.
    pub async fn open(
        settings: &Arc<Invalidate>,
        source: &Endpoint,
        cache: &Endpoint,
    ) -> Result<Self, EndpointError> {
        let connection = connect(source, CLIENT).await.map_err(|error| (source.name.clone(), error))?;
        Ok(Self {
            letters: redis_keys::of_route(&source.key_prefix, &settings.name, "dead-letters"),
            stream: settings.stream.clone(),
            reader: RangeReader::new(connection, &settings.stream, source.response_timeout),
            source: source.name.clone(),
            cache: Removal::open(settings, cache).await?,
            keys: KeyMaker::new(settings),
        })
    }

    /// Removes the keys of the entry that a letter names, and then the letter. Not cancel safe: a dropped future leaves
    /// connections that wait for an answer.
    ///
    /// # Errors
    /// At which endpoint a connection fails or the server refuses; asking again is harmless.
    pub async fn apply(
        &mut self,
        letter: &str,
        stream: &[u8],
        entry: EntryId,
    ) -> Result<RequeueOutcome, EndpointError> {
        let here = |error: Error| (self.source.clone(), error);
        if stream != self.stream.as_bytes() {
            let why = "its entry is in a stream that the route no longer reads";
            return Ok(RequeueOutcome::Stays(why.to_owned()));
        }
        let page = self.reader.page(entry.before()).await.map_err(here)?;
        let mut entries = StreamEntries::new(&page, Vec::new()).map_err(here)?;
        let found = entries.next().map_err(here)?.filter(|found| found.id == entry);
        let Some(found) = found else {
            return Ok(RequeueOutcome::Stays(format!("its entry {entry} is no longer in the stream")));
        };
        let keys = match self.keys.of(&found) {
            EntryKeys::Keys(keys) => keys,
            EntryKeys::Filtered => {
                return Ok(RequeueOutcome::Stays("the route's filter now leaves its entry out".to_owned()));
            }
            EntryKeys::Rejected(why, _) => {
                let why = format!("the configuration still rejects it: {why} ({})", why.reason());
                return Ok(RequeueOutcome::Stays(why));
            }
        };
        let removed = self.cache.remove(&keys).await?;
        let command: [&[u8]; 3] = [b"XDEL", self.letters.as_bytes(), letter.as_bytes()];
        let deleted = self.reader.ask("removing the letter", &command).await;
        let deleted = deleted.map_err(|error| here(error.at(&[&self.letters])))?;
        let invalid = || here(Error::Protocol("the reply to XDEL is not valid".to_owned()));
        Ok(match deleted.count().ok_or_else(invalid)? {
            0 => RequeueOutcome::Gone,
            _ => RequeueOutcome::Removed(removed),
        })
    }
}
