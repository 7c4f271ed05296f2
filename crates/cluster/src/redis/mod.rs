//! Sharing through Redis 6.2 or newer, Valkey, or a Redis cluster.

mod backoff;
pub(crate) mod bus;
pub(crate) mod dial;
pub(crate) mod examine;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod lease;
pub(crate) mod link;
mod publisher;
pub(crate) mod recent;
pub(crate) mod shelf;
pub(crate) mod stream;
mod subscriber;
