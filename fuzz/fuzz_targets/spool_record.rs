//! `tidegate::fuzzing::spool_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate::fuzzing::spool_record(input));
