//! What needs Postgres: `protocol.md 3.5`, `3.6`, `4.3`, `7.3`, `15.1`, start and stop.

use serde_json::{Value, json};
use walcast::migrate::{DatabaseNotReady, migrate_at};
use walcast_testkit::{Database, Postgres};

use crate::server::{Client, Walcast, anon, user};

const TABLE: &str = "create table public.todos (id int primary key, owner text, note text);
    grant select on public.todos to anon, authenticated;
    alter publication supabase_realtime add table public.todos;";

const POLICY: &str = "alter table public.todos enable row level security;
    create policy own on public.todos for select to authenticated using (auth.jwt() ->> 'sub' = owner);";

async fn start(sql: &str) -> (Database, Walcast) {
    let database = Postgres::shared().await.database().await;
    database.execute(TABLE).await;
    database.execute(sql).await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    (database, server)
}

fn inserts() -> Value {
    json!({"config": {"postgres_changes": [{"event": "INSERT", "schema": "public", "table": "todos"}]}})
}

fn subscribed(channel: &str) -> Value {
    json!({"extension": "postgres_changes", "status": "ok", "message": "Subscribed to PostgreSQL", "channel": channel})
}

/// Joins with a binding for inserts; returns its id.
async fn join_inserts(socket: &mut Client, topic: &str, reference: &str) -> Value {
    let (status, response) = socket.join(topic, reference, inserts()).await;
    assert_eq!(status, "ok", "{response}");
    let system = subscribed(topic.strip_prefix("realtime:").unwrap());
    socket
        .expect(json!([reference, null, topic, "system", system]))
        .await;
    response["postgres_changes"][0]["id"].clone()
}

async fn expect_row(socket: &mut Client, topic: &str, id: &Value, row: i64) {
    let change = socket.receive().await;
    assert_eq!(change[0], Value::Null);
    assert_eq!(
        (&change[2], &change[3]),
        (&json!(topic), &json!("postgres_changes"))
    );
    assert_eq!(change[4]["ids"], json!([id]));
    assert_eq!(change[4]["data"]["record"]["id"], row);
}

#[tokio::test]
async fn section_3_4_entries_are_echoed_verbatim_and_in_order_with_their_ids() {
    let (_database, server) = start("").await;
    let mut socket = server.socket().await;
    let entries = json!([
        {"table": "todos", "schema": "public", "event": "insert", "extra": [1]},
        null,
        {"event": "*", "schema": "public", "table": "todos", "filter": "id=eq.1", "select": ["id"]},
    ]);
    let (_, response) = socket
        .join(
            "realtime:a",
            "1",
            json!({"config": {"postgres_changes": entries}}),
        )
        .await;
    let echoed = response["postgres_changes"].as_array().unwrap();
    let mut without_ids = echoed.clone();
    let ids: Vec<Value> = without_ids
        .iter_mut()
        .map(|entry| entry.as_object_mut().unwrap().remove("id").unwrap())
        .collect();
    assert_eq!(json!(without_ids), json!([entries[0], entries[2]]));
    assert!(ids.iter().all(|id| id.as_u64().unwrap() < 1 << 27) && ids[0] != ids[1]);
}

#[tokio::test]
async fn a_change_committed_after_the_reply_is_delivered_and_comes_after_the_system_message() {
    let (database, server) = start("").await;
    let mut socket = server.socket().await;
    for row in 0..20 {
        let topic = format!("realtime:{row}");
        let (status, response) = socket.join(&topic, "1", inserts()).await;
        assert_eq!(status, "ok", "{response}");
        database
            .execute(&format!("insert into todos values ({row})"))
            .await;
        socket
            .expect(json!(["1", null, topic, "system", subscribed(&row.to_string())]))
            .await;
        expect_row(&mut socket, &topic, &response["postgres_changes"][0]["id"], row).await;
        socket.send_json(json!(["1", "2", topic, "phx_leave", {}])).await;
        assert_eq!(socket.receive().await[3], "phx_reply");
        assert_eq!(socket.receive().await[3], "phx_close");
    }
}

#[tokio::test]
async fn section_2_1_changes_in_the_first_serializer() {
    let (database, server) = start("").await;
    let mut socket = server.socket_as("1.0.0", &anon()).await;
    let join = json!({"topic": "realtime:a", "event": "phx_join", "payload": inserts(), "ref": "1", "join_ref": "1"});
    socket.send_json(join).await;
    assert_eq!(socket.receive().await["payload"]["status"], "ok");
    let system = json!({"topic": "realtime:a", "event": "system", "payload": subscribed("a"), "ref": null});
    socket.expect(system).await;
    database.execute("insert into todos values (1)").await;
    let change = socket.receive().await;
    assert_eq!(
        (&change["event"], &change["ref"]),
        (&json!("postgres_changes"), &Value::Null)
    );
    assert_eq!(change["payload"]["data"]["record"]["id"], 1);
}

