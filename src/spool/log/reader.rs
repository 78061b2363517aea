//! Delivers the records of all segments in order, and each loss in its place.
//!
//! The cost of a bad stretch is known later: by the counts in the next intact frame, of any file, or at the end by the
//! log's own counts. The same counts reveal a missing file. They also show that bad bytes cost nothing, because they
//! held no record, or because the records were written again to another file.
//!
//! Opening a log reads it with this reader too, and so does `tidegate spool verify`.
//!
//! Failure: if the disk refuses to read, the caller tries again, from the same place. After three refusals in a row the
//! rest of the segment is given up as damage: the records behind it must not wait for a dead sector.

use std::collections::VecDeque;
use std::io;

use super::super::record::{FrameKind, HEAD, Stand, v1};
use super::super::scan::{Bad, ScanStep, Scanner};
use super::super::segment::{Segment, SegmentFormat};
use super::super::storage::Storage;
use super::super::{Damage, MOST_EVENTS, Mark, Piece, Record, SpoolError};

const MISSING: &str = "a file before this one is missing, or shorter than it was written";
/// Refusals in a row after which the rest of a segment is given up.
const REFUSALS: u32 = 3;

/// The end of all records to read.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Nothing is known about it.
    Unknown,
    /// The log has been written so far.
    At(Stand),
    /// An end, with an unknown loss before it.
    Unsure(Stand),
}

/// A bad stretch whose cost is not known yet.
#[derive(Debug, Clone)]
pub(super) struct BadStretch {
    /// The file.
    pub(super) name: String,
    pub(super) bad: Bad,
    /// True if a file of version 1, which has no counts, is part of it.
    uncounted: bool,
    /// It is the rest of a file that the disk refuses to read.
    pub(super) refused: bool,
}

impl BadStretch {
    /// A frame that is no record, and nothing else.
    fn is_no_record(&self) -> bool {
        self.bad.sure && self.bad.known.is_none()
    }
}

/// The place of reading.
#[derive(Debug)]
pub(super) struct LogReader<F> {
    /// The segment that is read, or the first one behind it that is left.
    number: u64,
    scanner: Option<Scanner<F>>,
    /// The counts behind the last intact frame.
    stand: Option<Stand>,
    /// The counts before the first intact frame, if nothing is lost before it.
    base: Option<Stand>,
    /// The last record's mark.
    delivered: Option<Mark>,
    pub(super) pending: Option<BadStretch>,
    /// A record behind a damage that was delivered first.
    ready: Option<Record>,
    refusals: u32,
    body: Vec<u8>,
}

impl<F> LogReader<F> {
    /// At the beginning; `stand` are the counts before it, if known.
    pub(super) fn new(stand: Option<Stand>) -> Self {
        Self {
            number: 0,
            scanner: None,
            stand,
            base: stand,
            delivered: None,
            pending: None,
            ready: None,
            refusals: 0,
            body: Vec::new(),
        }
    }

    /// The counts behind the last intact frame.
    pub(super) fn stand(&self) -> Option<Stand> {
        self.stand
    }

    /// Before everything that was read, if that is known.
    pub(super) fn base(&self) -> Option<Stand> {
        self.base
    }

    /// The last record's mark.
    pub(super) fn delivered(&self) -> Option<Mark> {
        self.delivered
    }

    /// Returns whether it is behind this segment.
    fn has_passed(&self, segment: &Segment) -> bool {
        self.number > segment.number
    }

    /// Returns whether everything in this segment was delivered.
    pub(super) fn has_read(&self, segment: &Segment) -> bool {
        let at_its_end = self.number == segment.number
            && self.pending.is_none()
            && self.scanner.as_ref().is_some_and(|scanner| scanner.offset() >= segment.bytes);
        self.has_passed(segment) || at_its_end
    }

    /// Leaves a segment that is deleted.
    pub(super) fn skip(&mut self, segment: &Segment) {
        if self.has_passed(segment) {
            return;
        }
        self.number = segment.number.saturating_add(1);
        self.scanner = None;
        // Records that are not read any more are no loss.
        (self.pending, self.stand) = (None, None);
        self.delivered = self.delivered.max(segment.last);
        if self.ready.as_ref().is_some_and(|record| Some(record.mark) <= segment.last) {
            self.ready = None;
        }
    }

