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

/// Why a frame is dropped. The client gets no answer (`protocol.md 8.7`).
#[derive(Debug, Error)]
pub enum FrameError {
    /// Not JSON, or not an array of at least five elements.
    #[error("the frame is not a message: {0}")]
    NotAMessage(serde_json::Error),
    /// Serializer 1.0.0: JSON, but no object.
    #[error("the frame is JSON, but not an object")]
    NotAnObject,
    /// A binary frame ends inside its header.
    #[error("the binary frame is shorter than its header says")]
    Truncated,
    /// A binary frame of a kind clients do not send.
    #[error("binary frames of kind {0} are not understood")]
    UnknownKind(u8),
    /// A text of a binary frame is not UTF-8.
    #[error("a text of the binary frame is not UTF-8")]
    NotUtf8,
    /// The metadata of a user broadcast is not JSON.
    #[error("the metadata of the broadcast is not JSON")]
    Metadata,
}

impl FrameError {
    /// The code it is logged and counted under.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotAMessage(_) => ErrorCode::MalformedWebSocketMessage,
            _ => ErrorCode::UnknownErrorOnWebSocketMessage,
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
        Version::V2 => {
            let Fields { join_ref, reference, topic, event, payload } =
                serde_json::from_str(text).map_err(FrameError::NotAMessage)?;
            Ok(message(&join_ref, &reference, topic, event, payload))
        }
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

fn message(
    join_ref: &RawValue,
    reference: &RawValue,
    topic: Box<RawValue>,
    event: Box<RawValue>,
    payload: Box<RawValue>,
) -> Message {
    Message {
        join_ref: Ref::from_raw(join_ref),
        reference: Ref::from_raw(reference),
        topic: Name::from_raw(topic),
        event: Name::from_raw(event),
        payload: Payload::Json(payload),
    }
}

/// All but `join_ref` must be there, if only as null.
#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    join_ref: Option<Box<RawValue>>,
    #[serde(rename = "ref")]
    reference: Box<RawValue>,
    topic: Box<RawValue>,
    event: Box<RawValue>,
    payload: Box<RawValue>,
}

fn decode_object(text: &str) -> Result<Message, FrameError> {
    // An array of the right length would fit a struct, too.
    if !text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return Err(FrameError::NotAnObject);
    }
    let object: Object = serde_json::from_str(text).map_err(FrameError::NotAMessage)?;
    let Object { join_ref, reference, topic, event, payload } = object;
    let join_ref = join_ref.as_deref().map_or(Ref::NULL, Ref::from_raw);
    Ok(Message { join_ref, ..message(RawValue::NULL, &reference, topic, event, payload) })
}

/// The first five elements of an array; further ones are ignored.
struct Fields {
    join_ref: Box<RawValue>,
    reference: Box<RawValue>,
    topic: Box<RawValue>,
    event: Box<RawValue>,
    payload: Box<RawValue>,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[join_ref, ref, topic, event, payload]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Fields, A::Error> {
        let mut count = 0;
        let mut next = || {
            let element: Option<Box<RawValue>> = elements.next_element()?;
            count += 1;
            element.ok_or_else(|| serde::de::Error::invalid_length(count - 1, &FieldsVisitor))
        };
        let fields =
            Fields { join_ref: next()?, reference: next()?, topic: next()?, event: next()?, payload: next()? };
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(fields)
    }
}
