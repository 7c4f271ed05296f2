//! What is broadcast over HTTP, how members on both serializers get it, and what is wrong with what is not
//! (`protocol.md 2.4`, `5.5` to `5.7`).

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;
use walcast_protocol::Encoding;

use crate::server::{Client, Response, Walcast, anon};

const BATCH: &str = "/api/broadcast";
const TOPIC: &str = "realtime:room";

struct Sender {
    server: Walcast,
    authorization: String,
}

impl Sender {
    async fn start(settings: &[(&str, &str)]) -> Self {
        Self {
            server: Walcast::start(settings).await,
            authorization: format!("Bearer {}", anon()),
        }
    }

    async fn post(&self, target: &str, kind: Option<&str>, body: &[u8]) -> Response {
        let mut headers = vec![("authorization", self.authorization.as_str())];
        headers.extend(kind.map(|kind| ("content-type", kind)));
        self.server.post(target, &headers, body).await
    }

    async fn json(&self, target: &str, body: &str) -> Response {
        self.post(target, Some("application/json"), body.as_bytes()).await
    }

    async fn expect_accepted(&self, target: &str, kind: Option<&str>, body: &[u8]) {
        let response = self.post(target, kind, body).await;
        assert_eq!((response.status, &*response.body), (202, ""), "{target} {kind:?}");
    }

    async fn v2(&self) -> Client {
        let mut socket = self.server.socket().await;
        socket.join_ok(TOPIC, "1").await;
        socket
    }

    async fn v1(&self) -> Client {
        let mut socket = self.server.socket_as("1.0.0", &anon()).await;
        let join = json!({"topic": TOPIC, "event": "phx_join", "payload": {"config": {}}, "ref": "1", "join_ref": "1"});
        socket.send_json(join).await;
        assert_eq!(socket.receive().await["payload"]["status"], "ok");
        socket
    }
}

async fn next_text(socket: &mut Client) -> String {
    match socket.next().await {
        Message::Text(text) => text.to_string(),
        other => panic!("expected a text frame, got {other:?}"),
    }
}

async fn next_kind_4(socket: &mut Client) -> (String, Encoding, Vec<u8>) {
    match socket.next().await {
        Message::Binary(frame) => {
            let message = walcast_protocol::decode_user_broadcast(&frame).unwrap();
            assert_eq!((&*message.topic, &*message.metadata), (TOPIC, ""));
            (message.event, message.encoding, message.payload.to_vec())
        }
        other => panic!("expected a binary frame, got {other:?}"),
    }
}

async fn expect_silence_on_v1(socket: &mut Client) {
    socket
        .send(r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"silence"}"#)
        .await;
    assert_eq!(socket.receive().await["ref"], "silence");
}

