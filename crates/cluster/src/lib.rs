//! What the nodes of a cluster share: messages by topic, presences, leases, bounded streams, counts.
//!
//! [`Cluster::join`] gives a node its place: alone (nothing leaves the process) or through Redis. Either way the same
//! interfaces are had, and the same tests hold for both. Topics and names are strings, payloads are bytes; what they
//! mean is the caller's business. Nothing here knows sockets, channels or Postgres.
//!
//! Redis may go away at any time. Then what cannot be done fails at once with the reason, what must be known is told
//! ([`Event`]), and everything is set up again when it is back, with its data or without.

mod bus;
mod cluster;
mod config;
mod counts;
mod envelope;
mod error;
pub mod fuzzing;
mod interest;
mod lease;
mod memory;
mod node;
mod presence;
mod recent;
mod redis;
mod stream;

pub use crate::redis::dial::ConnectError;
pub use crate::redis::examine::{Examination, examine};
pub use bus::{Bus, BusStats, Event, Listener, PublishError, Received, Subscription};
pub use cluster::{Cluster, Hub};
pub use config::{Config, ConfigError, Endpoint, Password, RedisConfig, Vitality};
pub use counts::Counts;
pub use envelope::{EnvelopeError, MAX_PAYLOAD_BYTES, open, seal};
pub use error::ClusterError;
pub use lease::{Attempt, Lease, Leases, MIN_TTL};
pub use node::{NodeId, NotANode};
pub use presence::view::{Diff, Presence};
pub use presence::{MAX_ID_BYTES, MAX_PRESENCE_BYTES, Presences, Watch, Watcher};
pub use recent::{Keep, Kept, Recent};
pub use stream::{Bound, Entry, From, MAX_ENTRY_BYTES, Position, Read, Reader, Streams};
