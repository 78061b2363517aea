//! Waiting for a condition under a deadline: the only place of the tests that sleeps.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Asks until the answer is `Ok`, and fails with the last `Err` once `within` has passed.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(now) if Instant::now() >= deadline => {
                panic!("not within {within:?}: {what}\n  last seen: {now}")
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Waits until `seen` equals `expected`.
#[track_caller]
pub(crate) fn assert_eventually<T: PartialEq + std::fmt::Debug>(
    what: &str,
    within: Duration,
    expected: T,
    mut seen: impl FnMut() -> T,
) {
    eventually(what, within, || {
        let now = seen();
        if now == expected { Ok(()) } else { Err(format!("{now:?}, not {expected:?}")) }
    });
}
