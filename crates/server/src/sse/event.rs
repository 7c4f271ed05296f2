//! A frame of serializer 2.0.0 as a server-sent event.
//!
//! The payloads are those of the socket, so that what reads the one reads the other.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use walcast_broadcast::payload_with_meta;
use walcast_protocol::{Encoding, Frame, UserBroadcast, decode_user_broadcast, quoted};

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// An event, whole.
    Event(String),
    /// It means nothing to whoever only listens.
    Nothing,
    /// It ends a channel; why was told before.
    ChannelClosed,
}

/// `[join_ref, ref, topic, event, payload]`
type Message<'a> = (
    &'a RawValue,
    &'a RawValue,
    &'a RawValue,
    Cow<'a, str>,
    &'a RawValue,
);

/// What a payload may say of its place in the stream of changes.
#[derive(Deserialize)]
struct Placed<'a> {
    #[serde(borrow, default)]
    position: Option<Cow<'a, str>>,
}

/// The answer to a join that succeeded.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    response: &'a RawValue,
}

/// The event of a frame. The first event takes the id `start`, if it has none of its own.
pub(super) fn tell(frame: &Frame, start: &mut Option<String>) -> Told {
    let Ok(text) = std::str::from_utf8(frame.bytes()) else {
        return tell_binary(frame.bytes());
    };
    if !frame.is_text() {
        return tell_binary(frame.bytes());
    }
    // Frames are our own; one that does not read is none for this client.
    let Ok((_, _, topic, event, payload)) = serde_json::from_str::<Message<'_>>(text) else {
        return Told::Nothing;
    };
    let topic = sub_topic(topic.get());
    match &*event {
        "phx_close" | "phx_error" => Told::ChannelClosed,
        "phx_reply" => match serde_json::from_str::<Reply<'_>>(payload.get()) {
            Ok(reply) if reply.status == "ok" => {
                let joined = format!(
                    r#"{{"extension":"system","status":"ok","message":"Joined","channel":{topic},"response":{}}}"#,
                    reply.response.get()
                );
                Told::Event(write("system", start.take().as_deref(), &topic, &joined))
            }
            _ => Told::Nothing,
        },
        "postgres_changes" => {
            let position = serde_json::from_str::<Placed<'_>>(payload.get())
                .ok()
                .and_then(|placed| placed.position);
            Told::Event(write(&event, position.as_deref(), &topic, payload.get()))
        }
        "broadcast" | "presence_state" | "presence_diff" | "system" => {
            Told::Event(write(&event, None, &topic, payload.get()))
        }
        _ => Told::Nothing,
    }
}

fn tell_binary(frame: &[u8]) -> Told {
    let Ok(broadcast) = decode_user_broadcast(frame) else {
        return Told::Nothing;
    };
    let topic = quoted(&broadcast.topic);
    let payload = broadcast_payload(&broadcast);
    Told::Event(write("broadcast", None, &sub_topic(&topic), &payload))
}

/// The payload of a broadcast as members on 1.0.0 get it. Bytes, which those do not get, are base64 and marked so.
fn broadcast_payload(broadcast: &UserBroadcast) -> String {
    let metadata = Some(&*broadcast.metadata).filter(|metadata| !metadata.is_empty());
    let json = match broadcast.encoding {
        Encoding::Json => std::str::from_utf8(&broadcast.payload).ok(),
        Encoding::Binary => None,
    };
    if let Some(json) = json {
        return payload_with_meta(&broadcast.event, json, metadata);
    }
    let bytes = format!("\"{}\"", STANDARD.encode(&broadcast.payload));
    let mut payload = payload_with_meta(&broadcast.event, &bytes, metadata);
    payload.pop();
    payload.push_str(r#","encoding":"base64"}"#);
    payload
}

/// The server ends the stream; `reason` says why. It is about no topic.
pub(super) fn end(reason: &str) -> String {
    let payload = format!(
        r#"{{"extension":"system","status":"error","message":{}}}"#,
        quoted(reason)
    );
    write("system", None, "null", &payload)
}

/// The JSON text of a topic without its prefix: as the request named it.
fn sub_topic(topic: &str) -> Cow<'_, str> {
    match topic.strip_prefix("\"realtime:") {
        Some(rest) => Cow::Owned(format!("\"{rest}")),
        None => Cow::Borrowed(topic),
    }
}