#[tokio::test]
async fn section_3_6_a_legacy_join_is_a_subscription() {
    let (database, server) = start("").await;
    let mut socket = server.socket().await;
    let topic = "realtime:public:todos:id=eq.2";
    let (_, response) = socket.join(topic, "1", json!({})).await;
    let entry = &response["postgres_changes"][0];
    assert_eq!(
        (&entry["schema"], &entry["table"], &entry["filter"]),
        (&json!("public"), &json!("todos"), &json!("id=eq.2"))
    );
    socket
        .expect(json!([
            "1",
            null,
            topic,
            "system",
            subscribed("public:todos:id=eq.2")
        ]))
        .await;
    database.execute("insert into todos values (1), (2)").await;
    let change = socket.receive().await;
    assert_eq!(
        (&change[0], &change[2], &change[3]),
        (&Value::Null, &json!(topic), &json!("INSERT"))
    );
    assert_eq!(
        (&change[4]["record"]["id"], change[4].get("ids")),
        (&json!(2), None)
    );
}

#[tokio::test]
async fn section_7_3_a_subscription_that_can_never_be_leaves_the_channel_joined() {
    let (_database, server) = start("").await;
    let mut socket = server.socket().await;
    let config = json!({"postgres_changes": [{"event": "*", "schema": "public", "table": "nope"}]});
    let (status, _) = socket.join("realtime:a", "1", json!({"config": config})).await;
    assert_eq!(status, "ok");
    let message = "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the \
        given connect parameters: [event: *, schema: public, table: nope, filters: [], select: nil]";
    let warning =
        "there is no table public.nope; names are taken letter by letter, upper and lower case differ";
    let system = json!({"extension": "postgres_changes", "status": "error", "message": message, "channel": "a",
        "warnings": [warning]});
    socket
        .expect(json!(["1", null, "realtime:a", "system", system]))
        .await;
    socket
        .send_json(json!(["1", "2", "realtime:a", "phx_leave", {}]))
        .await;
    assert_eq!(socket.receive().await[4]["status"], "ok");
}

#[tokio::test]
async fn section_15_1_a_join_that_waits_fails_at_once_when_it_never_can_succeed() {
    let (_database, server) = start("").await;
    let mut socket = server.socket().await;
    let mut config = json!({
        "postgres_changes": [{"event": "*", "schema": "public", "table": "nope"}],
        "postgres_changes_options": {"wait": true},
    });
    let (status, response) = socket.join("realtime:a", "1", json!({"config": config})).await;
    let reason = response["reason"].as_str().unwrap();
    let beginning = "RealtimeDisabledForConfiguration: Unable to subscribe to changes with given parameters.";
    assert!(status == "error" && reason.starts_with(beginning), "{reason}");
    assert!(reason.contains("there is no table public.nope"), "{reason}");
    config["postgres_changes"][0]["table"] = json!("todos");
    let (status, _) = socket.join("realtime:a", "2", json!({"config": config})).await;
    assert_eq!(status, "ok");
    socket
        .expect(json!(["2", null, "realtime:a", "system", subscribed("a")]))
        .await;
}

#[tokio::test]
async fn section_8_3_after_leave_no_change_comes() {
    let (database, server) = start("").await;
    let mut socket = server.socket().await;
    join_inserts(&mut socket, "realtime:left", "1").await;
    let id = join_inserts(&mut socket, "realtime:stays", "2").await;
    socket
        .send_json(json!(["1", "3", "realtime:left", "phx_leave", {}]))
        .await;
    assert_eq!(socket.receive().await[3], "phx_reply");
    assert_eq!(socket.receive().await[3], "phx_close");
    database.execute("insert into todos values (1)").await;
    database.execute("insert into todos values (2)").await;
    expect_row(&mut socket, "realtime:stays", &id, 1).await;
    expect_row(&mut socket, "realtime:stays", &id, 2).await;
}

