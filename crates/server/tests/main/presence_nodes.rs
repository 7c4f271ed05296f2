//! Who is present on which node is all the same to a client (`protocol.md 6`). Without redis-server or valkey-server
//! nothing is tested here, and said so.

use serde_json::{Value, json};
use walcast_testkit::Redis;

use crate::server::{Client, Walcast, anon};

const TOPIC: &str = "realtime:room";

/// Nodes without a database.
async fn nodes(redis: &Redis, count: usize) -> Vec<Walcast> {
    let url = redis.url();
    let settings = [
        ("REDIS_URL", url.as_str()),
        ("WALCAST_NODE_BEAT_MS", "200"),
        ("WALCAST_NODE_EXPIRY_MS", "1000"),
    ];
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Walcast::start_on("postgres://nobody@127.0.0.1:1/none", &settings).await);
    }
    nodes
}

async fn redis() -> Option<Redis> {
    if Redis::program().is_none() {
        println!("skipped: neither redis-server nor valkey-server is installed");
        return None;
    }
    Some(Redis::start(&[]).await)
}

/// A member and the state it is told.
async fn enter(node: &Walcast, key: &str) -> (Client, Value) {
    let mut socket = node.socket_as("2.0.0", &anon()).await;
    let presence = json!({"enabled": true, "key": key});
    let joined = socket
        .join(TOPIC, "1", json!({"config": {"presence": presence}}))
        .await;
    assert_eq!(joined.0, "ok", "{}", joined.1);
    let state = payload(&mut socket, "presence_state").await;
    (socket, state)
}

/// The payload of the next frame of an event.
async fn payload(socket: &mut Client, event: &str) -> Value {
    loop {
        let mut frame = socket.receive().await;
        if frame[3] == event {
            return frame[4].take();
        }
    }
}

async fn track(socket: &mut Client, n: u32) {
    let call = json!({"type": "presence", "event": "track", "payload": {"n": n}});
    socket.send_json(json!(["1", "2", TOPIC, "presence", call])).await;
}

fn keys(part: &Value) -> Vec<&str> {
    part.as_object()
        .map(|keys| keys.keys().map(String::as_str).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn section_6_members_of_all_nodes_are_in_the_state_and_in_the_diffs() {
    let Some(redis) = redis().await else { return };
    let nodes = nodes(&redis, 3).await;
    let (mut ada, _) = enter(&nodes[0], "ada").await;
    let (mut ben, _) = enter(&nodes[1], "ben").await;
    track(&mut ada, 1).await;
    let came = payload(&mut ben, "presence_diff").await;
    assert_eq!(keys(&came["joins"]), ["ada"]);
    let (mut carl, state) = enter(&nodes[2], "carl").await;
    assert_eq!(state, came["joins"]);

    track(&mut ada, 2).await;
    for socket in [&mut ben, &mut carl] {
        let changed = payload(socket, "presence_diff").await;
        assert_eq!(changed["leaves"], came["joins"]);
        let meta = &changed["joins"]["ada"]["metas"][0];
        assert_eq!(meta["n"], 2);
        assert_eq!(meta["phx_ref_prev"], came["joins"]["ada"]["metas"][0]["phx_ref"]);
    }

    drop(ada);
    for socket in [&mut ben, &mut carl] {
        let went = payload(socket, "presence_diff").await;
        assert_eq!(
            (keys(&went["joins"]), keys(&went["leaves"])),
            (vec![], vec!["ada"])
        );
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_stops_takes_its_presences_along_at_once() {
    let Some(redis) = redis().await else { return };
    let mut nodes = nodes(&redis, 2).await;
    let (mut ada, _) = enter(&nodes[0], "ada").await;
    let (mut ben, _) = enter(&nodes[1], "ben").await;
    track(&mut ben, 1).await;
    assert_eq!(keys(&payload(&mut ada, "presence_diff").await["joins"]), ["ben"]);
    nodes.remove(1).stop().await;
    assert_eq!(keys(&payload(&mut ada, "presence_diff").await["leaves"]), ["ben"]);
}

#[tokio::test]
async fn while_redis_is_away_presence_goes_on_on_each_node_and_then_all_know_what_changed() {
    let Some(redis) = redis().await else { return };
    let nodes = nodes(&redis, 2).await;
    let (mut ada, _) = enter(&nodes[0], "ada").await;
    let (mut ben, _) = enter(&nodes[1], "ben").await;
    track(&mut ben, 1).await;
    assert_eq!(keys(&payload(&mut ada, "presence_diff").await["joins"]), ["ben"]);
    redis.stop();
    track(&mut ada, 1).await;
    assert_eq!(keys(&payload(&mut ada, "presence_diff").await["joins"]), ["ada"]);
    // Who was there is still listed.
    let (_carl, state) = enter(&nodes[0], "carl").await;
    assert_eq!(keys(&state), ["ada", "ben"]);
    redis.restart().await;
    payload(&mut ben, "presence_diff").await;
    let came = payload(&mut ben, "presence_diff").await;
    assert_eq!(
        (keys(&came["joins"]), keys(&came["leaves"])),
        (vec!["ada"], vec![])
    );
}
