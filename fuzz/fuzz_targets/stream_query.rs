//! Any text is the query of a stream of events or is refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast::fuzzing::stream_query(data));
