//! Tenants: who they are, as records in a control database that the reference server could have written.
//!
//! A [`Tenant`] is a row of `_realtime.tenants` with its [`Extension`]s (`database.md 8.1`, `8.2`): its limits, its keys
//! and how its database is reached. [`Control`] reads and writes them; [`Changes`] tells which have changed, whoever
//! changed them. What is secret in them is encrypted as the reference encrypts it ([`Cipher`], `database.md 8.3`), so
//! that an existing control database is served as it is, and shown to nobody: not in `Debug`, not in a log.
//!
//! It is not the place of what tenants do at run time: sockets, limits in force, connections to their databases, and
//! which Host means which of them are the server's (`walcast`). Nor of HTTP: it says what is wrong with what was asked
//! for, not with which status.

mod changes;
mod cipher;
mod control;
mod database;
mod draft;
mod draft_extension;
mod invalid;
mod schema;
mod secret;
mod seed;
mod tenant;
mod write;

pub use changes::{Changes, Happening, Notice};
pub use cipher::{Cipher, CipherError, KeyError, Sealed};
pub use control::{Control, ControlError, ControlOptions};
pub use database::{DatabaseError, TenantDatabase};
pub use draft::Defaults;
pub use invalid::Invalid;
pub use schema::SchemaError;
pub use secret::Secret;
pub use seed::Seed;
pub use tenant::{Extension, Jwks, Shown, Tenant};
pub use write::{WriteError, Written};
