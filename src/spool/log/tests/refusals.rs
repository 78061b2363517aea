//! A disk that refuses, and a machine that ends.

use super::*;

#[test]
fn a_crash_takes_no_more_than_what_was_not_synced() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk, LAZY);
    log.write(&records(1..15)).unwrap();
    log.sync().unwrap();
    let synced = disk.names();
    log.write(&records(15..20)).unwrap();
    drop(log);
    let names = disk.names();
    assert!(names.len() >= synced.len());
    let unsynced: usize = names.iter().map(|name| disk.unsynced(name)).sum();
    assert!(unsynced > 200, "{unsynced}");
    for survives in 0..=unsynced {
        let copy = disk.copy();
        copy.crash(|_, unsynced| Some(unsynced.min(survives)));
        let (mut log, recovered) = open(&copy, LAZY);
        assert_eq!(recovered.damages, 0, "{survives}");
        assert!((14..20).contains(&recovered.records), "{survives}: {recovered:?}");
        assert_eq!(missing(&all(&mut log), 1..=recovered.records, "crash"), NONE, "{survives}");
        // It continues behind that, and the counts stay exact.
        log.write(&records(30..40)).unwrap();
        drop(log);
        let (mut log, _) = open(&copy, LAZY);
        let expected = (1..=recovered.records).chain(30..40);
        assert_eq!(missing(&all(&mut log), expected, "afterwards"), NONE, "{survives}");
    }
}

/// Writes requests of three records, each again until it is written. Asserts that the disk takes no longer than
/// it should.
fn persevere(log: &mut Log<MemoryDisk>, disk: &MemoryDisk, numbers: std::ops::Range<u64>) {
    for first in numbers.clone().step_by(3) {
        let mut left = records(first..numbers.end.min(first + 3));
        let mut refusals = 0;
        while let Err((_, written)) = log.write(&left) {
            left.drain(..written);
            refusals += 1;
            if refusals > 2 {
                disk.heal();
            }
            assert!(refusals < 6, "it does not get well");
        }
    }
}

#[test]
fn a_disk_that_fills_up_at_any_byte_loses_nothing() {
    for failing_truncates in [0, 1, 100] {
        for room in 0..1_500 {
            let disk = MemoryDisk::new();
            let (mut log, _) = open(&disk, OPTIONS);
            disk.set_room(Some(room));
            disk.fail_truncates(failing_truncates);
            persevere(&mut log, &disk, 1..16);
            let what = format!("room for {room} bytes, {failing_truncates}");
            assert_eq!(missing(&all(&mut log), 1..16, &what), NONE, "{what}");
            drop(log);
            disk.crash(|_, _| None);
            let (mut log, recovered) = open(&disk, OPTIONS);
            assert_eq!(missing(&all(&mut log), 1..16, &what), NONE, "{what}");
            assert_eq!((recovered.records, recovered.damages), (15, 0), "{what}");
        }
    }
}

#[test]
fn what_a_failed_sync_was_about_is_written_again_before_it_counts() {
    for options in [OPTIONS, LAZY] {
        for failing in 1..6 {
            for failing_truncates in [0, 100] {
                let disk = MemoryDisk::new();
                let (mut log, _) = open(&disk, options);
                log.write(&records(1..3)).unwrap();
                let what = format!("{:?}, {failing} syncs fail, {failing_truncates}", options.fsync);
                disk.fail_syncs(failing);
                disk.fail_truncates(failing_truncates);
                let mut number = 3;
                // Until all have failed and one has not.
                while log.sync().is_err() || number < 8 {
                    match log.write(&records([number])) {
                        Ok(()) => number += 1,
                        Err((_, written)) => assert_eq!(written, 0, "{what}"),
                    }
                }
                assert_eq!(missing(&all(&mut log), 1..number, &what), NONE, "{what}");
                drop(log);
                disk.crash(|_, _| Some(0));
                let (mut log, recovered) = open(&disk, options);
                assert_eq!(recovered.damages, 0, "{what}");
                assert_eq!(missing(&all(&mut log), 1..number, &what), NONE, "{what}");
            }
        }
    }
}

#[test]
fn a_request_whose_sync_fails_is_not_written_at_all() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk, OPTIONS);
    log.write(&records(1..3)).unwrap();
    let bytes = log.bytes();
    disk.fail_syncs(1);
    let (_, written) = log.write(&records(3..6)).unwrap_err();
    assert_eq!(written, 0);
    assert!(log.bytes() <= bytes);
    assert_eq!(missing(&all(&mut log), 1..3, "taken back"), NONE);
    // Other records may take their place.
    log.write(&records(7..9)).unwrap();
    disk.crash(|_, _| Some(0));
    assert_eq!(missing(&all(&mut open(&disk, OPTIONS).0), [1, 2, 7, 8], "after a crash"), NONE);
}

