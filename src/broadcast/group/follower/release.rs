//! Acknowledged holes: published from memory, or read again.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{Asked, Follower};
use crate::broadcast::message::MessageMaker;
use crate::broadcast::message::withheld::{Unrenderable, Withheld};
use crate::broadcast::publish::egress::Egress;
use crate::broadcast::publish::publisher::BATCH_ENTRIES;
use crate::server::{Error, resp};
use crate::stream::EntryId;
use crate::stream::entries::StreamEntries;
use crate::stream::read_size::entries_of_next_read;

impl Follower {
    /// Takes up holes that no other instance has published meanwhile.
    pub(super) fn retry_deleted(&mut self, now: Instant) {
        if !self.to_release.is_empty() {
            return;
        }
        self.to_release.extend(self.deleted.due(now));
        if !self.to_release.is_empty() {
            // Beyond those that are remembered there may be more.
            self.scan.restart();
        }
    }

    /// Publishes holes whose messages are buffered, and asks for the others.
    pub(super) fn release(
        &mut self,
        egress: &mut Egress<'_>,
        out: &mut Vec<u8>,
        now: Instant,
    ) -> Option<Asked> {
        let mut wanted = VecDeque::new();
        for _ in 0..egress.budget(BATCH_ENTRIES.min(egress.pace.messages(now))) {
            if wanted.len() >= self.hole_entries {
                break;
            }
            let Some(id) = self.to_release.pop_front() else { break };
            let held = self.buffer.take(id, |id, rendered| egress.release(id, rendered, now));
            if held.is_none() {
                let text = id.to_string();
                let stream = self.stream.as_bytes();
                resp::command(out, &[b"XRANGE", stream, text.as_bytes(), text.as_bytes()]);
                wanted.push_back(id);
            }
        }
        if wanted.is_empty() {
            egress.publisher.flush_release(now);
            return None;
        }
        self.hole_read = (wanted.len(), 0);
        Some(Asked::Holes(wanted))
    }

    /// Takes in the entry of one hole; the batch goes out with the last.
    ///
    /// # Errors
    /// If the reply is none of entries.
    pub(in crate::broadcast) fn hole(
        &mut self,
        wanted: &mut VecDeque<EntryId>,
        reply: &[u8],
        (outbound, egress): (&mut MessageMaker, &mut Egress<'_>),
        now: Instant,
    ) -> Result<(), Error> {
        let Some(id) = wanted.pop_front() else { return Ok(()) };
        let mut entries = StreamEntries::of_range(reply, Vec::new())?;
        match entries.next()? {
            // It is found again by the instance that publishes.
            _ if !egress.leads => {}
            Some(entry) => egress.release(entry.id(), outbound.of(&entry), now),
            None if self.deleted.is_lost(id, now) => {
                let text = id.to_string();
                let deleted = Withheld::Unrenderable(Unrenderable::Deleted);
                egress.publisher.release_withheld((id, text.as_bytes()), deleted);
            }
            None => {}
        }
        self.hole_read.1 += reply.len();
        if wanted.is_empty() {
            let (asked, bytes) = self.hole_read;
            self.hole_entries = entries_of_next_read(self.hole_entries, asked, asked, bytes);
            egress.publisher.flush_release(now);
        }
        Ok(())
    }
}
