//! What the migrations make of a database: the table `realtime.messages` and the functions that applications call.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy sees tests, not what they call"
)]

mod functions;
mod partitions;
mod scene;
mod stream;
mod table;
mod upkeep;
