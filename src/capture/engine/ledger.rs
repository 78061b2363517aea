//! The ledgers of a capture: what became of the messages.
//!
//! Each message is counted where its fate is decided, and no number is the difference of others: what was received,
//! when it was read; what became of it, when that was known; what waits, where it is. That they add up is then a
//! statement, and tests make it.
//!
//! There are two. The *process's* counts what this process has received since it started: each message of the source
//! once, also where another instance stored it (`deduplicated`). The *route's* counts what all instances have stored
//! since the state was made. It is kept in the state, in the same step as the entries, and what waits in this process is
//! added to it. There each message counts once, whichever instance received it.

use std::collections::BTreeMap;

use crate::capture::append::Stored;
use crate::event::DropReason;
use crate::status::{InHand, Ledger as Shown};

use super::chain::Passed;

/// What this process has counted, and what the state said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    received: u64,
    deduplicated: u64,
    stored: Sums,
    /// The state's ledger when it was last read.
    state: Shown,
    /// What this process had stored then.
    then: Sums,
}

/// What this process has done that the state's ledger has as well.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    appended: u64,
    filtered: u64,
    rejected: u64,
    /// Lost, and recorded in a gap; by reason.
    dropped: [u64; DropReason::ALL.len()],
}

impl Ledger {
    /// Read from the source, or taken over from an earlier process or route.
    pub(crate) fn received(&mut self, events: u64) {
        self.received += events;
    }

    /// Done by a call of the append script.
    pub(crate) fn stored(&mut self, stored: &Stored) {
        self.stored.appended += stored.appended;
        self.stored.filtered += stored.filtered;
        self.stored.rejected += stored.rejected;
    }

    /// Found stored already, by an earlier call or by another instance.
    pub(crate) fn deduplicated(&mut self, events: u64) {
        self.deduplicated += events;
    }

    /// Lost, and now on record.
    pub(crate) fn dropped(&mut self, reason: DropReason, events: u64) {
        self.stored.dropped[reason as usize] += events;
    }

    /// Dealt with while nothing was sent.
    pub(crate) fn passed(&mut self, passed: Passed) {
        self.deduplicated += passed.deduplicated;
        self.rewound(passed.rewound);
    }

    /// Waiting again: the state forgot what it had stored, so these are received a second time.
    pub(crate) fn rewound(&mut self, events: u64) {
        self.received += events;
    }

    /// Takes in the state's ledger, as it is after everything that this process knows to be stored.
    pub(crate) fn found(&mut self, state: &Shown) {
        self.state.clone_from(state);
        self.then = self.stored;
    }

    /// What all instances have done, and what waits here.
    pub(crate) fn route(&self, held: InHand) -> Shown {
        let mut ledger = self.state.clone();
        let [appended, filtered, rejected] = [
            self.stored.appended - self.then.appended,
            self.stored.filtered - self.then.filtered,
            self.stored.rejected - self.then.rejected,
        ];
        let mut dropped = 0;
        for reason in DropReason::ALL {
            let since = self.stored.dropped[reason as usize] - self.then.dropped[reason as usize];
            add(&mut ledger.dropped, reason, since);
            dropped += since;
        }
        ledger.received += appended + filtered + rejected + dropped + held.total();
        ledger.appended += appended;
        ledger.filtered += filtered;
        ledger.rejected += rejected;
        ledger.in_hand = held.total();
        ledger.held = held;
        ledger
    }

    /// What this process has done.
    pub(crate) fn process(&self, held: InHand) -> Shown {
        let mut ledger = Shown {
            received: self.received,
            appended: self.stored.appended,
            deduplicated: self.deduplicated,
            filtered: self.stored.filtered,
            rejected: self.stored.rejected,
            in_hand: held.total(),
            held,
            ..Shown::default()
        };
        for reason in DropReason::ALL {
            add(&mut ledger.dropped, reason, self.stored.dropped[reason as usize]);
        }
        ledger
    }
}

fn add(dropped: &mut BTreeMap<String, u64>, reason: DropReason, events: u64) {
    if events > 0 {
        *dropped.entry(reason.as_str().to_owned()).or_default() += events;
    }
}
