//! A frame on its way to clients.

use bytes::Bytes;

/// Where a channel's frames go. Implementations never block: what to do with a reader that is too slow is theirs to
/// decide.
pub trait Outlet: Send + Sync {
    /// Takes one frame, in order.
    fn deliver(&self, frame: Frame);

    /// A frame was delivered although more messages than allowed are under way: the channel is to be closed after it
    /// (`protocol.md 9`).
    fn over_limit(&self) {}
}

/// A WebSocket message, cheap to clone: all receivers of a broadcast or a change share its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    is_text: bool,
}

impl Frame {
    /// A binary frame.
    #[must_use]
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            is_text: false,
        }
    }

    /// Whether it is a text frame; its bytes are then UTF-8, for there is no other way to make one than from a
    /// `String`.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.is_text
    }

    /// The payload.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Length of the payload in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Self {
            bytes: text.into(),
            is_text: true,
        }
    }
}
