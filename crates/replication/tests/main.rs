//! The stream against a real Postgres, and against servers that are none.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken fact may stop a test")]

#[path = "main/change.rs"]
mod change;
#[path = "main/loss.rs"]
mod loss;
#[path = "main/publication.rs"]
mod publication;
#[path = "main/relation.rs"]
mod relation;
#[path = "main/server.rs"]
mod server;
#[path = "main/watched.rs"]
mod watched;
