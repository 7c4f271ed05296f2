//! Broadcasts over HTTP to private channels (`protocol.md 5.6`, `5.7`, `15.2`; `database.md 3`).

use serde_json::{Value, json};
use walcast_testkit::{Database, Postgres};

use crate::server::{Client, Response, Walcast, now_s, sign, user};

/// Everybody hears everything. Users speak where the name holds their `sub`; in `wraise` the check raises, in `headed`
/// it goes by a header.
const POLICIES: &str = "
    create policy hear on realtime.messages for select to authenticated using (true);
    create policy speak on realtime.messages for insert to authenticated
      with check (case realtime.topic()
        when 'wraise' then 1 / (length(topic) - length(topic)) = 1
        when 'headed' then current_setting('request.headers')::json ->> 'tenant-secret' = 'open sesame'
        else realtime.topic() like '%' || (auth.jwt() ->> 'sub') || '%' end);";

async fn start() -> (Database, Walcast) {
    let database = Postgres::shared().await.database().await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    // The table is the server's to make.
    database
        .until("select to_regclass('realtime.messages') is not null")
        .await;
    database.execute(POLICIES).await;
    (database, server)
}

async fn member(server: &Walcast, topic: &str) -> Client {
    let mut socket = server.socket_as("2.0.0", &user("listener", 3600)).await;
    let payload = json!({"config": {"private": true}});
    let joined = socket.join(&format!("realtime:{topic}"), "1", payload).await;
    assert_eq!(joined.0, "ok", "{}", joined.1);
    socket
}

async fn post(server: &Walcast, target: &str, token: &str, body: &Value) -> Response {
    let authorization = format!("Bearer {token}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("content-type", "application/json"),
    ];
    server.post(target, &headers, body.to_string().as_bytes()).await
}

fn heard(topic: &str, payload: &Value) -> Value {
    json!([null, null, format!("realtime:{topic}"), "broadcast", payload])
}

#[tokio::test]
async fn section_5_7_a_private_broadcast_is_sent_or_its_refusal_explained() {
    let (_database, server) = start().await;
    let mut inside = member(&server, "alices").await;
    let mut outside = server.socket().await;
    outside.join_ok("realtime:alices", "1").await;
    let alice = user("alice", 3600);
    let nobody = sign(&json!({"role": "nobody_at_all", "exp": now_s() + 3600}));
    let roleless = sign(&json!({"role": null, "exp": now_s() + 3600}));
    let denied = (403, r#"{"message":"Unauthorized"}"#);
    let failed = (422, r#"{"message":"RLS policy error"}"#);
    for (target, token, body, expected) in [
        ("alices/events/e?private=true", &alice, json!({}), (202, "")),
        ("alices/events/e", &alice, json!({"private": true}), (202, "")),
        ("bobs/events/e?private=true", &alice, json!({}), denied),
        ("bobs/events/e", &alice, json!({"private": true}), denied),
        // `realtime:` is part of a name here.
        ("realtime:bobs/events/e?private=true", &alice, json!({}), denied),
        ("wraise/events/e?private=true", &alice, json!({}), failed),
        ("alices/events/e?private=true", &nobody, json!({}), failed),
        ("alices/events/e?private=true", &roleless, json!({}), failed),
    ] {
        let response = post(&server, &format!("/api/broadcast/{target}"), token, &body).await;
        assert_eq!((response.status, &*response.body), expected, "{target}");
    }
    for payload in [json!({}), json!({"private": true})] {
        let frame = inside.next().await.into_data();
        let message = walcast_protocol::decode_user_broadcast(&frame).unwrap();
        assert_eq!(&message.payload[..], payload.to_string().as_bytes());
    }
    inside.expect_silence().await;
    outside.expect_silence().await;
}

#[tokio::test]
async fn section_5_6_private_messages_of_a_batch_go_where_they_may_after_the_public_ones() {
    let (_database, server) = start().await;
    let mut socket = member(&server, "alices").await;
    socket.join_ok("realtime:public", "2").await;
    let mut elsewhere = member(&server, "bobs").await;
    let message = |topic: &str, event: &str, private: Value| json!({"topic": topic, "event": event, "payload": {}, "private": private});
    let batch = json!({"messages": [
        message("alices", "p1", json!(true)),
        message("bobs", "p2", json!(true)),
        message("wraise", "p3", json!(true)),
        message("public", "e", json!(false)),
        message("alices", "p4", json!("1")),
    ]});
    let response = post(&server, "/api/broadcast", &user("alice", 3600), &batch).await;
    assert_eq!((response.status, &*response.body), (202, ""));
    for (topic, event) in [("public", "e"), ("alices", "p1"), ("alices", "p4")] {
        let payload = json!({"event": event, "payload": {}, "type": "broadcast"});
        socket.expect(heard(topic, &payload)).await;
    }
    elsewhere.expect_silence().await;
}

#[tokio::test]
async fn section_3_2_policies_see_all_headers_of_an_http_request() {
    let (_database, server) = start().await;
    let mut member = member(&server, "headed").await;
    let authorization = format!("Bearer {}", user("alice", 3600));
    for (secret, status) in [("open barley", 403), ("open sesame", 202)] {
        let headers = [
            ("authorization", authorization.as_str()),
            ("Tenant-Secret", secret),
        ];
        let target = "/api/broadcast/headed/events/e?private=true";
        assert_eq!(server.post(target, &headers, b"").await.status, status);
    }
    assert!(member.next().await.is_binary());
    member.expect_silence().await;
}

#[tokio::test]
async fn section_15_2_what_cannot_be_stored_is_refused() {
    let (_database, server) = start().await;
    let mut member = member(&server, "alices").await;
    let alice = user("alice", 3600);
    let public = r#"{"errors":{"persist":["is for private channels only"]}}"#;
    let refused = r#"{"message":"the message could not be stored: the database does not accept it"}"#;
    for (target, body, status, answer) in [
        (
            "alices/events/e?private=true&persist=true",
            json!({"private": false}),
            422,
            public,
        ),
        (
            "alices/events/e?private=true&persist=true",
            json!({"nul": "\0"}),
            422,
            refused,
        ),
        (
            "bobs/events/e?private=true&persist=true",
            json!({}),
            403,
            r#"{"message":"Unauthorized"}"#,
        ),
    ] {
        let response = post(&server, &format!("/api/broadcast/{target}"), &alice, &body).await;
        assert_eq!((response.status, &*response.body), (status, answer), "{target}");
    }
    member.expect_silence().await;
}
