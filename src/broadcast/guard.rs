//! Whether what a route publishes comes back into its stream, by a way that no configuration shows: a
//! capture of another daemon, a script that subscribes and adds.
//!
//! Problem: such a loop repeats every message for ever, as fast as the servers let it. But messages carry no
//! mark, and applications publish the same payload again and again: that something was seen before proves
//! nothing.
//!
//! Operation: first look, which costs a hash a message and holds nothing up; and only where it looks like a
//! loop, try. What tells a loop from anything else is that it *stops when the route stops*, and that each
//! message which the route then publishes comes back once.
//!
//! ```text
//! watching ─▶ most of what was published came back as entries, 64 times or more
//!    ▲            │
//!    │            ▼ nothing is published; the stream is looked at, ahead of the cursor
//!    │        settling   0.5 s, for what is still on its way
//!    │            ▼
//!    │  ┌──── quiet      0.5 s or more: nothing seen before may come  ◀──┐
//!    │  │         ▼                                                      │ three times
//!    │  ├──── probe      one entry is published; in 1 s it must come     │
//!    │  │         │      back, the same few times in each probe ─────────┘
//!    │  ▼         ▼
//!  resting      a loop: the route parks
//!  1 min, doubled up to 1 h
//! ```
//!
//! An innocent route is held up by about a second, and then left alone for longer each time. Where a group has to
//! acknowledge first, what is acknowledged meanwhile is kept, as many entries as may be held; then the guard gives
//! up. What is not noticed: a way back that takes longer than half a second (the group's work aside), is slower
//! than about 13 messages a second, changes the messages (a capture with `fields` or `cloudevents`), or has more
//! messages on it than come round in 5 s; and a loop while a second instance of the route publishes as well.
//!
//! The clock comes in with each question. Failure: whatever ends the session begins the watch anew.

use std::hash::BuildHasher as _;
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashMap};
use tokio::time::Instant;

/// How many published messages are remembered in a watch.
const SAMPLE: usize = 256;
/// How long a watch takes, at most and at least.
const WATCH: Duration = Duration::from_secs(5);
const WATCH_LEAST: Duration = Duration::from_secs(1);
/// So often must one of them have come back, and so many percent of them.
const RETURNS: u64 = 64;
const RETURNED_PERCENT: usize = 90;
const SETTLING: Duration = Duration::from_millis(500);
/// How much longer than it should any step may take: where the stream cannot be looked at to its end, something
/// else fills it, and the route must not be held up for that.
const OVERDUE: Duration = Duration::from_secs(3);
/// Before each probe. Of different lengths, so that nothing which comes at regular times fits between.
const QUIET: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(750), Duration::from_millis(1250)];
const PROBE: Duration = Duration::from_secs(1);
/// Ways back that one message may take. What an application publishes anyhow comes in other numbers.
const COPIES_MOST: u64 = 4;
const REST_FIRST: Duration = Duration::from_secs(60);
const REST_MOST: Duration = Duration::from_secs(3600);
/// Of a long message, its ends are looked at.
const END_BYTES: usize = 256;

/// What the route may publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// What comes.
    All,
    /// One entry.
    One,
    /// Nothing: the stream is only looked at.
    Nothing,
}

/// What became of the suspicion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is being tried.
    Suspected,
    /// Its own output comes back.
    Loop,
}

#[derive(Debug)]
enum Phase {
    /// It is switched off.
    Off,
    Watching(Option<Instant>),
    Resting(Instant),
    Settling(Option<Instant>),
    Quiet {
        since: Instant,
        probes: usize,
    },
    /// An entry is to be published.
    Sending {
        since: Instant,
        probes: usize,
    },
    /// It was: `since` it is known to be out.
    Probe {
        probes: usize,
        message: u64,
        since: Option<Instant>,
    },
}

/// The guard of one route.
#[derive(Debug)]
pub(super) struct Guard {
    phase: Phase,
    hasher: DefaultHashBuilder,
    /// What was published in this watch, and whether it came back.
    sample: HashMap<u64, bool>,
    /// Entries that were published before, in this watch or phase.
    returns: u64,
    /// Whether, while one entry was out alone, another one came back.
    strays: bool,
    /// How often the first probe came back.
    copies: Option<u64>,
    rest: Duration,
}

