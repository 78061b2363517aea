//! The group does not exist: nothing is acknowledged, so nothing is released until somebody makes it.

use tokio::time::Instant;

use super::{Follower, GroupEvent};
use crate::broadcast::publish::publisher::Publisher;

impl Follower {
    /// Takes in that a poll found no group, and polls seldom from now on. Returns the event for an operator, once.
    pub(super) fn on_no_group(&mut self, publisher: &Publisher, now: Instant) -> Option<GroupEvent> {
        // Entries read were not acknowledged, and a group that is made again gets them again. Holes stay.
        if self.max_ack_pending.is_none() {
            self.forget(publisher.end());
            self.watch.on_moved((publisher.end(), publisher.cursor_count()));
        }
        self.read = publisher.end();
        self.state = None;
        self.tail = None;
        self.schedule.slow(now);
        let is_news = !std::mem::replace(&mut self.missing, true);
        is_news.then_some(GroupEvent::NoGroup)
    }
}
