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

    fn take(&mut self, length: u8) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(usize::from(length)).ok_or(FrameError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn text(&mut self, length: u8) -> Result<String, FrameError> {
        std::str::from_utf8(self.take(length)?).map(str::to_owned).map_err(|_| FrameError::NotUtf8)
    }
}

/// Reads a client's binary frame of kind 0 or 3.
pub(crate) fn decode_push(frame: &[u8]) -> Result<Message, FrameError> {
    let mut reader = Reader(frame);
    match reader.byte()? {
        PUSH => {
            let (join_ref, reference) = (reader.byte()?, reader.byte()?);
            let (topic, event) = (reader.byte()?, reader.byte()?);
            Ok(Message {
                join_ref: Ref::from_text(&reader.text(join_ref)?),
                reference: Ref::from_text(&reader.text(reference)?),
                topic: Name::Text(reader.text(topic)?),
                event: Name::Text(reader.text(event)?),
                payload: Payload::Bytes(Bytes::copy_from_slice(reader.0)),
            })
        }
        USER_BROADCAST_PUSH => {
            let (join_ref, reference) = (reader.byte()?, reader.byte()?);
            let (topic, event, metadata) = (reader.byte()?, reader.byte()?, reader.byte()?);
            let encoding = Encoding::from_byte(reader.byte()?);
            let join_ref = Ref::from_text(&reader.text(join_ref)?);
            let reference = Ref::from_text(&reader.text(reference)?);
            let topic = Name::Text(reader.text(topic)?);
            let event = reader.text(event)?;
            let metadata = reader.text(metadata)?;
            if !metadata.is_empty() && serde_json::from_str::<IgnoredAny>(&metadata).is_err() {
                return Err(FrameError::Metadata);
            }
            let push =
                UserBroadcastPush { event, metadata, encoding, payload: Bytes::copy_from_slice(reader.0) };
            Ok(Message {
                join_ref,
                reference,
                topic,
                event: Name::Text("broadcast".to_owned()),
                payload: Payload::UserBroadcast(push),
            })
        }
        kind => Err(FrameError::UnknownKind(kind)),
    }
}

/// Reads a server's binary frame, kind 4.
///
/// # Errors
/// If it is of another kind, too short, or its texts are not UTF-8.
pub fn decode_user_broadcast(frame: &[u8]) -> Result<UserBroadcast, FrameError> {
    let mut reader = Reader(frame);
    let kind = reader.byte()?;
    if kind != USER_BROADCAST {
        return Err(FrameError::UnknownKind(kind));
    }
    let (topic, event, metadata) = (reader.byte()?, reader.byte()?, reader.byte()?);
    let encoding = Encoding::from_byte(reader.byte()?);
    Ok(UserBroadcast {
        topic: reader.text(topic)?,
        event: reader.text(event)?,
        metadata: reader.text(metadata)?,
        encoding,
        payload: Bytes::copy_from_slice(reader.0),
    })
}

fn length(field: &'static str, text: &str) -> Result<u8, FieldTooLong> {
    u8::try_from(text.len()).map_err(|_| FieldTooLong { field, bytes: text.len() })
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
    Ok([&header, topic.as_bytes(), event.as_bytes(), metadata.as_bytes(), payload].concat())
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
    let texts = [join_ref, reference, topic, &push.event, &push.metadata];
    let mut frame = header.to_vec();
    texts.iter().for_each(|text| frame.extend_from_slice(text.as_bytes()));
    frame.extend_from_slice(&push.payload);
    Ok(frame)
}