#[tokio::test]
async fn section_5_6_a_batch_is_text_for_both_versions_in_order_with_its_payloads_verbatim() {
    let sender = Sender::start(&[]).await;
    let (mut v2, mut v1) = (sender.v2().await, sender.v1().await);
    let response = sender
        .json(
            BATCH,
            r#"{"messages":[
                {"topic":"room","event":"e1","payload":{"b":1e3, "a":"\u00fc"}},
                {"topic":"room","event":"e\"2","payload":{},"id":"my-id"},
                {"topic":"elsewhere","event":"e","payload":{}},
                {"topic":"realtime:room","event":"e","payload":{}},
                {"topic":"room","event":"e3","payload":{"n":null},"private":"false","extra":[1],"type":"y","id":null}
            ]}"#,
        )
        .await;
    assert_eq!((response.status, &*response.body), (202, ""));
    for payload in [
        r#"{"event":"e1","payload":{"b":1e3, "a":"\u00fc"},"type":"broadcast"}"#,
        r#"{"event":"e\"2","payload":{},"type":"broadcast","meta":{"id":"my-id"}}"#,
        r#"{"event":"e3","payload":{"n":null},"type":"broadcast"}"#,
    ] {
        assert_eq!(
            next_text(&mut v2).await,
            format!(r#"[null,null,"{TOPIC}","broadcast",{payload}]"#)
        );
        assert_eq!(
            next_text(&mut v1).await,
            format!(r#"{{"topic":"{TOPIC}","event":"broadcast","payload":{payload},"ref":null}}"#)
        );
    }
    v2.expect_silence().await;
    expect_silence_on_v1(&mut v1).await;
}

#[tokio::test]
async fn section_5_6_private_may_be_written_in_many_ways() {
    let sender = Sender::start(&[]).await;
    let mut member = sender.v2().await;
    for private in ["false", "null", r#""false""#, r#""0""#, r#""""#] {
        let body =
            format!(r#"{{"messages":[{{"topic":"room","event":"e","payload":{{}},"private":{private}}}]}}"#);
        assert_eq!(sender.json(BATCH, &body).await.status, 202, "{private}");
        member.receive().await;
    }
}

#[tokio::test]
async fn section_5_6_what_is_wrong_with_a_batch_is_said_and_nothing_is_sent() {
    let sender = Sender::start(&[("WALCAST_MAX_PAYLOAD_KB", "1")]).await;
    let mut member = sender.v2().await;
    let blank = r#"["can't be blank"]"#;
    let invalid = r#"["is invalid"]"#;
    let oversized = json!({"messages": [{"topic": "a", "event": "e", "payload": {"d": "x".repeat(1500)}}]});
    for (body, errors) in [
        ("", blank.to_owned()),
        ("{}", blank.to_owned()),
        (" [1]", blank.to_owned()),
        ("1", blank.to_owned()),
        (r#"{"messages":[]}"#, blank.to_owned()),
        (r#"{"messages":null}"#, invalid.to_owned()),
        (r#"{"messages":{"a":1}}"#, invalid.to_owned()),
        (r#"{"messages":"x"}"#, invalid.to_owned()),
        (r#"{"messages":["x",1]}"#, invalid.to_owned()),
        (
            r#"{"messages":[{"topic":"room","event":"e","payload":{}},null]}"#,
            invalid.to_owned(),
        ),
        (
            r#"{"messages":[{}]}"#,
            format!(r#"[{{"event":{blank},"payload":{blank},"topic":{blank}}}]"#),
        ),
        (
            r#"{"messages":[{"topic":"room"},{"payload":{}},{"topic":"room","event":"e","payload":{}}]}"#,
            format!(r#"[{{"event":{blank},"payload":{blank}}},{{"event":{blank},"topic":{blank}}},{{}}]"#),
        ),
        (
            r#"{"messages":[{"topic":"","event":" \t","payload":null}]}"#,
            format!(r#"[{{"event":{blank},"payload":{blank},"topic":{blank}}}]"#),
        ),
        (
            r#"{"messages":[{"topic":5,"event":["e"],"payload":[1],"private":"maybe","id":1}]}"#,
            format!(
                r#"[{{"event":{invalid},"id":{invalid},"payload":{invalid},"private":{invalid},"topic":{invalid}}}]"#
            ),
        ),
        (
            r#"{"messages":[{"topic":"room","event":"e","payload":"x","private":1}]}"#,
            format!(r#"[{{"payload":{invalid},"private":{invalid}}}]"#),
        ),
        (
            &oversized.to_string(),
            r#"[{"payload":["Payload size exceeds tenant limit"]}]"#.to_owned(),
        ),
    ] {
        let response = sender.json(BATCH, body).await;
        assert_eq!(
            (response.status, &*response.body),
            (422, &*format!(r#"{{"errors":{{"messages":{errors}}}}}"#)),
            "{body}"
        );
    }
    member.expect_silence().await;
}

#[tokio::test]
async fn a_report_of_what_is_wrong_has_an_end() {
    let sender = Sender::start(&[]).await;
    let body = format!(r#"{{"messages":[{}{{}}]}}"#, "{},".repeat(100_000));
    let response = sender.json(BATCH, &body).await;
    assert_eq!(response.status, 422);
    let report: Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(report["errors"]["messages"].as_array().unwrap().len(), 10_000);
}

#[tokio::test]
async fn section_5_6_a_body_that_is_not_read_has_no_messages_and_one_that_cannot_be_is_malformed() {
    let sender = Sender::start(&[]).await;
    let body = r#"{"messages":[{"topic":"room","event":"e","payload":{}}]}"#;
    let errors = |text: &str| format!(r#"{{"errors":{{"messages":["{text}"]}}}}"#);
    let malformed = || "Bad Request".to_owned();
    for (kind, body, status, answer) in [
        (Some("application/json; charset=utf-8"), body, 202, String::new()),
        (Some("application/vnd.api+json"), body, 202, String::new()),
        (None, body, 422, errors("can't be blank")),
        (Some("text/plain"), body, 422, errors("can't be blank")),
        (
            Some("application/octet-stream"),
            body,
            422,
            errors("can't be blank"),
        ),
        (Some("nonsense"), body, 422, errors("can't be blank")),
        (
            Some("application/x-www-form-urlencoded"),
            "messages=x",
            422,
            errors("is invalid"),
        ),
        (
            Some("application/x-www-form-urlencoded"),
            "a=x",
            422,
            errors("can't be blank"),
        ),
        (
            Some("multipart/form-data; boundary=x"),
            "--x--\r\n",
            422,
            errors("can't be blank"),
        ),
        (Some("multipart/form-data; boundary=x"), "x=1", 400, malformed()),
        (Some("application/json"), r#"{"messages":"#, 400, malformed()),
        (
            Some("application/json"),
            r#"{"messages":[{"topic":"a""#,
            400,
            malformed(),
        ),
    ] {
        let response = sender.post(BATCH, kind, body.as_bytes()).await;
        assert_eq!(
            (response.status, &*response.body),
            (status, &*answer),
            "{kind:?} {body}"
        );
    }
    for target in [BATCH, "/api/broadcast/room/events/e"] {
        for body in [&b"{bad"[..], b"{\"a\":\"\xff\"}"] {
            let headers = [
                ("authorization", sender.authorization.as_str()),
                ("content-type", "application/json"),
                ("accept", "application/json"),
            ];
            let response = sender.server.post(target, &headers, body).await;
            assert_eq!((response.status, &*response.body), (400, "\"Bad Request\""));
        }
    }
}

#[tokio::test]
async fn section_5_7_a_json_payload_is_kind_4_for_2_0_0_and_text_for_1_0_0() {
    const JSON: Option<&str> = Some("application/json");
    let sender = Sender::start(&[]).await;
    let (mut v2, mut v1) = (sender.v2().await, sender.v1().await);
    for (target, kind, body, event, payload) in [
        (
            "room/events/ev",
            JSON,
            r#"{ "b":1e3, "a":[] }"#,
            "ev",
            r#"{"a":[],"b":1.0e3}"#,
        ),
        (
            "room/events/ev",
            Some("Application/Json; charset=utf-8"),
            "{}",
            "ev",
            "{}",
        ),
        ("room/events/ev", JSON, "", "ev", "{}"),
        ("room/events/ev", JSON, "[1, 2]", "ev", r#"{"_json":[1,2]}"#),
        ("room/events/ev", JSON, "null", "ev", r#"{"_json":null}"#),
        ("room/events/ev", None, r#"{"a":1}"#, "ev", "{}"),
        ("room/events/ev", None, "", "ev", "{}"),
        // What the path and the query say is not for the payload to change, except for its one quirk.
        (
            "room/events/ev?private=false",
            JSON,
            r#"{"topic":"x","event":"y"}"#,
            "ev",
            r#"{"event":"y","topic":"x"}"#,
        ),
        (
            "room/events/ev?private=true",
            JSON,
            r#"{"private":0}"#,
            "ev",
            r#"{"private":0}"#,
        ),
        ("room/events/ev?private=1", JSON, "{}", "ev", "{}"),
        ("r%6fom/events/a%2Fb%20c+%C3%BC", JSON, "{}", "a/b c+ü", "{}"),
    ] {
        sender
            .expect_accepted(&format!("/api/broadcast/{target}"), kind, body.as_bytes())
            .await;
        let (event_v2, encoding, bytes) = next_kind_4(&mut v2).await;
        assert_eq!(
            (&*event_v2, encoding, &*bytes),
            (event, Encoding::Json, payload.as_bytes()),
            "{target} {body}"
        );
        assert_eq!(
            next_text(&mut v1).await,
            format!(
                r#"{{"topic":"{TOPIC}","event":"broadcast","payload":{{"event":"{event}","payload":{payload},"type":"broadcast"}},"ref":null}}"#
            )
        );
    }
    sender
        .expect_accepted("/api/broadcast/room%2Fx/events/e", JSON, b"{}")
        .await;
    v2.expect_silence().await;
}

#[tokio::test]
async fn section_5_7_bytes_reach_members_on_2_0_0_alone() {
    let sender = Sender::start(&[]).await;
    let (mut v2, mut v1) = (sender.v2().await, sender.v1().await);
    for bytes in [&[0_u8, 255, 1][..], b"", br#"{"private":true}"#] {
        sender
            .expect_accepted(
                "/api/broadcast/room/events/ev",
                Some("application/octet-stream"),
                bytes,
            )
            .await;
        assert_eq!(
            next_kind_4(&mut v2).await,
            ("ev".to_owned(), Encoding::Binary, bytes.to_vec())
        );
    }
    expect_silence_on_v1(&mut v1).await;
}

#[tokio::test]
async fn section_5_7_other_kinds_of_bodies_are_refused_before_the_token_is_looked_at() {
    let server = Walcast::start(&[]).await;
    let unsupported =
        r#"{"error":"Unsupported Media Type. Use application/json or application/octet-stream"}"#;
    for (kind, body, status, answer) in [
        ("text/plain", "x", 415, unsupported),
        ("application/x-www-form-urlencoded", "x=1", 415, unsupported),
        ("nonsense", "x", 415, unsupported),
        ("", "x", 415, unsupported),
        ("application/vnd.api+json", r#"{"a":1}"#, 415, unsupported),
        ("application/vnd.api+json", "x=1", 400, "Bad Request"),
        ("multipart/form-data; boundary=x", "--x--", 415, unsupported),
        ("multipart/form-data; boundary=x", "x=1", 400, "Bad Request"),
    ] {
        let response = server
            .post(
                "/api/broadcast/room/events/e",
                &[("content-type", kind)],
                body.as_bytes(),
            )
            .await;
        assert_eq!((response.status, &*response.body), (status, answer), "{kind}");
        assert_eq!(response.header("x-rate-rolling"), None);
    }
}

#[tokio::test]
async fn section_5_7_names_that_nobody_could_hear_are_refused() {
    let sender = Sender::start(&[]).await;
    let long = "e".repeat(256);
    let binary = Some("application/octet-stream");
    for (target, kind, errors) in [
        ("room/events/%20", None, r#"{"event":["can't be blank"]}"#),
        ("%20/events/e", None, r#"{"topic":["can't be blank"]}"#),
        (
            "%09/events/%0a",
            None,
            r#"{"event":["can't be blank"],"topic":["can't be blank"]}"#,
        ),
        ("room/events/%ff", None, r#"{"event":["is invalid"]}"#),
        ("%ff/events/e", None, r#"{"topic":["is invalid"]}"#),
        (
            &format!("room/events/{long}"),
            binary,
            r#"{"event":["is invalid"]}"#,
        ),
        (&format!("{long}/events/e"), binary, r#"{"topic":["is invalid"]}"#),
    ] {
        let response = sender.post(&format!("/api/broadcast/{target}"), kind, b"").await;
        assert_eq!(
            (response.status, &*response.body),
            (422, &*format!(r#"{{"errors":{errors}}}"#)),
            "{target}"
        );
    }
}

#[tokio::test]
async fn an_event_that_is_too_long_for_kind_4_is_text_for_both_versions() {
    let sender = Sender::start(&[]).await;
    let mut v2 = sender.v2().await;
    let long = "e".repeat(256);
    sender
        .expect_accepted(&format!("/api/broadcast/room/events/{long}"), None, b"")
        .await;
    v2.expect(json!([null, null, TOPIC, "broadcast", {"event": long, "payload": {}, "type": "broadcast"}]))
        .await;
}

#[tokio::test]
async fn section_5_5_a_payload_of_exactly_the_limit_is_sent() {
    let sender = Sender::start(&[("WALCAST_MAX_PAYLOAD_KB", "1")]).await;
    let mut member = sender.v2().await;
    // 1 + object 5 + key 6 + string 5 of 1500; raw bytes count 6 more than they are.
    let payload = |excess: usize| json!({"d": "x".repeat(1483 + excess)});
    let batch = |excess: usize| {
        let message = json!({"topic": "room", "event": "e", "payload": payload(excess)});
        json!({"messages": [message]}).to_string().into_bytes()
    };
    let oversized = r#"{"errors":{"payload":["Payload size exceeds tenant limit"]}}"#;
    let oversized_in_batch = r#"{"errors":{"messages":[{"payload":["Payload size exceeds tenant limit"]}]}}"#;
    let single = "/api/broadcast/room/events/e";
    for (target, kind, fits, exceeds, answer) in [
        (BATCH, "application/json", batch(0), batch(1), oversized_in_batch),
        (
            single,
            "application/json",
            payload(0).to_string().into_bytes(),
            payload(1).to_string().into_bytes(),
            oversized,
        ),
        (
            single,
            "application/octet-stream",
            vec![0; 1494],
            vec![0; 1495],
            oversized,
        ),
    ] {
        let response = sender.post(target, Some(kind), &exceeds).await;
        assert_eq!((response.status, &*response.body), (422, answer), "{kind}");
        sender.expect_accepted(target, Some(kind), &fits).await;
        member.next().await;
    }
    member.expect_silence().await;
}

#[tokio::test]
async fn section_5_7_a_private_broadcast_needs_the_database_and_a_public_one_does_not() {
    let sender = Sender::start(&[("WALCAST_JOIN_TIMEOUT_MS", "50")]).await;
    let mut member = sender.v2().await;
    let unavailable = r#"{"message":"Tenant database unavailable"}"#;
    for (target, body) in [
        ("/api/broadcast/room/events/e?private=true", "{}"),
        ("/api/broadcast/room/events/e", r#"{"private":true}"#),
    ] {
        let response = sender.json(target, body).await;
        assert_eq!((response.status, &*response.body), (422, unavailable));
    }
    let response = sender
        .json(
            BATCH,
            r#"{"messages":[{"topic":"room","event":"p","payload":{},"private":true},{"topic":"room","event":"e","payload":{}}]}"#,
        )
        .await;
    assert_eq!((response.status, &*response.body), (202, ""));
    member
        .expect(json!([null, null, TOPIC, "broadcast", {"event": "e", "payload": {}, "type": "broadcast"}]))
        .await;
    member.expect_silence().await;
}
