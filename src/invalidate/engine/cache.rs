//! The cache: looking at the cursor, adopting it, and clearing keys.
//!
//! ```text
//! pos 4 → 7 ──▶ pos 7 → 9 ──▶ again 2 → 5 ──▶        calls that move a place: several under way
//! look, adopt, scan, write ──▶                       anything else: alone
//! ```
//!
//! A call that moves a place says where it believes that place to be: where the call before it leads. If that one is
//! refused, so is this one, and the cursor is looked at.

use std::time::Duration;

use tokio::time::Instant;

use super::adoption::Adoption;
use super::{Cleared, Effect, Engine, IDLE, Places, SessionState, Standing};
use crate::event::InvalidateLoss;
use crate::invalidate::change::Change;
use crate::invalidate::cursor::place::Place;
use crate::invalidate::cursor::{self, AdoptCall, ClearCall, ClearReply, CursorLook, PlaceField};
use crate::invalidate::failure::SessionFailure;
use crate::invalidate::queue::QueuedBatch;
use crate::invalidate::second_pass::{DueAgain, Marks};
use crate::invalidate::sweep::{Clearing, Sweep};
use crate::logs::LogCode;
use crate::server::Error;
use crate::server::resp::{self, Value};
use crate::status::RouteEndpoint;
use crate::stream::EntryId;
use crate::text::plural;

/// Most calls under way: the cache has work while an answer is read and the next batch is made.
const CALLS_UNDER_WAY: usize = 4;
/// Bytes of keys and values under way to which another call is added.
const BYTES_UNDER_WAY: usize = 1024 * 1024;

/// A call to the cache.
#[derive(Debug)]
pub(super) enum CacheCall {
    /// The cursor; then the time follows.
    Look,
    /// The cache's time, after this look.
    Time(CursorLook),
    Adopt(Adoption),
    /// The first pass moves from this place on.
    First(Place, QueuedBatch),
    /// The second pass moves from this place on.
    Again(Place, DueAgain),
    /// Writes the cursor without a clear: the first pass's place, with its present counts.
    Write(Place),
    /// Keys are looked for, to clear all of them.
    Scan,
    /// What was found, of this number.
    Swept(usize),
}

/// A call under way, and since when.
pub(super) type SentCall = (CacheCall, Instant);

/// The cache's time at a look, to tell how long ago a mark was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct CacheClock {
    pub(super) time: u64,
    at: Instant,
    pub(super) after: Duration,
}

impl CacheCall {
    /// Returns whether it moves a place of the cursor, and does nothing else: others may follow it.
    const fn moves_a_place(&self) -> bool {
        match self {
            Self::First(..) => true,
            Self::Again(_, due) => due.last.is_some(),
            _ => false,
        }
    }
}

impl SessionState {
    /// The places as they are once the calls under way are carried out.
    fn places_after_calls(&self, mut places: Places) -> Places {
        for (call, _) in &self.calls {
            match call {
                CacheCall::First(_, batch) => places.pos = batch.last,
                CacheCall::Again(_, due) => places.again = due.last.or(places.again),
                _ => {}
            }
        }
        places
    }

    /// Bytes of keys and values that the first pass is applying.
    pub(super) fn bytes_under_way(&self) -> usize {
        let of = |call: &CacheCall| if let CacheCall::First(_, batch) = call { batch.bytes } else { 0 };
        self.calls.iter().map(|(call, _)| of(call)).sum()
    }

    /// How many of the held batches are being cleared once more.
    fn batches_under_way(&self) -> usize {
        let of = |call: &CacheCall| if let CacheCall::Again(_, due) = call { due.batches() } else { 0 };
        self.calls.iter().map(|(call, _)| of(call)).sum()
    }
}

impl CacheClock {
    /// When an entry is due for its second pass that another process may have applied. Without a mark it counts as
    /// applied just now.
    pub(super) fn due(&self, marks: &Marks, id: EntryId, now: Instant) -> Instant {
        let latest = now + self.after;
        let Some(marked) = marks.time_of(id) else { return latest };
        let ago = Duration::from_millis(self.time.saturating_sub(marked));
        // A clock of the cache that was set back makes it no later than that.
        let ahead = Duration::from_millis(marked.saturating_sub(self.time));
        (self.at + ahead + self.after.saturating_sub(ago)).min(latest)
    }
}

