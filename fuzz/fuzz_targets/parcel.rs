//! Any bytes unpack as a parcel of changes of another node or are refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_replication::parcel::fuzz(data));
