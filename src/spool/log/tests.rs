//! The log on a disk in memory, with each fault at each byte.

mod damage;
mod history;
mod refusals;

use std::time::Duration;

use super::super::segment::is_aside;
use super::super::storage::MemoryDisk;
use super::*;

/// Segments of a few records.
const OPTIONS: Options = Options { limit_bytes: 1 << 20, segment_bytes: 700, fsync: Fsync::Always };
/// Syncs only on a test's request or at the end of a segment.
const LAZY: Options = Options { fsync: Fsync::Every(Duration::from_secs(1 << 30)), ..OPTIONS };

const NONE: [u64; 0] = [];

fn mark(number: u64) -> Mark {
    let mut mark = [0; 24];
    mark[16..].copy_from_slice(&number.to_be_bytes());
    mark
}

fn number(mark: &Mark) -> u64 {
    u64::from_be_bytes(mark[16..].try_into().unwrap())
}

/// Some carry no event.
fn record(number: u64) -> Record {
    let body = vec![u8::try_from(number % 251).unwrap(); usize::try_from(1 + number * 7 % 90).unwrap()];
    Record { mark: mark(number), events: number * 5 % 4, body }
}

fn records(numbers: impl IntoIterator<Item = u64>) -> Vec<Record> {
    numbers.into_iter().map(record).collect()
}

fn open(disk: &MemoryDisk, options: Options) -> (Log<MemoryDisk>, Recovered) {
    Log::over(disk.clone(), options).unwrap()
}

/// A disk with a log of this many records, which was closed orderly.
fn filled(count: u64) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk, OPTIONS);
    for number in 1..=count {
        log.write(&records([number])).unwrap();
    }
    log.sync().unwrap();
    assert!(disk.names().len() > 3, "{:?}", disk.names());
    disk
}

fn all<S: Storage>(log: &mut Log<S>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    loop {
        // Small, so that a read ends anywhere.
        let more = log.read(100).unwrap();
        if more.is_empty() {
            return pieces;
        }
        pieces.extend(more);
    }
}

/// The records of `expected` that a reading lacks. Asserts that the rest is intact and in order, and that each loss is
/// delivered in its place, with its exact size.
#[track_caller]
fn missing(pieces: &[Piece], expected: impl IntoIterator<Item = u64>, what: &str) -> Vec<u64> {
    let mut expected = expected.into_iter().peekable();
    let mut lost: Vec<u64> = Vec::new();
    let mut here: Vec<u64> = Vec::new();
    let mut told: Vec<&Damage> = Vec::new();
    let mut last = None;
    let mut settle = |here: &mut Vec<u64>, told: &mut Vec<&Damage>, last: Option<Mark>| {
        let sum = |count: fn(&Damage) -> Option<u64>| told.iter().copied().map(count).sum::<Option<u64>>();
        assert_eq!(sum(|damage| damage.records), Some(here.len() as u64), "{what}: {told:?} for {here:?}");
        let events = here.iter().map(|number| record(*number).events).sum();
        assert_eq!(sum(|damage| damage.events), Some(events), "{what}: {told:?} for {here:?}");
        for damage in told.drain(..) {
            assert_eq!(damage.after, last, "{what}: {damage:?}");
            assert_ne!(damage.records, Some(0), "{what}: {damage:?}");
            assert!(damage.upto.is_none_or(|upto| here.contains(&number(&upto))), "{what}: {damage:?}");
        }
        lost.append(here);
    };
    for piece in pieces {
        match piece {
            Piece::Damage(damage) => told.push(damage),
            Piece::Record(read) => {
                while let Some(number) = expected.next_if(|number| mark(*number) < read.mark) {
                    here.push(number);
                }
                settle(&mut here, &mut told, last);
                assert_eq!(expected.next().map(record).as_ref(), Some(read), "{what}");
                last = Some(read.mark);
            }
        }
    }
    here.extend(expected);
    settle(&mut here, &mut told, last);
    lost
}
