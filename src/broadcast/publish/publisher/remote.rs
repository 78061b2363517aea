//! Publishing on another server than the stream's: the messages go out first. After all messages of a batch are
//! answered, the script on the stream's server moves the cursor over it and records the entries that were not
//! published.
//!
//! A replica answers PUBLISH as a master does, so an answer alone does not prove that the master's subscribers were
//! reached. So each batch ends with HELLO, which reports the server's role. If it is not a master, the session ends,
//! and the next one publishes the batch again on the current master.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{PendingCall, Publisher};
use crate::broadcast::failure::SessionFailure;
use crate::broadcast::message::withheld::Unrenderable;
use crate::broadcast::publish::call::Tally;
use crate::broadcast::publish::count::{Counted, StreamCount};
use crate::server::resp::{self, Value};
use crate::server::{Error, Role, role_in};
use crate::stream::EntryId;

/// The connection to the destination, if it is another server than the stream's.
#[derive(Debug)]
pub(super) struct Remote {
    /// Commands to it.
    pub(super) out: Vec<u8>,
    /// The batch that is being collected.
    pub(super) current: Published,
    /// The holes being collected.
    pub(super) releasing: Published,
    /// PUBLISH commands of the holes. They go out once the batch is complete, so that every answer belongs to a batch.
    pub(super) release_out: Vec<u8>,
    /// Batches whose PUBLISH commands are not all answered.
    pub(super) waiting: VecDeque<Published>,
    /// When the server was asked for its role, if the answer is open. Asked only while no other question is open.
    pub(super) ping: Option<Instant>,
    pub(super) response_timeout: Duration,
}

/// A batch on another server.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) span: (EntryId, EntryId),
    /// `entries-added` at its end.
    pub(super) counted: StreamCount,
    /// `entries-added` at its end, as the script's argument.
    pub(super) count: Counted,
    pub(super) ids: Vec<EntryId>,
    pub(super) answered: usize,
    /// True if the server has said since that it is the master.
    pub(super) confirmed: bool,
    pub(super) unheard: u64,
    /// Entries that the route's filter left out.
    pub(super) filtered: Vec<EntryId>,
    /// The entry, if it is larger than a batch.
    pub(super) large: Option<EntryId>,
    /// Entries that are not published but noted on the stream's server: they wait for the cursor's step.
    pub(super) noted: Vec<(EntryId, Note)>,
    /// True if these are holes: the cursor is past them already.
    pub(super) release: bool,
    pub(super) sent: Option<Instant>,
}

/// The note about an entry that is not published.
#[derive(Debug, Clone)]
pub(super) enum Note {
    /// It goes to the dead letters.
    Dead(Unrenderable),
    /// It is not acknowledged, and published later.
    Hole,
    /// It was a hole, and the route's present filter leaves it out.
    Filtered,
}

impl Published {
    /// Returns whether everything that was asked is answered.
    fn is_over(&self) -> bool {
        self.answered == self.ids.len() && (self.ids.is_empty() || self.confirmed)
    }

    pub(super) fn holes(&self) -> u64 {
        let holes = self.noted.iter().filter(|(_, note)| matches!(note, Note::Hole)).count();
        u64::try_from(holes).unwrap_or(u64::MAX)
    }
}

impl Remote {
    /// Lets a batch wait for its answers. Its PUBLISH commands are in `out`; the question for the role ends them.
    pub(super) fn send(&mut self, batch: Published) {
        if !batch.ids.is_empty() {
            resp::command(&mut self.out, &[b"HELLO"]);
        }
        self.waiting.push_back(batch);
    }
}

