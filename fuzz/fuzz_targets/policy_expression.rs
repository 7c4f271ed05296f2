//! Any text is a policy's expression or is left to Postgres.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_changes::fuzzing::policy_expression(data));
