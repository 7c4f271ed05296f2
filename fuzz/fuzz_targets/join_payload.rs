#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_protocol::fuzzing::join_payload(data));
