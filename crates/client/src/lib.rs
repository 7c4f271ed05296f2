//! A small Phoenix-channels client for the realtime protocol, serializer 2.0.0 (`protocol.md 2.2`).
//!
//! Made for tests, for the load generator and for Rust programs that want to listen to a Walcast (or any other
//! compatible) server. One task owns the WebSocket; a [`Channel`] receives its events in the order of the wire.
//!
//! It does not reconnect or rejoin by itself: a closed socket ends every channel with the close code, and the
//! caller, who alone knows what that means, starts again. It keeps no presence state.

mod channel;
mod event;
mod socket;

pub use channel::{Channel, Join, JoinError};
pub use event::{Change, Closed, Event, System};
pub use socket::{Client, ConnectError, Options};
