//! The bounded reader: bytes in, frames out, nothing copied.
//!
//! One buffer holds the socket's bytes. A Pub/Sub message is recognised by its constant head and cut out as ranges,
//! without a generic parse. Everything else goes through the token scanner, which remembers its place: a frame in a
//! thousand pieces is scanned once.
//!
//! On failure: malformed or over-limit input is an error, and the connection must be closed. Two things over a limit
//! are ordinary: a message larger than the route's limit, and a channel name longer than the limit. The payload or the
//! name is skipped as it arrives, and the message is returned as [`Pushed::Oversized`] or [`Pushed::LongNamed`] with
//! the first bytes.

use std::ops::Range;
use std::sync::Arc;

use super::account::{ALL_BYTES, BufferShare};
use super::long_name::{CHANNEL_BYTES, HEAD_BYTES, LongName, LongNamed};
use super::token::{ProtocolError, Token, bulk_header, token};
use super::value::Value;

/// Initial size of a buffer, and its size after large replies: some 350 messages of 128 B in one read.
const BUFFER_BYTES: usize = 64 * 1024;
/// A buffer that grew past this for one large frame is given back once it is empty.
const SHRINK_BYTES: usize = 1024 * 1024;
/// Channel and pattern names together may add this much to the largest message.
const NAMES_BYTES: usize = CHANNEL_BYTES;

/// Limits of a reader.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest payload of a message, in bytes; a larger one is skipped and reported.
    pub message: usize,
    /// The largest frame of any other kind, in bytes; a larger one is an error.
    pub frame: usize,
}

impl Limits {
    /// For a server that is not known yet: all that it has to say before it is authenticated is short.
    pub const HANDSHAKE: Self = Self { message: 0, frame: 64 * 1024 };
}

impl Default for Limits {
    /// Enough for any reply to tidegate's own commands, without a subscription.
    fn default() -> Self {
        Self { message: 1024 * 1024, frame: 64 * 1024 * 1024 }
    }
}

/// A Pub/Sub message, as slices of the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The channel it was published on.
    pub channel: &'a [u8],
    /// The pattern, if a pattern subscription matched.
    pub pattern: Option<&'a [u8]>,
    /// The published payload.
    pub payload: &'a [u8],
}

