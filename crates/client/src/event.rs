//! What a server sends to a channel.

use serde::Deserialize;
use serde_json::value::RawValue;

/// An event of a channel.
#[derive(Debug)]
pub enum Event {
    /// A row change (`protocol.md 7.4`).
    Change(Change),
    /// A `system` message.
    System(System),
    /// Any other event, e.g. `broadcast` or `presence_diff`, with its payload as sent.
    Other {
        /// Event name.
        event: String,
        /// JSON text of the payload.
        payload: Box<RawValue>,
    },
    /// The channel has ended; nothing follows.
    Closed(Closed),
}

/// Payload of `postgres_changes`.
#[derive(Debug, Deserialize)]
pub struct Change {
    /// Ids of the bindings that match, as in the join reply.
    pub ids: Vec<u64>,
    /// Where the change is in the stream, for the `since` of a later join; servers other than Walcast do not say.
    #[serde(default)]
    pub position: Option<String>,
    /// The change object, as sent.
    pub data: Box<RawValue>,
}

/// Payload of `system`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct System {
    /// `postgres_changes` or `system`.
    pub extension: String,
    /// `ok` or `error`.
    pub status: String,
    /// The sentence.
    pub message: String,
}

/// How a channel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The server closed the channel (`phx_close`), or it was left.
    Channel,
    /// The channel crashed on the server (`phx_error`).
    Crashed,
    /// The socket ended, with the close frame's code and reason if there was one.
    Socket(Option<(u16, String)>),
}