    /// The next piece; `None` if everything is read.
    ///
    /// # Errors
    /// If the disk refuses: the next call tries again.
    pub(super) fn next<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        segments: &mut VecDeque<Segment>,
        end: End,
    ) -> Result<Option<Piece>, SpoolError> {
        if let Some(record) = self.ready.take() {
            return Ok(Some(Piece::Record(record)));
        }
        loop {
            let index = segments.partition_point(|segment| segment.number < self.number);
            let follows = index + 1 < segments.len();
            let Some(segment) = segments.get_mut(index) else { return Ok(self.at_end(storage, end)) };
            if segment.number > self.number {
                self.enter(segment);
            }
            match self.step(storage, segment) {
                Ok(ScanStep::Frame(head)) => {
                    self.refusals = 0;
                    if let Some(piece) = self.on_frame(storage, segment, &head) {
                        return Ok(Some(piece));
                    }
                }
                Ok(ScanStep::Old(mark)) => {
                    self.refusals = 0;
                    segment.last = segment.last.max(Some(mark));
                    if Some(mark) <= self.delivered {
                        continue;
                    }
                    let damage = self.resolve(storage, segment, None);
                    return Ok(Some(self.deliver(damage, mark, 0)));
                }
                Ok(ScanStep::Bad(bad)) => {
                    self.refusals = 0;
                    self.on_bad(segment, bad, false);
                }
                Ok(ScanStep::End) if follows => {
                    if segment.bytes == 0 {
                        // It had a beginning at least.
                        self.on_rest(segment, "the file is empty", false);
                    }
                    self.leave(segment);
                }
                // The reader stays at the place of the next record.
                Ok(ScanStep::End) => return Ok(self.at_end(storage, end)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.on_rest(segment, "the file is missing", false);
                    self.leave(segment);
                }
                Err(source) => {
                    self.refusals += 1;
                    if self.refusals < REFUSALS {
                        let file = storage.directory().join(&segment.name);
                        return Err(SpoolError::Disk { file, source });
                    }
                    segment.damaged = true;
                    self.give_up(segment);
                }
            }
        }
    }

    /// The rest of the segment that is read cannot be read.
    pub(super) fn give_up(&mut self, segment: &mut Segment) {
        self.on_rest(segment, "the disk cannot read it", true);
        self.leave(segment);
    }

    /// The segment that is read.
    pub(super) fn current<'a>(&self, segments: &'a mut VecDeque<Segment>) -> Option<&'a mut Segment> {
        segments.iter_mut().find(|segment| segment.number >= self.number)
    }

    fn step<S: Storage<File = F>>(&mut self, storage: &S, segment: &Segment) -> io::Result<ScanStep> {
        let scanner = match &mut self.scanner {
            Some(scanner) => scanner,
            none => none.insert(Scanner::new(storage.open(&segment.name)?, segment)),
        };
        scanner.step(storage, segment.bytes, &mut self.body)
    }

    /// Begins with a segment. Numbers follow one another; in version 1 only they reveal a missing file.
    fn enter(&mut self, segment: &mut Segment) {
        if self.number > 0 && segment.format == SegmentFormat::V1 {
            let detail = MISSING;
            let bad = Bad { offset: 0, bytes: 0, detail, known: None, sure: false, torn: false };
            self.on_bad(segment, bad, false);
        }
        self.number = segment.number;
        self.scanner = None;
    }

    fn leave(&mut self, segment: &Segment) {
        self.number = segment.number.saturating_add(1);
        self.scanner = None;
        self.refusals = 0;
    }

    fn on_rest(&mut self, segment: &mut Segment, detail: &'static str, refused: bool) {
        let offset = self.scanner.as_ref().map_or(0, Scanner::offset);
        let bytes = segment.bytes.saturating_sub(offset);
        self.on_bad(segment, Bad { offset, bytes, detail, known: None, sure: false, torn: false }, refused);
    }

    fn on_bad(&mut self, segment: &mut Segment, bad: Bad, refused: bool) {
        segment.damaged |= !refused && !bad.torn;
        if segment.format == SegmentFormat::V1 && bad.offset == 0 && bad.bytes == v1::HEADER as u64 {
            // A header holds no record.
            return;
        }
        if !bad.torn {
            segment.last = segment.last.max(bad.known.and_then(|known| known.mark));
        }
        // A record has a body, so this was a beginning or a seal.
        let is_no_record =
            bad.bytes == HEAD as u64 && bad.known.is_none() && segment.format != SegmentFormat::V1;
        let sure = bad.sure || is_no_record;
        let uncounted = segment.format == SegmentFormat::V1;
        match &mut self.pending {
            Some(pending) => {
                pending.uncounted |= uncounted;
                pending.refused |= refused;
                pending.bad.bytes = pending.bad.bytes.saturating_add(bad.bytes);
                pending.bad.known = bad.known.or(pending.bad.known);
                pending.bad.sure &= sure;
                pending.bad.torn = false;
            }
            none => {
                let bad = Bad { sure, ..bad };
                *none = Some(BadStretch { name: segment.name.clone(), bad, uncounted, refused });
            }
        }
    }

    fn on_frame<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        segment: &mut Segment,
        head: &super::super::record::Head,
    ) -> Option<Piece> {
        let mark = head.stand.mark;
        if self.stand.is_none()
            && self.delivered.is_none()
            && self.pending.as_ref().is_none_or(BadStretch::is_no_record)
        {
            let (records, events) = head.before();
            self.base = Some(Stand { records, events, mark: None });
        }
        if head.kind != FrameKind::Record {
            if head.kind == FrameKind::Seal {
                segment.last = segment.last.max(mark);
            }
            let before = (head.kind != FrameKind::Unsure).then_some(head.stand);
            let damage = self.resolve(storage, segment, before);
            // The beginning of records written again is before the place that the reader has seen.
            self.stand = self.stand.max_by_records(head.stand);
            return damage.map(Piece::Damage);
        }
        segment.last = segment.last.max(mark);
        if mark <= self.delivered {
            // It was written again, after a failed sync.
            return None;
        }
        let (records, events) = head.before();
        let before = Stand { records, events, mark: None };
        let damage = self.resolve(storage, segment, Some(before));
        self.stand = Some(head.stand);
        Some(self.deliver(damage, mark.unwrap_or_default(), head.events))
    }

    /// Hands a record over, behind the damage before it.
    fn deliver(&mut self, damage: Option<Damage>, mark: Mark, events: u64) -> Piece {
        self.delivered = Some(mark);
        let record = Record { mark, events, body: std::mem::take(&mut self.body) };
        match damage {
            None => Piece::Record(record),
            Some(damage) => {
                self.ready = Some(record);
                Piece::Damage(damage)
            }
        }
    }

    fn at_end<S: Storage<File = F>>(&mut self, storage: &S, end: End) -> Option<Piece> {
        let (stand, sure) = match end {
            End::Unknown => return None,
            End::At(stand) => (stand, true),
            End::Unsure(stand) => (stand, false),
        };
        if self.pending.is_none() && self.stand.is_none_or(|seen| seen.records >= stand.records) {
            return None;
        }
        let damage = self.settle(storage, "", sure.then_some(stand));
        self.stand = self.stand.max_by_records(stand);
        damage.map(Piece::Damage)
    }

    fn resolve<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        segment: &Segment,
        before: Option<Stand>,
    ) -> Option<Damage> {
        if self.pending.is_none() {
            let (before, stand) = (before?, self.stand?);
            if before.records <= stand.records || segment.format == SegmentFormat::V1 {
                return None;
            }
        }
        self.settle(storage, &segment.name, before)
    }

    /// The loss up to a place where the log's counts were `before`.
    fn settle<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        name: &str,
        before: Option<Stand>,
    ) -> Option<Damage> {
        let pending = self.pending.take();
        let uncounted = pending.as_ref().is_some_and(|pending| pending.uncounted);
        let lost = match (before, self.stand) {
            _ if uncounted => None,
            (Some(before), Some(stand)) => Some((
                before.records.saturating_sub(stand.records),
                before.events.saturating_sub(stand.events),
            )),
            // The log began there.
            (Some(Stand { records: 0, .. }), None) => Some((0, 0)),
            // The first file's beginning is damaged, and no record with it.
            (Some(_), None) if pending.as_ref().is_some_and(BadStretch::is_no_record) => Some((0, 0)),
            _ => None,
        };
        if matches!(lost, Some((0, _))) {
            return None;
        }
        // A local user with write access can forge counts, and the ledger calculates with them.
        let lost = lost.filter(|(_, events)| *events <= MOST_EVENTS);
        let (name, bad) = match pending {
            Some(pending) => (pending.name, pending.bad),
            None => {
                let detail = MISSING;
                (name.to_owned(), Bad { offset: 0, bytes: 0, detail, known: None, sure: false, torn: false })
            }
        };
        let upto = before.and_then(|before| before.mark).max(bad.known.and_then(|known| known.mark));
        Some(Damage {
            after: self.delivered,
            upto: upto.filter(|upto| Some(*upto) > self.delivered),
            records: lost.map(|(records, _)| records),
            events: lost.map(|(_, events)| events),
            file: storage.directory().join(name),
            offset: bad.offset,
            bytes: bad.bytes,
            detail: bad.detail,
        })
    }
}

trait Later {
    /// The one that is behind more records.
    fn max_by_records(self, other: Stand) -> Option<Stand>;
}

impl Later for Option<Stand> {
    fn max_by_records(self, other: Stand) -> Option<Stand> {
        Some(self.filter(|stand| stand.records > other.records).unwrap_or(other))
    }
}
