//! Records of tenants in a real control database.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states facts; a broken fact may stop it"
)]

mod changes;
mod reading;
mod scene;
mod schema;
mod sealing;
mod seeding;
mod writing;
