//! The HTTP API around its bodies: tokens, routes, headers, rates (`protocol.md 5.6`, `5.7`, `9`, `10`).

use serde_json::json;

use crate::server::{Response, Walcast, anon, forged, now_s, sign, sign_raw};

const BATCH: &str = "/api/broadcast";
const SINGLE: &str = "/api/broadcast/room/events/e";
const ONE: &[u8] = br#"{"messages":[{"topic":"room","event":"e","payload":{}}]}"#;
const UNAUTHORIZED: &str = r#"{"message":"Unauthorized"}"#;

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn told(response: &Response) -> (u16, &str) {
    (response.status, &response.body)
}

#[tokio::test]
async fn section_5_6_the_token_is_a_bearers_or_the_apikey() {
    let server = Walcast::start(&[]).await;
    let good = anon();
    let claims = |claims| bearer(&sign(&claims));
    let refused = [
        bearer(&forged()),
        bearer("not-a-jwt"),
        claims(json!({"role": "anon", "exp": now_s() - 60})),
        claims(json!({"exp": now_s() + 60})),
        claims(json!({"role": "anon"})),
        claims(json!({"role": "anon", "exp": "2100000000"})),
        claims(json!({"role": "anon", "exp": now_s() + 60, "iat": "1"})),
        // What makes the reference fail is refused like the rest.
        bearer(&sign_raw(r#"{"alg":"HS256"}"#, "no json")),
        bearer(&sign_raw("no json", "{}")),
        "Bearer".to_owned(),
        format!("Bearer  {good}"),
        format!("Bearer {good} x"),
        good.clone(),
        String::new(),
        "Basic abc".to_owned(),
    ];
    type Headers<'a> = Vec<(&'a str, String)>;
    let mut cases: Vec<(String, Headers<'_>, u16)> = refused
        .into_iter()
        .map(|value| (BATCH.to_owned(), vec![("authorization", value)], 401))
        .collect();
    cases.extend([
        (BATCH.to_owned(), vec![], 401),
        (BATCH.to_owned(), vec![("x-api-key", good.clone())], 401),
        (format!("{BATCH}?apikey={good}"), vec![], 401),
        (
            BATCH.to_owned(),
            vec![("authorization", format!("bearer {good}"))],
            202,
        ),
        (
            BATCH.to_owned(),
            vec![("authorization", format!("BEARER {good}"))],
            202,
        ),
        (BATCH.to_owned(), vec![("apikey", good.clone())], 202),
        (
            BATCH.to_owned(),
            vec![
                ("authorization", "Basic abc".to_owned()),
                ("apikey", good.clone()),
            ],
            202,
        ),
        // A public topic asks no database whether there is such a role.
        (
            BATCH.to_owned(),
            vec![(
                "authorization",
                claims(json!({"role": "nobody", "exp": now_s() + 60})),
            )],
            202,
        ),
        (SINGLE.to_owned(), vec![], 401),
        (SINGLE.to_owned(), vec![("authorization", bearer(&good))], 202),
    ]);
    for (target, given, status) in cases {
        let mut headers: Vec<(&str, &str)> = vec![("content-type", "application/json")];
        headers.extend(given.iter().map(|(name, value)| (*name, value.as_str())));
        let response = server.post(&target, &headers, ONE).await;
        let body = if status == 401 { UNAUTHORIZED } else { "" };
        assert_eq!(told(&response), (status, body), "{target} {given:?}");
    }
}

#[tokio::test]
async fn a_request_without_a_token_is_refused_before_its_body_is_looked_at() {
    let server = Walcast::start(&[]).await;
    for target in [BATCH, SINGLE] {
        let response = server
            .post(target, &[("content-type", "application/json")], b"{bad")
            .await;
        assert_eq!(told(&response), (401, UNAUTHORIZED));
    }
}

#[tokio::test]
async fn section_5_6_who_accepts_no_json_gets_406_as_html() {
    let server = Walcast::start(&[]).await;
    let token = bearer(&anon());
    for (accept, status) in [
        ("text/html", 406),
        ("application/xml", 406),
        ("image/*, text/plain;q=0.5", 406),
        ("*/*", 202),
        ("application/*", 202),
        ("application/json", 202),
        ("text/html, Application/JSON;q=0.1", 202),
    ] {
        for target in [BATCH, SINGLE] {
            let headers = [
                ("content-type", "application/json"),
                ("authorization", token.as_str()),
                ("accept", accept),
            ];
            let response = server.post(target, &headers, ONE).await;
            let body = if status == 406 { "Not Acceptable" } else { "" };
            assert_eq!(told(&response), (status, body), "{accept}");
            if status == 406 {
                assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
            }
        }
    }
}

#[tokio::test]
async fn section_5_6_pages_of_every_origin_may_ask() {
    let server = Walcast::start(&[]).await;
    let origin = ("origin", "http://x");
    for headers in [vec![origin], vec![origin, ("accept", "text/html")]] {
        for target in [BATCH, SINGLE] {
            let response = server.post(target, &headers, b"").await;
            assert_ne!(response.status, 404);
            assert_eq!(response.header("access-control-allow-origin"), Some("*"));
        }
    }
    let response = server.post(BATCH, &[], b"").await;
    assert_eq!(response.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn the_api_is_at_the_path_of_a_gateway_too() {
    let server = Walcast::start(&[]).await;
    let token = bearer(&anon());
    let headers = [
        ("content-type", "application/json"),
        ("authorization", token.as_str()),
    ];
    for target in [BATCH, SINGLE] {
        let response = server.post(&format!("/realtime/v1{target}"), &headers, ONE).await;
        assert_eq!(told(&response), (202, ""));
    }
    assert_eq!(server.get("/realtime/v1/api/ping").await.status, 200);
}

#[tokio::test]
async fn section_10_other_methods_and_paths_are_not_found() {
    let server = Walcast::start(&[]).await;
    for (method, target) in [
        ("GET", BATCH),
        ("DELETE", SINGLE),
        ("GET", SINGLE),
        ("POST", "/api/ping"),
        ("POST", "/api/broadcast/a/events"),
        ("POST", "/api/broadcast//events/e"),
        ("POST", "/api/broadcast/a/events/"),
        ("POST", "/api/broadcast/a/b/events/e"),
        ("GET", "/api/nosuch"),
    ] {
        let html = server.request(method, target, &[]).await;
        assert_eq!(told(&html), (404, "Not Found"), "{method} {target}");
        assert_eq!(html.header("x-rate-rolling"), None);
        let json = server
            .request(method, target, &[("accept", "application/json")])
            .await;
        assert_eq!(told(&json), (404, "\"Not Found\""), "{method} {target}");
    }
}

#[tokio::test]
async fn section_10_ping() {
    let server = Walcast::start(&[]).await;
    let response = server.get("/api/ping").await;
    assert_eq!(told(&response), (200, r#"{"message":"Success"}"#));
    assert_eq!(
        response.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    let head = server.request("HEAD", "/api/ping", &[]).await;
    assert_eq!(told(&head), (200, ""));
    let html = server
        .request("GET", "/api/ping", &[("accept", "text/html")])
        .await;
    assert_eq!(told(&html), (406, "Not Acceptable"));
}

#[tokio::test]
async fn section_5_6_responses_say_how_many_requests_there_are() {
    let token = bearer(&anon());
    let headers = [
        ("content-type", "application/json"),
        ("authorization", token.as_str()),
        ("x-request-id", "abcdefghijklmnopqrstuvwxyz"),
    ];
    for (settings, limit) in [
        (vec![("TENANT_MAX_EVENTS_PER_SECOND", "100")], Some("100")),
        (vec![], None),
    ] {
        let server = Walcast::start(&settings).await;
        for (target, body, status) in [(BATCH, ONE, 202), (SINGLE, b"{}", 202), (BATCH, b"", 422)] {
            let response = server.post(target, &headers, body).await;
            assert_eq!(response.status, status);
            for (name, value) in [
                ("x-rate-rolling", Some("0")),
                ("x-rate-limit", limit),
                ("x-rate-limit-remaining", limit),
                ("ratelimit-limit", limit),
                ("ratelimit-remaining", limit),
                ("ratelimit-reset", limit.map(|_| "5")),
                ("retry-after", None),
                ("x-request-id", Some("abcdefghijklmnopqrstuvwxyz")),
                ("cache-control", Some("max-age=0, private, must-revalidate")),
                ("vary", Some("accept-encoding")),
            ] {
                assert_eq!(response.header(name), value, "{name} of {status}");
            }
            assert_eq!(response.header("content-type").is_some(), status != 202);
        }
    }
}

#[tokio::test]
async fn section_9_requests_above_the_limit_are_refused() {
    let server = Walcast::start(&[("TENANT_MAX_EVENTS_PER_SECOND", "1")]).await;
    // The limit is judged every five seconds; until then everything passes.
    let refused = loop {
        let response = server.get("/api/ping").await;
        if response.status != 200 {
            break response;
        }
    };
    assert_eq!(told(&refused), (429, r#"{"message":"Too many requests"}"#));
    assert_eq!(refused.header("x-rate-limit"), Some("1"));
    assert_eq!(refused.header("x-rate-limit-remaining"), Some("0"));
    assert_eq!(refused.header("ratelimit-remaining"), Some("0"));
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_ne!(refused.header("x-rate-rolling"), Some("0"));
    for target in [BATCH, SINGLE] {
        // Before the token is looked at.
        let headers = [("content-type", "application/json")];
        let response = server.post(target, &headers, ONE).await;
        assert_eq!(told(&response), (429, r#"{"message":"Too many requests"}"#));
    }
}

#[tokio::test]
async fn section_5_6_a_batch_that_would_pass_the_limit_is_refused_as_a_whole() {
    let server = Walcast::start(&[("TENANT_MAX_EVENTS_PER_SECOND", "3")]).await;
    let mut receiver = server.socket().await;
    receiver.join_ok("realtime:room", "1").await;
    let token = bearer(&anon());
    let headers = [
        ("content-type", "application/json"),
        ("authorization", token.as_str()),
    ];
    let batch = |count: usize| {
        let message = json!({"topic": "room", "event": "e", "payload": {}});
        json!({"messages": vec![message; count]}).to_string().into_bytes()
    };
    let response = server.post(BATCH, &headers, &batch(4)).await;
    let too_many = r#"{"message":"Too many messages to broadcast, please reduce the batch size"}"#;
    assert_eq!(told(&response), (429, too_many));
    receiver.expect_silence().await;
    let response = server.post(BATCH, &headers, &batch(3)).await;
    assert_eq!(told(&response), (202, ""));
}

#[tokio::test]
async fn section_5_7_broadcasts_above_the_limit_are_refused() {
    let server = Walcast::start(&[("TENANT_MAX_EVENTS_PER_SECOND", "1")]).await;
    let mut socket = server.socket().await;
    let config = json!({"config": {"broadcast": {"self": true}}});
    assert_eq!(socket.join("realtime:a", "1", config).await.0, "ok");
    // Messages of sockets count, so that the requests themselves stay below the limit.
    loop {
        socket
            .send_json(json!(["1", "2", "realtime:a", "broadcast", {"event": "e"}]))
            .await;
        socket.receive().await;
        socket.send(r#"[null,"h","phoenix","heartbeat",{}]"#).await;
        if socket.receive().await[1] != "h" {
            break;
        }
    }
    let token = bearer(&anon());
    let headers = [
        ("content-type", "application/json"),
        ("authorization", token.as_str()),
    ];
    for (target, body) in [(BATCH, ONE), (SINGLE, b"{}")] {
        let response = server.post(target, &headers, body).await;
        assert_eq!(
            told(&response),
            (429, r#"{"message":"You have exceeded your rate limit"}"#)
        );
    }
}

#[tokio::test]
async fn section_5_7_a_body_above_8_mb_is_refused_and_the_client_gets_to_read_why() {
    let server = Walcast::start(&[]).await;
    let token = bearer(&anon());
    let long = vec![b'x'; 8_000_001];
    let mut chunked = format!("{:x}\r\n", long.len()).into_bytes();
    chunked.extend_from_slice(&long);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    for (target, kind) in [
        (BATCH, "application/json"),
        (SINGLE, "application/json"),
        (SINGLE, "application/octet-stream"),
    ] {
        let headers = [("content-type", kind), ("authorization", token.as_str())];
        let response = server.post(target, &headers, &long).await;
        assert_eq!(told(&response), (413, "Request Entity Too Large"));
        assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));

        let [kind, authorization] = headers;
        let headers = [
            kind,
            authorization,
            ("transfer-encoding", "chunked"),
            ("accept", "application/json"),
        ];
        let response = server.post(target, &headers, &chunked).await;
        assert_eq!(told(&response), (413, "\"Request Entity Too Large\""));
    }
    // Exactly 8 MB is read, and found to be no JSON.
    let headers = [
        ("content-type", "application/json"),
        ("authorization", token.as_str()),
    ];
    let response = server.post(BATCH, &headers, &long[1..]).await;
    assert_eq!(told(&response), (400, "Bad Request"));
}
