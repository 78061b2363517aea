//! Holes: entries that a batch leaves behind, and their release once they are acknowledged.

use tokio::time::Instant;

use super::remote::{Note, Published};
use super::{BATCH_BYTES, Id, PendingCall, Publisher};
use crate::broadcast::message::withheld::{Unrenderable, Withheld};
use crate::broadcast::publish::call::Tally;
use crate::broadcast::publish::count::StreamCount;
use crate::server::resp;
use crate::stream::EntryId;

impl Publisher {
    /// Takes an entry that is not acknowledged: the cursor goes past it, and it is remembered as a hole.
    pub(crate) fn leave(&mut self, (id, text): Id<'_>, now: Instant) {
        self.make_room(0, now);
        match &mut self.other {
            None => {
                self.items.hole(text);
                self.holes += 1;
            }
            Some(other) => other.current.noted.push((id, Note::Hole)),
        }
        self.count_taken(id);
    }

    /// Takes a hole that is to be published now. The caller hands over one batch at a time.
    pub(crate) fn release(&mut self, (id, text): Id<'_>, channel: &[u8], message: &[u8], now: Instant) {
        if let Some(why) = self.refusals.take_given_up(id) {
            return self.release_rejected((id, text), why);
        }
        let bytes = text.len() + channel.len() + message.len();
        let held = self.other.as_ref().map_or(self.releases.bytes(), |other| other.release_out.len());
        if held + bytes > BATCH_BYTES {
            self.flush_release(now);
        }
        match &mut self.other {
            None => self.releases.message(text, channel, message),
            Some(other) => {
                resp::command(&mut other.release_out, &[self.keys.command.as_bytes(), channel, message]);
                other.releasing.ids.push(id);
            }
        }
        if bytes > BATCH_BYTES {
            self.send_releases(Some(id), now);
        }
    }

    /// Takes a hole that is not published.
    pub(crate) fn release_withheld(&mut self, (id, text): Id<'_>, why: Withheld) {
        match why {
            Withheld::Unrenderable(why) => self.release_rejected((id, text), why),
            Withheld::Filtered => match &mut self.other {
                None => self.releases.filtered_hole(text),
                Some(other) => other.releasing.noted.push((id, Note::Filtered)),
            },
        }
    }

    fn release_rejected(&mut self, (id, text): Id<'_>, why: Unrenderable) {
        match &mut self.other {
            None => self.releases.dead_letter(text, &why),
            Some(other) => other.releasing.noted.push((id, Note::Dead(why))),
        }
    }

    /// Sends the holes that were handed over.
    pub(crate) fn flush_release(&mut self, now: Instant) {
        self.send_releases(None, now);
    }

    /// Sends the holes; `large` if they are one entry that is larger than a batch.
    fn send_releases(&mut self, large: Option<EntryId>, now: Instant) {
        let Some(hash) = &self.release_hash else { return };
        match &mut self.other {
            None if self.releases.count() == 0 => return,
            None => {
                let entries = u64::try_from(self.releases.count()).unwrap_or(u64::MAX);
                self.releases.write_release(&mut self.out, hash, &self.keys, (Tally::default(), b""));
                let (holes, counted) = (0, StreamCount::default());
                self.calls.push_back(PendingCall {
                    entries,
                    large,
                    holes,
                    counted,
                    release: true,
                    sent: now,
                });
            }
            Some(other) if other.releasing.ids.is_empty() && other.releasing.noted.is_empty() => return,
            Some(other) => {
                let empty = Published { release: true, ..Published::default() };
                let mut batch = std::mem::replace(&mut other.releasing, empty);
                batch.large = large;
                batch.sent = Some(now);
                other.out.append(&mut other.release_out);
                other.send(batch);
            }
        }
        self.move_published(now);
    }

    /// Returns whether holes that were handed over are not dealt with yet.
    pub(crate) fn is_releasing(&self) -> bool {
        let waiting =
            self.other.as_ref().is_some_and(|other| other.waiting.iter().any(|batch| batch.release));
        waiting || self.calls.iter().any(|call| call.release)
    }

    /// Holes that were handed over and may not be remembered yet.
    pub(crate) fn holes_under_way(&self) -> u64 {
        let waiting = self.other.iter().flat_map(|other| &other.waiting).map(Published::holes);
        self.calls.iter().map(|call| call.holes).chain(waiting).sum()
    }
}
