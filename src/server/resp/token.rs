//! One element of RESP2 or RESP3 at a time.

use std::ops::Range;

use memchr::memchr;

/// A line (a length, a number, a simple string, an error) is at most this long; Redis's own limit for
/// an inline request is the same 64 KiB.
const LINE_LIMIT: usize = 64 * 1024;
/// No aggregate that Redis sends has more elements; a larger count is broken or hostile.
const ELEMENTS_LIMIT: u64 = 16 * 1024 * 1024;
/// No server needs a higher proto-max-bulk-len; a larger length is refused at once. Below it the reader's own limit
/// decides.
const BULK_LIMIT: u64 = 4 * 1024 * 1024 * 1024;

/// The bytes are not RESP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProtocolError(pub(crate) String);

impl ProtocolError {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// One element. Ranges are into the read buffer; aggregates are followed by their elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// `+text`
    Simple(Range<usize>),
    /// `-CODE text`, or RESP3's `!`
    Error(Range<usize>),
    /// `:n`
    Integer(i64),
    /// `$n`, or RESP3's `=`; whole in the buffer
    Bulk(Range<usize>),
    /// RESP2's null bulk and null array, RESP3's `_`
    Null,
    /// `#t`, `#f`
    Boolean(bool),
    /// `,3.14` and `(big number`, as text
    Number(Range<usize>),
    /// `*n`, `~n`: this many elements follow
    Array(usize),
    /// `>n`: this many elements follow
    Push(usize),
    /// `%n` and `|n`: this many elements follow, keys and values counted each
    Map(usize),
}

/// Reads the element at `at`. `None` if its end has not come yet.
///
/// # Errors
/// If it is no RESP, or a length is absurd.
pub fn token(buf: &[u8], at: usize) -> Result<Option<(Token, usize)>, ProtocolError> {
    // Nearly every element is one of these, and looking for the end of a line costs several times as much.
    match buf.get(at) {
        Some(b'$') => {
            if let Some((size, begin)) = short_header(buf, at, b'$') {
                return bulk(buf, begin, size);
            }
        }
        Some(b'*') => {
            if let Some((count, next)) = short_header(buf, at, b'*') {
                return Ok(Some((Token::Array(count), next)));
            }
        }
        _ => {}
    }
    let Some((kind, line, next)) = line(buf, at)? else { return Ok(None) };
    let text = &buf[line.clone()];
    let whole = match kind {
        b'+' => Token::Simple(line),
        b'-' => Token::Error(line),
        b':' => Token::Integer(integer(text)?),
        b'$' | b'=' | b'!' => {
            let Some(length) = length(text, BULK_LIMIT)? else { return Ok(Some((Token::Null, next))) };
            let whole = bulk(buf, next, length)?;
            return Ok(whole.map(|(content, end)| match content {
                Token::Bulk(range) if kind == b'!' => (Token::Error(range), end),
                content => (content, end),
            }));
        }
        b'*' | b'~' => length(text, ELEMENTS_LIMIT)?.map_or(Token::Null, Token::Array),
        b'>' => length(text, ELEMENTS_LIMIT)?.map_or(Token::Null, Token::Push),
        b'%' | b'|' => length(text, ELEMENTS_LIMIT / 2)?.map_or(Token::Null, |pairs| Token::Map(pairs * 2)),
        b'_' => Token::Null,
        b'#' => Token::Boolean(text == b"t"),
        b',' | b'(' => Token::Number(line),
        other => {
            return Err(ProtocolError(format!("no RESP element begins with the byte 0x{other:02x}")));
        }
    };
    Ok(Some((whole, next)))
}

/// The string of `size` bytes that begins at `begin`; `None` if its end has not come.
fn bulk(buf: &[u8], begin: usize, size: usize) -> Result<Option<(Token, usize)>, ProtocolError> {
    let end = begin + size;
    match buf.get(end..end + 2) {
        None => Ok(None),
        Some(b"\r\n") => Ok(Some((Token::Bulk(begin..end), end + 2))),
        Some(_) => Err(ProtocolError("a bulk string does not end with CRLF".to_owned())),
    }
}

