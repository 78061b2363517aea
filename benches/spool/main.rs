//! `make bench`: how fast the spool takes records and gives them back, against plain writes of the same bytes on
//! the same disk, with the same syncs, in turns. What was just written is read from the system's cache.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on says so by a panic")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use tidegate::spool::{Fsync, Log, Mark, Options};

/// A batch of 128 messages of 128 B is about so large.
const RECORD_BYTES: usize = 24 * 1024;
/// As many records as the writer's thread is given at once.
const REQUEST: usize = 40;

fn mark(number: usize) -> Mark {
    let mut mark = [0; 24];
    mark[16..].copy_from_slice(&(number as u64).to_be_bytes());
    mark
}

/// Records; seconds to write them and to read them back.
fn spool(directory: &Path, records: usize, body: &[u8], fsync: Fsync) -> (f64, f64) {
    let options = Options { limit_bytes: u64::MAX, segment_bytes: 64 << 20, fsync };
    let (mut log, _) = Log::open(directory, options).unwrap();
    let begun = Instant::now();
    for number in 0..records {
        log.append(&mark(number), body).unwrap();
        log.tick(number % REQUEST == REQUEST - 1).unwrap();
    }
    log.sync().unwrap();
    let written = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let mut read = 0;
    loop {
        let records = log.read(1 << 20).unwrap();
        if records.is_empty() {
            break;
        }
        read += records.len();
    }
    assert_eq!(read, records);
    (written, begun.elapsed().as_secs_f64())
}

/// The same bytes without anything.
fn raw(path: &Path, records: usize, body: &[u8], fsync: Fsync) -> (f64, f64) {
    let mut file = File::create(path).unwrap();
    let begun = Instant::now();
    let mut synced = Instant::now();
    for number in 0..records {
        file.write_all(body).unwrap();
        let due = match fsync {
            Fsync::Always => number % REQUEST == REQUEST - 1,
            Fsync::Every(interval) => synced.elapsed() >= interval,
            Fsync::Never => false,
        };
        if due {
            file.sync_data().unwrap();
            synced = Instant::now();
        }
    }
    file.sync_data().unwrap();
    let written = begun.elapsed().as_secs_f64();
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; 256 * 1024];
    let begun = Instant::now();
    let mut read = 0;
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            count => read += count,
        }
    }
    assert_eq!(read, records * body.len());
    (written, begun.elapsed().as_secs_f64())
}

fn main() {
    let full = std::env::args().any(|argument| argument == "full");
    let (pairs, records) = if full { (7, 20_000) } else { (3, 4_000) };
    let body: Vec<u8> = (0..RECORD_BYTES).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    // Under target/, which is on the disk that the machine builds on, and not in memory.
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    for (name, fsync) in [("fsync 1s", Fsync::Every(Duration::from_secs(1))), ("fsync always", Fsync::Always)]
    {
        let (mut append, mut drain) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            let directory = tempfile::tempdir_in(&place).unwrap();
            let plain = raw(&directory.path().join("raw"), records, &body, fsync);
            let ours = spool(&directory.path().join("spool"), records, &body, fsync);
            append.push(plain.0 / ours.0);
            drain.push(plain.0 / ours.1);
            println!(
                "{name}: append {:.0} MB/s against {:.0}, drain {:.0} MB/s against {:.0}",
                rate(records, ours.0),
                rate(records, plain.0),
                rate(records, ours.1),
                rate(records, plain.1)
            );
        }
        println!(
            "{name}: append {:.2} and drain {:.2} of plain writes  (goal: at least 0.50)",
            median(&append),
            median(&drain)
        );
    }
}

fn rate(records: usize, seconds: f64) -> f64 {
    (records * RECORD_BYTES) as f64 / seconds / 1e6
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
