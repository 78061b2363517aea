//! The speed of a replay: when each entry is due.

use std::time::Duration;

use tokio::time::Instant;

use crate::broadcast::publish::rate::Pace;
use crate::config::Rate;

/// The speed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tempo {
    /// As fast as the servers allow.
    Unlimited,
    /// A number of messages in a time, as a broadcast's `rate_limit`.
    Rate(Rate),
    /// With the distances of time between the entries divided by this; above 0.
    Speed(f64),
}

/// In place of a moment that no clock reaches.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A tempo under way.
#[derive(Debug)]
pub(super) enum Clock {
    Unlimited,
    Rate(Pace),
    /// The factor, the start, and the first entry's milliseconds.
    Speed(f64, Option<(Instant, u64)>),
}

impl Clock {
    pub(super) fn new(tempo: Tempo) -> Self {
        match tempo {
            Tempo::Unlimited => Self::Unlimited,
            Tempo::Rate(rate) => Self::Rate(Pace::new(Some(rate), Instant::now())),
            Tempo::Speed(speed) => Self::Speed(speed, None),
        }
    }

    /// When the next entry, whose id has these milliseconds, may be published.
    pub(super) fn due(&mut self, milliseconds: u64, now: Instant) -> Instant {
        match self {
            Self::Unlimited => now,
            Self::Rate(pace) if pace.messages(now) > 0 => now,
            Self::Rate(pace) => pace.next(),
            Self::Speed(speed, began) => {
                let (start, first) = *began.get_or_insert((now, milliseconds));
                let distance = Duration::from_millis(milliseconds.saturating_sub(first)).as_secs_f64();
                start + Duration::try_from_secs_f64(distance / *speed).unwrap_or(FAR).min(FAR)
            }
        }
    }

    /// A message goes out.
    pub(super) fn take(&mut self, now: Instant) {
        if let Self::Rate(pace) = self {
            pace.take(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_rate_makes_the_entries_wait_that_are_too_many() {
        let mut clock = Clock::new(Tempo::Rate(Rate { count: 1000, per: ms(1000) }));
        let start = Instant::now() + ms(1);
        let mut at_once = 0;
        while clock.due(0, start) == start {
            clock.take(start);
            at_once += 1;
        }
        assert_eq!(at_once, 100);
        let due = clock.due(0, start);
        assert!(due > start);
        assert_eq!(clock.due(0, due), due);
    }

    #[test]
    fn a_speed_divides_the_distances() {
        let start = Instant::now();
        let mut clock = Clock::new(Tempo::Speed(10.0));
        assert_eq!(clock.due(5_000, start), start);
        assert_eq!(clock.due(5_000, start), start);
        assert_eq!(clock.due(15_000, start + ms(3)), start + ms(1_000));
        assert_eq!(clock.due(4_000, start), start, "ids that go back are due at once");
        let mut slow = Clock::new(Tempo::Speed(f64::MIN_POSITIVE));
        slow.due(0, start);
        assert_eq!(slow.due(3_600_000, start), start + FAR);
    }
}
