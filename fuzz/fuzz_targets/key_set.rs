//! Any text is a JSON Web Key Set or is refused, and no key of one breaks a verification.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast::fuzzing::key_set(data));