#[tokio::test]
async fn section_8_5_after_a_rejoin_a_change_comes_once() {
    let (database, server) = start("").await;
    let mut socket = server.socket().await;
    join_inserts(&mut socket, "realtime:a", "1").await;
    let (status, response) = socket.join("realtime:a", "2", inserts()).await;
    assert_eq!(status, "ok");
    socket
        .expect(json!(["1", "1", "realtime:a", "phx_close", {}]))
        .await;
    socket
        .expect(json!(["2", null, "realtime:a", "system", subscribed("a")]))
        .await;
    let id = &response["postgres_changes"][0]["id"];
    database.execute("insert into todos values (1)").await;
    database.execute("insert into todos values (2)").await;
    expect_row(&mut socket, "realtime:a", id, 1).await;
    expect_row(&mut socket, "realtime:a", id, 2).await;
}

async fn refresh(socket: &mut Client, token: &str) {
    socket
        .send_json(json!(["1", "9", "realtime:a", "access_token", {"access_token": token}]))
        .await;
}

#[tokio::test]
async fn section_4_3_a_new_token_changes_what_a_channel_sees() {
    let (database, server) = start(POLICY).await;
    let mut socket = server.socket_as("2.0.0", &user("u1", 600)).await;
    let id = join_inserts(&mut socket, "realtime:a", "1").await;
    database
        .execute("insert into todos values (1, 'u2'), (2, 'u1')")
        .await;
    expect_row(&mut socket, "realtime:a", &id, 2).await;

    refresh(&mut socket, &user("u2", 600)).await;
    socket
        .expect(json!(["1", null, "realtime:a", "system", subscribed("a")]))
        .await;
    database
        .execute("insert into todos values (3, 'u1'), (4, 'u2')")
        .await;
    expect_row(&mut socket, "realtime:a", &id, 4).await;
}

#[tokio::test]
async fn section_4_3_of_tokens_in_quick_succession_the_last_one_counts() {
    let (database, server) = start(POLICY).await;
    let mut socket = server.socket_as("2.0.0", &user("u1", 600)).await;
    let id = join_inserts(&mut socket, "realtime:a", "1").await;
    for sub in ["u2", "u3", "u4"] {
        refresh(&mut socket, &user(sub, 600)).await;
    }
    // Each of them may be told of or not. Rows of the last one's are written until one is seen: it counts then.
    let mut rows = 0..;
    loop {
        let frame = socket.receive().await;
        if frame[4]["ids"] == json!([id]) {
            break;
        }
        assert_eq!(frame[4], subscribed("a"));
        database
            .execute(&format!(
                "insert into todos values ({}, 'u4')",
                rows.next().unwrap()
            ))
            .await;
    }
    database
        .execute("insert into todos values (101, 'u1'), (102, 'u2'), (103, 'u3'), (104, 'u4')")
        .await;
    loop {
        let frame = socket.receive().await;
        if frame[3] == "postgres_changes" {
            assert_eq!(frame[4]["data"]["record"]["owner"], "u4");
            if frame[4]["data"]["record"]["id"] == 104 {
                break;
            }
        }
    }
}

#[tokio::test]
async fn section_4_3_a_token_that_cannot_subscribe_ends_the_changes_until_one_that_can() {
    let (database, server) = start("").await;
    let mut socket = server.socket().await;
    let id = join_inserts(&mut socket, "realtime:a", "1").await;
    let claims = json!({"role": "no_such_role", "exp": crate::server::now_s() + 600});
    refresh(&mut socket, &crate::server::sign(&claims)).await;
    let system = socket.receive().await;
    assert_eq!(
        (&system[3], &system[4]["status"]),
        (&json!("system"), &json!("error"))
    );
    let message = system[4]["message"].as_str().unwrap();
    assert!(
        message.contains("role \"no_such_role\" does not exist"),
        "{message}"
    );

    // Another channel shows that the stream is past this row; a change that is still on its way when a channel
    // subscribes may reach it.
    let mut witness = server.socket().await;
    let witnessed = join_inserts(&mut witness, "realtime:b", "1").await;
    database.execute("insert into todos values (1)").await;
    expect_row(&mut witness, "realtime:b", &witnessed, 1).await;
    refresh(&mut socket, &user("u1", 600)).await;
    socket
        .expect(json!(["1", null, "realtime:a", "system", subscribed("a")]))
        .await;
    database.execute("insert into todos values (2)").await;
    expect_row(&mut socket, "realtime:a", &id, 2).await;
}

