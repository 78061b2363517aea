//! The pause before the next attempt.

use std::time::Duration;

/// The first wait: short, since most breaks are blinks.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait: a server that comes back is found within this and its jitter.
const LONGEST: Duration = Duration::from_secs(5);

/// Jittered exponential backoff that never gives up: each wait is between half and all of a span that
/// doubles from 50 ms to 5 s. The jitter keeps routes that lost one server from returning together.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure.
    pub fn next_wait(&mut self) -> Duration {
        let span = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        span.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Number of failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Resets the count after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(waits[8..].iter().all(|wait| *wait >= LONGEST / 2 && *wait <= LONGEST));
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST);
    }
}