fn write(event: &str, id: Option<&str>, topic: &str, payload: &str) -> String {
    let mut out = String::with_capacity(event.len() + topic.len() + payload.len() + 80);
    // Writing to a String cannot fail.
    if let Some(id) = id {
        _ = writeln!(out, "id: {}", one_line(id));
    }
    _ = write!(
        out,
        "event: {event}\ndata: {{\"topic\":{topic},\"payload\":{}}}\n\n",
        one_line(payload)
    );
    out
}

/// A client may send JSON over several lines; outside of strings, where alone JSON has them, a space does as well.
fn one_line(json: &str) -> Cow<'_, str> {
    if json.contains(['\n', '\r']) {
        Cow::Owned(json.replace(['\n', '\r'], " "))
    } else {
        Cow::Borrowed(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walcast_protocol::encode_user_broadcast;

    fn told(text: &str) -> String {
        match tell(&text.to_owned().into(), &mut None) {
            Told::Event(event) => event,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_frame_of_a_socket_is_an_event_with_its_topic_and_payload() {
        for (frame, event) in [
            (
                r#"[null,null,"realtime:a","broadcast",{"event":"e","payload":{},"type":"broadcast"}]"#,
                "event: broadcast\ndata: {\"topic\":\"a\",\"payload\":{\"event\":\"e\",\"payload\":{},\"type\":\"broadcast\"}}\n\n",
            ),
            (
                r#"["1",null,"realtime:a \"b\"","presence_state",{}]"#,
                "event: presence_state\ndata: {\"topic\":\"a \\\"b\\\"\",\"payload\":{}}\n\n",
            ),
            (
                r#"["1",null,"realtime:a","postgres_changes",{"ids":[1],"position":"16/B3:3","data":{}}]"#,
                "id: 16/B3:3\nevent: postgres_changes\ndata: {\"topic\":\"a\",\"payload\":{\"ids\":[1],\"position\":\"16/B3:3\",\"data\":{}}}\n\n",
            ),
            (
                "[null,null,\"realtime:a\",\"broadcast\",{\r\n\"a\": [\n1]}]",
                "event: broadcast\ndata: {\"topic\":\"a\",\"payload\":{  \"a\": [ 1]}}\n\n",
            ),
            (
                r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
                "event: system\ndata: {\"topic\":\"a\",\"payload\":{\"extension\":\"system\",\"status\":\"ok\",\"message\":\"Joined\",\"channel\":\"a\",\"response\":{\"postgres_changes\":[]}}}\n\n",
            ),
            (r#"["1","1","realtime:a","phx_close",{}]"#, "ChannelClosed"),
            (r#"["1","1","realtime:a","phx_error",{}]"#, "ChannelClosed"),
            (
                r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{}}]"#,
                "Nothing",
            ),
            (r#"["1","1","realtime:a","INSERT",{}]"#, "Nothing"),
        ] {
            assert_eq!(told(frame), event, "{frame}");
        }
    }

    #[test]
    fn the_first_event_has_the_id_where_the_stream_of_changes_began() {
        let mut start = Some("0/10:2".to_owned());
        let reply = r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{}}]"#;
        for is_first in [true, false] {
            let Told::Event(event) = tell(&reply.to_owned().into(), &mut start) else {
                panic!("no event");
            };
            assert_eq!(event.starts_with("id: 0/10:2\n"), is_first, "{event}");
        }
    }

    #[test]
    fn a_binary_frame_is_the_event_of_a_text_frame_and_bytes_are_marked() {
        let event = |metadata, encoding, payload: &[u8]| {
            let frame = encode_user_broadcast("realtime:a", "e", metadata, encoding, payload).unwrap();
            match tell(&Frame::binary(frame), &mut None) {
                Told::Event(event) => event,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            event("", Encoding::Json, b"{\"x\":1}"),
            "event: broadcast\ndata: {\"topic\":\"a\",\"payload\":{\"event\":\"e\",\"payload\":{\"x\":1},\"type\":\"broadcast\"}}\n\n"
        );
        assert_eq!(
            event(r#"{"id":"7"}"#, Encoding::Binary, &[0, 255, 1]),
            "event: broadcast\ndata: {\"topic\":\"a\",\"payload\":{\"event\":\"e\",\"payload\":\"AP8B\",\"type\":\"broadcast\",\"meta\":{\"id\":\"7\"},\"encoding\":\"base64\"}}\n\n"
        );
    }
}
