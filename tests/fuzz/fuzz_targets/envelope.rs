//! `worker_core::fuzzing::envelope` under a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| worker_core::fuzzing::envelope(input));
