//! Any bytes decode as a message of the replication stream or are refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_replication::pgoutput::fuzz(data));
