//! Walcast, the server: sockets, channels, tokens, HTTP, configuration, start and stop.
//!
//! A socket is one task ([`socket`]) that owns its channels as plain structs; joins and other slow work run as
//! futures beside it, so that none holds up a heartbeat or another topic. Who gets a change is decided in
//! `walcast-changes`; what a frame looks like in `walcast-protocol`; this crate never looks into a row.
//!
//! ```text
//! accept -> http -> connect (checks, upgrade) -> socket: wire -> route -> channel, join, token
//!                                                socket: wire <- outbox <- gate <- changes
//!                 -> sse (joins, response)    -> socket: events <- outbox
//! ```
//!
//! It is a library so that tests run the real server in their own process: [`serve::run`].

pub mod accept;
pub mod admission;
pub mod api;
pub mod attend;
pub mod authorize;
mod casting;
pub mod channel;
mod closing;
pub mod config;
pub mod connect;
pub mod connection;
pub mod control;
mod cors;
pub mod crossing;
pub mod database_broadcast;
mod database_side;
mod database_url;
pub mod dev;
pub mod directory;
pub mod doctor;
pub mod environment;
pub mod explain;
pub mod figures;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
mod inspector;
pub mod join;
mod life;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod migrate;
pub mod mint;
mod missed;
pub mod nodes;
pub mod open_files;
mod openapi;
pub mod options;
pub mod outbox;
pub mod persist;
mod policy_headers;
mod presence_figures;
pub mod private;
mod process_figures;
pub mod rate;
mod recorded;
mod relay;
mod replay;
mod replication_ready;
mod route;
pub mod scrape;
pub mod serve;
pub mod setting;
pub mod settings;
pub mod shutdown;
pub mod socket;
pub mod sockets;
pub mod sse;
mod still;
pub mod subscribe;
pub mod tenant;
pub mod tenants;
pub mod token;
pub mod traces;
pub mod turned_away;
pub mod wire;
