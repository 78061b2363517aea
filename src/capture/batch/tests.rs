use super::builder::Builder;
use super::record::NotARecord;
use super::*;
use crate::capture::mapping::FieldSink as _;
use crate::position::AnchorId;
use crate::server::resp::Message;

fn read_at(moment: Moment) -> ReadTime {
    ReadTime { moment, complete_unix_ms: moment.unix_ms }
}

/// The positions as the script reads them, whatever way they were written.
#[test]
fn positions_are_written_out_one_after_the_other() {
    let epoch = |number| Epoch { number, anchor: AnchorId::random() };
    let (first, second) = (epoch(1), epoch(2));
    let read = Moment { at: Instant::now(), unix_ms: 0 };
    let mut batch = Batch::new(Joint::Start, first.at(0), read_at(read), Arc::new(AppendOptions::default()));
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
fn only_messages_count_up_to_a_position() {
    let epoch = |number| Epoch { number, anchor: AnchorId::random() };
    let (first, second) = (epoch(1), epoch(2));
    let read = Moment { at: Instant::now(), unix_ms: 0 };
    let mut batch = Batch::new(Joint::Start, first.at(0), read_at(read), Arc::new(AppendOptions::default()));
    let message = 1;
    for (position, target) in [
        (first.at(0), TARGET_ANCHOR),
        (first.at(1), message),
        (first.at(2), message),
        (second.at(0), TARGET_ANCHOR),
        (second.at(1), message),
        (second.at(2), message),
    ] {
        batch.push(position, target, 0);
    }
    batch.events = 4;
    let up_to = [first.at(0), first.at(1), first.at(2), second.at(0), second.at(1), second.at(2)]
        .map(|position| batch.events_up_to(Some(position)));
    assert_eq!(up_to, [0, 1, 2, 2, 3, 4]);
    assert_eq!(batch.events_up_to(None), 0);
}

/// Release 0.1.0 wrote one time into a record, and the spool outlives an upgrade.
#[test]
fn a_record_of_0_1_0_loads() {
    let epoch = Epoch { number: 7, anchor: AnchorId::random() };
    let read = ReadTime { moment: Moment { at: Instant::now(), unix_ms: 9 }, complete_unix_ms: 4 };
    let mut batch = Batch::new(Joint::Start, epoch.at(3), read, Arc::new(AppendOptions::default()));
    batch.push(epoch.at(3), 1, 0);
    batch.events = 1;
    let written = batch.encode();
    assert_eq!(Batch::recorded_complete_unix_ms(&written), Some(4));
    assert_eq!(Batch::decode(&written, read.moment.at).unwrap().complete_unix_ms, 4);

    // Version, kind of joint, first, last, the time.
    let before = 2 + 2 * Position::BYTES + 8;
    let mut older = [&written[..before], &written[before + 8..]].concat();
    older[0] = 1;
    assert_eq!(Batch::recorded_complete_unix_ms(&older), Some(9));
    let loaded = Batch::decode(&older, read.moment.at).unwrap();
    assert_eq!((loaded.opened_unix_ms, loaded.complete_unix_ms), (9, 9));
    assert_eq!(loaded.encode()[before + 8..], written[before + 8..]);
}

/// Numbers that a log does not check: nothing is calculated with one that no batch has.
#[test]
fn a_record_with_numbers_that_no_batch_has_is_refused() {
    let epoch = Epoch { number: 7, anchor: AnchorId::random() };
    let read = Moment { at: Instant::now(), unix_ms: 0 };
    let gap = Gap {
        cause: crate::event::GapCause::Restart,
        detail: "a test".into(),
        started_unix_ms: 1,
        ended_unix_ms: 2,
        dropped: 3,
    };
    let mut batch =
        Batch::new(Joint::Gap(gap), epoch.at(0), read_at(read), Arc::new(AppendOptions::default()));
    batch.push(epoch.at(0), TARGET_ANCHOR, 0);
    let written = batch.encode();
    assert_eq!(Batch::decode(&written, read.at).unwrap().encode(), written);
    let mut refused = 0;
    for at in 0..written.len() - 7 {
        for number in [u64::MAX, u64::MAX - 1, 1 << 63] {
            let mut forged = written.clone();
            forged[at..at + 8].copy_from_slice(&number.to_be_bytes());
            match Batch::decode(&forged, read.at) {
                Ok(batch) => {
                    assert!(batch.item_arguments() < 1_000 && batch.items() < 1_000, "{at}");
                    assert!(batch.events.checked_mul(1_000).is_some(), "{at}");
                    assert!(batch.last.ordinal.checked_add(1).is_some(), "{at}");
                }
                Err(NotARecord) => refused += 1,
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

/// Entries as large as a mapping makes them, each into a stream of its own.
#[test]
fn a_call_stays_below_the_limit_of_arguments() {
    let epoch = Epoch { number: 1, anchor: AnchorId::random() };
    let read = Moment { at: Instant::now(), unix_ms: 0 };
    let message = Message { channel: b"c", pattern: None, payload: b"" };
    let cases: [fn(u64) -> usize; 4] =
        [|_| 1, |_| 6, |_| MAX_FIELDS, |ordinal| if ordinal < 62 { 13 } else { MAX_FIELDS }];
    for fields in cases {
        let mut builder = Builder::new(Arc::new(AppendOptions::default()));
        let mut ordinal = 1;
        while !builder.event(epoch.at(ordinal), &message, 0, read, |sink| {
            sink.stream(ordinal.to_string().as_bytes());
            (0..fields(ordinal)).for_each(|_| sink.field(b"name", b"value"));
            Ok(())
        }) {
            ordinal += 1;
        }
        let batch = builder.take().unwrap();
        let arguments = batch.item_arguments() + batch.streams().len();
        assert!(arguments + OTHER_ARGUMENTS - BATCH_ITEMS <= resp::MAX_ARGUMENTS, "{arguments} in {ordinal}");
    }
}
