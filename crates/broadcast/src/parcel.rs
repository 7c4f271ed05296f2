//! A message on its way to another node: packed once, whoever hears it there.
//!
//! ```text
//! 1 byte   what follows: 1 verbatim, 2 a JSON event, 3 a binary event; 128 more if it has an id
//! 4 bytes  length of the event (events only), then the event
//! 4 bytes  length of the id (with an id only), then the id
//! the rest the payload
//! ```
//!
//! JSON is not looked through again: the node that packs it has done so.

use crate::message::{Body, Message};
use thiserror::Error;

const VERBATIM: u8 = 1;
const JSON: u8 = 2;
const BINARY: u8 = 3;
const WITH_ID: u8 = 128;

/// Bytes that are no packed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("these bytes are no packed broadcast: {0}; do nodes of another version share the prefix?")]
pub struct Unreadable(&'static str);

impl Unreadable {
    pub(crate) const CUT_OFF: Self = Self("cut off");
    pub(crate) const NOT_TEXT: Self = Self("text that is not UTF-8");
}

impl<'a> Message<'a> {
    /// Packs it.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let (kind, event, id, payload) = match *self {
            Self::Verbatim { payload } => (VERBATIM, None, None, payload.as_bytes()),
            Self::Event { event, body, id } => match body {
                Body::Json(json) => (JSON, Some(event), id, json.as_bytes()),
                Body::Binary(bytes) => (BINARY, Some(event), id, bytes),
            },
        };
        let names = [event, id];
        let named_bytes: usize = names.iter().flatten().map(|name| 4 + name.len()).sum();
        let mut packed = Vec::with_capacity(1 + named_bytes + payload.len());
        packed.push(if id.is_some() { kind | WITH_ID } else { kind });
        for name in names.into_iter().flatten() {
            // No frame and no body is as long as that.
            let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
            packed.extend_from_slice(&length.to_be_bytes());
            packed.extend_from_slice(name.as_bytes());
        }
        packed.extend_from_slice(payload);
        packed
    }

    /// Unpacks one, without copying it.
    ///
    /// # Errors
    /// When it is none.
    pub fn unpack(packed: &'a [u8]) -> Result<Self, Unreadable> {
        let (&head, mut rest) = packed.split_first().ok_or(Unreadable("there are none"))?;
        let mut name = || {
            let (length, after) = rest.split_first_chunk().ok_or(Unreadable::CUT_OFF)?;
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Unreadable::CUT_OFF)?;
            let (name, after) = after.split_at_checked(length).ok_or(Unreadable::CUT_OFF)?;
            rest = after;
            text(name)
        };
        let (kind, has_id) = (head & !WITH_ID, head & WITH_ID != 0);
        let event = match (kind, has_id) {
            (VERBATIM, false) => None,
            (JSON | BINARY, _) => Some(name()?),
            _ => return Err(Unreadable("of an unknown kind")),
        };
        let id = if has_id { Some(name()?) } else { None };
        Ok(match event {
            None => Self::Verbatim { payload: text(rest)? },
            Some(event) => Self::Event {
                event,
                body: if kind == JSON {
                    Body::Json(text(rest)?)
                } else {
                    Body::Binary(rest)
                },
                id,
            },
        })
    }
}

fn text(bytes: &[u8]) -> Result<&str, Unreadable> {
    std::str::from_utf8(bytes).map_err(|_| Unreadable::NOT_TEXT)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(event: String, id: Option<String>, text: String, bytes: Vec<u8>) {
            let id = id.as_deref();
            for message in [
                Message::Verbatim { payload: &text },
                Message::Event { event: &event, body: Body::Json(&text), id },
                Message::Event { event: &event, body: Body::Binary(&bytes), id },
            ] {
                let packed = message.pack();
                prop_assert_eq!(Message::unpack(&packed), Ok(message));
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
            if let Ok(message) = Message::unpack(&bytes) {
                prop_assert_eq!(message.pack(), bytes);
            }
        }
    }

    #[test]
    fn what_is_cut_off_within_its_names_is_none() {
        let message = Message::Event {
            event: "event",
            body: Body::Binary(b""),
            id: Some("id"),
        };
        let whole = message.pack();
        for length in 0..whole.len() {
            assert!(Message::unpack(&whole[..length]).is_err(), "{length}");
        }
    }
}
