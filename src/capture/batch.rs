//! A batch: the content of one call of the append script, encoded once and never changed.
//!
//! Problem: an event is buffered from reading until its entry is known to be stored, it may have to be sent several
//! times, and all this must cost next to nothing per message.
//!
//! Operation: the [`Builder`] encodes each event's arguments in wire format, straight from the read buffer into the
//! batch's one body. Sending copies the body behind a head; sending again does the same, since the script skips stored
//! items. Positions and runs (items in a row for the same stream with the same number of arguments) are one argument
//! each, so the script handles them per run and not per item.
//!
//! ```text
//! positions  010000…0042 010000…0043 010000…0044      epoch's index (2), ordinal (20)
//! runs       000002 00001 00004   000001 00000 00012  items (6), target (5), arguments an item (5)
//! body       $7 channel $1 a $7 payload $3 …          arguments, RESP-encoded
//! ```

pub(crate) mod gap;
mod halves;
pub(crate) mod passage;
mod record;

use std::hash::BuildHasher as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::capture::batch::passage::Passage;
use crate::capture::mapping::{FieldName, FieldSink, MAX_FIELDS, Rejection};
use crate::position::{Epoch, Position};
use crate::rt::Moment;
use crate::server::resp::{self, Message};
use gap::{Gap, Joint};

/// Items of a batch. A script of 128 costs the server 3.7 µs an entry where a script of one costs 17
/// and plain XADD 2.9; larger batches gain little and hold the server up longer.
const BATCH_ITEMS: usize = 128;
/// Bytes after which a batch takes no more; one larger message goes alone.
const BATCH_BYTES: usize = 1024 * 1024;
/// Number of arguments at which a batch is full: one more entry of the most fields, a stream for each item, and the
/// fixed arguments still fit into [`resp::MAX_ARGUMENTS`].
const BATCH_ARGUMENTS: usize = 1_600;
/// Arguments before the items, including their streams and the groups' names, for all but a hundred groups.
const OTHER_ARGUMENTS: usize = BATCH_ITEMS + 160;
const _: () = assert!(BATCH_ARGUMENTS + 2 * MAX_FIELDS + OTHER_ARGUMENTS <= resp::MAX_ARGUMENTS);
/// Most bytes of a payload in a dead letter that tidegate itself writes.
const DEAD_LETTER_PAYLOAD_BYTES: usize = 64 * 1024;

/// An item's position in the call: its epoch's index, and its ordinal.
const ITEM_POSITION_WIDTH: usize = 2 + Position::ORDINAL_WIDTH;

/// A run in the call: its items (6), their target (5), and the arguments of each (5).
const RUN_WIDTH: usize = 16;

const TARGET_DEAD_LETTER: usize = 0;
const TARGET_FILTERED: usize = 99_998;
const TARGET_ANCHOR: usize = 99_999;

/// A batch's options for the call: how streams are made and kept. Each batch has its own, since a configuration may
/// change while it waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppendOptions {
    /// Arguments, RESP-encoded.
    pub(in crate::capture) arguments: Vec<u8>,
    /// Number of arguments.
    pub(in crate::capture) count: usize,
    /// The numbering of the batch's positions, as in the arguments; empty in a record of release 0.1.0.
    pub(super) numbering: Vec<u8>,
}

impl AppendOptions {
    /// Options of this many arguments, RESP-encoded.
    pub(in crate::capture) fn new(arguments: Vec<u8>, count: usize) -> Self {
        // The first argument: `$20`, a line end, and two characters and a space before it.
        let flags = arguments.split(|byte| *byte == b'\n').nth(1).unwrap_or_default().trim_ascii_end();
        let numbering = flags.get(3..).unwrap_or_default().to_vec();
        Self { arguments, count, numbering }
    }
}

/// The content of one call of the append script.
#[derive(Debug)]
pub struct Batch {
    /// How it follows the batch before.
    pub joint: Joint,
    /// The batch's first item.
    pub first: Position,
    /// The batch's last item.
    pub last: Position,
    /// Messages in it: everything but anchors.
    pub events: u64,
    /// Number of these that are dead letters.
    pub rejected: u64,
    /// Number of these that are filtered out.
    pub filtered: u64,
    /// When its first item was read.
    pub opened: Instant,
    /// When its first item was read; milliseconds since 1970.
    pub opened_unix_ms: u64,
    pub(in crate::capture) options: Arc<AppendOptions>,
    items: usize,
    epochs: Vec<Epoch>,
    positions: Vec<u8>,
    runs: Vec<u8>,
    last_run: Run,
    names: Vec<u8>,
    streams: Vec<Range<usize>>,
    body: Vec<u8>,
    arguments: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Run {
    items: usize,
    target: usize,
    arguments: usize,
}

impl Run {
    /// The run that [`Batch::end_run`] wrote.
    fn parse(run: &[u8]) -> Self {
        let width = |from: usize, to: usize| usize::try_from(decimal(&run[from..to])).unwrap_or(0);
        Self { items: width(0, 6), target: width(6, 11), arguments: width(11, RUN_WIDTH) }
    }
}

impl Batch {
    fn new(joint: Joint, position: Position, read: Moment, options: Arc<AppendOptions>) -> Self {
        // The range also includes everything between the item before and the first one of this batch.
        let epoch = match joint {
            Joint::Follows(before) => before.epoch,
            Joint::Start | Joint::Gap(_) => position.epoch,
        };
        Self {
            joint,
            first: position,
            last: position,
            events: 0,
            rejected: 0,
            filtered: 0,
            opened: read.at,
            opened_unix_ms: read.unix_ms,
            options,
            items: 0,
            epochs: vec![epoch],
            positions: Vec::new(),
            runs: Vec::new(),
            last_run: Run::default(),
            names: Vec::new(),
            streams: Vec::new(),
            body: Vec::new(),
            arguments: 0,
        }
    }