/// The header line of the element at `at`: its kind, its text, and its end.
pub(super) fn line(buf: &[u8], at: usize) -> Result<Option<(u8, Range<usize>, usize)>, ProtocolError> {
    let Some(&kind) = buf.get(at) else { return Ok(None) };
    let start = at + 1;
    let window = &buf[start..buf.len().min(start + LINE_LIMIT)];
    match memchr(b'\r', window) {
        Some(length) => match buf.get(start + length + 1) {
            None => Ok(None),
            Some(b'\n') => Ok(Some((kind, start..start + length, start + length + 2))),
            Some(_) => Err(ProtocolError("a line has CR without LF".to_owned())),
        },
        None if window.len() == LINE_LIMIT => {
            Err(ProtocolError(format!("a line is longer than {LINE_LIMIT} bytes")))
        }
        None => Ok(None),
    }
}

/// A length; `-1` is null.
pub(super) fn length(text: &[u8], limit: u64) -> Result<Option<usize>, ProtocolError> {
    if text == b"-1" {
        return Ok(None);
    }
    let mut value = 0u64;
    if text.is_empty() || text.len() > 19 {
        return Err(absurd());
    }
    for digit in text {
        if !digit.is_ascii_digit() {
            return Err(absurd());
        }
        value = value * 10 + u64::from(digit - b'0');
    }
    if value > limit {
        return Err(absurd());
    }
    usize::try_from(value).map(Some).map_err(|_| absurd())
}

/// A header of at most six digits, which is nearly every one: the general way costs several times as much.
#[inline]
fn short_header(buf: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let header: &[u8; 9] = buf.get(at..at + 9)?.first_chunk()?;
    if header[0] != kind {
        return None;
    }
    let mut number = 0;
    for index in 1..8 {
        let digit = header[index].wrapping_sub(b'0');
        if digit < 10 {
            number = number * 10 + usize::from(digit);
        } else if index > 1 && header[index] == b'\r' && header[index + 1] == b'\n' {
            return Some((number, at + index + 2));
        } else {
            return None;
        }
    }
    None
}

/// The length of the bulk string at `at`, and the begin of its content; `None` if that has not arrived.
///
/// # Errors
/// If it is no bulk string, null, or an absurd length.
pub fn bulk_header(buf: &[u8], at: usize) -> Result<Option<(usize, usize)>, ProtocolError> {
    if let Some(found) = short_header(buf, at, b'$') {
        return Ok(Some(found));
    }
    let Some((kind, text, next)) = line(buf, at)? else { return Ok(None) };
    if kind != b'$' {
        return Err(ProtocolError::new("a bulk string is expected"));
    }
    match length(&buf[text], BULK_LIMIT)? {
        Some(size) => Ok(Some((size, next))),
        None => Err(ProtocolError::new("a bulk string is null")),
    }
}

/// The length of the array at `at`, and the begin of its first element; `None` if that has not arrived.
///
/// # Errors
/// If it is no array, null, or an absurd length.
pub fn count_header(buf: &[u8], at: usize) -> Result<Option<(usize, usize)>, ProtocolError> {
    if let Some(found) = short_header(buf, at, b'*') {
        return Ok(Some(found));
    }
    let Some((kind, text, next)) = line(buf, at)? else { return Ok(None) };
    if kind != b'*' {
        return Err(ProtocolError::new("a command is expected"));
    }
    match length(&buf[text], ELEMENTS_LIMIT)? {
        Some(count) => Ok(Some((count, next))),
        None => Err(ProtocolError::new("a command is null")),
    }
}

fn integer(text: &[u8]) -> Result<i64, ProtocolError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ProtocolError("a number is not valid".to_owned()))
}

fn absurd() -> ProtocolError {
    // The bytes are not quoted: they may be a piece of a payload.
    ProtocolError("a length is not valid".to_owned())
}
