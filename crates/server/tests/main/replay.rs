//! Stored messages: replayed at a join, and stored by a broadcast (`protocol.md 5.9`, `15.2`).

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;
use walcast_protocol::{Encoding, UserBroadcastPush, decode_user_broadcast, encode_user_broadcast_push};
use walcast_testkit::{Database, Postgres};

use crate::server::{Client, Walcast, user};

const TOPIC: &str = "realtime:room";

async fn start() -> (Database, Walcast) {
    start_on(Postgres::shared().await).await
}

async fn start_on(postgres: &Postgres) -> (Database, Walcast) {
    let database = postgres.database().await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    database
        .until(
            "select to_regclass('realtime.messages') is not null and exists (
               select from pg_publication where pubname = 'supabase_realtime_messages_publication')",
        )
        .await;
    database
        .execute(
            "create policy all_may on realtime.messages to authenticated
               using (extension = 'presence' or realtime.topic() <> 'presence-only') with check (true)",
        )
        .await;
    database
        .until("select count(*) = 5 from pg_inherits where inhparent = 'realtime.messages'::regclass")
        .await;
    (database, server)
}

fn join(replay: &Value) -> Value {
    json!({"config": {"private": true, "broadcast": {"replay": replay, "ack": true}}})
}

async fn socket(server: &Walcast, vsn: &str) -> Client {
    server.socket_as(vsn, &user("alice", 3600)).await
}

