//! `protocol.md 1`: who gets a socket.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{Walcast, anon, forged, now_s, sign, sign_raw};

fn error(text: &str) -> String {
    json!({"error": text}).to_string()
}

#[tokio::test]
async fn section_1_4_refusals() {
    let server = Walcast::start(&[]).await;
    let good = json!({"role": "anon", "exp": now_s() + 60});
    let with = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        sign(&claims)
    };
    let signer = "Failed to generate JWT signer, check your JWT secret or JWKS configuration";
    let malformed = "The token provided is not a valid JWT";
    let connecting = "Error connecting to Realtime";
    let fields = "Fields `role` and `exp` are required in JWT";
    let hs256 = r#"{"alg":"HS256"}"#;
    let alg = |alg: &str| sign_raw(&format!(r#"{{"alg":"{alg}"}}"#), &good.to_string());
    let cases = [
        ("malformed", "a.b.c".to_owned(), 401, malformed),
        ("opaque key", "sb_publishable_abc".to_owned(), 401, malformed),
        ("empty", String::new(), 401, malformed),
        ("alg none", alg("none"), 401, signer),
        ("RS256", alg("RS256"), 401, signer),
        ("signature", forged(), 401, "Failed to validate JWT signature"),
        (
            "expired",
            with("exp", json!(1_700_000_000)),
            401,
            "Token has expired",
        ),
        ("no exp", sign(&json!({"role": "anon"})), 401, fields),
        ("no role", sign(&json!({"exp": now_s() + 60})), 401, fields),
        ("exp null", with("exp", Value::Null), 500, connecting),
        (
            "exp decimal, past",
            with("exp", json!(1_700_000_000.5)),
            500,
            connecting,
        ),
        ("exp string", with("exp", json!("1900000000")), 500, connecting),
        ("iat string", with("iat", json!("x")), 500, connecting),
        ("claims a list", sign_raw(hs256, "[1,2]"), 500, connecting),
    ];
    for (name, token, status, text) in cases {
        let response = server
            .get(&format!("/socket/websocket?apikey={token}&vsn=2.0.0"))
            .await;
        assert_eq!(
            (response.status, &*response.body),
            (status, &*error(text)),
            "{name}"
        );
        assert_eq!(
            response.header("content-type"),
            Some("application/json; charset=utf-8"),
            "{name}"
        );
    }
    let response = server.get("/socket/websocket?vsn=2.0.0").await;
    assert_eq!(
        (response.status, &*response.body),
        (401, &*error("API key is missing"))
    );
}

#[tokio::test]
async fn section_1_4_a_token_that_is_not_json_is_a_plain_500() {
    let server = Walcast::start(&[("CONNECT_ERROR_BACKOFF_MS", "60000")]).await;
    for token in [
        sign_raw("not json", "{}"),
        sign_raw(r#"{"alg":"HS256"}"#, "not json"),
    ] {
        let response = server
            .get(&format!("/socket/websocket?apikey={token}&vsn=2.0.0"))
            .await;
        assert_eq!((response.status, &*response.body), (500, "Internal Server Error"));
        assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    }
}

#[tokio::test]
async fn section_1_4_an_unsupported_version_is_an_empty_403() {
    let server = Walcast::start(&[]).await;
    for vsn in ["2", "3.0.0", "1.1.0", ""] {
        let response = server
            .get(&format!("/socket/websocket?apikey={}&vsn={vsn}", anon()))
            .await;
        assert_eq!((response.status, &*response.body), (403, ""), "{vsn}");
    }
}

#[tokio::test]
async fn section_1_4_a_refusal_is_delayed() {
    let server = Walcast::start(&[("CONNECT_ERROR_BACKOFF_MS", "300")]).await;
    let began = Instant::now();
    assert_eq!(server.get("/socket/websocket").await.status, 401);
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn section_1_4_accepted_tokens() {
    let server = Walcast::start(&[]).await;
    let exp = now_s() + 60;
    let cases = [
        ("role null", sign(&json!({"role": null, "exp": exp}))),
        (
            "role that is none",
            sign(&json!({"role": "no_such_role", "exp": exp})),
        ),
        (
            "nbf in the future",
            sign(&json!({"role": "anon", "exp": exp, "nbf": exp})),
        ),
        (
            "exp decimal",
            sign(&json!({"role": "anon", "exp": exp as f64 + 0.5})),
        ),
        (
            "no typ",
            sign_raw(
                r#"{"alg":"HS256"}"#,
                &json!({"role": "anon", "exp": exp}).to_string(),
            ),
        ),
        (
            "kid",
            sign_raw(
                r#"{"alg":"HS256","kid":"k1"}"#,
                &json!({"role": "anon", "exp": exp}).to_string(),
            ),
        ),
        ("percent-encoded", anon().replace('.', "%252E")),
    ];
    for (name, token) in cases {
        let mut socket = server.socket_as("2.0.0", &token).await;
        socket.send(r#"[null,"1","phoenix","heartbeat",{}]"#).await;
        let reply = socket.receive().await;
        assert_eq!(reply[4]["status"], "ok", "{name}");
    }
}

#[tokio::test]
async fn section_1_3_the_header_wins_over_the_query() {
    let server = Walcast::start(&[]).await;
    let good = anon();
    let cases = [
        ("/socket/websocket?vsn=2.0.0".to_owned(), good.as_str(), 400),
        (
            "/socket/websocket?apikey=not-a-jwt&vsn=2.0.0".to_owned(),
            good.as_str(),
            400,
        ),
        (
            format!("/socket/websocket?apikey={good}&vsn=2.0.0"),
            "not-a-jwt",
            401,
        ),
        (format!("/socket/websocket?apikey={good}&vsn=2.0.0"), "", 401),
    ];
    for (target, header, status) in cases {
        // A good key gets as far as the upgrade, which this is not.
        let response = server.request("GET", &target, &[("x-api-key", header)]).await;
        assert_eq!(response.status, status, "{target} with {header}");
    }
}

#[tokio::test]
async fn section_1_4_what_is_no_upgrade_is_a_400_that_says_why() {
    let server = Walcast::start(&[]).await;
    let target = format!("/socket/websocket?apikey={}&vsn=2.0.0", anon());
    let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")];
    let with = |more: &[(&'static str, &'static str)]| [&upgrade, more].concat();
    let cases = [
        (
            vec![],
            "'connection' header must contain 'upgrade', got [\"close\"]",
        ),
        (
            vec![("connection", "close, upgrade")],
            "'upgrade' header must contain 'websocket', got []",
        ),
        (
            with(&[("sec-websocket-version", "8"), ("connection", "close")]),
            "'sec-websocket-version' header must equal '13', got [\"8\"]",
        ),
        (
            with(&[("sec-websocket-version", "13"), ("connection", "close")]),
            "'sec-websocket-key' header is absent",
        ),
    ];
    for (headers, reason) in cases {
        let response = server.request("GET", &target, &headers).await;
        assert_eq!((response.status, &*response.body), (400, reason));
    }
    for method in ["PUT", "POST", "DELETE"] {
        let response = server.request(method, &target, &[]).await;
        assert_eq!((response.status, &*response.body), (400, ""), "{method}");
    }
}

#[tokio::test]
async fn section_1_1_the_gateways_path_works_too() {
    let server = Walcast::start(&[]).await;
    let response = server
        .get(&format!("/realtime/v1/websocket?apikey={}", anon()))
        .await;
    assert_eq!(
        response.status, 400,
        "the key was accepted, only the upgrade is missing"
    );
}

#[tokio::test]
async fn section_1_5_a_long_header_is_an_empty_431() {
    let server = Walcast::start(&[]).await;
    let response = server
        .request("GET", "/healthcheck", &[("x-long", &"a".repeat(5000))])
        .await;
    assert_eq!((response.status, &*response.body), (431, ""));
    let response = server
        .request("GET", "/healthcheck", &[("x-long", &"a".repeat(4096))])
        .await;
    assert_eq!(response.status, 200);
}

#[tokio::test]
async fn section_9_connected_clients_are_limited_where_configured() {
    let server = Walcast::start(&[("TENANT_MAX_CONCURRENT_USERS", "1")]).await;
    let mut first = server.socket().await;
    let mut second = server.socket().await;
    first.join_ok("realtime:a", "1").await;
    let (status, response) = second.join("realtime:a", "1", json!({"config": {}})).await;
    assert_eq!(
        (&*status, &response["reason"]),
        (
            "error",
            &json!("ConnectionRateLimitReached: Too many connected users")
        )
    );
    // A counted socket may go on joining.
    first.join_ok("realtime:b", "2").await;
    let response = server
        .get(&format!("/socket/websocket?apikey={}&vsn=2.0.0", anon()))
        .await;
    assert_eq!(
        (response.status, &*response.body),
        (429, &*error("Too many connected users"))
    );
}
