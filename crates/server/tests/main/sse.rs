//! Streams of server-sent events (decision 28): how one is asked for, and what it tells of rooms.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;
use walcast_protocol::{Encoding, UserBroadcastPush, encode_user_broadcast_push};
use walcast_testkit::{Database, Postgres};

use crate::event_source::EventSource;
use crate::server::{PATIENCE, Response, Walcast, anon, forged, sign, user};

const WITHOUT_DELAY: (&str, &str) = ("CONNECT_ERROR_BACKOFF_MS", "0");

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Status, and code and message of the body.
fn refusal(response: &Response) -> (u16, String, String) {
    let body: Value = serde_json::from_str(&response.body).unwrap();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    (response.status, text("code"), text("message"))
}

#[tokio::test]
async fn a_stream_is_reached_at_and_behind_a_gateway_and_no_cache_or_proxy_keeps_it() {
    let server = Walcast::start(&[]).await;
    let authorization = bearer(&anon());
    let headers = [
        ("authorization", authorization.as_str()),
        ("origin", "https://app.example"),
    ];
    for path in [
        "/realtime/v1/sse",
        "/realtime/v1/api/sse",
        "/socket/sse",
        "/api/sse",
    ] {
        let mut stream = EventSource::open_at(&server, &format!("{path}?topic=room"), &headers).await;
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
            ("access-control-allow-origin", "*"),
        ] {
            assert_eq!(stream.response.header(name), Some(value), "{path}");
        }
        assert_eq!(stream.joined("room").await, json!({"postgres_changes": []}));
    }
    for path in ["/realtime/v1/sse", "/realtime/v1/api/sse"] {
        let asked = [
            ("origin", "https://app.example"),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "apikey,last-event-id"),
        ];
        let allowed = server.request("OPTIONS", path, &asked).await;
        assert_eq!(allowed.status, 204);
        assert_eq!(allowed.header("access-control-allow-origin"), Some("*"));
        assert_eq!(
            allowed.header("access-control-allow-headers"),
            Some("apikey,last-event-id")
        );
    }
}

#[tokio::test]
async fn the_token_comes_in_the_query_or_in_the_headers_of_the_api() {
    let server = Walcast::start(&[WITHOUT_DELAY]).await;
    let (good, bad) = (anon(), forged());
    let (bearer_good, bearer_bad) = (bearer(&good), bearer(&bad));
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(String, Headers<'_>); 6] = [
        (format!("&token={good}"), &[]),
        (format!("&apikey={good}"), &[]),
        (String::new(), &[("authorization", &bearer_good)]),
        (String::new(), &[("apikey", &good)]),
        // What a gateway adds.
        (
            format!("&token={good}"),
            &[("authorization", &bearer_bad), ("apikey", &bad)],
        ),
        (format!("&apikey={bad}"), &[("authorization", &bearer_good)]),
    ];
    for (query, headers) in cases {
        let target = format!("/realtime/v1/sse?topic=room{query}");
        EventSource::open_at(&server, &target, headers)
            .await
            .joined("room")
            .await;
    }
}

#[tokio::test]
async fn what_cannot_begin_is_a_status_with_a_code_and_a_sentence() {
    let server = Walcast::start(&[WITHOUT_DELAY]).await;
    let expired = sign(&json!({"role": "anon", "exp": 1}));
    let (good, bad) = (anon(), forged());
    let token = |token: &str| format!("topic=room&token={token}");
    let cases: Vec<(String, u16, &str, &str)> = vec![
        ("topic=room".to_owned(), 401, "MissingAPIKey", "no token: send"),
        (
            token(&bad),
            401,
            "JwtSignatureError",
            "Failed to validate JWT signature",
        ),
        (token(&expired), 401, "InvalidJWTToken", "Token has expired"),
        (
            token("x"),
            401,
            "MalformedJWT",
            "The token provided is not a valid JWT",
        ),
        (format!("token={good}"), 422, "InvalidQuery", "`topic` is missing"),
        (
            format!("{}&postgres_changes=orders", token(&good)),
            422,
            "InvalidQuery",
            "`postgres_changes` must be a JSON object",
        ),
        (
            format!("{}&last_event_id=7", token(&good)),
            422,
            "InvalidQuery",
            "`Last-Event-ID` must be the id",
        ),
    ];
    for (query, status, code, message) in cases {
        let refused = refusal(&server.get(&format!("/realtime/v1/sse?{query}")).await);
        assert_eq!((refused.0, &*refused.1), (status, code), "{query}");
        assert!(refused.2.starts_with(message), "{query}: {}", refused.2);
    }
}

