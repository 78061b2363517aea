//! The second pass: cleared keys are held, and cleared again after `again_after`.
//!
//! The daemon's own clock counts from the answer to the first clear. Ids are not times: an application may use any numbers.
//! A restarted daemon learns the age of a clear from *marks* in the cursor. A mark is an entry, and the time of the cache's
//! clock at which the first pass reached it. Entries without a mark count as cleared just now.
//!
//! A batch that cannot be held is read from the stream once more, as after a restart.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use super::change::{Change, Changes};
use super::cursor::place::Place;
use crate::stream::EntryId;

/// Bytes of keys that a route holds for their second pass.
const HELD_BYTES: usize = 8 * 1024 * 1024;
/// Bytes that a key costs beside its own.
const KEY_OVERHEAD: usize = 24;
/// Most entries of one call.
pub(super) const BATCH_ENTRIES: usize = 128;
/// Marks stand this part of `again_after` apart.
const MARKS_APART: u32 = 4;

/// Keys that were cleared together.
#[derive(Debug)]
pub(super) struct HeldBatch {
    /// The last entry; `None` where the stream was begun anew, and the place is not theirs.
    last: Option<Place>,
    entries: usize,
    /// Without values: what is older than a version is removed.
    keys: Vec<Change>,
    due: Instant,
    /// How many entries are not among them, since the stream does not have them any more.
    lost: u64,
    /// True if it was read after the first pass: the number of read entries up to it is counted from the place then.
    reread: bool,
}

/// What to clear once more, in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DueAgain {
    /// The last entry that is covered; `None` leaves the place where it is.
    pub(super) last: Option<Place>,
    /// The keys, each once.
    pub(super) keys: Vec<Change>,
    /// Which of the held batches it is: how many come before, and how many they are.
    first: usize,
    batches: usize,
    /// True if it is as much as one call covers.
    pub(super) full: bool,
}

impl DueAgain {
    /// How many of the held batches it is.
    pub(super) const fn batches(&self) -> usize {
        self.batches
    }
}

/// The batches that wait for their second pass, in order.
#[derive(Debug)]
pub(super) struct HeldBatches {
    after: Duration,
    batches: VecDeque<HeldBatch>,
    bytes: usize,
    /// Entries from `begin` to `end` are held. Later entries, up to the place of the first pass, must be read again.
    begin: EntryId,
    end: Place,
}

impl HeldBatches {
    pub(super) fn new(after: Duration) -> Self {
        Self { after, batches: VecDeque::new(), bytes: 0, begin: EntryId::default(), end: Place::default() }
    }

    /// How long after the first pass a batch is due.
    pub(super) const fn after(&self) -> Duration {
        self.after
    }

    /// The second pass is at this place now. What was held behind it stays, unless the place went back.
    pub(super) fn on_place(&mut self, again: Place) {
        if again.id < self.begin {
            self.batches.retain(|held| held.last.is_none());
            self.end = again;
        }
        self.begin = again.id;
        let before = self.batches.iter().take_while(|held| held.last.is_none_or(|last| last.id <= again.id));
        // Batches of a replaced stream have no place in this one. A loss exactly at this place may not be given up yet.
        let done: Vec<bool> = before.map(|held| held.last.is_some() && !held.is_lost_at(again)).collect();
        let kept: Vec<HeldBatch> =
            done.into_iter().filter_map(|done| self.batches.pop_front().filter(|_| !done)).collect();
        for held in kept.into_iter().rev() {
            self.batches.push_front(held);
        }
        self.bytes = self.batches.iter().map(HeldBatch::bytes).sum();
        self.recount(again);
        if again.id >= self.end.id {
            self.end = again;
        }
    }

    /// Counts what was read anew from this place on. Another instance may have come to it with entries that are lost here.
    fn recount(&mut self, again: Place) {
        let mut read = again.read;
        for held in &mut self.batches {
            let Some(last) = &mut held.last else { continue };
            if held.reread {
                last.read = read.map(|read| read + 1);
            } else if let (Some(read), Some(up_to)) = (read, last.read) {
                held.lost = held.lost.min(up_to.saturating_sub(read));
            }
            read = last.read;
            if last.id == self.end.id {
                self.end = *last;
            }
        }
    }

    /// Both places went back: entries after this one are applied anew, and then held anew.
    pub(super) fn on_went_back(&mut self, pos: Place, again: Place) {
        self.batches.retain(|held| held.last.is_none_or(|last| last.id <= pos.id));
        if pos.id < self.end.id {
            self.end = pos;
        }
        self.on_place(again);
    }

