//! A spool directory with any files in it, forged ones too: their checksums are right.
//!
//! A local user with write access can make tidegate read anything. It must not panic, must not lose its own records,
//! and must not count more than a log can hold.

#![allow(clippy::unwrap_used, reason = "what cannot go on has found something")]

use super::record::{self, Frame, FrameKind, Stand, v1};
use super::segment::Segment;
use super::storage::MemoryDisk;
use super::{Fsync, Log, Mark, Options, Piece, Record, SpoolError};
use crate::text::fuzz_input::FuzzInput;

const OPTIONS: Options = Options { limit_bytes: 1 << 20, segment_bytes: 700, fsync: Fsync::Always };
const KINDS: [FrameKind; 4] = [FrameKind::Record, FrameKind::Begin, FrameKind::Unsure, FrameKind::Seal];
/// Files of an input.
const FILES: u64 = 4;
/// Frames of a file.
const FRAMES: u8 = 12;
/// After every mark of a forged record.
const LAST: Mark = [255; 24];

/// Opens the log, reads it, writes, and does so again as the next process.
pub fn spool_log(input: &[u8]) {
    let mut input = FuzzInput(input);
    let disk = MemoryDisk::new();
    for number in 1..=FILES {
        if input.is_empty() {
            break;
        }
        forge(&mut input, &disk, number);
    }
    let Some(mut log) = open(&disk) else { return };
    let before = read(&mut log);
    let own = Record { mark: LAST, events: 3, body: b"own".to_vec() };
    log.write(std::slice::from_ref(&own)).unwrap();
    let expected = Piece::Record(own);
    let after = read(&mut log);
    assert_eq!(after.last(), Some(&expected));
    drop(log);

    let mut log = open(&disk).unwrap();
    let again = read(&mut log);
    let records = |pieces: &[Piece]| -> Vec<Piece> {
        pieces.iter().filter(|piece| matches!(piece, Piece::Record(_))).cloned().collect()
    };
    assert_eq!(records(&again), [records(&before), vec![expected]].concat());
    log.release(&LAST).unwrap();
    assert_eq!(read(&mut log), []);
}

fn open(disk: &MemoryDisk) -> Option<Log<MemoryDisk>> {
    match Log::over(disk.clone(), OPTIONS) {
        Ok((log, _)) => Some(log),
        Err(SpoolError::Version { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Reads everything, and checks that its events can be added up.
fn read(log: &mut Log<MemoryDisk>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    loop {
        let more = log.read(100).unwrap();
        if more.is_empty() {
            break;
        }
        pieces.extend(more);
    }
    let mut events = pieces.iter().map(|piece| match piece {
        Piece::Record(record) => record.events,
        Piece::Damage(damage) => damage.events.unwrap_or_default(),
    });
    let sum = events.try_fold(0_u64, u64::checked_add);
    assert!(
        sum.is_some_and(|sum| sum.checked_mul(1_000).is_some()),
        "more events than any log can hold: {pieces:?}"
    );
    pieces
}

fn forge(input: &mut FuzzInput<'_>, disk: &MemoryDisk, number: u64) {
    let salt = number.wrapping_mul(0x0123_4567_89ab_cdef);
    let newest = Segment::new(number, salt).name;
    let first = format!("{number:020}.spool");
    let kind = input.byte();
    let mut content = Vec::new();
    match kind % 3 {
        0 => {
            for _ in 0..input.byte() % FRAMES {
                frame(input, &mut content, salt);
            }
        }
        1 => {
            content.extend(v1::header());
            for _ in 0..input.byte() % FRAMES {
                let (mark, body) = (mark(input.byte()), body(input));
                content.extend(v1::record(&mark, &body));
            }
        }
        _ => {
            let length = usize::from(input.byte());
            content.extend_from_slice(input.bytes(length));
        }
    }
    // A disk that lost something.
    if kind & 0x40 != 0 && !content.is_empty() {
        let at = usize::from(input.byte()) * 7 % content.len();
        content[at] ^= 1 << (input.byte() % 8);
    }
    if kind & 0x80 != 0 {
        content.truncate(usize::from(input.byte()) * 5);
    }
    disk.put(if kind % 3 == 1 { &first } else { &newest }, &content);
}

fn frame(input: &mut FuzzInput<'_>, content: &mut Vec<u8>, salt: u64) {
    let kind = input.of(&KINDS);
    let (records, events, all) = (input.number(), input.number(), input.number());
    let mark = Some(mark(input.byte()));
    let body = if kind == FrameKind::Record { body(input) } else { Vec::new() };
    let mut frame = Vec::new();
    let stand = Stand { records, events: all, mark };
    record::encode(&mut frame, salt, content.len() as u64, &Frame { kind, events, stand, body: &body });
    content.extend(frame);
}

fn mark(number: u8) -> Mark {
    let mut mark = Mark::default();
    mark[0] = number.min(250);
    mark
}

fn body(input: &mut FuzzInput<'_>) -> Vec<u8> {
    vec![b'x'; 1 + usize::from(input.byte()) % 40]
}
