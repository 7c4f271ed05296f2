//! A channel that comes back is told what it missed.

use crate::scene::{ALICE, BOB, Listener, OWNS, Scene, all, publish, role, service, table, user};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use walcast_changes::{Options, WindowLimits};

fn since(table: &str, since: &Value) -> Value {
    json!([{ "event": "*", "schema": "public", "table": table, "since": since }])
}

/// The next message, which was missed.
async fn missed(listener: &mut Listener) -> Value {
    let payload = listener.payload().await;
    assert_eq!(payload["replayed"], true, "{payload}");
    payload["data"].clone()
}

async fn missed_id(listener: &mut Listener) -> i64 {
    missed(listener).await["record"]["id"].as_i64().unwrap()
}

/// The next message, which is of now.
async fn live_id(listener: &mut Listener) -> i64 {
    let payload = listener.payload().await;
    assert_eq!(payload.get("replayed"), None, "{payload}");
    payload["data"]["record"]["id"].as_i64().unwrap()
}

async fn told_of_a_gap(listener: &mut Listener) {
    let (status, text) = listener.system().await;
    assert_eq!(status, "error");
    assert!(text.contains("do not reach back"), "{text}");
}

/// A listener of `t` that heard the row 1, and what it was told then.
async fn heard_one(scene: &Scene) -> (Listener, Value) {
    let mut first = scene.listen(service(), all("t")).await;
    scene.run("insert into t values (1)").await;
    let heard = first.payload().await;
    (first, heard)
}

/// Waits until so many changes were heard: whoever joins from now on has missed them.
async fn hears(listener: &mut Listener, changes: usize) {
    for _ in 0..changes {
        listener.payload().await;
    }
}

#[tokio::test]
async fn every_change_carries_its_position_and_positions_grow() {
    let scene = Scene::new(&table("t", "id int primary key")).await;
    let mut listener = scene.listen(service(), all("t")).await;
    scene.run("insert into t values (1), (2)").await;
    scene.run("insert into t values (3)").await;
    let mut positions = Vec::new();
    for _ in 0..3 {
        let payload = listener.payload().await;
        let position: walcast_changes::Position = payload["position"].as_str().unwrap().parse().unwrap();
        positions.push(position);
    }
    assert!(positions.is_sorted());
    assert_eq!(positions[0].commit, positions[1].commit);
    assert_ne!(positions[1].commit, positions[2].commit);
}

#[tokio::test]
async fn from_a_position_it_is_told_what_came_after_it_and_then_what_comes() {
    let scene = Scene::new(&table("t", "id int primary key")).await;
    let (mut first, heard) = heard_one(&scene).await;
    scene
        .run("insert into t values (2), (3); delete from t where id = 2; insert into t values (4)")
        .await;
    hears(&mut first, 4).await;
    let mut back = scene.listen(service(), since("t", &heard["position"])).await;
    scene.run("insert into t values (5)").await;
    assert_eq!([missed_id(&mut back).await, missed_id(&mut back).await], [2, 3]);
    assert_eq!(missed(&mut back).await["old_record"], json!({ "id": 2 }));
    assert_eq!(missed_id(&mut back).await, 4);
    assert_eq!(live_id(&mut back).await, 5);
}

#[tokio::test]
async fn from_a_commit_timestamp_it_is_told_that_change_again() {
    let scene = Scene::new(&table("t", "id int primary key")).await;
    let mut before = scene.listen(service(), all("t")).await;
    scene.run("insert into t values (0)").await;
    before.payload().await;
    // Of another millisecond.
    scene.run("select pg_sleep(0.002)").await;
    let (mut first, heard) = heard_one(&scene).await;
    scene.run("insert into t values (2)").await;
    hears(&mut first, 1).await;
    let at = &heard["data"]["commit_timestamp"];
    let mut back = scene.listen(service(), since("t", at)).await;
    assert_eq!([missed_id(&mut back).await, missed_id(&mut back).await], [1, 2]);
    scene.run("insert into t values (3)").await;
    assert_eq!(live_id(&mut back).await, 3);
}

#[tokio::test]
async fn who_asks_for_more_than_is_kept_is_told_so() {
    let scene = Scene::new(&table("t", "id int primary key")).await;
    let (_first, _) = heard_one(&scene).await;
    // Before it is told what is kept: a connection that breaks in between must not leave it with a later place alone.
    let mut by_time = scene
        .listen(service(), since("t", &json!("2020-01-01T00:00:00Z")))
        .await;
    told_of_a_gap(&mut by_time).await;
    assert_eq!(missed_id(&mut by_time).await, 1);
    let mut by_position = scene.listen(service(), since("t", &json!("0/1:0"))).await;
    told_of_a_gap(&mut by_position).await;
    assert_eq!(missed_id(&mut by_position).await, 1);
    scene.run("insert into t values (2)").await;
    assert_eq!(live_id(&mut by_time).await, 2);
    assert_eq!(live_id(&mut by_position).await, 2);
}

