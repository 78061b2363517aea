//! The conditions of every history.

use std::collections::{BTreeMap, BTreeSet};

use super::servers::{Event, version_of};
use crate::config::IfMissed;
use crate::event::InvalidateLoss;
use crate::stream::EntryId;

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
    /// Every entry that was ever added to the stream, and what it says.
    added: BTreeMap<EntryId, Option<Event>>,
    /// What every entry says that there ever was: one that is held is cleared once more, though its stream is gone.
    said: BTreeMap<EntryId, Event>,
    /// Those that the stream does not have any more.
    gone: BTreeSet<EntryId>,
    /// Those that the first pass has applied.
    applied: BTreeSet<EntryId>,
    /// Entries that the second pass went over without their keys.
    passed_over: u64,
    /// Entries that were reported as lost for it, or altogether.
    given_up: u64,
}

impl Checks {
    pub(super) fn removed(&mut self, id: EntryId, event: Option<Event>) {
        self.trimmed = true;
        self.removed.extend(event.map(|event| event.product));
        self.gone.insert(id);
        self.forget_unapplied();
    }

    /// What is gone and not applied has no second pass.
    fn forget_unapplied(&mut self) {
        self.added.retain(|id, _| !self.gone.contains(id) || self.applied.contains(id));
    }

    pub(super) fn stream_deleted(&mut self) {
        self.stream_deleted = true;
        self.added.clear();
        self.applied.clear();
    }

    pub(super) fn added(&mut self, id: EntryId, event: Option<Event>) {
        self.said.extend(event.map(|event| (id, event)));
        self.added.insert(id, event);
    }

    /// A pass moved from one place to another and cleared these keys.
    pub(super) fn cleared(&mut self, place: &str, from: EntryId, to: EntryId, keys: &[String]) {
        let between = self.added.range(from..=to).filter(|(id, _)| **id > from);
        for (id, event) in between {
            let Some(Event { product, .. }) = event else { continue };
            let there = keys.contains(&format!("p:{product}"));
            if place == "pos" {
                self.applied.extend(there.then_some(*id));
            } else if !there && self.applied.contains(id) {
                self.passed_over += 1;
            }
        }
    }

    /// A route with `set` has carried out a call of the script that moved this place: no version went back, no key
    /// came, and the second pass left what was right.
    pub(super) fn written(
        &self,
        (place, from, to): (&str, EntryId, EntryId),
        before: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
    ) {
        for (key, held) in after {
            let was = before.get(key).unwrap_or_else(|| panic!("{key} was not there, and is {held}"));
            assert!(version_of(held) >= version_of(was), "{key} was {was}, and is {held}");
        }
        if place != "again" {
            return;
        }
        for (key, held) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
            let Some(version) = version_of(held) else { continue };
            let product = key.split(':').nth(1);
            let between = self.said.range(from..=to).filter(|(id, _)| **id > from);
            let mut of_key = between.filter(|(_, event)| Some(&*event.product.to_string()) == product);
            assert!(
                of_key.any(|(_, event)| event.version.is_none_or(|newer| newer > version)),
                "{key} was {held}, which is right, and the second pass removed it"
            );
        }
    }

    /// The first pass is at this place now, and was further.
    pub(super) fn went_back(&mut self, pos: EntryId) {
        self.applied.retain(|id| *id <= pos);
        self.forget_unapplied();
    }

    pub(super) fn gap(&mut self, product: u8) {
        self.gaps.insert(product);
    }

    /// Returns how many entries it is about.
    pub(super) fn missed(&mut self, loss: InvalidateLoss, detail: &str) -> u64 {
        let count = detail.split(' ').find_map(|word| word.parse::<u64>().ok()).unwrap_or(0);
        // A newer configuration that takes over reports all entries that are gone.
        if matches!(loss, InvalidateLoss::SecondPass | InvalidateLoss::BeginsLate) {
            self.given_up += count;
        }
        self.missed.insert(loss.as_str());
        let possible = match loss {
            InvalidateLoss::Trimmed | InvalidateLoss::SecondPass | InvalidateLoss::BeginsLate => self.trimmed,
            InvalidateLoss::StreamAnew => self.stream_deleted,
            InvalidateLoss::Gap => !self.gaps.is_empty(),
            InvalidateLoss::TooManyKeys => false,
        };
        assert!(possible, "{} is reported, and nothing of the kind was", loss.as_str());
        count
    }

    /// A process reports an entry once.
    pub(super) fn are_possible(&self, trimmed: u64) {
        let most = self.gone.len() as u64;
        assert!(trimmed <= most, "a process reports {trimmed} entries as trimmed, and there were {most}");
    }

    /// Only what was lost may be stale, and only where that was reported and not acted upon.
    pub(super) fn at_end(&self, stale: &BTreeSet<u8>, if_missed: IfMissed) {
        assert!(
            self.passed_over <= self.given_up,
            "the second pass left out {} entries, and {} were reported",
            self.passed_over,
            self.given_up
        );
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

#[test]
fn what_is_held_of_a_deleted_stream_may_be_removed_once_more() {
    let id = |milliseconds| EntryId { milliseconds, sequence: 0 };
    let mut checks = Checks::default();
    checks.added(id(1), Some(Event { product: 5, version: None }));
    checks.stream_deleted();
    checks.added(id(2), Some(Event { product: 5, version: Some(4) }));
    let before = BTreeMap::from([("p:5".to_owned(), "v4".to_owned())]);
    checks.written(("again", id(0), id(1)), &before, &BTreeMap::new());
}
