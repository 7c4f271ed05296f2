//! Recent broadcasts for private channels that come back (decision 30). The tokens are bound to topics, so that most
//! tests need no database.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use walcast_testkit::{Postgres, until};

use crate::server::{Client, Walcast, now_s, sign};

pub(crate) const WINDOW: (&str, &str) = ("WALCAST_BROADCAST_WINDOW_MS", "60000");

pub(crate) fn token(presence_only: bool) -> String {
    let rights = json!({"topics": [{
        "topic": "room", "read": !presence_only, "write": true, "presence": {"read": true, "write": true},
    }]});
    sign(&json!({"role": "anon", "exp": now_s() + 600, "walcast": rights}))
}

pub(crate) fn config(broadcast: &Value) -> Value {
    json!({"config": {"private": true, "broadcast": broadcast}})
}

async fn member(server: &Walcast, vsn: &str) -> Client {
    let mut socket = server.socket_as(vsn, &token(false)).await;
    socket.send(&join_text(vsn, &config(&json!({"ack": true})))).await;
    assert_eq!(status(&socket.receive().await), "ok");
    socket
}

fn join_text(vsn: &str, payload: &Value) -> String {
    match vsn {
        "1.0.0" => json!({"topic": "realtime:room", "event": "phx_join", "payload": payload, "ref": "1", "join_ref": "1"}),
        _ => json!(["1", "1", "realtime:room", "phx_join", payload]),
    }
    .to_string()
}

fn status(reply: &Value) -> &str {
    let payload = if reply.is_array() {
        &reply[4]
    } else {
        &reply["payload"]
    };
    payload["status"].as_str().unwrap_or_default()
}

