//! Entries that were read and are not acknowledged, buffered in memory as rendered messages.
//!
//! Problem: a consumer may acknowledge an entry and delete it at once. Then the entry must be published, and the stream
//! no longer has it. So entries are read while they are pending, and buffered.
//!
//! Constraints: a group may leave any number of entries pending. The buffer is bounded, by entries and by bytes. An
//! entry that is not buffered is read again when it is needed, if it still exists.
//!
//! Operation: the entries of one read are in one block of memory, with the places of their messages. A block is
//! released with its last message, and counts as a whole until then. A message that was passed to the publisher stays
//! until it is published: another instance may have published part of the batch first.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use crate::broadcast::message::render::Rendered;
use crate::broadcast::message::withheld::Withheld;
use crate::broadcast::publish::publisher::Id;
use crate::stream::EntryId;

/// The most entries that are held: twice what several thousand consumers have unacknowledged.
const ENTRIES: usize = 8_192;
/// Bytes from which on nothing more is read ahead; one read may go beyond it.
const BYTES: usize = 4 * 1024 * 1024;

/// The entries that are held.
#[derive(Debug, Default)]
pub(crate) struct EntryBuffer {
    entries: BTreeMap<EntryId, BufferedEntry>,
    pieces: HashMap<u64, BufferedRead>,
    /// The piece that is being filled.
    open: u64,
    bytes: usize,
}

#[derive(Debug)]
struct BufferedEntry {
    piece: u64,
    /// The begin of its id, and the ends of id, channel and message.
    at: [usize; 4],
    withheld: Option<Withheld>,
}

#[derive(Debug, Default)]
struct BufferedRead {
    bytes: Vec<u8>,
    left: usize,
}

impl EntryBuffer {
    /// Returns whether more may be read ahead.
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < ENTRIES && self.bytes < BYTES
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first entry behind this one, by id.
    pub(crate) fn after(&self, id: EntryId) -> Option<EntryId> {
        self.entries.range((Bound::Excluded(id), Bound::Unbounded)).next().map(|(id, _)| *id)
    }

    /// Number of entries behind this one.
    pub(crate) fn count_after(&self, id: EntryId) -> usize {
        self.entries.range((Bound::Excluded(id), Bound::Unbounded)).count()
    }

    /// Holds an entry.
    pub(crate) fn add(&mut self, (id, text): Id<'_>, rendered: Rendered<'_>) {
        let (channel, message, withheld) = match rendered {
            Ok((channel, message)) => (channel, message, None),
            Err(why) => (&[] as &[u8], &[] as &[u8], Some(why)),
        };
        let piece = self.pieces.entry(self.open).or_default();
        let before = piece.bytes.capacity();
        let mut at = [piece.bytes.len(); 4];
        for (end, part) in at[1..].iter_mut().zip([text, channel, message]) {
            piece.bytes.extend_from_slice(part);
            *end = piece.bytes.len();
        }
        piece.left += 1;
        self.bytes += piece.bytes.capacity() - before;
        if let Some(old) = self.entries.insert(id, BufferedEntry { piece: self.open, at, withheld }) {
            self.forget(old.piece);
        }
    }

    /// Ends a read: the next entries are in another block.
    pub(crate) fn close(&mut self) {
        self.open += 1;
    }

    /// Shows an entry, and keeps it.
    pub(crate) fn show<T>(&self, id: EntryId, use_it: impl FnOnce(Id<'_>, Rendered<'_>) -> T) -> Option<T> {
        let held = self.entries.get(&id)?;
        let bytes = &self.pieces.get(&held.piece)?.bytes;
        let [begin, text, channel, end] = held.at;
        let rendered = match held.withheld.clone() {
            Some(why) => Err(why),
            None => Ok((&bytes[text..channel], &bytes[channel..end])),
        };
        Some(use_it((id, &bytes[begin..text]), rendered))
    }

    /// Takes an entry out and hands it over.
    pub(crate) fn take<T>(
        &mut self,
        id: EntryId,
        use_it: impl FnOnce(Id<'_>, Rendered<'_>) -> T,
    ) -> Option<T> {
        let used = self.show(id, use_it);
        if let Some(held) = self.entries.remove(&id) {
            self.forget(held.piece);
        }
        used
    }

    /// Forgets the first entry.
    pub(crate) fn drop_first(&mut self) {
        if let Some((_, held)) = self.entries.pop_first() {
            self.forget(held.piece);
        }
    }

    /// Forgets every entry up to this one.
    pub(crate) fn drop_up_to(&mut self, last: EntryId) {
        while self.entries.first_key_value().is_some_and(|(id, _)| *id <= last) {
            self.drop_first();
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.pieces.clear();
        self.bytes = 0;
    }

    fn forget(&mut self, piece: u64) {
        if let Some(found) = self.pieces.get_mut(&piece) {
            found.left -= 1;
            if found.left == 0 {
                self.bytes -= found.bytes.capacity();
                self.pieces.remove(&piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(milliseconds: u64) -> EntryId {
        EntryId { milliseconds, sequence: 0 }
    }

    #[test]
    fn what_was_held_comes_out_once_and_its_memory_goes_with_the_last_of_a_read() {
        let mut hold = EntryBuffer::default();
        hold.add((id(1), b"1-0"), Ok((b"news", b"one")));
        hold.add((id(2), b"2-0"), Err(Withheld::Filtered));
        hold.close();
        hold.add((id(3), b"3-0"), Ok((b"news", b"three")));
        hold.close();
        let (before, text) = (hold.bytes(), |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned());
        let taken = hold.take(id(1), |(_, name), rendered| {
            let (channel, message) = rendered.unwrap();
            (text(name), text(channel), text(message))
        });
        assert_eq!(taken.unwrap(), ("1-0".into(), "news".into(), "one".into()));
        assert_eq!(hold.take(id(1), |_, _| ()), None);
        assert_eq!((hold.len(), hold.bytes()), (2, before), "its piece holds another entry");
        assert!(hold.take(id(2), |_, rendered| rendered.is_err()).unwrap());
        assert!(hold.bytes() < before);
        hold.drop_up_to(id(3));
        assert_eq!((hold.len(), hold.bytes(), hold.pieces.len()), (0, 0, 0));
    }

    #[test]
    fn reading_ahead_ends_at_the_bounds() {
        let mut hold = EntryBuffer::default();
        for number in 0..ENTRIES as u64 {
            assert!(hold.has_room());
            hold.add((id(number), b"x"), Ok((b"", b"")));
        }
        assert!(!hold.has_room());
        hold.clear();
        assert!(hold.has_room());
        hold.add((id(1), b"x"), Ok((b"", &vec![0; BYTES])));
        assert!(!hold.has_room());
    }
}
