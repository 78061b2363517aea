//! Spawning and time: the only callers of `tokio::spawn` and `SystemTime::now`.
//!
//! Panics: a panic in any task or thread logs where it happened and aborts the process
//! (`panic = "abort"`, see Cargo.toml). The service manager starts it again, and the
//! compare-and-set on the destination makes that harmless; a half-dead daemon is not.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::status::Slot;

/// Interval at which a waiting route reports that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// Starts a task. The name shows in logs where the task ends a process.
#[allow(clippy::disallowed_methods, reason = "this is the door")]
pub fn spawn<F>(name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tracing::trace!(task = name, "spawn");
    tokio::spawn(future)
}

/// Starts a task among others, and gives what aborts it. Its end shows in [`JoinSet::join_next_with_id`].
pub fn spawn_in<F>(tasks: &mut JoinSet<()>, name: &'static str, future: F) -> AbortHandle
where
    F: Future<Output = ()> + Send + 'static,
{
    tracing::trace!(task = name, "spawn");
    tasks.spawn(future)
}

/// Runs what blocks, such as reading files, on a thread for that. `name` shows in traces only.
///
/// # Errors
/// What `work` returns; a panic in it ends the process, as everywhere.
#[allow(clippy::disallowed_methods, reason = "this is the door")]
pub async fn blocking<T, E, F>(name: &'static str, work: F) -> Result<T, E>
where
    F: FnOnce() -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    tracing::trace!(task = name, "spawn");
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Only when the runtime ends, and this future with it.
        Err(_) => std::future::pending().await,
    }
}

/// Waits for `future`, and reports meanwhile on the board that the route's loop is alive. Cancel safe where `future` is.
pub(crate) async fn living<F: Future>(slot: &Slot, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        slot.progressed(unix_ms());
        tokio::select! {
            output = &mut future => return output,
            () = sleep(SIGN_OF_LIFE) => {}
        }
    }
}

/// One moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// By a clock that never goes back: for every order and every wait.
    pub at: Instant,
    /// By the system's clock, in milliseconds since 1970: for people and records.
    pub unix_ms: u64,
}

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self { at: Instant::now(), unix_ms: unix_ms() }
    }

    /// An earlier instant as milliseconds since 1970, by the system's present clock. Rounded down: a gap must not begin too
    /// late.
    pub(crate) fn unix_ms_of(&self, earlier: Instant) -> u64 {
        let ago = self.at.saturating_duration_since(earlier).as_micros().div_ceil(1_000);
        self.unix_ms.saturating_sub(u64::try_from(ago).unwrap_or_default())
    }
}

/// Milliseconds since 1970 by the system's clock: for people and records, never for order.
#[allow(clippy::disallowed_methods, reason = "this is the door")]
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment for an operator: RFC 3339 in UTC, with milliseconds. An entry's id may hold any number.
#[must_use]
pub fn rfc3339(unix_ms: u64) -> String {
    // 9999-12-31T23:59:59.999Z: the last one that can be written so.
    if unix_ms > 253_402_300_799_999 {
        return "after the year 9999".to_owned();
    }
    let moment = UNIX_EPOCH + Duration::from_millis(unix_ms);
    humantime::format_rfc3339_millis(moment).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_is_a_moment_for_a_person() {
        assert_eq!(rfc3339(1_250), "1970-01-01T00:00:01.250Z");
        assert_eq!(rfc3339(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(u64::MAX), "after the year 9999");
    }
}
