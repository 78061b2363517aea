//! Looking ahead: what stands in the stream and is not to be published now, read for the guard alone.

use super::entries::{Entries, Ranges, entries_of_next_read};
use super::guard::Guard;
use super::id::EntryId;
use super::outbound::Outbound;
use crate::server::Error;
use crate::server::resp;

/// How far the guard has looked, ahead of what is published.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The last entry that was looked at; `None` until it begins.
    reached: Option<EntryId>,
    /// Whether that was the stream's end.
    whole: bool,
    /// How many entries the next read asks for.
    entries: usize,
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self { reached: None, whole: false, entries: 1 }
    }

    /// Whether it has looked to the stream's end since it was last told to look again.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Looks again, from where it has looked to.
    pub(super) fn again(&mut self) {
        self.whole = false;
    }

    /// Forgets where it has looked to.
    pub(super) fn end(&mut self) {
        self.reached = None;
    }

    /// Asks for what comes next, where there may be something; at first behind `begin`. Returns after which
    /// entry, and for how many it asked.
    pub(super) fn ask(
        &mut self,
        stream: &str,
        begin: EntryId,
        out: &mut Vec<u8>,
    ) -> Option<(EntryId, usize)> {
        if self.whole {
            return None;
        }
        let after = *self.reached.get_or_insert(begin);
        let (count, after_text) = (self.entries.to_string(), after.to_string());
        let command: [&[u8]; 6] =
            [b"XREAD", b"COUNT", count.as_bytes(), b"STREAMS", stream.as_bytes(), after_text.as_bytes()];
        resp::command(out, &command);
        Some((after, self.entries))
    }

    /// Shows the guard what came of the `asked` entries.
    ///
    /// # Errors
    /// Where the reply is an error, or none of entries.
    pub(super) fn take(
        &mut self,
        reply: &[u8],
        asked: usize,
        (outbound, guard): (&mut Outbound, &mut Guard),
        ranges: Ranges,
    ) -> Result<Ranges, Error> {
        let mut entries = Entries::new(reply, ranges)?;
        let came = entries.left();
        while let Some(entry) = entries.next()? {
            let payload = outbound.payload(&entry);
            if let Ok((_, message)) = outbound.unfiltered(&entry) {
                guard.looked_at(payload, message);
            }
            self.reached = Some(entry.id);
        }
        self.whole = came < asked;
        self.entries = entries_of_next_read(self.entries, asked, came, reply.len());
        Ok(entries.into_ranges())
    }
}
