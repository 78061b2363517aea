//! The state's time: the gap of a restart begins there.

use std::time::Duration;

use crate::capture::engine::Engine;
use crate::capture::engine::writing::Ask;
use crate::position::Position;
use crate::rt::Moment;
use crate::server::resp;

/// Interval of renewing the state's time while nothing is appended. It dates the gap of a restart, which should not
/// begin at the last event of a quiet channel.
const TOUCH: Duration = Duration::from_secs(10);

impl Engine {
    /// Renews the state's time, which dates the gap of a restart. The time stands still while a gap is open, and while
    /// items or a gap's record wait to be stored.
    pub(super) fn touch(&mut self, now: Moment) {
        let watching = self.reading.watched_from().is_some()
            && self.holds_nothing()
            && self.chain.checkpoint().is_some();
        let due = now.at.saturating_duration_since(self.writing.touched) >= TOUCH;
        if watching && due && self.leadership.is_leader() {
            self.writing.touched = now.at;
            self.date_state(self.complete_unix_ms(now).unwrap_or(now.unix_ms), None, now);
        }
    }

    /// Everything was read and stored that was published before a stop: the gap of the restart begins then, and its
    /// record says that the restart was planned.
    pub(in crate::capture::engine) fn date_stop(&mut self, now: Moment) {
        if self.leadership.is_leader()
            && self.is_drained()
            && let Some(until) = self.reading.finished.take()
        {
            self.date_state(until, self.chain.checkpoint(), now);
        }
    }

    /// Writes the state's time, and the position at which a stop has ended.
    fn date_state(&mut self, unix_ms: u64, stopped: Option<Position>, now: Moment) {
        let at = unix_ms.to_string();
        let stopped = stopped.map(|position| position.to_string());
        let mut command: Vec<&[u8]> = vec![b"HSET", &self.settings.keys.state, b"at", at.as_bytes()];
        if let Some(stopped) = &stopped {
            command.extend([b"stopped".as_slice(), stopped.as_bytes()]);
        }
        let mut call = Vec::new();
        resp::command(&mut call, &command);
        self.ask(Ask::Note, now, &call);
    }
}
