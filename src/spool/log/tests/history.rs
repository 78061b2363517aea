//! Any order of calls, without faults, and the real disk.

use proptest::prelude::*;

use super::super::super::StateDirectory;
use super::*;

#[derive(Debug, Clone)]
enum Deed {
    Append(u8),
    Read(u16),
    Release(u8),
    Reopen,
    FailSync,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (1_u8..9).prop_map(Deed::Append),
        2 => any::<u16>().prop_map(Deed::Read),
        1 => any::<u8>().prop_map(Deed::Release),
        1 => Just(Deed::Reopen),
        1 => Just(Deed::FailSync),
    ];
    proptest::collection::vec(deed, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn it_gives_back_what_it_was_given(deeds in deeds(), always: bool) {
        let options = if always { OPTIONS } else { LAZY };
        let disk = MemoryDisk::new();
        let (mut log, _) = open(&disk, options);
        let (mut next, mut read, mut released) = (0_u64, 0_u64, 0_u64);
        for deed in deeds {
            match deed {
                Deed::Append(count) => {
                    let mut left = records(next..next + u64::from(count));
                    while let Err((_, written)) = log.write(&left) {
                        left.drain(..written);
                    }
                    next += u64::from(count);
                }
                Deed::Read(bytes) => {
                    for piece in log.read(usize::from(bytes)).unwrap() {
                        let Piece::Record(found) = piece else { panic!("{piece:?}") };
                        let number = number(&found.mark);
                        // Released records may be gone or not; the first unreleased one is next.
                        prop_assert!(number == read || (number > read && number <= released));
                        prop_assert_eq!(found, record(number));
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
                    let (again, recovered) = open(&disk, options);
                    prop_assert_eq!((recovered.cut_bytes, recovered.damages), (0, 0));
                    prop_assert!(recovered.records >= next - released);
                    log = again;
                    read = next - recovered.records;
                    prop_assert!(read <= released);
                }
                Deed::FailSync => disk.fail_syncs(1),
            }
            let size: u64 = disk.names().iter().map(|name| disk.content(name).len() as u64).sum();
            prop_assert_eq!(log.bytes(), size);
        }
        let rest = all(&mut log);
        let last = rest.last().map(|piece| match piece {
            Piece::Record(record) => number(&record.mark),
            Piece::Damage(damage) => panic!("{damage:?}"),
        });
        // As above: released and unread records may be gone.
        let may_be_gone = last.is_none() && released == next;
        prop_assert!(may_be_gone || last == (read < next).then(|| next - 1), "{last:?}");
    }
}

#[test]
fn the_real_disk_does_the_same() {
    let place = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(place.path()).unwrap();
    let claim = || state.spool("orders").unwrap();
    let (mut log, _) = Log::open(claim(), OPTIONS).unwrap();
    log.write(&records(1..=20)).unwrap();
    assert!(matches!(state.spool("orders"), Err(SpoolError::InUse { .. })), "the log has it");
    drop(log);
    let directory = place.path().join("spool/orders");
    let mut files: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in &files {
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(file).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
    // One byte of one file, and another file.
    let mut content = std::fs::read(&files[1]).unwrap();
    content[HEAD + 40] ^= 4;
    std::fs::write(&files[1], content).unwrap();
    std::fs::remove_file(&files[2]).unwrap();
    let (mut log, recovered) = Log::open(claim(), OPTIONS).unwrap();
    let lost = missing(&all(&mut log), 1..=20, "on disk");
    assert_eq!(recovered.records, 20 - lost.len() as u64);
    assert!(lost.len() > 1);
    log.release(&mark(20)).unwrap();
    drop(log);
    let left: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [files[1].with_extension("spool.damaged").file_name().unwrap()]);
}
