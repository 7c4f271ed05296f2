//! `protocol.md 8`: routing, leave, rejoin.

use serde_json::json;

use crate::server::{Walcast, now_s, sign};

fn unmatched() -> serde_json::Value {
    json!({"status": "error", "response": {"reason": "unmatched topic"}})
}

#[tokio::test]
async fn section_8_2_only_realtime_topics_can_be_joined() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    for (reference, topic) in [
        ("1", "foo:bar"),
        ("2", "realtime"),
        ("3", ""),
        ("4", "Realtime:x"),
        ("5", "phoenix"),
    ] {
        socket
            .send_json(json!([reference, reference, topic, "phx_join", {"config": {}}]))
            .await;
        socket
            .expect(json!([null, reference, topic, "phx_reply", unmatched()]))
            .await;
    }
}

#[tokio::test]
async fn section_8_2_pushes_to_a_topic_that_is_not_joined() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    for event in ["broadcast", "presence", "access_token", "anything"] {
        socket.send_json(json!(["1", "2", "realtime:a", event, {}])).await;
        socket
            .expect(json!([null, "2", "realtime:a", "phx_reply", unmatched()]))
            .await;
    }
    socket
        .send_json(json!(["9", "3", "realtime:a", "phx_leave", {}]))
        .await;
    socket
        .expect(json!(["9", "3", "realtime:a", "phx_reply", {"status": "ok", "response": {}}]))
        .await;
}

#[tokio::test]
async fn section_8_2_unknown_events_on_a_joined_topic_get_no_reply() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    for event in [
        "foo",
        "phx_reply",
        "phx_close",
        "phx_error",
        "heartbeat",
        "postgres_changes",
        "system",
    ] {
        socket
            .send_json(json!(["1", "2", "realtime:a", event, {"a": 1}]))
            .await;
        socket.expect_silence().await;
    }
    for payload in [
        json!({}),
        json!({"access_token": 5}),
        json!({"access_token": [1]}),
        json!("text"),
    ] {
        socket
            .send_json(json!(["1", "2", "realtime:a", "access_token", payload]))
            .await;
        socket.expect_silence().await;
    }
}

#[tokio::test]
async fn section_8_3_leave_and_join_again() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    socket
        .send_json(json!(["1", "2", "realtime:a", "phx_leave", {}]))
        .await;
    socket
        .expect(json!(["1", "2", "realtime:a", "phx_reply", {"status": "ok", "response": {}}]))
        .await;
    socket
        .expect(json!(["1", "1", "realtime:a", "phx_close", {}]))
        .await;
    socket.join_ok("realtime:a", "3").await;
}

#[tokio::test]
async fn section_8_3_a_leave_of_another_join_is_ignored() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    for join_ref in [json!("99"), json!(null), json!(1)] {
        socket
            .send_json(json!([join_ref, "2", "realtime:a", "phx_leave", {}]))
            .await;
        socket.expect_silence().await;
    }
    socket
        .send_json(json!(["1", "6", "realtime:a", "phx_leave", {}]))
        .await;
    socket
        .expect(json!(["1", "6", "realtime:a", "phx_reply", {"status": "ok", "response": {}}]))
        .await;
}

#[tokio::test]
async fn section_2_2_references_are_echoed_with_their_type() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let joined = json!({"status": "ok", "response": {"postgres_changes": []}});
    let ok = json!({"status": "ok", "response": {}});

    socket
        .send_json(json!([1, 1, "realtime:n", "phx_join", {"config": {}}]))
        .await;
    socket
        .expect(json!([1, 1, "realtime:n", "phx_reply", joined]))
        .await;
    socket
        .send_json(json!([1, 2, "realtime:n", "phx_leave", {}]))
        .await;
    socket.expect(json!([1, 2, "realtime:n", "phx_reply", ok])).await;
    socket.expect(json!([1, 1, "realtime:n", "phx_close", {}])).await;

    // Without a join_ref the channel goes by the join's ref, and any leave ends it.
    socket
        .send_json(json!([null, "3", "realtime:b", "phx_join", {"config": {}}]))
        .await;
    socket
        .expect(json!([null, "3", "realtime:b", "phx_reply", joined]))
        .await;
    socket
        .send_json(json!(["x", "5", "realtime:b", "phx_leave", {}]))
        .await;
    socket
        .expect(json!(["3", "5", "realtime:b", "phx_reply", ok]))
        .await;
    socket
        .expect(json!([null, null, "realtime:b", "phx_close", {}]))
        .await;

    socket
        .send_json(json!([null, null, "realtime:d", "phx_join", {"config": {}}]))
        .await;
    socket
        .expect(json!([null, null, "realtime:d", "phx_reply", joined]))
        .await;
    socket
        .send_json(json!([null, null, "realtime:d", "phx_leave", {}]))
        .await;
    socket
        .expect(json!([null, null, "realtime:d", "phx_reply", ok]))
        .await;
    socket
        .expect(json!([null, null, "realtime:d", "phx_close", {}]))
        .await;
}

#[tokio::test]
async fn section_8_5_a_join_of_a_joined_topic_replaces_it() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    socket.join_ok("realtime:a", "3").await;
    socket
        .expect(json!(["1", "1", "realtime:a", "phx_close", {}]))
        .await;
    // Also with the same reference.
    socket.join_ok("realtime:a", "3").await;
    socket
        .expect(json!(["3", "3", "realtime:a", "phx_close", {}]))
        .await;
    socket
        .send_json(json!(["3", "4", "realtime:a", "phx_leave", {}]))
        .await;
    socket
        .expect(json!(["3", "4", "realtime:a", "phx_reply", {"status": "ok", "response": {}}]))
        .await;
}

