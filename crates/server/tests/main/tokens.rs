//! `protocol.md 4.2`, `4.3`: what happens to a channel's token after its join.

use serde_json::{Value, json};

use crate::server::{Client, Walcast, forged, now_s, sign, sign_raw, user};

async fn refresh(socket: &mut Client, token: Value) {
    socket
        .send_json(json!(["1", "2", "realtime:a", "access_token", {"access_token": token}]))
        .await;
}

#[tokio::test]
async fn section_4_3_tokens_that_close_the_channel() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let exp = now_s() + 60;
    let cases = [
        (
            sign(&json!({"exp": exp})),
            "Fields `role` and `exp` are required in JWT",
        ),
        (String::new(), "The token provided is not a valid JWT"),
        ("not-a-jwt".to_owned(), "The token provided is not a valid JWT"),
        ("sb".to_owned(), "The token provided is not a valid JWT"),
        (forged(), ":signature_error"),
        (sign_raw(r#"{"alg":"RS256"}"#, "{}"), ":error_generating_signer"),
    ];
    for (token, message) in cases {
        socket.join_ok("realtime:a", "1").await;
        refresh(&mut socket, json!(token)).await;
        let system = json!({"extension": "system", "status": "error", "message": message, "channel": "a"});
        socket
            .expect(json!(["1", null, "realtime:a", "system", system]))
            .await;
        socket
            .expect(json!(["1", "1", "realtime:a", "phx_close", {}]))
            .await;
        socket
            .send_json(json!(["1", "3", "realtime:a", "broadcast", {}]))
            .await;
        assert_eq!(socket.receive().await[4]["response"]["reason"], "unmatched topic");
    }
}

#[tokio::test]
async fn section_4_3_an_expired_token_closes_the_channel() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    refresh(&mut socket, json!(user("u1", -60))).await;
    let message = socket.receive().await[4]["message"].as_str().unwrap().to_owned();
    assert!(
        matches!(
            &*message,
            "Token has expired 60 seconds ago" | "Token has expired 61 seconds ago"
        ),
        "{message}"
    );
    socket
        .expect(json!(["1", "1", "realtime:a", "phx_close", {}]))
        .await;
}

