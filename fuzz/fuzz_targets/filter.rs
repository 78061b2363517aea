//! `tidegate::fuzzing::filter`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate::fuzzing::filter(input));
