//! What a segment looks like, byte by byte.
//!
//! ```text
//! segment  "tidegate" · version (4)                     then records
//! record   length of the body (4) · CRC-32 (4) · mark (24) · body
//! ```
//!
//! Numbers are big-endian. The CRC covers the length, the mark and the body, so that a length that is not
//! the one that was written is found too.

use std::io::{self, Read};

use super::Mark;

/// The format that this release writes, and the only one that it reads.
pub(super) const VERSION: u32 = 1;
pub(super) const MAGIC: &[u8; 8] = b"tidegate";
/// Bytes of a segment's header.
pub(super) const HEADER: usize = 12;
/// Bytes of a record before its body.
pub(super) const HEAD: usize = 32;
/// The longest body: far more than a batch, so that a length that is not one asks for no memory.
const MOST: usize = 1 << 30;

/// A segment's header.
pub(super) fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..].copy_from_slice(&VERSION.to_be_bytes());
    header
}

/// Writes a record into `out`, replacing what it held.
pub(super) fn encode(out: &mut Vec<u8>, mark: &Mark, body: &[u8]) {
    out.clear();
    out.reserve(HEAD + body.len());
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&checksum(length, mark, body).to_be_bytes());
    out.extend_from_slice(mark);
    out.extend_from_slice(body);
}

fn checksum(length: [u8; 4], mark: &Mark, body: &[u8]) -> u32 {
    let mut digest = crc32fast::Hasher::new();
    digest.update(&length);
    digest.update(mark);
    digest.update(body);
    digest.finalize()
}

/// What stands at one place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A record, whole; its body is in the buffer.
    Record(Mark),
    /// The end of the file.
    End,
    /// No record: what is wrong.
    Bad(&'static str),
}

/// Reads the next record; its body replaces what `body` held.
pub(super) fn read(from: &mut impl Read, body: &mut Vec<u8>) -> io::Result<Found> {
    let mut head = [0; HEAD];
    match fill(from, &mut head)? {
        0 => return Ok(Found::End),
        HEAD => {}
        _ => return Ok(Found::Bad("it ends inside a record's head")),
    }
    let (length, rest) = head.split_at(4);
    let (sum, mark) = rest.split_at(4);
    let (Ok(length), Ok(sum), Ok(mark)) =
        (<[u8; 4]>::try_from(length), <[u8; 4]>::try_from(sum), Mark::try_from(mark))
    else {
        return Ok(Found::Bad("it is no record"));
    };
    let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if bytes > MOST {
        return Ok(Found::Bad("a length is no length"));
    }
    body.clear();
    let got = from.by_ref().take(bytes as u64).read_to_end(body)?;
    if got < bytes {
        return Ok(Found::Bad("it ends inside a record"));
    }
    if checksum(length, &mark, body) != u32::from_be_bytes(sum) {
        return Ok(Found::Bad("a checksum does not fit"));
    }
    Ok(Found::Record(mark))
}

/// Reads until `into` is full or nothing more comes; returns how much that was.
pub(super) fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