#[tokio::test]
async fn limits_of_sockets_are_limits_of_streams_and_a_stream_is_a_user_until_it_is_closed() {
    let server = Walcast::start(&[
        WITHOUT_DELAY,
        ("TENANT_MAX_CONCURRENT_USERS", "1"),
        ("TENANT_MAX_CHANNELS_PER_CLIENT", "2"),
    ])
    .await;
    let target = |query: &str| format!("/realtime/v1/sse?{query}&token={}", anon());
    let three = refusal(&server.get(&target("topic=a&topic=b&topic=c")).await);
    assert_eq!(
        (three.0, &*three.1, &*three.2),
        (429, "ChannelRateLimitReached", "Too many channels")
    );

    let mut only = EventSource::open(&server, "topic=a&topic=b", &anon()).await;
    only.joined("a").await;
    only.joined("b").await;
    let second = refusal(&server.get(&target("topic=a")).await);
    assert_eq!(
        (second.0, &*second.1, &*second.2),
        (429, "ConnectionRateLimitReached", "Too many connected users")
    );
    drop(only);
    // Nothing says when the server has noticed.
    let again = tokio::time::timeout(PATIENCE, async {
        loop {
            let asked = EventSource::request(&server, &target("topic=a"), &[]).await;
            let answered = EventSource::answered(asked).await;
            if answered.response.status == 200 {
                return answered;
            }
        }
    });
    again.await.unwrap().joined("a").await;
}

#[tokio::test]
async fn broadcasts_of_all_topics_come_with_the_payloads_a_socket_gets() {
    let server = Walcast::start(&[]).await;
    let mut stream = EventSource::open(&server, "topic=room&topic=a%22b%20c", &anon()).await;
    let mut joined = [stream.next().await.data, stream.next().await.data].map(|data| data["topic"].clone());
    joined.sort_by_key(Value::to_string);
    assert_eq!(joined, [json!("a\"b c"), json!("room")]);

    let mut socket = server.socket().await;
    socket.join_ok("realtime:room", "1").await;
    let message = json!({"type": "broadcast", "event": "e", "payload": {"x": "1\n2"}});
    socket
        .send(&format!(
            "[\"1\",\"2\",\"realtime:room\",\"broadcast\",{}]",
            serde_json::to_string_pretty(&message).unwrap()
        ))
        .await;
    assert_eq!(
        stream.expect("broadcast").await,
        json!({"topic": "room", "payload": message})
    );

    for (encoding, payload, told) in [
        (Encoding::Json, &b"{\"x\":\n[1]}"[..], json!({"x": [1]})),
        (
            Encoding::Binary,
            &[0, 159, 255][..],
            json!(STANDARD.encode([0, 159, 255])),
        ),
    ] {
        let push = UserBroadcastPush {
            event: "bytes".to_owned(),
            metadata: String::new(),
            encoding,
            payload: payload.to_vec().into(),
        };
        let frame = encode_user_broadcast_push("1", "3", "realtime:room", &push).unwrap();
        socket.stream.send(Message::binary(frame)).await.unwrap();
        let mut expected = json!({"type": "broadcast", "event": "bytes", "payload": told});
        if encoding == Encoding::Binary {
            expected["encoding"] = json!("base64");
        }
        assert_eq!(stream.expect("broadcast").await["payload"], expected);
    }

    let authorization = bearer(&anon());
    let headers = [("authorization", authorization.as_str())];
    let sent = server
        .post("/api/broadcast/a%22b%20c/events/http", &headers, b"{}")
        .await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    let heard = json!({"topic": "a\"b c", "payload": {"type": "broadcast", "event": "http", "payload": {}}});
    assert_eq!(stream.expect("broadcast").await, heard);
}

