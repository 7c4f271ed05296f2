//! Any JSON object is an entry of `postgres_changes` or is refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_changes::fuzzing::binding(data));
