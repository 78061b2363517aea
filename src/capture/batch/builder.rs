//! Fills batches: each item goes straight from the read buffer into the body of the open batch.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::gap::Joint;
use super::{
    AppendOptions, BATCH_BYTES, Batch, ReadTime, TARGET_ANCHOR, TARGET_DEAD_LETTER, TARGET_FILTERED,
};
use crate::capture::mapping::{FieldName, FieldSink, Rejection};
use crate::position::Position;
use crate::rt::Moment;
use crate::server::resp::{self, Message};

/// Most bytes of a payload in a dead letter that tidegate itself writes.
const DEAD_LETTER_PAYLOAD_BYTES: usize = 64 * 1024;

/// Fills batches with a route's items, in order.
#[derive(Debug)]
pub struct Builder {
    options: Arc<AppendOptions>,
    open: Option<Batch>,
    last: Option<Position>,
    hasher: DefaultHashBuilder,
    /// The open batch's streams by name.
    index: HashTable<usize>,
    /// Until when everything is read; milliseconds since 1970.
    complete_unix_ms: u64,
    /// Start of the item being written.
    mark: ItemMark,
    /// Size of the last batch's body, so that the next one is allocated in one piece.
    body_bytes: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct ItemMark {
    body: usize,
    arguments: usize,
    target: usize,
}

impl Builder {
    /// Makes one; its batches are appended with `options`.
    #[must_use]
    pub fn new(options: Arc<AppendOptions>) -> Self {
        Self {
            options,
            open: None,
            last: None,
            hasher: DefaultHashBuilder::default(),
            index: HashTable::new(),
            complete_unix_ms: u64::MAX,
            mark: ItemMark::default(),
            body_bytes: 0,
        }
    }

    /// The last item given.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// Items in the open batch.
    #[must_use]
    pub fn open_items(&self) -> usize {
        self.open.as_ref().map_or(0, Batch::items)
    }

    /// Bytes that the open batch holds in memory.
    #[cfg(test)]
    pub(in crate::capture) fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, Batch::held_bytes)
    }

    /// The options of its batches.
    pub(in crate::capture) fn options(&self) -> &Arc<AppendOptions> {
        &self.options
    }

    /// Events in the open batch.
    #[must_use]
    pub fn open_events(&self) -> u64 {
        self.open.as_ref().map_or(0, |batch| batch.events)
    }

    /// Number of these at or before a position.
    pub(in crate::capture) fn open_events_up_to(&self, position: Option<Position>) -> u64 {
        self.open.as_ref().map_or(0, |batch| batch.events_up_to(position))
    }

    /// Messages that are lost before the open batch with a damaged spool.
    pub(in crate::capture) fn open_loss(&self) -> u64 {
        self.open.as_ref().map_or(0, |batch| batch.joint.lost())
    }

    /// Since when; milliseconds since 1970.
    pub(in crate::capture) fn open_loss_since_unix_ms(&self) -> Option<u64> {
        self.open.as_ref().and_then(|batch| batch.joint.lost_since_unix_ms())
    }

    /// Says until when everything was read: for the batches that are opened from now on.
    pub(in crate::capture) fn set_complete(&mut self, unix_ms: u64) {
        self.complete_unix_ms = unix_ms;
    }

    /// Adds the anchor that opens a window. The open batch must have been taken before.
    pub fn open_window(&mut self, anchor: Position, joint: Joint, read: Moment) {
        debug_assert!(self.open.is_none() && joint.opens_window(), "a window begins a batch");
        let read = ReadTime { moment: read, complete_unix_ms: self.complete_unix_ms };
        let mut batch = Self::begin(joint, anchor, read, &self.options, self.body_bytes);
        batch.push(anchor, TARGET_ANCHOR, 0);
        self.open = Some(batch);
        self.last = Some(anchor);
    }

    /// Continues behind an item that another writer handled. The open batch must have been taken before.
    pub fn resume(&mut self, position: Position) {
        debug_assert!(self.open.is_none(), "the open batch follows another item");
        self.last = Some(position);
    }

    /// Forgets the last item: the next one begins anew.
    pub fn forget(&mut self) {
        debug_assert!(self.open.is_none(), "the open batch was given");
        self.last = None;
    }

    /// Adds an anchor inside a window. The batch ends with it, so that the checkpoint can be exactly there: another
    /// configuration may begin at an anchor.
    pub fn anchor(&mut self, anchor: Position, read: Moment) {
        self.open_batch(anchor, read).push(anchor, TARGET_ANCHOR, 0);
        self.last = Some(anchor);
    }

    /// Returns whether a message of this many bytes would make the open batch too large, so that the batch is to be
    /// taken first.
    #[must_use]
    pub fn would_overflow(&self, bytes: usize) -> bool {
        self.open.as_ref().is_some_and(|batch| batch.items > 0 && batch.body.len() + bytes > BATCH_BYTES)
    }

    /// Adds a message through `map`, which writes the entry; a rejection becomes a dead letter. Returns true if the
    /// batch is full.
    pub fn event(
        &mut self,
        position: Position,
        message: &Message<'_>,
        size: usize,
        read: Moment,
        map: impl FnOnce(&mut EntrySink<'_>) -> Result<(), Rejection>,
    ) -> bool {
        self.open_batch(position, read);
        let Some(batch) = &mut self.open else { return false };
        self.mark = ItemMark { body: batch.body.len(), arguments: 0, target: 0 };
        let mut sink =
            EntrySink { batch, index: &mut self.index, hasher: &self.hasher, mark: &mut self.mark };
        match map(&mut sink) {
            Ok(()) => batch.push(position, self.mark.target, self.mark.arguments),
            Err(rejection) => {
                batch.body.truncate(self.mark.body);
                let arguments = dead_letter(&mut batch.body, message, size, &rejection);
                batch.push(position, TARGET_DEAD_LETTER, arguments);
                batch.rejected += 1;
            }
        }
        batch.events += 1;
        self.last = Some(position);
        batch.is_full()
    }

    /// Adds a message that the route's filter leaves out. Returns true if the batch is full.
    pub fn filtered(&mut self, position: Position, read: Moment) -> bool {
        let batch = self.open_batch(position, read);
        batch.push(position, TARGET_FILTERED, 0);
        batch.events += 1;
        batch.filtered += 1;
        let full = batch.is_full();
        self.last = Some(position);
        full
    }

    /// Takes the open batch, if there is one.
    pub fn take(&mut self) -> Option<Batch> {
        let mut batch = self.open.take()?;
        batch.end_run();
        self.index.clear();
        self.body_bytes = batch.body.len();
        Some(batch)
    }

    /// The open batch; a new one follows the last item.
    fn open_batch(&mut self, position: Position, read: Moment) -> &mut Batch {
        let Self { open, options, body_bytes, last, complete_unix_ms, .. } = self;
        open.get_or_insert_with(|| {
            let joint = last.map_or(Joint::Start, Joint::Follows);
            let read = ReadTime { moment: read, complete_unix_ms: *complete_unix_ms };
            Self::begin(joint, position, read, options, *body_bytes)
        })
    }

    /// Batches under load resemble each other: one allocation each, of about the right size.
    fn begin(
        joint: Joint,
        position: Position,
        read: ReadTime,
        options: &Arc<AppendOptions>,
        bytes: usize,
    ) -> Batch {
        let mut batch = Batch::new(joint, position, read, options.clone());
        batch.body.reserve(bytes.min(BATCH_BYTES));
        batch
    }
}

