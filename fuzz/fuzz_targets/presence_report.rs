//! Any bytes in the place of a presence of another node are one or are refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    walcast_presence::fuzzing::presence_report(data);
});
