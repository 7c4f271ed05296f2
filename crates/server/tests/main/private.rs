//! Private channels and broadcasts from the database (`protocol.md 3.3`, `4.3` to `4.6`, `5.2`, `5.8`).

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;
use walcast_protocol::{Encoding, UserBroadcastPush, encode_user_broadcast_push};
use walcast_testkit::{Database, Postgres};

use crate::server::{Client, Walcast, anon, now_s, sign, user};

/// Users hear rooms whose name holds their `sub`, and speak in those that hold `sub` and `write`. For names that hold
/// `hraise` or `wraise` the check raises.
const POLICIES: &str = "
    create policy hear on realtime.messages for select to authenticated
      using (realtime.topic() like '%' || (auth.jwt() ->> 'sub') || '%' and extension = 'broadcast'
        and (realtime.topic() not like '%hraise%' or 1 / (length(topic) - length(topic)) = 1));
    create policy speak on realtime.messages for insert to authenticated
      with check (realtime.topic() like '%' || (auth.jwt() ->> 'sub') || '%write%'
        and (realtime.topic() not like '%wraise%' or 1 / (length(topic) - length(topic)) = 1));";

async fn start() -> (Database, Walcast) {
    let database = Postgres::shared().await.database().await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    // The table is the server's to make.
    database
        .until(
            "select to_regclass('realtime.messages') is not null and exists (
            select from pg_publication where pubname = 'supabase_realtime_messages_publication')",
        )
        .await;
    database.execute(POLICIES).await;
    (database, server)
}

fn private(broadcast: &Value) -> Value {
    json!({"config": {"private": true, "broadcast": broadcast}})
}

fn refused(topic: &str) -> (String, Value) {
    let reason =
        format!("Unauthorized: You do not have permissions to read from this Channel topic: {topic}");
    ("error".to_owned(), json!({ "reason": reason }))
}

async fn member(server: &Walcast, sub: &str, topic: &str, broadcast: Value) -> Client {
    let mut socket = server.socket_as("2.0.0", &user(sub, 3600)).await;
    let joined = socket
        .join(&format!("realtime:{topic}"), "1", private(&broadcast))
        .await;
    assert_eq!(joined.0, "ok", "{}", joined.1);
    socket
}

fn broadcast(topic: &str, reference: &str, event: &str) -> Value {
    json!(["1", reference, format!("realtime:{topic}"), "broadcast", {"type": "broadcast", "event": event, "payload": {}}])
}

fn heard(topic: &str, event: &str) -> Value {
    json!([null, null, format!("realtime:{topic}"), "broadcast", {"type": "broadcast", "event": event, "payload": {}}])
}

fn acknowledged(topic: &str, reference: &str) -> Value {
    json!(["1", reference, format!("realtime:{topic}"), "phx_reply", {"status": "ok", "response": {}}])
}

#[tokio::test]
async fn section_3_3_who_may_not_read_a_private_channel_is_refused_and_the_socket_lives_on() {
    let (_database, server) = start().await;
    let mut socket = server.socket_as("2.0.0", &user("alice", 3600)).await;
    socket.join_ok("realtime:public", "1").await;
    for topic in ["bobs", "alice-hraise"] {
        let joined = socket
            .join(&format!("realtime:{topic}"), "2", private(&json!({})))
            .await;
        assert_eq!(joined, refused(topic));
    }
    let nobody = sign(&json!({"role": "nobody_at_all", "exp": now_s() + 3600}));
    for key in [anon(), nobody] {
        let mut socket = server.socket_as("2.0.0", &key).await;
        let joined = socket.join("realtime:alice", "2", private(&json!({}))).await;
        assert_eq!(joined, refused("alice"));
    }
    socket.expect_silence().await;
}

#[tokio::test]
async fn section_5_2_members_hear_who_may_write_and_nobody_else() {
    let (_database, server) = start().await;
    let mut sender = member(&server, "alice", "alice-write", json!({"ack": true})).await;
    let mut receiver = member(&server, "alice", "alice-write", json!({})).await;
    sender.send_json(broadcast("alice-write", "2", "one")).await;
    sender.send_json(broadcast("alice-write", "3", "two")).await;
    sender.expect(acknowledged("alice-write", "2")).await;
    sender.expect(acknowledged("alice-write", "3")).await;
    receiver.expect(heard("alice-write", "one")).await;
    receiver.expect(heard("alice-write", "two")).await;

    for topic in ["alice", "alice-write-wraise"] {
        let mut mute = member(&server, "alice", topic, json!({"ack": true})).await;
        let mut receiver = member(&server, "alice", topic, json!({})).await;
        mute.send_json(broadcast(topic, "2", "one")).await;
        mute.send_json(broadcast(topic, "3", "two")).await;
        // What comes behind a check has waited for it.
        mute.send_json(json!(["1", "4", format!("realtime:{topic}"), "phx_leave", {}]))
            .await;
        mute.expect(acknowledged(topic, "4")).await;
        receiver.expect_silence().await;
    }
}

