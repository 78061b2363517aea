//! How far a command is in a range of a stream: a bar on a terminal, a line now and then elsewhere. On standard error.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::tell;
use crate::rt;
use crate::stream::EntryId;

/// Between two lines where there is no terminal.
const LINES_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at the bar.
const BAR_EVERY: Duration = Duration::from_millis(100);
/// How many entries that do not fit are named; the others are counted.
const NAMED: u64 = 5;

/// What is shown of a range.
#[derive(Debug)]
pub(in crate::cli) struct RangeProgress {
    /// The first entry's milliseconds, and how many the range has.
    from: u64,
    whole: u64,
    bar: Option<ProgressBar>,
    began: Instant,
    next: Instant,
    /// Entries that did not fit.
    skipped: u64,
}

impl RangeProgress {
    pub(in crate::cli) fn new(from: EntryId, to: EntryId) -> Self {
        let whole = to.milliseconds.saturating_sub(from.milliseconds).max(1);
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(whole);
            // A template that cannot be read would be a mistake here; the bar then looks plain.
            match ProgressStyle::with_template("{wide_bar} {percent:>3} % {msg}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        let now = Instant::now();
        let next = if bar.is_some() { now } else { now + LINES_EVERY };
        Self { from: from.milliseconds, whole, bar, began: now, next, skipped: 0 }
    }

    /// Shows how far it is, if it is time to. `text` is given the whole seconds since the beginning, at least one.
    pub(in crate::cli) fn at(&mut self, position: EntryId, text: impl FnOnce(u64) -> String) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let done = position.milliseconds.saturating_sub(self.from);
        let seconds = now.saturating_duration_since(self.began).as_secs().max(1);
        let text = format!("{}, at {}", text(seconds), moment(position));
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(text);
            self.next = now + BAR_EVERY;
        } else {
            let percent = u128::from(done.min(self.whole)) * 100 / u128::from(self.whole);
            tell!("{percent} %: {text}");
            self.next = now + LINES_EVERY;
        }
    }

    /// An entry does not fit.
    pub(in crate::cli) fn skipped(&mut self, entry: EntryId, why: &str) {
        self.skipped += 1;
        if self.skipped > NAMED {
            return;
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| tell!("skipped {entry}: {why}")),
            None => tell!("skipped {entry}: {why}"),
        }
    }

    /// Leaves the terminal as it was. `template` is what the entries do not fit.
    pub(in crate::cli) fn done(&self, template: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.skipped > NAMED {
            tell!("{} more entries do not fit {template}", self.skipped - NAMED);
        }
    }
}

/// When the server added an entry, for an operator.
pub(in crate::cli) fn moment(id: EntryId) -> String {
    rt::rfc3339(id.milliseconds)
}
