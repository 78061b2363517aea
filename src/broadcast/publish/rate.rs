//! How fast a route may publish.
//!
//! Problem: a broadcast that catches up publishes as fast as two servers allow, and may flood subscribers that do some
//! work for each message.
//!
//! Operation: each message takes its share of time. The *next free moment* advances by that share with each message,
//! and may be up to a window ahead of the clock: the rest of the window limits what may be read. So no message is
//! buffered for the rate: reading waits. After a pause at most one window of messages is published at once.
//!
//! The clock is an argument of each call, so that tests can simulate it.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Rate;

/// Longest burst: short for an operator, who looks at seconds, and long against the time of a batch, so that a high
/// rate is reached.
const WINDOW: Duration = Duration::from_millis(100);

/// The pace of one session.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Time of one message; zero without a limit.
    share: Duration,
    window: Duration,
    /// Time is used up to here.
    free: Instant,
}

impl Pace {
    pub(crate) fn new(rate: Option<Rate>, now: Instant) -> Self {
        let share = rate.map_or(Duration::ZERO, |rate| rate.share());
        Self { share, window: WINDOW.max(share), free: now }
    }

    /// Number of messages that may be published now.
    pub(crate) fn messages(&self, now: Instant) -> usize {
        if self.share.is_zero() {
            return usize::MAX;
        }
        let until = now + self.window;
        let left = until.saturating_duration_since(self.free.max(now));
        usize::try_from(left.as_nanos() / self.share.as_nanos()).unwrap_or(usize::MAX)
    }

    /// Time at which half a window of messages, at least one, may be published.
    pub(crate) fn next(&self) -> Instant {
        let worth = (self.window / 2).max(self.share);
        self.free.checked_sub(self.window - worth).unwrap_or(self.free)
    }

    /// Uses the time of one message.
    pub(crate) fn take(&mut self, now: Instant) {
        self.free = self.free.max(now) + self.share;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(count: u32, per: Duration) -> Rate {
        Rate { count, per }
    }

    #[test]
    fn a_pause_saves_up_no_more_than_a_window() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(rate(1000, Duration::from_secs(1))), start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(pace.messages(later), 100);
        (0..100).for_each(|_| pace.take(later));
        assert_eq!(pace.messages(later), 0);
        assert_eq!(pace.next(), later + Duration::from_millis(50));
        assert_eq!(pace.messages(pace.next()), 50);
    }

    #[test]
    fn a_slow_rate_lets_one_through_and_then_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(rate(1, Duration::from_secs(3600))), start);
        assert_eq!(pace.messages(start), 1);
        pace.take(start);
        assert_eq!((pace.messages(start), pace.next()), (0, start + Duration::from_secs(3600)));
    }

    proptest! {
        /// However the moments fall, no stretch has more messages than the rate and one window allow.
        #[test]
        fn the_rate_holds_over_every_stretch(
            count in 1_u32..5_000,
            steps in proptest::collection::vec(0_u64..50_000_000, 1..200),
        ) {
            let rate = rate(count, Duration::from_secs(1));
            let start = Instant::now();
            let mut pace = Pace::new(Some(rate), start);
            let (mut now, mut sent) = (start, 0_u128);
            for step in steps {
                now += Duration::from_nanos(step);
                for _ in 0..pace.messages(now) {
                    pace.take(now);
                    sent += 1;
                }
                prop_assert_eq!(pace.messages(now), 0);
                prop_assert!(pace.next() > now && pace.messages(pace.next()) > 0);
                let allowed = (now - start + pace.window).as_nanos() / pace.share.as_nanos();
                prop_assert!(sent <= allowed, "{} of {}", sent, allowed);
            }
        }
    }
}
