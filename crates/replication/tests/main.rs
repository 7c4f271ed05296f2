//! The stream against a real Postgres, and against servers that are none.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken fact may stop a test")]

#[path = "main/access.rs"]
mod access;
#[path = "main/back_pressure.rs"]
mod back_pressure;
#[path = "main/change.rs"]
mod change;
#[path = "main/impostor.rs"]
mod impostor;
#[path = "main/loss.rs"]
mod loss;
#[path = "main/parcel.rs"]
mod parcel;
#[path = "main/pgoutput.rs"]
mod pgoutput;
#[path = "main/publication.rs"]
mod publication;
#[path = "main/relation.rs"]
mod relation;
#[path = "main/server.rs"]
mod server;
#[path = "main/slot.rs"]
mod slot;
#[path = "main/tls.rs"]
mod tls;
#[path = "main/watched.rs"]
mod watched;
