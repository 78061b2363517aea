//! A batch as bytes, for the spool: everything that appending it needs, also after a restart with
//! another configuration.
//!
//! ```text
//! version · joint · first · last · opened_unix_ms · complete_unix_ms · events · rejected · filtered · items · arguments ·
//! options (count, bytes) · epochs · positions · runs · names · streams (ends in names) · body
//! ```
//!
//! Numbers are big-endian; variable parts are preceded by their length, in four bytes. The log beneath checks that a
//! record is complete and unchanged, so one that does not decode is of another version. Impossible numbers are refused
//! all the same, since later calculations use them.

use std::sync::Arc;
use std::time::Instant;

use super::{AppendOptions, Batch, Gap, Joint, Run};
use crate::event::GapCause;
use crate::position::{Epoch, Position};
use crate::spool::MOST_EVENTS;

/// The version that this release writes.
const VERSION: u8 = 2;
/// The version of release 0.1.0: `complete_unix_ms` is missing.
const VERSION_OF_0_1: u8 = 1;

/// A record that this version cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is of another version of tidegate")]
pub(crate) struct NotARecord;

impl Batch {
    /// The batch as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held_bytes() + 256);
        out.push(VERSION);
        match &self.joint {
            Joint::Follows(before) => {
                out.push(0);
                out.extend_from_slice(&before.to_bytes());
            }
            Joint::Start => out.push(1),
            Joint::Gap(gap) => {
                out.push(2);
                block(&mut out, gap.cause.as_str().as_bytes());
                block(&mut out, gap.detail.as_bytes());
                // The last was a count of messages once, and still has its place.
                for number in [gap.started_unix_ms, gap.ended_unix_ms, gap.dropped, u64::MAX] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
            }
        }
        out.extend_from_slice(&self.first.to_bytes());
        out.extend_from_slice(&self.last.to_bytes());
        let [items, arguments, options] =
            [self.items, self.arguments, self.options.count].map(|count| count as u64);
        let times = [self.opened_unix_ms, self.complete_unix_ms];
        let counts = [self.events, self.rejected, self.filtered, items, arguments, options];
        for number in times.into_iter().chain(counts) {
            out.extend_from_slice(&number.to_be_bytes());
        }
        block(&mut out, &self.options.arguments);
        let epochs: Vec<u8> = self.epochs.iter().flat_map(|epoch| epoch.at(0).to_bytes()).collect();
        let ends: Vec<u8> = self.streams.iter().flat_map(|range| (range.end as u64).to_be_bytes()).collect();
        for bytes in [&epochs, &self.positions, &self.runs, &self.names, &ends, &self.body] {
            block(&mut out, bytes);
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are no batch of this version.
    pub(crate) fn decode(bytes: &[u8], read: Instant) -> Result<Self, NotARecord> {
        Remaining(bytes).batch(read).ok_or(NotARecord)
    }

    /// The `complete_unix_ms` of such a record. `None` if it is no batch of a known version.
    pub(in crate::capture) fn recorded_complete_unix_ms(record: &[u8]) -> Option<u64> {
        let mut record = Remaining(record);
        let version = record.version()?;
        record.joint()?;
        record.position()?;
        record.position()?;
        record.times(version).map(|(_, complete_unix_ms)| complete_unix_ms)
    }
}

fn block(out: &mut Vec<u8>, bytes: &[u8]) {
    // A batch is bounded far below what four bytes can count.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

struct Remaining<'a>(&'a [u8]);

impl<'a> Remaining<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn block(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        self.take(usize::try_from(length).ok()?)
    }

    /// A number of events.
    fn count(&mut self) -> Option<u64> {
        self.number().filter(|count| *count <= MOST_EVENTS)
    }

    fn position(&mut self) -> Option<Position> {
        let position = Position::from_bytes(self.take(Position::BYTES)?.try_into().ok()?);
        // There is room for the next epoch and the next ordinal.
        (position.epoch.number <= Epoch::MAX_NUMBER && position.ordinal < u64::MAX).then_some(position)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.block()?.to_vec()).ok()
    }

    fn version(&mut self) -> Option<u8> {
        self.byte().filter(|version| (VERSION_OF_0_1..=VERSION).contains(version))
    }

    /// `opened_unix_ms` and `complete_unix_ms`.
    fn times(&mut self, version: u8) -> Option<(u64, u64)> {
        let opened = self.number()?;
        let complete = if version == VERSION_OF_0_1 { opened } else { self.number()? };
        Some((opened, complete.min(opened)))
    }

    fn joint(&mut self) -> Option<Joint> {
        Some(match self.byte()? {
            0 => Joint::Follows(self.position()?),
            1 => Joint::Start,
            2 => {
                let cause = self.text()?;
                let cause = *GapCause::ALL.iter().find(|known| known.as_str() == cause)?;
                let detail = self.text()?;
                let (started_unix_ms, ended_unix_ms) = (self.number()?, self.number()?);
                let dropped = self.count()?;
                self.number()?;
                Joint::Gap(Gap { cause, detail, started_unix_ms, ended_unix_ms, dropped })
            }
            _ => return None,
        })
    }

    fn epochs(&mut self) -> Option<Vec<Epoch>> {
        let mut inner = Remaining(self.block()?);
        let mut epochs = Vec::with_capacity(inner.0.len() / Position::BYTES);
        while !inner.0.is_empty() {
            epochs.push(inner.position()?.epoch);
        }
        Some(epochs)
    }

    fn batch(mut self, opened: Instant) -> Option<Batch> {
        let version = self.version()?;
        let joint = self.joint()?;
        let (first, last) = (self.position()?, self.position()?);
        let (opened_unix_ms, complete_unix_ms) = self.times(version)?;
        let (events, rejected, filtered) = (self.count()?, self.count()?, self.count()?);
        let (items, arguments, count) = (self.size()?, self.size()?, self.size()?);
        let options = Arc::new(AppendOptions::new(self.block()?.to_vec(), count));
        let epochs = self.epochs()?;
        let positions = self.block()?.to_vec();
        let runs = self.block()?.to_vec();
        let names = self.block()?.to_vec();
        let mut ends = Remaining(self.block()?);
        let mut streams = Vec::with_capacity(ends.0.len() / 8);
        let mut start = 0;
        while !ends.0.is_empty() {
            let end = ends.size()?;
            names.get(start..end)?;
            streams.push(start..end);
            start = end;
        }
        let body = self.block()?.to_vec();
        // Each of them takes at least a byte.
        let fits = items <= positions.len() && arguments <= body.len() && count <= options.arguments.len();
        if !fits || first > last || rejected.saturating_add(filtered) > events {
            return None;
        }
        Some(Batch {
            joint,
            first,
            last,
            events,
            rejected,
            filtered,
            opened,
            opened_unix_ms,
            complete_unix_ms,
            options,
            items,
            epochs,
            positions,
            runs,
            last_run: Run::default(),
            names,
            streams,
            body,
            arguments,
        })
    }
}