/// A mapping's output: it writes an entry here.
#[derive(Debug)]
pub struct EntrySink<'a> {
    batch: &'a mut Batch,
    index: &'a mut HashTable<usize>,
    hasher: &'a DefaultHashBuilder,
    mark: &'a mut ItemMark,
}

impl FieldSink for EntrySink<'_> {
    fn stream(&mut self, name: &[u8]) {
        let Batch { names, streams, .. } = &*self.batch;
        // Most messages have the same stream as the one before.
        if let Some(last) = streams.last()
            && &names[last.clone()] == name
        {
            self.mark.target = streams.len();
            return;
        }
        let hash = self.hasher.hash_one(name);
        let found = self.index.find(hash, |at| &names[streams[*at].clone()] == name).copied();
        let at = found.unwrap_or_else(|| {
            let at = self.batch.add_stream(name);
            let Batch { names, streams, .. } = &*self.batch;
            let rehash = |at: &usize| self.hasher.hash_one(&names[streams[*at].clone()]);
            self.index.insert_unique(hash, at, rehash);
            at
        });
        self.mark.target = at + 1;
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        resp::argument(&mut self.batch.body, name);
        resp::argument(&mut self.batch.body, value);
        self.mark.arguments += 2;
    }

    fn named_field(&mut self, name: &FieldName, value: &[u8]) {
        self.batch.body.extend_from_slice(name.argument());
        resp::argument(&mut self.batch.body, value);
        self.mark.arguments += 2;
    }
}

/// Writes a dead letter's fields; returns how many arguments they are.
fn dead_letter(out: &mut Vec<u8>, message: &Message<'_>, size: usize, rejection: &Rejection) -> usize {
    let kept = &message.payload[..message.payload.len().min(DEAD_LETTER_PAYLOAD_BYTES)];
    let mut arguments = 0;
    let mut field = |name: &[u8], value: &[u8]| {
        resp::argument(out, name);
        resp::argument(out, value);
        arguments += 2;
    };
    field(b"reason", rejection.reason.as_str().as_bytes());
    field(b"detail", rejection.detail.as_bytes());
    field(b"channel", message.channel);
    if let Some(pattern) = message.pattern {
        field(b"pattern", pattern);
    }
    field(b"size", size.to_string().as_bytes());
    field(b"payload", kept);
    arguments
}
