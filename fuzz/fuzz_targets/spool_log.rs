//! `tidegate::fuzzing::spool_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate::fuzzing::spool_log(input));
