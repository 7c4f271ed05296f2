//! Private channels that come back to another node (decision 30). Without redis-server or valkey-server nothing is tested
//! here, and said so.

use std::time::Duration;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Binary;
use walcast_protocol::{Encoding, UserBroadcastPush, encode_user_broadcast_push};
use walcast_testkit::{Database, Postgres, Redis, until};

use crate::missed::{WINDOW, cast_as_text, config, heard, position, token};
use crate::server::{Client, Walcast, now_s, sign};

const LOST: &str = "Broadcasts may have been missed: the nodes were out of touch since, or what is kept for all of \
                    them was lost";
const NOWHERE: &str = "postgres://nobody@127.0.0.1:1/none";

async fn node(redis: &Redis) -> Walcast {
    node_on(NOWHERE, redis).await
}

async fn node_on(url: &str, redis: &Redis) -> Walcast {
    let node = Walcast::start_on(url, &[("REDIS_URL", &redis.url()), WINDOW]).await;
    until("a node in touch with the others", || async {
        let metrics = node.get("/metrics").await.body;
        metrics.contains("walcast_nodes_connected 1").then_some(())
    })
    .await;
    node
}

async fn nodes<const COUNT: usize>() -> Option<(Redis, [Walcast; COUNT])> {
    if Redis::program().is_none() {
        println!("skipped: neither redis-server nor valkey-server is installed");
        return None;
    }
    let redis = Redis::start(&[]).await;
    let mut nodes = Vec::new();
    for _ in 0..COUNT {
        nodes.push(node(&redis).await);
    }
    let nodes = nodes
        .try_into()
        .unwrap_or_else(|_| unreachable!("as many as were started"));
    Some((redis, nodes))
}

async fn enter(node: &Walcast, broadcast: &Value) -> Client {
    let mut socket = node.socket_as("2.0.0", &token(false)).await;
    let joined = socket.join("realtime:room", "1", config(broadcast)).await;
    assert_eq!(joined.0, "ok", "{}", joined.1);
    socket
}

async fn member(node: &Walcast) -> Client {
    enter(node, &json!({"ack": true})).await
}

async fn back(node: &Walcast, since: &str) -> Client {
    enter(node, &json!({"since": since})).await
}

/// Over HTTP, so that nobody needs to be in the room.
async fn send(node: &Walcast, event: &str) {
    let bearer = format!("Bearer {}", token(false));
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    let target = format!("/api/broadcast/room/events/{event}?private=true");
    let response = node.post(&target, &headers, b"{}").await;
    assert_eq!(response.status, 202, "{}", response.body);
}

fn is_replayed(heard: &Value) -> bool {
    heard["replayed"] == json!(true) || heard["meta"]["replayed"] == json!(true)
}

/// The events of the next messages, all of them told again; with the last.
async fn told_again(socket: &mut Client, count: usize) -> (Vec<String>, Value) {
    let (mut events, mut last) = (Vec::new(), Value::Null);
    for _ in 0..count {
        last = heard(socket).await;
        assert!(is_replayed(&last), "{last}");
        events.push(last["event"].as_str().unwrap().to_owned());
    }
    (events, last)
}

async fn is_live(socket: &mut Client, event: &str) -> String {
    let live = heard(socket).await;
    assert_eq!((live["event"].as_str(), is_replayed(&live)), (Some(event), false));
    position(&live)
}

#[tokio::test]
async fn who_comes_back_to_another_node_gets_what_was_cast_on_both_and_then_what_is_live() {
    let Some((_redis, [a, b, c])) = nodes().await else {
        return;
    };
    let mut speaker = member(&a).await;
    let mut listener = member(&a).await;
    cast_as_text(&mut speaker, "first").await;
    let first = is_live(&mut listener, "first").await;
    drop(listener);
    cast_as_text(&mut speaker, "second").await;
    // Neither of these nodes has a member.
    send(&b, "third").await;
    // By way of Redis, so that the order is known.
    assert_eq!(heard(&mut speaker).await["event"], "third");
    send(&c, "fourth").await;
    assert_eq!(heard(&mut speaker).await["event"], "fourth");
    cast_as_text(&mut speaker, "fifth").await;
    let mut listener = back(&b, &first).await;
    let (events, last) = told_again(&mut listener, 4).await;
    assert_eq!(events, ["second", "third", "fourth", "fifth"]);
    // What was told has its position, too: with the last nothing is missing.
    let mut complete = back(&c, &position(&last)).await;
    cast_as_text(&mut speaker, "live").await;
    for socket in [&mut listener, &mut complete] {
        is_live(socket, "live").await;
        socket.expect_silence().await;
    }
    for node in [&c, &a] {
        let (events, _) = told_again(&mut back(node, &first).await, 5).await;
        assert_eq!(events, ["second", "third", "fourth", "fifth", "live"]);
    }
}

