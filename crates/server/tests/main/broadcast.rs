//! Broadcasts between clients of public channels (`protocol.md 2.4`, `5`, `9`).

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;
use walcast_protocol::{Encoding, UserBroadcastPush, encode_user_broadcast_push};

use crate::server::{Client, Walcast, anon};

const TOPIC: &str = "realtime:room";

fn push(event: &str, encoding: Encoding, payload: &[u8]) -> UserBroadcastPush {
    UserBroadcastPush {
        event: event.to_owned(),
        metadata: String::new(),
        encoding,
        payload: payload.to_vec().into(),
    }
}

async fn send_kind_3(socket: &mut Client, reference: &str, push: &UserBroadcastPush) {
    let frame = encode_user_broadcast_push("1", reference, TOPIC, push).unwrap();
    socket.stream.send(Message::binary(frame)).await.unwrap();
}

async fn join(server: &Walcast, vsn: &str, broadcast: Value) -> Client {
    let mut socket = server.socket_as(vsn, &anon()).await;
    let payload = json!({"config": {"broadcast": broadcast}});
    if vsn == "1.0.0" {
        let join =
            json!({"topic": TOPIC, "event": "phx_join", "payload": payload, "ref": "1", "join_ref": "1"});
        socket.send_json(join).await;
        assert_eq!(socket.receive().await["payload"]["status"], "ok");
    } else {
        assert_eq!(socket.join(TOPIC, "1", payload).await.0, "ok");
    }
    socket
}

async fn expect_binary(socket: &mut Client, expected: &[u8]) {
    match socket.next().await {
        Message::Binary(bytes) => assert_eq!(&bytes[..], expected),
        other => panic!("expected a binary frame, got {other:?}"),
    }
}

