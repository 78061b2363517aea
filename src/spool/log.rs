//! The log: segments of records, written at the end, read in order, deleted from the front.
//!
//! ```text
//!  segments   ┌ begin · record · record · seal ┐ ┌ begin · record · record ┆ record · record ┐
//!             └────── read and released ───────┘ └──────── synced ─────────┆──── dirty ──────┘ ◀ written here
//! ```
//!
//! Constraints: a crash at any byte loses at most the unsynced records, and damage of any kind loses at most the
//! records that it hit. A failed write leaves the log as before the request, except for the records that it reports as
//! written.
//!
//! Writing. A record is one write of one buffer. Before each sync a seal is written, which separates synced records
//! from those that a crash may have torn. A segment is made when the first record for it comes, so a log can be opened
//! and read on a full disk.
//!
//! A failed sync. Linux reports a failed write-back once and may drop the pages: a second `fsync` then returns success
//! although nothing is on disk (PostgreSQL lost data by this, "fsyncgate", 2018). So after a failed sync, records since
//! the last good one are not trusted to that file. They are read back and verified, written again to a new file, and
//! count once *that* is synced. Until then nothing more is appended, so at most one segment is repeated. Records that
//! cannot be read back are damage, with their exact number. A name that cannot be synced is removed and made again; a
//! file that cannot be truncated is not written to any more.

mod reader;
mod recovery;

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use self::reader::{End, LogReader};
pub(super) use self::recovery::{find, segments};
use super::aside;
use super::directory::Claim;
use super::record::{self, Frame, FrameKind, HEAD, LONGEST, Stand};
use super::scan::{ScanStep, Scanner};
use super::segment::Segment;
use super::storage::{Disk, Storage};
use super::{Damage, Fsync, Mark, Options, Piece, Record, Recovered, SpoolError, at};

use crate::logs::LogCode;

/// Attempts to read back after a failed sync; records that still cannot be read count as lost.
const REREADS: u32 = 3;

/// The segment that is written to.
#[derive(Debug)]
struct SegmentWriter<F> {
    file: F,
    salt: u64,
    /// The end of its synced part, and the log's counts there.
    synced: (u64, Stand),
    /// True if there are records behind the last seal.
    unsealed: bool,
}

/// A log that is open for writing and reading.
#[derive(Debug)]
pub struct Log<S: Storage = Disk> {
    storage: S,
    options: Options,
    segments: VecDeque<Segment>,
    /// Size of all segments.
    bytes: u64,
    /// The log's counts at its end.
    stand: Stand,
    /// The counts are exact up to there.
    sure: bool,
    next_number: u64,
    /// Writes the last segment; `None` if the next record begins another.
    writer: Option<SegmentWriter<S::File>>,
    /// Written since it was last synced.
    dirty: bool,
    /// A sync failed: the dirty records must be written again.
    suspect: bool,
    rereads: u32,
    synced_at: Instant,
    reader: LogReader<S::File>,
    buffer: Vec<u8>,
}

impl Log {
    /// Opens the log in a directory that was claimed. A torn tail is cut off.
    ///
    /// # Errors
    /// If a newer release wrote it, or the disk refuses.
    pub fn open(claim: Claim, options: Options) -> Result<(Self, Recovered), SpoolError> {
        Self::over(Disk::claimed(claim), options)
    }
}

