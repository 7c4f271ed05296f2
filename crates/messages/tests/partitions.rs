//! The partitions of `realtime.messages` (`database.md 6`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states facts; a broken fact may stop it"
)]

use sqlx::PgPool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use walcast_messages::{keep_partitions, upkeep};
use walcast_testkit::{Database, Postgres};

async fn database() -> (Database, PgPool) {
    let database = Postgres::shared().await.database().await;
    let pool = PgPool::connect(&database.url()).await.unwrap();
    sqlx::migrate!("../../migrations").run(&pool).await.unwrap();
    (database, pool)
}

/// Days from today, by the clock of Postgres, that have a partition.
async fn days(pool: &PgPool) -> Vec<i32> {
    sqlx::query_scalar(
        "select to_date(substr(c.relname, 10), 'YYYY_MM_DD') - (now() at time zone 'utc')::date as day
         from pg_inherits join pg_class c on c.oid = inhrelid
         where inhparent = 'realtime.messages'::regclass and c.relname ~ '^messages_[0-9_]{10}$' order by day",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

/// Makes the partition of a day by hand.
fn partition(day: i32) -> String {
    format!(
        "do $$ declare day date := (now() at time zone 'utc')::date + {day}; begin
           execute format('create table realtime.messages_%s partition of realtime.messages for values from (%L) to (%L)',
             to_char(day, 'YYYY_MM_DD'), day, day + 1); end $$;"
    )
}

#[tokio::test]
async fn days_from_yesterday_to_three_ahead_have_a_partition_owned_as_the_table_is() {
    let (_database, pool) = database().await;
    let kept = keep_partitions(&pool).await.unwrap();
    assert_eq!(
        (kept.created.len(), kept.dropped.len(), kept.failed.len()),
        (5, 0, 0)
    );
    assert!(kept.day_ends_in <= Duration::from_secs(86_400));
    assert_eq!(days(&pool).await, [-1, 0, 1, 2, 3]);
    let again = keep_partitions(&pool).await.unwrap();
    assert_eq!((again.created.len(), again.dropped.len()), (0, 0));
    let owners: i64 = sqlx::query_scalar(
        "select count(distinct c.relowner) from pg_class c where c.relnamespace = 'realtime'::regnamespace
         and c.relname like 'messages%' and c.relkind in ('r', 'p')",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(owners, 1);
    sqlx::query("select realtime.send('{}', 'e', 't')")
        .execute(&pool)
        .await
        .unwrap();
    let stored: i64 = sqlx::query_scalar("select count(*) from realtime.messages")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn after_a_week_away_everything_is_right_at_once() {
    let (database, pool) = database().await;
    for day in -12..=-7 {
        database.execute(&partition(day)).await;
    }
    let kept = keep_partitions(&pool).await.unwrap();
    assert_eq!((kept.created.len(), kept.dropped.len()), (5, 6));
    assert_eq!(days(&pool).await, [-1, 0, 1, 2, 3]);
}

#[tokio::test]
async fn the_day_before_yesterday_and_the_one_before_are_kept_for_replay() {
    let (database, pool) = database().await;
    for day in [-4, -3, -2] {
        database.execute(&partition(day)).await;
    }
    keep_partitions(&pool).await.unwrap();
    assert_eq!(days(&pool).await, [-3, -2, -1, 0, 1, 2, 3]);
}

#[tokio::test]
async fn days_are_those_of_utc_whatever_the_time_zone_of_the_database() {
    let (database, pool) = database().await;
    for zone in ["Pacific/Kiritimati", "Pacific/Pago_Pago"] {
        database
            .execute(&format!(
                "alter database \"{}\" set timezone = '{zone}'; drop table if exists {}",
                database.name(),
                "realtime.nothing"
            ))
            .await;
        pool.close().await;
        let pool = PgPool::connect(&database.url()).await.unwrap();
        keep_partitions(&pool).await.unwrap();
        assert_eq!(days(&pool).await, [-1, 0, 1, 2, 3], "{zone}");
        let bounds: i64 = sqlx::query_scalar(
            "select count(*) from pg_class where relnamespace = 'realtime'::regnamespace and relispartition
             and relkind = 'r' and pg_get_expr(relpartbound, oid) like
               '%FROM (''' || replace(substr(relname, 10), '_', '-') || ' 00:00:00'')%'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(bounds, 5, "{zone}");
    }
}

#[tokio::test]
async fn a_child_with_another_name_is_left_alone() {
    let (database, pool) = database().await;
    database
        .execute("create table realtime.messages_old partition of realtime.messages for values from ('2001-01-01') to ('2002-01-01')")
        .await;
    let kept = keep_partitions(&pool).await.unwrap();
    assert_eq!(
        (kept.created.len(), kept.dropped.len(), kept.failed.len()),
        (5, 0, 0)
    );
}

#[tokio::test]
async fn several_servers_at_once_make_each_partition_once() {
    let (_database, pool) = database().await;
    let servers = (0..6).map(|_| keep_partitions(&pool));
    for kept in futures_util::future::join_all(servers).await {
        assert_eq!(kept.unwrap().failed, Vec::<String>::new());
    }
    assert_eq!(days(&pool).await, [-1, 0, 1, 2, 3]);
}

#[tokio::test]
async fn a_table_that_is_locked_fails_soon_and_is_made_right_later() {
    let (database, pool) = database().await;
    let session = database.client().await;
    session
        .batch_execute("begin; lock table realtime.messages in access exclusive mode")
        .await
        .unwrap();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(upkeep(pool.clone(), cancel.clone()));
    // It gives up after its time limit for locks, and comes again.
    database
        .until("select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' and query like 'create table if not exists realtime.messages_%'")
        .await;
    session.batch_execute("rollback").await.unwrap();
    database
        .until("select count(*) = 5 from pg_inherits where inhparent = 'realtime.messages'::regclass")
        .await;
    cancel.cancel();
    task.await.unwrap();
}