#[tokio::test]
async fn section_2_4_a_text_push_is_a_text_frame_for_both_versions_verbatim() {
    let server = Walcast::start(&[]).await;
    let mut sender = join(&server, "2.0.0", json!({})).await;
    let mut v2 = join(&server, "2.0.0", json!({})).await;
    let mut v1 = join(&server, "1.0.0", json!({})).await;
    sender
        .send(r#"["1","2","realtime:room","broadcast",{"type":"broadcast","event":"e","payload":{"n":1e3},"more":[]}]"#)
        .await;
    let payload = r#"{"type":"broadcast","event":"e","payload":{"n":1e3},"more":[]}"#;
    let text = |message: Message| message.into_text().unwrap().to_string();
    assert_eq!(
        text(v2.next().await),
        format!(r#"[null,null,"realtime:room","broadcast",{payload}]"#)
    );
    assert_eq!(
        text(v1.next().await),
        format!(r#"{{"topic":"realtime:room","event":"broadcast","payload":{payload},"ref":null}}"#)
    );
    sender.expect_silence().await;
}

#[tokio::test]
async fn section_2_4_a_json_user_broadcast_is_kind_4_for_2_0_0_and_text_for_1_0_0() {
    let server = Walcast::start(&[]).await;
    let mut sender = join(&server, "2.0.0", json!({})).await;
    let mut v2 = join(&server, "2.0.0", json!({})).await;
    let mut v1 = join(&server, "1.0.0", json!({})).await;
    send_kind_3(&mut sender, "2", &push("msg", Encoding::Json, br#"{"a": 1}"#)).await;
    expect_binary(&mut v2, b"\x04\x0d\x03\x00\x01realtime:roommsg{\"a\": 1}").await;
    v1.expect(json!({"topic": TOPIC, "event": "broadcast", "ref": null,
        "payload": {"event": "msg", "payload": {"a": 1}, "type": "broadcast"}}))
        .await;
}

#[tokio::test]
async fn section_2_4_bytes_reach_members_on_2_0_0_alone() {
    let server = Walcast::start(&[]).await;
    let mut sender = join(&server, "2.0.0", json!({"ack": true})).await;
    let mut v2 = join(&server, "2.0.0", json!({})).await;
    let mut v1 = join(&server, "1.0.0", json!({})).await;
    send_kind_3(&mut sender, "2", &push("b", Encoding::Binary, &[0, 255])).await;
    expect_binary(&mut v2, b"\x04\x0d\x01\x00\x00realtime:roomb\x00\xff").await;
    sender
        .expect(json!(["1", "2", TOPIC, "phx_reply", {"status": "ok", "response": {}}]))
        .await;
    v1.send(r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"h"}"#)
        .await;
    assert_eq!(v1.receive().await["ref"], "h");
}

#[tokio::test]
async fn section_5_2_the_sender_hears_its_own_only_with_self_and_then_before_the_ack() {
    let server = Walcast::start(&[]).await;
    let mut sender = join(&server, "2.0.0", json!({"self": true, "ack": true})).await;
    sender
        .send_json(json!(["1", "2", TOPIC, "broadcast", {"event": "e"}]))
        .await;
    sender
        .expect(json!([null, null, TOPIC, "broadcast", {"event": "e"}]))
        .await;
    sender
        .expect(json!(["1", "2", TOPIC, "phx_reply", {"status": "ok", "response": {}}]))
        .await;
}

#[tokio::test]
async fn section_5_3_a_payload_above_the_limit_is_an_error_with_ack_and_silence_without() {
    let server = Walcast::start(&[("WALCAST_MAX_PAYLOAD_KB", "1")]).await;
    let mut receiver = join(&server, "2.0.0", json!({})).await;
    let mut asking = join(&server, "2.0.0", json!({"ack": true})).await;
    let mut silent = join(&server, "2.0.0", json!({})).await;
    // 1 + object 5 + key 6 + string 5: the limit is 1500.
    let fits = json!({"a": "x".repeat(1483)});
    let exceeds = json!({"a": "x".repeat(1484)});
    asking
        .send_json(json!(["1", "2", TOPIC, "broadcast", exceeds]))
        .await;
    let answer = |reference: &str, status: &str, response: Value| json!(["1", reference, TOPIC, "phx_reply", {"status": status, "response": response}]);
    asking
        .expect(answer("2", "error", json!("payload_size_exceeded")))
        .await;
    send_kind_3(&mut asking, "3", &push("e", Encoding::Binary, &[0; 1474])).await;
    asking
        .expect(answer("3", "error", json!("payload_size_exceeded")))
        .await;
    silent
        .send_json(json!(["1", "2", TOPIC, "broadcast", exceeds]))
        .await;
    silent.expect_silence().await;
    asking
        .send_json(json!(["1", "4", TOPIC, "broadcast", fits]))
        .await;
    asking.expect(answer("4", "ok", json!({}))).await;
    receiver
        .expect(json!([null, null, TOPIC, "broadcast", fits]))
        .await;
}

#[tokio::test]
async fn a_payload_that_no_receiver_could_be_given_is_refused_and_the_channel_lives_on() {
    let server = Walcast::start(&[]).await;
    let mut receiver = join(&server, "2.0.0", json!({})).await;
    let mut sender = join(&server, "2.0.0", json!({"ack": true})).await;
    let error = |reference: &str, response: &str| json!(["1", reference, TOPIC, "phx_reply", {"status": "error", "response": response}]);
    for (reference, payload) in [("2", json!("text")), ("3", json!(null)), ("4", json!([1]))] {
        sender
            .send_json(json!(["1", reference, TOPIC, "broadcast", payload]))
            .await;
        sender.expect(error(reference, "payload_not_an_object")).await;
    }
    send_kind_3(&mut sender, "5", &push("e", Encoding::Json, b"{]")).await;
    sender.expect(error("5", "payload_not_json")).await;
    receiver.expect_silence().await;
}

#[tokio::test]
async fn section_2_4_a_text_payload_that_is_no_object_still_reaches_1_0_0() {
    let server = Walcast::start(&[]).await;
    let mut receiver = join(&server, "1.0.0", json!({})).await;
    let mut sender = join(&server, "2.0.0", json!({"ack": true})).await;
    sender
        .send_json(json!(["1", "2", TOPIC, "broadcast", "text"]))
        .await;
    sender
        .expect(json!(["1", "2", TOPIC, "phx_reply", {"status": "ok", "response": {}}]))
        .await;
    receiver
        .expect(json!({"topic": TOPIC, "event": "broadcast", "payload": "text", "ref": null}))
        .await;
}

#[tokio::test]
async fn who_has_left_hears_nothing_more() {
    let server = Walcast::start(&[]).await;
    let mut sender = join(&server, "2.0.0", json!({})).await;
    let mut gone = join(&server, "2.0.0", json!({})).await;
    gone.send_json(json!(["1", "2", TOPIC, "phx_leave", {}])).await;
    gone.receive().await;
    gone.receive().await;
    sender
        .send_json(json!(["1", "2", TOPIC, "broadcast", {"event": "e"}]))
        .await;
    sender.expect_silence().await;
    gone.expect_silence().await;
}

#[tokio::test]
async fn section_9_a_channel_that_is_delivered_a_message_above_the_limit_is_closed_after_it() {
    let server = Walcast::start(&[("TENANT_MAX_EVENTS_PER_SECOND", "1")]).await;
    let mut sender = join(&server, "2.0.0", json!({"ack": true})).await;
    let mut receiver = join(&server, "2.0.0", json!({})).await;
    let ok = |reference: &str| json!(["1", reference, TOPIC, "phx_reply", {"status": "ok", "response": {}}]);
    let mut sent = 0;
    // The limit is judged every five seconds; until then everything passes.
    let closed = loop {
        sent += 1;
        let reference = sent.to_string();
        sender
            .send_json(json!(["1", reference, TOPIC, "broadcast", {"event": "e"}]))
            .await;
        sender.expect(ok(&reference)).await;
        receiver
            .expect(json!([null, null, TOPIC, "broadcast", {"event": "e"}]))
            .await;
        receiver.send(r#"[null,"h","phoenix","heartbeat",{}]"#).await;
        let next = receiver.receive().await;
        if next[1] != "h" {
            break next;
        }
    };
    assert_eq!(
        closed,
        json!(["1", null, TOPIC, "system", {"extension": "system", "status": "error",
            "message": "Too many messages per second", "channel": "room"}])
    );
    receiver.expect(json!(["1", "1", TOPIC, "phx_close", {}])).await;
    sender.expect_silence().await;
}

#[tokio::test]
async fn section_9_a_join_above_the_limit_is_refused_and_closes_its_socket() {
    let server = Walcast::start(&[("TENANT_MAX_JOINS_PER_SECOND", "1")]).await;
    let mut socket = server.socket().await;
    let mut joined = 0;
    let refused = loop {
        joined += 1;
        let topic = format!("realtime:{joined}");
        let reply = socket.join(&topic, "1", json!({"config": {}})).await;
        if reply.0 == "error" {
            break reply.1;
        }
        // One at a time, a few a second would do; a burst passes until the limit is judged.
        socket.send_json(json!(["1", "2", topic, "phx_leave", {}])).await;
        socket.receive().await;
        socket.receive().await;
    };
    assert_eq!(
        refused,
        json!({"reason": "ClientJoinRateLimitReached: Too many joins per second"})
    );
    assert_eq!(socket.close_code().await, Some(1001));
    let refused = server
        .get(&format!("/socket/websocket?apikey={}&vsn=2.0.0", anon()))
        .await;
    assert_eq!(
        (refused.status, &*refused.body),
        (429, r#"{"error":"Too many joins per second"}"#)
    );
}

#[tokio::test]
async fn section_3_3_a_project_of_private_channels_refuses_public_ones() {
    let server = Walcast::start(&[("WALCAST_PRIVATE_ONLY", "true")]).await;
    let mut socket = server.socket().await;
    let joined = socket.join(TOPIC, "1", json!({"config": {}})).await;
    assert_eq!(
        joined,
        (
            "error".to_owned(),
            json!({"reason": "PrivateOnly: This project only allows private channels"})
        )
    );
}
