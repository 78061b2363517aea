//! Reads one file frame by frame, and skips bytes that are no frame.
//!
//! ```text
//!  frame · frame · ▒▒▒▒▒▒▒▒▒▒▒▒ · frame · frame · ▒▒▒
//!                  └ bad stretch └ found by its marker, place and checksums    └ torn: the beginning of a frame
//! ```
//!
//! An intact head with a damaged body gives the place of the next frame. After a damaged head the next marker is
//! searched for. Both only move forward, so a file is read once whatever it contains. The memory is bounded by the
//! buffer and one body with an intact head.
//!
//! Version 1 has no marker. After a damaged record only the place by its length is tried: searching for something that
//! looks like a record would find forged ones in payloads.
//!
//! Failure: after an error of the disk the scanner is where it was.

use std::io;

use memchr::memmem;

use super::Mark;
use super::record::{self, FrameKind, HEAD, Head, MARKER, Stand, v1};
use super::segment::{Segment, SegmentFormat};
use super::storage::{Storage, fill_at};

/// Bytes of one read.
const BUFFER: usize = 256 * 1024;
/// Pages of which a crash of the machine leaves some unwritten: as zeros.
const PAGE: u64 = 4096;

/// A bad stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) detail: &'static str,
    /// The counts of the last intact head in it.
    pub(super) known: Option<Stand>,
    /// All of it is covered by intact heads, so that nothing else was in it.
    pub(super) sure: bool,
    /// It ends the file as a crash in the middle of a write does.
    pub(super) torn: bool,
}

/// The next thing in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScanStep {
    /// A frame of version 2, whole; a record's body is in the buffer.
    Frame(Head),
    /// A record of version 1, whole; its body is in the buffer.
    Old(Mark),
    /// Something else.
    Bad(Bad),
    /// The end.
    End,
}

/// The content at one place of version 2.
enum ScanLook {
    Whole(Head),
    /// The body is damaged.
    Body(Head, bool),
    /// The file ends inside the frame.
    Cut(Option<Stand>),
    Nothing,
}

/// A place in a file.
#[derive(Debug)]
pub(super) struct Scanner<F> {
    file: F,
    format: SegmentFormat,
    offset: u64,
    buffer: Vec<u8>,
    /// The offset of the buffer's content in the file.
    at: u64,
}

impl<F> Scanner<F> {
    /// At the beginning of a segment.
    pub(super) fn new(file: F, segment: &Segment) -> Self {
        Self { file, format: segment.format, offset: 0, buffer: Vec::new(), at: 0 }
    }

    /// Begins at the offset of a frame.
    pub(super) fn at(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// The offset of the next step.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next step; nothing at or behind `limit` is looked at. A record's body replaces what `body` held.
    pub(super) fn step<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        limit: u64,
        body: &mut Vec<u8>,
    ) -> io::Result<ScanStep> {
        if self.offset >= limit {
            return Ok(ScanStep::End);
        }
        match self.format {
            SegmentFormat::V1 => self.step_v1(storage, limit, body),
            SegmentFormat::V2 { salt } => self.step_v2(storage, salt, limit, body),
        }
    }