impl Engine {
    /// Appends the next calls.
    pub(super) fn ask_cache(&mut self, out: &mut Vec<u8>, now: Instant) {
        while let Some(call) = self.next_call(out, now) {
            let Some(session) = &mut self.session else { return };
            session.calls.push_back((call, now));
        }
    }

    fn next_call(&mut self, out: &mut Vec<u8>, now: Instant) -> Option<CacheCall> {
        let session = self.session.as_mut()?;
        if !session.calls.is_empty() {
            return if self.may_follow() { self.next_pass(out, now) } else { None };
        }
        if let Some(adoption) = session.adopting.take() {
            self.report_before(&adoption, now);
            let session = self.session.as_ref()?;
            let Places { pos, again } = adoption.places;
            // A clear that follows from it begins in the same step: a crash in between would forget it.
            let sweeps = adoption.missed.is_some() && self.sweep.is_some();
            let clearing = sweeps.then_some(Clearing::BEGIN);
            let Adoption { seen, began, gaps, .. } = &adoption;
            let call = AdoptCall { seen, pos, again, clearing, gaps: *gaps, began: *began };
            self.calls.adopt(out, &session.hashes.adopt, &call);
            return Some(CacheCall::Adopt(adoption));
        }
        if session.ready {
            return self.next_clear(out, now);
        }
        let rests = matches!(self.standing, Standing::Outdated(_))
            && session.looked_at_cursor.is_some_and(|at| now < at + IDLE);
        if session.stopping || session.look.is_some() || rests {
            return None;
        }
        Some(self.look(out, now))
    }

    /// Returns whether a pass may continue behind the calls under way. One that tells the cursor more than a place goes
    /// alone, so that it is known from its answer what the cursor has.
    fn may_follow(&self) -> bool {
        let Some(session) = &self.session else { return false };
        let tells = self.gaps.1 || self.gaps_written.0.is_some();
        session.ready
            && session.calls.len() < CALLS_UNDER_WAY
            && session.bytes_under_way() < BYTES_UNDER_WAY
            && session.calls.iter().all(|(call, _)| call.moves_a_place())
            && !tells
            && self.sweep.as_ref().is_none_or(Sweep::rests)
    }

    fn look(&mut self, out: &mut Vec<u8>, now: Instant) -> CacheCall {
        cursor::ask(out, self.calls.key());
        resp::command(out, &[b"TIME"]);
        if let Some(session) = &mut self.session {
            (session.ready, session.looked_at_cursor) = (false, Some(now));
        }
        CacheCall::Look
    }

    /// The next call of the script, if none is under way.
    fn next_clear(&mut self, out: &mut Vec<u8>, now: Instant) -> Option<CacheCall> {
        let (session, places) = (self.session.as_mut()?, self.places?);
        // A clear of all keys takes turns with both passes.
        if !session.stopping
            && std::mem::replace(&mut session.sweep_next, false)
            && let Some(call) = self.next_sweep(out, places.pos, now)
        {
            return Some(call);
        }
        if let Some(call) = self.next_pass(out, now) {
            return Some(call);
        }
        let session = self.session.as_mut()?;
        let read = Some(session.read).filter(|read| session.queue.is_empty() && read.id == places.pos.id);
        let raises = session.raised && read.is_some();
        let idle = now >= session.written + IDLE;
        // A mark that a look made is written at once, or a daemon that keeps crashing never comes to its second pass.
        let marks = self.marks.1 && (session.marks_at_once || session.stopping);
        let steps = self.gaps.1 || self.sweep.as_ref().is_some_and(Sweep::is_unwritten);
        if !(raises || idle || marks || steps) {
            return if session.stopping { None } else { self.next_sweep(out, places.pos, now) };
        }
        (session.raised, session.marks_at_once) = (session.raised && !raises, false);
        let pos = read.unwrap_or(places.pos);
        self.send(out, PlaceField::Pos, (places.pos, pos), (&[], false));
        Some(CacheCall::Write(pos))
    }

