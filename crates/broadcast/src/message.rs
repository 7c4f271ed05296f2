//! A broadcast and its wire forms (`protocol.md 2.4`).

use std::fmt::Write;

use thiserror::Error;
use walcast_protocol::{
    Encoding, FieldTooLong, Frame, Ref, Version, encode_user_broadcast, fan_out, push, quoted,
};

/// The event all broadcasts travel under.
const BROADCAST: &str = "broadcast";

/// A user's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// JSON text. It is passed on as it is, so it must be JSON.
    Json(&'a str),
    /// Opaque bytes, for members on serializer 2.0.0 only.
    Binary(&'a [u8]),
}

/// What is to be broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A payload that every member gets as a text frame, verbatim: a text push, a message of HTTP batch.
    Verbatim {
        /// JSON text.
        payload: &'a str,
    },
    /// A user event: kind 3, HTTP single, a row.
    Event {
        /// The user's event.
        event: &'a str,
        /// The user's payload.
        body: Body<'a>,
        /// `meta.id`, of a stored message.
        id: Option<&'a str>,
    },
}

/// No frame can carry this to a member: a binary payload with an event or a topic above 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a binary payload cannot be framed: {0}")]
pub struct Unframeable(#[from] FieldTooLong);

/// What the server adds to a message on its way out (decision 30).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks<'a> {
    /// Where it is among the recent ones, if such are kept.
    pub(crate) position: Option<&'a str>,
    /// Whether it was missed and is told again.
    pub(crate) is_replayed: bool,
}

