//! `protocol.md 10`: the other HTTP endpoints.

use serde_json::json;

use crate::server::{SECRET, Walcast, now_s, sign};

#[tokio::test]
async fn section_10_healthcheck() {
    let server = Walcast::start(&[]).await;
    let response = server.get("/healthcheck?apikey=x&vsn=2.0.0").await;
    assert_eq!((response.status, &*response.body), (200, "ok"));
    assert!(response.header("content-type").unwrap().starts_with("text/plain"));
    assert_eq!(response.header("x-request-id").unwrap().len(), 32);
}

#[tokio::test]
async fn section_10_unknown_routes() {
    let server = Walcast::start(&[]).await;
    for target in ["/socket", "/nothing"] {
        let response = server.get(target).await;
        assert_eq!((response.status, &*response.body), (404, "Not Found"));
        let response = server
            .request("GET", target, &[("accept", "application/json")])
            .await;
        assert_eq!((response.status, &*response.body), (404, "\"Not Found\""));
    }
}

#[tokio::test]
async fn a_server_without_its_database_is_starting() {
    let server = Walcast::start(&[]).await;
    let response = server.get("/readyz").await;
    assert_eq!((response.status, &*response.body), (503, "starting"));
}

#[tokio::test]
async fn section_10_metrics_are_open_without_a_secret() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    socket.send("nonsense").await;
    socket.expect_silence().await;
    let body = server.get("/metrics").await.body;
    for name in [
        "walcast_sockets ",
        "walcast_channels ",
        "walcast_joins_total{code=\"ok\"}",
        "walcast_frames_received_total ",
        "walcast_frames_sent_total ",
        "walcast_socket_received_bytes_total ",
        "walcast_socket_sent_bytes_total ",
        "walcast_bad_frames_total{code=\"MalformedWebSocketMessage\"}",
        "walcast_slow_reader_closes_total ",
        "process_start_time_seconds ",
    ] {
        assert!(body.contains(name), "{name} is missing in\n{body}");
    }
}

#[tokio::test]
async fn section_10_metrics_with_a_secret_need_a_token() {
    let blocked = sign(&json!({"exp": now_s() + 60}));
    let settings = [
        ("METRICS_JWT_SECRET", SECRET),
        ("METRICS_TOKEN_BLOCKLIST", blocked.as_str()),
    ];
    let server = Walcast::start(&settings).await;
    let cases = [
        (None, 403),
        (Some(format!("Bearer {}", sign(&json!({})))), 200),
        (Some(format!("bearer {}", sign(&json!({})))), 403),
        (Some(sign(&json!({}))), 403),
        (
            Some(format!("Bearer {}", sign(&json!({"exp": now_s() - 60})))),
            403,
        ),
        (
            Some(format!("Bearer {}", sign(&json!({"exp": "2100000000"})))),
            403,
        ),
        (Some(format!("Bearer {blocked}")), 403),
        (Some("Bearer x".to_owned()), 403),
    ];
    for (authorization, status) in cases {
        let headers: Vec<_> = authorization
            .iter()
            .map(|value| ("authorization", value.as_str()))
            .collect();
        let response = server.request("GET", "/metrics", &headers).await;
        assert_eq!(response.status, status, "{authorization:?}");
        assert_eq!(response.body.is_empty(), status == 403);
    }
}
