//! Files that change without the log.

use super::*;

/// Opens a damaged disk, or continues with a log that was open before; both must find the same.
fn both(disk: &MemoryDisk, damage: impl Fn(&MemoryDisk)) -> [(&'static str, Log<MemoryDisk>); 2] {
    let running = disk.copy();
    let (log, _) = open(&running, OPTIONS);
    damage(&running);
    let stopped = disk.copy();
    damage(&stopped);
    [("running", log), ("stopped", open(&stopped, OPTIONS).0)]
}

/// The log works on behind what happened, and nothing damaged counts once it is released.
#[track_caller]
fn goes_on(mut log: Log<MemoryDisk>, what: &str) {
    log.write(&records(100..110)).unwrap();
    let pieces = all(&mut log);
    assert_eq!(missing(&pieces, 100..110, what), NONE, "{what}");
    let disk = log.storage.clone();
    drop(log);
    let (mut log, recovered) = open(&disk, OPTIONS);
    assert!(recovered.records >= 10, "{what}");
    all(&mut log);
    log.release(&mark(109)).unwrap();
    assert!(log.is_empty() && log.bytes() == 0, "{what}: {:?}", disk.names());
    assert!(disk.names().iter().all(|name| is_aside(name)), "{what}: {:?}", disk.names());
}

#[test]
fn a_byte_that_changes_costs_at_most_its_record() {
    let disk = filled(20);
    let (mut damaged, mut kept) = (0, 0);
    for name in disk.names() {
        for byte in 0..disk.content(&name).len() {
            let bit = u8::try_from(byte % 8).unwrap();
            for (state, mut log) in both(&disk, |disk| disk.flip(&name, byte, bit)) {
                let what = format!("{state}, byte {byte} of {name}");
                let lost = missing(&all(&mut log), 1..=20, &what);
                assert!(lost.len() <= 1, "{what}: {lost:?}");
                damaged += lost.len();
                if byte % 16 == 3 {
                    let disk = log.storage.clone();
                    goes_on(log, &what);
                    kept += disk.names().len();
                }
            }
        }
    }
    assert!(damaged > 2_000 && kept > 100, "{damaged} and {kept}");
}

#[test]
fn a_file_that_is_cut_off_anywhere_costs_its_end() {
    let disk = filled(20);
    let names = disk.names();
    for name in &names {
        for length in 0..disk.content(name).len() {
            for (state, mut log) in both(&disk, |disk| disk.shorten(name, length)) {
                let what = format!("{state}, {name} cut to {length}");
                let pieces = all(&mut log);
                if state == "stopped" && Some(name) == names.last() {
                    // Nothing tells it from a crash.
                    let found = pieces.iter().map(|piece| match piece {
                        Piece::Record(record) => number(&record.mark),
                        Piece::Damage(damage) => panic!("{what}: {damage:?}"),
                    });
                    let found: Vec<u64> = found.collect();
                    assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "{what}");
                } else if state == "stopped" && Some(name) == names.first() && length < HEAD {
                    // The loss is delivered, and its size is unknown.
                    let Piece::Damage(damage) = &pieces[0] else { panic!("{what}: {pieces:?}") };
                    assert_eq!((damage.records, damage.events), (None, None), "{what}");
                } else {
                    let lost = missing(&pieces, 1..=20, &what);
                    assert_eq!(
                        lost.is_empty(),
                        length >= disk.content(name).len() - HEAD,
                        "{what}: {lost:?}"
                    );
                }
                if length % 32 == 0 {
                    goes_on(log, &what);
                }
            }
        }
    }
}

#[test]
fn a_file_that_is_removed_costs_what_was_in_it() {
    let disk = filled(20);
    let names = disk.names();
    for (at, name) in names.iter().enumerate() {
        for (state, mut log) in both(&disk, |disk| disk.delete(name)) {
            let what = format!("{state}, {name} removed");
            let pieces = all(&mut log);
            let at_an_end = at == 0 || at + 1 == names.len();
            if state == "stopped" && at_an_end {
                // The first may have been released, and nothing is known of the last one.
                assert!(pieces.iter().all(|piece| matches!(piece, Piece::Record(_))), "{what}");
            } else {
                assert!(!missing(&pieces, 1..=20, &what).is_empty(), "{what}");
            }
            goes_on(log, &what);
        }
    }
}

#[test]
fn several_files_that_are_damaged_lose_only_what_is_damaged() {
    let disk = filled(20);
    for (at, name) in disk.names().iter().enumerate() {
        disk.flip(name, HEAD + 30 + at, 1);
        let middle = disk.content(name).len() / 2;
        disk.flip(name, middle, 7);
    }
    let (mut log, recovered) = open(&disk, OPTIONS);
    let lost = missing(&all(&mut log), 1..=20, "several");
    assert!(lost.len() >= disk.names().len(), "{lost:?}");
    assert_eq!(recovered.records, 20 - lost.len() as u64);
    assert!(recovered.damages > 0);
    goes_on(log, "several");
}

