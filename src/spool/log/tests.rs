use proptest::prelude::*;

use super::*;
use crate::position::Position;

const OPTIONS: Options = Options { limit_bytes: 1 << 20, segment_bytes: 400, fsync: Fsync::Never };

fn mark(number: u64) -> Mark {
    let mut mark = [0; 24];
    mark[16..].copy_from_slice(&number.to_be_bytes());
    mark
}

fn open(directory: &Path) -> (Log, Recovered) {
    Log::open(directory, OPTIONS).unwrap()
}

fn all(log: &mut Log) -> Vec<(Mark, Vec<u8>)> {
    log.read(usize::MAX).unwrap()
}

fn body(number: u64) -> Vec<u8> {
    vec![u8::try_from(number % 251).unwrap(); usize::try_from(number * 7 % 190).unwrap()]
}

#[derive(Debug, Clone)]
enum Deed {
    Append(u8),
    Read(u16),
    Release(u8),
    Reopen,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (1_u8..9).prop_map(Deed::Append),
        2 => any::<u16>().prop_map(Deed::Read),
        1 => any::<u8>().prop_map(Deed::Release),
        1 => Just(Deed::Reopen),
    ];
    proptest::collection::vec(deed, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_gives_back_what_it_was_given(deeds in deeds()) {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, _) = open(directory.path());
        let (mut next, mut read, mut released) = (0_u64, 0_u64, 0_u64);
        for deed in deeds {
            match deed {
                Deed::Append(count) => {
                    for number in next..next + u64::from(count) {
                        log.append(&mark(number), &body(number)).unwrap();
                    }
                    next += u64::from(count);
                }
                Deed::Read(bytes) => {
                    for (found, content) in log.read(usize::from(bytes)).unwrap() {
                        let number = Position::from_bytes(found).ordinal;
                        // What was released may be gone or not; what was not is next.
                        prop_assert!(number == read || (number > read && number <= released));
                        prop_assert_eq!(content, body(number));
                        read = number + 1;
                    }
                }
                Deed::Release(share) => {
                    let upto = next * u64::from(share) / 255;
                    if upto > 0 {
                        log.release(&mark(upto - 1)).unwrap();
                        released = released.max(upto);
                    }
                }
                Deed::Reopen => {
                    drop(log);
                    let (again, recovered) = open(directory.path());
                    prop_assert_eq!(recovered.cut_bytes, 0);
                    prop_assert!(recovered.records >= next - released);
                    log = again;
                    read = next - recovered.records;
                    prop_assert!(read <= released);
                }
            }
            let size: u64 =
                segment_files(directory.path()).unwrap().iter().map(|(_, path)| path.metadata().unwrap().len()).sum();
            prop_assert_eq!(log.bytes(), size);
        }
        let rest = all(&mut log);
        prop_assert_eq!(rest.last().map(|(found, _)| *found), (read < next).then(|| mark(next - 1)));
    }
}

#[test]
fn a_tail_that_is_torn_at_any_byte_is_cut_off() {
    let source = tempfile::tempdir().unwrap();
    let (mut log, _) = open(source.path());
    for number in 1..14 {
        log.append(&mark(number), &[7; 40]).unwrap();
    }
    drop(log);
    let files = segment_files(source.path()).unwrap();
    assert!(files.len() > 1, "there is a segment before the last");
    let (_, last) = files.last().unwrap();
    let whole = fs::read(last).unwrap();
    let earlier: u64 = files[..files.len() - 1].iter().map(|(_, path)| scan(path).unwrap().records).sum();
    let mut ends = vec![HEADER];
    let mut rest = &whole[HEADER..];
    let mut scratch = Vec::new();
    while record::read(&mut rest, &mut scratch).unwrap() != Found::End {
        ends.push(whole.len() - rest.len());
    }
    assert!(ends.len() > 2, "the last segment has several records");
    for length in 0..=whole.len() {
        fs::write(last, &whole[..length]).unwrap();
        let (mut log, recovered) = open(source.path());
        let kept = ends.iter().filter(|end| **end <= length).count().saturating_sub(1) as u64;
        assert_eq!(recovered.records, earlier + kept, "cut to {length}");
        assert_eq!(all(&mut log).len() as u64, earlier + kept, "cut to {length}");
        // It goes on behind what is whole.
        log.append(&mark(100), b"after").unwrap();
        assert_eq!(all(&mut log), [(mark(100), b"after".to_vec())]);
        drop(log);
        for (_, path) in segment_files(source.path()).unwrap().into_iter().filter(|(_, path)| path > last) {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_bit_that_flips_anywhere_before_the_last_segment_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    for number in 1..12 {
        log.append(&mark(number), &body(number)).unwrap();
    }
    drop(log);
    let (_, first) = segment_files(directory.path()).unwrap().remove(0);
    let whole = fs::read(&first).unwrap();
    for at_byte in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at_byte] ^= 1 << (at_byte % 8);
        fs::write(&first, &damaged).unwrap();
        match Log::open(directory.path(), OPTIONS) {
            Err(SpoolError::Corrupt { file, offset, .. }) => {
                assert_eq!(file, first);
                assert!(offset <= at_byte as u64, "byte {at_byte}");
            }
            Err(SpoolError::Version { .. }) => assert!((8..12).contains(&at_byte), "byte {at_byte}"),
            other => panic!("byte {at_byte}: {other:?}"),
        }
    }
    // Put aside, it is still there for a person, and the log can be opened.
    assert!(Log::set_aside(directory.path()).unwrap() >= 2);
    assert!(first.with_extension("corrupt").exists());
    let (mut log, recovered) = open(directory.path());
    assert_eq!((recovered.records, all(&mut log).len()), (0, 0));
}

#[test]
fn what_is_full_refuses_and_goes_on_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { limit_bytes: 1000, ..OPTIONS };
    let (mut log, _) = Log::open(directory.path(), options).unwrap();
    let mut number = 0;
    let error = loop {
        match log.append(&mark(number), &[7; 100]) {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SpoolError::Full { .. }), "{error}");
    assert!(number >= 5, "{number}");
    let bytes = log.bytes();
    assert!(log.append(&mark(number), &[7; 100]).is_err());
    assert_eq!(log.bytes(), bytes, "a refused record leaves nothing");
    log.release(&mark(number - 1)).unwrap();
    assert!(log.is_empty());
    log.append(&mark(number), &[7; 100]).unwrap();
    assert_eq!(all(&mut log), [(mark(number), vec![7; 100])]);
}