#[tokio::test]
async fn a_table_nobody_listened_to_is_not_kept() {
    let scene = Scene::new(&format!(
        "{} {}",
        table("t", "id int primary key"),
        table("other", "id int primary key")
    ))
    .await;
    let (_first, heard) = heard_one(&scene).await;
    scene.run("insert into other values (1)").await;
    let mut back = scene.listen(service(), since("other", &heard["position"])).await;
    told_of_a_gap(&mut back).await;
}

#[tokio::test]
async fn memory_for_what_is_kept_is_bounded() {
    let options = Options {
        window: WindowLimits {
            bytes: 20_000,
            ..WindowLimits::default()
        },
        ..Options::default()
    };
    let scene = Scene::with(&table("t", "id int primary key, body text"), options).await;
    let mut first = scene.listen(service(), all("t")).await;
    scene
        .run("insert into t select n, repeat('x', 1000) from generate_series(1, 100) n")
        .await;
    let heard = first.payload().await;
    for id in 2..=100 {
        assert_eq!(first.id().await, id);
    }
    let mut back = scene.listen(service(), since("t", &heard["position"])).await;
    told_of_a_gap(&mut back).await;
    let mut told = Vec::new();
    while told.last() != Some(&100) {
        told.push(missed_id(&mut back).await);
    }
    assert!(told.len() > 5 && told.len() < 20, "{told:?}");
    assert!(told.is_sorted(), "{told:?}");
}

#[tokio::test]
async fn nothing_is_kept_where_that_is_configured() {
    let options = Options {
        window: WindowLimits {
            age: Duration::ZERO,
            ..WindowLimits::default()
        },
        ..Options::default()
    };
    let scene = Scene::with(&table("t", "id int primary key"), options).await;
    let (_first, heard) = heard_one(&scene).await;
    let mut back = scene.listen(service(), since("t", &heard["position"])).await;
    told_of_a_gap(&mut back).await;
}

#[tokio::test]
async fn a_policy_that_is_understood_judges_each_version_that_was_missed() {
    let setup = format!(
        "{} alter table t enable row level security; create policy p on t using (owner = auth.uid());",
        table("t", "id int primary key, owner uuid")
    );
    let scene = Scene::new(&setup).await;
    let mut first = scene.listen(service(), all("t")).await;
    scene.run(&format!("insert into t values (0, '{ALICE}')")).await;
    let heard = first.payload().await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}'); insert into t values (2, '{BOB}');
             update t set owner = '{BOB}' where id = 1; update t set owner = '{ALICE}' where id = 2;
             delete from t where id = 1; insert into t values (3, '{ALICE}')"
        ))
        .await;
    hears(&mut first, 6).await;
    let mut back = scene.listen(user(ALICE), since("t", &heard["position"])).await;
    let mut told = Vec::new();
    for _ in 0..4 {
        let change = missed(&mut back).await;
        told.push((
            change["type"].as_str().unwrap().to_owned(),
            change["record"]["id"].clone(),
        ));
    }
    let kind = |kind: &str| kind.to_owned();
    assert_eq!(
        told,
        [
            (kind("INSERT"), json!(1)),
            (kind("UPDATE"), json!(2)),
            (kind("DELETE"), Value::Null),
            (kind("INSERT"), json!(3)),
        ]
    );
}

#[tokio::test]
async fn a_policy_only_postgres_understands_judges_no_version_that_is_gone() {
    let setup = format!(
        "{OWNS} {} alter table t enable row level security; create policy p on t using (owns(owner));",
        table("t", "id int primary key, owner uuid, body text")
    );
    let scene = Scene::new(&setup).await;
    let mut first = scene.listen(service(), all("t")).await;
    scene.run(&format!("insert into t values (0, '{ALICE}')")).await;
    let heard = first.payload().await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', 'kept'), (2, '{BOB}', 'of another'), (3, '{BOB}', 'before');
             update t set owner = '{ALICE}', body = 'after' where id = 3;
             insert into t values (4, '{ALICE}', 'gone'); delete from t where id = 4"
        ))
        .await;
    hears(&mut first, 6).await;
    let mut back = scene.listen(user(ALICE), since("t", &heard["position"])).await;
    assert_eq!(missed(&mut back).await["record"]["body"], "kept");
    assert_eq!(missed(&mut back).await["record"]["body"], "after");
    assert_eq!(missed(&mut back).await["type"], "DELETE");
    scene
        .run(&format!("insert into t values (5, '{ALICE}', 'live')"))
        .await;
    assert_eq!(live_id(&mut back).await, 5);
}

