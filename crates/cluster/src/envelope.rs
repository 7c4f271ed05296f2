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

/// Begins a publication that is kept: its number follows, in as many decimal digits, and then the envelope. The number is
/// not known before it is published, so it stands outside.
const NUMBERED: u8 = 2;
const NUMBER_DIGITS: usize = 20;
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
    /// No number where one should be.
    #[error("no number of a publication that is kept; does something else publish under the prefix?")]
    Number,
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

/// Takes the number off a publication that is kept; one that is not is left as it is.
///
/// # Errors
/// When it has none although it should.
pub(crate) fn unnumber(published: Bytes) -> Result<(Option<u64>, Bytes), EnvelopeError> {
    if published.first() != Some(&NUMBERED) {
        return Ok((None, published));
    }
    let digits = published.get(1..=NUMBER_DIGITS).ok_or(EnvelopeError::Short)?;
    let number = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(EnvelopeError::Number)?;
    Ok((Some(number), published.slice(1 + NUMBER_DIGITS..)))
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
    fn a_publication_that_is_kept_has_its_number_before_the_envelope() {
        let sealed = seal(NodeId::random(), b"payload");
        let plain = Bytes::from(sealed.clone());
        assert_eq!(unnumber(plain.clone()), Ok((None, plain.clone())));
        let numbered = |digits: &[u8]| Bytes::from([&[2], digits, &sealed].concat());
        assert_eq!(
            unnumber(numbered(b"00001763741234567001")),
            Ok((Some(1_763_741_234_567_001), plain))
        );
        assert_eq!(
            unnumber(numbered(b"0000176374123456700x")),
            Err(EnvelopeError::Number)
        );
        assert_eq!(
            unnumber(Bytes::from_static(b"\x02123")),
            Err(EnvelopeError::Short)
        );
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(open(&Bytes::new()), Err(EnvelopeError::Short));
        assert_eq!(open(&Bytes::from_static(&[1; 16])), Err(EnvelopeError::Short));
        assert_eq!(
            open(&Bytes::from_static(&[3; 40])),
            Err(EnvelopeError::Version(3))
        );
        let long = seal(NodeId::random(), &vec![0; MAX_PAYLOAD_BYTES + 1]);
        assert_eq!(
            open(&long.into()),
            Err(EnvelopeError::Long(MAX_PAYLOAD_BYTES + 1))
        );
    }
}
