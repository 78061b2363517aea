//! Finds the records of an earlier process by reading all of them once.
//!
//! A tail is *torn* only if the last file ends inside the one frame that a crash interrupted, or in the zeros of pages
//! that were never written; it is cut off. Anything else that is bad is damage: it stays, and the reader delivers it in
//! its place. Synced records have a seal behind them, so their damage is never mistaken for a torn tail.
//!
//! Nothing is changed here: `log` cuts the torn tail, `reader` counts the damage in its place with `scan`'s help, and
//! `aside` keeps the damaged file.
//!
//! Failure: a file that the disk refuses to read stays as it is, and is read again in its turn.

use std::collections::{BTreeSet, VecDeque};

use super::super::record::Stand;
use super::super::segment::Segment;
use super::super::storage::Storage;
use super::super::{Damage, Piece, Recovered, SpoolError, at};
use super::reader::{End, LogReader};

/// A torn tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::spool) struct Torn {
    pub(in crate::spool) name: String,
    /// The tail's offset.
    pub(in crate::spool) offset: u64,
    /// The tail's length.
    pub(in crate::spool) bytes: u64,
}

/// The content on disk.
#[derive(Debug)]
pub(in crate::spool) struct RecoveredLog {
    pub(in crate::spool) segments: VecDeque<Segment>,
    pub(in crate::spool) recovered: Recovered,
    /// In the order of the files.
    pub(in crate::spool) damages: Vec<Damage>,
    pub(in crate::spool) torn: Option<Torn>,
    /// Files that cannot be read.
    pub(in crate::spool) refused: Vec<SpoolError>,
    /// Before the first record, if that is known.
    pub(super) base: Option<Stand>,
    /// The counts behind the last one.
    pub(super) stand: Stand,
    /// True if that is exact.
    pub(super) sure: bool,
    unread: BTreeSet<u64>,
}

impl RecoveredLog {
    /// Returns whether a segment holds nothing that would be missed.
    pub(super) fn is_void(&self, segment: &Segment) -> bool {
        segment.last.is_none() && !segment.damaged && !self.unread.contains(&segment.number)
    }
}

/// The segments of a directory, in order.
pub(in crate::spool) fn segments<S: Storage>(storage: &S) -> Result<VecDeque<Segment>, SpoolError> {
    let directory = storage.directory();
    let mut segments = Vec::new();
    for name in storage.list().map_err(at(directory))? {
        if let Some(mut segment) = Segment::named(&name, directory)? {
            segment.bytes = storage.length(&name).map_err(at(directory.join(&name)))?;
            segments.push(segment);
        }
    }
    segments.sort_unstable_by(|one, other| (one.number, &one.name).cmp(&(other.number, &other.name)));
    // Two releases that ran in turns may have given a number twice.
    let mut least = 0;
    for segment in &mut segments {
        segment.number = segment.number.max(least);
        least = segment.number.saturating_add(1);
    }
    Ok(segments.into())
}

/// Reads everything. Changes nothing.
pub(in crate::spool) fn find<S: Storage>(
    storage: &S,
    mut segments: VecDeque<Segment>,
) -> Result<RecoveredLog, SpoolError> {
    let mut reader = LogReader::new(None);
    let mut recovered = Recovered::default();
    let (mut damages, mut refused, mut unread) = (Vec::new(), Vec::new(), BTreeSet::new());
    loop {
        match reader.next(storage, &mut segments, End::Unknown) {
            Ok(Some(Piece::Record(record))) => {
                recovered.records += 1;
                recovered.events = recovered.events.saturating_add(record.events);
                recovered.first = recovered.first.or(Some(record.mark));
                recovered.last = Some(record.mark);
                match &mut recovered.ends {
                    Some([_, last]) => *last = record.body,
                    ends => *ends = Some([record.body.clone(), record.body]),
                }
            }
            Ok(Some(Piece::Damage(damage))) => damages.push(damage),
            Ok(None) => break,
            Err(error) => {
                refused.push(error);
                if let Some(segment) = reader.current(&mut segments) {
                    unread.insert(segment.number);
                    reader.give_up(segment);
                }
            }
        }
    }
    let mut stand = reader.stand().unwrap_or_default();
    let (mut sure, mut torn) = (true, None);
    if let Some(pending) = &reader.pending {
        let last = segments.back_mut().filter(|last| last.name == pending.name);
        if let Some(last) = last.filter(|_| pending.bad.torn) {
            last.bytes = pending.bad.offset;
            torn =
                Some(Torn { name: last.name.clone(), offset: pending.bad.offset, bytes: pending.bad.bytes });
            reader.pending = None;
        } else {
            sure = pending.bad.sure && !pending.refused;
            stand = pending.bad.known.filter(|known| known.records > stand.records).unwrap_or(stand);
        }
    }
    stand.mark = stand.mark.max(reader.delivered());
    let end = if sure { End::At(stand) } else { End::Unsure(stand) };
    let base = reader.base();
    if let Ok(Some(Piece::Damage(damage))) = reader.next(storage, &mut segments, end) {
        damages.push(damage);
    }
    for damage in &damages {
        super::note(&mut segments, damage);
    }
    recovered.bytes = segments.iter().map(|segment| segment.bytes).sum();
    recovered.damages = damages.len() as u64;
    let lost = damages.iter().filter_map(|damage| damage.events);
    recovered.lost_events = lost.fold(0, u64::saturating_add);
    recovered.cut_bytes = torn.as_ref().map_or(0, |torn| torn.bytes);
    Ok(RecoveredLog { segments, recovered, damages, torn, refused, base, stand, sure, unread })
}
