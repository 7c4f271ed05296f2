//! `protocol.md 3`: what a join may say and how it is refused.

use serde_json::{Value, json};

use crate::server::{Walcast, forged, now_s, sign, sign_raw};

#[tokio::test]
async fn section_3_4_refusals_of_the_token() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let exp = now_s() + 60;
    let fields = "InvalidJWTToken: Fields `role` and `exp` are required in JWT";
    let signer = "JwtSignerError: Failed to generate JWT signer, check your JWT secret or JWKS configuration";
    let cases = [
        ("no exp", sign(&json!({"role": "anon"})), fields),
        ("no role", sign(&json!({"exp": exp})), fields),
        (
            "malformed",
            "x".to_owned(),
            "MalformedJWT: The token provided is not a valid JWT",
        ),
        (
            "empty",
            String::new(),
            "MalformedJWT: The token provided is not a valid JWT",
        ),
        (
            "signature",
            forged(),
            "JwtSignatureError: Failed to validate JWT signature",
        ),
        (
            "RS256 with kid",
            sign_raw(r#"{"alg":"RS256","kid":"k1"}"#, "{}"),
            signer,
        ),
        (
            "exp string",
            sign(&json!({"role": "anon", "exp": "1900000000"})),
            "Unknown Error on Channel",
        ),
        (
            "exp decimal, past",
            sign(&json!({"role": "anon", "exp": 1_700_000_000.5})),
            "Unknown Error on Channel",
        ),
        (
            "iat string",
            sign(&json!({"role": "anon", "exp": exp, "iat": "x"})),
            "Unknown Error on Channel",
        ),
    ];
    for (name, token, reason) in cases {
        let (status, response) = socket
            .join("realtime:a", "1", json!({"config": {}, "access_token": token}))
            .await;
        assert_eq!(
            (&*status, &response),
            ("error", &json!({"reason": reason})),
            "{name}"
        );
    }
    for (name, token) in [
        ("header not JSON", sign_raw("not json", "{}")),
        ("claims not JSON", sign_raw(r#"{"alg":"HS256"}"#, "not json")),
        ("claims a list", sign_raw(r#"{"alg":"HS256"}"#, "[1]")),
    ] {
        let (_, response) = socket
            .join("realtime:a", "1", json!({"config": {}, "access_token": token}))
            .await;
        assert!(
            response["reason"]
                .as_str()
                .unwrap()
                .starts_with("UnknownErrorOnChannel: "),
            "{name}: {response}"
        );
    }
}

#[tokio::test]
async fn section_3_4_an_expired_token_says_since_when() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let token = sign(&json!({"role": "anon", "exp": now_s() - 100}));
    let (_, response) = socket
        .join("realtime:a", "1", json!({"config": {}, "access_token": token}))
        .await;
    let reason = response["reason"].as_str().unwrap();
    let seconds = reason
        .strip_prefix("InvalidJWTToken: Token has expired ")
        .unwrap();
    let seconds: i64 = seconds.strip_suffix(" seconds ago").unwrap().parse().unwrap();
    assert!((100..110).contains(&seconds), "{reason}");
}

#[tokio::test]
async fn section_3_2_which_token_a_channel_uses() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let good = sign(&json!({"role": "authenticated", "exp": now_s() + 60}));
    let cases = [
        (json!({}), "ok"),
        (json!({"access_token": good}), "ok"),
        (json!({"access_token": "bad"}), "error"),
        (json!({"user_token": "bad"}), "error"),
        (json!({"access_token": "bad", "user_token": good}), "ok"),
        (json!({"access_token": good, "user_token": "bad"}), "error"),
        (
            json!({"access_token": "sb_publishable_x", "user_token": "bad"}),
            "ok",
        ),
        (json!({"user_token": "sb_x"}), "ok"),
        (json!({"access_token": 5}), "ok"),
        (json!({"access_token": null}), "ok"),
    ];
    for (index, (tokens, expected)) in cases.into_iter().enumerate() {
        let mut payload = tokens.clone();
        payload["config"] = json!({});
        let (status, _) = socket.join(&format!("realtime:{index}"), "1", payload).await;
        assert_eq!(status, expected, "{tokens}");
    }
}

#[tokio::test]
async fn section_3_3_a_topic_needs_a_name() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    let joined = socket.join("realtime:", "1", json!({"config": {}})).await;
    assert_eq!(
        joined,
        (
            "error".to_owned(),
            json!({"reason": "TopicNameRequired: You must provide a topic name"})
        )
    );
}

#[tokio::test]
async fn section_5_9_replay_on_a_public_channel_is_refused() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    for replay in [json!({"since": 1}), Value::Null] {
        let payload = json!({"config": {"broadcast": {"replay": replay}}});
        let (_, response) = socket.join("realtime:a", "1", payload).await;
        assert_eq!(
            response["reason"],
            "UnableToReplayMessages: Replay is not allowed for public channels"
        );
    }
}

#[tokio::test]
async fn section_3_1_fields_that_make_no_sense_take_their_defaults() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    for (index, config) in [
        Value::Null,
        json!({"private": 1}),
        json!({"private": "yes"}),
        json!({"private": null}),
        json!({"broadcast": null, "presence": []}),
        json!({"postgres_changes": "x"}),
        json!({"postgres_changes": {}}),
        json!({"postgres_changes": [null]}),
        json!({"unknown": 1}),
    ]
    .into_iter()
    .enumerate()
    {
        let joined = socket
            .join(&format!("realtime:{index}"), "1", json!({"config": config}))
            .await;
        assert_eq!(
            joined,
            ("ok".to_owned(), json!({"postgres_changes": []})),
            "{config}"
        );
    }
}

#[tokio::test]
async fn section_3_1_shapes_without_a_default_are_refused() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    for payload in [
        json!([1]),
        Value::Null,
        json!("x"),
        json!({"config": 5}),
        json!({"config": "x"}),
        json!({"config": [1]}),
        json!({"config": {"broadcast": "x"}}),
        json!({"config": {"postgres_changes": [5]}}),
    ] {
        let (status, response) = socket.join("realtime:a", "1", payload.clone()).await;
        let reason = response["reason"].as_str().unwrap();
        assert!(
            status == "error" && reason.starts_with("UnknownErrorOnChannel: "),
            "{payload}: {reason}"
        );
    }
    socket.expect_silence().await;
}

#[tokio::test]
async fn section_9_channels_of_a_socket_are_limited_where_configured() {
    let server = Walcast::start(&[("TENANT_MAX_CHANNELS_PER_CLIENT", "2")]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    socket.join_ok("realtime:b", "2").await;
    let (_, response) = socket.join("realtime:c", "3", json!({"config": {}})).await;
    assert_eq!(response["reason"], "ChannelRateLimitReached: Too many channels");
    // A rejoin is no further channel.
    socket.join_ok("realtime:b", "4").await;
}

#[tokio::test]
async fn section_15_1_a_join_that_waits_says_when_it_took_too_long() {
    let server = Walcast::start(&[("WALCAST_MAX_JOIN_WAIT_MS", "500")]).await;
    let mut socket = server.socket().await;
    let entry = json!({"event": "*", "schema": "public", "table": "t"});
    for timeout_ms in [100, 60_000] {
        let options = json!({"wait": true, "timeout": timeout_ms});
        let config = json!({"postgres_changes": [entry], "postgres_changes_options": options});
        let (_, response) = socket.join("realtime:a", "1", json!({"config": config})).await;
        let reason = response["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("PostgresChangesSubscribeTimeout: "),
            "{reason}"
        );
    }
}