#[test]
fn what_cannot_be_read_back_after_a_failed_sync_is_damage() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk, LAZY);
    log.write(&records(1..4)).unwrap();
    let name = disk.names().remove(0);
    disk.fail_syncs(1);
    log.sync().unwrap_err();
    // The kernel dropped a page.
    disk.flip(&name, disk.content(&name).len() - HEAD - 5, 0);
    log.sync().unwrap();
    log.write(&records(4..6)).unwrap();
    assert_eq!(missing(&all(&mut log), 1..6, "while running"), [3]);
    log.sync().unwrap();
    disk.crash(|_, _| Some(0));
    assert_eq!(missing(&all(&mut open(&disk, LAZY).0), 1..6, "after a crash"), [3]);
}

#[test]
fn a_disk_that_fills_up_while_it_is_written_again_loses_nothing() {
    for room in 0..700 {
        let disk = MemoryDisk::new();
        let (mut log, _) = open(&disk, LAZY);
        log.write(&records(1..5)).unwrap();
        disk.fail_syncs(1);
        log.sync().unwrap_err();
        disk.set_room(Some(room));
        persevere(&mut log, &disk, 5..9);
        disk.heal();
        log.sync().unwrap();
        assert_eq!(missing(&all(&mut log), 1..9, "running"), NONE, "{room}");
        drop(log);
        disk.crash(|_, _| Some(0));
        assert_eq!(missing(&all(&mut open(&disk, LAZY).0), 1..9, "crash"), NONE, "{room}");
    }
}

#[test]
fn a_file_whose_name_cannot_be_synced_is_not_written_to() {
    for failing in 1..4 {
        let disk = MemoryDisk::new();
        let (mut log, _) = open(&disk, OPTIONS);
        disk.fail_directory_syncs(failing);
        for _ in 0..failing {
            assert_eq!(log.write(&records([1])).unwrap_err().1, 0);
        }
        log.write(&records(1..9)).unwrap();
        disk.crash(|_, _| None);
        assert_eq!(missing(&all(&mut open(&disk, OPTIONS).0), 1..9, "names"), NONE);
    }
}

#[test]
fn a_disk_that_refuses_to_read_is_asked_again_and_then_given_up() {
    for (refusals, given_up) in [(1, false), (2, false), (3, true), (100, true)] {
        let disk = filled(20);
        let names = disk.names();
        let (mut log, _) = open(&disk, OPTIONS);
        disk.refuse_reads(&names[1], refusals);
        let (mut pieces, mut failed) = (Vec::new(), 0);
        loop {
            match log.read(100) {
                Ok(more) if more.is_empty() => break,
                Ok(more) => pieces.extend(more),
                Err(error) => {
                    failed += 1;
                    assert!(error.to_string().contains(&names[1]), "{error}");
                }
            }
            assert!(failed < 3, "{refusals}");
        }
        assert_eq!(missing(&pieces, 1..=20, "refused").is_empty(), !given_up, "{refusals}");
    }
    // At the start too: such a file is kept, and its turn comes.
    let disk = filled(20);
    for name in disk.names() {
        let copy = disk.copy();
        copy.refuse_reads(&name, 1);
        let (mut log, recovered) = open(&copy, OPTIONS);
        assert!(recovered.records < 20);
        let expected: Vec<Piece> = records(1..=20).into_iter().map(Piece::Record).collect();
        assert_eq!(all(&mut log), expected, "{name}");
    }
}

#[test]
fn what_is_full_refuses_and_goes_on_when_there_is_room() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk, Options { limit_bytes: 1500, ..OPTIONS });
    let full = |number| Record { mark: mark(number), events: 1, body: vec![7; 100] };
    let mut number = 0;
    let (error, _) = loop {
        match log.write(&[full(number)]) {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SpoolError::Full { .. }), "{error}");
    assert!(number >= 5, "{number}");
    let bytes = log.bytes();
    assert!(log.write(&[full(number)]).is_err());
    assert_eq!(log.bytes(), bytes, "a refused record leaves nothing");
    log.release(&mark(number - 1)).unwrap();
    assert!(log.is_empty());
    log.write(&[full(number)]).unwrap();
    assert_eq!(all(&mut log), [Piece::Record(full(number))]);
}
