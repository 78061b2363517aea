//! The gate of `.ci/run`: a capture reaches so much of the ideal client, on a machine that others use too.
//!
//! A single run says nothing there: another's work may fall on either side. So ideal client and captures run in
//! turns, each pair gives a ratio, and the median of the ratios decides, which a few disturbed pairs do not
//! move. Where the first pairs are below, ten more are run and the median of all of them decides: none is thrown
//! away, the output shows each, and there is no third look.

use std::time::Duration;

use crate::cell::Cell;
use crate::throughput::{IDEAL, Row, capture};

/// The least of the ideal client's throughput.
const LEAST: f64 = 0.80;
const PAIRS: usize = 5;
const MORE_PAIRS: usize = 10;
const EACH: Duration = Duration::from_secs(2);

/// True where every capture is fast enough.
pub(crate) fn passes() -> bool {
    let mut row = capture(Cell::PLAIN, PAIRS, EACH, false);
    if enough(&row) {
        return true;
    }
    println!("{MORE_PAIRS} more pairs, and all of them count");
    for (runs, more) in row.runs.iter_mut().zip(capture(Cell::PLAIN, MORE_PAIRS, EACH, false).runs) {
        runs.samples.extend(more.samples);
    }
    enough(&row)
}

fn enough(row: &Row) -> bool {
    let mut enough = true;
    for runs in &row.runs[1..] {
        let ratio = row.ratio(&runs.name, IDEAL).expect("it was measured");
        let pairs = runs.samples.len();
        println!(
            "{}: {ratio} of the ideal client's throughput in {pairs} pairs (at least {LEAST:.2})",
            runs.name
        );
        enough &= ratio.median >= LEAST;
    }
    enough
}
