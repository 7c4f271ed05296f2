//! `protocol.md 10`: what the server says of its own routes, and what holds for all of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::event_source::EventSource;
use crate::server::{Walcast, anon};

async fn document(server: &Walcast) -> Value {
    let response = server.get("/api/openapi").await;
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    serde_json::from_str(&response.body).unwrap()
}

/// Method and path of each operation, with its description.
fn operations(document: &Value) -> BTreeMap<(String, String), Value> {
    let mut operations = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation.get("responses").is_some() {
                operations.insert((method.to_uppercase(), path.clone()), operation.clone());
            }
        }
    }
    operations
}

/// Where the operations of a path are, its own address and that under a gateway.
fn targets(document: &Value, path: &str) -> Vec<String> {
    let filled = path
        .replace("{topic}", "room")
        .replace("{event}", "e")
        .replace("{name}", "nobody");
    let servers = document["paths"][path]["servers"].as_array();
    let prefixes = servers.into_iter().flatten().map(|server| {
        let url = server["url"].as_str().unwrap();
        format!("{}{filled}", url.trim_end_matches('/'))
    });
    let targets: Vec<String> = prefixes.collect();
    if targets.is_empty() { vec![filled] } else { targets }
}

#[tokio::test]
async fn every_route_is_described_and_every_described_route_is_there() {
    let server = Walcast::start(&[]).await;
    let document = document(&server).await;
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let operations = operations(&document);
    for (method, path) in [
        ("GET", "/healthcheck"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/api/openapi"),
        ("GET", "/api/ping"),
        ("POST", "/api/broadcast"),
        ("POST", "/api/broadcast/{topic}/events/{event}"),
        ("POST", "/api/tokens"),
        ("GET", "/api/sse"),
        ("GET", "/socket/sse"),
        ("GET", "/realtime/v1/sse"),
        ("GET", "/socket/websocket"),
        ("GET", "/realtime/v1/websocket"),
        ("GET", "/robots.txt"),
        ("GET", "/favicon.svg"),
    ] {
        assert!(
            operations.contains_key(&(method.to_owned(), path.to_owned())),
            "{path}"
        );
    }
    for ((method, path), operation) in &operations {
        for target in targets(&document, path) {
            let response = server.request(method, &target, &[]).await;
            assert_ne!(&*response.body, "Not Found", "{method} {target} is not there");
            let status = response.status.to_string();
            assert!(
                operation["responses"].get(&status).is_some(),
                "{method} {target} answered {status}, which is not described"
            );
        }
        assert!(
            operation["summary"].as_str().is_some_and(|said| said.len() > 10),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_preflight_of_a_page_is_answered_on_every_route_of_the_api() {
    let server = Walcast::start(&[]).await;
    let document = document(&server).await;
    let asked = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization,apikey,x-client-info",
        ),
    ];
    let mut answered = 0;
    for (method, path) in operations(&document).keys() {
        // What a gateway passes on is for pages.
        if targets(&document, path).len() == 1 && !path.ends_with("/sse") {
            continue;
        }
        for target in targets(&document, path) {
            let response = server.request("OPTIONS", &target, &asked).await;
            assert_eq!((response.status, &*response.body), (204, ""), "{target}");
            assert_eq!(response.header("access-control-allow-origin"), Some("*"));
            assert_eq!(
                response.header("access-control-allow-headers"),
                Some("authorization,apikey,x-client-info")
            );
            let methods = response.header("access-control-allow-methods").unwrap();
            assert!(
                methods
                    .split(", ")
                    .any(|allowed| allowed.eq_ignore_ascii_case(method)),
                "{target}: {methods}"
            );
            answered += 1;
        }
    }
    assert!(answered >= 10, "{answered}");
}

#[tokio::test]
async fn responses_are_compressed_for_those_who_accept_it_and_events_are_not() {
    let server = Walcast::start(&[]).await;
    for (target, is_compressed) in [
        ("/api/openapi", true),
        ("/metrics", true),
        ("/healthcheck", false),
    ] {
        let response = server
            .request("GET", target, &[("accept-encoding", "gzip")])
            .await;
        assert_eq!(response.status, 200);
        assert_eq!(
            response.header("content-encoding"),
            is_compressed.then_some("gzip"),
            "{target}"
        );
        assert_eq!(response.header("vary"), Some("accept-encoding"), "{target}");
    }
    let plain = server.get("/api/openapi").await;
    assert_eq!(plain.header("content-encoding"), None);
    let events = format!("/api/sse?topic=room&token={}", anon());
    let mut stream = EventSource::open_at(&server, &events, &[("accept-encoding", "gzip")]).await;
    assert_eq!(stream.response.header("content-encoding"), None);
    assert_eq!(stream.joined("room").await, json!({"postgres_changes": []}));
}

#[tokio::test]
async fn section_10_static_files() {
    let server = Walcast::start(&[]).await;
    for (target, kind, part) in [
        ("/robots.txt", "text/plain", "Disallow: /"),
        ("/favicon.svg", "image/svg+xml", "<svg "),
    ] {
        let response = server.get(target).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some(kind));
        assert_eq!(response.header("cache-control"), Some("public, max-age=86400"));
        assert!(response.body.contains(part), "{}", response.body);
    }
}
