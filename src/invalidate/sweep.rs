//! Clearing every key that the route can make, after changes were missed.
//!
//! First every lease, to the end of a SCAN, and only then every key. What a load under way had read before is then either
//! refused, because its lease is gone, or it is stored before the keys are scanned. In the other order, or in one SCAN for
//! both, a load fills a place behind the SCAN's back. Both are done once more `again_after` later, for readers without
//! leases.
//!
//! The step is in the cursor, and begins anew after a crash.

use std::time::Duration;

use tokio::time::Instant;

use super::change::lease::around;
use super::change::{CacheKey, MOST_KEYS};
use crate::config::Invalidate;
use crate::text::glob::literal;
use crate::text::template::{Part, Template};

/// Keys that a step of a SCAN looks at.
const LOOKED_AT: &[u8] = b"1000";

/// A clear, as it stands in the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clearing {
    pub(super) step: Step,
    /// More was missed meanwhile: another clear follows.
    pub(super) missed_again: bool,
}

impl Clearing {
    /// Every key is to be cleared.
    pub(super) const BEGIN: Self = Self { step: Step::Leases { again: false }, missed_again: false };

    /// The words in the cursor.
    pub(super) const fn as_str(self) -> &'static str {
        match (self.step, self.missed_again) {
            (Step::Leases { again: false }, false) => "leases",
            (Step::Keys { again: false }, false) => "keys",
            (Step::Leases { again: true }, false) => "leases again",
            (Step::Keys { again: true }, false) => "keys again",
            (Step::Leases { again: false }, true) => "leases +",
            (Step::Keys { again: false }, true) => "keys +",
            (Step::Leases { again: true }, true) => "leases again +",
            (Step::Keys { again: true }, true) => "keys again +",
            (Step::None, _) => "none",
        }
    }

    /// Reads the field of the cursor.
    pub(super) fn parse(text: &[u8]) -> Self {
        let (text, missed_again) = text.strip_suffix(b" +").map_or((text, false), |without| (without, true));
        let step = match text {
            b"leases" => Step::Leases { again: false },
            b"keys" => Step::Keys { again: false },
            b"leases again" => Step::Leases { again: true },
            b"keys again" => Step::Keys { again: true },
            _ => return Self { step: Step::None, missed_again: false },
        };
        Self { step, missed_again }
    }
}

/// A step of a clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Leases are removed, in the first round or the second.
    Leases { again: bool },
    /// Keys are removed.
    Keys { again: bool },
    /// Nothing is cleared.
    None,
}

/// A clear of all keys.
#[derive(Debug)]
pub(super) struct Sweep {
    leases: Vec<Vec<u8>>,
    keys: Vec<Vec<u8>>,
    /// How long after a clear it is repeated, if it is.
    again_after: Option<Duration>,
    step: Step,
    /// When the step may begin.
    begins: Instant,
    /// Which pattern of the step is scanned, and where its SCAN is.
    at: (usize, Vec<u8>),
    /// What a SCAN has found and is not removed.
    found: Vec<CacheKey>,
    /// True if a SCAN of the step was sent.
    scanning: bool,
    /// More was missed meanwhile: another clear follows.
    missed_again: bool,
    /// True if the cursor does not have the step.
    unwritten: bool,
    /// True if the call under way writes it.
    sent: bool,
}

impl Sweep {
    pub(super) fn new(settings: &Invalidate, now: Instant) -> Self {
        let keys: Vec<Vec<u8>> = settings.keys.iter().map(pattern).collect();
        let leases = settings.lease.as_ref().map(|lease| {
            let (before, behind) = around(lease);
            let of = |key: &Vec<u8>| [&literal(&before)[..], key, &literal(&behind)].concat();
            keys.iter().map(of).collect()
        });
        let (leases, again_after) = (leases.unwrap_or_default(), settings.again_after);
        let at = (0, b"0".to_vec());
        let (step, begins) = (Step::None, now);
        Self {
            leases,
            keys,
            again_after,
            step,
            begins,
            at,
            found: Vec::new(),
            scanning: false,
            missed_again: false,
            unwritten: false,
            sent: false,
        }
    }

    /// Everything is to be cleared. A clear that has not begun covers it, too.
    pub(super) fn begin(&mut self, now: Instant) {
        match self.step {
            Step::None => self.enter(Step::Leases { again: false }, now),
            Step::Leases { again: false } if !self.scanning => {}
            _ => self.follow(),
        }
    }

