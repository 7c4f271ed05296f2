//! One Postgres replication connection.
//!
//! Opens a connection in replication mode, makes a slot, decodes pgoutput into [`Change`]s and hands them
//! to one consumer in commit order. Answers keepalives whatever the consumer does, stops reading while it is slow,
//! and starts over, with a new slot and a word to the consumer, when anything breaks.
//!
//! [`json`] turns values, which arrive as Postgres' text, into JSON.
//!
//! [`parcel`] puts events into bytes that travel to other nodes.
//!
//! It does not know who is interested in a change ([`Interest`] tells it which tables to decode at all), asks no
//! catalog, and stores nothing: what is committed while the connection is down is lost and said to be lost, unless a
//! permanent [`Slot`] keeps it.

mod change;
mod channel_binding;
mod config;
mod error;
pub mod json;
mod login;
mod lsn;
pub mod parcel;
pub mod pgoutput;
mod publication;
mod queue;
mod reader;
mod session;
mod slot;
mod stats;
mod stream;
mod tls;
mod transport;
mod wire;

pub use change::{Action, Change, Column, OldTuple, Relation, ReplicaIdentity, Transaction, Tuple, Value};
pub use config::{Config, ConfigError, Endpoint, SslMode};
pub use error::StreamError;
pub use lsn::{Lsn, LsnError};
pub use session::probe;
pub use slot::{Guard, Slot};
pub use stats::Stats;
pub use stream::{Event, Interest, Stream, StreamOptions, TablePublication, spawn};
