//! The conditions of every history.

use std::collections::BTreeSet;

use crate::config::IfMissed;
use crate::event::InvalidateLoss;

/// What was lost, as known from outside, and what was reported.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// Products of which an entry was trimmed.
    removed: BTreeSet<u8>,
    /// True if any entry was.
    trimmed: bool,
    stream_deleted: bool,
    /// Products that changed in a gap of the capture.
    gaps: BTreeSet<u8>,
    missed: BTreeSet<&'static str>,
}

impl Checks {
    pub(super) fn removed(&mut self, product: Option<u8>) {
        self.trimmed = true;
        self.removed.extend(product);
    }

    pub(super) fn stream_deleted(&mut self) {
        self.stream_deleted = true;
    }

    pub(super) fn gap(&mut self, product: u8) {
        self.gaps.insert(product);
    }

    pub(super) fn missed(&mut self, loss: InvalidateLoss) {
        self.missed.insert(loss.as_str());
        let possible = match loss {
            InvalidateLoss::Trimmed | InvalidateLoss::SecondPass | InvalidateLoss::BeginsLate => self.trimmed,
            InvalidateLoss::StreamAnew => self.stream_deleted,
            InvalidateLoss::Gap => !self.gaps.is_empty(),
            InvalidateLoss::TooManyKeys => false,
        };
        assert!(possible, "{} is reported, and nothing of the kind was", loss.as_str());
    }

    /// Only what was lost may be stale, and only where that was reported and not acted upon.
    pub(super) fn at_end(&self, stale: &BTreeSet<u8>, if_missed: IfMissed) {
        let reported =
            |losses: &[InvalidateLoss]| losses.iter().any(|loss| self.missed.contains(loss.as_str()));
        let removed = reported(&[
            InvalidateLoss::Trimmed,
            InvalidateLoss::SecondPass,
            InvalidateLoss::BeginsLate,
            InvalidateLoss::StreamAnew,
        ]);
        let gap = reported(&[InvalidateLoss::Gap]);
        for product in stale {
            let lost = self.removed.contains(product) && removed || self.gaps.contains(product) && gap;
            assert!(
                lost && if_missed == IfMissed::Record,
                "product {product} is stale; lost are {:?} and {:?}, reported {:?}",
                self.removed,
                self.gaps,
                self.missed
            );
        }
    }
}
