//! Binary frames of serializer 2.0.0 (`protocol.md 2.3`).

use walcast_protocol::{
    Encoding, ErrorCode, FrameError, Message, Payload, UserBroadcast, UserBroadcastPush, Version,
    decode_binary, decode_user_broadcast, encode_user_broadcast, encode_user_broadcast_push,
};

/// The kind 3 example of `protocol.md 2.3`.
const PUSH: &[u8] = b"\x03\x01\x01\x0d\x03\x00\x0115realtime:roommsg{\"a\":1}";

fn references(message: &Message) -> [&str; 4] {
    [
        message.join_ref.json(),
        message.reference.json(),
        message.topic.as_str().unwrap_or_default(),
        message.event.as_str().unwrap_or_default(),
    ]
}

#[test]
fn a_user_broadcast_push_is_a_broadcast_with_its_user_event() {
    let message = decode_binary(Version::V2, PUSH).unwrap();
    assert_eq!(
        references(&message),
        ["\"1\"", "\"5\"", "realtime:room", "broadcast"]
    );
    let push = UserBroadcastPush {
        event: "msg".to_owned(),
        metadata: String::new(),
        encoding: Encoding::Json,
        payload: b"{\"a\":1}"[..].into(),
    };
    assert!(matches!(&message.payload, Payload::UserBroadcast(found) if *found == push));
    assert_eq!(
        encode_user_broadcast_push("1", "5", "realtime:room", &push).unwrap(),
        PUSH
    );
}

#[test]
fn a_user_broadcast_is_framed_as_in_the_examples() {
    for (metadata, frame) in [
        ("", &b"\x04\x0d\x03\x00\x01realtime:roommsg{\"a\":1}"[..]),
        (
            r#"{"id":"u1"}"#,
            &b"\x04\x0d\x03\x0b\x01realtime:roommsg{\"id\":\"u1\"}{\"a\":1}"[..],
        ),
    ] {
        let encoded =
            encode_user_broadcast("realtime:room", "msg", metadata, Encoding::Json, b"{\"a\":1}").unwrap();
        assert_eq!(encoded, frame);
        let expected = UserBroadcast {
            topic: "realtime:room".to_owned(),
            event: "msg".to_owned(),
            metadata: metadata.to_owned(),
            encoding: Encoding::Json,
            payload: b"{\"a\":1}"[..].into(),
        };
        assert_eq!(decode_user_broadcast(frame).unwrap(), expected);
    }
}

#[test]
fn a_kind_0_push_is_read_like_a_text_push_with_opaque_data() {
    let message = decode_binary(Version::V2, b"\x00\x00\x02\x07\x0921phoenixheartbeat{}").unwrap();
    assert_eq!(references(&message), ["\"\"", "\"21\"", "phoenix", "heartbeat"]);
    assert!(matches!(&message.payload, Payload::Bytes(data) if &data[..] == b"{}"));
}

#[test]
fn every_field_of_a_user_broadcast_push_may_be_empty() {
    let message = decode_binary(Version::V2, &[3, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(references(&message), ["\"\"", "\"\"", "", "broadcast"]);
}

/// `bad-frames-binary`: any number but zero says JSON, and JSON is not parsed.
#[test]
fn the_encoding_byte_is_json_unless_zero_and_the_payload_is_not_looked_at() {
    for (byte, encoding) in [
        (0, Encoding::Binary),
        (1, Encoding::Json),
        (7, Encoding::Json),
        (255, Encoding::Json),
    ] {
        let message = decode_binary(
            Version::V2,
            &[b"\x03\x00\x00\x01\x00\x00", &[byte][..], b"tnot json"].concat(),
        );
        match message.unwrap().payload {
            Payload::UserBroadcast(push) => {
                assert_eq!((push.encoding, &push.payload[..]), (encoding, &b"not json"[..]));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn metadata_must_be_json_but_not_an_object() {
    let frame = |metadata: &str| {
        let length = u8::try_from(metadata.len()).unwrap();
        decode_binary(
            Version::V2,
            &[&[3, 0, 0, 1, 0, length, 1, b't'], metadata.as_bytes(), b"{}"].concat(),
        )
    };
    for metadata in ["", "[1]", "{\"k\":\"v\"}", "5"] {
        assert!(frame(metadata).is_ok(), "{metadata}");
    }
    for metadata in ["{bad", "{}x", "nul"] {
        assert!(matches!(frame(metadata), Err(FrameError::Metadata)), "{metadata}");
    }
}

#[test]
fn bad_binary_frames_are_dropped_under_one_code() {
    let mut frames: Vec<&[u8]> = vec![
        b"",
        b"\x00",
        b"\x01",
        b"\x02",
        b"\x03",
        b"\x04",
        b"\x05\xff",
        b"\xff",
        b"\x03\x01",
        b"\x03\x01\x01\x05",
    ];
    frames.push(b"\x03\x01\x01\xff\x03\x00\x0111");
    frames.push(b"\x03\x00\x00\x01\x00\x00\x01\xff");
    frames.push(b"\x00\x00\x00\x02\x00\xc3");
    for frame in frames {
        let error = decode_binary(Version::V2, frame).unwrap_err();
        assert_eq!(
            error.code(),
            ErrorCode::UnknownErrorOnWebSocketMessage,
            "{frame:?}"
        );
    }
}

#[test]
fn every_cut_in_the_header_or_the_texts_is_noticed() {
    let payload_at = PUSH.len() - b"{\"a\":1}".len();
    for length in 0..payload_at {
        let cut = decode_binary(Version::V2, &PUSH[..length]);
        assert!(matches!(cut, Err(FrameError::Truncated)), "{length}");
    }
    assert!(decode_binary(Version::V2, &PUSH[..payload_at]).is_ok());
}

#[test]
fn fields_of_255_bytes_fit_and_longer_ones_are_named() {
    let (fits, long) = ("a".repeat(255), "é".repeat(128));
    assert!(encode_user_broadcast(&fits, &fits, &fits, Encoding::Binary, b"").is_ok());
    for (topic, event, metadata, field) in [
        (&*long, "e", "", "topic"),
        ("t", &*long, "", "event"),
        ("t", "e", &*long, "metadata"),
    ] {
        let error = encode_user_broadcast(topic, event, metadata, Encoding::Json, b"").unwrap_err();
        assert_eq!((error.field, error.bytes), (field, 256));
    }
    let push = UserBroadcastPush {
        event: fits.clone(),
        metadata: String::new(),
        encoding: Encoding::Binary,
        payload: Default::default(),
    };
    assert!(encode_user_broadcast_push(&fits, &fits, &fits, &push).is_ok());
    assert_eq!(
        encode_user_broadcast_push(&long, "", "t", &push)
            .unwrap_err()
            .field,
        "join_ref"
    );
    assert_eq!(
        encode_user_broadcast_push("", &long, "t", &push)
            .unwrap_err()
            .field,
        "ref"
    );
}