#[tokio::test]
async fn presence_is_a_state_and_then_who_comes_and_goes() {
    let server = Walcast::start(&[("WALCAST_PRESENCE_WINDOW_MS", "0")]).await;
    let mut socket = server.socket().await;
    let config = json!({"config": {"presence": {"enabled": true, "key": "ada"}}});
    socket.join("realtime:room", "1", config).await;
    let track = |name: &str| json!(["1", "2", "realtime:room", "presence", {"type": "presence", "event": "track", "payload": {"name": name}}]);
    socket.send_json(track("Ada")).await;

    // The diff is the server's answer that she is there.
    while socket.receive().await[3] != "presence_diff" {}
    let mut stream = EventSource::open(&server, "topic=room&presence=true", &anon()).await;
    stream.joined("room").await;
    let state = stream.expect("presence_state").await;
    assert_eq!(state["topic"], "room");
    assert_eq!(state["payload"]["ada"]["metas"][0]["name"], "Ada");
    socket
        .send_json(json!(["1", "3", "realtime:room", "phx_leave", {}]))
        .await;
    let diff = stream.expect("presence_diff").await;
    assert_eq!(diff["payload"]["leaves"]["ada"]["metas"][0]["name"], "Ada");
    assert_eq!(diff["payload"]["joins"], json!({}));
}

#[tokio::test]
async fn comments_come_at_the_heartbeat_and_the_stream_lives_though_its_client_says_nothing() {
    let server = Walcast::start(&[
        ("WALCAST_SSE_HEARTBEAT_MS", "50"),
        // For sockets, whose clients answer pings.
        ("WALCAST_IDLE_TIMEOUT_MS", "100"),
    ])
    .await;
    let mut stream = EventSource::open(&server, "topic=room", &anon()).await;
    stream.joined("room").await;
    for _ in 0..6 {
        let comment = stream.next_or_end().await.unwrap();
        assert_eq!(comment.kind, None);
    }
}

const POLICIES: &str = "
    create policy hear on realtime.messages for select to authenticated
      using (realtime.topic() = auth.jwt() ->> 'sub');
    create policy speak on realtime.messages for insert to authenticated with check (true);";

async fn with_policies() -> (Database, Walcast) {
    let database = Postgres::shared().await.database().await;
    let server = Walcast::start_on(&database.url(), &[WITHOUT_DELAY]).await;
    database
        .until("select to_regclass('realtime.messages') is not null")
        .await;
    database.execute(POLICIES).await;
    (database, server)
}

#[tokio::test]
async fn a_private_topic_is_for_whom_its_policies_let_hear_it() {
    let (_database, server) = with_policies().await;
    let target = |topic: &str| {
        let token = user("alice", 3600);
        format!("/realtime/v1/sse?topic={topic}&private=true&token={token}")
    };
    let denied = (
        403,
        "Unauthorized".to_owned(),
        "You do not have permissions to read from this Channel topic: bob".to_owned(),
    );
    assert_eq!(refusal(&server.get(&target("bob")).await), denied);
    // One of several is enough.
    assert_eq!(refusal(&server.get(&target("alice&topic=bob")).await), denied);

    let mut stream = EventSource::open_at(&server, &target("alice"), &[]).await;
    stream.joined("alice").await;
    let authorization = bearer(&user("carol", 3600));
    let headers = [("authorization", authorization.as_str())];
    for query in ["", "?private=true"] {
        let sent = server
            .post(&format!("/api/broadcast/alice/events/e{query}"), &headers, b"{}")
            .await;
        assert_eq!(sent.status, 202, "{}", sent.body);
    }
    let heard = stream.expect("broadcast").await;
    assert_eq!(heard["payload"]["event"], "e");
    let mut public = EventSource::open(&server, "topic=alice", &user("alice", 3600)).await;
    public.joined("alice").await;
}
