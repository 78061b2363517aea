//! How far a replay is.

use crate::broadcast::replay::{Progress, Range, ReplayObserver};
use crate::cli::output::range_progress::RangeProgress;
use crate::stream::EntryId;
use crate::text::plural;

/// What is shown of a replay.
#[derive(Debug)]
pub(super) struct ShownReplay {
    /// Entries that earlier runs published.
    before: u64,
    range: RangeProgress,
}

impl ShownReplay {
    pub(super) fn new(range: Range, before: u64) -> Self {
        Self { before, range: RangeProgress::new(range.from, range.to) }
    }

    /// Leaves the terminal as it was.
    pub(super) fn done(&self) {
        self.range.done("the message template");
    }
}

impl ReplayObserver for ShownReplay {
    fn progress(&mut self, progress: &Progress) {
        let Progress { position, published, .. } = *progress;
        let here = published.saturating_sub(self.before);
        self.range.at(position, |seconds| {
            format!("{} published, {}/s", plural::of(published, "entry"), here / seconds)
        });
    }

    fn skipped(&mut self, entry: EntryId, why: &str) {
        self.range.skipped(entry, why);
    }
}