    /// The stream began anew: the held entries are of the old one.
    pub(super) fn on_stream_anew(&mut self) {
        for held in &mut self.batches {
            held.last = None;
        }
        (self.begin, self.end) = Default::default();
    }

    /// Up to where entries are held.
    pub(super) const fn end(&self) -> Place {
        self.end
    }

    /// Returns whether more can be held.
    pub(super) const fn has_room(&self) -> bool {
        self.bytes < HELD_BYTES
    }

    /// Bytes that are held.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds the cleared entries after `prev` and up to `last`. If they do not follow the held ones, they are read again
    /// later.
    pub(super) fn hold(
        &mut self,
        (prev, last): (EntryId, Place),
        entries: usize,
        keys: Vec<Change>,
        due: Instant,
    ) {
        if prev == self.end.id && self.has_room() {
            self.push(HeldBatch { last: Some(last), entries, keys, due, lost: 0, reread: false });
            self.end = last;
        }
    }

    /// The same for one entry that was read after the first pass.
    pub(super) fn hold_reread(&mut self, (prev, last): (EntryId, Place), keys: Vec<Change>, due: Instant) {
        if prev == self.end.id && self.has_room() {
            self.push(HeldBatch { last: Some(last), entries: 1, keys, due, lost: 0, reread: true });
            self.end = last;
        }
    }

    fn push(&mut self, mut held: HeldBatch) {
        held.keys = held.keys.into_iter().map(Change::without_value).collect();
        self.bytes += held.bytes();
        self.batches.push_back(held);
    }

    /// Takes in that the stream lacks this number of the entries up to `last`. Another instance may still
    /// hold them, so they are given up when they would be due.
    pub(super) fn lose(&mut self, last: Place, lost: u64, due: Instant) {
        self.push(HeldBatch { last: Some(last), entries: 0, keys: Vec::new(), due, lost, reread: false });
        self.end = last;
    }

    /// Returns whether entries are given up with these.
    pub(super) fn lacks(&self, due: &DueAgain) -> bool {
        self.batches.iter().skip(due.first).take(due.batches).any(|held| held.lost > 0)
    }

    /// Returns whether entries up to this place are lost and not given up yet.
    pub(super) fn has_lost_at(&self, again: Place) -> bool {
        self.batches.iter().any(|held| held.is_lost_at(again))
    }

    /// Number of entries that are given up with these batches. Each is returned once.
    pub(super) fn take_lost(&mut self, due: &DueAgain) -> u64 {
        let batches = self.batches.iter_mut().skip(due.first).take(due.batches);
        batches.map(|held| std::mem::take(&mut held.lost)).sum()
    }

    /// When the first of them is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.batches.front().map(|held| held.due)
    }

    /// Returns whether something is due by now behind the `first` batches.
    pub(super) fn is_due(&self, first: usize, now: Instant) -> bool {
        self.batches.get(first).is_some_and(|held| held.due <= now)
    }

    /// What is due by now behind the `first` batches, as much as one call of at most `most` entries covers.
    pub(super) fn take_due(&self, first: usize, most: usize, now: Instant) -> Option<DueAgain> {
        let mut due = DueAgain { last: None, keys: Vec::new(), first, batches: 0, full: false };
        let mut changes = Changes::with_room_for(most);
        let mut entries = 0;
        for held in self.batches.iter().skip(first) {
            let first = due.batches == 0;
            let fits = entries + held.entries <= most && changes.have_room(&held.keys);
            let alike = first || held.last.is_some() == due.last.is_some();
            if held.due > now {
                break;
            }
            if !(first || fits && alike) {
                due.full = true;
                break;
            }
            held.keys.iter().for_each(|change| changes.add(change.clone()));
            entries += held.entries;
            due.last = held.last;
            due.batches += 1;
        }
        due.full |= entries >= most;
        due.keys = changes.into_vec();
        (due.batches > 0).then_some(due)
    }

    /// Takes in that these, the first ones by now, were cleared once more.
    pub(super) fn on_done(&mut self, due: &DueAgain) {
        for held in self.batches.drain(..due.batches.min(self.batches.len())) {
            self.bytes -= held.bytes();
        }
        self.begin = due.last.map_or(self.begin, |last| last.id);
    }
}

impl HeldBatch {
    /// Returns whether entries are lost that this place lacks.
    fn is_lost_at(&self, again: Place) -> bool {
        let lacks = self.last.filter(|last| last.id == again.id).and_then(|last| again.lacks(last));
        self.lost > 0 && lacks.is_some_and(|lacks| lacks > 0)
    }

