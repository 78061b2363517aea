use super::*;
use crate::position::AnchorId;

/// The positions as the script reads them, whatever way they were written.
#[test]
fn positions_are_written_out_one_after_the_other() {
    let epoch = |number| Epoch { number, anchor: AnchorId::random() };
    let (first, second) = (epoch(1), epoch(2));
    let read = Moment { at: std::time::Instant::now(), unix_ms: 0 };
    let mut batch = Batch::new(Joint::Start, first.at(0), read, Arc::new(Options::default()));
    let ordinals = [0, 1, 8, 9, 10, 98, 99, 100, 999_999_999, 1_000_000_000, u64::MAX - 1, u64::MAX];
    let again = [0, 1, 2, 40];
    for ordinal in ordinals {
        batch.push(first.at(ordinal), TARGET_ANCHOR, 0);
    }
    for ordinal in again {
        batch.push(second.at(ordinal), TARGET_ANCHOR, 0);
    }
    let written = |index: usize, ordinals: &[u64]| -> String {
        ordinals.iter().map(|ordinal| format!("{index:02}{ordinal:020}")).collect()
    };
    assert_eq!(String::from_utf8(batch.positions).unwrap(), written(0, &ordinals) + &written(1, &again));
}

#[test]
fn messages_are_counted_by_where_they_stand() {
    let epoch = |number| Epoch { number, anchor: AnchorId::random() };
    let (first, second) = (epoch(1), epoch(2));
    let read = Moment { at: std::time::Instant::now(), unix_ms: 0 };
    let mut batch = Batch::new(Joint::Start, first.at(0), read, Arc::new(Options::default()));
    batch.push(first.at(0), TARGET_ANCHOR, 0);
    for ordinal in 1..=9 {
        batch.push(first.at(ordinal), TARGET_FILTERED, 0);
    }
    batch.push(second.at(0), TARGET_ANCHOR, 0);
    batch.push(second.at(1), 1, 4);
    batch.end_run();
    assert_eq!(batch.events_between(None, second.at(9)), 10);
    assert_eq!(batch.events_between(Some(first.at(3)), second.at(1)), 6, "both ends are outside");
    assert_eq!(batch.events_between(Some(second.at(1)), second.at(9)), 0);
}
