//! The format of a segment, byte by byte.
//!
//! ```text
//! from 2 on   frame · frame · …
//! frame       marker (8) · checksum of the head (4) · checksum of the body (4) · length of the body (4) ·
//!             kind (4) · records (8) · events (8) · all events (8) · mark (24) · body
//! kind        begin: the first frame of a file    unsure: the same, behind a loss of unknown size
//!             record: one of the capture's        seal: everything before it was to be synced
//!
//! version 1   "tidegate" · version (4) · record · record · …
//! record      length of the body (4) · CRC-32 (4) · mark (24) · body
//! ```
//!
//! Numbers are big-endian. `records` and `all events` count from the log's beginning, this frame included, so the next
//! intact frame gives the cost of a damaged stretch. `events` is the number in this record. Begin and seal carry the
//! counts and the mark of the last record before them.
//!
//! The marker is the segment's salt, a random number in the file's name that no sender of messages knows. After damage
//! the next frame is found by its marker, and a payload cannot imitate one. The checksum of the head also covers the
//! salt and the frame's offset, so a block of another file or place is no frame either. If the head is intact, its
//! length is trusted even if the body is damaged.

use super::{MOST_EVENTS, Mark};

/// The newest format, which this release writes. Version 3 has the frames of version 2. Its batches have one time more, so
/// a release that does not know them refuses the file and keeps it.
pub(super) const VERSION: u32 = 3;
/// Bytes of a frame before its body.
pub(super) const HEAD: usize = 72;
/// Bytes of a marker.
pub(super) const MARKER: usize = 8;
/// The longest body: far more than a batch, so that a length that is damaged asks for no memory.
pub(super) const LONGEST: usize = 1 << 30;

/// The log's counts behind a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stand {
    /// Records from the log's beginning on.
    pub(super) records: u64,
    /// Their events.
    pub(super) events: u64,
    /// The last one's mark.
    pub(super) mark: Option<Mark>,
}

/// Kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// The first one of a file.
    Begin,
    /// A beginning behind a loss of unknown size.
    Unsure,
    /// A record.
    Record,
    /// Everything before it was to be synced.
    Seal,
}

impl FrameKind {
    const ALL: [(u32, Self); 4] = [(1, Self::Begin), (2, Self::Unsure), (3, Self::Record), (4, Self::Seal)];

    fn number(self) -> u32 {
        match self {
            Self::Begin => 1,
            Self::Unsure => 2,
            Self::Record => 3,
            Self::Seal => 4,
        }
    }
}

/// A frame without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: FrameKind,
    /// Bytes of the body.
    pub(super) length: u32,
    body_sum: u32,
    /// Events of this record.
    pub(super) events: u64,
    /// The counts behind it.
    pub(super) stand: Stand,
}

impl Head {
    /// Number of records and events before it.
    pub(super) fn before(&self) -> (u64, u64) {
        let own = u64::from(self.kind == FrameKind::Record);
        (self.stand.records.saturating_sub(own), self.stand.events.saturating_sub(self.events))
    }

    /// Bytes of the frame.
    pub(super) fn size(&self) -> u64 {
        HEAD as u64 + u64::from(self.length)
    }

    /// Returns whether this is its body.
    pub(super) fn fits(&self, body: &[u8]) -> bool {
        crc32fast::hash(body) == self.body_sum
    }
}

/// A frame to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) kind: FrameKind,
    pub(super) events: u64,
    /// The counts behind it.
    pub(super) stand: Stand,
    pub(super) body: &'a [u8],
}

/// Writes a frame for `offset` into `out`, and replaces its content.
pub(super) fn encode(out: &mut Vec<u8>, salt: u64, offset: u64, frame: &Frame<'_>) {
    let Frame { kind, events, stand, body } = *frame;
    out.clear();
    out.reserve(HEAD + body.len());
    out.extend_from_slice(&salt.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&crc32fast::hash(body).to_be_bytes());
    // The log refuses a body that is longer than LONGEST.
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&kind.number().to_be_bytes());
    for number in [stand.records, events, stand.events] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&stand.mark.unwrap_or_default());
    let sum = head_sum(salt, offset, &out[12..HEAD]);
    out[8..12].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(body);
}

