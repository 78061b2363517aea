//! When a group is polled.
//!
//! Often while something changes and for a second after it, then less and less often. If commands in the replication
//! stream wake the route, polls are only a sign of life.

use std::time::Duration;

use tokio::time::Instant;

/// Interval after a poll that found a change.
const BUSY: Duration = Duration::from_millis(5);
/// Interval while acknowledgements come.
const ACTIVE: Duration = Duration::from_millis(10);
/// How long the schedule is active after a change.
const ACTIVE_FOR: Duration = Duration::from_secs(1);
/// Interval after a quiet time: each poll is three commands, and an idle route sends at most five a second.
const IDLE: Duration = Duration::from_millis(650);
/// Interval if polls are the only sign of life: without a group, or with a replication stream that wakes the route.
const SLOW: Duration = Duration::from_secs(1);
/// Interval of polls that a notification caused: the result of one is worth more than its cost.
const WOKEN: Duration = Duration::from_millis(1);

/// The intervals between polls.
#[derive(Debug)]
pub(crate) struct PollSchedule {
    due: Instant,
    active_until: Instant,
    interval: Duration,
    /// Woken since the last look was sent.
    woken: bool,
    /// True if it will be woken.
    replication: bool,
}

impl PollSchedule {
    /// Polls at once. `replication`: true if a notifier will wake the route.
    pub(crate) fn new(replication: bool, now: Instant) -> Self {
        Self { due: now, active_until: now, interval: ACTIVE, woken: false, replication }
    }

    /// When the next poll is due.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Returns whether something changed lately.
    pub(crate) fn is_active(&self, now: Instant) -> bool {
        now < self.active_until
    }

    /// Returns whether it will be woken.
    pub(crate) fn is_woken(&self) -> bool {
        self.replication
    }

    /// The group or its notifier changed; `up` if the notifier will announce the next change.
    pub(crate) fn wake(&mut self, up: bool, now: Instant) {
        (self.woken, self.replication) = (true, up);
        self.due = self.due.min(now);
    }

    /// Something has changed.
    pub(crate) fn on_change(&mut self, now: Instant) {
        self.active_until = now + ACTIVE_FOR;
        self.interval = ACTIVE;
    }

    /// A look was sent.
    pub(crate) fn on_asked(&mut self) {
        self.woken = false;
    }

    /// A look has found the same as the one before, or something else.
    pub(crate) fn on_state(&mut self, same: bool, now: Instant) {
        if !same {
            self.on_change(now);
        }
        let wait = match (self.replication, same) {
            (true, _) => SLOW,
            (false, false) => BUSY,
            (false, true) if self.is_active(now) => ACTIVE,
            (false, true) => {
                self.interval = (self.interval * 2).min(IDLE);
                self.interval
            }
        };
        self.due = now + if self.woken { WOKEN } else { wait };
    }

    /// Looks once a second, whatever comes.
    pub(crate) fn slow(&mut self, now: Instant) {
        self.due = now + SLOW;
    }

    /// Waits for XREAD, which answers within a second, before the next poll.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.due = now + ACTIVE_FOR + SLOW;
    }

    /// Schedules the next look at once: there is more to be done.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(now + BUSY);
    }

    /// Looks at once.
    pub(crate) fn now(&mut self, now: Instant) {
        self.due = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses before each of the next polls, if none finds anything new.
    fn waits(pace: &mut PollSchedule, now: &mut Instant, looks: usize) -> Vec<Duration> {
        let next = |_| {
            pace.on_asked();
            pace.on_state(true, *now);
            let wait = pace.due() - *now;
            *now = pace.due();
            wait
        };
        (0..looks).map(next).collect()
    }

    #[test]
    fn it_looks_often_for_a_second_after_a_change_and_then_seldom() {
        let mut now = Instant::now();
        let mut pace = PollSchedule::new(false, now);
        pace.on_state(false, now);
        assert_eq!(pace.due() - now, BUSY);
        let all = waits(&mut pace, &mut now, 120);
        assert!(all[..100].iter().all(|wait| *wait == ACTIVE), "{all:?}");
        assert!(all[100..].is_sorted() && all.last() == Some(&IDLE), "{all:?}");
        pace.on_state(false, now);
        assert_eq!(pace.due() - now, BUSY);
    }

    #[test]
    fn woken_it_looks_at_once_and_else_once_a_second() {
        let mut now = Instant::now();
        let mut pace = PollSchedule::new(true, now);
        assert!(waits(&mut pace, &mut now, 3).iter().all(|wait| *wait == SLOW));
        pace.on_state(false, now);
        pace.wake(true, now);
        assert_eq!(pace.due(), now);
        // Woken again while the look is under way.
        pace.on_asked();
        pace.wake(true, now);
        pace.on_state(false, now);
        assert_eq!(pace.due() - now, WOKEN);
        pace.wake(false, now);
        pace.on_asked();
        pace.on_state(true, now);
        assert_eq!(pace.due() - now, ACTIVE);
    }
}