    /// A batch without messages in the place of lost ones: the gap before its only item is their record. Its time is
    /// the gap's beginning, since nothing in it was read later.
    pub(super) fn of_loss(last: Position, gap: Gap, read: Moment, options: Arc<AppendOptions>) -> Self {
        let read = Moment { unix_ms: gap.started_unix_ms, ..read };
        let mut batch = Self::new(Joint::Gap(gap), last, read, options);
        batch.push(last, TARGET_ANCHOR, 0);
        batch.end_run();
        batch
    }

    /// Returns whether it has no message, and stands behind lost ones.
    pub(super) fn is_loss(&self) -> bool {
        self.events == 0 && self.joint.lost_since_unix_ms().is_some()
    }

    /// Items in it, anchors included.
    #[must_use]
    pub fn items(&self) -> usize {
        self.items
    }

    /// Bytes of its items' arguments.
    pub(in crate::capture) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Bytes that it really holds in memory.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>()
            + self.positions.capacity()
            + self.runs.capacity()
            + self.names.capacity()
            + self.body.capacity()
            + self.streams.capacity() * size_of::<Range<usize>>()
            + self.epochs.capacity() * size_of::<Epoch>()
    }

    /// The streams it appends to.
    pub(in crate::capture) fn streams(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.streams.iter().map(|range| &self.names[range.clone()])
    }

    /// Epochs as the script reads them: each with a space behind it.
    pub(in crate::capture) fn epochs(&self) -> impl Iterator<Item = Epoch> {
        self.epochs.iter().copied()
    }

    /// Number of arguments that [`Self::write_items`] writes.
    pub(in crate::capture) fn item_arguments(&self) -> usize {
        2 + self.arguments
    }

    /// Writes positions, runs and the items' arguments.
    pub(in crate::capture) fn write_items(&self, out: &mut Vec<u8>) {
        resp::argument(out, &self.positions);
        resp::argument(out, &self.runs);
        out.extend_from_slice(&self.body);
    }

    /// Number of its messages at or before a position.
    pub(super) fn events_up_to(&self, position: Option<Position>) -> u64 {
        if Some(self.last) <= position {
            return self.events;
        } else if Some(self.first) > position {
            return 0;
        }
        let passed = self
            .items_at()
            .zip(self.messages())
            .filter(|(item, is_message)| *is_message && item.is_some() && *item <= position);
        u64::try_from(passed.count()).unwrap_or(u64::MAX)
    }

    /// The position of each item.
    fn items_at(&self) -> impl Iterator<Item = Option<Position>> {
        self.positions.chunks_exact(ITEM_POSITION_WIDTH).map(|item| {
            let (epoch, ordinal) = item.split_at(ITEM_POSITION_WIDTH - Position::ORDINAL_WIDTH);
            let epoch = usize::try_from(decimal(epoch)).ok().and_then(|index| self.epochs.get(index));
            epoch.map(|epoch| epoch.at(decimal(ordinal)))
        })
    }

    /// Number of its messages that were lost, if a state has passed all of them.
    pub(super) fn lost(&self, passage: &Passage) -> u64 {
        // The first epoch is that of the item before, which may be outside the batch.
        let own = self.epochs.iter().position(|epoch| *epoch == self.first.epoch).unwrap_or(0);
        if passage.has_all(self.first, self.last, &self.epochs[own..]) {
            return 0;
        }
        let mut messages = self.messages();
        let mut lost = 0;
        for item in self.items_at() {
            let is_message = messages.next().unwrap_or(false);
            if is_message && item.is_some_and(|item| !passage.has(item)) {
                lost += 1;
            }
        }
        lost
    }

    /// For each item, true if it is a message and not an anchor.
    fn messages(&self) -> impl Iterator<Item = bool> {
        let ended = self.runs.chunks_exact(RUN_WIDTH).map(Run::parse);
        ended
            .chain([self.last_run])
            .flat_map(|run| std::iter::repeat_n(run.target != TARGET_ANCHOR, run.items))
    }

