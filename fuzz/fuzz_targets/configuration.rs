//! `tidegate::fuzzing::configuration`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate::fuzzing::configuration(input));