#[tokio::test]
async fn rights_are_those_of_now_and_of_who_asks() {
    let setup = format!(
        "{} revoke all on t from anon; grant select (id) on t to anon;",
        table("t", "id int primary key, secret text")
    );
    let scene = Scene::new(&setup).await;
    let mut first = scene.listen(service(), all("t")).await;
    scene.run("insert into t values (0, 'x')").await;
    let heard = first.payload().await;
    scene.run("insert into t values (1, 'secret')").await;
    hears(&mut first, 1).await;
    let mut back = scene
        .listen(role("anon", "nobody"), since("t", &heard["position"]))
        .await;
    assert_eq!(missed(&mut back).await["record"], json!({ "id": 1 }));
}

#[tokio::test]
async fn what_was_missed_of_several_tables_comes_in_commit_order() {
    let scene = Scene::new(&format!(
        "{} {} {OWNS} alter table b enable row level security; create policy p on b using (owns(owner));",
        table("a", "id int primary key"),
        table("b", "id int primary key, owner uuid")
    ))
    .await;
    let mut first = scene
        .listen(
            service(),
            json!([{ "event": "*", "schema": "public", "table": "*" }]),
        )
        .await;
    scene.run("insert into a values (0)").await;
    let heard = first.payload().await;
    scene
        .run(&format!(
            "insert into b values (1, '{ALICE}'); insert into a values (2); insert into b values (3, '{ALICE}');
             insert into b values (4, '{ALICE}'); insert into a values (5)"
        ))
        .await;
    hears(&mut first, 5).await;
    let mut back = scene
        .listen(
            user(ALICE),
            json!([
                { "event": "INSERT", "schema": "public", "table": "*", "since": heard["position"] },
            ]),
        )
        .await;
    for id in 1..=5 {
        assert_eq!(missed_id(&mut back).await, id);
    }
}

#[tokio::test]
async fn filters_and_bindings_hold_for_what_was_missed() {
    let scene = Scene::new(&table("t", "id int primary key, body text")).await;
    let mut first = scene.listen(service(), all("t")).await;
    scene.run("insert into t values (0, 'zero')").await;
    let heard = first.payload().await;
    scene
        .run("insert into t values (1, 'one'), (2, 'two'), (3, 'three')")
        .await;
    hears(&mut first, 3).await;
    let mut back = scene
        .listen(
            service(),
            json!([
                { "event": "*", "schema": "public", "table": "t", "filter": "id=gt.1", "since": heard["position"] },
                { "event": "*", "schema": "public", "table": "t", "filter": "body=match.^t.o$", "since": heard["position"] },
                { "event": "*", "schema": "public", "table": "t" },
            ]),
        )
        .await;
    let payload = back.payload().await;
    assert_eq!(payload["ids"], json!([back.ids[1], back.ids[0]]));
    assert_eq!(payload["data"]["record"]["id"], 2);
    let payload = back.payload().await;
    assert_eq!(payload["ids"], json!([back.ids[0]]));
    assert_eq!(payload["data"]["record"]["id"], 3);
    scene.run("insert into t values (4, 'four')").await;
    let payload = back.payload().await;
    assert_eq!(payload["ids"], json!([back.ids[2], back.ids[0]]));
    assert_eq!(payload.get("replayed"), None);
}

#[tokio::test]
async fn what_is_committed_meanwhile_comes_once_and_in_order() {
    let scene = Scene::new(&table("t", "id int primary key")).await;
    let (_first, heard) = heard_one(&scene).await;
    let writing = async {
        for id in 2..=200 {
            scene.run(&format!("insert into t values ({id})")).await;
        }
    };
    let reading = async {
        for _ in 0..5 {
            let mut back = scene.listen(service(), since("t", &heard["position"])).await;
            for id in 2..=200 {
                assert_eq!(back.id().await, id);
            }
        }
    };
    tokio::join!(writing, reading);
}

#[tokio::test]
async fn what_was_lost_with_the_stream_is_not_taken_for_known() {
    let scene = Scene::new(&table("t", "id int primary key")).await;
    let (_first, heard) = heard_one(&scene).await;
    let mut listener = scene.listen(service(), all("t")).await;
    scene
        .run("select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()")
        .await;
    assert_eq!(listener.system().await.0, "error");
    assert_eq!(listener.system().await.0, "ok");
    let mut back = scene.listen(service(), since("t", &heard["position"])).await;
    told_of_a_gap(&mut back).await;
    scene.run("insert into t values (2)").await;
    let heard = listener.payload().await;
    scene.run("insert into t values (3)").await;
    hears(&mut listener, 1).await;
    let mut back = scene.listen(service(), since("t", &heard["position"])).await;
    assert_eq!(missed_id(&mut back).await, 3);
}

