//! The real server in this process, spoken to in raw frames. One behaviour a test; names give the section of
//! `protocol.md` that asks for it.
//!
//! What needs no database runs against an address where none listens, which shows at the same time that it needs
//! none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy sees tests, not what they call"
)]

mod admission;
mod api;
mod api_bodies;
mod api_private;
mod binary;
mod broadcast;
mod channels;
mod compose;
mod connect;
mod database;
mod doctor;
mod errors;
mod event_source;
mod explain;
mod explain_command;
mod frames;
mod health;
mod http;
mod joins;
mod key_sets;
mod limits;
mod metrics;
mod migrations;
mod missed;
mod missed_nodes;
mod nodes;
mod openapi;
mod plain_role;
mod presence;
mod presence_nodes;
mod private;
mod replay;
mod server;
#[path = "../../src/token/signing.rs"]
mod signing;
mod silence;
mod sse;
mod sse_changes;
mod sse_ends;
mod supabase;
mod swap;
mod tenants;
mod tenants_apart;
mod tenants_api;
mod tenants_scene;
mod tokens;
mod topic_tokens;