#[test]
fn what_somebody_published_is_never_taken_for_a_record() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk, Options { segment_bytes: 1 << 20, ..OPTIONS });
    log.write(&records(1..4)).unwrap();
    let [name] = &disk.names()[..] else { panic!("one file") };
    // The worst case: it knows the file so far, marker included, and how the checksum is made.
    let mut forged = Vec::new();
    let stand = Stand { records: 500, events: 500, mark: Some(mark(50)) };
    let salt = log.writer.as_ref().unwrap().salt;
    for offset in [0, 77, 400] {
        let mut frame = Vec::new();
        record::encode(
            &mut frame,
            salt,
            offset,
            &Frame { kind: FrameKind::Record, events: 1, stand, body: b"forged" },
        );
        forged.extend(frame);
        forged.extend(disk.content(name));
    }
    let begin = disk.content(name).len();
    log.write(&[Record { mark: mark(4), events: 1, body: forged }]).unwrap();
    log.write(&records(5..8)).unwrap();
    for byte in begin..begin + HEAD {
        let copy = disk.copy();
        copy.flip(name, byte, 3);
        let pieces = all(&mut open(&copy, OPTIONS).0);
        let numbers: Vec<u64> = pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Record(record) => Some(number(&record.mark)),
                Piece::Damage(_) => None,
            })
            .collect();
        assert_eq!(numbers, [1, 2, 3, 5, 6, 7], "byte {byte}");
    }
}

#[test]
fn a_tail_of_zeros_is_torn() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk, LAZY);
    log.write(&records(1..4)).unwrap();
    let name = disk.names().remove(0);
    let mut content = disk.content(&name);
    content.resize(content.len() + 10_000, 0);
    disk.put(&name, &content);
    let (mut log, recovered) = open(&disk, LAZY);
    assert_eq!((recovered.cut_bytes, recovered.damages), (10_000, 0));
    assert_eq!(missing(&all(&mut log), 1..4, "zeros"), NONE);
}

#[test]
fn damaged_files_are_kept_within_bounds() {
    let disk = filled(60);
    assert!(disk.names().len() > 8);
    for name in disk.names() {
        disk.flip(&name, HEAD + 20, 0);
    }
    let (mut log, _) = open(&disk, OPTIONS);
    all(&mut log);
    let last = disk.names().pop().unwrap();
    log.release(&mark(60)).unwrap();
    assert_eq!(log.bytes(), 0);
    let names = disk.names();
    assert!(names.iter().all(|name| is_aside(name)) && names.len() == 4, "{names:?}");
    assert!(names[3].starts_with(&last), "the newest are kept: {names:?}");
}

const OLD: &[u8] = include_bytes!("0.1.0.spool");
const OLD_NAME: &str = "00000000000000000007.spool";

fn old_bodies(pieces: &[Piece]) -> Vec<&[u8]> {
    let body = |piece| match piece {
        &Piece::Record(Record { ref body, .. }) => Some(&body[..]),
        Piece::Damage(_) => None,
    };
    pieces.iter().filter_map(body).collect()
}

#[test]
fn what_release_0_1_0_wrote_is_read_to_its_end() {
    let disk = MemoryDisk::new();
    disk.put(OLD_NAME, OLD);
    let (mut log, recovered) = open(&disk, OPTIONS);
    assert_eq!((recovered.records, recovered.last, recovered.cut_bytes), (4, Some(mark(4)), 0));
    assert_eq!(recovered.ends, Some([b"first".to_vec(), b"last".to_vec()]));
    log.write(&records(5..9)).unwrap();
    let pieces = all(&mut log);
    let old: [&[u8]; 4] = [b"first", b"", b"\x00\xff the third", b"last"];
    assert_eq!(old_bodies(&pieces[..4]), old);
    assert_eq!(missing(&pieces[4..], 5..9, "new ones"), NONE);
    assert!(
        disk.names().iter().any(|name| name.starts_with("00000000000000000008-v3-")),
        "{:?}",
        disk.names()
    );
    log.release(&mark(8)).unwrap();
    assert_eq!(disk.names(), [""; 0]);
}

#[test]
fn what_is_damaged_in_a_file_of_0_1_0_is_told() {
    for byte in 0..OLD.len() {
        let disk = MemoryDisk::new();
        disk.put(OLD_NAME, OLD);
        let (mut log, _) = open(&disk, OPTIONS);
        log.write(&records(5..9)).unwrap();
        drop(log);
        disk.flip(OLD_NAME, byte, 2);
        let (mut log, _) = open(&disk, OPTIONS);
        let pieces = all(&mut log);
        let new: Vec<Piece> = pieces[pieces.len() - 4..].to_vec();
        assert_eq!(missing(&new, 5..9, "new ones"), NONE, "byte {byte}");
        let old = &pieces[..pieces.len() - 4];
        let damages = old.iter().filter(|piece| matches!(piece, Piece::Damage(_))).count();
        let whole = old_bodies(old).len();
        assert!((whole, damages) == (4, 0) || (whole < 4 && damages == 1), "byte {byte}: {old:?}");
        assert_eq!(whole == 4, byte < 12, "byte {byte}");
        // If the length is right, the next record is found.
        let in_a_body = (12 + 32..12 + 32 + 5).contains(&byte);
        assert!(!in_a_body || whole == 3, "byte {byte}");
    }
    for length in 0..OLD.len() {
        let disk = MemoryDisk::new();
        disk.put(OLD_NAME, &OLD[..length]);
        let (mut log, recovered) = open(&disk, OPTIONS);
        let pieces = all(&mut log);
        assert_eq!((recovered.damages, pieces.len() as u64), (0, recovered.records), "cut to {length}");
    }
}

#[test]
fn a_newer_format_is_refused() {
    let disk = filled(20);
    disk.put("00000000000000000900-v4-00.spool", b"?");
    let error = Log::over(disk, OPTIONS).unwrap_err();
    assert!(matches!(error, SpoolError::Version { version: 4, .. }), "{error}");
}
