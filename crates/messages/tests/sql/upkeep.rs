//! The task that keeps the partitions (`database.md 6`).

use crate::scene::{Session, migrate, migrated};
use sqlx::postgres::PgConnectOptions;
use std::str::FromStr;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use walcast_messages::{Upkeep, UpkeepOptions};
use walcast_testkit::{Database, Postgres};

const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough never to pass.
const NEVER_MS: u64 = 3_600_000;

fn start(database: &Database, options: UpkeepOptions) -> (Upkeep, CancellationToken) {
    let cancel = CancellationToken::new();
    let connect = PgConnectOptions::from_str(&database.url()).unwrap();
    (Upkeep::start(connect, options, cancel.clone()), cancel)
}

const PARTITIONS: &str =
    "select count(*) from pg_inherits where inhparent = to_regclass('realtime.messages')";

#[tokio::test]
async fn it_runs_at_start_and_when_asked_and_ends_with_the_server() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    let options = UpkeepOptions {
        interval_ms: NEVER_MS,
        ..UpkeepOptions::default()
    };
    let (upkeep, cancel) = start(&database, options);
    timeout(PATIENCE, upkeep.first_run()).await.unwrap();
    assert_eq!(session.value(PARTITIONS).await.as_deref(), Some("5"));
    session
        .run("drop table realtime.messages cascade; drop schema walcast cascade")
        .await
        .unwrap();
    migrate(&database.url()).await;
    let mut runs = upkeep.runs();
    upkeep.run_soon();
    timeout(PATIENCE, runs.wait_for(|runs| *runs == 2))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(session.value(PARTITIONS).await.as_deref(), Some("5"));
    cancel.cancel();
    let ended = timeout(PATIENCE, runs.wait_for(|runs| *runs == 3)).await.unwrap();
    assert!(ended.is_err(), "the task is gone");
}

#[tokio::test]
async fn a_failed_run_is_repeated_soon() {
    let database = Postgres::shared().await.database().await;
    let options = UpkeepOptions {
        interval_ms: NEVER_MS,
        retry_ms: 10,
        ..UpkeepOptions::default()
    };
    let (upkeep, cancel) = start(&database, options);
    timeout(PATIENCE, upkeep.first_run()).await.unwrap();
    migrate(&database.url()).await;
    database
        .until("select count(*) = 5 from pg_inherits where inhparent = to_regclass('realtime.messages')")
        .await;
    cancel.cancel();
}

#[tokio::test]
async fn it_runs_again_after_the_interval_with_no_connection_open_in_between() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    let options = UpkeepOptions {
        interval_ms: 50,
        ..UpkeepOptions::default()
    };
    let (upkeep, cancel) = start(&database, options);
    timeout(PATIENCE, upkeep.first_run()).await.unwrap();
    session
        .run(
            "do $$declare partition regclass; begin
               for partition in select inhrelid::regclass from pg_inherits where inhparent = 'realtime.messages'::regclass
               loop execute 'drop table ' || partition; end loop;
             end$$",
        )
        .await
        .unwrap();
    database
        .until("select count(*) = 5 from pg_inherits where inhparent = 'realtime.messages'::regclass")
        .await;
    cancel.cancel();
    database
        .until("select not exists (select from pg_stat_activity where application_name = 'walcast_upkeep' and datname = current_database())")
        .await;
}

#[tokio::test]
async fn it_survives_a_restart_of_postgres() {
    let server = Postgres::start(Postgres::options()).await;
    let database = server.database().await;
    migrate(&database.url()).await;
    server.kill().await;
    let options = UpkeepOptions {
        interval_ms: NEVER_MS,
        retry_ms: 50,
        ..UpkeepOptions::default()
    };
    let (upkeep, cancel) = start(&database, options);
    timeout(PATIENCE, upkeep.first_run()).await.unwrap();
    server.restart().await;
    database
        .until("select count(*) = 5 from pg_inherits where inhparent = 'realtime.messages'::regclass")
        .await;
    cancel.cancel();
}
