//! What a publication travels in: a version, its origin, the payload as it is.
//!
//! ```text
//! 1 byte    1
//! 16 bytes  the node it comes from
//! the rest  the payload
//! ```

use crate::node::NodeId;
use bytes::Bytes;

/// The longest payload that travels, in bytes. Above every limit on a broadcast or a change.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 17;

/// Bytes that are no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not even a header.
    #[error(
        "an envelope has a header of 17 bytes, this is shorter; does something else publish under the prefix?"
    )]
    Short,
    /// Of another Walcast, or of something else.
    #[error("an envelope of version {0} instead of 1; do nodes of another version share the prefix?")]
    Version(u8),
    /// Longer than anything a node publishes.
    #[error("a payload of {0} bytes, above 16 MiB; does something else publish under the prefix?")]
    Long(usize),
}

/// Puts a payload into an envelope.
#[must_use]
pub fn seal(origin: NodeId, payload: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(HEADER_BYTES + payload.len());
    sealed.push(VERSION);
    sealed.extend_from_slice(origin.as_bytes());
    sealed.extend_from_slice(payload);
    sealed
}

/// Takes a payload out of its envelope, without copying it.
///
/// # Errors
/// When it is none.
pub fn open(sealed: &Bytes) -> Result<(NodeId, Bytes), EnvelopeError> {
    let (&version, rest) = sealed.split_first().ok_or(EnvelopeError::Short)?;
    if version != VERSION {
        return Err(EnvelopeError::Version(version));
    }
    let (origin, payload) = rest.split_first_chunk::<16>().ok_or(EnvelopeError::Short)?;
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(EnvelopeError::Long(payload.len()));
    }
    Ok((NodeId::from_bytes(*origin), sealed.slice(HEADER_BYTES..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_sealed_comes_out_again(payload: Vec<u8>) {
            let node = NodeId::random();
            let (origin, opened) = open(&seal(node, &payload).into()).unwrap();
            prop_assert_eq!(origin, node);
            prop_assert_eq!(opened, payload);
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(open(&Bytes::new()), Err(EnvelopeError::Short));
        assert_eq!(open(&Bytes::from_static(&[1; 16])), Err(EnvelopeError::Short));
        assert_eq!(
            open(&Bytes::from_static(&[2; 40])),
            Err(EnvelopeError::Version(2))
        );
        let long = seal(NodeId::random(), &vec![0; MAX_PAYLOAD_BYTES + 1]);
        assert_eq!(
            open(&long.into()),
            Err(EnvelopeError::Long(MAX_PAYLOAD_BYTES + 1))
        );
    }
}
