//! A complete reply, owned: for commands that are not hot.

use super::token::{ProtocolError, Token, token};

/// Replies nest this deep at most; XREAD's have four levels.
const DEPTH_LIMIT: usize = 8;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Null.
    Null,
    /// A number.
    Integer(i64),
    /// A simple or bulk string, a double, a big number, a boolean (`t`, `f`).
    Bytes(Vec<u8>),
    /// An error reply, or an error inside an aggregate.
    Error(Vec<u8>),
    /// An array, a set, or a map with keys and values in turn.
    Array(Vec<Value>),
    /// An out-of-band message.
    Push(Vec<Value>),
}

impl Value {
    /// Builds the value at `at` of a buffer that is known to hold it whole.
    ///
    /// # Errors
    /// If it is not whole, nests too deep, or is no RESP.
    pub fn build(buf: &[u8], at: usize) -> Result<(Self, usize), ProtocolError> {
        Self::nested(buf, at, 0)
    }

    fn nested(buf: &[u8], at: usize, depth: usize) -> Result<(Self, usize), ProtocolError> {
        if depth > DEPTH_LIMIT {
            return Err(ProtocolError(format!("a reply nests deeper than {DEPTH_LIMIT}")));
        }
        let (token, mut next) =
            token(buf, at)?.ok_or_else(|| ProtocolError("a reply ends early".to_owned()))?;
        let mut elements = |count: usize| {
            // The count is a claim: memory is reserved for received elements only.
            let mut all = Vec::with_capacity(count.min(64));
            for _ in 0..count {
                let (value, end) = Self::nested(buf, next, depth + 1)?;
                all.push(value);
                next = end;
            }
            Ok(all)
        };
        let value = match token {
            Token::Null => Self::Null,
            Token::Integer(number) => Self::Integer(number),
            Token::Boolean(yes) => Self::Bytes(if yes { b"t".to_vec() } else { b"f".to_vec() }),
            Token::Simple(range) | Token::Bulk(range) | Token::Number(range) => {
                Self::Bytes(buf[range].to_vec())
            }
            Token::Error(range) => Self::Error(buf[range].to_vec()),
            Token::Array(count) | Token::Map(count) => Self::Array(elements(count)?),
            Token::Push(count) => Self::Push(elements(count)?),
        };
        Ok((value, next))
    }

    /// The bytes, if it is a string.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The elements, if it is an aggregate.
    #[must_use]
    pub fn elements(&self) -> Option<&[Self]> {
        match self {
            Self::Array(elements) | Self::Push(elements) => Some(elements),
            _ => None,
        }
    }

    /// The number, if it is one.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The number, if it is not negative.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        u64::try_from(self.integer()?).ok()
    }

    /// The text, if it is a string of UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}