#[tokio::test]
async fn a_claim_that_breaks_a_configured_rule_is_refused_everywhere() {
    let server = Walcast::start(&[("JWT_CLAIM_VALIDATORS", r#"{"iss":"me"}"#)]).await;
    let with_issuer = |issuer: &str| sign(&json!({"role": "anon", "exp": now_s() + 60, "iss": issuer}));
    let response = server
        .get(&format!(
            "/socket/websocket?apikey={}&vsn=2.0.0",
            with_issuer("you")
        ))
        .await;
    assert_eq!(
        (response.status, &*response.body),
        (500, r#"{"error":"Error connecting to Realtime"}"#)
    );

    // A token without the claim passes, and so does one that has the value.
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    refresh(&mut socket, json!(with_issuer("me"))).await;
    socket.expect_silence().await;
    let payload = json!({"config": {}, "access_token": with_issuer("you")});
    let (_, response) = socket.join("realtime:b", "2", payload).await;
    assert_eq!(response["reason"], "Unknown Error on Channel");
    refresh(&mut socket, json!(with_issuer("you"))).await;
    assert_eq!(
        socket.receive().await[4]["message"],
        r#"The claim `iss` of the token is not valid: it must be "me""#
    );
    assert_eq!(socket.receive().await[3], "phx_close");
}

#[tokio::test]
async fn section_4_3_a_token_with_an_odd_claim_closes_the_channel_with_a_sentence() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    refresh(
        &mut socket,
        json!(sign(&json!({"role": "anon", "exp": now_s() + 60, "iat": "x"}))),
    )
    .await;
    let message = socket.receive().await[4]["message"].clone();
    assert_eq!(
        message,
        "The claim `iat` of the token is not valid: it must be a number"
    );
}

#[tokio::test]
async fn section_4_3_a_token_that_is_not_json_crashes_the_channel() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    for token in [
        sign_raw("not json", "{}"),
        sign_raw(r#"{"alg":"HS256"}"#, "not json"),
    ] {
        socket.join_ok("realtime:a", "1").await;
        refresh(&mut socket, json!(token)).await;
        socket
            .expect(json!(["1", "1", "realtime:a", "phx_error", {"reason": "channel_crash"}]))
            .await;
    }
}

#[tokio::test]
async fn section_4_3_what_is_ignored_and_what_is_applied_without_a_word() {
    let server = Walcast::start(&[]).await;
    let key = user("u1", 600);
    let mut socket = server.socket_as("2.0.0", &key).await;
    socket.join_ok("realtime:a", "1").await;
    for token in [
        json!(null),
        json!("sb_publishable_x"),
        json!("sb_"),
        json!(key),
        json!(user("u2", 600)),
    ] {
        refresh(&mut socket, token).await;
        socket.expect_silence().await;
    }
}

#[tokio::test]
async fn section_4_2_a_channel_is_closed_when_its_token_expires_and_the_others_live_on() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:other", "0").await;
    let payload = json!({"config": {}, "access_token": user("u1", 2)});
    let (status, _) = socket.join("realtime:a", "1", payload).await;
    assert_eq!(status, "ok");
    let system = json!({"extension": "system", "status": "error", "message": "Token has expired 0 seconds ago", "channel": "a"});
    socket
        .expect(json!(["1", null, "realtime:a", "system", system]))
        .await;
    socket
        .expect(json!(["1", "1", "realtime:a", "phx_close", {}]))
        .await;
    socket
        .send_json(json!(["0", "5", "realtime:other", "phx_leave", {}]))
        .await;
    assert_eq!(socket.receive().await[4]["status"], "ok");
}

#[tokio::test]
async fn section_4_2_a_fresh_token_in_time_keeps_the_channel() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let (_, _) = socket
        .join(
            "realtime:b",
            "9",
            json!({"config": {}, "access_token": user("u1", 2)}),
        )
        .await;
    let (status, _) = socket
        .join(
            "realtime:a",
            "1",
            json!({"config": {}, "access_token": user("u1", 2)}),
        )
        .await;
    assert_eq!(status, "ok");
    refresh(&mut socket, json!(user("u1", 600))).await;
    // The other channel's end tells that the time is over.
    assert_eq!(socket.receive().await[2], "realtime:b");
    assert_eq!(socket.receive().await[3], "phx_close");
    socket
        .send_json(json!(["1", "5", "realtime:a", "phx_leave", {}]))
        .await;
    assert_eq!(socket.receive().await[4]["status"], "ok");
}

#[tokio::test]
async fn with_a_grace_a_channel_outlives_its_token_and_a_fresh_one_saves_it() {
    let server = Walcast::start(&[("WALCAST_TOKEN_GRACE_S", "2")]).await;
    let mut socket = server.socket().await;
    let began_s = now_s();
    let token = |expires_s: i64| sign(&json!({"role": "anon", "exp": began_s + expires_s}));
    for (topic, reference, expires_s) in [
        ("realtime:lost", "8", 2),
        ("realtime:a", "1", 4),
        ("realtime:later", "9", 5),
    ] {
        let payload = json!({"config": {}, "access_token": token(expires_s)});
        let (status, _) = socket.join(topic, reference, payload).await;
        assert_eq!(status, "ok");
    }
    let system = json!({"extension": "system", "status": "error", "message": "Token has expired 2 seconds ago", "channel": "lost"});
    socket
        .expect(json!(["8", null, "realtime:lost", "system", system]))
        .await;
    assert_eq!(socket.receive().await[3], "phx_close");

    // The other channel's token has expired now. It joins nothing, but its channel can still be given a fresh one.
    let payload = json!({"config": {}, "access_token": token(4)});
    let (_, response) = socket.join("realtime:b", "3", payload).await;
    let reason = response["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("InvalidJWTToken: Token has expired "),
        "{reason}"
    );
    refresh(&mut socket, json!(user("u1", 600))).await;
    assert_eq!(socket.receive().await[2], "realtime:later");
    assert_eq!(socket.receive().await[3], "phx_close");
    socket
        .send_json(json!(["1", "5", "realtime:a", "phx_leave", {}]))
        .await;
    assert_eq!(socket.receive().await[4]["status"], "ok");
}

#[tokio::test]
async fn a_client_is_told_before_its_token_expires() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let (status, _) = socket
        .join(
            "realtime:a",
            "1",
            json!({"config": {}, "access_token": user("u1", 32)}),
        )
        .await;
    assert_eq!(status, "ok");
    let mut warning = socket.receive().await;
    let said = warning[4]["message"].take();
    let seconds = said
        .as_str()
        .and_then(|said| said.strip_prefix("Token expires in "))
        .and_then(|said| said.strip_suffix(" seconds, send access_token"))
        .and_then(|seconds| seconds.parse::<u32>().ok());
    // How many are left is told when the warning is made, on a busy machine a little after it was due.
    assert!(
        seconds.is_some_and(|seconds| (20..=30).contains(&seconds)),
        "{said}"
    );
    let system = json!({"extension": "system", "status": "warning", "message": null, "channel": "a"});
    assert_eq!(warning, json!(["1", null, "realtime:a", "system", system]));
}

#[tokio::test]
async fn section_4_1_a_connections_token_may_expire_but_no_channel_can_join_with_it_then() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket_as("2.0.0", &user("u1", 2)).await;
    socket.join_ok("realtime:a", "1").await;
    assert_eq!(
        socket.receive().await[4]["message"],
        "Token has expired 0 seconds ago"
    );
    assert_eq!(socket.receive().await[3], "phx_close");
    let (_, response) = socket.join("realtime:a", "2", json!({"config": {}})).await;
    assert!(
        response["reason"]
            .as_str()
            .unwrap()
            .starts_with("InvalidJWTToken: Token has expired ")
    );
    socket.expect_silence().await;
}
