//! A message that is larger than the destination's memory.
//!
//! A full server and one whose `maxmemory` is too small for the message refuse a call with the same error, `OOM`. The
//! first one is waited for. The second one refuses for ever, and no trimming helps: the route is blocked, and names the
//! message. So the server is asked for its limit after such a refusal, before the error is reported. A batch that is too
//! large is sent again in halves first, so that only a message that is too large by itself is named. Nothing is dropped:
//! the message is stored once an operator raises the limit.

use super::stumbling::{LATER_ONES, described};
use super::{ASK_DEADLINE, Ask, DestinationLink};
use crate::capture::batch::Batch;
use crate::capture::engine::Engine;
use crate::rt::Moment;
use crate::server::Error;
use crate::server::resp::{self, Value};

/// How many times the size of a message a server needs while it reads the call: its buffers count as used memory. Empty
/// servers took 1/2.0 (Valkey 9.1) to 1/3.5 (Redis 8.2) of what they had. A full server that is taken for one that is
/// too small does no harm: the route tries again.
const NEEDED: u64 = 4;

/// The server's limit, as INFO reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MaxMemory {
    /// `maxmemory` in bytes.
    limit: u64,
    /// What the server needs without any data.
    own: u64,
}

impl MaxMemory {
    /// Reads INFO's text. `None` for a server without a limit, or if it does not report one.
    fn of(info: &str) -> Option<Self> {
        let number = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.trim().parse::<u64>().ok()
        };
        let limit = number("maxmemory").filter(|limit| *limit > 0)?;
        Some(Self { limit, own: number("used_memory_startup").unwrap_or(0) })
    }

    /// The error to report instead of `error`, if a server without any data may refuse this batch too.
    fn blames(&self, batch: &Batch, error: &Error) -> Option<Error> {
        let bytes = u64::try_from(batch.body_bytes()).unwrap_or(u64::MAX);
        (bytes.saturating_mul(NEEDED).saturating_add(self.own) >= self.limit).then(|| {
            Error::Refused(format!(
                "the destination has no room for {}, and may not have it without any data either: its maxmemory is {} \
                 bytes, and a server needs up to {NEEDED} times the size of a message while it reads it: {error} Raise \
                 maxmemory there, and tidegate continues; {LATER_ONES}",
                described(batch),
                self.limit,
            ))
        })
    }
}

impl Engine {
    /// The destination has no room for a batch: asks whether it ever can have.
    pub(super) fn ask_memory(&mut self, error: Error, now: Moment) {
        let DestinationLink::Up(up) = &mut self.writing.link else { return };
        up.paused_until = Some(now.at + ASK_DEADLINE);
        up.out_of_memory = Some(error);
        up.short_of_memory = true;
        let mut call = Vec::new();
        resp::command(&mut call, &[b"INFO", b"memory"]);
        self.ask(Ask::Memory, now, &call);
    }

    pub(super) fn on_memory(&mut self, reply: &Value, now: Moment) {
        let DestinationLink::Up(up) = &mut self.writing.link else { return };
        let Some(error) = up.out_of_memory.take() else { return };
        up.paused_until = None;
        // Without an answer it counts as a full server.
        let limit = MaxMemory::of(&String::from_utf8_lossy(reply.bytes().unwrap_or_default()));
        let blamed = limit.zip(self.chain.front()).and_then(|(limit, batch)| limit.blames(batch, &error));
        if blamed.is_some() && self.chain.halve_front() {
            return;
        }
        self.wait(blamed.as_ref().unwrap_or(&error), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limit_that_is_reported_is_one() {
        let read = |limit, own| Some(MaxMemory { limit, own });
        let info = "# Memory\r\nused_memory_startup:900\r\nmaxmemory:4000\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(MaxMemory::of(info), read(4000, 900));
        assert_eq!(MaxMemory::of("maxmemory:4000"), read(4000, 0));
        for none in ["", "maxmemory:0\r\n", "maxmemory_human:3B\r\n", "maxmemory:x\r\n"] {
            assert_eq!(MaxMemory::of(none), None, "{none}");
        }
    }
}
