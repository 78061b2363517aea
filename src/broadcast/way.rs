//! The way out of a session: who publishes, and how fast.

use tokio::time::Instant;

use super::publisher::{Id, Publisher};
use super::rate::Pace;
use super::render::Rendered;

/// What an entry goes through once it is to be published.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) publisher: &'a mut Publisher,
    pub(super) pace: &'a mut Pace,
}

impl Way<'_> {
    /// How many of `most` entries may be published at once.
    pub(super) fn leave(&self, most: usize) -> usize {
        if self.publisher.is_careful() { most.min(1) } else { most }
    }

    /// Publishes an entry, or notes why it is not published.
    pub(super) fn publish(&mut self, id: Id<'_>, rendered: Rendered<'_>, now: Instant) {
        match rendered {
            Ok((channel, message)) => {
                self.pace.take(now);
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
                self.publisher.release(id, channel, message, now);
            }
            Err(why) => self.publisher.release_withheld(id, why),
        }
    }
}
