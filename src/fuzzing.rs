//! The fuzz targets: one function for each, which takes any bytes and panics if a promise is broken.
//!
//! The functions are beside the code that they test, because that is private. This module exports them, behind the
//! feature `fuzzing` (`fuzz/`) and in tests, which replay the inputs under `fuzz/corpus/`. A release has neither.

pub use crate::capture::fuzz::spool_record;
pub use crate::config::fuzz::configuration;
pub use crate::filter::fuzz::filter;
pub use crate::source::replication::fuzz::{replication_stream, snapshot};
pub use crate::spool::fuzz::spool_log;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 6] = [
        ("configuration", super::configuration),
        ("filter", super::filter),
        ("replication_stream", super::replication_stream),
        ("snapshot", super::snapshot),
        ("spool_log", super::spool_log),
        ("spool_record", super::spool_record),
    ];

    #[test]
    fn the_corpus_of_every_target_is_replayed() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        for (name, target) in TARGETS {
            let mut inputs: Vec<_> = fs::read_dir(fuzz.join("corpus").join(name))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            inputs.sort();
            assert!(inputs.len() >= 5, "{name}: only {inputs:?}");
            for input in inputs {
                println!("{}", input.display());
                target(&fs::read(&input).unwrap());
            }
        }
    }

    #[test]
    fn every_target_has_a_program() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let names = |folder: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(fuzz.join(folder)).unwrap();
            entries
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect()
        };
        // The reader of RESP is public, and tests/resp.rs replays its corpus.
        let mut targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        targets.insert("resp".to_owned());
        assert_eq!(names("fuzz_targets"), targets);
        assert_eq!(names("corpus"), targets);
    }
}