impl Publisher {
    /// Takes in one answer of the other server. Returns the number of messages sent, and of those without a subscriber.
    /// Answers behind a refusal are only counted.
    ///
    /// # Errors
    /// If it is no answer to the command.
    pub(in crate::broadcast) fn on_answer(
        &mut self,
        reply: &Value,
        now: Instant,
    ) -> Result<(u64, u64), SessionFailure> {
        let Some(other) = &mut self.other else { return Ok((0, 0)) };
        if other.ping.take().is_some() {
            return is_master(reply).map(|()| (0, 0));
        }
        let sent = match reply {
            Value::Integer(receivers) => (1, u64::from(*receivers == 0)),
            _ => (0, 0),
        };
        if self.refusals.has_one() {
            return Ok(sent);
        }
        let Some(batch) = other.waiting.front_mut() else {
            return Err(SessionFailure::destination(Error::unasked()));
        };
        match reply {
            _ if batch.answered == batch.ids.len() => {
                is_master(reply)?;
                batch.confirmed = true;
            }
            Value::Integer(_) => {
                batch.answered += 1;
                batch.unheard += sent.1;
            }
            Value::Error(text) => {
                let entry = batch.ids.get(batch.answered).copied();
                let error = Error::reply(text);
                let large = batch.large.is_some();
                let before = batch.answered.checked_sub(1).and_then(|at| batch.ids.get(at));
                let last = before.copied().unwrap_or(batch.span.0);
                batch.span.1 = last;
                (batch.counted.added, batch.count) = (None, Counted::Unknown);
                batch.ids.truncate(batch.answered);
                // The answer that would say so means nothing any more.
                batch.confirmed = true;
                batch.noted.retain(|(id, _)| *id <= last);
                batch.filtered.retain(|id| *id <= last);
                // The batches behind it are read again: across servers that may repeat messages, and loses none.
                other.waiting.truncate(1);
                self.refusals.on_publish_refused(entry, large, error);
            }
            _ => {
                let error = Error::Protocol("the reply to PUBLISH is not a number".into());
                return Err(SessionFailure::destination(error));
            }
        }
        self.move_published(now);
        Ok(sent)
    }

    /// Asks the destination for its role, as a sign of life, if it is another server and nothing else is asked. The
    /// other connections need none: reads are answered every second.
    pub(in crate::broadcast) fn ping(&mut self, now: Instant) {
        if let Some(other) = &mut self.other
            && other.waiting.is_empty()
            && other.ping.is_none()
        {
            resp::command(&mut other.out, &[b"HELLO"]);
            other.ping = Some(now);
        }
    }

    /// Moves the cursor over the batches that the other server has answered.
    pub(super) fn move_published(&mut self, now: Instant) {
        let Some(other) = &mut self.other else { return };
        while other.waiting.front().is_some_and(Published::is_over) {
            let Some(batch) = other.waiting.pop_front() else { return };
            if batch.span.0 == batch.span.1 && !batch.release {
                continue;
            }
            let published = u64::try_from(batch.ids.len()).unwrap_or(u64::MAX);
            let noted = u64::try_from(batch.noted.len()).unwrap_or(u64::MAX);
            let items = if batch.release { &mut self.releases } else { &mut self.items };
            for (id, note) in &batch.noted {
                match note {
                    Note::Dead(why) => items.dead_letter(id.to_string().as_bytes(), why),
                    Note::Hole => items.hole(id.to_string().as_bytes()),
                    Note::Filtered => items.filtered_hole(id.to_string().as_bytes()),
                }
            }
            let elsewhere = Tally { published, unheard: batch.unheard, ..Tally::default() };
            let out = &mut self.out;
            if batch.release {
                let ids: String = batch.ids.iter().map(|id| format!("{id} ")).collect();
                let Some(hash) = &self.release_hash else { continue };
                items.write_release(out, hash, &self.keys, (elsewhere, ids.as_bytes()));
            } else {
                items.filtered(u64::try_from(batch.filtered.len()).unwrap_or(u64::MAX));
                let span = (batch.span.0, batch.span.1, batch.count);
                items.write(out, &self.hash, &self.keys, span, elsewhere);
            }
            let sent = batch.sent.unwrap_or(now);
            let holes = batch.holes();
            let (entries, counted) = (published + noted, batch.counted);
            let release = batch.release;
            self.calls.push_back(PendingCall { entries, large: None, holes, counted, release, sent });
        }
    }
}

/// Takes in the reply to HELLO.
///
/// # Errors
/// If the server is none that can be published on.
fn is_master(reply: &Value) -> Result<(), SessionFailure> {
    if let Value::Error(text) = reply {
        return Err(SessionFailure::destination(Error::reply(text)));
    }
    match role_in(reply) {
        Some(Role::Master) => Ok(()),
        Some(Role::Replica) => Err(SessionFailure::destination(Error::replica())),
        None => Err(SessionFailure::destination(Error::Protocol("the reply to HELLO is not a map".into()))),
    }
}
