//! The connection breaks, or the stream is ended: what the consumer hears, and that no slot is left.

use crate::server::{Database, database};
use crate::watched::{Everything, Watched, eager, soon};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;
use walcast_replication::{Config, StreamError, StreamOptions, spawn};
use walcast_testkit::Postgres;

const SLOTS: &str = "select count(*) from pg_replication_slots where database = current_database()";
const PUBLISH_T: &str =
    "create table t (id int primary key); create publication supabase_realtime for table t";

async fn terminate(database: &Database) {
    let ended = database
        .number(
            "select count(pg_terminate_backend(active_pid)) from pg_replication_slots
             where database = current_database()",
        )
        .await;
    assert_eq!(ended, 1);
}

#[tokio::test]
async fn a_terminated_walsender_is_told_and_replaced_with_one_slot() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let mut watched = Watched::start(&database.url()).await;
    for round in 1..=3 {
        terminate(&database).await;
        let reason = watched.lost().await;
        assert!(
            matches!(&*reason, StreamError::Postgres { code, .. } if code == "57P01"),
            "{reason}"
        );
        watched.streaming_at_last().await;
        database.run(&format!("insert into t values ({round})")).await;
        assert_eq!(watched.rows(1).await, [format!("INSERT t ({round})")]);
        assert!(matches!(
            watched.next().await,
            Some(walcast_replication::Event::Commit { .. })
        ));
        assert_eq!(watched.stats().reconnects.load(Ordering::Relaxed), round);
        database
            .until("(select count(*) from pg_replication_slots where database = current_database()) = 1")
            .await;
    }
}

#[tokio::test]
async fn versions_of_relations_grow_over_a_loss() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let mut watched = Watched::start(&database.url()).await;
    database.run("insert into t values (1)").await;
    let before = watched.change().await.relation.version;
    watched.next().await;
    terminate(&database).await;
    watched.lost().await;
    watched.streaming_at_last().await;
    database.run("insert into t values (2)").await;
    assert!(watched.change().await.relation.version > before);
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let server = Postgres::start(Postgres::options()).await;
    let database = Database::of(&server).await;
    database.run(PUBLISH_T).await;
    let mut watched = Watched::start(&database.url()).await;
    // A shutdown waits until its walsenders are told that everything was received.
    server.stop().await;
    while !matches!(&*watched.lost().await, StreamError::Connect { .. }) {}
    server.restart().await;
    watched.streaming_at_last().await;
    server.kill().await;
    watched.lost().await;
    server.restart().await;
    watched.streaming_at_last().await;
    let client = database.session().await;
    client.batch_execute("insert into t values (1)").await.unwrap();
    assert_eq!(watched.rows(1).await, ["INSERT t (1)"]);
}

#[tokio::test]
async fn the_end_of_a_cancelled_stream_means_that_its_slot_is_gone() {
    let database = database().await;
    let watched = Watched::start(&database.url()).await;
    assert_eq!(database.number(SLOTS).await, 1);
    watched.cancel().await;
    assert_eq!(database.number(SLOTS).await, 0);
}

#[tokio::test]
async fn a_stream_ends_when_its_consumer_is_gone() {
    let database = database().await;
    let watched = Watched::start(&database.url()).await;
    assert_eq!(database.number(SLOTS).await, 1);
    drop(watched);
    database
        .until("not exists (select from pg_replication_slots where database = current_database())")
        .await;

    let mut stream = spawn(
        Config::from_url(&database.url()).unwrap(),
        eager(),
        Arc::new(Everything),
        CancellationToken::new(),
    );
    soon("the stream", stream.next()).await.unwrap();
    drop(stream);
    database
        .until("not exists (select from pg_replication_slots where database = current_database())")
        .await;
}

#[tokio::test]
async fn a_stream_that_is_cancelled_while_its_slot_is_made_leaves_nothing_behind() {
    // Of its own: no test beside it could make a slot while the transaction is open.
    let server = Postgres::start(Postgres::options()).await;
    let database = Database::of(&server).await;
    let open = database.session().await;
    open.batch_execute("begin; create table t (id int)")
        .await
        .unwrap();
    let watched = Watched::spawn(Config::from_url(&database.url()).unwrap(), eager(), Everything);
    database.until("exists (select from pg_stat_activity where backend_type = 'walsender' and wait_event = 'transactionid')").await;
    watched.cancel().await;
    database
        .until("not exists (select from pg_stat_activity where backend_type = 'walsender')")
        .await;
    assert_eq!(database.number(SLOTS).await, 0);
    open.batch_execute("rollback").await.unwrap();
}

#[tokio::test]
async fn cancelling_ends_the_wait_of_a_full_queue_and_of_a_pause() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let options = StreamOptions {
        queue_changes: 1,
        ..eager()
    };
    let watched = Watched::start_with(&database.url(), options, Everything).await;
    database
        .run("insert into t select generate_series(1, 1000)")
        .await;
    watched.cancel().await;
    assert_eq!(database.number(SLOTS).await, 0);

    let options = StreamOptions {
        backoff_min_ms: 3_600_000,
        backoff_max_ms: 3_600_000,
        ..eager()
    };
    let nowhere = Config::from_url("postgres://u@%2Fnonexistent/d").unwrap();
    let mut watched = Watched::spawn(nowhere, options, Everything);
    watched.lost().await;
    watched.cancel().await;
}

#[tokio::test]
async fn pauses_between_attempts_grow_to_their_limit() {
    let nowhere = Config::from_url("postgres://u@%2Fnonexistent/d").unwrap();
    let options = StreamOptions {
        backoff_min_ms: 4,
        backoff_max_ms: 20,
        ..StreamOptions::default()
    };
    let mut watched = Watched::spawn(nowhere, options, Everything);
    for longest_ms in [4, 8, 16, 20, 20, 20] {
        match watched.next().await {
            Some(walcast_replication::Event::Lost { retry_in_ms, .. }) => {
                assert!(
                    (longest_ms / 2..=longest_ms).contains(&retry_in_ms),
                    "{retry_in_ms} of {longest_ms}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
