//! How a stream of server-sent events ends (decision 28): said, and without anything left behind.

use serde_json::{Value, json};

use crate::event_source::EventSource;
use crate::server::{Walcast, anon, user};

fn system(message: &str, topic: &Value) -> Value {
    json!({"topic": topic, "payload": {"extension": "system", "status": "error", "message": message}})
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_says_so() {
    let server = Walcast::start(&[]).await;
    let mut stream = EventSource::open(&server, "topic=room", &user("ada", 2)).await;
    stream.joined("room").await;
    let told = stream.expect("system").await;
    assert_eq!(told["topic"], "room");
    let message = told["payload"]["message"].as_str().unwrap();
    assert!(message.starts_with("Token has expired"), "{message}");
    assert_eq!(stream.next_or_end().await, None);
}

#[tokio::test]
async fn a_drain_ends_streams_and_says_so() {
    let server = Walcast::start(&[]).await;
    let mut stream = EventSource::open(&server, "topic=room", &anon()).await;
    stream.joined("room").await;
    let ((), ()) = tokio::join!(server.stop(), async {
        let told = stream.expect("system").await;
        assert_eq!(told, system("the server restarts; connect again", &Value::Null));
        assert_eq!(stream.next_or_end().await, None);
    });
}

/// Says much in a room, until the server has let go of those who do not listen.
async fn fill(server: &Walcast) {
    let mut socket = server.socket().await;
    socket.join_ok("realtime:room", "1").await;
    let payload = "x".repeat(100_000);
    let message = json!(["1", "2", "realtime:room", "broadcast", {"type": "broadcast", "event": "e", "payload": {"text": payload}}]);
    for _ in 0..200 {
        socket.send_json(message.clone()).await;
    }
    socket.expect_silence().await;
}

#[tokio::test]
async fn a_slow_reader_is_told_before_its_stream_ends() {
    let server = Walcast::start(&[("WALCAST_QUEUE_BYTES", "500000")]).await;
    let mut stream = EventSource::open(&server, "topic=room", &anon()).await;
    stream.joined("room").await;
    fill(&server).await;
    let last = stream.last().await;
    let told = system(
        "slow reader: more waits for this socket than it reads; subscribe to less or read faster",
        &Value::Null,
    );
    assert_eq!(last.data, told);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_loses_its_connection_and_is_no_user_any_more() {
    let server = Walcast::start(&[
        ("WALCAST_WRITE_TIMEOUT_MS", "300"),
        ("CONNECT_ERROR_BACKOFF_MS", "0"),
        ("TENANT_MAX_CONCURRENT_USERS", "2"),
    ])
    .await;
    let mut stream = EventSource::open(&server, "topic=room", &anon()).await;
    stream.joined("room").await;
    fill(&server).await;
    stream.cut().await;
    let mut one = EventSource::open(&server, "topic=room", &anon()).await;
    one.joined("room").await;
}
