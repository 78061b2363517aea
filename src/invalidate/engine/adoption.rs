//! What a look at the cache's cursor leads to: continue there, put the cursor anew, or wait for another configuration.

use tokio::time::Instant;

use super::source::is_anew;
use super::{Counts, Effect, Engine, OUTDATED_WAITS, Places, Standing};
use crate::event::{InvalidateLoss, ReplayTrigger};
use crate::invalidate::cursor::place::Place;
use crate::invalidate::cursor::{Cursor, CursorLook};
use crate::invalidate::sweep::Clearing;
use crate::logs::LogCode;
use crate::stream::EntryId;
use crate::stream::counters::StreamCounters;

/// The content for a cursor that is set anew.
#[derive(Debug, Clone)]
pub(super) struct Adoption {
    pub(super) seen: (Vec<u8>, Vec<u8>),
    pub(super) places: Places,
    pub(super) began: u64,
    /// The last gap record that is known to have been acted upon.
    pub(super) gaps: Option<EntryId>,
    /// The clear that the cursor has.
    pub(super) clearing: Option<Clearing>,
    /// The stream, as it was then.
    pub(super) stream: Option<StreamCounters>,
    /// The counts that the cursor has.
    pub(super) counts: Option<Counts>,
    /// Why entries are applied once more; `None` where only the second pass begins.
    pub(super) trigger: Option<ReplayTrigger>,
    /// What may have been missed.
    pub(super) missed: Option<(InvalidateLoss, String)>,
}

/// What a look at the cursor leads to.
#[derive(Debug)]
enum Decision {
    Ready(Cursor),
    Adopt(Adoption),
    Outdated(Option<Instant>),
}

impl Engine {
    /// Decides on a look, or waits for the stream's counts where they matter. They must be newer than the look: else a
    /// place that another instance has moved meanwhile would lie beyond the stream's end.
    pub(super) fn on_look(&mut self, look: CursorLook, now: Instant) {
        let Some(session) = &mut self.session else { return };
        let ours = look.cursor.as_ref().is_some_and(|cursor| cursor.revision == self.calls.revision());
        if ours && session.checked {
            return self.decide(look, None, now);
        }
        session.look = Some(look);
        session.looked_at_stream = None;
    }

    /// The stream's counts came after a look that waits for them.
    pub(super) fn on_look_with(&mut self, facts: Option<StreamCounters>, now: Instant) {
        let Some(session) = &mut self.session else { return };
        let Some(look) = session.look.take() else { return };
        session.checked = true;
        self.decide(look, Some(facts), now);
    }

    /// `facts` are there where the stream was looked at too.
    fn decide(&mut self, look: CursorLook, facts: Option<Option<StreamCounters>>, now: Instant) {
        match self.decision(look, facts, now) {
            Decision::Ready(cursor) => self.on_ready(&cursor, facts, now),
            Decision::Adopt(adoption) => {
                if let Some(session) = &mut self.session {
                    session.adopting = Some(adoption);
                }
            }
            Decision::Outdated(missing) => {
                if !matches!(self.standing, Standing::Outdated(_)) {
                    let suppressed = self.admit(LogCode::Outdated.as_str(), now);
                    self.effects.push(Effect::Outdated(suppressed));
                }
                self.standing = Standing::Outdated(missing);
                if let Some(session) = &mut self.session {
                    session.checked = false;
                }
            }
        }
    }

    fn decision(
        &self,
        CursorLook { cursor, seen }: CursorLook,
        facts: Option<Option<StreamCounters>>,
        now: Instant,
    ) -> Decision {
        let stream = facts.flatten();
        // Without a cursor it is not known which gaps were acted upon, and for other keys none was.
        let ours = cursor.as_ref().filter(|cursor| cursor.revision == self.calls.revision());
        let acted = ours.map_or(Some(EntryId::default()), |cursor| cursor.gaps);
        // A configuration that begins to work is the newest.
        let now_ms = self.again_clock.map_or(0, |clock| clock.time);
        let began = match (self.standing, &cursor) {
            (Standing::New, Some(cursor)) if ours.is_none() => now_ms.max(cursor.began + 1),
            (Standing::New, None) => now_ms,
            (Standing::New, Some(cursor)) => cursor.began,
            (Standing::Ours | Standing::Outdated(_), _) => self.began,
        };
        let clearing = cursor.as_ref().map(|cursor| cursor.clearing);
        let counts = cursor.as_ref().map(|cursor| cursor.counts);
        let begin = |trigger, missed| {
            let counted = Some(stream.map_or(0, |stream| stream.removed()));
            let pos = Place::beginning(counted);
            let places = Places { pos, again: self.settings.again_after.map(|_| pos) };
            let (seen, trigger) = (seen.clone(), Some(trigger));
            let gaps = acted;
            Decision::Adopt(Adoption { seen, places, began, gaps, clearing, stream, counts, trigger, missed })
        };
        let begins_late = || {
            let removed = stream.map(|stream| stream.removed()).filter(|removed| *removed > 0)?;
            let detail =
                format!("the stream begins late: {removed} of its entries were trimmed or deleted before");
            Some((InvalidateLoss::BeginsLate, detail))
        };
        // The cache went back: to no cursor, or to that of a configuration from before ours.
        let is_old = |cursor: &Cursor| ours.is_none() && cursor.began < self.began;
        if cursor.as_ref().is_none_or(is_old) {
            let is_there = cursor.is_some();
            return match self.standing {
                Standing::Outdated(None) => Decision::Outdated(Some(now)),
                Standing::Outdated(Some(since)) if now < since + OUTDATED_WAITS => {
                    Decision::Outdated(Some(since))
                }
                _ if is_there => begin(ReplayTrigger::WentBack, begins_late()),
                _ => begin(ReplayTrigger::NoCursor, begins_late()),
            };
        }
        let Some(cursor) = cursor else { return Decision::Outdated(None) };
        if cursor.revision != self.calls.revision() {
            let other_stream = || {
                let detail = format!(
                    "the stream '{}' is not the one of the cursor: it was begun anew, or the configuration named another one",
                    self.settings.stream
                );
                is_anew(stream.as_ref(), None, cursor.pos).then_some((InvalidateLoss::StreamAnew, detail))
            };
            return match self.standing {
                Standing::New => begin(ReplayTrigger::Revision, begins_late().or_else(other_stream)),
                Standing::Ours | Standing::Outdated(_) => Decision::Outdated(None),
            };
        }
        if let Some(facts) = facts
            && is_anew(facts.as_ref(), self.seen.as_ref(), cursor.pos)
        {
            let stream = &self.settings.stream;
            let detail = format!(
                "the stream '{stream}' was deleted or begun anew, or went back behind {}: what it had after that is unknown",
                cursor.pos.id
            );
            return begin(ReplayTrigger::StreamAnew, Some((InvalidateLoss::StreamAnew, detail)));
        }
        if self.settings.again_after.is_some() && cursor.again.is_none() {
            // What was cleared while there was no second pass gets none.
            let places = Places { pos: cursor.pos, again: Some(cursor.pos) };
            let (trigger, missed) = (None, None);
            let gaps = cursor.gaps;
            return Decision::Adopt(Adoption {
                seen,
                places,
                began,
                gaps,
                clearing,
                stream,
                counts,
                trigger,
                missed,
            });
        }
        Decision::Ready(cursor)
    }
}