    /// Everything was cleared once, by now at the latest, and is to be cleared once more.
    pub(super) fn begin_again(&mut self, now: Instant) {
        match self.step {
            Step::None => {
                self.enter(Step::Leases { again: true }, now + self.again_after.unwrap_or_default())
            }
            // Its second round comes late enough.
            Step::Leases { again: false } | Step::Keys { again: false } => {}
            Step::Leases { again: true } | Step::Keys { again: true } => self.follow(),
        }
    }

    /// Another clear follows.
    fn follow(&mut self) {
        self.unwritten |= !self.missed_again;
        self.missed_again = true;
    }

    /// The cursor has this step as a session begins, or nobody works at it any more: it begins anew, unless this instance is
    /// at one. Other looks do not count: two instances would begin what the other one is about to end, again and again.
    pub(super) fn on_cursor(&mut self, clearing: Clearing, now: Instant) {
        if self.step == Step::None && clearing.step != Step::None {
            // How long ago the first round was is not known.
            let waits = matches!(clearing.step, Step::Leases { again: true });
            let wait = self.again_after.filter(|_| waits).unwrap_or_default();
            self.enter(clearing.step, now + wait);
            self.missed_again = clearing.missed_again;
        }
    }

    /// A session begins: what a SCAN found may not have been removed.
    pub(super) fn on_session(&mut self, now: Instant) {
        self.on_refused();
        if self.step != Step::None {
            self.enter(self.step, self.begins.max(now));
        }
    }

    fn enter(&mut self, step: Step, begins: Instant) {
        (self.step, self.begins, self.unwritten) = (step, begins, true);
        self.at = (0, b"0".to_vec());
        self.found.clear();
        self.scanning = false;
    }

    /// The call under way was refused, or its answer is lost.
    pub(super) fn on_refused(&mut self) {
        self.unwritten |= std::mem::take(&mut self.sent);
    }

    /// What a call is to write into the cursor. During a clear each call does: another instance that has ended its own
    /// writes that there is none.
    pub(super) fn write(&mut self) -> Option<Clearing> {
        self.sent = std::mem::take(&mut self.unwritten) || self.step != Step::None;
        self.sent.then_some(Clearing { step: self.step, missed_again: self.missed_again })
    }

    /// Returns whether the cursor lacks the step.
    pub(super) const fn is_unwritten(&self) -> bool {
        self.unwritten
    }

    /// Returns whether nothing is cleared, and the cursor is known to say so.
    pub(super) fn rests(&self) -> bool {
        self.step == Step::None && !self.unwritten && !self.sent
    }

    /// The step that is under way.
    pub(super) const fn step(&self) -> Step {
        self.step
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.step != Step::None).then_some(self.begins)
    }

    /// Keys to be removed next.
    pub(super) fn take_found(&mut self) -> Option<Vec<CacheKey>> {
        let count = self.found.len().min(MOST_KEYS);
        (count > 0).then(|| self.found.drain(..count).collect())
    }

    /// The SCAN to send next: its cursor, its pattern.
    pub(super) fn scan(&mut self) -> Option<[&[u8]; 6]> {
        self.scanning = true;
        let pattern = self.patterns().get(self.at.0)?;
        Some([b"SCAN", &self.at.1, b"MATCH", pattern, b"COUNT", LOOKED_AT])
    }

    fn patterns(&self) -> &[Vec<u8>] {
        match self.step {
            Step::Leases { .. } => &self.leases,
            Step::Keys { .. } => &self.keys,
            Step::None => &[],
        }
    }

    /// A SCAN has found these, and continues there.
    pub(super) fn on_scanned(&mut self, cursor: &[u8], found: Vec<CacheKey>) {
        self.found = found;
        self.at.1 = cursor.to_vec();
        if cursor == b"0" {
            self.at.0 += 1;
        }
    }

    /// Goes over to the next step if this one is done. Returns whether a whole clear is done.
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        if self.step == Step::None || !self.found.is_empty() || self.at.0 < self.patterns().len() {
            return false;
        }
        match self.step {
            Step::Leases { again } => self.enter(Step::Keys { again }, now),
            Step::Keys { again } => {
                if let (Some(after), false) = (self.again_after, again) {
                    self.enter(Step::Leases { again: true }, now + after);
                    return false;
                }
                if std::mem::take(&mut self.missed_again) {
                    // At most one a minute: otherwise constant losses would clear the cache constantly.
                    self.enter(Step::Leases { again: false }, now + APART);
                } else {
                    self.enter(Step::None, now);
                }
                return true;
            }
            Step::None => {}
        }
        false
    }
}

/// Between two clears.
const APART: Duration = Duration::from_secs(60);