    /// The next call that moves a place. The passes take turns, so that neither holds up the other.
    fn next_pass(&mut self, out: &mut Vec<u8>, now: Instant) -> Option<CacheCall> {
        let (session, places) = (self.session.as_mut()?, self.places?);
        if session.stopping {
            return None;
        }
        let Places { pos, again } = session.places_after_calls(places);
        // Behind another call: only as much as one covers, or many small ones would cost the cache more.
        let follows = !session.calls.is_empty();
        let begins = session.queue.due(self.settings.collect).is_some_and(|due| due <= now);
        let first =
            begins && session.letters.is_empty() && (!follows || session.queue.has_batch(self.batch_entries));
        let before = session.batches_under_way();
        let second = again.is_some() && self.held.is_due(before, now) && (!first || session.again_next);
        if let (true, Some(again)) = (second, again)
            && let Some(due) = self.held.take_due(before, self.batch_entries, now)
        {
            let last = due.last.unwrap_or(again);
            let looks = self.held.lacks(&due) && !session.fresh;
            if follows && (looks || !due.full || due.last.is_none()) {
                return None;
            }
            if looks {
                // Another instance may have them all, and may have cleared them since.
                session.again_next = true;
                return Some(self.look(out, now));
            }
            (session.again_next, session.sweep_next) = (false, true);
            self.give_up(&due, last.id, now);
            self.send(out, PlaceField::Again, (again, last), (&due.keys, false));
            return Some(CacheCall::Again(again, due));
        }
        if !first {
            return None;
        }
        (session.again_next, session.sweep_next) = (true, true);
        let batch = session.queue.next_batch(self.batch_entries)?;
        self.send(out, PlaceField::Pos, (pos, batch.last), (&batch.keys, false));
        Some(CacheCall::First(pos, batch))
    }

    /// Reports what cannot be cleared once more, before the cursor moves over it.
    fn give_up(&mut self, due: &DueAgain, last: EntryId, now: Instant) {
        let lost = self.held.take_lost(due);
        if lost > 0 {
            let detail = format!(
                "{} up to {last}: trimmed or deleted before the second pass; a reader without a lease may have stored \
                 an old value after the first",
                plural::of(lost, "entry")
            );
            self.miss(InvalidateLoss::SecondPass, detail, now);
        }
    }

    /// The next call of a clear of all keys: what was found is removed before more is looked for.
    fn next_sweep(&mut self, out: &mut Vec<u8>, pos: Place, now: Instant) -> Option<CacheCall> {
        let sweep = self.sweep.as_mut()?;
        if sweep.due().is_none_or(|due| due > now) {
            return None;
        }
        if let Some(found) = sweep.take_found() {
            let found: Vec<Change> = found.into_iter().map(Change::removal).collect();
            self.send(out, PlaceField::Pos, (pos, pos), (&found, true));
            return Some(CacheCall::Swept(found.len()));
        }
        if sweep.advance(now) {
            let suppressed = self.admit(LogCode::InvalidateCleared.as_str(), now);
            self.effects.push(Effect::Swept(suppressed));
        }
        let sweep = self.sweep.as_mut()?;
        if sweep.is_unwritten() {
            // The step is written before it begins.
            self.send(out, PlaceField::Pos, (pos, pos), (&[], false));
            return Some(CacheCall::Write(pos));
        }
        resp::command(out, &sweep.scan()?);
        Some(CacheCall::Scan)
    }

    fn send(
        &mut self,
        out: &mut Vec<u8>,
        place: PlaceField,
        (prev, last): (Place, Place),
        (keys, alone): (&[Change], bool),
    ) {
        let Some(session) = &mut self.session else { return };
        session.fresh = false;
        let clearing = self.sweep.as_mut().and_then(Sweep::write);
        let gaps = self.gaps.0.filter(|_| std::mem::replace(&mut self.gaps.1, false));
        self.gaps_written.0 = gaps;
        let marks = self.settings.again_after.map(|_| self.marks.0.text());
        self.marks.1 = false;
        let call = ClearCall { place, prev, last, keys, marks, clearing, gaps, alone };
        self.calls.clear(out, &session.hashes.clear, &call);
    }