#[tokio::test]
async fn section_5_9_the_newest_messages_come_oldest_first_right_after_the_reply() {
    let (database, server) = start().await;
    database
        .execute(
            "insert into realtime.messages (topic, extension, private, event, payload, inserted_at)
               select 'room', 'broadcast', true, 'e' || n, jsonb_build_object('n', n), (now() at time zone 'utc') - (10 - n) * interval '1 minute'
               from generate_series(1, 3) n;
             insert into realtime.messages (topic, extension, private, event, binary_payload, inserted_at)
               values ('room', 'broadcast', true, 'bytes', '\\x0102', (now() at time zone 'utc') - interval '1 minute');
             select realtime.send('{}', 'public', 'room', false); select realtime.send('{}', 'elsewhere', 'other')",
        )
        .await;
    let mut v2 = socket(&server, "2.0.0").await;
    assert_eq!(
        v2.join(TOPIC, "1", join(&json!({"since": 0, "limit": 3})))
            .await
            .0,
        "ok"
    );
    for n in [2, 3] {
        let frame = v2.receive().await;
        assert_eq!(
            (&frame[0], &frame[1], &frame[3]),
            (&json!("1"), &Value::Null, &json!("broadcast"))
        );
        assert_eq!(frame[4]["event"], format!("e{n}"));
        assert_eq!(frame[4]["payload"], json!({ "n": n }));
        assert_eq!(frame[4]["meta"]["replayed"], true);
    }
    let Message::Binary(frame) = v2.next().await else {
        panic!("a text frame")
    };
    let frame = decode_user_broadcast(&frame).unwrap();
    assert_eq!((&*frame.event, &frame.payload[..]), ("bytes", &[1, 2][..]));
    assert!(frame.metadata.starts_with(r#"{"replayed":true,"id":""#));
    v2.expect_silence().await;

    let mut v1 = socket(&server, "1.0.0").await;
    v1.send_json(json!({"topic": TOPIC, "event": "phx_join", "ref": "1", "payload": join(&json!({"since": 0, "limit": 2}))}))
        .await;
    assert_eq!(v1.receive().await["event"], "phx_reply");
    // The one with bytes counts and is not for 1.0.0.
    assert_eq!(v1.receive().await["payload"]["event"], "e3");
}

#[tokio::test]
async fn section_5_9_what_cannot_be_replayed_is_refused_with_the_reason() {
    let (_database, server) = start().await;
    let mut socket = socket(&server, "2.0.0").await;
    let invalid = "UnableToReplayMessages: Replay params are not valid";
    let cases = [
        ("room", json!({}), invalid),
        ("room", json!({"since": 1.5}), invalid),
        ("room", json!({"since": 1, "limit": "x"}), invalid),
        (
            "presence-only",
            json!({"since": 1}),
            "Unauthorized: You do not have permissions to read from this Channel topic: presence-only",
        ),
    ];
    for (topic, replay, reason) in cases {
        let topic = format!("realtime:{topic}");
        let mut payload = join(&replay);
        payload["config"]["presence"] = json!({"enabled": true});
        let refused = socket.join(&topic, "1", payload).await;
        assert_eq!(
            refused,
            ("error".to_owned(), json!({ "reason": reason })),
            "{replay}"
        );
    }
    for ignored in [json!("x"), json!([1]), Value::Null, json!({"since": -1})] {
        assert_eq!(socket.join(TOPIC, "2", join(&ignored)).await.0, "ok", "{ignored}");
        socket.send_json(json!(["2", "3", TOPIC, "phx_leave", {}])).await;
        socket.receive().await;
        socket.receive().await;
    }
}

async fn send(socket: &mut Client, reference: &str, metadata: &str) {
    let push = UserBroadcastPush {
        event: "kept".to_owned(),
        metadata: metadata.to_owned(),
        encoding: Encoding::Json,
        payload: br#"{"n":1}"#.to_vec().into(),
    };
    let frame = encode_user_broadcast_push("1", reference, TOPIC, &push).unwrap();
    socket.stream.send(Message::binary(frame)).await.unwrap();
}

#[tokio::test]
async fn section_15_2_a_stored_broadcast_reaches_members_once_and_is_replayed_under_the_same_id() {
    let (_database, server) = start().await;
    let mut sender = socket(&server, "2.0.0").await;
    let mut receiver = socket(&server, "2.0.0").await;
    for socket in [&mut sender, &mut receiver] {
        assert_eq!(socket.join(TOPIC, "1", join(&Value::Null)).await.0, "ok");
    }
    send(&mut sender, "2", r#"{"persist":true}"#).await;
    sender
        .expect(json!(["1", "2", TOPIC, "phx_reply", {"status": "ok", "response": {}}]))
        .await;
    let Message::Binary(frame) = receiver.next().await else {
        panic!("a text frame")
    };
    let live = decode_user_broadcast(&frame).unwrap();
    assert_eq!(&*live.event, "kept");
    let id = serde_json::from_str::<Value>(&live.metadata).unwrap()["id"].clone();
    let mut late = socket(&server, "2.0.0").await;
    assert_eq!(late.join(TOPIC, "1", join(&json!({"since": 0}))).await.0, "ok");
    let replayed = late.receive().await;
    assert_eq!(replayed[4]["meta"], json!({"replayed": true, "id": id}));
    assert_eq!(replayed[4]["payload"], json!({"n": 1}));
    // Its row has come back by now, and the sender asked not to hear its own.
    sender.expect_silence().await;
    receiver.expect_silence().await;
}

#[tokio::test]
async fn section_15_2_only_private_channels_store() {
    let (_database, server) = start().await;
    let mut socket = socket(&server, "2.0.0").await;
    socket
        .join(TOPIC, "1", json!({"config": {"broadcast": {"ack": true}}}))
        .await;
    send(&mut socket, "2", r#"{"persist":{"ttl":60}}"#).await;
    socket
        .expect(json!(["1", "2", TOPIC, "phx_reply", {"status": "error",
            "response": {"error": "only broadcasts of private channels can be stored"}}]))
        .await;
}

#[tokio::test]
async fn section_15_2_a_broadcast_over_http_can_be_stored() {
    let (_database, server) = start().await;
    let mut receiver = socket(&server, "2.0.0").await;
    assert_eq!(receiver.join(TOPIC, "1", join(&Value::Null)).await.0, "ok");
    let bearer = format!("Bearer {}", user("alice", 3600));
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    for (query, status, body) in [
        ("private=true&persist%5Bttl%5D=3600", 202, ""),
        (
            "persist=true",
            422,
            r#"{"errors":{"persist":["is for private channels only"]}}"#,
        ),
        (
            "private=true&persist=maybe",
            422,
            r#"{"errors":{"persist":["is invalid"]}}"#,
        ),
    ] {
        let response = server
            .post(
                &format!("/api/broadcast/room/events/kept?{query}"),
                &headers,
                br#"{"n":1}"#,
            )
            .await;
        assert_eq!((response.status, &*response.body), (status, body), "{query}");
    }
    let Message::Binary(frame) = receiver.next().await else {
        panic!("a text frame")
    };
    assert_eq!(decode_user_broadcast(&frame).unwrap().event, "kept");
    receiver.expect_silence().await;
    let mut late = socket(&server, "2.0.0").await;
    assert_eq!(late.join(TOPIC, "1", join(&json!({"since": 0}))).await.0, "ok");
    assert_eq!(late.receive().await[4]["payload"], json!({"n": 1}));
}

#[tokio::test]
async fn a_message_that_was_live_before_the_channel_and_not_yet_seen_by_other_sessions_is_replayed() {
    let postgres = Postgres::start(Postgres::options()).await;
    let (database, server) = start_on(&postgres).await;
    let mut early = socket(&server, "2.0.0").await;
    assert_eq!(early.join(TOPIC, "1", join(&Value::Null)).await.0, "ok");
    let session = database.client().await;
    let process: i32 = session
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    // The commit is in the log and streamed, and waits for a standby before other sessions may see it.
    database
        .execute("alter system set synchronous_standby_names = 'nobody'")
        .await;
    database.execute("select pg_reload_conf()").await;
    database
        .until("select current_setting('synchronous_standby_names') = 'nobody'")
        .await;
    let sending = tokio::spawn(async move {
        session
            .batch_execute("select realtime.send('{\"n\": 1}', 'e', 'room')")
            .await
    });
    assert!(matches!(early.next().await, Message::Binary(_)));
    let mut late = socket(&server, "2.0.0").await;
    late.send_json(json!(["1", "1", TOPIC, "phx_join", join(&json!({"since": 0}))]))
        .await;
    late.expect_silence().await;
    database
        .execute("alter system reset synchronous_standby_names")
        .await;
    database
        .execute(&format!("select pg_reload_conf(), pg_cancel_backend({process})"))
        .await;
    sending.await.unwrap().unwrap();
    assert_eq!(late.joined(TOPIC, "1").await.0, "ok");
    assert_eq!(late.receive().await[4]["payload"]["n"], 1);
    late.expect_silence().await;
}
