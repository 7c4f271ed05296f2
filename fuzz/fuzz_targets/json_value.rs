#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_replication::json::fuzzing::json_value(data));
