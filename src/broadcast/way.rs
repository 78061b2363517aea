//! The way out of a session: who publishes, how fast, and who watches whether it comes back.

use tokio::time::Instant;

use super::guard::{Guard, Leave};
use super::publisher::{Id, Publisher};
use super::rate::Pace;
use super::render::Rendered;

/// What an entry goes through once it is to be published.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) publisher: &'a mut Publisher,
    pub(super) pace: &'a mut Pace,
    pub(super) guard: &'a mut Guard,
}

impl Way<'_> {
    /// Whether everything that comes may be published.
    pub(super) fn is_free(&self) -> bool {
        self.guard.leave() == Leave::All
    }

    /// How many of `most` entries may be published at once.
    pub(super) fn leave(&self, most: usize) -> usize {
        match self.guard.leave() {
            Leave::All if !self.publisher.is_careful() => most,
            Leave::All | Leave::One => most.min(1),
            Leave::Nothing => 0,
        }
    }

    /// Publishes an entry, or notes why it is not published.
    pub(super) fn publish(&mut self, id: Id<'_>, rendered: Rendered<'_>, now: Instant) {
        match rendered {
            Ok((channel, message)) => {
                self.pace.take(now);
                self.guard.published(message);
                self.publisher.publish(id, channel, message, now);
            }
            Err(why) => self.publisher.withhold(id, why, now),
        }
    }

    /// The same for a hole.
    pub(super) fn release(&mut self, id: Id<'_>, rendered: Rendered<'_>, now: Instant) {
        match rendered {
            Ok((channel, message)) => {
                self.pace.take(now);
                self.guard.published(message);
                self.publisher.release(id, channel, message, now);
            }
            Err(why) => self.publisher.release_withheld(id, why),
        }
    }
}