/// A process that stands still as long as this lives.
struct Halted(i32);

impl Halted {
    fn new(pid: i32) -> Self {
        signal(pid, "-STOP");
        Self(pid)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        signal(self.0, "-CONT");
    }
}

fn signal(pid: i32, signal: &str) {
    let done = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(done.is_ok_and(|status| status.success()), "no process {pid}");
}

#[tokio::test]
async fn what_it_heard_elsewhere_is_not_told_again_by_a_server_that_is_behind() {
    const SENDERS: &str = "select active_pid from pg_replication_slots where database = current_database()";
    let scene = Scene::new(&table("t", "id int primary key")).await;
    let (mut first, _) = heard_one(&scene).await;
    let postgres = scene.database.client().await;
    let ours: i32 = postgres.query_one(SENDERS, &[]).await.unwrap().get(0);
    let behind = scene.another().await;
    behind.listen(service(), all("t")).await;
    let senders = postgres.query(SENDERS, &[]).await.unwrap();
    let theirs = senders.iter().map(|row| row.get(0)).find(|pid| *pid != ours);
    let halted = Halted::new(theirs.unwrap());
    scene.run("insert into t values (2)").await;
    let heard = first.payload().await;
    let mut back = behind.listen(service(), since("t", &heard["position"])).await;
    drop(halted);
    scene.run("insert into t values (3)").await;
    assert_eq!(live_id(&mut back).await, 3);
    // A database that was made anew has its log from the beginning, which must not be taken for the past.
    let mut of_another_log = scene.listen(service(), since("t", &json!("FFFF/0:0"))).await;
    scene.run("insert into t values (4)").await;
    assert_eq!(live_id(&mut of_another_log).await, 4);
}

#[tokio::test]
async fn who_joins_while_the_stream_is_lost_is_told_what_that_lost() {
    let scene = Scene::new(&table("t", "id int primary key")).await;
    let (_first, heard) = heard_one(&scene).await;
    let mut witness = scene.listen(service(), all("t")).await;
    // The join waits for the catalog, of which nobody has asked this yet, and so does the next stream.
    let mut blocker = scene.database.client().await;
    let lock = blocker.transaction().await.unwrap();
    lock.batch_execute("lock table pg_publication_rel in access exclusive mode")
        .await
        .unwrap();
    let coming_back = scene.listen(service(), since("*", &heard["position"]));
    let losing = async {
        scene
            .database
            .until("select exists (select from pg_locks where relation = 'pg_publication_rel'::regclass and not granted)")
            .await;
        scene
            .run("select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()")
            .await;
        assert_eq!(witness.system().await.0, "error");
        scene.run("insert into t values (2)").await;
        lock.rollback().await.unwrap();
    };
    let (mut back, ()) = tokio::join!(coming_back, losing);
    told_of_a_gap(&mut back).await;
    scene.run("insert into t values (3)").await;
    assert_eq!(live_id(&mut back).await, 3);
}

#[tokio::test]
async fn a_table_that_is_published_anew_is_known_from_then_on() {
    let scene = Scene::new(&table("t", "id int primary key")).await;
    let (_first, heard) = heard_one(&scene).await;
    let mut waiting = scene
        .listen(
            service(),
            json!([{ "event": "*", "schema": "public", "table": "*" }]),
        )
        .await;
    scene
        .run(&format!(
            "create table u (id int primary key); {} insert into u values (1)",
            publish("u")
        ))
        .await;
    assert_eq!(waiting.id().await, 1);
    let mut back = scene.listen(service(), since("u", &heard["position"])).await;
    let message = back.message().await;
    // The first change is what made the table known; whether it is kept, nobody may take for certain.
    let told = if message[3] == "system" {
        message
    } else {
        back.message().await
    };
    assert_eq!(told[3], "system", "{told}");
}

#[tokio::test]
async fn a_since_that_is_neither_position_nor_time_is_refused() {
    let scene = Scene::new(&table("t", "id int primary key")).await;
    for value in [json!("yesterday"), json!(true), json!({ "position": 1 })] {
        let refusal = scene.refusal(service(), since("t", &value)).await;
        assert!(refusal.contains("Error parsing `since` params"), "{refusal}");
    }
}
