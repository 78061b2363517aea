//! A server that is away fails several times a second; an operator needs to read that twice a minute.

use std::time::{Duration, Instant};

/// Long enough to keep a log readable through a night's outage, short enough that a look at the last
/// minute shows what is wrong.
const EVERY: Duration = Duration::from_secs(30);

/// Lets one line in 30 s through for each code and counts the others. A loop owns its own, so that
/// there is no lock, and two routes do not silence each other. Codes are `event=` codes, so their
/// number is bounded by the source text, as is that of the parts of a loop that share a code.
#[derive(Debug, Default)]
pub struct Limited {
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    code: &'static str,
    /// The part of the loop; empty if the code has only one.
    part: &'static str,
    last: Instant,
    suppressed: u64,
}

impl Limited {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to write the line now: `Some` with the number of lines held back since the last one.
    #[must_use]
    pub fn admit(&mut self, code: &'static str, now: Instant) -> Option<u64> {
        self.admit_of(code, "", now)
    }

    /// As [`Self::admit`], for each part of the loop alone: an outage of one server must not silence that of another.
    #[must_use]
    pub fn admit_of(&mut self, code: &'static str, part: &'static str, now: Instant) -> Option<u64> {
        let same = |seen: &&mut Seen| seen.code == code && seen.part == part;
        let Some(seen) = self.seen.iter_mut().find(same) else {
            self.seen.push(Seen { code, part, last: now, suppressed: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(seen.last) < EVERY {
            seen.suppressed += 1;
            return None;
        }
        seen.last = now;
        Some(std::mem::take(&mut seen.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_thirty_seconds_and_the_others_are_counted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut limited = Limited::new();
        assert_eq!(limited.admit("away", at(0)), Some(0));
        assert_eq!(limited.admit("away", at(1)), None);
        assert_eq!(limited.admit("blocked", at(1)), Some(0), "another code is not held back");
        assert_eq!(limited.admit_of("away", "source", at(1)), Some(0), "nor is another part");
        assert_eq!(limited.admit_of("away", "destination", at(2)), Some(0));
        assert_eq!(limited.admit_of("away", "source", at(30)), None);
        assert_eq!(limited.admit_of("away", "source", at(31)), Some(1));
        assert_eq!(limited.admit("away", at(29)), None);
        assert_eq!(limited.admit("away", at(30)), Some(2));
        assert_eq!(limited.admit("away", at(31)), None);
        assert_eq!(limited.admit("away", at(61)), Some(1));
        assert_eq!(limited.admit("away", at(61)), None);
    }
}
