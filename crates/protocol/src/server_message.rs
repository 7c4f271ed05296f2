//! The other end of the wire: what a client writes, and what it reads from a server.

use crate::decode::{FrameError, decode_text};
use crate::message::{Message, Name, Payload, Ref};
use crate::quote::push_quoted;
use crate::version::Version;
use serde_json::value::RawValue;

/// A text frame from a server.
#[derive(Clone, Debug)]
pub struct ServerMessage {
    /// Reference of the join it belongs to; always null on serializer 1.0.0, which has no place for it.
    pub join_ref: Ref,
    /// Reference of the message it answers. For `phx_close` and `phx_error` that of the join.
    pub reference: Ref,
    /// Full topic.
    pub topic: String,
    /// Event.
    pub event: String,
    /// Payload, not parsed.
    pub payload: Box<RawValue>,
}

/// Reads a server's text frame. For its binary frames see [`decode_user_broadcast`](crate::decode_user_broadcast).
///
/// # Errors
/// If it is no message of this serializer, or its topic or event is no string.
pub fn decode_server_text(version: Version, text: &str) -> Result<ServerMessage, FrameError> {
    match decode_text(version, text)? {
        Message {
            join_ref,
            reference,
            topic: Name::Text(topic),
            event: Name::Text(event),
            payload: Payload::Json(payload),
        } => Ok(ServerMessage {
            join_ref,
            reference,
            topic,
            event,
            payload,
        }),
        _ => Err(FrameError::NotNamed),
    }
}

/// A client's message as a text frame (`protocol.md 2.1`, `2.2`).
#[must_use]
pub fn encode_client_text(
    version: Version,
    join_ref: &Ref,
    reference: &Ref,
    topic: &str,
    event: &str,
    payload_json: &str,
) -> String {
    let (join_ref, reference) = (join_ref.json(), reference.json());
    let mut out = String::with_capacity(topic.len() + event.len() + payload_json.len() + 80);
    let (open, names, close): (_, [&str; 4], _) = match version {
        Version::V1 => (
            r#"{"join_ref":"#,
            [r#","ref":"#, r#","topic":"#, r#","event":"#, r#","payload":"#],
            '}',
        ),
        Version::V2 => ("[", [","; 4], ']'),
    };
    out.push_str(open);
    out.push_str(join_ref);
    out.push_str(names[0]);
    out.push_str(reference);
    out.push_str(names[1]);
    push_quoted(&mut out, topic);
    out.push_str(names[2]);
    push_quoted(&mut out, event);
    out.push_str(names[3]);
    out.push_str(payload_json);
    out.push(close);
    out
}
