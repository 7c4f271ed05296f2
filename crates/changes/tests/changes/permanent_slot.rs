//! A node alone with a permanent slot: a connection that breaks costs nothing but time.

use crate::scene::{Scene, all, service, table};
use walcast_changes::{Options, Status};
use walcast_replication::{Slot, StreamOptions};
use walcast_testkit::Postgres;

fn kept(name: String) -> Options {
    Options {
        stream: StreamOptions {
            slot: Slot::Permanent { name, resumes: false },
            ..StreamOptions::default()
        },
        ..Options::default()
    }
}

#[tokio::test]
async fn what_is_committed_while_the_connection_is_broken_comes_once_and_nobody_is_alarmed() {
    let database = Postgres::shared().await.database().await;
    let options = kept(format!("kept_{}", database.name().replace('-', "_")));
    let scene = Scene::on(database, &table("t", "id int primary key"), options).await;
    let mut listener = scene.listen(service(), all("t")).await;
    for round in 0..3 {
        for id in 0..20 {
            scene
                .run(&format!("insert into t values ({})", round * 20 + id))
                .await;
            if id == 10 {
                scene
                    .run(
                        "select pg_terminate_backend(active_pid) from pg_replication_slots
                         where database = current_database()",
                    )
                    .await;
            }
        }
    }
    // A message that something may be missing would be among these.
    for id in 0..60 {
        assert_eq!(listener.id().await, id);
    }
    // Others may still wait while it is away, and are served when it is back.
    let mut late = scene.listen(service(), all("t")).await;
    assert_eq!(*scene.changes.status().borrow(), Status::Streaming);
    scene.run("insert into t values (60)").await;
    assert_eq!(listener.id().await, 60);
    assert_eq!(late.id().await, 60);
    scene.end().await;
    scene
        .run(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots
             where database = current_database()",
        )
        .await;
}

#[tokio::test]
async fn a_restart_of_postgres_costs_nothing_but_time() {
    let postgres = Postgres::start(Postgres::options()).await;
    let setup = table("t", "id int primary key");
    let scene = Scene::on(postgres.database().await, &setup, kept("kept".to_owned())).await;
    let mut listener = scene.listen(service(), all("t")).await;
    for id in [1, 3] {
        scene.run(&format!("insert into t values ({id})")).await;
        if id == 1 {
            postgres.stop().await;
        } else {
            postgres.kill().await;
        }
        postgres.restart().await;
        scene.run(&format!("insert into t values ({})", id + 1)).await;
        // A message that something may be missing would be among these.
        assert_eq!(listener.id().await, id);
        assert_eq!(listener.id().await, id + 1);
    }
}