    fn bytes(&self) -> usize {
        self.keys.iter().map(|change| change.bytes() + KEY_OVERHEAD).sum()
    }
}

/// Entries, each with the time at which the first pass reached it (the cache's clock, milliseconds). Ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks(Vec<(EntryId, u64)>);

impl Marks {
    /// Reads the field of the cursor. What is no mark ends it: then entries count as cleared just now.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut marks = Vec::new();
        let mut words = text.split(|byte| *byte == b' ');
        while let (Some(id), Some(time)) = (words.next(), words.next()) {
            let time = std::str::from_utf8(time).ok().and_then(|time| time.parse().ok());
            let Some(mark) = EntryId::parse(id).zip(time) else { break };
            marks.push(mark);
        }
        Self(marks)
    }

    /// The field of the cursor.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (id, time) in &self.0 {
            let space = if text.is_empty() { "" } else { " " };
            // Writing to a String does not fail.
            let _ = write!(text, "{space}{id} {time}");
        }
        text
    }

    /// Notes that the first pass has come so far. Marks that stand closer than a part of `after` become one, so there are
    /// few of them; one that a restarted daemon makes does not move those before it, or it would never come to them.
    pub(super) fn add(&mut self, id: EntryId, time: u64, after: Duration) {
        if self.0.last().is_some_and(|(last, _)| *last >= id) {
            return;
        }
        let apart = u64::try_from((after / MARKS_APART).as_millis()).unwrap_or(u64::MAX);
        if let [.., (_, before), last] = &mut self.0[..]
            && time.saturating_sub(*before) <= apart
        {
            *last = (id, time);
        } else {
            self.0.push((id, time));
        }
    }

    /// Forgets what the second pass has done.
    pub(super) fn forget(&mut self, again: EntryId) {
        self.0.retain(|(id, _)| *id > again);
    }

    /// The latest time at which the first pass can have reached an entry.
    pub(super) fn time_of(&self, id: EntryId) -> Option<u64> {
        self.0.iter().find(|(mark, _)| *mark >= id).map(|(_, time)| *time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AFTER: Duration = Duration::from_secs(2);

    fn id(milliseconds: u64) -> EntryId {
        EntryId { milliseconds, sequence: 0 }
    }

    fn place(number: u64) -> Place {
        Place { id: id(number), counted: None, read: Some(number) }
    }

    fn keys(names: &[&str]) -> Vec<Change> {
        names.iter().map(|name| Change::removal(name.as_bytes().into())).collect()
    }

    #[test]
    fn batches_are_due_in_order_and_are_cleared_together() {
        let start = Instant::now();
        let mut held = HeldBatches::new(AFTER);
        held.hold((id(0), place(2)), 2, keys(&["a", "b"]), start + AFTER);
        held.hold((id(2), place(3)), 1, keys(&["a"]), start + AFTER);
        held.hold((id(3), place(9)), 1, keys(&["c"]), start + 2 * AFTER);
        assert_eq!((held.due(), held.end()), (Some(start + AFTER), place(9)));
        assert_eq!(held.take_due(0, BATCH_ENTRIES, start), None);
        let due = held.take_due(0, BATCH_ENTRIES, start + AFTER).unwrap();
        assert_eq!((due.last, due.keys.clone(), due.batches), (Some(place(3)), keys(&["a", "b"]), 2));
        held.on_done(&due);
        held.on_place(place(3));
        assert_eq!(held.due(), Some(start + 2 * AFTER));
        // What does not follow is read again.
        held.hold((id(11), place(12)), 1, keys(&["d"]), start + 2 * AFTER);
        assert_eq!(held.end(), place(9));
    }

    #[test]
    fn a_place_that_moves_elsewhere_takes_the_batches_along() {
        let start = Instant::now();
        let held = || {
            let mut held = HeldBatches::new(AFTER);
            for n in 1..=4 {
                held.hold((id(n - 1), place(n)), 1, keys(&["a"]), start);
            }
            held
        };
        let mut ahead = held();
        ahead.on_place(place(3));
        assert_eq!(ahead.take_due(0, BATCH_ENTRIES, start).unwrap().batches, 1);
        ahead.on_place(place(7));
        assert_eq!(
            (ahead.take_due(0, BATCH_ENTRIES, start), ahead.end(), ahead.bytes()),
            (None, place(7), 0)
        );
        let mut back = held();
        back.on_went_back(place(2), place(0));
        assert_eq!(
            (back.take_due(0, BATCH_ENTRIES, start).unwrap().last, back.end()),
            (Some(place(2)), place(2))
        );
        let mut again_alone = held();
        again_alone.on_place(place(3));
        again_alone.on_place(place(1));
        assert_eq!(
            (again_alone.take_due(0, BATCH_ENTRIES, start), again_alone.end()),
            (None, place(1)),
            "the rest is read again"
        );
        let mut lost = held();
        lost.lose(place(7), 3, start);
        lost.on_place(Place { read: Some(4), ..place(7) });
        let due = lost.take_due(0, BATCH_ENTRIES, start).unwrap();
        assert_eq!((lost.lacks(&due), lost.take_lost(&due)), (true, 3), "nobody has given them up");
        lost.on_place(place(7));
        assert_eq!(lost.take_due(0, BATCH_ENTRIES, start), None, "the other instance had them all");
        let mut trimmed = HeldBatches::new(AFTER);
        trimmed.on_place(place(0));
        for n in 3..=4 {
            let before = trimmed.end();
            trimmed.hold_reread((before.id, before.next(id(n))), keys(&["a"]), start);
        }
        trimmed.lose(place(4), 2, start + AFTER);
        trimmed.on_place(place(3));
        let rest = trimmed.take_due(0, BATCH_ENTRIES, start).unwrap();
        assert_eq!(rest.last, Some(place(4)), "the other instance had what is lost here");
        let all = trimmed.take_due(0, BATCH_ENTRIES, start + AFTER).unwrap();
        assert!(all.batches == 2 && !trimmed.lacks(&all));
        let mut anew = held();
        anew.on_stream_anew();
        assert_eq!(anew.end(), Place::default());
        anew.hold((id(0), place(1)), 1, keys(&["z"]), start);
        let old = anew.take_due(0, BATCH_ENTRIES, start).unwrap();
        assert_eq!((old.last, old.batches), (None, 4), "the old stream's keys move no place");
        anew.on_place(Place::default());
        assert_eq!(
            anew.take_due(0, BATCH_ENTRIES, start).unwrap().batches,
            4,
            "and no place takes them along"
        );
        anew.on_done(&old);
        assert_eq!(anew.take_due(0, BATCH_ENTRIES, start).unwrap().last, Some(place(1)));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let start = Instant::now();
        let mut held = HeldBatches::new(AFTER);
        let large: Vec<Change> =
            (0..1000).map(|n| Change::removal(format!("{n:04000}").into_bytes().into())).collect();
        for n in 1..100 {
            held.hold((id(n - 1), place(n)), 1, large.clone(), start);
        }
        assert!(!held.has_room() && held.bytes() < HELD_BYTES + 5_000_000);
        assert_eq!(held.end(), place(3));
        assert_eq!(held.take_due(0, BATCH_ENTRIES, start).unwrap().batches, 3, "the same keys are one call");
    }

    #[test]
    fn marks_are_written_and_read_and_what_is_no_mark_ends_them() {
        let mut marks = Marks::default();
        marks.add(id(1), 1000, AFTER);
        marks.add(EntryId { milliseconds: 7, sequence: 3 }, 1400, AFTER);
        assert_eq!(marks.text(), "1-0 1000 7-3 1400");
        assert_eq!(Marks::parse(marks.text().as_bytes()), marks);
        assert_eq!(Marks::parse(b"1-0 1000 x 5 7-0 6").0.len(), 1);
        assert_eq!(Marks::parse(b""), Marks::default());
        assert_eq!(
            (marks.time_of(id(1)), marks.time_of(id(2)), marks.time_of(id(8))),
            (Some(1000), Some(1400), None)
        );
        marks.forget(id(1));
        assert_eq!(marks.text(), "7-3 1400");
    }

    proptest! {
        /// However often a daemon crashes and makes a mark, an entry's second pass comes.
        #[test]
        fn marks_say_never_too_early_and_not_much_too_late(steps in prop::collection::vec(1..900_u64, 1..60)) {
            let mut marks = Marks::default();
            let mut time = 0;
            let mut cleared = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                time += step;
                let at = id(n as u64 + 1);
                cleared.push((at, time));
                marks.add(at, time, AFTER);
                for (entry, when) in &cleared {
                    let marked = marks.time_of(*entry).unwrap();
                    prop_assert!(marked >= *when, "{entry} at {when} is marked {marked}");
                    prop_assert!(marked - when <= 500 + 900, "{entry} at {when} is marked {marked}");
                }
                prop_assert!(marks.0.len() as u64 <= 3 + 2 * time / 500);
            }
        }
    }
}