#[tokio::test]
async fn section_8_5_a_rejoin_that_fails_leaves_the_topic_not_joined() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let expired = sign(&json!({"role": "anon", "exp": now_s() - 60}));
    socket.join_ok("realtime:a", "1").await;
    let (status, _) = socket
        .join("realtime:a", "2", json!({"config": {}, "access_token": expired}))
        .await;
    assert_eq!(status, "error");
    socket
        .expect(json!(["1", "1", "realtime:a", "phx_close", {}]))
        .await;
    socket
        .send_json(json!(["2", "3", "realtime:a", "broadcast", {}]))
        .await;
    socket
        .expect(json!([null, "3", "realtime:a", "phx_reply", unmatched()]))
        .await;
}

#[tokio::test]
async fn section_3_3_a_slow_join_holds_up_neither_heartbeats_nor_other_topics() {
    let server = Walcast::start(&[("WALCAST_JOIN_TIMEOUT_MS", "700")]).await;
    let mut socket = server.socket().await;
    let changes = json!({"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "t"}]}});
    socket
        .send_json(json!(["1", "1", "realtime:slow", "phx_join", changes]))
        .await;
    socket.expect_silence().await;
    socket.join_ok("realtime:fast", "2").await;
    let (status, response) = socket.joined("realtime:slow", "1").await;
    assert_eq!(status, "error");
    assert_eq!(
        response["reason"],
        "UnableToConnectToProject: Realtime was unable to connect to the project database"
    );
}

#[tokio::test]
async fn section_3_3_a_failed_join_is_answered_late_and_holds_up_nothing() {
    let server = Walcast::start(&[("CHANNEL_ERROR_BACKOFF_MS", "500")]).await;
    let mut socket = server.socket().await;
    let began = std::time::Instant::now();
    socket
        .send_json(json!(["1", "1", "realtime:", "phx_join", {"config": {}}]))
        .await;
    socket.join_ok("realtime:a", "2").await;
    socket.expect_silence().await;
    let (status, _) = socket.joined("realtime:", "1").await;
    assert_eq!(status, "error");
    assert!(began.elapsed() >= std::time::Duration::from_millis(500));
}

#[tokio::test]
async fn frames_for_a_topic_wait_for_its_join_in_order() {
    let server = Walcast::start(&[("CHANNEL_ERROR_BACKOFF_MS", "300")]).await;
    let mut socket = server.socket().await;
    socket
        .send_json(json!(["1", "1", "realtime:a", "phx_join", {"config": 5}]))
        .await;
    socket
        .send_json(json!(["1", "2", "realtime:a", "broadcast", {}]))
        .await;
    socket
        .send_json(json!(["1", "3", "realtime:a", "phx_leave", {}]))
        .await;
    let (status, _) = socket.joined("realtime:a", "1").await;
    assert_eq!(status, "error");
    socket
        .expect(json!([null, "2", "realtime:a", "phx_reply", unmatched()]))
        .await;
    socket
        .expect(json!(["1", "3", "realtime:a", "phx_reply", {"status": "ok", "response": {}}]))
        .await;
}

#[tokio::test]
async fn a_client_may_send_more_for_a_topic_than_waits_for_its_join() {
    let server = Walcast::start(&[("CHANNEL_ERROR_BACKOFF_MS", "300")]).await;
    let mut socket = server.socket().await;
    socket
        .send_json(json!(["1", "1", "realtime:a", "phx_join", {"config": 5}]))
        .await;
    for number in 0..200 {
        socket
            .send_json(json!(["1", number, "realtime:a", "broadcast", {}]))
            .await;
    }
    socket.joined("realtime:a", "1").await;
    for number in 0..200 {
        socket
            .expect(json!([null, number, "realtime:a", "phx_reply", unmatched()]))
            .await;
    }
}

#[tokio::test]
async fn a_newer_join_of_a_topic_takes_the_place_of_one_under_way() {
    let server = Walcast::start(&[("WALCAST_JOIN_TIMEOUT_MS", "60000")]).await;
    let mut socket = server.socket().await;
    let changes = json!({"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "t"}]}});
    socket.join_ok("realtime:a", "1").await;
    socket
        .send_json(json!(["2", "2", "realtime:a", "phx_join", changes]))
        .await;
    socket
        .send_json(json!(["3", "3", "realtime:a", "phx_join", {"config": {}}]))
        .await;
    let (status, _) = socket.joined("realtime:a", "2").await;
    assert_eq!(status, "error");
    socket
        .expect(json!(["1", "1", "realtime:a", "phx_close", {}]))
        .await;
    let (status, _) = socket.joined("realtime:a", "3").await;
    assert_eq!(status, "ok");
    socket.expect_silence().await;
}

#[tokio::test]
async fn more_joins_at_once_than_may_be_under_way_are_all_answered() {
    let server = Walcast::start(&[("WALCAST_JOIN_TIMEOUT_MS", "300")]).await;
    let mut socket = server.socket().await;
    let changes = json!({"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "t"}]}});
    for number in 0..600 {
        let topic = format!("realtime:{number}");
        socket
            .send_json(json!([number, number, topic, "phx_join", changes]))
            .await;
    }
    let mut answered = std::collections::HashSet::new();
    for _ in 0..600 {
        let reply = socket.receive().await;
        assert_eq!(reply[4]["status"], "error");
        assert!(answered.insert(reply[1].as_i64().unwrap()), "{reply} came twice");
    }
    socket.expect_silence().await;
}
