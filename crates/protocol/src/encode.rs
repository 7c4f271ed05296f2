//! The server's messages as text frames of either serializer (`protocol.md 2.1` and `2.2`), each built in one buffer.

use crate::message::{Name, Ref};
use crate::quote::push_quoted;
use crate::version::Version;
use serde::Serialize;
use std::fmt::Write;

/// Outcome told by a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `ok`
    Ok,
    /// `error`
    Error,
}

/// The payload of a `system` message.
#[derive(Clone, Debug, Serialize)]
pub struct System<'a> {
    /// `postgres_changes` or `system`.
    pub extension: &'a str,
    /// `ok` or `error`; ours: `warning`.
    pub status: &'a str,
    /// The sentence.
    pub message: &'a str,
    /// The sub-topic; left out when the server asks all sockets to go (`protocol.md 1.6`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
    /// Ours: reasons why a subscription that was accepted will deliver nothing. Left out when there are none.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub warnings: &'a [String],
}

/// A topic on its way out.
#[derive(Clone, Copy)]
enum Topic<'a> {
    Text(&'a str),
    /// JSON text of something that is no string, echoed as it came.
    Json(&'a str),
}

impl Topic<'_> {
    fn len(self) -> usize {
        match self {
            Self::Text(text) | Self::Json(text) => text.len(),
        }
    }

    fn push(self, out: &mut String) {
        match self {
            Self::Text(text) => push_quoted(out, text),
            Self::Json(json) => out.push_str(json),
        }
    }
}

/// Brackets, keys, quotes and commas around the parts of a frame, in bytes.
const ENVELOPE_BYTES: usize = 48;

/// Writes `[join_ref,ref,topic,event,payload]`, or the object of serializer 1.0.0, which has no `join_ref`. The
/// payload comes in pieces of JSON text that are joined as they are.
fn frame(
    version: Version,
    join_ref: &Ref,
    reference: &Ref,
    topic: Topic<'_>,
    event: &str,
    payload: &[&str],
) -> String {
    let (join_ref, reference) = (join_ref.json(), reference.json());
    let payload_bytes: usize = payload.iter().map(|piece| piece.len()).sum();
    let text_bytes = join_ref.len() + reference.len() + topic.len() + event.len();
    let mut out = String::with_capacity(text_bytes + payload_bytes + ENVELOPE_BYTES);
    match version {
        Version::V1 => {
            out.push_str(r#"{"topic":"#);
            topic.push(&mut out);
            out.push_str(r#","event":"#);
            push_quoted(&mut out, event);
            out.push_str(r#","payload":"#);
            out.extend(payload.iter().copied());
            out.push_str(r#","ref":"#);
            out.push_str(reference);
            out.push('}');
        }
        Version::V2 => {
            out.push('[');
            out.push_str(join_ref);
            out.push(',');
            out.push_str(reference);
            out.push(',');
            topic.push(&mut out);
            out.push(',');
            push_quoted(&mut out, event);
            out.push(',');
            out.extend(payload.iter().copied());
            out.push(']');
        }
    }
    out
}

/// Answer to a message; `response_json` is any JSON.
#[must_use]
pub fn reply(
    version: Version,
    join_ref: &Ref,
    reference: &Ref,
    topic: &str,
    status: Status,
    response_json: &str,
) -> String {
    let head = match status {
        Status::Ok => r#"{"status":"ok","response":"#,
        Status::Error => r#"{"status":"error","response":"#,
    };
    frame(
        version,
        join_ref,
        reference,
        Topic::Text(topic),
        "phx_reply",
        &[head, response_json, "}"],
    )
}

/// Answer to a heartbeat (`protocol.md 8.1`).
#[must_use]
pub fn heartbeat_reply(version: Version, reference: &Ref) -> String {
    reply(version, &Ref::NULL, reference, "phoenix", Status::Ok, "{}")
}

/// Answer to a message for a topic that is not joined (`protocol.md 8.2`).
#[must_use]
pub fn unmatched_topic(version: Version, reference: &Ref, topic: &Name) -> String {
    let topic = match topic {
        Name::Text(text) => Topic::Text(text),
        Name::Other(raw) => Topic::Json(raw.get()),
    };
    let payload = r#"{"status":"error","response":{"reason":"unmatched topic"}}"#;
    frame(version, &Ref::NULL, reference, topic, "phx_reply", &[payload])
}

/// A message of the channel itself, e.g. `presence_state`. A channel whose join had no `join_ref` gives the join's
/// `ref` here (`protocol.md 2.2`).
#[must_use]
pub fn push(version: Version, join_ref: &Ref, topic: &str, event: &str, payload_json: &str) -> String {
    frame(
        version,
        join_ref,
        &Ref::NULL,
        Topic::Text(topic),
        event,
        &[payload_json],
    )
}

/// A message that every member of a topic gets alike.
#[must_use]
pub fn fan_out(version: Version, topic: &str, event: &str, payload_json: &str) -> String {
    push(version, &Ref::NULL, topic, event, payload_json)
}

/// The end of a channel; `join_ref` as recorded at its join, null if it had none. Serializer 1.0.0 carries it in
/// `ref`.
#[must_use]
pub fn close(version: Version, join_ref: &Ref, topic: &str) -> String {
    frame(
        version,
        join_ref,
        join_ref,
        Topic::Text(topic),
        "phx_close",
        &["{}"],
    )
}

/// A channel broke inside the server; the client joins again by itself. Serializer 1.0.0 sends an empty payload.
#[must_use]
pub fn crash(version: Version, join_ref: &Ref, topic: &str) -> String {
    let payload = match version {
        Version::V1 => "{}",
        Version::V2 => r#"{"reason":"channel_crash"}"#,
    };
    frame(
        version,
        join_ref,
        join_ref,
        Topic::Text(topic),
        "phx_error",
        &[payload],
    )
}

/// A `system` message (`protocol.md 7.3`, `8.4`).
#[must_use]
pub fn system(version: Version, join_ref: &Ref, topic: &str, system: &System<'_>) -> String {
    // A struct of strings always serializes.
    let payload = serde_json::to_string(system).unwrap_or_else(|_| "{}".to_owned());
    push(version, join_ref, topic, "system", &payload)
}

/// A row change (`protocol.md 7.4`); `data_json` is the `data` object, shared by all channels that see the same.
#[must_use]
pub fn postgres_changes(
    version: Version,
    topic: &str,
    ids: &[u32],
    data_json: &str,
    position: &str,
    replayed: bool,
) -> String {
    // Nine digits and a comma: ids are below 2^27.
    let mut list = String::with_capacity(ids.len() * 10);
    for (at, id) in ids.iter().enumerate() {
        // Writing to a String cannot fail.
        _ = write!(list, "{}{id}", if at > 0 { "," } else { "" });
    }
    let end = if replayed {
        r#"","replayed":true}"#
    } else {
        r#""}"#
    };
    let payload = [
        r#"{"ids":["#,
        &list,
        r#"],"data":"#,
        data_json,
        r#","position":""#,
        position,
        end,
    ];
    frame(
        version,
        &Ref::NULL,
        &Ref::NULL,
        Topic::Text(topic),
        "postgres_changes",
        &payload,
    )
}

/// A row change for a channel that joined without a configuration (`protocol.md 3.6`): `event` is `INSERT`, `UPDATE`
/// or `DELETE`.
#[must_use]
pub fn change_event(version: Version, topic: &str, event: &str, data_json: &str) -> String {
    fan_out(version, topic, event, data_json)
}
