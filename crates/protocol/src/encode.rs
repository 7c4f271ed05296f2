//! The server's messages as text frames of either serializer (`protocol.md 2.1` and `2.2`).

use crate::message::{Name, Ref};
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

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
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

/// Writes `[join_ref,ref,topic,event,payload]`, or the object of serializer 1.0.0 with `ref`.
fn write(version: Version, join_ref: &str, reference: &str, topic_json: &str, event: &str, payload: &str) -> String {
    let mut out = String::with_capacity(
        join_ref.len() + reference.len() + topic_json.len() + event.len() + payload.len() + 48,
    );
    // Writing to a String cannot fail.
    let _ = match version {
        Version::V1 => write!(
            out,
            r#"{{"topic":{topic_json},"event":{},"payload":{payload},"ref":{reference}}}"#,
            quoted(event)
        ),
        Version::V2 => write!(out, "[{join_ref},{reference},{topic_json},{},{payload}]", quoted(event)),
    };
    out
}

fn quoted(text: &str) -> String {
    // A string always serializes.
    serde_json::to_string(text).unwrap_or_default()
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
    let payload = format!(r#"{{"status":"{}","response":{response_json}}}"#, status.as_str());
    write(version, join_ref.json(), reference.json(), &quoted(topic), "phx_reply", &payload)
}

/// Answer to a heartbeat (`protocol.md 8.1`).
#[must_use]
pub fn heartbeat_reply(version: Version, reference: &Ref) -> String {
    reply(version, &Ref::NULL, reference, "phoenix", Status::Ok, "{}")
}

/// Answer to a message for a topic that is not joined (`protocol.md 8.2`).
#[must_use]
pub fn unmatched_topic(version: Version, reference: &Ref, topic: &Name) -> String {
    let payload = r#"{"status":"error","response":{"reason":"unmatched topic"}}"#;
    write(version, "null", reference.json(), &topic.json(), "phx_reply", payload)
}

/// A message of the channel itself, e.g. `presence_state`.
#[must_use]
pub fn push(version: Version, join_ref: &Ref, topic: &str, event: &str, payload_json: &str) -> String {
    write(version, join_ref.json(), "null", &quoted(topic), event, payload_json)
}

/// A message that every member of a topic gets alike.
#[must_use]
pub fn fan_out(version: Version, topic: &str, event: &str, payload_json: &str) -> String {
    write(version, "null", "null", &quoted(topic), event, payload_json)
}

/// The end of a channel; `join_ref` as recorded at its join. Serializer 1.0.0 carries it in `ref`.
#[must_use]
pub fn close(version: Version, join_ref: &Ref, topic: &str) -> String {
    write(version, join_ref.json(), join_ref.json(), &quoted(topic), "phx_close", "{}")
}

/// A channel broke inside the server; the client joins again by itself. Serializer 1.0.0 sends an empty payload.
#[must_use]
pub fn crash(version: Version, join_ref: &Ref, topic: &str) -> String {
    let payload = match version {
        Version::V1 => "{}",
        Version::V2 => r#"{"reason":"channel_crash"}"#,
    };
    write(version, join_ref.json(), join_ref.json(), &quoted(topic), "phx_error", payload)
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
pub fn postgres_changes(version: Version, topic: &str, ids: &[u32], data_json: &str) -> String {
    let mut payload = String::with_capacity(data_json.len() + 24 + ids.len() * 10);
    payload.push_str(r#"{"ids":["#);
    for (at, id) in ids.iter().enumerate() {
        let _ = write!(payload, "{}{id}", if at > 0 { "," } else { "" });
    }
    let _ = write!(payload, r#"],"data":{data_json}}}"#);
    fan_out(version, topic, "postgres_changes", &payload)
}

/// A row change for a channel that joined without a configuration (`protocol.md 3.6`).
#[must_use]
pub fn change_event(version: Version, topic: &str, event: &str, data_json: &str) -> String {
    fan_out(version, topic, event, data_json)
}
