//! Any text is a filter of a binding or is refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_changes::fuzzing::filter(data));