#[tokio::test]
async fn section_4_4_public_and_private_rooms_of_one_name_never_mix() {
    let (database, server) = start().await;
    let mut inside = member(&server, "alice", "alice-write", json!({"self": true})).await;
    let mut outside = server.socket().await;
    outside
        .join(
            "realtime:alice-write",
            "1",
            json!({"config": {"broadcast": {"self": true, "replication_ready": true}}}),
        )
        .await;
    assert_eq!(outside.receive().await[3], "system");
    inside.send_json(broadcast("alice-write", "2", "inside")).await;
    outside.send_json(broadcast("alice-write", "2", "outside")).await;
    inside.expect(heard("alice-write", "inside")).await;
    outside.expect(heard("alice-write", "outside")).await;
    for (is_private, socket) in [(true, &mut inside), (false, &mut outside)] {
        database
            .execute(&format!(
                "select realtime.send('{{\"id\": 7}}', 'row', 'alice-write', {is_private})"
            ))
            .await;
        let frame = match socket.next().await {
            Message::Binary(frame) => frame,
            other => panic!("{other:?}"),
        };
        let frame = walcast_protocol::decode_user_broadcast(&frame).unwrap();
        assert_eq!((&*frame.event, &frame.payload[..]), ("row", &br#"{"id": 7}"#[..]));
    }
    inside.expect_silence().await;
    outside.expect_silence().await;
}

#[tokio::test]
async fn section_5_8_rows_are_broadcast_in_commit_order_to_both_versions_and_bytes_to_one() {
    let (database, server) = start().await;
    let mut v2 = server.socket().await;
    let mut v1 = server.socket_as("1.0.0", &anon()).await;
    let config = json!({"config": {"broadcast": {"replication_ready": true}}});
    v2.join("realtime:room", "1", config.clone()).await;
    assert_eq!(v2.receive().await[3], "system");
    v1.send_json(json!({"topic": "realtime:room", "event": "phx_join", "payload": config, "ref": "1", "join_ref": "1"}))
        .await;
    assert_eq!(v1.receive().await["event"], "phx_reply");
    assert_eq!(v1.receive().await["event"], "system");
    database
        .execute(
            "create table public.t (id int);
             create function public.tell() returns trigger language plpgsql as $$ begin
               perform realtime.broadcast_changes('room', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
               return null; end $$;
             create trigger tell after insert on public.t for each row execute function public.tell();
             select realtime.send('{\"n\": 1}', 'first', 'room', false);
             select realtime.send_binary('\\x00ff', 'second', 'room', false);
             insert into realtime.messages (topic, extension, payload, event, private) values ('room', 'presence', '{\"n\": 3}', 'third', false);
             insert into realtime.messages (topic, extension, payload, event, private) values ('room', 'broadcast', null, 'nothing', false);
             update realtime.messages set event = 'updated';
             select realtime.send('{\"id\": \"mine\"}', 'last', 'room', false);
             insert into t values (1)",
        )
        .await;
    let client = database.client().await;
    let id: String = client
        .query_one(
            "select id::text from realtime.messages where payload ->> 'n' = '1'",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    let mut events = Vec::new();
    for _ in 0..4 {
        let Message::Binary(frame) = v2.next().await else {
            panic!("a text frame")
        };
        let frame = walcast_protocol::decode_user_broadcast(&frame).unwrap();
        if frame.event == "first" {
            let expected = format!("{{\"n\": 1, \"id\": \"{id}\"}}");
            assert_eq!(std::str::from_utf8(&frame.payload).unwrap().len(), expected.len());
            assert_eq!(frame.metadata, format!("{{\"id\":\"{id}\"}}"));
        }
        if frame.event == "second" {
            assert_eq!(
                (frame.encoding, &frame.payload[..]),
                (Encoding::Binary, &[0, 255][..])
            );
        }
        events.push(frame.event);
    }
    assert_eq!(events, ["first", "second", "third", "last"]);
    let first = v1.receive().await;
    assert_eq!(
        first["payload"],
        json!({"event": "first", "payload": {"n": 1, "id": id}, "type": "broadcast", "meta": {"id": id}})
    );
    assert_eq!(v1.receive().await["payload"]["event"], "third");
    assert_eq!(v1.receive().await["payload"]["payload"], json!({"id": "mine"}));
    // The trigger's is private.
    v2.expect_silence().await;
}

#[tokio::test]
async fn section_4_3_a_token_that_may_read_no_longer_closes_its_channel_and_no_other() {
    let (_database, server) = start().await;
    let mut socket = server.socket_as("2.0.0", &user("alice", 3600)).await;
    socket.join_ok("realtime:public", "p").await;
    for topic in ["alice", "alice-bob"] {
        let joined = socket
            .join(&format!("realtime:{topic}"), "1", private(&json!({})))
            .await;
        assert_eq!(joined.0, "ok");
    }
    for topic in ["alice", "alice-bob"] {
        socket
            .send_json(json!(["1", "2", format!("realtime:{topic}"), "access_token", {"access_token": user("bob", 3600)}]))
            .await;
    }
    socket
        .expect(json!(["1", null, "realtime:alice", "system", {"extension": "system", "status": "error",
            "message": "You do not have permissions to read from this Channel topic: alice", "channel": "alice"}]))
        .await;
    socket
        .expect(json!(["1", "1", "realtime:alice", "phx_close", {}]))
        .await;
    socket.expect_silence().await;
    socket
        .send_json(json!(["p", "3", "realtime:public", "phx_leave", {}]))
        .await;
    socket
        .expect(json!(["p", "3", "realtime:public", "phx_reply", {"status": "ok", "response": {}}]))
        .await;
}

#[tokio::test]
async fn section_4_5_the_right_to_write_is_asked_anew_for_a_new_token() {
    let (_database, server) = start().await;
    let topic = "alice-bob-write";
    let mut sender = member(&server, "alice", topic, json!({"ack": true})).await;
    let mut receiver = member(&server, "bob", topic, json!({})).await;
    let mute = sign(&json!({"role": "authenticated", "sub": "alice-bob-write", "exp": now_s() + 3600}));
    let full = format!("realtime:{topic}");
    sender
        .send_json(json!(["1", "2", full, "access_token", {"access_token": mute}]))
        .await;
    sender.send_json(broadcast(topic, "3", "unheard")).await;
    sender
        .send_json(json!(["1", "4", full, "access_token", {"access_token": user("alice", 3600)}]))
        .await;
    sender.send_json(broadcast(topic, "5", "heard")).await;
    sender.expect(acknowledged(topic, "5")).await;
    receiver.expect(heard(topic, "heard")).await;
    receiver.expect_silence().await;
}

#[tokio::test]
async fn section_4_3_what_follows_a_token_waits_until_its_rights_are_known() {
    let (database, server) = start().await;
    // The new token's right to read is found missing long after its right to write could be found.
    let slowly = "create policy slowly on realtime.messages as restrictive for select to authenticated
        using (auth.jwt() ->> 'slow' is null or pg_sleep(0.3) is null)";
    database.execute(slowly).await;
    let topic = "alice-write";
    let mut socket = member(&server, "alice", topic, json!({"ack": true})).await;
    let full = format!("realtime:{topic}");
    let slow = sign(&json!({"role": "authenticated", "sub": "alice", "slow": true, "exp": now_s() + 3600}));
    socket
        .send_json(json!(["1", "2", full, "access_token", {"access_token": slow}]))
        .await;
    socket.send_json(broadcast(topic, "3", "late")).await;
    socket
        .expect(json!(["1", null, full, "system", {"extension": "system", "status": "error",
            "message": "You do not have permissions to read from this Channel topic: alice-write", "channel": topic}]))
        .await;
    socket.expect(json!(["1", "1", full, "phx_close", {}])).await;
    socket
        .expect(json!([null, "3", full, "phx_reply", {"status": "error", "response": {"reason": "unmatched topic"}}]))
        .await;
}

#[tokio::test]
async fn without_a_database_private_channels_are_refused_with_the_reason_and_public_ones_work() {
    let server = Walcast::start(&[("WALCAST_JOIN_TIMEOUT_MS", "300")]).await;
    let mut socket = server.socket().await;
    socket
        .send_json(json!([
            "1",
            "1",
            "realtime:alice",
            "phx_join",
            private(&json!({}))
        ]))
        .await;
    // The join waits; what is beside it does not.
    socket.join_ok("realtime:public", "2").await;
    assert_eq!(
        socket.joined("realtime:alice", "1").await,
        (
            "error".to_owned(),
            json!({"reason": "UnableToConnectToProject: Realtime was unable to connect to the project database"})
        )
    );
}

#[tokio::test]
async fn kind_3_is_judged_like_a_text_push() {
    let (_database, server) = start().await;
    let mut receiver = member(&server, "alice", "alice-write", json!({})).await;
    let mut sender = member(&server, "alice", "alice-write", json!({"ack": true})).await;
    let push = UserBroadcastPush {
        event: "e".to_owned(),
        metadata: String::new(),
        encoding: Encoding::Json,
        payload: b"{}".to_vec().into(),
    };
    let frame = encode_user_broadcast_push("1", "2", "realtime:alice-write", &push).unwrap();
    sender.stream.send(Message::binary(frame)).await.unwrap();
    sender.expect(acknowledged("alice-write", "2")).await;
    assert!(matches!(receiver.next().await, Message::Binary(_)));
}

#[tokio::test]
async fn a_partition_missed_by_a_join_is_made_for_the_next() {
    let (database, server) = start().await;
    database
        .execute(
            "do $$declare partition regclass; begin
               for partition in select inhrelid::regclass from pg_inherits where inhparent = 'realtime.messages'::regclass
               loop execute 'drop table ' || partition; end loop;
             end$$",
        )
        .await;
    let mut socket = server.socket_as("2.0.0", &user("alice", 3600)).await;
    let joined = socket.join("realtime:alice", "1", private(&json!({}))).await;
    let reason = "MissingPartition: Realtime was unable to find the expected messages partition";
    assert_eq!(joined, ("error".to_owned(), json!({ "reason": reason })));
    database
        .until("select count(*) = 5 from pg_inherits where inhparent = 'realtime.messages'::regclass")
        .await;
    member(&server, "alice", "alice", json!({})).await;
}

#[tokio::test]
async fn a_policy_that_does_not_end_costs_only_its_own_channel() {
    let (database, server) = start().await;
    database
        .execute(
            "create policy slow on realtime.messages for select to authenticated
               using (realtime.topic() like '%endless%' and pg_sleep(60) is not null)",
        )
        .await;
    let mut socket = server.socket_as("2.0.0", &user("alice", 3600)).await;
    socket
        .send_json(json!([
            "1",
            "1",
            "realtime:alice-endless",
            "phx_join",
            private(&json!({}))
        ]))
        .await;
    // Beside it heartbeats are answered and others are let in.
    socket.expect_silence().await;
    let joined = socket.join("realtime:alice", "2", private(&json!({}))).await;
    assert_eq!(joined.0, "ok");
    let (status, response) = socket.joined("realtime:alice-endless", "1").await;
    assert_eq!(status, "error");
    let reason = response["reason"].as_str().unwrap();
    assert!(reason.starts_with("QueryCanceled: "), "{reason}");
}

#[tokio::test]
async fn while_the_database_is_gone_private_joins_say_so_and_everything_else_flows() {
    let postgres = Postgres::start(Postgres::options()).await;
    let database = postgres.database().await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    database
        .until(
            "select to_regclass('realtime.messages') is not null and exists (
               select from pg_publication where pubname = 'supabase_realtime_messages_publication')",
        )
        .await;
    database.execute(POLICIES).await;
    let mut socket = member(
        &server,
        "alice",
        "alice-write",
        json!({"self": true, "ack": true}),
    )
    .await;
    socket
        .join(
            "realtime:public",
            "p",
            json!({"config": {"broadcast": {"self": true}}}),
        )
        .await;
    postgres.kill().await;
    socket
        .send_json(json!([
            "2",
            "2",
            "realtime:alice",
            "phx_join",
            private(&json!({}))
        ]))
        .await;
    // Not known yet and not to be asked: dropped without a word, and nobody gained a right.
    socket.send_json(broadcast("alice-write", "3", "unheard")).await;
    socket
        .send_json(json!(["p", "4", "realtime:public", "broadcast", {"type": "broadcast", "event": "e", "payload": {}}]))
        .await;
    let reason = "UnableToConnectToProject: Realtime was unable to connect to the project database";
    let refused =
        json!(["2", "2", "realtime:alice", "phx_reply", {"status": "error", "response": {"reason": reason}}]);
    // In either order: the one waits for nothing, and the other not for long.
    let mut came = [socket.receive().await, socket.receive().await];
    came.sort_by_key(|frame| frame[3] == "phx_reply");
    assert_eq!(came, [heard("public", "e"), refused]);
    socket.expect_silence().await;
    postgres.restart().await;
    socket.send_json(broadcast("alice-write", "5", "again")).await;
    socket.expect(heard("alice-write", "again")).await;
    socket.expect(acknowledged("alice-write", "5")).await;
}
