//! What one end writes the other reads, and no bytes break either.

use proptest::prelude::*;
use serde_json::Value;
use walcast_protocol::{
    Encoding, Payload, Ref, Status, UserBroadcast, UserBroadcastPush, Version, decode_binary,
    decode_server_text, decode_text, decode_user_broadcast, encode_client_text, encode_user_broadcast,
    encode_user_broadcast_push, fuzzing, push, reply,
};

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V1), Just(Version::V2)]
}

fn reference() -> impl Strategy<Value = Ref> {
    prop_oneof![
        Just(Ref::NULL),
        any::<String>().prop_map(|text| Ref::from_text(&text))
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Text that fits into a length byte.
fn short() -> impl Strategy<Value = String> {
    any::<String>().prop_filter("too long for a binary frame", |text| text.len() <= 255)
}

fn metadata() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        json()
            .prop_map(|value| value.to_string())
            .prop_filter("too long", |text| text.len() <= 255)
    ]
}

fn encoding() -> impl Strategy<Value = Encoding> {
    prop_oneof![Just(Encoding::Binary), Just(Encoding::Json)]
}

proptest! {
    #[test]
    fn a_clients_text_frame(
        version in version(), join_ref in reference(), reference in reference(),
        topic in any::<String>(), event in any::<String>(), payload in json(),
    ) {
        let payload = payload.to_string();
        let frame = encode_client_text(version, &join_ref, &reference, &topic, &event, &payload);
        let message = decode_text(version, &frame).unwrap();
        prop_assert_eq!((message.join_ref, message.reference), (join_ref, reference));
        prop_assert_eq!((message.topic.as_str(), message.event.as_str()), (Some(&*topic), Some(&*event)));
        prop_assert!(matches!(message.payload, Payload::Json(raw) if raw.get() == payload));
    }

    #[test]
    fn a_servers_push(
        version in version(), join_ref in reference(), topic in any::<String>(), event in any::<String>(), payload in json(),
    ) {
        let payload = payload.to_string();
        let message = decode_server_text(version, &push(version, &join_ref, &topic, &event, &payload)).unwrap();
        let kept = if version == Version::V1 { Ref::NULL } else { join_ref };
        prop_assert_eq!((message.join_ref, message.reference), (kept, Ref::NULL));
        prop_assert_eq!((&*message.topic, &*message.event, message.payload.get()), (&*topic, &*event, &*payload));
    }

    #[test]
    fn a_servers_reply(
        version in version(), join_ref in reference(), reference in reference(), topic in any::<String>(), response in json(),
    ) {
        let frame = reply(version, &join_ref, &reference, &topic, Status::Error, &response.to_string());
        let message = decode_server_text(version, &frame).unwrap();
        prop_assert_eq!((&message.reference, &*message.event), (&reference, "phx_reply"));
        let payload: Value = serde_json::from_str(message.payload.get()).unwrap();
        prop_assert_eq!(payload, serde_json::json!({"status": "error", "response": response}));
    }

    #[test]
    fn a_user_broadcast_push(
        join_ref in short(), reference in short(), topic in short(), event in short(), metadata in metadata(),
        encoding in encoding(), payload in any::<Vec<u8>>(),
    ) {
        let sent = UserBroadcastPush { event, metadata, encoding, payload: payload.into() };
        let frame = encode_user_broadcast_push(&join_ref, &reference, &topic, &sent).unwrap();
        let message = decode_binary(Version::V2, &frame).unwrap();
        prop_assert_eq!((message.join_ref, message.reference), (Ref::from_text(&join_ref), Ref::from_text(&reference)));
        prop_assert_eq!((message.topic.as_str(), message.event.as_str()), (Some(&*topic), Some("broadcast")));
        prop_assert!(matches!(message.payload, Payload::UserBroadcast(found) if found == sent));
    }

    #[test]
    fn a_user_broadcast(
        topic in short(), event in short(), metadata in metadata(), encoding in encoding(), payload in any::<Vec<u8>>(),
    ) {
        let frame = encode_user_broadcast(&topic, &event, &metadata, encoding, &payload).unwrap();
        let expected = UserBroadcast { topic, event, metadata, encoding, payload: payload.into() };
        prop_assert_eq!(decode_user_broadcast(&frame).unwrap(), expected);
    }

    #[test]
    fn any_bytes(bytes in any::<Vec<u8>>(), kind in 0..6_u8) {
        fuzzing::frame_binary(&bytes);
        fuzzing::frame_binary(&[&[kind], &bytes[..]].concat());
        fuzzing::frame_text(&bytes);
        fuzzing::join_payload(&bytes);
    }

    #[test]
    fn any_json(value in json()) {
        let text = value.to_string();
        fuzzing::frame_text(format!("[{text},{text},{text},{text},{text}]").as_bytes());
        for payload in [
            text.clone(),
            format!(r#"{{"config":{text},"access_token":{text}}}"#),
            format!(r#"{{"config":{{"broadcast":{text},"presence":{text},"private":{text}}}}}"#),
            format!(r#"{{"config":{{"postgres_changes":[{{"a":{text}}},{{"id":{text}}}]}}}}"#),
        ] {
            fuzzing::join_payload(payload.as_bytes());
        }
    }
}

#[test]
fn a_server_message_without_a_text_as_topic_or_event_is_refused() {
    for frame in [r#"[null,null,5,"e",{}]"#, r#"[null,null,"t",null,{}]"#] {
        assert!(decode_server_text(Version::V2, frame).is_err(), "{frame}");
    }
}
