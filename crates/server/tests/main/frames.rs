//! `protocol.md 1.5`, `2`, `8.7`: what travels, and what is dropped.

use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::server::{Walcast, anon};

#[tokio::test]
async fn section_8_1_heartbeats_echo_their_reference() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    for (sent, reference) in [
        (r#"[null,"1","phoenix","heartbeat",{}]"#, json!("1")),
        (r#"[null,77,"phoenix","heartbeat",{}]"#, json!(77)),
        (r#"[null,null,"phoenix","heartbeat",{}]"#, json!(null)),
        (r#"[null,"4","phoenix","heartbeat",null]"#, json!("4")),
        (r#"["9","5","phoenix","heartbeat",{}]"#, json!("5")),
    ] {
        socket.send(sent).await;
        socket
            .expect(json!([null, reference, "phoenix", "phx_reply", {"status": "ok", "response": {}}]))
            .await;
    }
}

#[tokio::test]
async fn section_2_1_the_first_serializer_speaks_objects() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket_as("1.0.0", &anon()).await;
    let heartbeat = r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"2","join_ref":null}"#;
    let reply = json!({"ref": "2", "event": "phx_reply", "payload": {"status": "ok", "response": {}}, "topic": "phoenix"});
    socket.send(heartbeat).await;
    socket.expect(reply.clone()).await;
    // A binary frame that holds the same is accepted.
    socket
        .stream
        .send(Message::binary(heartbeat.as_bytes().to_vec()))
        .await
        .unwrap();
    socket.expect(reply).await;

    socket
        .send(r#"{"topic":"realtime:a","event":"phx_join","payload":{"config":{}},"ref":"1","join_ref":"7"}"#)
        .await;
    let joined = json!({"status": "ok", "response": {"postgres_changes": []}});
    socket
        .expect(json!({"ref": "1", "event": "phx_reply", "payload": joined, "topic": "realtime:a"}))
        .await;
    socket
        .send(r#"{"topic":"realtime:a","event":"phx_leave","payload":{},"ref":"3","join_ref":"7"}"#)
        .await;
    let left = json!({"status": "ok", "response": {}});
    socket
        .expect(json!({"ref": "3", "event": "phx_reply", "payload": left, "topic": "realtime:a"}))
        .await;
    socket
        .expect(json!({"ref": "7", "event": "phx_close", "payload": {}, "topic": "realtime:a"}))
        .await;
}

#[tokio::test]
async fn section_8_7_bad_frames_cost_only_themselves() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    for text in [
        "",
        "{",
        "5",
        "{}",
        "[]",
        r#"["1","1","realtime:a","phx_join"]"#,
        "nonsense",
    ] {
        socket.send(text).await;
        socket.expect_silence().await;
    }
    let binary: [&[u8]; 9] = [
        &[],
        &[0],
        &[1],
        &[4],
        &[5, 0xff],
        &[0xff],
        &[3, 1, 1, 5],
        &[3, 1, 1, 0xff, 3, 0, 1, b'1', b'1'],
        b"\x03\x01\x02\x04\x01\x04\x01113room\x65{bad{}",
    ];
    for frame in binary {
        socket.stream.send(Message::binary(frame.to_vec())).await.unwrap();
        socket.expect_silence().await;
    }
    let mut first = server.socket_as("1.0.0", &anon()).await;
    for text in [
        "[]",
        "5",
        r#"{"topic":"phoenix","event":"heartbeat","payload":{}}"#,
    ] {
        first.send(text).await;
    }
    first
        .send(r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}"#)
        .await;
    assert_eq!(first.receive().await["ref"], "1");
}

#[tokio::test]
async fn section_8_7_names_that_are_no_strings_get_the_unmatched_topic_reply() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let unmatched = json!({"status": "error", "response": {"reason": "unmatched topic"}});
    for (sent, topic) in [
        (json!([null, null, null, null, null]), json!(null)),
        (json!(["1", null, 5, "phx_join", {}]), json!(5)),
        (json!(["1", null, "realtime:a", 5, {}]), json!("realtime:a")),
    ] {
        socket.send_json(sent).await;
        socket
            .expect(json!([null, null, topic, "phx_reply", unmatched]))
            .await;
    }
}

#[tokio::test]
async fn section_1_5_text_that_is_not_utf_8_is_dropped() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let frame = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    socket.stream.send(Message::Frame(frame)).await.unwrap();
    socket.expect_silence().await;
}

#[tokio::test]
async fn section_1_5_fragments_are_one_message_and_a_ping_may_come_between() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let part =
        |text: &'static str, opcode, last| Message::Frame(Frame::message(text, OpCode::Data(opcode), last));
    socket
        .stream
        .send(part(r#"[null,"1","#, Data::Text, false))
        .await
        .unwrap();
    socket.stream.send(Message::Ping("p1".into())).await.unwrap();
    socket
        .stream
        .send(part(r#""phoenix","heartbeat",{}]"#, Data::Continue, true))
        .await
        .unwrap();
    let pong = futures_util::StreamExt::next(&mut socket.stream)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pong, Message::Pong("p1".into()));
    socket
        .expect(json!([null, "1", "phoenix", "phx_reply", {"status": "ok", "response": {}}]))
        .await;
}

#[tokio::test]
async fn section_1_5_protocol_errors_close_with_1002() {
    let server = Walcast::start(&[]).await;
    for (name, bytes) in [
        ("an unmasked frame", &[0x81, 0x02, 0x7b, 0x7d][..]),
        ("a reserved opcode", &[0x83, 0x80, 0, 0, 0, 0][..]),
        ("a continuation of nothing", &[0x80, 0x80, 0, 0, 0, 0][..]),
    ] {
        let mut socket = server.socket().await;
        socket.send_raw(bytes).await;
        assert_eq!(socket.close_code().await, Some(1002), "{name}");
    }
}

#[tokio::test]
async fn section_1_5_a_frame_that_announces_too_much_closes_with_1009() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let announced: u64 = 5_000_001;
    let mut header = vec![0x81, 0xff];
    header.extend(announced.to_be_bytes());
    header.extend([0; 4]);
    socket.send_raw(&header).await;
    assert_eq!(socket.close_code().await, Some(1009));
}

#[tokio::test]
async fn section_1_5_the_close_code_arrives_though_the_client_still_writes() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.send(&"a".repeat(6_000_000)).await;
    assert_eq!(socket.close_code().await, Some(1009));
}

#[tokio::test]
async fn section_1_5_the_largest_message_is_taken_whole() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let frame = |filler: usize| format!(r#"[null,"1","phoenix","heartbeat","{}"]"#, "a".repeat(filler));
    let overhead = frame(0).len();
    socket.send(&frame(5_000_000 - overhead)).await;
    socket
        .expect(json!([null, "1", "phoenix", "phx_reply", {"status": "ok", "response": {}}]))
        .await;
    socket.expect_silence().await;
}

#[tokio::test]
async fn a_frame_larger_than_the_connections_buffers_is_written_whole() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let reference = "r".repeat(4_000_000);
    for _ in 0..3 {
        socket
            .send_json(json!([null, reference, "phoenix", "heartbeat", {}]))
            .await;
    }
    for _ in 0..3 {
        assert_eq!(socket.receive().await[1], reference);
    }
    socket.expect_silence().await;
}

#[tokio::test]
async fn a_close_of_the_client_is_answered() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.stream.close(None).await.unwrap();
    assert!(matches!(
        futures_util::StreamExt::next(&mut socket.stream).await,
        Some(Ok(Message::Close(_))) | None
    ));
}