#[tokio::test]
async fn what_the_last_member_of_a_node_that_stopped_missed_is_told_by_another() {
    let Some((_redis, [a, b])) = nodes().await else {
        return;
    };
    let mut listener = member(&a).await;
    send(&a, "first").await;
    let first = is_live(&mut listener, "first").await;
    drop(listener);
    send(&a, "second").await;
    a.stop().await;
    send(&b, "third").await;
    let mut listener = back(&b, &first).await;
    assert_eq!(told_again(&mut listener, 2).await.0, ["second", "third"]);
    listener.expect_silence().await;
}

#[tokio::test]
async fn a_sender_is_known_by_its_name_on_another_node() {
    let Some((_redis, [a, b])) = nodes().await else {
        return;
    };
    let named = |since: Value| json!({"ack": true, "sender": "page-1", "since": since});
    let mut speaker = enter(&a, &named(Value::Null)).await;
    send(&b, "first").await;
    let first = is_live(&mut speaker, "first").await;
    cast_as_text(&mut speaker, "own").await;
    drop(speaker);
    send(&a, "second").await;
    let mut speaker = enter(&b, &named(json!(first))).await;
    assert_eq!(told_again(&mut speaker, 1).await.0, ["second"]);
    speaker.expect_silence().await;
    let mut other = back(&b, &first).await;
    assert_eq!(told_again(&mut other, 2).await.0, ["own", "second"]);
}

#[tokio::test]
async fn what_redis_has_lost_is_told_to_be_missing() {
    let Some((redis, [a, b])) = nodes().await else {
        return;
    };
    let mut listener = member(&a).await;
    send(&a, "first").await;
    let first = is_live(&mut listener, "first").await;
    drop(listener);
    redis.stop();
    let away = "Broadcasts may have been missed: the nodes are out of touch";
    until(
        "a channel that is told that the nodes are out of touch",
        || async {
            let told = back(&b, &first).await.receive().await;
            told[4]["message"].as_str()?.starts_with(away).then_some(())
        },
    )
    .await;
    redis.restart().await;
    for node in [&a, &b] {
        until("a channel that is told what was lost", || async {
            let told = back(node, &first).await.receive().await;
            (told[4]["message"] == LOST).then_some(())
        })
        .await;
    }
}

/// Two nodes that read rows of a database.
async fn nodes_with_rows() -> Option<(Database, Redis, [Walcast; 2])> {
    if Redis::program().is_none() {
        println!("skipped: neither redis-server nor valkey-server is installed");
        return None;
    }
    let database = Postgres::shared().await.database().await;
    let redis = Redis::start(&[]).await;
    let nodes = [
        node_on(&database.url(), &redis).await,
        node_on(&database.url(), &redis).await,
    ];
    for node in &nodes {
        ready(node).await;
    }
    // The beginning of the stream is an interruption. When both answer they have passed it on, and then they know of each
    // other's.
    for node in nodes.iter().chain(&nodes) {
        until("a node that knows what is kept", || async {
            let told = back(node, "1:00000000:0:0").await.receive().await;
            (told[4]["message"] == LOST).then_some(())
        })
        .await;
    }
    Some((database, redis, nodes))
}

async fn ready(node: &Walcast) {
    until("a node that is ready", || async {
        (node.get("/readyz").await.body == "ready").then_some(())
    })
    .await;
}

async fn row(database: &Database, event: &str) {
    database
        .execute(&format!("select realtime.send('{{}}', '{event}', 'room', true)"))
        .await;
}

