//! Several nodes behave as one server (`protocol.md 5`, `9`). Without redis-server or valkey-server nothing is tested
//! here, and said so.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::Message;
use walcast_protocol::{Encoding, UserBroadcastPush, encode_user_broadcast_push};
use walcast_testkit::{Database, Postgres, Redis, until};

use crate::server::{Client, PATIENCE, Walcast, anon, user};

const TOPIC: &str = "realtime:room";

struct Nodes {
    redis: Redis,
    nodes: Vec<Walcast>,
}

impl Nodes {
    /// Some nodes without a database.
    async fn start(count: usize, settings: &[(&str, &str)]) -> Option<Self> {
        Self::start_on("postgres://nobody@127.0.0.1:1/none", count, settings).await
    }

    async fn start_on(database: &str, count: usize, settings: &[(&str, &str)]) -> Option<Self> {
        if Redis::program().is_none() {
            println!("skipped: neither redis-server nor valkey-server is installed");
            return None;
        }
        let redis = Redis::start(&[]).await;
        let url = redis.url();
        let settings: Vec<_> = [("REDIS_URL", url.as_str())]
            .into_iter()
            .chain(settings.iter().copied())
            .collect();
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Walcast::start_on(database, &settings).await);
        }
        Some(Self { redis, nodes })
    }

    /// A member of the room on a node.
    async fn member(&self, node: usize, vsn: &str, broadcast: Value) -> Client {
        let mut socket = self.nodes[node].socket_as(vsn, &anon()).await;
        join(
            &mut socket,
            vsn,
            TOPIC,
            json!({"config": {"broadcast": broadcast}}),
        )
        .await;
        socket
    }

    /// How many nodes listen to a topic.
    async fn listening(&self, topic: &str) -> String {
        ask(&self.redis, &format!("PUBSUB NUMSUB walcast:bus:0:{topic}")).await
    }

    async fn until_listening(&self, topic: &str, nodes: usize) {
        until(&format!("{nodes} nodes that listen to {topic}"), || async {
            let answer = self.listening(topic).await;
            answer.ends_with(&format!(":{nodes}\r\n")).then_some(())
        })
        .await;
    }
}