/// Reads a frame's head at `offset`; `None` if there is none.
pub(super) fn head(bytes: &[u8; HEAD], salt: u64, offset: u64) -> Option<Head> {
    let mut rest = &bytes[..];
    if number::<8>(&mut rest)? != salt
        || number::<4>(&mut rest)? != u64::from(head_sum(salt, offset, &bytes[12..]))
    {
        return None;
    }
    let body_sum = u32::try_from(number::<4>(&mut rest)?).ok()?;
    let length = u32::try_from(number::<4>(&mut rest)?).ok()?;
    let kind = number::<4>(&mut rest)?;
    let kind = FrameKind::ALL.iter().find(|(number, _)| u64::from(*number) == kind)?.1;
    let (records, events, all) = (number::<8>(&mut rest)?, number::<8>(&mut rest)?, number::<8>(&mut rest)?);
    let mark = Mark::try_from(rest).ok()?;
    // No log writes these: such a record was forged.
    let (own, longest) = if kind == FrameKind::Record { (1, LONGEST) } else { (0, 0) };
    let absurd = events > MOST_EVENTS.min(all) || (own == 0 && events > 0);
    if records < own || absurd || usize::try_from(length).ok()? > longest {
        return None;
    }
    // Before the first record there is no mark.
    let mark = (own > 0 || mark != Mark::default()).then_some(mark);
    Some(Head { kind, length, body_sum, events, stand: Stand { records, events: all, mark } })
}

fn head_sum(salt: u64, offset: u64, head: &[u8]) -> u32 {
    let mut digest = crc32fast::Hasher::new();
    digest.update(&salt.to_be_bytes());
    digest.update(&offset.to_be_bytes());
    digest.update(head);
    digest.finalize()
}

/// Takes a big-endian number of `N` bytes, at most eight.
fn number<const N: usize>(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, behind) = rest.split_at_checked(N)?;
    *rest = behind;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// The format of release 0.1.0: no marker, no counts.
pub(super) mod v1 {
    use super::{LONGEST, Mark, number};

    /// Bytes of a segment's header.
    pub(crate) const HEADER: usize = 12;
    /// Bytes of a record before its body.
    pub(crate) const HEAD: usize = 32;

    /// A record without its body.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Head {
        length: [u8; 4],
        sum: u32,
        pub(crate) mark: Mark,
    }

    impl Head {
        /// Bytes of the body; `None` if no record has this length.
        pub(crate) fn length(&self) -> Option<u32> {
            let length = u32::from_be_bytes(self.length);
            (usize::try_from(length).ok()? <= LONGEST).then_some(length)
        }

        /// Returns whether this is its body.
        pub(crate) fn fits(&self, body: &[u8]) -> bool {
            let mut digest = crc32fast::Hasher::new();
            digest.update(&self.length);
            digest.update(&self.mark);
            digest.update(body);
            digest.finalize() == self.sum
        }
    }

    /// A segment's header.
    pub(crate) fn header() -> [u8; HEADER] {
        *b"tidegate\0\0\0\x01"
    }

    /// A record as release 0.1.0 wrote it.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn record(mark: &Mark, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut digest = crc32fast::Hasher::new();
        for bytes in [&length[..], mark, body] {
            digest.update(bytes);
        }
        [&length[..], &digest.finalize().to_be_bytes(), mark, body].concat()
    }

    /// Reads a record's head.
    pub(crate) fn head(bytes: &[u8; HEAD]) -> Option<Head> {
        let mut rest = &bytes[..];
        let length = u32::try_from(number::<4>(&mut rest)?).ok()?.to_be_bytes();
        let sum = u32::try_from(number::<4>(&mut rest)?).ok()?;
        Some(Head { length, sum, mark: Mark::try_from(rest).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        let stand = Stand { records: 7, events: 90, mark: Some([3; 24]) };
        encode(&mut out, 11, 400, &Frame { kind: FrameKind::Record, events: 9, stand, body: b"a body" });
        out
    }

    #[test]
    fn a_head_is_bound_to_its_place() {
        let frame = sample();
        let bytes: [u8; HEAD] = frame[..HEAD].try_into().unwrap();
        let read = head(&bytes, 11, 400).unwrap();
        assert_eq!((read.before(), read.size()), ((6, 81), frame.len() as u64));
        assert!(read.fits(&frame[HEAD..]) && !read.fits(b"a bodz"));
        assert_eq!(head(&bytes, 11, 401), None, "another place");
        assert_eq!(head(&bytes, 12, 400), None, "another file");
        for bit in 0..HEAD * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(head(&damaged, 11, 400), None, "bit {bit}");
        }
    }

    #[test]
    fn counts_that_no_log_writes_are_no_head() {
        for (kind, records, events, all) in
            [(FrameKind::Record, 0, 0, 0), (FrameKind::Record, 1, 5, 4), (FrameKind::Seal, 1, 1, 1)]
        {
            let mut out = Vec::new();
            let stand = Stand { records, events: all, mark: None };
            encode(&mut out, 1, 0, &Frame { kind, events, stand, body: b"" });
            assert_eq!(head(&out[..].try_into().unwrap(), 1, 0), None, "{kind:?}");
        }
    }
}
