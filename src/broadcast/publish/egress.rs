//! The way out of a session: whether it publishes, at what rate, and through which publisher.

use tokio::time::Instant;

use super::publisher::{Id, Publisher};
use super::rate::Pace;
use crate::broadcast::message::render::Rendered;

/// The path of an entry that is to be published.
#[derive(Debug)]
pub(crate) struct Egress<'a> {
    pub(crate) publisher: &'a mut Publisher,
    pub(crate) pace: &'a mut Pace,
    /// True if this instance publishes; otherwise another one does.
    pub(crate) leads: bool,
}

impl Egress<'_> {
    /// Number of entries, up to `most`, that may be published at once.
    pub(crate) fn budget(&self, most: usize) -> usize {
        match (self.leads, self.publisher.is_careful()) {
            (false, _) => 0,
            (true, true) => most.min(1),
            (true, false) => most,
        }
    }

    /// Publishes an entry, or notes why it is not published.
    pub(crate) fn publish(&mut self, id: Id<'_>, rendered: Rendered<'_>, now: Instant) {
        match rendered {
            Ok((channel, message)) => {
                self.pace.take(now);
                self.publisher.publish(id, channel, message, now);
            }
            Err(why) => self.publisher.withhold(id, why, now),
        }
    }

    /// Publishes an entry that was left behind as a hole.
    pub(crate) fn release(&mut self, id: Id<'_>, rendered: Rendered<'_>, now: Instant) {
        match rendered {
            Ok((channel, message)) => {
                self.pace.take(now);
                self.publisher.release(id, channel, message, now);
            }
            Err(why) => self.publisher.release_withheld(id, why),
        }
    }
}
