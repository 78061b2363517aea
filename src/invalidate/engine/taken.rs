//! Work continues at the places of a cursor: one that was found, or one that this instance adopted.

use tokio::time::Instant;

use super::adoption::Adoption;
use super::{Effect, Engine, Places, Standing};
use crate::event::ReplayTrigger;
use crate::invalidate::cursor::Cursor;
use crate::invalidate::second_pass::Marks;
use crate::invalidate::sweep::Clearing;
use crate::logs::LogCode;
use crate::stream::counters::StreamCounters;

impl Engine {
    /// The cursor is ours.
    pub(super) fn on_ready(&mut self, cursor: &Cursor, facts: Option<Option<StreamCounters>>, now: Instant) {
        let again = cursor.again.filter(|_| self.settings.again_after.is_some());
        let found = Places { pos: cursor.pos, again };
        if self.places.is_some_and(|believed| found.pos.id < believed.pos.id) {
            let suppressed = self.admit(ReplayTrigger::WentBack.as_str(), now);
            let (trigger, from) = (ReplayTrigger::WentBack, found.pos.id);
            self.effects.push(Effect::Replay { trigger, from, suppressed });
            self.held.on_went_back(found.pos, again.unwrap_or_default());
        }
        self.marks.0 = cursor.marks.clone();
        self.began = cursor.began;
        if cursor.gaps < self.gaps_written.1 {
            // The cache went back, and what was removed for the gaps since then is there again.
            self.gaps.0 = cursor.gaps;
        }
        self.gaps_written.1 = cursor.gaps;
        // Another instance may have seen more, and a call that had ours may have been refused.
        self.gaps = (self.gaps.0.max(cursor.gaps), self.gaps.0 > cursor.gaps);
        self.missed = self.missed.max(cursor.pos.missed().unwrap_or(0));
        self.take_over(Some(cursor.clearing), now);
        self.effects.push(Effect::Counts(cursor.counts));
        if let Some(session) = &mut self.session {
            session.fresh = true;
        }
        if let Some(facts) = facts {
            self.seen = facts;
        }
        self.work(found, now);
    }

    /// At the begin of a session, the sweep continues a clear that the cursor names.
    pub(super) fn take_over(&mut self, clearing: Option<Clearing>, now: Instant) {
        let begins = self.session.as_ref().is_some_and(|session| !session.live);
        if let (Some(sweep), Some(clearing), true) = (&mut self.sweep, clearing, begins) {
            sweep.on_cursor(clearing, now);
        }
    }

    pub(super) fn on_adopted(&mut self, adoption: Adoption, now: Instant) {
        let Adoption { places, began, gaps, clearing, stream, trigger, .. } = adoption;
        if let Some(counts) = adoption.counts {
            self.effects.push(Effect::Counts(counts));
        }
        self.take_over(clearing, now);
        self.marks.0 = Marks::default();
        self.began = began;
        (self.gaps, self.gaps_written.1) = ((gaps, false), gaps);
        if let Some(trigger) = trigger {
            let suppressed = self.admit(trigger.as_str(), now);
            self.effects.push(Effect::Replay { trigger, from: places.pos.id, suppressed });
            if trigger == ReplayTrigger::StreamAnew {
                self.held.on_stream_anew();
            } else {
                self.held.on_went_back(places.pos, places.again.unwrap_or_default());
            }
            // What was seen before may be another stream.
            self.seen = stream;
            self.missed = places.pos.missed().unwrap_or(0);
        }
        self.work(places, now);
    }

    /// Takes in what an adoption gives up. Afterwards the cursor says nothing of it any more, and a process may end
    /// before it has the answer. Of two instances both clear: either may end.
    pub(super) fn report_before(&mut self, adoption: &Adoption, now: Instant) {
        if let Some((loss, detail)) = &adoption.missed
            && !std::mem::replace(&mut self.reported, true)
        {
            self.miss(*loss, detail.clone(), now);
        }
    }

    /// Continues at these places of the cursor.
    pub(super) fn work(&mut self, places: Places, now: Instant) {
        self.places = Some(places);
        self.standing = Standing::Ours;
        self.reported = false;
        self.backoff.reset();
        if let Some(again) = places.again {
            self.held.on_place(again);
            let lost = again.lacks(places.pos).filter(|lost| again.id == places.pos.id && *lost > 0);
            if let Some(lost) = lost
                && !self.held.has_lost_at(again)
            {
                // Another process has found nothing more to clear once more, and had not said so yet.
                self.held.lose(places.pos, lost, now + self.held.after());
            }
            self.marks.0.forget(again.id);
            if again.id < places.pos.id
                && self.marks.0.time_of(places.pos.id).is_none()
                && let Some(clock) = self.again_clock
            {
                self.marks.0.add(places.pos.id, clock.time, clock.after);
                self.marks.1 = true;
            }
        }
        let lacks_mark = self.marks.1;
        let Some(session) = &mut self.session else { return };
        session.ready = true;
        session.marks_at_once = lacks_mark;
        session.read_from(places.pos);
        self.effects.push(Effect::Place(places.pos.id, places.again.map(|again| again.id)));
        let begins = !std::mem::replace(&mut session.live, true);
        if begins {
            let suppressed = self.admit(LogCode::InvalidateLive.as_str(), now);
            self.effects.push(Effect::Live(places.pos.id, suppressed));
        }
    }
}