/// A pattern for the keys that a template makes.
pub(super) fn pattern(template: &Template) -> Vec<u8> {
    let piece = |part: &Part| match part {
        Part::Literal(text) => literal(text.as_bytes()),
        _ => b"*".to_vec(),
    };
    template.parts().iter().flat_map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_go_first_and_both_once_more() {
        let start = Instant::now();
        let after = Duration::from_secs(2);
        let mut settings = super::super::change::keys::tests::settings(&["a*:<id>", "b"]);
        settings.lease = Some(Template::parse("<key>:l?").unwrap());
        settings.again_after = Some(after);
        let mut sweep = Sweep::new(&settings, start);
        assert!(sweep.due().is_none() && sweep.scan().is_none());
        sweep.begin(start);
        let mut order = Vec::new();
        let mut now = start;
        loop {
            now = now.max(sweep.due().unwrap_or(now));
            let Some(scan) = sweep.scan() else { break };
            let pattern = String::from_utf8_lossy(scan[3]).into_owned();
            order.push(format!("{} {pattern}", clearing(sweep.step, false).as_str()));
            sweep.on_scanned(b"0", vec![b"x".as_slice().into()]);
            assert!(!sweep.advance(now), "what was found is to be removed first");
            assert_eq!(sweep.take_found().map(|found| found.len()), Some(1));
            sweep.advance(now);
        }
        let round = |step: &str, lease: &str| [r"a\*:*", "b"].map(|key| format!("{step} {key}{lease}"));
        let lease = r":l\?";
        let expected = [
            round("leases", lease),
            round("keys", ""),
            round("leases again", lease),
            round("keys again", ""),
        ]
        .concat();
        assert_eq!(order, expected);
        assert_eq!(now, start + after, "the second round came later");
        assert_eq!(sweep.write(), Some(clearing(Step::None, false)));
    }

    #[test]
    fn what_is_missed_during_a_clear_makes_one_more_and_survives_a_crash() {
        let start = Instant::now();
        let after = Duration::from_secs(2);
        let mut settings = super::super::change::keys::tests::settings(&["a:<id>"]);
        settings.again_after = Some(after);
        let first_round = Step::Leases { again: false };
        let mut sweep = Sweep::new(&settings, start);
        sweep.begin(start);
        sweep.begin(start);
        assert_eq!(sweep.write(), Some(clearing(first_round, false)), "it had not begun");
        sweep.advance(start);
        assert_eq!(sweep.write(), Some(clearing(Step::Keys { again: false }, false)));
        sweep.begin_again(start);
        let written = clearing(Step::Keys { again: false }, false);
        assert_eq!(sweep.write(), Some(written), "its second round covers a lost second pass");
        sweep.begin(start);
        let written = clearing(Step::Keys { again: false }, true);
        assert!(sweep.is_unwritten());
        assert_eq!(sweep.write(), Some(written));
        sweep.begin(start);
        assert!(!sweep.is_unwritten(), "the cursor has it");
        sweep.on_refused();
        assert!(sweep.is_unwritten(), "it has not");
        // Another process continues from the cursor.
        let mut sweep = Sweep::new(&settings, start);
        sweep.on_cursor(written, start);
        let mut now = start;
        let mut clears = 0;
        while sweep.step != Step::None {
            now = now.max(sweep.due().unwrap_or(now));
            sweep.on_scanned(b"0", Vec::new());
            clears += u32::from(sweep.advance(now));
        }
        assert_eq!((clears, now), (2, start + after + APART + after));
        // How long ago the first round was is not known: the second one waits.
        let mut sweep = Sweep::new(&settings, start);
        sweep.on_cursor(clearing(Step::Leases { again: true }, false), start);
        assert_eq!(sweep.due(), Some(start + after));
        // A second pass is lost: the second round is enough.
        let mut sweep = Sweep::new(&settings, start);
        sweep.begin_again(start);
        assert_eq!((sweep.step, sweep.due()), (Step::Leases { again: true }, Some(start + after)));
    }

    fn clearing(step: Step, missed_again: bool) -> Clearing {
        Clearing { step, missed_again }
    }

    #[test]
    fn the_words_of_the_cursor_are_read_as_they_were_written() {
        for again in [false, true] {
            for step in [Step::Leases { again }, Step::Keys { again }] {
                for missed_again in [false, true] {
                    let clearing = clearing(step, missed_again);
                    assert_eq!(Clearing::parse(clearing.as_str().as_bytes()), clearing);
                }
            }
        }
        assert_eq!(Clearing::parse(b"none"), clearing(Step::None, false));
        assert_eq!(Clearing::parse(b""), clearing(Step::None, false));
    }
}
