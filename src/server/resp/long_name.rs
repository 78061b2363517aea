//! A message on a channel with a name over the limit. It is returned with the beginning of the name, just as a message
//! with a payload over the limit is returned with the beginning of the payload.
//!
//! The name is skipped as it arrives. Meanwhile it is matched against the subscribed patterns, so the first matching
//! one is known at the end.

use super::token::{ProtocolError, bulk_header};
use crate::text::glob::piecewise::Piecewise;

/// The longest name of a channel that is held.
pub const CHANNEL_BYTES: usize = 1024 * 1024;
/// Bytes of a name or a payload that are kept for its dead letter.
pub const HEAD_BYTES: usize = 1024;

/// Such a message.
#[derive(Debug, PartialEq, Eq)]
pub struct LongNamed {
    /// The beginning of the channel's name.
    pub channel: Vec<u8>,
    /// Length of the name.
    pub channel_size: usize,
    /// Which pattern matches it, the first of several.
    pub pattern: Option<usize>,
    /// The beginning of the payload.
    pub payload: Vec<u8>,
    /// Length of the payload.
    pub size: usize,
}

/// A message whose name still arrives.
#[derive(Debug)]
pub struct LongName {
    head: Vec<u8>,
    size: usize,
    missing: usize,
    walks: Vec<Piecewise>,
}

impl LongName {
    /// A name of this many bytes, none of which has come.
    #[must_use]
    pub fn new(size: usize, patterns: &[Vec<u8>]) -> Self {
        let head = Vec::with_capacity(HEAD_BYTES.min(size));
        Self { head, size, missing: size, walks: vec![Piecewise::new(); patterns.len()] }
    }

    /// Takes in arrived bytes; returns how many of them are the name's.
    pub fn feed(&mut self, patterns: &[Vec<u8>], come: &[u8]) -> usize {
        let piece = &come[..self.missing.min(come.len())];
        for (walk, pattern) in self.walks.iter_mut().zip(patterns) {
            walk.feed(pattern, piece);
        }
        self.head.extend_from_slice(&piece[..piece.len().min(HEAD_BYTES - self.head.len())]);
        self.missing -= piece.len();
        piece.len()
    }

    /// Returns whether all of it has come.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing == 0
    }

    /// The message, and how many bytes behind its name belong to it, including those still to come; `None` until the
    /// kept part of the payload has arrived.
    ///
    /// # Errors
    /// If the next bytes are no payload.
    pub fn end(
        &mut self,
        patterns: &[Vec<u8>],
        behind: &[u8],
    ) -> Result<Option<(LongNamed, usize)>, ProtocolError> {
        match behind.get(..2) {
            None => return Ok(None),
            Some(b"\r\n") => {}
            Some(_) => return Err(ProtocolError::new("a name does not end with CRLF")),
        }
        let Some((size, begin)) = bulk_header(behind, 2)? else { return Ok(None) };
        let Some(payload) = behind.get(begin..begin + HEAD_BYTES.min(size)) else { return Ok(None) };
        let mut walked = self.walks.iter().zip(patterns);
        let named = LongNamed {
            channel: std::mem::take(&mut self.head),
            channel_size: self.size,
            pattern: walked.position(|(walk, pattern)| walk.matches(pattern)),
            payload: payload.to_vec(),
            size,
        };
        Ok(Some((named, begin + size + 2)))
    }
}