impl<S: Storage> Log<S> {
    /// Opens the log on any storage.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn over(storage: S, options: Options) -> Result<(Self, Recovered), SpoolError> {
        let mut found = find(&storage, segments(&storage)?)?;
        if let Some(torn) = &found.torn {
            let cut = storage.truncate(&torn.name, torn.offset);
            tracing::info!(
                event = LogCode::SpoolTorn.as_str(),
                file = %storage.directory().join(&torn.name).display(),
                offset = torn.offset,
                bytes = torn.bytes,
                failed = cut.err().map(tracing::field::display),
                "a crash left an incomplete record at the end of the spool; it never counted as written and is removed"
            );
        }
        let next_number = found.segments.back().map_or(1, |last| last.number.saturating_add(1));
        let void: Vec<String> =
            found.segments.iter().filter(|one| found.is_void(one)).map(|one| one.name.clone()).collect();
        found.segments.retain(|one| !void.contains(&one.name) || storage.remove(&one.name).is_err());
        let bytes = found.segments.iter().map(|segment| segment.bytes).sum();
        let recovered = Recovered { bytes, ..found.recovered };
        let log = Self {
            storage,
            options,
            segments: found.segments,
            bytes,
            stand: found.stand,
            sure: found.sure,
            next_number,
            writer: None,
            dirty: false,
            suspect: false,
            rereads: 0,
            synced_at: Instant::now(),
            reader: LogReader::new(found.base),
            buffer: Vec::new(),
        };
        Ok((log, recovered))
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns whether something is still to be synced.
    #[must_use]
    pub(super) fn is_unsynced(&self) -> bool {
        self.options.fsync != Fsync::Never && (self.dirty || self.suspect)
    }

