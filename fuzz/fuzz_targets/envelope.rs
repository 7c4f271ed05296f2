//! Any bytes on a channel are a publication of a node or are refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    walcast_cluster::fuzzing::envelope(data);
});
