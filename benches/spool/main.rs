//! `make bench`: how fast the spool takes records and gives them back, against plain writes of the same bytes on
//! the same disk, with the same syncs, in turns; and what libraries reach that could stand in its place. What was
//! just written is read from the system's cache.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on says so by a panic")]

mod logs;

use std::path::Path;
use std::time::Duration;

use logs::{Took, Work};
use tidegate::spool::Fsync;

/// A batch of 128 messages of 128 B is about so large.
const RECORD_BYTES: usize = 24 * 1024;

type Way = (&'static str, fn(&Path, Work<'_>) -> Took);

const WAYS: [Way; 3] =
    [("tidegate's log", logs::ours), ("queue-file", logs::queue_file), ("redb", logs::redb)];

fn main() {
    let full = std::env::args().any(|argument| argument == "full");
    let (pairs, records) = if full { (7, 20_000) } else { (3, 4_000) };
    let body: Vec<u8> = (0..RECORD_BYTES).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    // Under target/, which is on the disk that the machine builds on, and not in memory.
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    for (name, fsync) in [("fsync 1s", Fsync::Every(Duration::from_secs(1))), ("fsync always", Fsync::Always)]
    {
        let work = Work { records, body: &body, fsync };
        let mut ratios = WAYS.map(|_| (Vec::new(), Vec::new()));
        for _ in 0..pairs {
            let fresh = || tempfile::tempdir_in(&place).unwrap();
            let plain = logs::plain(fresh().path(), work);
            for ((_, way), (append, drain)) in WAYS.iter().zip(&mut ratios) {
                let took = way(fresh().path(), work);
                append.push(plain / took.append);
                drain.push(plain / took.drain);
            }
            println!("{name}: plain writes {:.0} MB/s", rate(records, plain));
        }
        for ((way, _), (append, drain)) in WAYS.iter().zip(&ratios) {
            println!(
                "{name}: {way}: append {:.2} and drain {:.2} of plain writes",
                median(append),
                median(drain)
            );
        }
    }
    println!("goal for tidegate's log: at least 0.50");
}

fn rate(records: usize, seconds: f64) -> f64 {
    (records * RECORD_BYTES) as f64 / seconds / 1e6
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
