//! A batch: the content of one call of the append script, encoded once and never changed.
//!
//! Problem: an event is buffered from reading until its entry is known to be stored, it may have to be sent several
//! times, and all this must cost next to nothing per message.
//!
//! Operation: the [`Builder`](builder::Builder) encodes each event's arguments in wire format, straight from the read buffer into the
//! batch's one body. Sending copies the body behind a head; sending again does the same, since the script skips stored
//! items. Positions and runs (items in a row for the same stream with the same number of arguments) are one argument
//! each, so the script handles them per run and not per item.
//!
//! ```text
//! positions  010000…0042 010000…0043 010000…0044      epoch's index (2), ordinal (20)
//! runs       000002 00001 00004   000001 00000 00012  items (6), target (5), arguments an item (5)
//! body       $7 channel $1 a $7 payload $3 …          arguments, RESP-encoded
//! ```

pub(crate) mod builder;
mod digits;
pub(crate) mod gap;
mod halves;
pub(crate) mod passage;
mod record;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use digits::{decimal, one_more, padded, padded_u64};
use gap::{Gap, Joint};
use passage::Passage;

use crate::capture::mapping::MAX_FIELDS;
use crate::position::{Epoch, Position};
use crate::rt::Moment;
use crate::server::resp;

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
    /// Every message published before this was read before its first item, or is its first item; milliseconds since 1970.
    /// So messages behind the batch were published later: a gap behind it begins here. They may have waited in a socket
    /// when the batch was read.
    pub complete_unix_ms: u64,
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

/// When a batch's first item was read.
#[derive(Debug, Clone, Copy)]
struct ReadTime {
    moment: Moment,
    /// Until when everything was read by then; milliseconds since 1970.
    complete_unix_ms: u64,
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
    fn new(joint: Joint, position: Position, read: ReadTime, options: Arc<AppendOptions>) -> Self {
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
            opened: read.moment.at,
            opened_unix_ms: read.moment.unix_ms,
            complete_unix_ms: read.complete_unix_ms.min(read.moment.unix_ms),
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
        let read = ReadTime {
            moment: Moment { unix_ms: gap.started_unix_ms, ..read },
            complete_unix_ms: gap.started_unix_ms,
        };
        let mut batch = Self::new(Joint::Gap(gap), last, read, options);
        batch.push(last, TARGET_ANCHOR, 0);
        batch.end_run();
        batch
    }

    /// Returns whether it is empty and only carries the gap of lost messages.
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

#[cfg(test)]
mod tests;
