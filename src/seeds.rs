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

/// Runs a history for each seed, beside a real server if there is one. `TIDEGATE_SEED` and `TIDEGATE_SEEDS` name other
/// seeds; of several tests of one simulation, only the one that begins at 0 runs these.
pub(crate) fn run<R>(seeds: Range<u64>, mut real: Option<R>, history: impl Fn(u64, Option<R>) -> Option<R>) {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
    let first = seeds.start == 0;
    let seeds = match (number("TIDEGATE_SEED"), number("TIDEGATE_SEEDS")) {
        (Some(_), _) | (_, Some(_)) if real.is_none() && !first => return,
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) if real.is_none() => 0..seeds,
        _ => seeds,
    };
    for seed in seeds {
        let _told = Told(seed);
        real = history(seed, real.take());
    }
}
