//! Text frames of both serializers, as a client sends them and as it gets them (`protocol.md 2.1`, `2.2`, `8.7`).

#![allow(clippy::unwrap_used, reason = "a frame that is no JSON stops its test")]

use serde_json::{Value, json};
use walcast_protocol::{
    ErrorCode, Message, Name, Payload, Ref, Status, System, Version, change_event, close, crash,
    decode_binary, decode_text, fan_out, heartbeat_reply, postgres_changes, push, reply, system,
    unmatched_topic,
};

const TOPIC: &str = "realtime:room";

/// `join_ref`, `ref`, topic, event and payload as JSON text.
fn parts(message: &Message) -> [String; 5] {
    let payload = match &message.payload {
        Payload::Json(raw) => raw.get().to_owned(),
        other => format!("{other:?}"),
    };
    [
        message.join_ref.json().to_owned(),
        message.reference.json().to_owned(),
        message.topic.json().into_owned(),
        message.event.json().into_owned(),
        payload,
    ]
}

#[test]
fn a_message_is_read_with_its_references_and_payload_as_sent() {
    for (version, frame, expected) in [
        (
            Version::V2,
            r#"["1","2","realtime:room","broadcast",{"a" : 1.0}]"#,
            [
                r#""1""#,
                r#""2""#,
                r#""realtime:room""#,
                r#""broadcast""#,
                r#"{"a" : 1.0}"#,
            ],
        ),
        (
            Version::V2,
            r#" [ 1 , null , "t" , "e" , "text" , "sixth", {} ] "#,
            ["1", "null", r#""t""#, r#""e""#, r#""text""#],
        ),
        (
            Version::V2,
            r#"[{"a":[1]},1.50,"\u00e9\n","e",[]]"#,
            [r#"{"a":[1]}"#, "1.50", r#""é\n""#, r#""e""#, "[]"],
        ),
        (
            Version::V1,
            r#"{"topic":"realtime:room","event":"phx_join","payload":{"config":{}},"ref":"1","join_ref":"7","more":1}"#,
            [
                r#""7""#,
                r#""1""#,
                r#""realtime:room""#,
                r#""phx_join""#,
                r#"{"config":{}}"#,
            ],
        ),
        (
            Version::V1,
            r#"{"ref":77,"payload":null,"event":"heartbeat","topic":"phoenix"}"#,
            ["null", "77", r#""phoenix""#, r#""heartbeat""#, "null"],
        ),
    ] {
        assert_eq!(parts(&decode_text(version, frame).unwrap()), expected, "{frame}");
    }
}

#[test]
fn serializer_1_takes_its_json_from_binary_frames_too() {
    let frame = r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}"#;
    let (text, binary) = (
        decode_text(Version::V1, frame),
        decode_binary(Version::V1, frame.as_bytes()),
    );
    assert_eq!(parts(&binary.unwrap()), parts(&text.unwrap()));
}

#[test]
fn bad_frames_are_dropped_under_the_code_of_the_table() {
    use ErrorCode::{MalformedWebSocketMessage as Malformed, UnknownErrorOnWebSocketMessage as Unknown};
    for (version, frame, code) in [
        (Version::V2, "", Malformed),
        (Version::V2, "nonsense", Malformed),
        (Version::V2, r#"["1","1","t","e",{}"#, Malformed),
        (Version::V2, r#"["1","1","t","e",{}] []"#, Malformed),
        (Version::V2, r#"["1","1","t","e"]"#, Malformed),
        (Version::V2, "[]", Malformed),
        (
            Version::V2,
            r#"{"topic":"t","event":"e","payload":{},"ref":"1"}"#,
            Malformed,
        ),
        (Version::V2, "5", Malformed),
        (Version::V2, "null", Malformed),
        (Version::V1, "", Malformed),
        (Version::V1, "{", Malformed),
        (Version::V1, r#"{"event":"e","payload":{},"ref":"1"}"#, Malformed),
        (Version::V1, r#"{"topic":"t","payload":{},"ref":"1"}"#, Malformed),
        (Version::V1, r#"{"topic":"t","event":"e","ref":"1"}"#, Malformed),
        (
            Version::V1,
            r#"{"topic":"t","event":"e","payload":{}}"#,
            Malformed,
        ),
        (Version::V1, r#"["1","1","t","e",{}]"#, Unknown),
        (Version::V1, r#""text""#, Unknown),
        (Version::V1, "null", Unknown),
    ] {
        assert_eq!(
            decode_text(version, frame).unwrap_err().code(),
            code,
            "{version:?} {frame}"
        );
    }
    assert_eq!(
        decode_binary(Version::V1, b"\xff{}").unwrap_err().code(),
        Malformed
    );
}

#[test]
fn an_error_text_never_repeats_what_was_sent() {
    let secret = "secret".repeat(1000);
    for frame in [
        format!("{secret:?}"),
        format!("[{secret:?}]"),
        format!("{{{secret:?}:1}}"),
        secret.clone(),
    ] {
        for version in [Version::V1, Version::V2] {
            let text = decode_text(version, &frame).unwrap_err().to_string();
            assert!(!text.contains("secret"), "{text}");
        }
    }
}

#[test]
fn nesting_costs_no_stack() {
    let depth = 200_000;
    let frame = format!(r#"["1","1","t","e",{}{}]"#, "[".repeat(depth), "]".repeat(depth));
    assert!(decode_text(Version::V2, &frame).is_ok());
    assert!(decode_text(Version::V2, &"[".repeat(depth)).is_err());
}

#[test]
fn topics_and_events_that_are_no_text_get_the_unmatched_topic_answer_with_the_topic_as_sent() {
    for (frame, answer) in [
        (
            "[null,null,null,null,null]",
            json!([null, null, null, "phx_reply", unmatched()]),
        ),
        (
            r#"["1","2",5,"e",{}]"#,
            json!([null, "2", 5, "phx_reply", unmatched()]),
        ),
        (
            r#"["1",2,{"a":[1]},7,{}]"#,
            json!([null, 2, {"a": [1]}, "phx_reply", unmatched()]),
        ),
        (
            r#"["1","2","t",5,{}]"#,
            json!([null, "2", "t", "phx_reply", unmatched()]),
        ),
    ] {
        let message = decode_text(Version::V2, frame).unwrap();
        let text = unmatched_topic(Version::V2, &message.reference, &message.topic);
        assert_eq!(json_of(&text), answer, "{frame}");
    }
    // Half a surrogate pair is JSON, but no text.
    let message = decode_text(Version::V2, r#"["1","2","\ud800","e",{}]"#).unwrap();
    assert!(matches!(&message.topic, Name::Other(raw) if raw.get() == r#""\ud800""#));
}

fn unmatched() -> Value {
    json!({"status": "error", "response": {"reason": "unmatched topic"}})
}

#[test]
fn references_are_equal_if_their_json_text_is() {
    let frame =
        |reference: &str| decode_text(Version::V2, &format!(r#"[null,{reference},"t","e",0]"#)).unwrap();
    assert_eq!(frame(r#""1""#).reference, Ref::from_text("1"));
    assert_ne!(frame("1").reference, Ref::from_text("1"));
    assert_eq!(frame(" null ").reference, Ref::NULL);
    assert!(!frame(r#""null""#).reference.is_null());
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Every message of the server, in the forms of `protocol.md 2.1` and `2.2`.
#[test]
fn server_messages_have_the_forms_of_the_tables() {
    let (one, two) = (Ref::from_text("1"), Ref::from_text("2"));
    let down = System {
        extension: "postgres_changes",
        status: "ok",
        message: "Subscribed to PostgreSQL",
        channel: Some("room"),
        warnings: &[],
    };
    type Encoder<'a> = &'a dyn Fn(Version) -> String;
    let cases: [(Encoder<'_>, Value, Value); 10] = [
        (
            &|version| {
                reply(
                    version,
                    &one,
                    &two,
                    TOPIC,
                    Status::Ok,
                    r#"{"postgres_changes":[]}"#,
                )
            },
            json!(["1", "2", TOPIC, "phx_reply", {"status": "ok", "response": {"postgres_changes": []}}]),
            json!({"topic": TOPIC, "event": "phx_reply", "ref": "2",
                "payload": {"status": "ok", "response": {"postgres_changes": []}}}),
        ),
        (
            &|version| {
                reply(
                    version,
                    &one,
                    &Ref::NULL,
                    TOPIC,
                    Status::Error,
                    r#"{"reason":"x"}"#,
                )
            },
            json!(["1", null, TOPIC, "phx_reply", {"status": "error", "response": {"reason": "x"}}]),
            json!({"topic": TOPIC, "event": "phx_reply", "ref": null,
                "payload": {"status": "error", "response": {"reason": "x"}}}),
        ),
        (
            &|version| heartbeat_reply(version, &two),
            json!([null, "2", "phoenix", "phx_reply", {"status": "ok", "response": {}}]),
            json!({"topic": "phoenix", "event": "phx_reply", "ref": "2", "payload": {"status": "ok", "response": {}}}),
        ),
        (
            &|version| unmatched_topic(version, &two, &Name::Text("foo".to_owned())),
            json!([null, "2", "foo", "phx_reply", unmatched()]),
            json!({"topic": "foo", "event": "phx_reply", "ref": "2", "payload": unmatched()}),
        ),
        (
            &|version| push(version, &one, TOPIC, "presence_state", "{}"),
            json!(["1", null, TOPIC, "presence_state", {}]),
            json!({"topic": TOPIC, "event": "presence_state", "ref": null, "payload": {}}),
        ),
        (
            &|version| fan_out(version, TOPIC, "broadcast", r#"{"event":"e"}"#),
            json!([null, null, TOPIC, "broadcast", {"event": "e"}]),
            json!({"topic": TOPIC, "event": "broadcast", "ref": null, "payload": {"event": "e"}}),
        ),
        (
            &|version| close(version, &one, TOPIC),
            json!(["1", "1", TOPIC, "phx_close", {}]),
            json!({"topic": TOPIC, "event": "phx_close", "ref": "1", "payload": {}}),
        ),
        (
            &|version| crash(version, &one, TOPIC),
            json!(["1", "1", TOPIC, "phx_error", {"reason": "channel_crash"}]),
            json!({"topic": TOPIC, "event": "phx_error", "ref": "1", "payload": {}}),
        ),
        (
            &|version| system(version, &one, TOPIC, &down),
            json!(["1", null, TOPIC, "system", {"extension": "postgres_changes", "status": "ok",
                "message": "Subscribed to PostgreSQL", "channel": "room"}]),
            json!({"topic": TOPIC, "event": "system", "ref": null, "payload": {"extension": "postgres_changes",
                "status": "ok", "message": "Subscribed to PostgreSQL", "channel": "room"}}),
        ),
        (
            &|version| change_event(version, TOPIC, "INSERT", r#"{"type":"INSERT"}"#),
            json!([null, null, TOPIC, "INSERT", {"type": "INSERT"}]),
            json!({"topic": TOPIC, "event": "INSERT", "ref": null, "payload": {"type": "INSERT"}}),
        ),
    ];
    for (encode, v2, v1) in cases {
        assert_eq!(json_of(&encode(Version::V2)), v2);
        assert_eq!(json_of(&encode(Version::V1)), v1);
    }
}

#[test]
fn a_change_carries_its_ids_and_its_data_byte_for_byte() {
    let data = r#"{"record":{"v": "a", "n":1.0}}"#;
    for (ids, list) in [
        (&[][..], "[]"),
        (&[92_365_374][..], "[92365374]"),
        (&[3, 0, 3][..], "[3,0,3]"),
    ] {
        let payload = format!(r#"{{"ids":{list},"data":{data},"position":"0/1A:2"}}"#);
        assert_eq!(
            postgres_changes(Version::V2, TOPIC, ids, data, "0/1A:2", false),
            format!(r#"[null,null,"{TOPIC}","postgres_changes",{payload}]"#)
        );
        let payload = format!(r#"{{"ids":{list},"data":{data},"position":"0/1A:2","replayed":true}}"#);
        assert_eq!(
            postgres_changes(Version::V1, TOPIC, ids, data, "0/1A:2", true),
            format!(r#"{{"topic":"{TOPIC}","event":"postgres_changes","payload":{payload},"ref":null}}"#)
        );
    }
}

#[test]
fn a_request_to_disconnect_has_no_channel_and_warnings_show_only_when_there_are_some() {
    let leaving = System {
        extension: "system",
        status: "ok",
        message: "Server requested disconnect",
        channel: None,
        warnings: &[],
    };
    assert_eq!(
        json_of(&system(Version::V2, &Ref::NULL, TOPIC, &leaving)),
        json!([null, null, TOPIC, "system",
            {"extension": "system", "status": "ok", "message": "Server requested disconnect"}])
    );
    let warned = System {
        warnings: &["table t is not \"published\"".to_owned()],
        ..leaving
    };
    let frame = json_of(&system(Version::V2, &Ref::NULL, TOPIC, &warned));
    assert_eq!(frame[4]["warnings"], json!(["table t is not \"published\""]));
}

#[test]
fn topics_and_events_are_escaped() {
    let topic = "realtime:\"\\\n\u{1}é\u{1f600}";
    let frame = json_of(&fan_out(Version::V2, topic, topic, "{}"));
    assert_eq!((&frame[2], &frame[3]), (&json!(topic), &json!(topic)));
    assert_eq!(
        json_of(&fan_out(Version::V1, topic, topic, "{}"))["topic"],
        json!(topic)
    );
}

/// `join-refs`, `leave-wrong-ref`: a numeric reference comes back as a number, on both serializers.
#[test]
fn references_come_back_with_their_json_type() {
    let message = decode_text(Version::V2, r#"[1,2,"realtime:room","phx_leave",{}]"#).unwrap();
    assert_eq!(
        reply(
            Version::V2,
            &message.join_ref,
            &message.reference,
            TOPIC,
            Status::Ok,
            "{}"
        ),
        r#"[1,2,"realtime:room","phx_reply",{"status":"ok","response":{}}]"#
    );
    assert_eq!(
        close(Version::V2, &message.join_ref, TOPIC),
        r#"[1,1,"realtime:room","phx_close",{}]"#
    );
    assert_eq!(
        close(Version::V1, &message.join_ref, TOPIC),
        r#"{"topic":"realtime:room","event":"phx_close","payload":{},"ref":1}"#
    );
}
