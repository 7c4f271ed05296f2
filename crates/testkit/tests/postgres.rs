//! What tests may rely on: a database of their own, on a cluster that is shared or theirs.

#![allow(
    clippy::unwrap_used,
    reason = "tests state facts; clippy only knows that of the functions marked so"
)]

use tokio_postgres::error::SqlState;
use walcast_testkit::{Postgres, until};

#[tokio::test]
async fn databases_of_one_cluster_know_nothing_of_each_other() {
    let postgres = Postgres::shared().await;
    let (one, other) = tokio::join!(postgres.database(), postgres.database());
    assert_ne!(one.name(), other.name());
    one.execute("create table t ()").await;
    other.execute("create table t ()").await;
}

#[test]
fn the_shared_cluster_outlives_the_runtime_that_started_it() {
    let use_it = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let postgres = Postgres::shared().await;
            postgres.database().await.execute("select 1").await;
            postgres.port()
        })
    };
    assert_eq!(use_it(), use_it());
}

#[tokio::test]
async fn a_database_is_dropped_with_its_value_though_sessions_and_slots_are_in_it() {
    let postgres = Postgres::start(Postgres::options()).await;
    let database = postgres.database().await;
    let slot = "select pg_create_logical_replication_slot('of_the_dropped', 'pgoutput')";
    let _session = database.client().await;
    let holder = database.client().await;
    holder
        .batch_execute("select pg_create_logical_replication_slot('held', 'pgoutput', true)")
        .await
        .unwrap();
    database.execute(slot).await;
    let name = database.name().to_owned();
    drop(database);

    let other = postgres.database().await;
    let witness = other.client().await;
    until("the drop", || async {
        let query = "select exists (select from pg_database where datname = $1)";
        let there: bool = witness.query_one(query, &[&name]).await.unwrap().get(0);
        (!there).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cluster_of_ones_own_can_be_stopped_killed_and_restarted() {
    let postgres = Postgres::start(Postgres::options()).await;
    let database = postgres.database().await;
    database.execute("create table kept ()").await;
    postgres.stop().await;
    assert!(
        tokio_postgres::connect(&database.url(), tokio_postgres::NoTls)
            .await
            .is_err()
    );
    postgres.restart().await;
    database.execute("table kept").await;
    postgres.kill().await;
    postgres.restart().await;
    database.execute("table kept").await;
    postgres.database().await.execute("select 1").await;
}

#[tokio::test]
async fn a_role_is_reached_by_its_own_url_whatever_its_password() {
    let mut options = Postgres::options();
    options.hba.push("host all odd all scram-sha-256".to_owned());
    let postgres = Postgres::start(options).await;
    let database = postgres.database().await;
    database
        .execute("create role odd login password 'p@s/s:w?#%'")
        .await;
    database
        .client_as("odd", "p@s/s:w?#%")
        .await
        .batch_execute("select 1")
        .await
        .unwrap();
    let refused = tokio_postgres::connect(&database.url_as("odd", "p"), tokio_postgres::NoTls)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
}

#[tokio::test]
async fn until_waits_for_the_answer() {
    let mut asked = 0;
    let answer = until("the third time", || {
        asked += 1;
        std::future::ready((asked == 3).then_some("there"))
    })
    .await;
    assert_eq!((answer, asked), ("there", 3));
}
