//! A frame on its way to clients.

use std::pin::Pin;

use bytes::Bytes;

/// Where a channel's frames go. Implementations never block: what to do with a reader that is too slow is theirs to
/// decide.
pub trait Outlet: Send + Sync {
    /// Takes one frame, in order.
    fn deliver(&self, frame: Frame);

    /// Resolves when there is room for a good deal more: for whoever has much to deliver that can wait.
    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    /// A frame was delivered although more messages than allowed are under way: the channel is to be closed after it
    /// (`protocol.md 9`).
    fn over_limit(&self) {}
}

/// A WebSocket message of a server, cheap to clone: all receivers of a broadcast or a change share its bytes, and with
/// them the header, which has no mask and so is the same for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    wire: Bytes,
    header_len: u8,
    is_text: bool,
    /// Microseconds since the Unix epoch; 0 for none.
    committed_at_us: i64,
}

/// First byte of a message in one frame (RFC 6455 5.2).
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// Second byte: the length itself up to here, or one of two marks for the width of the length that follows.
const SHORT: usize = 125;
const IN_TWO_BYTES: u8 = 126;
const IN_EIGHT_BYTES: u8 = 127;

impl Frame {
    /// A binary frame.
    #[must_use]
    pub fn binary(payload: impl AsRef<[u8]>) -> Self {
        Self::new(payload.as_ref(), false)
    }

    fn new(payload: &[u8], is_text: bool) -> Self {
        let (header, header_len) = header(payload.len(), is_text);
        let header = header.get(..usize::from(header_len)).unwrap_or_default();
        Self {
            wire: [header, payload].concat().into(),
            header_len,
            is_text,
            committed_at_us: 0,
        }
    }

    /// The same frame, of which is to be measured how long after a commit it is written: microseconds since the Unix
    /// epoch.
    #[must_use]
    pub fn measured_from(self, committed_at_us: i64) -> Self {
        Self {
            committed_at_us,
            ..self
        }
    }

    /// The commit from which is measured, in microseconds since the Unix epoch.
    #[must_use]
    pub fn committed_at_us(&self) -> Option<i64> {
        Some(self.committed_at_us).filter(|at_us| *at_us != 0)
    }

    /// Whether it is a text frame; its payload is then UTF-8, for there is no other way to make one than from a
    /// `String`.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.is_text
    }

    /// The payload.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.wire.get(usize::from(self.header_len)..).unwrap_or_default()
    }

    /// Header and payload, as they are written to a connection.
    #[must_use]
    pub fn into_wire(self) -> Bytes {
        self.wire
    }

    /// Length of the payload in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wire.len() - usize::from(self.header_len)
    }

    /// Whether the payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Self::new(text.as_bytes(), true)
    }
}

/// The header of a payload of this length, and its own.
fn header(payload_len: usize, is_text: bool) -> ([u8; 10], u8) {
    let kind = if is_text { TEXT } else { BINARY };
    match (u8::try_from(payload_len), u16::try_from(payload_len)) {
        (Ok(length), _) if payload_len <= SHORT => ([kind, length, 0, 0, 0, 0, 0, 0, 0, 0], 2),
        (_, Ok(length)) => {
            let [a, b] = length.to_be_bytes();
            ([kind, IN_TWO_BYTES, a, b, 0, 0, 0, 0, 0, 0], 4)
        }
        _ => {
            let [a, b, c, d, e, f, g, h] = (payload_len as u64).to_be_bytes();
            ([kind, IN_EIGHT_BYTES, a, b, c, d, e, f, g, h], 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_tells_kind_and_length_in_the_fewest_bytes() {
        let cases: [(usize, &[u8]); 6] = [
            (0, &[0x81, 0]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (65_535, &[0x81, 126, 0xff, 0xff]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (5_000_000, &[0x81, 127, 0, 0, 0, 0, 0, 0x4c, 0x4b, 0x40]),
        ];
        for (length, header) in cases {
            let payload = "x".repeat(length);
            let frame = Frame::from(payload.clone());
            assert_eq!(frame.len(), length);
            assert_eq!(frame.bytes(), payload.as_bytes());
            let wire = frame.into_wire();
            assert!(
                wire.starts_with(header) && wire.ends_with(payload.as_bytes()),
                "{length}"
            );
            assert_eq!(wire.len(), header.len() + length);
        }
        assert_eq!(Frame::binary([7]).into_wire(), [0x82, 1, 7][..]);
    }
}