    /// Adds a stream's name. Returns its place among the streams.
    fn add_stream(&mut self, name: &[u8]) -> usize {
        let start = self.names.len();
        self.names.extend_from_slice(name);
        self.streams.push(start..self.names.len());
        self.streams.len() - 1
    }

    fn is_full(&self) -> bool {
        self.items >= BATCH_ITEMS || self.body.len() >= BATCH_BYTES || self.arguments >= BATCH_ARGUMENTS
    }

    fn push(&mut self, position: Position, target: usize, arguments: usize) {
        debug_assert!(self.items == 0 || self.last < position, "items ascend");
        let counts_on = self.items > 0
            && self.last.epoch == position.epoch
            && position.ordinal.checked_sub(1) == Some(self.last.ordinal);
        if self.epochs.last() != Some(&position.epoch) {
            self.epochs.push(position.epoch);
        }
        self.last = position;
        self.items += 1;
        self.arguments += arguments;
        if counts_on {
            one_more(&mut self.positions, ITEM_POSITION_WIDTH);
        } else {
            padded(&mut self.positions, self.epochs.len() - 1, ITEM_POSITION_WIDTH - Position::ORDINAL_WIDTH);
            padded_u64(&mut self.positions, position.ordinal, Position::ORDINAL_WIDTH);
        }
        if self.last_run.target == target && self.last_run.arguments == arguments && self.last_run.items > 0 {
            self.last_run.items += 1;
        } else {
            self.end_run();
            self.last_run = Run { items: 1, target, arguments };
        }
    }

    fn end_run(&mut self) {
        let Run { items, target, arguments } = std::mem::take(&mut self.last_run);
        if items > 0 {
            padded(&mut self.runs, items, 6);
            padded(&mut self.runs, target, 5);
            padded(&mut self.runs, arguments, 5);
        }
    }
}

/// Fills batches with a route's items, in order.
#[derive(Debug)]
pub struct Builder {
    options: Arc<AppendOptions>,
    open: Option<Batch>,
    last: Option<Position>,
    hasher: DefaultHashBuilder,
    /// The open batch's streams by name.
    index: HashTable<usize>,
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
    pub(super) fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, Batch::held_bytes)
    }

    /// The options of its batches.
    pub(super) fn options(&self) -> &Arc<AppendOptions> {
        &self.options
    }

    /// Events in the open batch.
    #[must_use]
    pub fn open_events(&self) -> u64 {
        self.open.as_ref().map_or(0, |batch| batch.events)
    }

    /// Number of these at or before a position.
    pub(super) fn open_events_up_to(&self, position: Option<Position>) -> u64 {
        self.open.as_ref().map_or(0, |batch| batch.events_up_to(position))
    }

    /// Messages that are lost before the open batch with a damaged spool.
    pub(super) fn open_loss(&self) -> u64 {
        self.open.as_ref().map_or(0, |batch| batch.joint.lost())
    }

    /// Since when; milliseconds since 1970.
    pub(super) fn open_loss_since_unix_ms(&self) -> Option<u64> {
        self.open.as_ref().and_then(|batch| batch.joint.lost_since_unix_ms())
    }

    /// Adds the anchor that opens a window. The open batch must have been taken before.
    pub fn open_window(&mut self, anchor: Position, joint: Joint, read: Moment) {
        debug_assert!(self.open.is_none() && joint.opens_window(), "a window begins a batch");
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
        let joint = self.last.map_or(Joint::Start, Joint::Follows);
        let Self { open, options, body_bytes, .. } = self;
        open.get_or_insert_with(|| Self::begin(joint, position, read, options, *body_bytes))
    }

    /// Batches under load resemble each other: one allocation each, of about the right size.
    fn begin(
        joint: Joint,
        position: Position,
        read: Moment,
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

fn padded(out: &mut Vec<u8>, number: usize, width: usize) {
    padded_u64(out, number as u64, width);
}

/// Repeats the last `width` bytes, a number in decimal, with one more: in a window nearly every ordinal is the one
/// before and one, and its digits need no division.
fn one_more(out: &mut Vec<u8>, width: usize) {
    let last = out.len() - width;
    out.extend_from_within(last..);
    for digit in out[last + width..].iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            break;
        }
        *digit = b'0';
    }
}

/// The number that [`padded_u64`] wrote.
fn decimal(digits: &[u8]) -> u64 {
    digits.iter().fold(0_u64, |number, digit| {
        number.wrapping_mul(10).wrapping_add(u64::from(digit.wrapping_sub(b'0')))
    })
}

/// A number in decimal, filled with zeros to a fixed width.
fn padded_u64(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    for digit in out[start..].iter_mut().rev() {
        if number == 0 {
            break;
        }
        *digit += u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

#[cfg(test)]
mod tests;
