//! Row level security decided in process is what Postgres itself decides.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states facts; a broken fact may stop it"
)]

mod bench;
mod random;
mod traps;