/// An item on a subscribed connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed<'a> {
    /// A message.
    Message(Message<'a>),
    /// A message over the limit: its payload is only the beginning, `size` the whole length.
    Oversized(Message<'a>, usize),
    /// A message with a name over the limit, and the pattern that brought it.
    LongNamed(Vec<u8>, Box<LongNamed>),
    /// Anything else: a confirmation, a reply.
    Other(Value),
}

/// A bounded buffer with the reader's place in it.
#[derive(Debug)]
pub struct Reader {
    /// `buf[start..end]` came and is not consumed; `buf[end..]` is room.
    buf: Vec<u8>,
    /// Length of `buf` while no large frame is arriving.
    usual: usize,
    start: usize,
    end: usize,
    /// Scanned part of the frame at `start`: offset from `start`, elements still missing.
    scanned: usize,
    missing: usize,
    /// Elements of that frame: each takes memory once it is read, however short it is on the wire.
    elements: usize,
    /// State of the answer to a login, which is dropped at any place among the replies.
    login: Login,
    /// Bytes of an oversized message that have not come yet and will be thrown away.
    skip: usize,
    /// Patterns that are subscribed to.
    patterns: Arc<[Vec<u8>]>,
    /// A name over the limit that still comes, and the pattern that brought it.
    long: Option<Box<(Vec<u8>, LongName)>>,
    limits: Limits,
    /// This reader's part of the process-wide budget for large frames, beyond the allowance for messages.
    share: BufferShare,
}

impl Reader {
    /// An empty reader.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            buf: vec![0; BUFFER_BYTES],
            usual: BUFFER_BYTES,
            start: 0,
            end: 0,
            scanned: 0,
            missing: 1,
            elements: 0,
            login: Login::None,
            skip: 0,
            patterns: Arc::default(),
            long: None,
            limits,
            share: BufferShare::default(),
        }
    }

    /// Announces that a login was sent, see [`login`](super::login). Its answer is dropped, and its result is returned
    /// by [`Self::take_login`].
    pub fn await_login(&mut self) {
        self.login = Login::Sent;
    }

    /// Whether the announced login was accepted, once it is answered; returned once.
    pub fn take_login(&mut self) -> Option<bool> {
        let Login::Answered { accepted } = self.login else { return None };
        self.login = Login::None;
        Some(accepted)
    }

    /// Changes the limits from the next frame on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Says which patterns are subscribed to: a name over the limit is held against them.
    pub fn set_patterns(&mut self, patterns: &[Vec<u8>]) {
        self.patterns = patterns.into();
    }

    /// Sets the bytes that one read may bring, for connections with much traffic; at least the initial size, and at
    /// most 1 MiB.
    pub fn widen(&mut self, bytes: usize) {
        self.usual = bytes.clamp(self.usual, SHRINK_BYTES);
    }

    /// Room for the next bytes; never empty.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buf.len() > SHRINK_BYTES || self.buf.len() < self.usual {
                self.buf = vec![0; self.usual];
                self.share.resize(0);
            }
        } else if self.end == self.buf.len() {
            if self.start > 0 {
                self.buf.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if self.end > self.buf.len() / 2 {
                let larger = self.larger();
                self.buf.resize(larger, 0);
            }
        }
        &mut self.buf[self.end..]
    }

    /// Says that this many bytes of [`Self::room`] were filled.
    pub fn filled(&mut self, bytes: usize) {
        self.end = self.buf.len().min(self.end + bytes);
    }

    /// Returns whether the last bytes filled the buffer.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        self.end == self.buf.len()
    }

    /// Bytes that this reader holds in memory.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buf.len()
    }

    /// The next item on a subscribed connection; `None` until more bytes come.
    ///
    /// # Errors
    /// If the bytes are not RESP, or a frame is over the limit. The reader must not be used any more.
    pub fn next_pushed(&mut self) -> Result<Option<Pushed<'_>>, ProtocolError> {
        if self.skip > 0 {
            let skipped = self.skip.min(self.end - self.start);
            self.skip -= skipped;
            self.start += skipped;
            if self.skip > 0 {
                return Ok(None);
            }
        }
        if let Some(long) = self.long.take() {
            let (pattern, name) = *long;
            return self.next_long(pattern, name);
        }
        let unread = &self.buf[self.start..self.end];
        match cut_message(unread, self.limits.message)? {
            PushFrame::Whole { channel, pattern, payload, end } => {
                let base = self.start;
                self.consumed(end);
                let at = &self.buf[base..];
                let pattern = pattern.map(|range| &at[range]);
                Ok(Some(Pushed::Message(Message { channel: &at[channel], pattern, payload: &at[payload] })))
            }
            PushFrame::Oversized { channel, pattern, payload, size } => {
                let base = self.start;
                let come = (self.end - base).min(payload.start + size + 2);
                self.skip = payload.start + size + 2 - come;
                self.consumed(come);
                let at = &self.buf[base..];
                let pattern = pattern.map(|range| &at[range]);
                let message = Message { channel: &at[channel], pattern, payload: &at[payload] };
                Ok(Some(Pushed::Oversized(message, size)))
            }
            PushFrame::LongName { pattern, begin, size } => {
                let pattern = unread[pattern].to_vec();
                self.consumed(begin);
                self.next_long(pattern, LongName::new(size, &self.patterns))
            }
            PushFrame::Partial => {
                if unread.len() > self.limits.message + NAMES_BYTES {
                    return Err(over(self.limits.message + NAMES_BYTES));
                }
                self.expect_more()?;
                Ok(None)
            }
            PushFrame::Other => match self.take_frame()? {
                Taken::Nothing => Ok(None),
                // A message may follow.
                Taken::Login => self.next_pushed(),
                Taken::Frame(frame) => Ok(Some(Pushed::Other(Value::build(&self.buf[frame], 0)?.0))),
            },
        }
    }

    /// Continues in a message with a name over the limit.
    fn next_long(
        &mut self,
        pattern: Vec<u8>,
        mut name: LongName,
    ) -> Result<Option<Pushed<'_>>, ProtocolError> {
        let come = name.feed(&self.patterns, &self.buf[self.start..self.end]);
        self.consumed(come);
        if name.is_whole()
            && let Some((named, size)) = name.end(&self.patterns, &self.buf[self.start..self.end])?
        {
            let come = size.min(self.end - self.start);
            self.skip = size - come;
            self.consumed(come);
            return Ok(Some(Pushed::LongNamed(pattern, Box::new(named))));
        }
        self.long = Some(Box::new((pattern, name)));
        Ok(None)
    }

    /// The next whole reply; `None` until more bytes come.
    ///
    /// # Errors
    /// As [`Self::next_pushed`].
    pub fn next_value(&mut self) -> Result<Option<Value>, ProtocolError> {
        self.next_frame()?.map(|frame| Value::build(frame, 0).map(|(value, _)| value)).transpose()
    }

    /// The bytes of the next whole frame, to be read with [`token`]; `None` until more bytes come.
    ///
    /// # Errors
    /// As [`Self::next_pushed`].
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, ProtocolError> {
        loop {
            match self.take_frame()? {
                Taken::Nothing => return Ok(None),
                Taken::Login => {}
                Taken::Frame(frame) => return Ok(Some(&self.buf[frame])),
            }
        }
    }

    fn take_frame(&mut self) -> Result<Taken, ProtocolError> {
        let Some(length) = self.scan()? else { return Ok(Taken::Nothing) };
        let frame = self.start..self.start + length;
        self.consumed(length);
        Ok(if self.login.takes(&self.buf[frame.clone()]) { Taken::Login } else { Taken::Frame(frame) })
    }

    /// Length of the frame at the begin of the unread bytes; `None` until it is complete.
    fn scan(&mut self) -> Result<Option<usize>, ProtocolError> {
        let unread = &self.buf[self.start..self.end];
        while self.missing > 0 {
            let Some((found, next)) = token(unread, self.scanned)? else {
                if unread.len() > self.limits.frame {
                    return Err(over(self.limits.frame));
                }
                self.expect_more()?;
                return Ok(None);
            };
            let inside = match found {
                Token::Array(count) | Token::Push(count) | Token::Map(count) => count,
                _ => 0,
            };
            self.scanned = next;
            self.missing = self.missing - 1 + inside;
            self.elements += 1;
            if self.elements.saturating_mul(size_of::<Value>()).max(next) > self.limits.frame {
                return Err(over(self.limits.frame));
            }
        }
        Ok(Some(self.scanned))
    }

    /// The header of an array whose elements are read one by one, as for EXEC's reply: other messages may be between
    /// its elements. `None` until it is complete.
    ///
    /// # Errors
    /// As [`Self::next_pushed`].
    pub fn next_array_header(&mut self) -> Result<Option<Value>, ProtocolError> {
        let unread = &self.buf[self.start..self.end];
        match token(unread, 0)? {
            None => {
                self.expect_more()?;
                Ok(None)
            }
            Some((Token::Array(count), next)) => {
                self.consumed(next);
                Ok(Some(Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))))
            }
            Some(_) => self.next_value(),
        }
    }

    /// The unread bytes, for a reader of another kind of frame.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Takes bytes off the front of [`Self::unread`], or fewer if fewer are there.
    pub fn take(&mut self, bytes: usize) -> &[u8] {
        let base = self.start;
        let bytes = bytes.min(self.end - base);
        self.consumed(bytes);
        &self.buf[base..base + bytes]
    }

    /// Takes a share of the budget of all readers, if the buffer must grow for the rest of a frame.
    fn expect_more(&mut self) -> Result<(), ProtocolError> {
        if self.end < self.buf.len() || self.end - self.start <= self.buf.len() / 2 {
            return Ok(());
        }
        let own = self.limits.message.saturating_add(NAMES_BYTES);
        if self.share.resize(self.larger().saturating_sub(own)) {
            return Ok(());
        }
        Err(ProtocolError(format!(
            "large replies of all connections together would take more than {ALL_BYTES} bytes"
        )))
    }

    /// Length of the buffer after it has grown: twice as long, and at most the largest frame.
    fn larger(&self) -> usize {
        let most = self.limits.frame.max(self.limits.message.saturating_add(NAMES_BYTES)) + BUFFER_BYTES;
        let len = self.buf.len();
        if len < most { most.min(len * 2) } else { len * 2 }
    }

    fn consumed(&mut self, bytes: usize) {
        self.start += bytes;
        self.scanned = 0;
        self.missing = 1;
        self.elements = 0;
    }
}