/// The payload of the next broadcast as supabase-js has it, whatever the form of the frame.
pub(crate) async fn heard(socket: &mut Client) -> Value {
    match socket.next().await {
        Message::Text(text) => {
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame.is_array() {
                frame[4].clone()
            } else {
                frame["payload"].clone()
            }
        }
        Message::Binary(frame) => {
            let message = walcast_protocol::decode_user_broadcast(&frame).unwrap();
            let payload: Value = serde_json::from_slice(&message.payload).unwrap();
            let mut heard = json!({"type": "broadcast", "event": message.event, "payload": payload});
            if !message.metadata.is_empty() {
                heard["meta"] = serde_json::from_str(&message.metadata).unwrap();
            }
            heard
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn position(heard: &Value) -> String {
    let position = heard["meta"]["position"].as_str().or(heard["position"].as_str());
    position.unwrap().to_owned()
}

/// Reads up to the reply; what others sent, over HTTP too, comes before it.
async fn acknowledged(socket: &mut Client) {
    loop {
        let Message::Text(text) = socket.next().await else {
            continue;
        };
        let frame: Value = serde_json::from_str(&text).unwrap();
        if frame[3] == "phx_reply" {
            return assert_eq!(status(&frame), "ok");
        }
    }
}

pub(crate) async fn cast_as_text(socket: &mut Client, event: &str) {
    let payload = json!({"type": "broadcast", "event": event, "payload": {"n": 1}});
    socket
        .send_json(json!(["1", "2", "realtime:room", "broadcast", payload]))
        .await;
    acknowledged(socket).await;
}

/// One message in each of the ways there are.
async fn cast_all(server: &Walcast, socket: &mut Client) {
    cast_as_text(socket, "text").await;
    let frame = [&[3, 1, 1, 13, 6, 0, 1][..], b"12realtime:roombinary{\"n\":1}"].concat();
    futures_util::SinkExt::send(&mut socket.stream, Message::binary(frame))
        .await
        .unwrap();
    acknowledged(socket).await;
    let bearer = format!("Bearer {}", token(false));
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    let batch = json!({"messages": [
        {"topic": "room", "event": "batch", "payload": {"n": 1}, "private": true, "id": "u1"},
        // The public room of that name is another.
        {"topic": "room", "event": "public", "payload": {}},
    ]});
    let target = "/api/broadcast/room/events/single?private=true";
    for (target, body) in [("/api/broadcast", batch), (target, json!({"n": 1}))] {
        let response = server.post(target, &headers, body.to_string().as_bytes()).await;
        assert_eq!(response.status, 202, "{}", response.body);
    }
}

#[tokio::test]
async fn who_comes_back_gets_what_it_missed_in_order_and_then_what_is_live() {
    let server = Walcast::start(&[WINDOW]).await;
    for vsn in ["1.0.0", "2.0.0"] {
        let mut speaker = member(&server, "2.0.0").await;
        let mut listener = member(&server, vsn).await;
        cast_as_text(&mut speaker, "first").await;
        let first = heard(&mut listener).await;
        assert_eq!(
            (&first["event"], &first["replayed"]),
            (&json!("first"), &Value::Null)
        );
        drop(listener);
        cast_all(&server, &mut speaker).await;

        let mut listener = server.socket_as(vsn, &token(false)).await;
        let since = json!({"since": position(&first)});
        listener.send(&join_text(vsn, &config(&since))).await;
        assert_eq!(status(&listener.receive().await), "ok");
        let mut positions = vec![position(&first)];
        for event in ["text", "binary", "batch", "single"] {
            let mut missed = heard(&mut listener).await;
            positions.push(position(&missed));
            let fields = missed.as_object_mut().unwrap();
            let marks = match event {
                // As they came, with members of ours behind theirs.
                "text" | "batch" => {
                    fields.remove("position");
                    fields.remove("replayed")
                }
                _ => {
                    let mut meta = fields.remove("meta").unwrap();
                    meta.as_object_mut().unwrap().remove("replayed")
                }
            };
            assert_eq!(marks, Some(json!(true)), "{missed}");
            let mut expected = json!({"type": "broadcast", "event": event, "payload": {"n": 1}});
            if event == "batch" {
                expected["meta"] = json!({"id": "u1"});
            }
            assert_eq!(missed, expected);
        }
        cast_as_text(&mut speaker, "live").await;
        let live = heard(&mut listener).await;
        assert_eq!(
            (&live["event"], &live["replayed"]),
            (&json!("live"), &Value::Null)
        );
        positions.push(position(&live));
        let numbers: Vec<u64> = positions
            .iter()
            .map(|position| position.split_once(':').unwrap().1.parse().unwrap())
            .collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");

        // Who has heard all is told nothing; who goes by the clock gets at least what came after.
        let mut complete = server.socket_as("2.0.0", &token(false)).await;
        let joined = complete
            .join("realtime:room", "1", config(&json!({"since": position(&live)})))
            .await;
        assert_eq!(joined.0, "ok");
        complete.expect_silence().await;
    }
}

#[tokio::test]
async fn a_room_that_everybody_left_keeps_what_is_sent_to_it() {
    let server = Walcast::start(&[WINDOW]).await;
    let mut listener = member(&server, "2.0.0").await;
    let bearer = format!("Bearer {}", token(false));
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    let send = async |event: &str| {
        let target = format!("/api/broadcast/room/events/{event}?private=true");
        assert_eq!(server.post(&target, &headers, b"{}").await.status, 202);
    };
    send("first").await;
    let since = position(&heard(&mut listener).await);
    listener
        .send_json(json!(["1", "3", "realtime:room", "phx_leave", {}]))
        .await;
    assert_eq!(listener.receive().await[3], "phx_reply");
    assert_eq!(listener.receive().await[3], "phx_close");
    send("second").await;
    let joined = listener
        .join("realtime:room", "4", config(&json!({"since": since})))
        .await;
    assert_eq!(joined.0, "ok");
    let missed = heard(&mut listener).await;
    assert_eq!(
        (&missed["event"], &missed["meta"]["replayed"]),
        (&json!("second"), &json!(true))
    );
    listener.expect_silence().await;
}

#[tokio::test]
async fn who_cannot_be_told_what_it_missed_is_told_so() {
    let server = Walcast::start(&[WINDOW]).await;
    let without = Walcast::start(&[]).await;
    let mut speaker = member(&server, "2.0.0").await;
    cast_as_text(&mut speaker, "a").await;
    let unreached = "those that are kept do not reach back to `since`";
    let nothing = "`since` must be the position of a message, or milliseconds since 1970";
    for (server, payload, cause) in [
        (&server, config(&json!({"since": 1})), unreached),
        (
            &server,
            config(&json!({"since": "00000000:1"})),
            "`since` is a position of another server, or of one that was restarted",
        ),
        (&server, config(&json!({"since": "yesterday"})), nothing),
        (&server, config(&json!({"since": {}})), nothing),
        (
            &server,
            json!({"config": {"broadcast": {"since": 1}}}),
            "those of public channels are not kept",
        ),
        (
            &without,
            config(&json!({"since": 1})),
            "none are kept; see WALCAST_BROADCAST_WINDOW_MS and WALCAST_BROADCAST_WINDOW_BYTES",
        ),
    ] {
        let mut socket = server.socket_as("2.0.0", &token(false)).await;
        assert_eq!(socket.join("realtime:room", "1", payload).await.0, "ok");
        let message = format!("Broadcasts may have been missed: {cause}");
        let system = json!({"extension": "system", "status": "error", "message": message, "channel": "room"});
        socket
            .expect(json!(["1", null, "realtime:room", "system", system]))
            .await;
        socket.expect_silence().await;
    }
    // What may not be heard live is not told again.
    let mut socket = server.socket_as("2.0.0", &token(true)).await;
    let mut payload = config(&json!({"since": 1}));
    payload["config"]["presence"] = json!({"enabled": true});
    let (status, response) = socket.join("realtime:room", "1", payload).await;
    assert_eq!(
        (&*status, &response["reason"]),
        (
            "error",
            &json!("Unauthorized: You do not have permissions to read from this Channel topic: room")
        )
    );
}

#[tokio::test]
async fn without_a_window_nothing_on_the_wire_changes() {
    let server = Walcast::start(&[]).await;
    let mut speaker = member(&server, "2.0.0").await;
    let mut listener = member(&server, "2.0.0").await;
    cast_all(&server, &mut speaker).await;
    for event in ["text", "binary", "batch", "single"] {
        let heard = heard(&mut listener).await;
        let mut expected = json!({"type": "broadcast", "event": event, "payload": {"n": 1}});
        if event == "batch" {
            expected["meta"] = json!({"id": "u1"});
        }
        assert_eq!(heard, expected);
    }
}

#[tokio::test]
async fn a_sender_that_names_itself_is_not_told_its_own_messages_when_it_comes_back() {
    let server = Walcast::start(&[WINDOW]).await;
    let mut listener = member(&server, "2.0.0").await;
    cast_as_text(&mut listener, "first").await;
    let mut speaker = server.socket_as("2.0.0", &token(false)).await;
    let named = |since: &str| config(&json!({"ack": true, "sender": "page-1", "since": since}));
    // Nothing has been heard yet, so it begins with the present.
    let mut payload = named("");
    payload["config"]["broadcast"]["since"] = Value::Null;
    assert_eq!(speaker.join("realtime:room", "1", payload).await.0, "ok");
    cast_as_text(&mut listener, "second").await;
    let since = position(&heard(&mut speaker).await);
    cast_as_text(&mut speaker, "own").await;
    drop(speaker);
    cast_as_text(&mut listener, "third").await;
    for (payload, expected) in [
        (named(&since), &["third"][..]),
        (config(&json!({"since": since})), &["own", "third"]),
        (
            config(&json!({"since": since, "sender": "page-2"})),
            &["own", "third"],
        ),
        (
            config(&json!({"since": since, "sender": "page-1", "self": true})),
            &["own", "third"],
        ),
    ] {
        let mut socket = server.socket_as("2.0.0", &token(false)).await;
        assert_eq!(socket.join("realtime:room", "1", payload).await.0, "ok");
        for event in expected {
            assert_eq!(heard(&mut socket).await["event"], *event);
        }
        socket.expect_silence().await;
    }
}

#[tokio::test]
async fn a_lost_replication_stream_is_a_hole_in_what_is_kept() {
    let database = Postgres::shared().await.database().await;
    let server = Walcast::start_on(&database.url(), &[WINDOW]).await;
    database
        .until(
            "select exists (select from pg_replication_slots where active and database = current_database())",
        )
        .await;
    until("a server that is ready", || async {
        (server.get("/readyz").await.body == "ready").then_some(())
    })
    .await;
    let send = async |event: &str| {
        database
            .execute(&format!("select realtime.send('{{}}', '{event}', 'room', true)"))
            .await;
    };
    let back = async |since: &str| {
        let mut socket = server.socket_as("2.0.0", &token(false)).await;
        let joined = socket
            .join("realtime:room", "1", config(&json!({"since": since})))
            .await;
        assert_eq!(joined.0, "ok");
        socket
    };
    let mut listener = member(&server, "2.0.0").await;
    // Who stays sees when a row has come, which is after its commit.
    let mut witness = member(&server, "2.0.0").await;
    send("first").await;
    let first = heard(&mut listener).await;
    assert!(first["meta"]["id"].is_string(), "{first}");
    assert_eq!(heard(&mut witness).await["event"], "first");
    drop(listener);
    send("second").await;
    assert_eq!(heard(&mut witness).await["event"], "second");
    // A row that is missed is told again with its id.
    let mut listener = back(&position(&first)).await;
    let second = heard(&mut listener).await;
    assert_eq!(
        (&second["event"], &second["meta"]["replayed"]),
        (&json!("second"), &json!(true))
    );
    assert!(second["meta"]["id"].is_string(), "{second}");
    drop(listener);

    database
        .execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()",
        )
        .await;
    until("a server that has noticed", || async {
        let mut listener = back(&position(&second)).await;
        let told = timeout(Duration::from_millis(200), listener.receive())
            .await
            .ok()?;
        let unreached = "Broadcasts may have been missed: those that are kept do not reach back to `since`";
        (told[4]["message"] == unreached).then_some(())
    })
    .await;
}
