//! The filter of a route, its `where`: which messages are captured.
//!
//! Problem: of a busy channel a route may want a few messages, told by the channel or by what the
//! payload says. The others are left out, and counted as filtered, before anything is made of them.
//!
//! Constraints: this runs once a message on the hot path. Channel conditions are tested first and
//! never read the payload; the payload is read at most once, without building what no condition looks
//! at; nothing is allocated a message. Payloads are any bytes.
//!
//! Operation: the conditions' pointers are one tree, and what the payload holds is looked at along it.
//!
//! ```text
//! where  /kind equals "order"     tree  ┬ kind ─────── test 0
//!        /customer/id exists            └ customer ┬ id ── test 1
//!        /customer/tags/0 prefix "x"               └ tags ─ 0 ── test 2
//! ```
//!
//! Of a member that is named twice the last counts, as most readers of JSON have it.
//!
//! Failure: a payload that is not JSON has no values: `exists = false` holds, everything else does
//! not. A payload over `max_message_size` is not all here, so no condition is tested: it goes on, and
//! becomes the dead letter that says so.

mod condition;
mod look;

use crate::config::{Condition, Subject};
use crate::server::resp::Message;

use condition::Test;
use look::Payload;

/// Which messages of a route are captured.
#[derive(Debug)]
pub(super) struct Filter {
    channel: Vec<Test>,
    payload: Option<Payload>,
    max_message_bytes: u64,
}

impl Filter {
    /// The filter that these conditions make.
    pub(super) fn new(conditions: &[Condition], max_message_bytes: u64) -> Self {
        let mut channel = Vec::new();
        let mut payload = Payload::default();
        for condition in conditions {
            let test = Test::new(&condition.test);
            match &condition.subject {
                Subject::Channel => channel.push(test),
                Subject::Payload(pointer) => payload.add(pointer, test),
            }
        }
        Self { channel, payload: Some(payload).filter(|payload| !payload.is_empty()), max_message_bytes }
    }

    /// Whether a message is captured. `size` is the payload's whole length in bytes: of a message over
    /// the limit only the beginning was kept.
    pub(super) fn passes(&mut self, message: &Message<'_>, size: usize) -> bool {
        if self.channel.is_empty() && self.payload.is_none() {
            return true;
        }
        if u64::try_from(size).unwrap_or(u64::MAX) > self.max_message_bytes {
            return true;
        }
        self.channel.iter().all(|test| test.holds_for_text(message.channel))
            && self.payload.as_mut().is_none_or(|payload| payload.all_hold(message.payload))
    }
}

#[cfg(test)]
mod tests;