/// A command to Redis and its answer as it came.
async fn ask(redis: &Redis, command: &str) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
    connection
        .write_all(format!("{command}\r\nQUIT\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer.strip_suffix("+OK\r\n").unwrap().to_owned()
}

/// A load balancer that took all nodes out because of Redis would make a small loss a big one: degraded is 200 too.
async fn until_health(node: &Walcast, expected: &str) {
    until(expected, || async {
        let response = node.get("/readyz").await;
        (response.status == 200 && response.body == expected).then_some(())
    })
    .await;
}

async fn join(socket: &mut Client, vsn: &str, topic: &str, payload: Value) {
    if vsn == "1.0.0" {
        let join =
            json!({"topic": topic, "event": "phx_join", "payload": payload, "ref": "1", "join_ref": "1"});
        socket.send_json(join).await;
        assert_eq!(socket.receive().await["payload"]["status"], "ok");
    } else {
        let joined = socket.join(topic, "1", payload).await;
        assert_eq!(joined.0, "ok", "{}", joined.1);
    }
}

async fn say(socket: &mut Client, topic: &str, reference: &str, event: &str) {
    socket
        .send_json(json!(["1", reference, topic, "broadcast", {"event": event}]))
        .await;
}

fn said(topic: &str, event: &str) -> Value {
    json!([null, null, topic, "broadcast", {"event": event}])
}

async fn until_heard(socket: &mut Client, is_it: impl Fn(&Value) -> bool) {
    while !is_it(&socket.receive().await) {}
}

fn answer(reference: &str, status: &str, response: &Value) -> Value {
    json!(["1", reference, TOPIC, "phx_reply", {"status": status, "response": response}])
}

async fn send_kind_3(socket: &mut Client, event: &str, encoding: Encoding, payload: &[u8]) {
    let push = UserBroadcastPush {
        event: event.to_owned(),
        metadata: String::new(),
        encoding,
        payload: payload.to_vec().into(),
    };
    let frame = encode_user_broadcast_push("1", "2", TOPIC, &push).unwrap();
    socket.stream.send(Message::binary(frame)).await.unwrap();
}

#[tokio::test]
async fn a_redis_that_refuses_the_login_refuses_the_start_with_a_remedy() {
    let Some(nodes) = Nodes::start(0, &[]).await else {
        return;
    };
    let url = format!("redis://nobody:wrong@127.0.0.1:{}", nodes.redis.port());
    let refused = Walcast::start(&[("REDIS_URL", &url)])
        .await
        .ended()
        .await
        .unwrap_err();
    let sentence = refused.to_string();
    assert!(
        sentence.contains("check user and password in REDIS_URL"),
        "{sentence}"
    );
    assert!(!sentence.contains("wrong@"), "{sentence}");
}

#[tokio::test]
async fn section_5_every_member_on_any_node_gets_each_message_once_and_in_order() {
    let Some(nodes) = Nodes::start(3, &[]).await else {
        return;
    };
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for node in 0..3 {
        for _ in 0..2 {
            new.push(nodes.member(node, "2.0.0", json!({})).await);
            old.push(nodes.member(node, "1.0.0", json!({})).await);
        }
    }
    let mut sender = nodes.member(0, "2.0.0", json!({"ack": true})).await;
    say(&mut sender, TOPIC, "2", "text").await;
    send_kind_3(&mut sender, "json", Encoding::Json, br#"{"a": 1}"#).await;
    send_kind_3(&mut sender, "bytes", Encoding::Binary, &[0, 255]).await;
    for number in 0..20 {
        say(&mut sender, TOPIC, "2", &number.to_string()).await;
    }
    for _ in 0..23 {
        sender.expect(answer("2", "ok", &json!({}))).await;
    }
    for socket in &mut new {
        socket.expect(said(TOPIC, "text")).await;
        for expected in [
            &b"\x04\x0d\x04\x00\x01realtime:roomjson{\"a\": 1}"[..],
            b"\x04\x0d\x05\x00\x00realtime:roombytes\x00\xff",
        ] {
            match socket.next().await {
                Message::Binary(bytes) => assert_eq!(&bytes[..], expected),
                other => panic!("expected a binary frame, got {other:?}"),
            }
        }
        // One that came twice would come before the next.
        for number in 0..20 {
            socket.expect(said(TOPIC, &number.to_string())).await;
        }
    }
    for socket in &mut old {
        let text =
            |payload: Value| json!({"topic": TOPIC, "event": "broadcast", "ref": null, "payload": payload});
        socket.expect(text(json!({"event": "text"}))).await;
        socket
            .expect(text(
                json!({"event": "json", "payload": {"a": 1}, "type": "broadcast"}),
            ))
            .await;
        for number in 0..20 {
            socket.expect(text(json!({"event": number.to_string()}))).await;
        }
    }
    sender.expect_silence().await;
}

#[tokio::test]
async fn section_5_2_the_sender_hears_its_own_once_with_self_and_then_the_ack() {
    let Some(nodes) = Nodes::start(2, &[]).await else {
        return;
    };
    let mut other = nodes.member(1, "2.0.0", json!({})).await;
    let mut sender = nodes.member(0, "2.0.0", json!({"self": true, "ack": true})).await;
    for (reference, event) in [("2", "one"), ("3", "two")] {
        say(&mut sender, TOPIC, reference, event).await;
        sender.expect(said(TOPIC, event)).await;
        sender.expect(answer(reference, "ok", &json!({}))).await;
        other.expect(said(TOPIC, event)).await;
    }
}

#[tokio::test]
async fn a_join_that_was_answered_hears_what_other_nodes_say_from_then_on() {
    let Some(nodes) = Nodes::start(2, &[]).await else {
        return;
    };
    let mut speaker = nodes.nodes[0].socket().await;
    let mut listener = nodes.nodes[1].socket().await;
    for number in 0..50 {
        let topic = format!("realtime:{number}");
        speaker.join_ok(&topic, "1").await;
        listener.join_ok(&topic, "1").await;
        say(&mut speaker, &topic, "2", "first").await;
        listener.expect(said(&topic, "first")).await;
    }
}

#[tokio::test]
async fn a_node_listens_once_to_the_rooms_of_its_members_and_to_no_other() {
    let Some(nodes) = Nodes::start(2, &[]).await else {
        return;
    };
    let mut members = Vec::new();
    for node in [0, 0, 0, 1] {
        members.push(nodes.member(node, "2.0.0", json!({})).await);
    }
    assert!(nodes.listening("public:room").await.ends_with(":2\r\n"));
    assert!(nodes.listening("private:room").await.ends_with(":0\r\n"));
    let last = members.pop();
    drop(members);
    nodes.until_listening("public:room", 1).await;
    drop(last);
    nodes.until_listening("public:room", 0).await;
}

#[tokio::test]
async fn sections_5_6_and_5_7_broadcasts_over_http_reach_every_node() {
    let Some(nodes) = Nodes::start(2, &[]).await else {
        return;
    };
    let mut here = nodes.member(0, "2.0.0", json!({})).await;
    let mut there = nodes.member(1, "2.0.0", json!({})).await;
    let token = anon();
    let headers = [("apikey", token.as_str()), ("content-type", "application/json")];
    let batch = br#"{"messages":[{"topic":"room","event":"a","payload":{}},{"topic":"room","event":"b","payload":{}}]}"#;
    let response = nodes.nodes[0].post("/api/broadcast", &headers, batch).await;
    assert_eq!(response.status, 202);
    let response = nodes.nodes[0]
        .post("/api/broadcast/room/events/c", &headers, b"{}")
        .await;
    assert_eq!(response.status, 202);
    for socket in [&mut here, &mut there] {
        for event in ["a", "b"] {
            socket
                .expect(json!([null, null, TOPIC, "broadcast", {"event": event, "payload": {}, "type": "broadcast"}]))
                .await;
        }
        match socket.next().await {
            Message::Binary(bytes) => assert_eq!(&bytes[..], b"\x04\x0d\x01\x00\x01realtime:roomc{}"),
            other => panic!("expected a binary frame, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn without_redis_a_message_reaches_those_here_the_sender_is_told_and_all_are_when_it_is_back() {
    let Some(nodes) = Nodes::start(2, &[]).await else {
        return;
    };
    let mut sender = nodes.member(0, "2.0.0", json!({"ack": true})).await;
    let mut here = nodes.member(0, "2.0.0", json!({})).await;
    let mut there = nodes.member(1, "1.0.0", json!({})).await;
    nodes.redis.stop();
    let noticed = async {
        for number in 0.. {
            let event = number.to_string();
            say(&mut sender, TOPIC, &event, &event).await;
            // Those who are here get it in any case.
            here.expect(said(TOPIC, &event)).await;
            if sender.receive().await == answer(&event, "error", &json!("other_nodes_not_reached")) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, noticed)
        .await
        .expect("the loss was not noticed");
    let token = anon();
    let headers = [("apikey", token.as_str()), ("content-type", "application/json")];
    let batch = br#"{"messages":[{"topic":"room","event":"c","payload":{}}]}"#;
    let response = nodes.nodes[0].post("/api/broadcast", &headers, batch).await;
    sender
        .expect(json!([null, null, TOPIC, "broadcast", {"event": "c", "payload": {}, "type": "broadcast"}]))
        .await;
    assert_eq!(
        (response.status, &*response.body),
        (500, r#"{"message":"RPC error"}"#)
    );
    // A join does not wait for what may never be.
    let mut joined_meanwhile = nodes.member(0, "2.0.0", json!({})).await;
    nodes.redis.restart().await;
    let notice = joined_meanwhile.receive().await;
    assert_eq!((&notice[2], &notice[3]), (&json!(TOPIC), &json!("system")));
    assert_eq!(
        (
            &notice[4]["status"],
            &notice[4]["extension"],
            &notice[4]["channel"]
        ),
        (&json!("error"), &json!("system"), &json!("room"))
    );
    let message = notice[4]["message"].as_str().unwrap();
    assert!(message.contains("may have been missed"), "{message}");
    // What was taken before the loss was noticed may still be on its way, and comes late rather than never.
    until_heard(&mut there, |frame| frame["event"] == "system").await;
    assert_eq!(sender.receive().await[3], "system");
    say(&mut sender, TOPIC, "b", "back").await;
    sender.expect(answer("b", "ok", &json!({}))).await;
    until_heard(&mut there, |frame| frame["payload"] == json!({"event": "back"})).await;
}

#[tokio::test]
async fn a_join_is_answered_while_redis_hangs() {
    let Some(nodes) = Nodes::start(1, &[]).await else {
        return;
    };
    nodes.redis.hang();
    let mut sender = nodes.member(0, "2.0.0", json!({"self": true})).await;
    say(&mut sender, TOPIC, "2", "alone").await;
    sender.expect(said(TOPIC, "alone")).await;
    nodes.redis.resume();
}

#[tokio::test]
async fn a_node_that_starts_before_redis_serves_alone_and_is_degraded_until_redis_is_there() {
    let database = Postgres::shared().await.database().await;
    let Some(nodes) = Nodes::start_on(&database.url(), 1, &[]).await else {
        return;
    };
    nodes.redis.stop();
    let url = nodes.redis.url();
    let early = Walcast::start_on(&database.url(), &[("REDIS_URL", &url)]).await;
    let mut alone = early.socket().await;
    alone.join_ok(TOPIC, "1").await;
    until_health(&early, "degraded").await;
    let figures = early.get("/metrics").await.body;
    assert!(
        figures.lines().any(|line| line == "walcast_nodes_connected 0"),
        "{figures}"
    );
    nodes.redis.restart().await;
    until_health(&early, "ready").await;
    assert_eq!(alone.receive().await[3], "system");
    let mut other = nodes.member(0, "2.0.0", json!({"ack": true})).await;
    // The other node may not have noticed yet that Redis is back.
    let taken = async {
        loop {
            say(&mut other, TOPIC, "2", "hello").await;
            let reply = other.receive().await;
            if reply == answer("2", "ok", &json!({})) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, taken)
        .await
        .expect("nothing is published");
    alone.expect(said(TOPIC, "hello")).await;
}

/// Nodes on one database, where everybody may do everything on private channels.
async fn start_on_database(count: usize) -> Option<(Database, Nodes)> {
    let database = Postgres::shared().await.database().await;
    let nodes = Nodes::start_on(&database.url(), count, &[]).await?;
    database
        .until(
            "select to_regclass('realtime.messages') is not null and exists (
               select from pg_publication where pubname = 'supabase_realtime_messages_publication')",
        )
        .await;
    database
        .execute("create policy all_may on realtime.messages to authenticated using (true) with check (true)")
        .await;
    for node in &nodes.nodes {
        until_health(node, "ready").await;
    }
    Some((database, nodes))
}

async fn of_private_room(node: &Walcast) -> Client {
    let mut socket = node.socket_as("2.0.0", &user("alice", 3600)).await;
    let payload = json!({"config": {"private": true, "broadcast": {"ack": true}}});
    join(&mut socket, "2.0.0", TOPIC, payload).await;
    socket
}

#[tokio::test]
async fn section_4_4_a_private_room_and_a_public_one_of_its_name_never_mix_between_nodes() {
    let Some((_database, nodes)) = start_on_database(2).await else {
        return;
    };
    let mut private = [
        of_private_room(&nodes.nodes[0]).await,
        of_private_room(&nodes.nodes[1]).await,
    ];
    let mut public = [
        nodes.member(0, "2.0.0", json!({"ack": true})).await,
        nodes.member(1, "2.0.0", json!({"ack": true})).await,
    ];
    for [one, other] in [&mut private, &mut public] {
        say(one, TOPIC, "2", "there").await;
        one.expect(answer("2", "ok", &json!({}))).await;
        other.expect(said(TOPIC, "there")).await;
        say(other, TOPIC, "3", "back").await;
        other.expect(answer("3", "ok", &json!({}))).await;
        one.expect(said(TOPIC, "back")).await;
    }
    for socket in private.iter_mut().chain(&mut public) {
        socket.expect_silence().await;
    }
}

#[tokio::test]
async fn section_5_8_a_broadcast_from_the_database_reaches_every_member_on_any_node_once() {
    let Some((database, nodes)) = start_on_database(3).await else {
        return;
    };
    let mut members = Vec::new();
    for node in &nodes.nodes {
        for _ in 0..2 {
            members.push(of_private_room(node).await);
        }
    }
    for number in 0..10 {
        database
            .execute(&format!("select realtime.send('{{}}', '{number}', 'room')"))
            .await;
    }
    for socket in &mut members {
        for number in 0..10 {
            match socket.next().await {
                Message::Binary(bytes) => {
                    let event = &bytes[5 + TOPIC.len()..][..1];
                    assert_eq!(event, number.to_string().as_bytes());
                }
                other => panic!("expected a binary frame, got {other:?}"),
            }
        }
    }
    // A message that came twice would come before this one.
    say(&mut members[0], TOPIC, "2", "last").await;
    for socket in &mut members[1..] {
        socket.expect(said(TOPIC, "last")).await;
    }
}

#[tokio::test]
async fn section_9_clients_of_all_nodes_count_together() {
    let Some(nodes) = Nodes::start(2, &[("TENANT_MAX_CONCURRENT_USERS", "2")]).await else {
        return;
    };
    let mut waiting = nodes.nodes[1].socket().await;
    let users = [
        nodes.member(0, "2.0.0", json!({})).await,
        nodes.member(0, "2.0.0", json!({})).await,
    ];
    let connecting = || async {
        let path = format!("/socket/websocket?apikey={}&vsn=2.0.0", anon());
        nodes.nodes[1].get(&path).await
    };
    until("a full house", || async {
        let refused = connecting().await;
        (refused.status == 429 && refused.body == r#"{"error":"Too many connected users"}"#).then_some(())
    })
    .await;
    let refused = waiting.join(TOPIC, "1", json!({"config": {}})).await;
    assert_eq!(
        refused.1,
        json!({"reason": "ConnectionRateLimitReached: Too many connected users"})
    );
    drop(users);
    until("a free place", || async {
        // Not refused, but no upgrade either.
        (connecting().await.status == 400).then_some(())
    })
    .await;
    waiting.join_ok(TOPIC, "2").await;
}

#[tokio::test]
async fn section_9_rates_of_all_nodes_count_together() {
    let Some(nodes) = Nodes::start(2, &[("TENANT_MAX_EVENTS_PER_SECOND", "1000")]).await else {
        return;
    };
    // Who sends over a socket is not refused, and the other node, where nobody hears it, has next to nothing of its own.
    let mut sender = nodes.member(0, "2.0.0", json!({})).await;
    let token = anon();
    let headers = [("apikey", token.as_str()), ("content-type", "application/json")];
    let batch = br#"{"messages":[{"topic":"elsewhere","event":"e","payload":{}}]}"#;
    let refusal = async {
        loop {
            for _ in 0..500 {
                say(&mut sender, TOPIC, "2", "e").await;
            }
            sender.expect_silence().await;
            let answer = nodes.nodes[1].post("/api/broadcast", &headers, batch).await;
            if answer.status == 429 {
                break answer.body;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, refusal)
        .await
        .expect("the other node refuses nothing");
    assert_eq!(told, r#"{"message":"You have exceeded your rate limit"}"#);
}

/// Decision 27.
#[tokio::test]
async fn changes_reach_members_on_every_node_once_from_one_slot() {
    let Some((database, nodes)) = start_on_database(3).await else {
        return;
    };
    database
        .execute(
            "create table notes (id int primary key); grant select on notes to anon;
             alter publication supabase_realtime add table notes",
        )
        .await;
    let mut sockets = Vec::new();
    for node in &nodes.nodes {
        let mut socket = node.socket().await;
        let bindings = json!([{"event": "INSERT", "schema": "public", "table": "notes"}]);
        let payload = json!({"config": {"postgres_changes": bindings}});
        join(&mut socket, "2.0.0", TOPIC, payload).await;
        assert_eq!(socket.receive().await[3], "system");
        sockets.push(socket);
    }
    for id in 1..=3 {
        database
            .execute(&format!("insert into notes values ({id})"))
            .await;
    }
    for socket in &mut sockets {
        for id in 1..=3 {
            assert_eq!(socket.receive().await[4]["data"]["record"]["id"], id);
        }
        socket.expect_silence().await;
    }
    database
        .until("select count(*) = 1 from pg_replication_slots where database = current_database()")
        .await;
    let mut holders = 0;
    for node in &nodes.nodes {
        let figures = node.get("/metrics").await.body;
        let lag = figures
            .lines()
            .find_map(|line| line.strip_prefix("walcast_slot_lag_seconds "))
            .unwrap_or_else(|| panic!("{figures}"));
        assert!(lag.parse::<f64>().unwrap() < 5.0, "{lag}");
        holders += figures
            .lines()
            .filter(|line| *line == "walcast_slot_holder 1")
            .count();
    }
    assert_eq!(holders, 1);
}