#[tokio::test]
async fn rows_are_heard_once_on_each_node_and_told_again_among_the_other_broadcasts() {
    let Some((database, redis, [a, b])) = nodes_with_rows().await else {
        return;
    };
    let (mut at_a, mut at_b) = (member(&a).await, member(&b).await);
    row(&database, "first").await;
    let first = is_live(&mut at_a, "first").await;
    is_live(&mut at_b, "first").await;
    drop(at_b);
    row(&database, "second").await;
    is_live(&mut at_a, "second").await;
    send(&b, "third").await;
    is_live(&mut at_a, "third").await;
    row(&database, "fourth").await;
    let fourth = is_live(&mut at_a, "fourth").await;
    for node in [&a, &b] {
        let mut listener = back(node, &first).await;
        let (events, last) = told_again(&mut listener, 3).await;
        assert_eq!(events, ["second", "third", "fourth"]);
        assert!(last["meta"]["id"].is_string(), "{last}");
        listener.expect_silence().await;
    }
    // A node that comes later has missed nothing that the others have, nor does it make them say so.
    let c = node_on(&database.url(), &redis).await;
    ready(&c).await;
    let (events, last) = told_again(&mut back(&c, &first).await, 3).await;
    assert_eq!(events, ["second", "third", "fourth"]);
    let mut complete = back(&c, &fourth).await;
    let mut also_complete = back(&b, &position(&last)).await;
    row(&database, "fifth").await;
    for socket in [&mut complete, &mut also_complete, &mut at_a] {
        is_live(socket, "fifth").await;
        socket.expect_silence().await;
    }
}

#[tokio::test]
async fn a_stored_broadcast_is_heard_once_and_not_by_its_sender() {
    let Some((_database, _redis, [a, b])) = nodes_with_rows().await else {
        return;
    };
    let mut sender = member(&a).await;
    let mut listeners = [member(&a).await, member(&b).await];
    let push = UserBroadcastPush {
        event: "stored".to_owned(),
        metadata: r#"{"persist":true}"#.to_owned(),
        encoding: Encoding::Json,
        payload: b"{}".to_vec().into(),
    };
    let frame = encode_user_broadcast_push("1", "2", "realtime:room", &push).unwrap();
    sender.stream.send(Binary::binary(frame)).await.unwrap();
    sender
        .expect(json!(["1", "2", "realtime:room", "phx_reply", {"status": "ok", "response": {}}]))
        .await;
    for listener in &mut listeners {
        is_live(listener, "stored").await;
        listener.expect_silence().await;
    }
    sender.expect_silence().await;
}

#[tokio::test]
async fn a_replication_stream_that_all_nodes_lost_is_a_hole_in_what_is_kept() {
    let Some((database, _redis, [a, b])) = nodes_with_rows().await else {
        return;
    };
    let mut listener = member(&a).await;
    row(&database, "first").await;
    let first = is_live(&mut listener, "first").await;
    back(&b, &first).await.expect_silence().await;
    database
        .execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()",
        )
        .await;
    for node in [&a, &b] {
        until("a channel that is told what was lost", || async {
            let mut listener = back(node, &first).await;
            let told = timeout(Duration::from_millis(200), listener.receive())
                .await
                .ok()?;
            let message = told[4]["message"].as_str()?;
            message
                .starts_with("Broadcasts may have been missed")
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn rows_of_a_topic_of_which_nothing_can_be_kept_reach_the_members_of_each_node_once() {
    let Some((database, _redis, nodes)) = nodes_with_rows().await else {
        return;
    };
    let rights = json!({"topics": [{"topic": "a}b", "read": true, "write": true}]});
    let token = sign(&json!({"role": "anon", "exp": now_s() + 600, "walcast": rights}));
    let mut members = Vec::new();
    for node in &nodes {
        let mut member = node.socket_as("2.0.0", &token).await;
        let joined = member.join("realtime:a}b", "1", config(&json!({}))).await;
        assert_eq!(joined.0, "ok", "{}", joined.1);
        members.push(member);
    }
    database
        .execute("select realtime.send('{}', 'unkept', 'a}b', true)")
        .await;
    for member in &mut members {
        let live = heard(member).await;
        assert_eq!(
            (&live["event"], &live["meta"]["position"]),
            (&json!("unkept"), &Value::Null)
        );
        member.expect_silence().await;
    }
}

#[tokio::test]
async fn rows_reach_the_members_of_each_node_while_redis_is_away() {
    let Some((database, redis, nodes)) = nodes_with_rows().await else {
        return;
    };
    redis.stop();
    for node in &nodes {
        until("a node that is out of touch", || async {
            (node.get("/readyz").await.body == "degraded").then_some(())
        })
        .await;
    }
    for node in &nodes {
        let mut member = member(node).await;
        // Until the node goes on with a slot of its own, rows are missed, which members of changes are told.
        let hearing = async {
            loop {
                row(&database, "alone").await;
                if let Ok(live) = timeout(Duration::from_millis(200), heard(&mut member)).await {
                    return live;
                }
            }
        };
        let live = timeout(Duration::from_secs(20), hearing).await.expect("no row");
        assert_eq!(
            (&live["event"], &live["meta"]["position"]),
            (&json!("alone"), &Value::Null)
        );
    }
}