    /// Returns whether it holds nothing to be read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.iter().all(|segment| segment.last.is_none() && !segment.damaged)
    }

    /// Appends records, and syncs them if the policy is to do so each time.
    ///
    /// # Errors
    /// If the limit is reached or the disk refuses, with the number of records that are written all the same.
    pub fn write(&mut self, records: &[Record]) -> Result<(), (SpoolError, usize)> {
        let before = (self.segments.back().map(|last| (last.number, last.bytes, last.last)), self.stand);
        let appended = records.iter().try_for_each(|one| self.append(&one.mark, one.events, &one.body));
        let synced = if self.suspect { Ok(()) } else { self.tick(true) };
        let Err(error) = synced.and(appended) else { return Ok(()) };
        if self.suspect {
            self.take_back(before.0, before.1);
        }
        let written = self.stand.records.saturating_sub(before.1.records);
        Err((error, usize::try_from(written).unwrap_or(usize::MAX).min(records.len())))
    }

    /// Appends a record. It is in the file when this returns, and on disk according to [`Self::tick`].
    ///
    /// # Errors
    /// If the limit is reached or the disk refuses; the log is then unchanged.
    pub fn append(&mut self, mark: &Mark, events: u64, body: &[u8]) -> Result<(), SpoolError> {
        if self.suspect {
            self.write_again()?;
        }
        let length = (HEAD + body.len()) as u64;
        if body.len() > LONGEST || self.bytes.saturating_add(length) > self.options.limit_bytes {
            let limit_bytes = self.options.limit_bytes;
            return Err(SpoolError::Full { directory: self.storage.directory().to_owned(), limit_bytes });
        }
        let is_full = self.segments.back().is_some_and(|last| {
            last.last.is_some() && last.bytes.saturating_add(length) > self.options.segment_bytes
        });
        if is_full {
            self.close()?;
        }
        if self.writer.is_none() {
            self.create(self.stand)?;
        }
        let stand = Stand {
            records: self.stand.records.saturating_add(1),
            events: self.stand.events.saturating_add(events),
            mark: Some(*mark),
        };
        self.write_frame(&Frame { kind: FrameKind::Record, events, stand, body })?;
        self.stand = stand;
        self.dirty = true;
        Ok(())
    }

    /// Writes a frame at the end of the last segment.
    fn write_frame(&mut self, frame: &Frame<'_>) -> Result<(), SpoolError> {
        let (Some(writer), Some(last)) = (&mut self.writer, self.segments.back_mut()) else { return Ok(()) };
        record::encode(&mut self.buffer, writer.salt, last.bytes, frame);
        if let Err(error) = self.storage.write_at(&writer.file, last.bytes, &self.buffer) {
            // The partial frame is cut off: the next frame follows the last complete one.
            let file = self.storage.directory().join(&last.name);
            if self.storage.truncate(&last.name, last.bytes).is_err() {
                self.abandon();
            }
            return Err(SpoolError::Disk { file, source: error });
        }
        let length = self.buffer.len() as u64;
        last.bytes += length;
        self.bytes += length;
        if frame.kind == FrameKind::Record {
            last.last = frame.stand.mark;
            writer.unsealed = true;
        }
        Ok(())
    }

    /// Stops writing to a file that cannot be cut off: the bytes behind its end may be anything.
    fn abandon(&mut self) {
        if self.dirty && self.options.fsync != Fsync::Never {
            // The file can no longer be synced, though it must be. So its records go to the next file, too.
            self.suspect = true;
        } else {
            self.writer = None;
        }
    }

    /// Begins another segment, behind `stand`.
    fn create(&mut self, stand: Stand) -> Result<(), SpoolError> {
        let salt = self.storage.salt();
        let segment = Segment::new(self.next_number, salt);
        let file = self.storage.directory().join(&segment.name);
        let created = self.storage.create_new(&segment.name).map_err(at(&file))?;
        // A name is used once, even if it cannot be removed.
        self.next_number = self.next_number.saturating_add(1);
        let kind = if self.sure { FrameKind::Begin } else { FrameKind::Unsure };
        record::encode(&mut self.buffer, salt, 0, &Frame { kind, events: 0, stand, body: &[] });
        let begun =
            self.storage.write_at(&created, 0, &self.buffer).and_then(|()| self.storage.sync_directory());
        if let Err(error) = begun {
            // An empty file would only be in the way.
            self.remove(&segment.name)?;
            return Err(at(file)(error));
        }
        self.sure = true;
        self.bytes += HEAD as u64;
        self.segments.push_back(Segment { bytes: HEAD as u64, ..segment });
        self.writer =
            Some(SegmentWriter { file: created, salt, synced: (HEAD as u64, stand), unsealed: false });
        Ok(())
    }

    /// Finishes the segment that is written to.
    fn close(&mut self) -> Result<(), SpoolError> {
        if self.options.fsync == Fsync::Never {
            self.seal();
            self.dirty = false;
        } else {
            self.sync()?;
        }
        self.writer = None;
        Ok(())
    }

    /// Writes a seal: everything before it is to be synced.
    fn seal(&mut self) {
        if self.writer.as_mut().is_some_and(|writer| std::mem::take(&mut writer.unsealed)) {
            // Without the seal, damage may be taken for a torn tail; that is no reason to refuse a record.
            let frame = Frame { kind: FrameKind::Seal, events: 0, stand: self.stand, body: &[] };
            if let Err(error) = self.write_frame(&frame) {
                tracing::debug!("cannot write a seal: {error}");
            }
        }
    }

    /// Syncs written records, if the policy requires it now. `batch_end`: a request ends here.
    ///
    /// # Errors
    /// If the disk refuses; unsynced records are then written again, at the latest before the next record.
    pub fn tick(&mut self, batch_end: bool) -> Result<(), SpoolError> {
        let due = match self.options.fsync {
            Fsync::Always => batch_end || self.suspect,
            Fsync::Every(interval) => self.suspect || self.synced_at.elapsed() >= interval,
            Fsync::Never => false,
        };
        if due { self.sync() } else { Ok(()) }
    }

    /// Syncs written records.
    ///
    /// # Errors
    /// As [`Self::tick`].
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        if self.suspect {
            return self.write_again();
        }
        if !self.dirty {
            return Ok(());
        }
        self.seal();
        if self.suspect {
            return self.write_again();
        }
        let (Some(writer), Some(last)) = (&mut self.writer, self.segments.back()) else { return Ok(()) };
        let file = self.storage.directory().join(&last.name);
        // Records in a file that was removed are in no file after a crash.
        let there = self.storage.length(&last.name).map(|_| ());
        if let Err(error) = there.and_then(|()| self.storage.sync(&writer.file)) {
            self.suspect = true;
            return Err(at(file)(error));
        }
        writer.synced = (last.bytes, self.stand);
        self.dirty = false;
        self.synced_at = Instant::now();
        Ok(())
    }

    /// Gives up the records of a request that failed, as far as they are not synced: they count as not written.
    fn take_back(&mut self, segment: Option<(u64, u64, Option<Mark>)>, stand: Stand) {
        let (Some(writer), Some(last)) = (&self.writer, self.segments.back_mut()) else { return };
        let (synced_bytes, synced_stand) = writer.synced;
        let (bytes, stand, mark) = match segment {
            Some((number, bytes, mark)) if number == last.number && bytes >= synced_bytes => {
                (bytes, stand, mark)
            }
            // The request began before that: records synced meanwhile are written.
            _ => (synced_bytes, synced_stand, synced_stand.mark.filter(|_| synced_bytes > HEAD as u64)),
        };
        self.bytes = self.bytes.saturating_sub(last.bytes.saturating_sub(bytes));
        (last.bytes, last.last) = (bytes, mark);
        self.stand = stand;
        let name = last.name.clone();
        if bytes == synced_bytes {
            (self.writer, self.suspect, self.dirty) = (None, false, false);
            return self.cut_to_synced(&name, synced_bytes, synced_stand);
        }
        if let Err(error) = self.storage.truncate(&name, bytes) {
            // It is not written to any more, and the next file's beginning gives its end.
            tracing::debug!("cannot remove a failed request: {error}");
        }
    }

    /// Writes the dirty records again, to another file, and syncs that.
    fn write_again(&mut self) -> Result<(), SpoolError> {
        let (Some(writer), Some(old)) = (self.writer.take(), self.segments.back().cloned()) else {
            (self.suspect, self.dirty) = (false, false);
            return Ok(());
        };
        let (bytes, next_number) = (self.bytes, self.next_number);
        match self.copy_to_new(&old, writer.synced) {
            Ok(()) => {}
            Err(error) => {
                // Back to the state before; the new file holds only records of the old one.
                while self.segments.back().is_some_and(|last| last.number >= next_number)
                    && let Some(new) = self.segments.pop_back()
                {
                    if let Err(error) = self.remove(&new.name) {
                        tracing::debug!("cannot delete an unused file: {error}");
                    }
                }
                (self.writer, self.bytes) = (Some(writer), bytes);
                return Err(error);
            }
        }
        self.cut_to_synced(&old.name, writer.synced.0, writer.synced.1);
        (self.suspect, self.dirty, self.rereads) = (false, false, 0);
        self.synced_at = Instant::now();
        Ok(())
    }

    /// Cuts a file whose sync failed to its synced part. If only its beginning is left, which is not synced either, the
    /// file is removed.
    fn cut_to_synced(&mut self, name: &str, bytes: u64, stand: Stand) {
        let Some(at) = self.segments.iter().position(|segment| segment.name == name) else { return };
        let cut = if bytes <= HEAD as u64 {
            self.bytes = self.bytes.saturating_sub(self.segments[at].bytes);
            self.segments.remove(at);
            self.storage.remove(name).and_then(|()| self.storage.sync_directory())
        } else {
            let segment = &mut self.segments[at];
            self.bytes = self.bytes.saturating_sub(segment.bytes.saturating_sub(bytes));
            (segment.bytes, segment.last) = (bytes, stand.mark);
            self.storage.truncate(name, bytes)
        };
        if let Err(error) = cut {
            // The same records are in two files then, and are delivered once.
            tracing::debug!("cannot cut off a file whose sync failed: {error}");
        }
    }

    fn copy_to_new(&mut self, old: &Segment, (from, base): (u64, Stand)) -> Result<(), SpoolError> {
        let path = self.storage.directory().join(&old.name);
        let stand = self.stand;
        self.create(base)?;
        let mut body = Vec::new();
        let copied = match self.storage.open(&old.name) {
            Ok(file) => {
                let mut scanner = Scanner::new(file, old).at(from);
                loop {
                    match scanner.step(&self.storage, old.bytes, &mut body) {
                        Ok(ScanStep::Frame(head)) if head.kind == FrameKind::Record => {
                            let frame = Frame {
                                kind: FrameKind::Record,
                                events: head.events,
                                stand: head.stand,
                                body: &body,
                            };
                            self.write_frame(&frame)?;
                        }
                        // Records that are not intact are lost, and the counts show it.
                        Ok(ScanStep::Frame(_) | ScanStep::Old(_) | ScanStep::Bad(_)) => {}
                        Ok(ScanStep::End) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = copied {
            self.rereads += 1;
            if self.rereads < REREADS {
                return Err(at(path)(error));
            }
        }
        self.stand = stand;
        self.seal_new()?;
        let (Some(new), Some(last)) = (&mut self.writer, self.segments.back()) else { return Ok(()) };
        self.storage.sync(&new.file).map_err(at(path))?;
        new.synced = (last.bytes, stand);
        Ok(())
    }

    fn seal_new(&mut self) -> Result<(), SpoolError> {
        if let Some(writer) = &mut self.writer {
            writer.unsealed = false;
        }
        // The seal has their number, even if the last ones could not be read back.
        self.write_frame(&Frame { kind: FrameKind::Seal, events: 0, stand: self.stand, body: &[] })
    }

    /// The next pieces, at least one if there is one, until they are more than `max_bytes`. Empty if everything is
    /// read; records written later are read by a later call.
    ///
    /// # Errors
    /// If the disk refuses: the next call tries again, from the same place.
    pub fn read(&mut self, max_bytes: usize) -> Result<Vec<Piece>, SpoolError> {
        let mut pieces = Vec::new();
        let mut bytes = 0;
        let end = if self.sure { End::At(self.stand) } else { End::Unsure(self.stand) };
        while bytes < max_bytes {
            match self.reader.next(&self.storage, &mut self.segments, end) {
                Ok(None) => break,
                Ok(Some(piece)) => {
                    match &piece {
                        Piece::Record(record) => bytes += record.body.len(),
                        Piece::Damage(damage) => self.on_damage(damage),
                    }
                    pieces.push(piece);
                }
                // Pieces already read are returned first; the next call meets the error again.
                Err(_) if !pieces.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(pieces)
    }

    /// Logs that a file is damaged, and stops writing to it: the log line shows its name, and with it the marker.
    fn on_damage(&mut self, damage: &Damage) {
        note(&mut self.segments, damage);
        if self.writer.is_some()
            && self.segments.back().is_some_and(|last| last.damaged)
            && let Err(error) = self.close()
        {
            tracing::debug!("cannot finish a damaged file: {error}");
        }
    }

    /// Deletes the segments whose records are all at or before `upto`; a damaged one is put aside.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn release(&mut self, upto: &Mark) -> Result<(), SpoolError> {
        let mut released = false;
        while let Some(first) = self.segments.front() {
            let is_last = self.segments.len() == 1;
            let done = match first.last {
                Some(mark) => mark <= *upto,
                // No record of it is known: it is removed once it was read, or with the next one.
                None => {
                    self.reader.has_read(first)
                        || self
                            .segments
                            .get(1)
                            .is_some_and(|next| next.last.is_some_and(|mark| mark <= *upto))
                }
            };
            if !done {
                break;
            }
            let (name, damaged) = (first.name.clone(), first.damaged);
            if damaged {
                aside::put(&self.storage, first).map_err(at(self.storage.directory().join(&name)))?;
            } else {
                self.remove(&name)?;
            }
            if is_last {
                // The one that is written to is done with, too: the next record begins another.
                (self.writer, self.dirty, self.suspect) = (None, false, false);
            }
            if let Some(first) = self.segments.pop_front() {
                self.reader.skip(&first);
                self.bytes = self.bytes.saturating_sub(first.bytes);
            }
            released = true;
        }
        if released {
            self.storage.sync_directory().map_err(at(self.storage.directory()))?;
        }
        Ok(())
    }

    /// Deletes a file, if it exists.
    fn remove(&self, name: &str) -> Result<(), SpoolError> {
        match self.storage.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(at(self.storage.directory().join(name))(error))
            }
            _ => Ok(()),
        }
    }
}

/// Remembers which segment a damage is in.
fn note(segments: &mut VecDeque<Segment>, damage: &Damage) {
    let name = damage.file.file_name().and_then(|name| name.to_str());
    if let Some(segment) = segments.iter_mut().find(|segment| Some(segment.name.as_str()) == name) {
        segment.damaged |= damage.bytes > 0;
    }
}

#[cfg(test)]
mod tests;
