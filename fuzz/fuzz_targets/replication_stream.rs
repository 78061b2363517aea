//! `tidegate::fuzzing::replication_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate::fuzzing::replication_stream(input));
