#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_protocol::fuzzing::frame_text(data));
