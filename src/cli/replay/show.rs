//! How far a replay is: a bar on a terminal, a line now and then elsewhere. On standard error.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::broadcast::replay::{Progress, Range, ReplayObserver};
use crate::cli::output::tell;
use crate::rt;
use crate::stream::EntryId;

/// Between two lines where there is no terminal.
const LINES_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at the bar.
const BAR_EVERY: Duration = Duration::from_millis(100);
/// How many skipped entries are named; the others are counted.
const SKIPPED_NAMED: u64 = 5;

/// What is shown of a replay.
#[derive(Debug)]
pub(super) struct Shown {
    range: Range,
    /// Entries that earlier runs published.
    before: u64,
    bar: Option<ProgressBar>,
    began: Instant,
    next: Instant,
    skipped: u64,
}

impl Shown {
    pub(super) fn new(range: Range, before: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(range.to.milliseconds.saturating_sub(range.from.milliseconds).max(1));
            // A template that cannot be read would be a mistake here; the bar then looks plain.
            match ProgressStyle::with_template("{wide_bar} {percent:>3} % {msg}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        let now = Instant::now();
        let next = if bar.is_some() { now } else { now + LINES_EVERY };
        Self { range, before, bar, began: now, next, skipped: 0 }
    }

    /// Leaves the terminal as it was.
    pub(super) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.skipped > SKIPPED_NAMED {
            tell!("{} more entries do not fit the message template", self.skipped - SKIPPED_NAMED);
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell!("{line}")),
            None => tell!("{line}"),
        }
    }
}

impl ReplayObserver for Shown {
    fn progress(&mut self, progress: &Progress) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let from = self.range.from.milliseconds;
        let done = progress.position.milliseconds.saturating_sub(from);
        let here = progress.published.saturating_sub(self.before);
        let seconds = now.saturating_duration_since(self.began).as_secs().max(1);
        let text = format!(
            "{} entries published, {}/s, at {}",
            progress.published,
            here / seconds,
            moment(progress.position)
        );
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(text);
            self.next = now + BAR_EVERY;
        } else {
            let whole = self.range.to.milliseconds.saturating_sub(from).max(1);
            let percent = u128::from(done.min(whole)) * 100 / u128::from(whole);
            tell!("{percent} %: {text}");
            self.next = now + LINES_EVERY;
        }
    }

    fn skipped(&mut self, entry: EntryId, why: &str) {
        self.skipped += 1;
        if self.skipped <= SKIPPED_NAMED {
            self.say(&format!("skipped {entry}: {why}"));
        }
    }
}

/// When the server added an entry, for an operator.
pub(super) fn moment(id: EntryId) -> String {
    rt::rfc3339(id.milliseconds)
}
