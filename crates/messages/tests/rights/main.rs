//! Who may read and write a private channel, against Postgres (`database.md 3`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states facts; a broken fact may stop it"
)]

mod by_hand;
mod failures;
mod leftovers;
mod policies;
mod random;
mod scene;
mod sharing;
