//! XREAD's reply, read where it lies: an entry is ranges into the reply's bytes.
//!
//! ```text
//! _                                                        nothing within the block time
//! %1 [ stream, *n [ *2 [ id, *2m [ name, value, … ] ] … ] ]
//! ```
//!
//! The list of ranges is reused for each entry, so a field costs no allocation.

use std::ops::Range;

use crate::filter::Filterable;
use crate::server::Error;
use crate::server::resp::{Token, token};
use crate::stream::EntryId;

/// Ranges of the names and values of an entry's fields in the reply.
pub(crate) type Ranges = Vec<(Range<usize>, Range<usize>)>;

/// The entries of one reply, in order.
#[derive(Debug)]
pub(crate) struct StreamEntries<'a> {
    reply: &'a [u8],
    at: usize,
    left: usize,
    ranges: Ranges,
}

/// An entry of the stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamEntry<'a> {
    /// The entry's id.
    pub(crate) id: EntryId,
    /// The entry's id as the server wrote it.
    pub(crate) id_text: &'a [u8],
    reply: &'a [u8],
    fields: &'a [(Range<usize>, Range<usize>)],
}

impl<'a> StreamEntries<'a> {
    /// Begins to read a whole reply to an XREAD of one stream. `ranges` is room of an earlier one.
    ///
    /// # Errors
    /// If the reply is an error, or no reply to XREAD.
    pub(crate) fn new(reply: &'a [u8], ranges: Ranges) -> Result<Self, Error> {
        let mut entries = Self { reply, at: 0, left: 0, ranges };
        match entries.next_token()? {
            Token::Null => return Ok(entries),
            Token::Error(text) => return Err(Error::reply(&reply[text])),
            // RESP3's map, and RESP2's array of one pair.
            Token::Map(2) => {}
            Token::Array(1) => {
                entries.array()?;
            }
            _ => return Err(unexpected("the streams")),
        }
        entries.bulk()?;
        entries.left = entries.array()?;
        Ok(entries)
    }

    /// Reads a reply to XRANGE, which has the entries alone.
    ///
    /// # Errors
    /// If the reply is an error, or no reply to XRANGE.
    pub(crate) fn of_range(reply: &'a [u8], ranges: Ranges) -> Result<Self, Error> {
        let mut entries = Self { reply, at: 0, left: 0, ranges };
        match entries.next_token()? {
            Token::Error(text) => return Err(Error::reply(&reply[text])),
            Token::Array(count) => entries.left = count,
            _ => return Err(unexpected("the entries")),
        }
        Ok(entries)
    }

    /// Number of entries not read yet.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Gives the room back for the next reply.
    pub(crate) fn into_ranges(self) -> Ranges {
        self.ranges
    }

    /// The next entry.
    ///
    /// # Errors
    /// If the reply contains something else.
    pub(crate) fn next(&mut self) -> Result<Option<StreamEntry<'_>>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        if self.array()? != 2 {
            return Err(unexpected("an entry"));
        }
        let id_at = self.bulk()?;
        let values = self.array()?;
        self.ranges.clear();
        for _ in 0..values / 2 {
            let name = self.bulk()?;
            let value = self.bulk()?;
            self.ranges.push((name, value));
        }
        let id_text = &self.reply[id_at];
        let id = EntryId::parse(id_text).ok_or_else(|| unexpected("an entry's id"))?;
        Ok(Some(StreamEntry { id, id_text, reply: self.reply, fields: &self.ranges }))
    }

    fn next_token(&mut self) -> Result<Token, Error> {
        let (token, next) = token(self.reply, self.at)?.ok_or_else(|| unexpected("the reply's end"))?;
        self.at = next;
        Ok(token)
    }

    fn array(&mut self) -> Result<usize, Error> {
        match self.next_token()? {
            Token::Array(count) => Ok(count),
            _ => Err(unexpected("an array")),
        }
    }

    fn bulk(&mut self) -> Result<Range<usize>, Error> {
        match self.next_token()? {
            Token::Bulk(range) => Ok(range),
            _ => Err(unexpected("a string")),
        }
    }
}

