//! `protocol.md 10`: who may administer, and how a tenant is.

use std::time::Duration;

use serde_json::{Value, json};
use walcast_testkit::{Postgres, until};

use crate::server::{Response, Walcast, anon, now_s, sign};

/// What Supabase's compose file asks for, every few seconds.
const HEALTH: &str = "/api/tenants/realtime-dev/health";

async fn ask(server: &Walcast, method: &str, target: &str, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    // As curl does.
    let headers = [("authorization", bearer.as_str()), ("accept", "*/*")];
    server.request(method, target, &headers).await
}

fn data(response: &Response) -> Value {
    let mut body: Value = serde_json::from_str(&response.body).unwrap();
    body["data"].take()
}

#[tokio::test]
async fn section_10_only_tokens_of_the_project_s_secrets_administer() {
    let blocked = sign(&json!({"exp": now_s() + 60}));
    let other = |secret: &str| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &json!({}), &key).unwrap()
    };
    let blocklist = format!("other, {blocked}");
    let server = Walcast::start(&[
        ("API_JWT_SECRET_NEXT", "the-next-secret"),
        ("API_TOKEN_BLOCKLIST", &blocklist),
    ])
    .await;
    let cases = [
        (None, 403),
        (Some(format!("Bearer {}", anon())), 200),
        (Some(format!("Bearer {}", sign(&json!({})))), 200),
        (Some(format!("Bearer {}", other("the-next-secret"))), 200),
        (Some(format!("Bearer {}", other("some-other-secret"))), 403),
        (Some(format!("bearer {}", anon())), 403),
        (Some(anon()), 403),
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
        let response = server.request("GET", HEALTH, &headers).await;
        assert_eq!(response.status, status, "{authorization:?}");
        assert_eq!(response.body.is_empty(), status == 403);
    }
}

#[tokio::test]
async fn section_10_without_a_secret_nobody_administers() {
    let set = r#"{"keys":[{"kty":"oct","kid":"a","alg":"HS256","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQ"}]}"#;
    let server = Walcast::start(&[("API_JWT_SECRET", ""), ("API_JWT_JWKS", set)]).await;
    let key = jsonwebtoken::EncodingKey::from_secret(b"");
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &json!({}), &key).unwrap();
    for token in [anon(), token] {
        assert_eq!(ask(&server, "GET", HEALTH, &token).await.status, 403);
    }
}

#[tokio::test]
async fn section_10_health_of_a_tenant_by_its_name() {
    let database = Postgres::shared().await.database().await;
    let settings = [("SELF_HOST_TENANT_NAME", "mine"), ("REGION", "eu")];
    let server = Walcast::start_on(&database.url(), &settings).await;
    until("changes are streamed", || async {
        (server.get("/readyz").await.body == "ready").then_some(())
    })
    .await;
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    let target = "/api/tenants/mine/health";
    let response = ask(&server, "GET", target, &anon()).await;
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    let mut health = data(&response);
    let node = health["node"].take();
    assert_eq!(node.as_str().map(str::len), Some(32));
    assert_eq!(
        health,
        json!({"healthy": true, "db_connected": true, "replication_connected": true,
               "connected_cluster": 1, "region": "eu", "node": null})
    );
    let head = ask(&server, "HEAD", target, &anon()).await;
    assert_eq!((head.status, &*head.body), (200, ""));

    let other = ask(&server, "GET", HEALTH, &anon()).await;
    assert_eq!((other.status, &*other.body), (404, r#"{"message":"not found"}"#));
    let at_gateway = ask(&server, "GET", &format!("/realtime/v1{target}"), &anon()).await;
    assert_eq!(
        at_gateway.status, 404,
        "what administers is no business of browsers"
    );
}

#[tokio::test]
async fn section_10_health_of_a_tenant_whose_database_is_away() {
    let postgres = Postgres::start(Postgres::options()).await;
    let database = postgres.database().await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    let health = async || data(&ask(&server, "GET", HEALTH, &anon()).await);
    until("changes are streamed", || async {
        (health().await["replication_connected"] == true).then_some(())
    })
    .await;

    postgres.kill().await;
    until("the loss is noticed", || async {
        (health().await["replication_connected"] == false).then_some(())
    })
    .await;
    let facts = |health: &Value| (health["healthy"].clone(), health["db_connected"].clone());
    assert_eq!(
        facts(&health().await),
        (json!(true), json!(false)),
        "nobody misses it"
    );
    let mut socket = server.socket().await;
    socket.join_ok("realtime:a", "1").await;
    let response = ask(&server, "GET", HEALTH, &anon()).await;
    assert_eq!(response.status, 200, "also when it is not healthy");
    assert_eq!(facts(&data(&response)), (json!(false), json!(false)));
    assert_eq!(data(&response)["connected_cluster"], 1);
}

#[tokio::test]
async fn section_10_health_before_the_database_was_ever_reached() {
    let server = Walcast::start(&[]).await;
    let asked = std::time::Instant::now();
    let response = ask(&server, "HEAD", HEALTH, &anon()).await;
    assert_eq!(response.status, 200);
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "the check waits no longer"
    );
    let health = data(&ask(&server, "GET", HEALTH, &anon()).await);
    assert_eq!(health["healthy"], false, "it has yet to be prepared");
}