/// The part taken off the unread bytes.
enum Taken {
    /// The frame has not come whole.
    Nothing,
    /// A part of what answers a login.
    Login,
    Frame(Range<usize>),
}

/// Progress of the answer to a login.
///
/// The login is AUTH between two commands that every server rejects and only tidegate sends. Its answer is what is
/// between their two errors, and may be missing: Redis from 7.2 on and Valkey up to 8.1 do not answer a refused login
/// behind another command (redis/redis#15640, valkey-io/valkey#2106).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Login {
    None,
    /// Other replies come first.
    Sent,
    /// The first error came.
    Answering {
        accepted: bool,
    },
    Answered {
        accepted: bool,
    },
}

impl Login {
    /// Returns whether a frame belongs to the answer.
    fn takes(&mut self, frame: &[u8]) -> bool {
        // The error's code has been the same since HELLO exists.
        let ends = frame.starts_with(b"-NOPROTO ");
        match *self {
            Self::Sent if ends => *self = Self::Answering { accepted: false },
            Self::Answering { accepted } if ends => *self = Self::Answered { accepted },
            // A push is no reply, and may come at any place.
            Self::Answering { .. } if !frame.starts_with(b">") => {
                *self = Self::Answering { accepted: frame == b"+OK\r\n" };
            }
            _ => return false,
        }
        true
    }
}

