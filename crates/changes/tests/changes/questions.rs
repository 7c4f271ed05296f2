//! Questions about rows that take their time: several under way, and nobody waits who does not ask (`design.md 3`,
//! promise 2; `design.md 4`).

use crate::scene::{ALICE, DEADLINE, Scene, all, service, table, user};
use sqlx::{Connection, PgConnection};
use std::time::Instant;
use walcast_changes::Options;

/// A row is visible once nobody holds the advisory lock of its number.
const HELD: &str = "create function held(id int) returns boolean language plpgsql volatile as
    'begin perform pg_advisory_xact_lock_shared(id); return true; end';";

fn guarded(name: &str) -> String {
    format!(
        "{} alter table {name} enable row level security; create policy p on {name} using (held(id));",
        table(name, "id int primary key")
    )
}

async fn hold(scene: &Scene, id: i32) -> PgConnection {
    let mut holder = PgConnection::connect(&scene.database.url()).await.unwrap();
    sqlx::query("select pg_advisory_lock($1)")
        .bind(i64::from(id))
        .execute(&mut holder)
        .await
        .unwrap();
    holder
}

async fn wait_for_waiters(scene: &Scene, wanted: i64) {
    let mut observer = PgConnection::connect(&scene.database.url()).await.unwrap();
    let started = Instant::now();
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted
               and database = (select oid from pg_database where datname = current_database())",
        )
        .fetch_one(&mut observer)
        .await
        .unwrap();
        if waiting == wanted {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "{waiting} wait, not {wanted}");
    }
}

fn patient(connections: u32) -> Options {
    Options {
        visibility_connections: connections,
        visibility_timeout_ms: 20_000,
        ..Options::default()
    }
}

#[tokio::test]
async fn two_questions_of_a_table_are_under_way_and_order_is_kept() {
    let scene = Scene::with(&format!("{HELD} {}", guarded("t")), patient(2)).await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let first = hold(&scene, 1).await;
    let second = hold(&scene, 2).await;
    scene.run("insert into t values (1)").await;
    wait_for_waiters(&scene, 1).await;
    scene.run("insert into t values (2)").await;
    wait_for_waiters(&scene, 2).await;
    scene.run("insert into t values (3)").await;
    // The second answer is there before the first.
    second.close().await.unwrap();
    wait_for_waiters(&scene, 1).await;
    assert!(alice.frames.try_recv().is_err());
    first.close().await.unwrap();
    assert_eq!([alice.id().await, alice.id().await, alice.id().await], [1, 2, 3]);
}

#[tokio::test]
async fn a_table_whose_policy_takes_its_time_delays_no_other() {
    let setup = format!("{HELD} {} {}", guarded("slow"), guarded("quick"));
    let scene = Scene::with(&setup, patient(3)).await;
    let mut slow = scene.listen(user(ALICE), all("slow")).await;
    let mut quick = scene.listen(user(ALICE), all("quick")).await;
    let holder = hold(&scene, 1).await;
    scene.run("insert into slow values (1)").await;
    wait_for_waiters(&scene, 1).await;
    // Its second question has a connection, too.
    scene.run("insert into slow values (4)").await;
    scene.run("insert into quick values (2), (3)").await;
    assert_eq!([quick.id().await, quick.id().await], [2, 3]);
    assert!(slow.frames.try_recv().is_err());
    holder.close().await.unwrap();
    assert_eq!([slow.id().await, slow.id().await], [1, 4]);
}

#[tokio::test]
async fn rows_that_need_no_question_wait_for_earlier_ones_that_do() {
    let setup = format!("{HELD} {}", guarded("t"));
    let scene = Scene::with(&setup, patient(2)).await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let mut exempt = scene.listen(service(), all("t")).await;
    let holder = hold(&scene, 1).await;
    scene.run("insert into t values (1)").await;
    wait_for_waiters(&scene, 1).await;
    scene.run("delete from t where id = 1").await;
    holder.close().await.unwrap();
    assert_eq!(alice.change().await["type"], "INSERT");
    assert_eq!(alice.change().await["type"], "DELETE");
    assert_eq!(exempt.change().await["type"], "INSERT");
    assert_eq!(exempt.change().await["type"], "DELETE");
}
