//! Throwaway Postgres for tests, one cluster a test process, one database a test; and throwaway Redis.
//!
//! [`Postgres::shared`] is the cluster of the process, started when it is first asked for; [`Postgres::start`] is one
//! of the test's own, for what would disturb others: restarts, settings, authentication. Either way a test works in a
//! [`Database`] of its own, which holds what the Supabase platform provides. `WALCAST_TEST_PG=17` chooses the version.
//!
//! Everything is gone when the process is, however it ends. What fails here panics with the reason, as the test itself
//! would: this crate is for tests, and nothing else may depend on it.

#![allow(clippy::panic, reason = "a test that cannot have its database has failed")]

mod corpus;
mod database;
mod keeper;
mod postgres;
mod redis;
mod until;

pub use corpus::{Verdicts, replay_corpus};
pub use database::Database;
pub use postgres::Postgres;
pub use redis::Redis;
pub use until::until;
pub use walcast_postgres::{Options, Port, Tls};
