//! A range of the stream, applied once more for an operator.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::everything::Ended;
use super::{CLIENT, EndpointError, Removal, Removed};
use crate::config::{Endpoint, Invalidate};
use crate::invalidate::change::keys::{EntryKeys, KeyMaker};
use crate::invalidate::cursor::place::Place;
use crate::invalidate::queue::{Queue, QueuedEntry};
use crate::invalidate::second_pass::BATCH_ENTRIES;
use crate::server::{Error, connect};
use crate::stream::EntryId;
use crate::stream::entries::StreamEntries;
use crate::stream::range::RangeReader;

/// How far a range was applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry that was applied.
    pub position: Option<EntryId>,
    /// Entries that were dealt with.
    pub entries: u64,
    /// Number of these that the route's filter leaves out.
    pub filtered: u64,
    /// Number of these that make no keys.
    pub rejected: u64,
    /// What was removed.
    pub removed: Removed,
}

/// Is called while a range is applied.
pub trait ApplyObserver {
    /// A batch was applied.
    fn progress(&mut self, applied: &Applied);
    /// An entry makes no keys, and why.
    fn rejected(&mut self, entry: EntryId, why: &str);
}

/// The entries of a route's stream from one id to another, both included.
#[derive(Debug)]
pub struct EntryRange<'a> {
    /// The route.
    pub settings: &'a Invalidate,
    /// The endpoint that holds the stream.
    pub source: &'a Endpoint,
    /// The lowest id.
    pub from: EntryId,
    /// The highest id.
    pub to: EntryId,
}

impl EntryRange<'_> {
    /// Removes the keys of the entries: the same filter and templates as the route, each key of a batch once. Without a
    /// connection to the cache it only counts. Not cancel safe; `stop` ends it between two batches.
    ///
    /// # Errors
    /// If a server fails or refuses, with what was applied until then.
    pub async fn apply(
        &self,
        cache: Option<&mut Removal>,
        stop: &CancellationToken,
        watch: &mut impl ApplyObserver,
    ) -> Result<(Ended, Applied), (EndpointError, Applied)> {
        let mut applied = Applied::default();
        match self.run(cache, stop, &mut applied, watch).await {
            Ok(ended) => Ok((ended, applied)),
            Err(error) => Err((error, applied)),
        }
    }

    async fn run(
        &self,
        mut cache: Option<&mut Removal>,
        stop: &CancellationToken,
        applied: &mut Applied,
        watch: &mut impl ApplyObserver,
    ) -> Result<Ended, EndpointError> {
        let Self { settings, source, from, to } = *self;
        let failed = |error: Error| (source.name.clone(), error);
        let connection = connect(source, CLIENT).await.map_err(failed)?;
        let mut reader = RangeReader::new(connection, &settings.stream, source.response_timeout);
        let mut keys = KeyMaker::new(settings);
        let mut queue = Queue::default();
        let (mut after, mut ends) = (from.before(), false);
        while !ends {
            let page = reader.page(after).await.map_err(failed)?;
            let mut entries = StreamEntries::new(&page, Vec::new()).map_err(failed)?;
            ends = entries.left() == 0;
            while let Some(entry) = entries.next().map_err(failed)? {
                ends = entry.id >= to;
                if entry.id > to {
                    break;
                }
                after = entry.id;
                let keys = match keys.of(&entry) {
                    EntryKeys::Keys(keys) => keys,
                    EntryKeys::Filtered => {
                        applied.filtered += 1;
                        Vec::new()
                    }
                    EntryKeys::Rejected(why, keys) => {
                        applied.rejected += 1;
                        watch.rejected(entry.id, &why.to_string());
                        keys
                    }
                };
                queue.push(QueuedEntry {
                    place: Place { id: entry.id, ..Place::default() },
                    keys,
                    seen: Instant::now(),
                });
            }
            while let Some(batch) = queue.next_batch(BATCH_ENTRIES) {
                match &mut cache {
                    Some(cache) => applied.removed += cache.remove(&batch.keys).await?,
                    None => applied.removed.keys += batch.keys.len() as u64,
                }
                applied.position = Some(batch.last.id);
                applied.entries += batch.entries as u64;
                watch.progress(applied);
                if stop.is_cancelled() && (!ends || !queue.is_empty()) {
                    return Ok(Ended::Stopped);
                }
            }
        }
        Ok(Ended::Finished)
    }
}
