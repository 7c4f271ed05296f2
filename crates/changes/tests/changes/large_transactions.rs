//! Transactions of many rows: in order, whole, and in memory that does not grow with them (`database.md 9.25`).

use crate::scene::{Scene, all, filtered, service, table};
use std::sync::atomic::Ordering;
use walcast_changes::Options;
use walcast_replication::StreamOptions;

const ROWS: i64 = 100_000;

#[tokio::test]
async fn every_row_of_a_large_transaction_arrives_in_order_and_what_waits_is_bounded() {
    const QUEUE_BYTES: usize = 1024 * 1024;
    let options = Options {
        stream: StreamOptions {
            queue_bytes: QUEUE_BYTES,
            ..StreamOptions::default()
        },
        ..Options::default()
    };
    let setup = format!(
        "{} {}",
        table("big", "id int primary key, body text"),
        table("other", "id int primary key")
    );
    let scene = Scene::with(&setup, options).await;
    let mut rows = scene.listen(service(), all("big")).await;
    let mut few = scene
        .listen(service(), filtered("big", "id=in.(1,50000,100000)"))
        .await;
    let mut other = scene.listen(service(), all("other")).await;
    let stats = scene.changes.replication_stats();
    scene
        .run(&format!(
            "insert into big select id, repeat('x', 100) from generate_series(1, {ROWS}) id; insert into other values (1)"
        ))
        .await;
    for id in 1..=ROWS {
        assert_eq!(rows.id().await, id);
        if id % 1_000 == 0 {
            let waiting = stats.queue_bytes.load(Ordering::Relaxed);
            assert!(waiting <= QUEUE_BYTES as u64, "{waiting} bytes wait");
        }
    }
    for id in [1, 50_000, 100_000] {
        assert_eq!(few.id().await, id);
    }
    assert_eq!(other.id().await, 1);
}

#[tokio::test]
async fn rows_of_a_table_nobody_listens_to_are_skipped_and_hold_up_nobody() {
    let setup = format!(
        "{} {}",
        table("big", "id int primary key, body text"),
        table("other", "id int primary key")
    );
    let scene = Scene::new(&setup).await;
    let mut other = scene.listen(service(), all("other")).await;
    let stats = scene.changes.replication_stats();
    // The first change of a table is looked at: somebody may wait for its name.
    scene
        .run("insert into big values (0); insert into other values (1)")
        .await;
    assert_eq!(other.id().await, 1);
    let before = stats.changes_skipped.load(Ordering::Relaxed);
    scene
        .run(&format!(
            "insert into big select id, repeat('x', 100) from generate_series(1, {ROWS}) id; insert into other values (2)"
        ))
        .await;
    assert_eq!(other.id().await, 2);
    let skipped = stats.changes_skipped.load(Ordering::Relaxed) - before;
    assert_eq!(skipped, ROWS as u64);
}
