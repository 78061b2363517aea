//! The seeds of simulated histories.

use std::ops::Range;

/// Says the seed where a history panics.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again with TIDEGATE_SEED={}", self.0);
        }
    }
}

/// Reads `TIDEGATE_SEEDS`: how many seeds from 0 on, or a range such as `200000..400000`, so that several processes
/// can share a long run.
fn range(text: &str) -> Range<u64> {
    let number =
        |text: &str| text.parse::<u64>().expect("TIDEGATE_SEEDS is a number or a range of two numbers");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(text),
    }
}

/// Runs a history for each seed, beside a real server if there is one. `TIDEGATE_SEED` and `TIDEGATE_SEEDS` name other
/// seeds; of several tests of one simulation, only the one that begins at 0 runs these.
pub(crate) fn run<R>(seeds: Range<u64>, mut real: Option<R>, history: impl Fn(u64, Option<R>) -> Option<R>) {
    let first = seeds.start == 0;
    let seed = std::env::var("TIDEGATE_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    let seeds = match (seed, std::env::var("TIDEGATE_SEEDS").ok()) {
        (Some(_), _) | (_, Some(_)) if real.is_none() && !first => return,
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) if real.is_none() => range(&seeds),
        _ => seeds,
    };
    for seed in seeds {
        let _told = Told(seed);
        real = history(seed, real.take());
    }
}
