//! Binary frames of serializer 2.0.0 (`protocol.md 2.3`): kinds 0 (push), 3 (user broadcast push) and 4 (user
//! broadcast). Every length is one byte and counts bytes.

use crate::decode::FrameError;
use crate::message::{Message, Name, Payload, Ref};
use bytes::Bytes;
use serde::de::IgnoredAny;
use thiserror::Error;

const PUSH: u8 = 0;
const USER_BROADCAST_PUSH: u8 = 3;
const USER_BROADCAST: u8 = 4;

/// What the user's payload of a broadcast is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Opaque bytes.
    Binary,
    /// JSON text.
    Json,
}

impl Encoding {
    fn from_byte(byte: u8) -> Self {
        if byte == 0 { Self::Binary } else { Self::Json }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Binary => 0,
            Self::Json => 1,
        }
    }
}

/// The content of a kind 3 frame besides topic and references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserBroadcastPush {
    /// User event.
    pub event: String,
    /// JSON text, empty when there is none. Valid JSON.
    pub metadata: String,
    /// What `payload` is. JSON is not parsed.
    pub encoding: Encoding,
    /// The user's payload.
    pub payload: Bytes,
}

/// A kind 4 frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserBroadcast {
    /// Full topic.
    pub topic: String,
    /// User event.
    pub event: String,
    /// JSON text, empty when there is none.
    pub metadata: String,
    /// What `payload` is.
    pub encoding: Encoding,
    /// The user's payload.
    pub payload: Bytes,
}

/// A field does not fit into its one length byte.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the {field} has {bytes} bytes, and a binary frame has room for 255: shorten it or send JSON")]
pub struct FieldTooLong {
    /// Which field.
    pub field: &'static str,
    /// Its length.
    pub bytes: usize,
}

/// Takes a frame apart from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, FrameError> {
        let (first, rest) = self.0.split_first().ok_or(FrameError::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    fn lengths<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], FrameError> {
        let (lengths, rest) = self.0.split_first_chunk().ok_or(FrameError::Truncated)?;
        self.0 = rest;
        Ok(*lengths)
    }

    fn take(&mut self, length: u8) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self
            .0
            .split_at_checked(usize::from(length))
            .ok_or(FrameError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn text(&mut self, field: &'static str, length: u8) -> Result<&'a str, FrameError> {
        std::str::from_utf8(self.take(length)?).map_err(|_| FrameError::FieldNotUtf8(field))
    }

    /// Metadata, empty when there is none.
    fn metadata(&mut self, length: u8) -> Result<&'a str, FrameError> {
        let metadata = self.text("metadata", length)?;
        if metadata.is_empty() || serde_json::from_str::<IgnoredAny>(metadata).is_ok() {
            Ok(metadata)
        } else {
            Err(FrameError::Metadata)
        }
    }

    /// What is left, copied: a slice would keep the socket's read buffer alive.
    fn rest(&self) -> Bytes {
        Bytes::copy_from_slice(self.0)
    }
}

/// Reads a client's binary frame of kind 0 or 3.
pub(crate) fn decode_push(frame: &[u8]) -> Result<Message, FrameError> {
    let mut reader = Reader(frame);
    match reader.byte()? {
        PUSH => {
            let [join_ref, reference, topic, event] = reader.lengths()?;
            Ok(Message {
                join_ref: Ref::from_text(reader.text("join_ref", join_ref)?),
                reference: Ref::from_text(reader.text("ref", reference)?),
                topic: Name::Text(reader.text("topic", topic)?.to_owned()),
                event: Name::Text(reader.text("event", event)?.to_owned()),
                payload: Payload::Bytes(reader.rest()),
            })
        }
        USER_BROADCAST_PUSH => {
            let [join_ref, reference, topic, event, metadata] = reader.lengths()?;
            let encoding = Encoding::from_byte(reader.byte()?);
            Ok(Message {
                join_ref: Ref::from_text(reader.text("join_ref", join_ref)?),
                reference: Ref::from_text(reader.text("ref", reference)?),
                topic: Name::Text(reader.text("topic", topic)?.to_owned()),
                event: Name::Text("broadcast".to_owned()),
                payload: Payload::UserBroadcast(UserBroadcastPush {
                    event: reader.text("event", event)?.to_owned(),
                    metadata: reader.metadata(metadata)?.to_owned(),
                    encoding,
                    payload: reader.rest(),
                }),
            })
        }
        kind => Err(FrameError::UnknownKind(kind)),
    }
}

/// Reads a server's binary frame, kind 4.
///
/// # Errors
/// If it is of another kind, too short, its texts are not UTF-8, or its metadata is not JSON.
pub fn decode_user_broadcast(frame: &[u8]) -> Result<UserBroadcast, FrameError> {
    let mut reader = Reader(frame);
    let kind = reader.byte()?;
    if kind != USER_BROADCAST {
        return Err(FrameError::UnknownKind(kind));
    }
    let [topic, event, metadata] = reader.lengths()?;
    let encoding = Encoding::from_byte(reader.byte()?);
    Ok(UserBroadcast {
        topic: reader.text("topic", topic)?.to_owned(),
        event: reader.text("event", event)?.to_owned(),
        metadata: reader.metadata(metadata)?.to_owned(),
        encoding,
        payload: reader.rest(),
    })
}

fn length(field: &'static str, text: &str) -> Result<u8, FieldTooLong> {
    u8::try_from(text.len()).map_err(|_| FieldTooLong {
        field,
        bytes: text.len(),
    })
}

/// Joins header, texts and payload in one allocation of the right size.
fn join(header: &[u8], texts: &[&str], payload: &[u8]) -> Vec<u8> {
    let text_bytes: usize = texts.iter().map(|text| text.len()).sum();
    let mut frame = Vec::with_capacity(header.len() + text_bytes + payload.len());
    frame.extend_from_slice(header);
    for text in texts {
        frame.extend_from_slice(text.as_bytes());
    }
    frame.extend_from_slice(payload);
    frame
}

/// A kind 4 frame, what every receiver on serializer 2.0.0 gets.
///
/// # Errors
/// If topic, event or metadata is longer than 255 bytes.
pub fn encode_user_broadcast(
    topic: &str,
    event: &str,
    metadata: &str,
    encoding: Encoding,
    payload: &[u8],
) -> Result<Vec<u8>, FieldTooLong> {
    let header = [
        USER_BROADCAST,
        length("topic", topic)?,
        length("event", event)?,
        length("metadata", metadata)?,
        encoding.byte(),
    ];
    Ok(join(&header, &[topic, event, metadata], payload))
}

/// A kind 3 frame, as clients send broadcasts.
///
/// # Errors
/// If a field is longer than 255 bytes.
pub fn encode_user_broadcast_push(
    join_ref: &str,
    reference: &str,
    topic: &str,
    push: &UserBroadcastPush,
) -> Result<Vec<u8>, FieldTooLong> {
    let header = [
        USER_BROADCAST_PUSH,
        length("join_ref", join_ref)?,
        length("ref", reference)?,
        length("topic", topic)?,
        length("event", &push.event)?,
        length("metadata", &push.metadata)?,
        push.encoding.byte(),
    ];
    Ok(join(
        &header,
        &[join_ref, reference, topic, &push.event, &push.metadata],
        &push.payload,
    ))
}
