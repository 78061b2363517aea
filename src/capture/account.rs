//! The ledger of a capture: where the events went.
//!
//! Everything is counted where it happens, and nothing is the difference of others: what was received,
//! when it was read; what became of it, when that was known; what is in hand, where it is. That they add
//! up is then a statement, and tests make it.
//!
//! The state's ledger holds what every instance has done since the state was made. What is shown is that,
//! as it was when it was last read, and what this process has counted since.

use super::append::Stored;
use super::chain::Passed;
use crate::event::DropReason;
use crate::status::{InHand, Ledger};

/// What this process has counted, and what the state said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    received: u64,
    appended: u64,
    filtered: u64,
    rejected: u64,
    deduplicated: u64,
    dropped: u64,
    /// Of what was dropped, what the state's ledger has.
    recorded: u64,
    /// What the state has counted that this process has not.
    others: Others,
}

#[derive(Debug, Clone, Default)]
struct Others {
    received: i128,
    appended: i128,
    filtered: i128,
    rejected: i128,
    stale: i128,
    /// Drops for other reasons, as the state has them.
    rest: Vec<(String, u64)>,
}

impl Account {
    /// Read from the source, or found in the spool of an earlier process.
    pub(crate) fn received(&mut self, events: u64) {
        self.received += events;
    }

    /// Done by a call of the script.
    pub(crate) fn stored(&mut self, stored: &Stored) {
        self.appended += stored.appended;
        self.filtered += stored.filtered;
        self.rejected += stored.rejected;
    }

    /// Found stored already, by an earlier call or by another instance.
    pub(crate) fn deduplicated(&mut self, events: u64) {
        self.deduplicated += events;
    }

    /// Given up.
    pub(crate) fn dropped(&mut self, events: u64) {
        self.dropped += events;
    }

    /// The script has recorded a gap with so many events that were given up.
    pub(crate) fn recorded(&mut self, dropped: u64) {
        self.recorded += dropped;
    }

    /// Found to have been dealt with while nothing was sent.
    pub(crate) fn passed(&mut self, passed: Passed) {
        self.deduplicated += passed.deduplicated;
        self.dropped += passed.stale;
        self.rewound(passed.rewound);
    }

    /// In hand again: the state forgot what it had stored, so these are received a second time.
    pub(crate) fn rewound(&mut self, events: u64) {
        self.received += events;
    }

    /// Takes in the state's ledger, as it is after everything that this process knows to be stored.
    pub(crate) fn found(&mut self, state: &Ledger) {
        let minus = |theirs: u64, own: u64| i128::from(theirs) - i128::from(own);
        let stale = DropReason::Stale.as_str();
        let settled = self.appended + self.filtered + self.rejected + self.recorded;
        self.others = Others {
            received: minus(state.received, settled),
            appended: minus(state.appended, self.appended),
            filtered: minus(state.filtered, self.filtered),
            rejected: minus(state.rejected, self.rejected),
            stale: minus(state.dropped.get(stale).copied().unwrap_or(0), self.recorded),
            rest: (state.dropped.iter().filter(|(reason, _)| *reason != stale))
                .map(|(reason, events)| (reason.clone(), *events))
                .collect(),
        };
    }

    /// What is shown, with what is in hand.
    pub(crate) fn ledger(&self, held: InHand) -> Ledger {
        let plus = |own: u64, others: i128| u64::try_from(i128::from(own) + others).unwrap_or(0);
        let Others { received, appended, filtered, rejected, stale, rest } = &self.others;
        let mut ledger = Ledger {
            received: plus(self.received, *received),
            appended: plus(self.appended, *appended),
            deduplicated: self.deduplicated,
            filtered: plus(self.filtered, *filtered),
            rejected: plus(self.rejected, *rejected),
            dropped: rest.iter().cloned().collect(),
            in_hand: held.total(),
            held,
        };
        let dropped = plus(self.dropped, *stale);
        if dropped > 0 {
            ledger.dropped.insert(DropReason::Stale.as_str().to_owned(), dropped);
        }
        ledger
    }

    /// Whether what this process has received is what became of it and what is in hand.
    #[cfg(test)]
    pub(crate) fn adds_up(&self, in_hand: u64) -> bool {
        let Self { received, appended, filtered, rejected, deduplicated, dropped, .. } = self;
        *received == appended + filtered + rejected + deduplicated + dropped + in_hand
    }
}