impl Guard {
    pub(super) fn new(on: bool) -> Self {
        Self {
            phase: if on { Phase::Watching(None) } else { Phase::Off },
            hasher: DefaultHashBuilder::default(),
            sample: HashMap::new(),
            returns: 0,
            strays: false,
            copies: None,
            rest: REST_FIRST,
        }
    }

    /// A session has ended: what was seen is too old.
    pub(super) fn interrupted(&mut self) {
        if !matches!(self.phase, Phase::Off | Phase::Resting(_)) {
            self.watch(None);
        }
    }

    pub(super) fn leave(&self) -> Leave {
        match self.phase {
            Phase::Off | Phase::Watching(_) | Phase::Resting(_) => Leave::All,
            Phase::Sending { .. } => Leave::One,
            Phase::Settling(_) | Phase::Quiet { .. } | Phase::Probe { .. } => Leave::Nothing,
        }
    }

    /// An entry with this payload, if it has one, has come, and is or will be published as this message.
    pub(super) fn came(&mut self, payload: Option<&[u8]>, message: &[u8]) {
        if matches!(self.phase, Phase::Watching(_)) {
            let message = self.seen(payload, message);
            if self.sample.len() < SAMPLE {
                self.sample.entry(message).or_insert(false);
            }
        }
    }

    /// This message is published.
    pub(super) fn published(&mut self, message: &[u8]) {
        if let Phase::Sending { probes, .. } = self.phase {
            let message = self.hash(message);
            self.sample.insert(message, true);
            self.returns = 0;
            self.strays = false;
            self.phase = Phase::Probe { probes, message, since: None };
        }
    }

    /// An entry stands in the stream that was not looked at before, while nothing is published.
    pub(super) fn looked_at(&mut self, payload: Option<&[u8]>, message: &[u8]) {
        match self.phase {
            Phase::Quiet { .. } => {
                self.seen(payload, message);
            }
            Phase::Probe { message: alone, .. } if self.is(alone, payload, message) => self.returns += 1,
            // Something else that was published before: not by this route, which holds back.
            Phase::Probe { .. } => {
                let returns = self.returns;
                self.seen(payload, message);
                self.strays |= self.returns != returns;
                self.returns = returns;
            }
            _ => {}
        }
    }