fn over(limit: usize) -> ProtocolError {
    ProtocolError(format!("a frame is larger than {limit} bytes"))
}

/// The kind of frame at the begin of the unread bytes.
enum PushFrame {
    Whole {
        channel: Range<usize>,
        pattern: Option<Range<usize>>,
        payload: Range<usize>,
        end: usize,
    },
    Oversized {
        channel: Range<usize>,
        pattern: Option<Range<usize>>,
        payload: Range<usize>,
        size: usize,
    },
    /// A message with a name over the limit, which begins at `begin`.
    LongName {
        pattern: Range<usize>,
        begin: usize,
        size: usize,
    },
    /// An incomplete message.
    Partial,
    /// No message, or too few bytes to decide.
    Other,
}

/// The heads that Redis writes before a message, after the byte that is `>` in RESP3 and `*` in RESP2.
const MESSAGE: &[u8] = b"3\r\n$7\r\nmessage\r\n";
const PMESSAGE: &[u8] = b"4\r\n$8\r\npmessage\r\n";

fn cut_message(unread: &[u8], limit: usize) -> Result<PushFrame, ProtocolError> {
    let Some((b'>' | b'*', rest)) = unread.split_first() else { return Ok(PushFrame::Other) };
    let (mut at, by_pattern) = if rest.starts_with(MESSAGE) {
        (1 + MESSAGE.len(), false)
    } else if rest.starts_with(PMESSAGE) {
        (1 + PMESSAGE.len(), true)
    } else {
        return Ok(PushFrame::Other);
    };
    let mut pattern = None;
    if by_pattern {
        let Some((range, next)) = bulk(unread, at)? else { return Ok(PushFrame::Partial) };
        let Some((size, begin)) = bulk_header(unread, next)? else { return Ok(PushFrame::Partial) };
        if size > CHANNEL_BYTES {
            return Ok(PushFrame::LongName { pattern: range, begin, size });
        }
        pattern = Some(range);
        at = next;
    }
    let Some((channel, at)) = bulk(unread, at)? else { return Ok(PushFrame::Partial) };
    let Some((size, begin)) = bulk_header(unread, at)? else { return Ok(PushFrame::Partial) };
    let end = begin + size;
    if size > limit {
        let kept = begin..begin + HEAD_BYTES.min(size);
        if unread.len() < kept.end {
            return Ok(PushFrame::Partial);
        }
        return Ok(PushFrame::Oversized { channel, pattern, payload: kept, size });
    }
    match unread.get(end..end + 2) {
        None => Ok(PushFrame::Partial),
        Some(b"\r\n") => Ok(PushFrame::Whole { channel, pattern, payload: begin..end, end: end + 2 }),
        Some(_) => Err(ProtocolError("a payload does not end with CRLF".to_owned())),
    }
}

/// A whole bulk string at `at`.
fn bulk(buf: &[u8], at: usize) -> Result<Option<(Range<usize>, usize)>, ProtocolError> {
    let Some((size, begin)) = bulk_header(buf, at)? else { return Ok(None) };
    if size > NAMES_BYTES {
        return Err(ProtocolError(format!("a channel name of {size} bytes")));
    }
    match buf.get(begin + size..begin + size + 2) {
        None => Ok(None),
        Some(b"\r\n") => Ok(Some((begin..begin + size, begin + size + 2))),
        Some(_) => Err(ProtocolError("a name does not end with CRLF".to_owned())),
    }
}

#[cfg(test)]
mod tests;