impl Marks<'_> {
    /// The members they are in an object, each with a comma before it.
    fn members(self) -> String {
        let mut members = String::new();
        if self.is_replayed {
            members.push_str(r#","replayed":true"#);
        }
        if let Some(position) = self.position {
            // Writing to a String cannot fail.
            _ = write!(members, r#","position":{}"#, quoted(position));
        }
        members
    }

    /// With the id of a stored message, as the object of a frame's metadata; none if there is nothing to say.
    fn metadata(self, id: Option<&str>) -> Option<String> {
        let id = id.map(|id| format!(r#","id":{}"#, quoted(id)));
        let members = id.unwrap_or_default() + &self.members();
        let members = members.strip_prefix(',')?;
        Some(format!("{{{members}}}"))
    }

    /// A verbatim payload with them. It is not read: they are its last members, which count where one has the same name.
    fn added_to(self, payload: &str) -> Option<String> {
        let members = self.members();
        let members = members.strip_prefix(',')?;
        let open = payload.strip_prefix('{')?.trim_end().strip_suffix('}')?;
        let comma = if open.trim_ascii().is_empty() { "" } else { "," };
        Some(format!("{{{open}{comma}{members}}}"))
    }
}

impl<'a> Message<'a> {
    /// The id of the stored message this is.
    #[must_use]
    pub fn id(&self) -> Option<&'a str> {
        match self {
            Self::Verbatim { .. } => None,
            Self::Event { id, .. } => *id,
        }
    }

    /// The frame for members of a version; none if they get nothing (binary payloads on 1.0.0).
    ///
    /// # Errors
    /// If it cannot be framed. JSON always can: what does not fit into kind 4 goes out as text.
    pub fn encode(&self, version: Version, topic: &str) -> Result<Option<Frame>, Unframeable> {
        self.encode_marked(version, topic, Marks::default())
    }

    /// As [`Message::encode`], with marks: among the `meta` of events, beside the members of verbatim payloads.
    pub(crate) fn encode_marked(
        &self,
        version: Version,
        topic: &str,
        marks: Marks<'_>,
    ) -> Result<Option<Frame>, Unframeable> {
        let (event, body, id) = match *self {
            Self::Verbatim { payload } => {
                let marked = marks.added_to(payload);
                let payload = marked.as_deref().unwrap_or(payload);
                return Ok(Some(fan_out(version, topic, BROADCAST, payload).into()));
            }
            Self::Event { event, body, id } => (event, body, id),
        };
        let metadata = marks.metadata(id);
        match (version, body) {
            (Version::V1, Body::Binary(_)) => Ok(None),
            (Version::V1, Body::Json(json)) => {
                let payload = payload_with_meta(event, json, metadata.as_deref());
                Ok(Some(fan_out(version, topic, BROADCAST, &payload).into()))
            }
            (Version::V2, body) => {
                let (encoding, bytes) = match body {
                    Body::Json(json) => (Encoding::Json, json.as_bytes()),
                    Body::Binary(bytes) => (Encoding::Binary, bytes),
                };
                match (
                    encode_user_broadcast(
                        topic,
                        event,
                        metadata.as_deref().unwrap_or_default(),
                        encoding,
                        bytes,
                    ),
                    body,
                ) {
                    (Ok(frame), _) => Ok(Some(Frame::binary(frame))),
                    (Err(_), Body::Json(json)) => {
                        let payload = payload_with_meta(event, json, metadata.as_deref());
                        Ok(Some(fan_out(version, topic, BROADCAST, &payload).into()))
                    }
                    (Err(error), Body::Binary(_)) => Err(error.into()),
                }
            }
        }
    }
}

/// The frame of a stored message for one channel that joins: of its own, unlike live ones, and text where those are
/// binary (`protocol.md 2.4`). None for binary payloads on 1.0.0.
///
/// # Errors
/// If a binary payload cannot be framed.
pub fn encode_replayed(
    version: Version,
    join_ref: &Ref,
    topic: &str,
    event: &str,
    body: Body<'_>,
    id: &str,
) -> Result<Option<Frame>, Unframeable> {
    let metadata = format!(r#"{{"replayed":true,"id":{}}}"#, quoted(id));
    match (version, body) {
        (_, Body::Json(json)) => {
            let payload = payload_with_meta(event, json, Some(&metadata));
            Ok(Some(push(version, join_ref, topic, BROADCAST, &payload).into()))
        }
        (Version::V1, Body::Binary(_)) => Ok(None),
        (Version::V2, Body::Binary(bytes)) => {
            let frame = encode_user_broadcast(topic, event, &metadata, Encoding::Binary, bytes)?;
            Ok(Some(Frame::binary(frame)))
        }
    }
}

/// The payload of a user event as text frames carry it; `json` and `metadata` are JSON text.
#[must_use]
pub fn payload_with_meta(event: &str, json: &str, metadata: Option<&str>) -> String {
    let mut payload = String::with_capacity(json.len() + event.len() + 100);
    // Writing to a String cannot fail.
    _ = write!(
        payload,
        r#"{{"event":{},"payload":{json},"type":"broadcast""#,
        quoted(event)
    );
    if let Some(metadata) = metadata {
        _ = write!(payload, r#","meta":{metadata}"#);
    }
    payload.push('}');
    payload
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TOPIC: &str = "realtime:room";

    fn text(frame: Option<Frame>) -> String {
        let frame = frame.unwrap();
        assert!(frame.is_text());
        String::from_utf8(frame.bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_text_push_reaches_both_versions_verbatim() {
        let message = Message::Verbatim {
            payload: r#"{"event":"e", "x":1}"#,
        };
        assert_eq!(
            text(message.encode(Version::V1, TOPIC).unwrap()),
            r#"{"topic":"realtime:room","event":"broadcast","payload":{"event":"e", "x":1},"ref":null}"#
        );
        assert_eq!(
            text(message.encode(Version::V2, TOPIC).unwrap()),
            r#"[null,null,"realtime:room","broadcast",{"event":"e", "x":1}]"#
        );
    }

    #[test]
    fn a_json_event_is_text_for_v1_and_kind_4_for_v2() {
        let message = Message::Event {
            event: "msg",
            body: Body::Json(r#"{"a":1}"#),
            id: Some("u1"),
        };
        assert_eq!(
            text(message.encode(Version::V1, TOPIC).unwrap()),
            r#"{"topic":"realtime:room","event":"broadcast","payload":{"event":"msg","payload":{"a":1},"type":"broadcast","meta":{"id":"u1"}},"ref":null}"#
        );
        let frame = message.encode(Version::V2, TOPIC).unwrap().unwrap();
        assert!(!frame.is_text());
        assert_eq!(
            frame.bytes(),
            b"\x04\x0d\x03\x0b\x01realtime:roommsg{\"id\":\"u1\"}{\"a\":1}"
        );
    }

    #[test]
    fn bytes_are_for_v2_alone() {
        let message = Message::Event {
            event: "b",
            body: Body::Binary(&[0, 255]),
            id: None,
        };
        assert_eq!(message.encode(Version::V1, TOPIC).unwrap(), None);
        let frame = message.encode(Version::V2, TOPIC).unwrap().unwrap();
        assert_eq!(frame.bytes(), b"\x04\x0d\x01\x00\x00realtime:roomb\x00\xff");
    }

    #[test]
    fn a_stored_message_is_text_for_both_versions_and_says_that_it_was_replayed() {
        let reference = Ref::from_text("7");
        let replayed = |version, body| encode_replayed(version, &reference, TOPIC, "e", body, "u1").unwrap();
        assert_eq!(
            text(replayed(Version::V2, Body::Json("{}"))),
            r#"["7",null,"realtime:room","broadcast",{"event":"e","payload":{},"type":"broadcast","meta":{"replayed":true,"id":"u1"}}]"#
        );
        assert_eq!(
            text(replayed(Version::V1, Body::Json("{}"))),
            r#"{"topic":"realtime:room","event":"broadcast","payload":{"event":"e","payload":{},"type":"broadcast","meta":{"replayed":true,"id":"u1"}},"ref":null}"#
        );
        assert_eq!(replayed(Version::V1, Body::Binary(b"x")), None);
        let frame = replayed(Version::V2, Body::Binary(b"x")).unwrap();
        assert_eq!(
            frame.bytes(),
            b"\x04\x0d\x01\x1b\x00realtime:roome{\"replayed\":true,\"id\":\"u1\"}x"
        );
    }

    #[test]
    fn marks_are_in_the_meta_of_events_and_beside_the_members_of_verbatim_payloads() {
        let marks = Marks {
            position: Some("7:1"),
            is_replayed: true,
        };
        let live = Marks {
            is_replayed: false,
            ..marks
        };
        for (payload, marked) in [
            ("{}", r#"{"position":"7:1"}"#),
            ("{ }\n", r#"{ "position":"7:1"}"#),
            (r#"{"event":"}"} "#, r#"{"event":"}","position":"7:1"}"#),
            (r#"{"position":0}"#, r#"{"position":0,"position":"7:1"}"#),
            ("[1]", "[1]"),
            ("5", "5"),
        ] {
            let message = Message::Verbatim { payload };
            assert_eq!(
                text(message.encode_marked(Version::V2, TOPIC, live).unwrap()),
                format!(r#"[null,null,"realtime:room","broadcast",{marked}]"#)
            );
        }
        let event = |id| Message::Event {
            event: "e",
            body: Body::Json("{}"),
            id,
        };
        for (id, marks, meta) in [
            (None, live, r#"{"position":"7:1"}"#),
            (None, marks, r#"{"replayed":true,"position":"7:1"}"#),
            (Some("u1"), live, r#"{"id":"u1","position":"7:1"}"#),
        ] {
            assert_eq!(
                text(event(id).encode_marked(Version::V1, TOPIC, marks).unwrap()),
                format!(
                    r#"{{"topic":"realtime:room","event":"broadcast","payload":{{"event":"e","payload":{{}},"type":"broadcast","meta":{meta}}},"ref":null}}"#
                )
            );
            let frame = event(id)
                .encode_marked(Version::V2, TOPIC, marks)
                .unwrap()
                .unwrap();
            let expected = format!("realtime:roome{meta}{{}}");
            assert_eq!(&frame.bytes()[5..], expected.as_bytes());
        }
    }

    #[test]
    fn json_that_kind_4_has_no_room_for_goes_out_as_text_and_bytes_are_refused() {
        let event = "e".repeat(256);
        let json = Message::Event {
            event: &event,
            body: Body::Json("{}"),
            id: None,
        };
        let expected = format!(
            r#"[null,null,"realtime:room","broadcast",{{"event":"{event}","payload":{{}},"type":"broadcast"}}]"#
        );
        assert_eq!(text(json.encode(Version::V2, TOPIC).unwrap()), expected);
        let bytes = Message::Event {
            event: &event,
            body: Body::Binary(b"x"),
            id: None,
        };
        assert!(bytes.encode(Version::V2, TOPIC).is_err());
    }
}