    /// There was no entry to be published.
    pub(super) fn nothing_to_send(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Sending { .. }) {
            self.acquit(now);
        }
    }

    /// To hold back any longer would cost entries.
    pub(super) fn give_up(&mut self, now: Instant) {
        if self.leave() != Leave::All {
            self.acquit(now);
        }
    }

    /// Goes on with time. `idle`: everything published is answered; `whole`: the stream was looked at to its
    /// end.
    pub(super) fn tick(&mut self, now: Instant, idle: bool, whole: bool) -> Option<Verdict> {
        let past = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        match self.phase {
            Phase::Watching(None) => self.watch(Some(now)),
            Phase::Watching(Some(since)) if past(since, WATCH_LEAST) && self.is_suspect() => {
                self.phase = Phase::Settling(None);
                return Some(Verdict::Suspected);
            }
            Phase::Watching(Some(since)) if past(since, WATCH) => self.watch(Some(now)),
            Phase::Resting(until) if now >= until => self.watch(Some(now)),
            Phase::Settling(None) if idle => self.phase = Phase::Settling(Some(now)),
            Phase::Settling(Some(since)) if whole && past(since, SETTLING) => {
                self.copies = None;
                self.quiet(now, 0);
            }
            Phase::Settling(Some(since)) if past(since, SETTLING + OVERDUE) => self.acquit(now),
            Phase::Quiet { .. } if self.returns > 0 => self.acquit(now),
            Phase::Quiet { since, probes } if whole && past(since, QUIET[probes]) => {
                self.phase = Phase::Sending { since: now, probes };
            }
            Phase::Quiet { since, probes } if past(since, QUIET[probes] + OVERDUE) => self.acquit(now),
            Phase::Sending { since, .. } if past(since, OVERDUE) => self.acquit(now),
            Phase::Probe { since: None, probes, message } if idle => {
                self.phase = Phase::Probe { since: Some(now), probes, message };
            }
            Phase::Probe { since: Some(since), probes, .. } if whole && past(since, PROBE) => {
                let copies = self.returns;
                let alike = self.copies.is_none_or(|first| first == copies);
                if self.strays || !alike || copies == 0 || copies > COPIES_MOST {
                    self.acquit(now);
                } else if probes + 1 == QUIET.len() {
                    return Some(Verdict::Loop);
                } else {
                    self.copies = Some(copies);
                    self.quiet(now, probes + 1);
                }
            }
            Phase::Probe { since: Some(since), .. } if past(since, PROBE + OVERDUE) => self.acquit(now),
            _ => {}
        }
        None
    }

    fn is_suspect(&self) -> bool {
        let returned = self.sample.values().filter(|returned| **returned).count();
        self.returns >= RETURNS && returned * 100 >= self.sample.len() * RETURNED_PERCENT
    }

    fn watch(&mut self, since: Option<Instant>) {
        self.phase = Phase::Watching(since);
        self.sample.clear();
        self.returns = 0;
    }

    fn quiet(&mut self, now: Instant, probes: usize) {
        self.returns = 0;
        self.phase = Phase::Quiet { since: now, probes };
    }

    /// It was something else.
    fn acquit(&mut self, now: Instant) {
        self.phase = Phase::Resting(now + self.rest);
        self.rest = (self.rest * 2).min(REST_MOST);
        self.sample.clear();
    }

    /// Counts an entry that was published before, and gives what its message is known by.
    fn seen(&mut self, payload: Option<&[u8]>, message: &[u8]) -> u64 {
        let hash = self.hash(message);
        // Most messages are the payload as it lies in the entry.
        let other = payload.filter(|payload| !std::ptr::eq(*payload, message)).map(|text| self.hash(text));
        let before = [Some(hash), other].into_iter().flatten().find(|hash| self.sample.contains_key(hash));
        if let Some(returned) = before.and_then(|hash| self.sample.get_mut(&hash)) {
            *returned = true;
            self.returns += 1;
        }
        hash
    }

    fn is(&self, wanted: u64, payload: Option<&[u8]>, message: &[u8]) -> bool {
        self.hash(message) == wanted || payload.is_some_and(|payload| self.hash(payload) == wanted)
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        let (first, rest) = bytes.split_at(bytes.len().min(END_BYTES));
        let last = &rest[rest.len().saturating_sub(END_BYTES)..];
        self.hasher.hash_one((bytes.len(), first, last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    /// What an application adds in a step, counted from 0.
    type Application = fn(u64) -> Vec<Vec<u8>>;
    /// As what an entry's payload is published.
    type Template = fn(&[u8]) -> Vec<u8>;

    const SAME: Template = <[u8]>::to_vec;

    /// Lets a stream and its broadcast run for a while. Returns how often it was tried and whether a loop was
    /// found, and how many steps nothing was published in.
    fn run(application: Application, template: Template, way_back: bool, seconds: u64) -> (u32, bool, u64) {
        let mut now = Instant::now();
        let mut guard = Guard::new(true);
        let mut stream: VecDeque<Vec<u8>> = VecDeque::new();
        let mut returning: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        let (mut looked, mut checks, mut held) = (0, 0, 0);
        for step in 0..seconds * 100 {
            now += STEP;
            stream.extend(application(step));
            while returning.front().is_some_and(|(at, _)| *at <= now) {
                stream.extend(returning.pop_front().map(|(_, message)| message));
            }
            let leave = guard.leave();
            let publish = match leave {
                Leave::All => stream.len(),
                Leave::One => 1,
                Leave::Nothing => 0,
            };
            held += u64::from(leave != Leave::All);
            for _ in 0..publish {
                let Some(payload) = stream.pop_front() else {
                    guard.nothing_to_send(now);
                    break;
                };
                looked = usize::saturating_sub(looked, 1);
                let message = template(&payload);
                guard.came(Some(&payload), &message);
                guard.published(&message);
                if way_back {
                    returning.push_back((now + 3 * STEP, message));
                }
            }
            if guard.leave() == Leave::Nothing {
                let ahead = stream.iter().skip(looked);
                ahead.for_each(|payload| guard.looked_at(Some(payload), &template(payload)));
                looked = stream.len();
            } else if guard.leave() == Leave::All {
                looked = 0;
            }
            if step % 25 == 0 {
                match guard.tick(now, true, true) {
                    Some(Verdict::Loop) => return (checks, true, held),
                    Some(Verdict::Suspected) => checks += 1,
                    None => {}
                }
            }
        }
        (checks, false, held)
    }

    fn number(step: u64) -> Vec<u8> {
        step.to_string().into_bytes()
    }

    #[test]
    fn a_loop_is_found() {
        let first: Application = |step| if step < 5 { vec![number(step)] } else { vec![] };
        let one: Application = |step| if step == 0 { vec![number(step)] } else { vec![] };
        let beside: Application = |step| if step % 20 == 0 { vec![number(step)] } else { vec![] };
        let growing: Template = |payload| [payload, b"+"].concat();
        for (what, application, template) in [
            ("one", one, SAME),
            ("some", first, SAME),
            ("growing", first, growing),
            ("beside others", beside, SAME),
        ] {
            let (checks, found, _) = run(application, template, true, 30);
            assert!(found, "{what}: {checks} checks");
        }
    }

    #[test]
    fn payloads_that_repeat_are_no_loop_and_are_hardly_held_up() {
        let constant: Application = |_| vec![b"tick".to_vec()];
        let states: Application = |step| vec![number(step % 7), number(step % 3)];
        let bursts: Application = |step| if step % 100 == 0 { vec![b"tick".to_vec(); 80] } else { vec![] };
        // It slows down when it is tried, to one in each probe.
        let slowing: Application =
            |step| if step < 110 || step % 150 == 90 { vec![b"tick".to_vec()] } else { vec![] };
        for application in [constant, states, bursts, slowing] {
            let (checks, found, held) = run(application, SAME, false, 600);
            assert!(!found);
            assert!((1..=5).contains(&checks), "it is tried, and then left alone: {checks}");
            assert!(held / u64::from(checks) < 400, "{held} steps in {checks} checks");
        }
    }

    #[test]
    fn payloads_that_differ_are_not_even_tried() {
        let different: Application = |step| vec![number(step), number(step + 1_000_000)];
        assert_eq!(run(different, SAME, false, 60), (0, false, 0));
        // Slow enough to harm nobody.
        let slow: Application = |step| if step % 10 == 0 { vec![b"tick".to_vec()] } else { vec![] };
        assert_eq!(run(slow, SAME, false, 60), (0, false, 0));
    }

    #[test]
    fn a_stream_that_cannot_be_looked_at_to_its_end_holds_nobody_up() {
        // How long the stream can be looked at before something fills it faster than that.
        for whole_seconds in [0, 1, 2, 3] {
            let start = Instant::now();
            let mut guard = Guard::new(true);
            guard.tick(start, true, true);
            (0..=RETURNS).for_each(|_| guard.came(None, b"tick"));
            let suspected = guard.tick(start + WATCH_LEAST, true, true);
            assert_eq!(suspected, Some(Verdict::Suspected));
            let mut now = start + WATCH_LEAST;
            let limit = now + Duration::from_secs(12);
            while guard.leave() != Leave::All {
                assert!(now < limit, "{whole_seconds}: {guard:?}");
                now += 25 * STEP;
                if guard.leave() == Leave::One && whole_seconds == 1 {
                    guard.published(b"tick");
                }
                let whole = now < start + WATCH_LEAST + Duration::from_secs(whole_seconds);
                assert_eq!(guard.tick(now, true, whole), None);
            }
        }
    }

    #[test]
    fn of_a_long_message_both_ends_and_the_length_count() {
        let guard = Guard::new(true);
        let long = vec![b'x'; 10_000];
        let (mut begins, mut ends) = (long.clone(), long.clone());
        (begins[3], ends[9_990]) = (b'y', b'y');
        for other in [begins, ends, long[1..].to_vec()] {
            assert_ne!(guard.hash(&long), guard.hash(&other));
        }
    }
}
