//! `tidegate::fuzzing::snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate::fuzzing::snapshot(input));