    fn step_v2<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        salt: u64,
        limit: u64,
        body: &mut Vec<u8>,
    ) -> io::Result<ScanStep> {
        let begin = self.offset;
        let mut bad = Bad { offset: begin, bytes: 0, detail: "", known: None, sure: true, torn: false };
        let mut at = begin;
        while at < limit {
            match self.look(storage, salt, at, limit, body)? {
                ScanLook::Whole(head) if at == begin => {
                    self.offset = at.saturating_add(head.size());
                    return Ok(ScanStep::Frame(head));
                }
                ScanLook::Whole(_) => break,
                // A torn stretch is separate: it may be cut off, while the stretch before it must stay.
                ScanLook::Cut(_) if at > begin => break,
                ScanLook::Cut(known) => {
                    (bad.detail, bad.torn) = ("it ends inside a record", true);
                    (bad.known, bad.sure) = (known, known.is_some());
                    at = limit;
                }
                ScanLook::Body(head, zeros) => {
                    bad.detail = "a record's content does not match its checksum";
                    bad.known = Some(head.stand);
                    let end = at.saturating_add(head.size());
                    bad.torn = zeros && at == begin && end >= limit;
                    at = end;
                }
                ScanLook::Nothing => {
                    bad.detail = "it is not a record";
                    bad.sure = false;
                    let (next, zeros_from) = self.search(storage, salt, at + 1, limit)?;
                    // The head itself may have been cut by the end of a page.
                    let written = zeros_from.div_ceil(PAGE).saturating_mul(PAGE);
                    let zeros = zeros_from <= at || written < (at.saturating_add(HEAD as u64)).min(limit);
                    bad.torn = at == begin && next >= limit && zeros;
                    at = next;
                }
            }
        }
        self.offset = at.min(limit);
        bad.bytes = self.offset - begin;
        Ok(ScanStep::Bad(bad))
    }

    /// Examines one place.
    fn look<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        salt: u64,
        at: u64,
        limit: u64,
        body: &mut Vec<u8>,
    ) -> io::Result<ScanLook> {
        let mut bytes = [0; HEAD];
        let got = self.read(storage, at, limit, &mut bytes)?;
        if got < HEAD {
            let marker = salt.to_be_bytes();
            let begun = got.min(MARKER);
            return Ok(if bytes[..begun] == marker[..begun] {
                ScanLook::Cut(None)
            } else {
                ScanLook::Nothing
            });
        }
        let Some(head) = record::head(&bytes, salt, at) else { return Ok(ScanLook::Nothing) };
        let Some(wanted) = within(at, head.size(), limit) else { return Ok(ScanLook::Cut(Some(head.stand))) };
        body.clear();
        if head.kind == FrameKind::Record {
            body.resize(wanted - HEAD, 0);
            if self.read(storage, at + HEAD as u64, limit, body)? < body.len() {
                return Ok(ScanLook::Cut(Some(head.stand)));
            }
        }
        if head.fits(body) {
            return Ok(ScanLook::Whole(head));
        }
        let zeros = body.iter().rev().take_while(|byte| **byte == 0).count() as u64;
        let end = at.saturating_add(head.size());
        // Pages that were never written: up to the end, from a page's border or the body's beginning on.
        let from = (end - zeros).div_ceil(PAGE).saturating_mul(PAGE);
        Ok(ScanLook::Body(head, from < end || zeros == body.len() as u64))
    }

    /// The place of the next marker, or `limit`; and from where on all bytes up to it are zero.
    fn search<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        salt: u64,
        from: u64,
        limit: u64,
    ) -> io::Result<(u64, u64)> {
        let marker = salt.to_be_bytes();
        let finder = memmem::Finder::new(&marker);
        let mut from = from;
        let mut zeros_from = from - 1;
        loop {
            self.fill(storage, from, limit)?;
            let window = self.window(from);
            let found = finder.find(window);
            let passed = &window[..found.unwrap_or(window.len())];
            if let Some(last) = passed.iter().rposition(|byte| *byte != 0) {
                zeros_from = from + last as u64 + 1;
            }
            match found {
                Some(place) => return Ok((from + place as u64, zeros_from)),
                // A marker may begin at the end of the bytes read.
                None if window.len() >= MARKER => from += (window.len() - (MARKER - 1)) as u64,
                None => return Ok((limit, zeros_from)),
            }
        }
    }

    fn step_v1<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        limit: u64,
        body: &mut Vec<u8>,
    ) -> io::Result<ScanStep> {
        let begin = self.offset;
        let mut bad = Bad { offset: begin, bytes: 0, detail: "", known: None, sure: false, torn: false };
        let end = if begin == 0 {
            let mut header = [0; v1::HEADER];
            let got = self.read(storage, 0, limit, &mut header)?;
            if header[..got] == v1::header()[..got] {
                if got == header.len() {
                    self.offset = got as u64;
                    return self.step(storage, limit, body);
                }
                bad.torn = true;
            }
            bad.detail = "its header is damaged";
            got as u64
        } else {
            match self.look_v1(storage, begin, limit, body)? {
                Ok((mark, end)) => {
                    self.offset = end;
                    return Ok(ScanStep::Old(mark));
                }
                Err((detail, next)) => {
                    bad.detail = detail;
                    bad.torn = next.is_none() && detail == CUT;
                    // A damaged length may name any place: only one with a record is believed.
                    let next = next.filter(|next| *next < limit);
                    let found = match next {
                        Some(next) => self.look_v1(storage, next, limit, body)?.is_ok(),
                        None => false,
                    };
                    next.filter(|_| found).unwrap_or(limit)
                }
            }
        };
        self.offset = end.min(limit);
        bad.bytes = self.offset - begin;
        Ok(ScanStep::Bad(bad))
    }

    /// A record of version 1 and its end; or the kind of damage, and the next place if its length is right.
    #[allow(clippy::type_complexity, reason = "used in one place")]
    fn look_v1<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        at: u64,
        limit: u64,
        body: &mut Vec<u8>,
    ) -> io::Result<Result<(Mark, u64), (&'static str, Option<u64>)>> {
        let mut bytes = [0; v1::HEAD];
        if self.read(storage, at, limit, &mut bytes)? < bytes.len() {
            return Ok(Err((CUT, None)));
        }
        let Some((head, length)) = v1::head(&bytes).and_then(|head| Some((head, head.length()?))) else {
            return Ok(Err(("it is not a record", None)));
        };
        let size = v1::HEAD as u64 + u64::from(length);
        let Some(wanted) = within(at, size, limit) else { return Ok(Err((CUT, None))) };
        body.clear();
        body.resize(wanted - v1::HEAD, 0);
        let got = self.read(storage, at + v1::HEAD as u64, limit, body)?;
        Ok(if got < body.len() {
            Err((CUT, None))
        } else if head.fits(body) {
            Ok((head.mark, at + size))
        } else {
            Err(("a record's content does not match its checksum", Some(at + size)))
        })
    }

    /// Reads bytes from `at`, before `limit`; returns their number.
    fn read<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        at: u64,
        limit: u64,
        into: &mut [u8],
    ) -> io::Result<usize> {
        let room = usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = into.len().min(room);
        let into = &mut into[..wanted];
        let held = self.window(at);
        let held = &held[..held.len().min(wanted)];
        into[..held.len()].copy_from_slice(held);
        let (taken, rest) = (held.len(), &mut into[held.len()..]);
        if rest.is_empty() {
            return Ok(taken);
        }
        let from = at + taken as u64;
        if rest.len() >= BUFFER {
            return Ok(taken + fill_at(storage, &self.file, from, rest)?);
        }
        self.fill(storage, from, limit)?;
        let held = self.window(from);
        let more = held.len().min(rest.len());
        rest[..more].copy_from_slice(&held[..more]);
        Ok(taken + more)
    }

    /// The buffer's bytes from `at` on.
    fn window(&self, at: u64) -> &[u8] {
        let into = at.checked_sub(self.at).and_then(|into| usize::try_from(into).ok());
        into.and_then(|into| self.buffer.get(into..)).unwrap_or_default()
    }

    /// Fills the buffer from `at` on.
    fn fill<S: Storage<File = F>>(&mut self, storage: &S, at: u64, limit: u64) -> io::Result<()> {
        let room = usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX);
        self.buffer.resize(room.min(BUFFER), 0);
        self.at = at;
        match fill_at(storage, &self.file, at, &mut self.buffer) {
            Ok(got) => {
                self.buffer.truncate(got);
                Ok(())
            }
            Err(error) => {
                self.buffer.clear();
                Err(error)
            }
        }
    }
}

const CUT: &str = "it ends inside a record";

/// The size, if all of it is before `limit`.
fn within(at: u64, size: u64, limit: u64) -> Option<usize> {
    usize::try_from(size).ok().filter(|_| at.checked_add(size).is_some_and(|end| end <= limit))
}
