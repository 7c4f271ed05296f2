//! What a socket's messages travel over: a WebSocket, or the response to a request for events.
//!
//! The socket is the same behind both; a client of the second kind only listens.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use walcast_protocol::Frame;

use crate::outbox::End;
use crate::sse::EventStream;
use crate::wire::{Incoming, Wire, WireError};

/// One of the two.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all connections are of the large one, which is worth no allocation of its own"
)]
pub enum Connection {
    /// Both ways.
    WebSocket(Wire),
    /// One way. Boxed: most connections are of the other kind.
    Events(Box<EventStream>),
}

impl Connection {
    /// Bytes read since the connection began.
    pub(crate) fn read_bytes(&self) -> u64 {
        match self {
            Self::WebSocket(wire) => wire.read_bytes(),
            Self::Events(_) => 0,
        }
    }

    /// The pause between two signs of life that the server owes its client; none where the client owes them.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        match self {
            Self::WebSocket(_) => None,
            Self::Events(events) => Some(events.heartbeat()),
        }
    }

    /// How a client with a token that ends goes on.
    pub(crate) fn renewal(&self) -> &'static str {
        match self {
            Self::WebSocket(_) => "send access_token",
            Self::Events(_) => "connect again with a new one",
        }
    }

    /// Whether anything waits to be written.
    pub(crate) fn is_writing(&self) -> bool {
        match self {
            Self::WebSocket(wire) => wire.is_writing(),
            Self::Events(events) => events.is_writing(),
        }
    }

    /// How the connection ends by itself, once everything before that is written.
    pub(crate) fn end(&self) -> Option<End> {
        match self {
            Self::WebSocket(_) => None,
            Self::Events(events) => events.end(),
        }
    }

    /// Puts a frame in the line.
    pub(crate) fn enqueue(&mut self, frame: Frame) {
        match self {
            Self::WebSocket(wire) => wire.enqueue(frame),
            Self::Events(events) => events.enqueue(&frame),
        }
    }

    /// Puts a sign of life in the line, which asks for one where the client can give it.
    pub(crate) fn enqueue_ping(&mut self) {
        match self {
            Self::WebSocket(wire) => wire.enqueue_ping(),
            Self::Events(events) => events.enqueue_heartbeat(),
        }
    }

    /// The next message of the client, or its end.
    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Incoming, WireError>> {
        match self {
            Self::WebSocket(wire) => wire.poll_read(context),
            Self::Events(events) => events.poll_gone(context).map(|()| Err(WireError::Closed)),
        }
    }

    /// Writes until the line is empty. Returns `Ready` with the bytes written whenever some were; `Pending` when the
    /// connection takes none.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::WebSocket(wire) => wire.poll_write(context),
            Self::Events(events) => events.poll_write(context),
        }
    }

    /// Drops what has not begun to be written, for an end that must not wait behind it.
    pub(crate) fn drop_waiting(&mut self) {
        match self {
            Self::WebSocket(wire) => wire.drop_waiting(),
            Self::Events(events) => events.drop_waiting(),
        }
    }

    /// Puts the word that says why the server ends it in the line.
    pub(crate) fn enqueue_close(&mut self, end: &End) {
        match self {
            Self::WebSocket(wire) => wire.enqueue_close(end),
            Self::Events(events) => events.enqueue_end(end),
        }
    }

    /// Writes what is left, says that no more comes, and waits until the client has it.
    pub(crate) fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::WebSocket(wire) => wire.poll_finish(context),
            Self::Events(events) => events.poll_finish(context),
        }
    }
}
