//! Postgres Changes against Postgres: what a channel is handed when rights, keys, filters and tables are unusual or
//! change while it listens (`protocol.md 7`, `database.md 2` and `9`, `design.md 3`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states facts; a broken fact may stop it"
)]

mod bindings;
mod by_claim;
mod explain;
mod filters;
mod generated_columns;
mod large_transactions;
mod leaving;
mod limit;
mod modes;
mod old_rows;
mod options;
mod partitions;
mod permanent_slot;
mod primary_keys;
mod publications;
mod questions;
mod recovery;
mod refused_rows;
mod rights;
mod scene;
mod sharing;
mod tables_that_change;
mod values;
mod warnings;
