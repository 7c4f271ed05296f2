//! A client's frame, text or binary, as a [`Message`].

use crate::binary;
use crate::error_code::ErrorCode;
use crate::message::{Message, Name, Payload, Ref};
use crate::version::Version;
use serde::Deserialize;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use thiserror::Error;

/// Why a frame is dropped. The client gets no answer (`protocol.md 8.7`). The texts never hold what was sent: it may
/// be megabytes, or a token.
#[derive(Debug, Error)]
pub enum FrameError {
    /// Not JSON, or too few elements or keys.
    #[error("the frame is not a message: {0}")]
    NotAMessage(serde_json::Error),
    /// Serializer 2.0.0: no array.
    #[error(
        "the frame is not a JSON array: send [join_ref, ref, topic, event, payload], or connect with vsn=1.0.0"
    )]
    NotAnArray,
    /// Serializer 1.0.0: JSON, but no object.
    #[error("the frame is JSON, but not an object: send one, or connect with vsn=2.0.0")]
    NotAnObject,
    /// Serializer 1.0.0: a binary frame that holds no text.
    #[error("the binary frame is not UTF-8: vsn=1.0.0 knows only JSON")]
    NotUtf8,
    /// A binary frame ends inside its header.
    #[error("the binary frame is shorter than its header says")]
    Truncated,
    /// A binary frame of a kind this side does not read.
    #[error("binary frames of kind {0} are not understood here")]
    UnknownKind(u8),
    /// A text of a binary frame is not UTF-8.
    #[error("the {0} of the binary frame is not UTF-8")]
    FieldNotUtf8(&'static str),
    /// The metadata of a user broadcast is not JSON.
    #[error("the metadata of the broadcast is not JSON")]
    Metadata,
    /// A server's message whose topic or event is no string.
    #[error("the topic or the event of the server's message is not a string")]
    NotNamed,
}

impl FrameError {
    /// The code it is logged and counted under.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotAMessage(_) | Self::NotAnArray | Self::NotUtf8 => ErrorCode::MalformedWebSocketMessage,
            Self::NotAnObject
            | Self::Truncated
            | Self::UnknownKind(_)
            | Self::FieldNotUtf8(_)
            | Self::Metadata
            | Self::NotNamed => ErrorCode::UnknownErrorOnWebSocketMessage,
        }
    }
}

/// Reads a text frame.
///
/// # Errors
/// If it is no message of this serializer.
pub fn decode_text(version: Version, text: &str) -> Result<Message, FrameError> {
    match version {
        Version::V1 => decode_object(text),
        Version::V2 => decode_array(text),
    }
}

/// Reads a binary frame. Serializer 1.0.0 has none of its own: there it is JSON like a text frame.
///
/// # Errors
/// If it is no message of this serializer.
pub fn decode_binary(version: Version, frame: &[u8]) -> Result<Message, FrameError> {
    match version {
        Version::V1 => decode_object(std::str::from_utf8(frame).map_err(|_| FrameError::NotUtf8)?),
        Version::V2 => binary::decode_push(frame),
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn decode_object(text: &str) -> Result<Message, FrameError> {
    // An array of the right length would fit the struct, too.
    if !text.trim_ascii_start().starts_with('{') && is_json(text) {
        return Err(FrameError::NotAnObject);
    }
    serde_json::from_str::<Object<'_>>(text)
        .map(Message::from)
        .map_err(FrameError::NotAMessage)
}

fn decode_array(text: &str) -> Result<Message, FrameError> {
    if !text.trim_ascii_start().starts_with('[') {
        return Err(FrameError::NotAnArray);
    }
    serde_json::from_str::<Array<'_>>(text)
        .map(Message::from)
        .map_err(FrameError::NotAMessage)
}

/// Serializer 1.0.0: all but `join_ref` must be there, if only as null.
#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow, default)]
    join_ref: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    reference: &'a RawValue,
    #[serde(borrow)]
    topic: &'a RawValue,
    #[serde(borrow)]
    event: &'a RawValue,
    payload: Box<RawValue>,
}

impl From<Object<'_>> for Message {
    fn from(object: Object<'_>) -> Self {
        Self {
            join_ref: object.join_ref.map_or(Ref::NULL, Ref::from_raw),
            reference: Ref::from_raw(object.reference),
            topic: Name::from_raw(object.topic),
            event: Name::from_raw(object.event),
            payload: Payload::Json(object.payload),
        }
    }
}

/// Serializer 2.0.0: the first five elements of an array; further ones are ignored.
struct Array<'a> {
    join_ref: &'a RawValue,
    reference: &'a RawValue,
    topic: &'a RawValue,
    event: &'a RawValue,
    payload: Box<RawValue>,
}

impl From<Array<'_>> for Message {
    fn from(array: Array<'_>) -> Self {
        Self {
            join_ref: Ref::from_raw(array.join_ref),
            reference: Ref::from_raw(array.reference),
            topic: Name::from_raw(array.topic),
            event: Name::from_raw(array.event),
            payload: Payload::Json(array.payload),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Array<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ArrayVisitor)
    }
}

struct ArrayVisitor;

impl<'de> Visitor<'de> for ArrayVisitor {
    type Value = Array<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[join_ref, ref, topic, event, payload]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Array<'de>, A::Error> {
        let array = Array {
            join_ref: element(&mut elements, 0)?,
            reference: element(&mut elements, 1)?,
            topic: element(&mut elements, 2)?,
            event: element(&mut elements, 3)?,
            payload: element(&mut elements, 4)?,
        };
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(array)
    }
}

fn element<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(elements: &mut A, at: usize) -> Result<T, A::Error> {
    elements
        .next_element()?
        .ok_or_else(|| serde::de::Error::invalid_length(at, &ArrayVisitor))
}