    /// Takes in a reply of the cache.
    ///
    /// # Errors
    /// If it refused: the session ends, and the script has done nothing.
    pub(in crate::invalidate) fn on_cache(
        &mut self,
        value: &Value,
        now: Instant,
    ) -> Result<(), SessionFailure> {
        self.effects.push(Effect::Answered(RouteEndpoint::Destination));
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some((call, sent)) = session.calls.pop_front() else {
            return Err(SessionFailure::cache(Error::unasked()));
        };
        session.answered = now;
        let took = now.saturating_duration_since(sent);
        match call {
            CacheCall::Look => {
                let look = cursor::on_look(self.calls.key(), value).map_err(SessionFailure::cache)?;
                session.calls.push_front((CacheCall::Time(look), sent));
                Ok(())
            }
            CacheCall::Time(look) => {
                let time = cursor::on_time(value).map_err(SessionFailure::cache)?;
                let after = self.held.after();
                self.again_clock = Some(CacheClock { time, at: now, after });
                self.on_look(look, now);
                Ok(())
            }
            CacheCall::Adopt(adoption) => {
                if cursor::on_adopted(self.calls.key(), value).map_err(SessionFailure::cache)? {
                    self.on_adopted(adoption, now);
                }
                Ok(())
            }
            CacheCall::First(prev, batch) => {
                let (last, entries) = (batch.last, batch.entries);
                let done =
                    self.on_cleared(PlaceField::Pos, last.id, (entries, batch.keys.len()), value, took, now)?;
                if let (Some(time), Some(places)) = (done, &mut self.places) {
                    places.pos = last;
                    if places.again.is_some() {
                        self.marks.0.add(last.id, time, self.held.after());
                        self.marks.1 = true;
                        // After a refused call, the batch follows another instance's work and not the held batches.
                        self.held.hold((prev.id, last), entries, batch.keys, now + self.held.after());
                    }
                }
                Ok(())
            }
            CacheCall::Again(prev, due) => {
                let last = due.last.unwrap_or(prev);
                let done =
                    self.on_cleared(PlaceField::Again, last.id, (0, due.keys.len()), value, took, now)?;
                if let (Some(_), Some(places)) = (done, &mut self.places) {
                    places.again = Some(last);
                    self.held.on_done(&due);
                    self.marks.0.forget(last.id);
                }
                Ok(())
            }
            CacheCall::Scan => {
                let (cursor, found) = cursor::on_scanned(value).map_err(SessionFailure::cache)?;
                if let Some(sweep) = &mut self.sweep {
                    sweep.on_scanned(&cursor, found);
                }
                Ok(())
            }
            CacheCall::Swept(keys) => {
                let pos = self.places.map(|places| places.pos.id).unwrap_or_default();
                let done = self.on_cleared(PlaceField::Pos, pos, (0, keys), value, took, now)?;
                if done.is_none()
                    && let Some(sweep) = &mut self.sweep
                {
                    // They were not removed, so the step begins anew.
                    sweep.on_session(now);
                }
                Ok(())
            }
            CacheCall::Write(pos) => {
                let done = self.on_cleared(PlaceField::Pos, pos.id, (0, 0), value, took, now)?;
                if let (Some(_), Some(places)) = (done, &mut self.places) {
                    places.pos = pos;
                }
                Ok(())
            }
        }
    }

    /// Returns the cache's time if the call was carried out. Else the cursor is looked at next.
    fn on_cleared(
        &mut self,
        place: PlaceField,
        last: EntryId,
        (entries, keys): (usize, usize),
        value: &Value,
        took: Duration,
        now: Instant,
    ) -> Result<Option<u64>, SessionFailure> {
        let reply = cursor::on_cleared(self.calls.key(), value).map_err(SessionFailure::cache)?;
        let Some(session) = &mut self.session else { return Ok(None) };
        let ClearReply::Done { cleared, refused, written, kept, time, abandoned } = reply else {
            session.ready = false;
            if let Some(sweep) = &mut self.sweep {
                sweep.on_refused();
            }
            return Ok(None);
        };
        session.written = now;
        self.gaps_written.1 = self.gaps_written.1.max(self.gaps_written.0.take());
        if let Some(sweep) = &mut self.sweep {
            sweep.on_cursor(abandoned, now);
        }
        let keys = u64::try_from(keys).unwrap_or(u64::MAX);
        let done = Cleared { place, last, entries, keys, cleared, refused, written, kept, took };
        self.effects.push(Effect::Cleared(done));
        Ok(Some(time))
    }
}