impl<'a> StreamEntry<'a> {
    /// The entry's id, in both forms.
    pub(crate) fn id(&self) -> (EntryId, &'a [u8]) {
        (self.id, self.id_text)
    }

    /// Names and values, in the entry's order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let reply = self.reply;
        self.fields.iter().map(move |(name, value)| (&reply[name.clone()], &reply[value.clone()]))
    }

    /// The value of the first field of a name.
    pub(crate) fn field(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.fields().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The entry as conditions look at it; `payload` is the field that holds the payload.
    pub(crate) fn looked(self, payload: &'a str) -> EntryLooked<'a> {
        EntryLooked { entry: self, payload }
    }
}

/// An entry, as conditions look at it.
#[derive(Debug)]
pub(crate) struct EntryLooked<'a> {
    entry: StreamEntry<'a>,
    payload: &'a str,
}

impl Filterable for EntryLooked<'_> {
    fn channel(&self) -> Option<&[u8]> {
        None
    }

    fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.entry.field(name)
    }

    fn payload(&self) -> Option<&[u8]> {
        self.entry.field(self.payload.as_bytes())
    }
}

fn unexpected(what: &str) -> Error {
    Error::Protocol(format!("the reply to XREAD has no valid {what}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::server::{self, resp};

    /// Names and values of an entry.
    pub(crate) type Fields<'a> = &'a [(&'a [u8], &'a [u8])];

    /// A reply as Redis writes it under RESP3.
    pub(crate) fn reply(entries: &[(&str, Fields<'_>)]) -> Vec<u8> {
        let mut out = b"%1\r\n".to_vec();
        resp::argument(&mut out, b"orders");
        resp::header(&mut out, entries.len());
        for (id, fields) in entries {
            resp::header(&mut out, 2);
            resp::argument(&mut out, id.as_bytes());
            resp::header(&mut out, fields.len() * 2);
            for (name, value) in *fields {
                resp::argument(&mut out, name);
                resp::argument(&mut out, value);
            }
        }
        out
    }

    #[test]
    fn entries_come_in_order_with_their_fields() {
        let reply =
            reply(&[("1-0", &[(b"a", b"\r\n\xff"), (b"", b""), (b"a", b"2")]), ("1-1", &[(b"b", b"x")])]);
        let mut entries = StreamEntries::new(&reply, Vec::new()).unwrap();
        assert_eq!(entries.left(), 2);
        let first = entries.next().unwrap().unwrap();
        assert_eq!((first.id.milliseconds, first.id.sequence, first.id_text), (1, 0, b"1-0".as_slice()));
        let all: Vec<_> = first.fields().collect();
        assert_eq!(all, [(b"a".as_slice(), b"\r\n\xff".as_slice()), (b"", b""), (b"a", b"2")]);
        assert_eq!(first.field(b"a"), Some(b"\r\n\xff".as_slice()));
        assert_eq!(first.field(b"c"), None);
        let second = entries.next().unwrap().unwrap();
        assert_eq!(second.field(b"b"), Some(b"x".as_slice()));
        assert!(entries.next().unwrap().is_none());
    }

    #[test]
    fn nothing_and_errors_and_nonsense_are_told_apart() {
        assert_eq!(StreamEntries::new(b"_\r\n", Vec::new()).unwrap().left(), 0);
        let error = StreamEntries::new(b"-WRONGTYPE no\r\n", Vec::new()).unwrap_err();
        assert_eq!(error.class(), server::Class::Block);
        for nonsense in [b":1\r\n".as_slice(), b"%1\r\n$1\r\ns\r\n:1\r\n", b"*1\r\n$1\r\ns\r\n", b"%1\r\n"] {
            assert!(StreamEntries::new(nonsense, Vec::new()).is_err(), "{}", nonsense.escape_ascii());
        }
        let broken = b"%1\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1=0\r\n*0\r\n";
        assert!(StreamEntries::new(broken, Vec::new()).unwrap().next().is_err());
    }
}
