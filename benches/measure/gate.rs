//! The gate of `.ci/run`: a capture reaches so much of the ideal client, on a machine that others use too.
//!
//! Only in subscribe mode, where both give the server the same work. In replication mode it writes a stream to
//! the tap as well, with what is appended to it in it; that figure is in the table and its instructions are gated.
//!
//! A single run says nothing there: another's work may fall on either side. So ideal client and captures run in
//! turns, each pair gives a ratio, and the median of the ratios decides, which a few disturbed pairs do not
//! move. Where the first pairs are below, ten more are run and the median of all of them decides: none is thrown
//! away, the output shows each, and there is no third look.

use std::time::Duration;

use crate::sample::Spread;
use crate::throughput::{IDEAL, Row, SUBSCRIBE, subscribe_only};

/// The least of the ideal client's throughput.
const LEAST: f64 = 0.80;
const PAIRS: usize = 5;
const MORE_PAIRS: usize = 10;
const EACH: Duration = Duration::from_secs(2);

/// True where the capture is fast enough.
pub(crate) fn passes() -> bool {
    let mut row = subscribe_only(PAIRS, EACH);
    if ratio(&row).median >= LEAST {
        return true;
    }
    println!("{MORE_PAIRS} more pairs, and all of them count");
    for (runs, more) in row.runs.iter_mut().zip(subscribe_only(MORE_PAIRS, EACH).runs) {
        runs.samples.extend(more.samples);
    }
    ratio(&row).median >= LEAST
}

fn ratio(row: &Row) -> Spread {
    let ratio = row.ratio(SUBSCRIBE, IDEAL).expect("it was measured");
    let pairs = row.runs[0].samples.len();
    println!("{SUBSCRIBE}: {ratio} of the ideal client's throughput in {pairs} pairs (at least {LEAST:.2})");
    ratio
}
