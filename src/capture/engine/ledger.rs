//! The ledgers of a capture: counts of its events by outcome.
//!
//! Everything is counted where it happens, and no count is the difference of others: received messages when they are
//! read, their outcomes when these are known, buffered messages where they are. That they add up is then a statement,
//! and tests check it.
//!
//! There are two. The *process's* counts the messages that this process has received since it started: each message of
//! the source once, even if another instance stored it (`deduplicated`). The *route's* counts the messages that all
//! instances have stored since the state was made. It is kept in the state, in the same step as the entries, and this
//! process adds its buffered messages. There each message counts once, whichever instance received it.

use super::chain::Passed;
use crate::capture::append::call::Stored;
use crate::event::DropReason;
use crate::position::Position;
use crate::status::{self, Buffered};

/// The counts of this process, and of the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct EngineLedger {
    received: u64,
    deduplicated: u64,
    /// By reason.
    dropped: [u64; DropReason::ALL.len()],
    last_gap_unix_ms: Option<u64>,
    stored: Sums,
    /// The state's ledger when it was last read.
    state: status::Ledger,
    /// The checkpoint at that time.
    as_of: Option<Position>,
    /// The messages that this process had stored at that time.
    then: Sums,
}

/// The counts of this process that the state's ledger has as well.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    appended: u64,
    filtered: u64,
    rejected: u64,
    gaps: u64,
    /// Given up, and recorded in a gap; by reason.
    recorded: [u64; DropReason::ALL.len()],
}

impl EngineLedger {
    /// Read from the source, or taken over from an earlier process or route.
    pub(crate) fn received(&mut self, events: u64) {
        self.received += events;
    }

    /// Done by a call of the script.
    pub(crate) fn stored(&mut self, stored: &Stored) {
        self.stored.appended += stored.appended;
        self.stored.filtered += stored.filtered;
        self.stored.rejected += stored.rejected;
    }

    /// Found stored already, by an earlier call or by another instance.
    pub(crate) fn deduplicated(&mut self, events: u64) {
        self.deduplicated += events;
    }

    /// Given up.
    pub(crate) fn dropped(&mut self, reason: DropReason, events: u64) {
        self.dropped[reason as usize] += events;
    }

    /// The script has recorded a gap with this many messages that were given up.
    pub(crate) fn recorded(&mut self, reason: DropReason, dropped: u64) {
        self.stored.recorded[reason as usize] += dropped;
    }

    /// The script has recorded a gap that ended then.
    pub(crate) fn gap(&mut self, ended_unix_ms: u64) {
        self.stored.gaps += 1;
        self.last_gap_unix_ms = Some(ended_unix_ms);
    }

    /// Found to have been dealt with while nothing was sent.
    pub(crate) fn passed(&mut self, passed: Passed) {
        self.deduplicated += passed.deduplicated;
        self.dropped(DropReason::Stale, passed.stale);
        self.dropped(DropReason::SpoolCorrupt, passed.corrupt);
        self.rewound(passed.rewound);
    }

    /// Buffered again: the state forgot stored events, which count as received a second time.
    pub(crate) fn rewound(&mut self, events: u64) {
        self.received += events;
    }

    /// Takes in the state's ledger, as it is after everything that this process knows to be stored.
    pub(crate) fn found(&mut self, state: &status::Ledger, position: Option<Position>) {
        self.state.clone_from(state);
        self.as_of = position;
        self.then = self.stored;
    }

    /// The position up to which the state's ledger has counted.
    pub(crate) fn as_of(&self) -> Option<Position> {
        self.as_of
    }

    /// The counts of all instances, and of the messages buffered here that the state's ledger has not counted.
    pub(crate) fn route(&self, held: Buffered) -> status::Ledger {
        let [appended, filtered, rejected] = [
            self.stored.appended - self.then.appended,
            self.stored.filtered - self.then.filtered,
            self.stored.rejected - self.then.rejected,
        ];
        let mut ledger = self.state.clone();
        ledger.received += appended + filtered + rejected + held.total();
        for reason in DropReason::ALL {
            let since = self.stored.recorded[reason as usize] - self.then.recorded[reason as usize];
            ledger.received += since;
            add_dropped(&mut ledger, reason, since);
        }
        ledger.stored += appended;
        ledger.filtered += filtered;
        ledger.rejected += rejected;
        ledger.gaps += self.stored.gaps - self.then.gaps;
        if self.stored.gaps > self.then.gaps {
            ledger.last_gap_unix_ms = self.last_gap_unix_ms;
        }
        ledger.buffered = held.total();
        ledger.buffered_in = held;
        ledger
    }

    /// The counts of this process.
    pub(crate) fn process(&self, held: Buffered) -> status::Ledger {
        let mut ledger = status::Ledger {
            received: self.received,
            stored: self.stored.appended,
            deduplicated: self.deduplicated,
            filtered: self.stored.filtered,
            rejected: self.stored.rejected,
            buffered: held.total(),
            buffered_in: held,
            gaps: self.stored.gaps,
            last_gap_unix_ms: self.last_gap_unix_ms,
            ..status::Ledger::default()
        };
        for reason in DropReason::ALL {
            add_dropped(&mut ledger, reason, self.dropped[reason as usize]);
        }
        ledger
    }
}

fn add_dropped(ledger: &mut status::Ledger, reason: DropReason, events: u64) {
    if events > 0 {
        *ledger.dropped.entry(reason.as_str().to_owned()).or_default() += events;
    }
}
