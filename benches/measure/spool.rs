//! The spool: how fast it takes records and gives them back, against plain writes of the same bytes on the same
//! disk, with the same syncs, in turns; and what libraries reach that could stand in its place. What was just
//! written is read from the system's cache.

mod logs;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate::spool::Fsync;

use self::logs::{Took, Work};
use crate::plan::Plan;
use crate::sample::Spread;

/// A batch of 128 messages of 128 B is about so large.
const RECORD_BYTES: usize = 24 * 1024;
const PAIRS: usize = 7;

type Log = (&'static str, fn(&Path, Work<'_>) -> Took);

const LOGS: [Log; 3] =
    [("tidegate", logs::ours), ("queue-file 2.0", logs::queue_file), ("redb 2.6", logs::redb)];

/// One setting of `fsync`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    pub(crate) fsync: String,
    /// Megabytes a second of plain writes, in the median.
    pub(crate) plain: f64,
    pub(crate) logs: Vec<Measured>,
}

/// One log: what part of plain writes it reaches.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) append: Spread,
    pub(crate) drain: Spread,
}

pub(crate) fn measure(plan: Plan) -> Vec<Setting> {
    let records = usize::try_from(plan.count(2_000, 20_000)).expect("a small number");
    let body: Vec<u8> = (0..RECORD_BYTES).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    let settings = [("1s", Fsync::Every(Duration::from_secs(1))), ("always", Fsync::Always)];
    let work = |fsync| Work { records, body: &body, fsync };
    settings.map(|(name, fsync)| setting(name, work(fsync), plan.pairs(2, PAIRS))).into()
}

fn setting(name: &str, work: Work<'_>, pairs: usize) -> Setting {
    // Under target/, which is on the disk that the machine builds on, and not in memory.
    let place = crate::repository().join("target");
    let fresh = || tempfile::tempdir_in(&place).unwrap();
    let mut rates = Vec::new();
    let mut ratios = LOGS.map(|_| (Vec::new(), Vec::new()));
    for _ in 0..pairs {
        let plain = logs::plain(fresh().path(), work);
        rates.push((work.records * RECORD_BYTES) as f64 / plain / 1e6);
        for ((_, log), (append, drain)) in LOGS.iter().zip(&mut ratios) {
            let took = log(fresh().path(), work);
            append.push(plain / took.append);
            drain.push(plain / took.drain);
        }
    }
    let plain = Spread::of(rates).median;
    println!("fsync {name}: plain writes {plain:.0} MB/s");
    let measured = LOGS.iter().zip(ratios).map(|((log, _), (append, drain))| {
        let measured =
            Measured { name: (*log).to_owned(), append: Spread::of(append), drain: Spread::of(drain) };
        println!("  {log}: append {} and drain {} of plain writes", measured.append, measured.drain);
        measured
    });
    Setting { fsync: name.to_owned(), plain, logs: measured.collect() }
}