#[tokio::test]
async fn a_table_that_takes_the_place_of_another_is_heard() {
    let (database, server) = start("").await;
    let mut socket = server.socket().await;
    let id = join_inserts(&mut socket, "realtime:a", "1").await;
    database
        .execute(
            "create table newer (id int primary key); grant select on newer to anon, authenticated;
             alter publication supabase_realtime add table newer;",
        )
        .await;
    // Seen once under a name nobody waits for.
    database.execute("insert into newer values (1)").await;
    database.execute("insert into todos values (1)").await;
    expect_row(&mut socket, "realtime:a", &id, 1).await;
    database
        .execute("begin; alter table todos rename to older; alter table newer rename to todos; commit")
        .await;
    database.execute("insert into todos values (2)").await;
    expect_row(&mut socket, "realtime:a", &id, 2).await;
}

#[tokio::test]
async fn a_started_server_is_ready_and_a_stopped_one_leaves_no_slot() {
    let (database, server) = start("").await;
    let mut socket = server.socket().await;
    join_inserts(&mut socket, "realtime:a", "1").await;
    let response = server.get("/readyz").await;
    assert_eq!((response.status, &*response.body), (200, "ready"));
    let metrics = server.get("/metrics").await.body;
    for name in [
        "walcast_changes_decoded_total",
        "walcast_wal_lag_bytes",
        "walcast_replication_reconnects_total",
    ] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    let client = database.client().await;
    let slots = "select count(*) from pg_replication_slots where database = current_database()";
    let before: i64 = client.query_one(slots, &[]).await.unwrap().get(0);
    server.stop().await;
    let after: i64 = client.query_one(slots, &[]).await.unwrap().get(0);
    assert_eq!((before, after), (1, 0));
}

#[tokio::test]
async fn a_server_waits_for_its_database() {
    let database = Postgres::shared().await.database().await;
    let late = format!("{}_late", database.name());
    let url = database.url().replace(database.name(), &late);
    let server = Walcast::start_on(&url, &[("WALCAST_JOIN_TIMEOUT_MS", "20000")]).await;
    let mut socket = server.socket().await;
    socket
        .send_json(json!(["1", "1", "realtime:a", "phx_join", inserts()]))
        .await;
    socket.expect_silence().await;
    database
        .execute(&format!("create database {late} template {}", database.name()))
        .await;
    let (status, response) = socket.joined("realtime:a", "1").await;
    // It is there, and has no such table.
    assert_eq!(status, "ok", "{response}");
    server.stop().await;
    database
        .execute(&format!("drop database {late} with (force)"))
        .await;
}

#[tokio::test]
async fn migrating_twice_or_at_once_is_migrating_once() {
    let database = Postgres::shared().await.database().await;
    let url = database.url();
    let (one, other) = tokio::join!(Box::pin(migrate_at(&url)), Box::pin(migrate_at(&url)));
    one.unwrap();
    other.unwrap();
    Box::pin(migrate_at(&url)).await.unwrap();
    let client = database.client().await;
    let applied = "select count(*), count(distinct version) from walcast.migrations where success";
    let row = client.query_one(applied, &[]).await.unwrap();
    let (rows, versions): (i64, i64) = (row.get(0), row.get(1));
    assert!(rows == versions && rows > 0);
}

#[tokio::test]
async fn a_role_that_may_not_migrate_is_told_which_grant_it_lacks() {
    let database = Postgres::shared().await.database().await;
    let role = format!("{}_weak", database.name());
    database
        .execute(&format!("create role {role} login password 'weak'"))
        .await;
    let refused = Box::pin(migrate_at(&database.url_as(&role, "weak")))
        .await
        .unwrap_err();
    let sentence = refused.to_string();
    let grant = format!("grant create on database \"{}\" to \"{role}\"", database.name());
    assert!(
        matches!(refused, DatabaseNotReady::NotAllowed { .. }) && sentence.ends_with(&grant),
        "{sentence}"
    );
    database.execute(&format!("drop role {role}")).await;
}

#[tokio::test]
async fn section_3_5_a_channel_that_asks_hears_once_when_database_broadcasts_flow() {
    let (_database, server) = start("").await;
    let mut socket = server.socket().await;
    let established = |reference: &str, topic: &str| {
        json!([reference, null, format!("realtime:{topic}"), "system", {"extension": "system", "status": "ok",
            "message": "Replication connection established", "channel": topic}])
    };
    // The server is starting at the first, and streams at the second.
    for (topic, wish) in [("a", json!(true)), ("b", json!("false")), ("c", json!(false))] {
        let payload = json!({"config": {"broadcast": {"replication_ready": wish}}});
        let full = format!("realtime:{topic}");
        assert_eq!(socket.join(&full, topic, payload).await.0, "ok");
        if wish != json!(false) {
            socket.expect(established(topic, topic)).await;
        }
    }
    socket.expect_silence().await;
}
