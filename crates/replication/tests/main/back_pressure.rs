//! A consumer that is slow, or a stream with nothing to say: memory, keepalives, and what the slot is told.

use crate::server::{Database, database};
use crate::watched::{Everything, Only, Watched, described, eager, soon};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use walcast_replication::{Config, Event, Lsn, Stats, StreamError, StreamOptions};
use walcast_testkit::Postgres;

const PUBLISH_T: &str =
    "create table t (id int primary key, a text); create publication supabase_realtime for table t";
const SENDER_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that gives up soon on a client that says nothing.
async fn impatient() -> (Postgres, Database) {
    let timeout = format!("{}ms", SENDER_TIMEOUT.as_millis());
    let postgres = Postgres::start(Postgres::options().setting("wal_sender_timeout", timeout)).await;
    let database = Database::of(&postgres).await;
    database.run(PUBLISH_T).await;
    (postgres, database)
}

#[tokio::test]
async fn a_large_transaction_waits_for_a_slow_consumer_in_bounded_memory_beyond_the_servers_timeout() {
    const ROWS: u32 = 200_000;
    const QUEUE_BYTES: u64 = 1024 * 1024;
    let (_postgres, database) = impatient().await;
    let options = StreamOptions {
        queue_changes: 1_000,
        queue_bytes: 1024 * 1024,
        ..eager()
    };
    let mut watched = Watched::start_with(&database.url(), options, Everything).await;
    database
        .run(&format!(
            "insert into t select id, repeat('x', 200) from generate_series(1, {ROWS}) id"
        ))
        .await;

    let stats = watched.stats();
    let queued = |stats: &Stats| stats.queue_changes.load(Ordering::Relaxed);
    for id in 1..=ROWS {
        if id % (ROWS / 3) == 1 {
            // Longer than the server waits, with a full queue and an unread socket.
            tokio::time::sleep(SENDER_TIMEOUT + SENDER_TIMEOUT / 2).await;
        }
        let change = watched.change().await;
        assert_eq!(change.index, id - 1);
        if id % 997 == 0 {
            assert!(queued(&stats) <= 1_000, "{}", queued(&stats));
            let bytes = stats.queue_bytes.load(Ordering::Relaxed);
            assert!(bytes <= QUEUE_BYTES, "{bytes}");
            let unread = u64::from(ROWS - id) * 200;
            let read = stats.bytes_read.load(Ordering::Relaxed);
            let taken = u64::from(id) * 250;
            assert!(
                read < taken + 2 * QUEUE_BYTES || unread < QUEUE_BYTES,
                "{read} bytes read for {taken} taken"
            );
        }
    }
    assert!(matches!(watched.next().await, Some(Event::Commit { .. })));
    database.run("insert into t values (0)").await;
    assert_eq!(watched.change().await.index, 0, "it was never lost");
}

#[tokio::test]
async fn a_change_larger_than_the_queue_passes() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let options = StreamOptions {
        queue_changes: 10,
        queue_bytes: 1_000,
        ..eager()
    };
    let mut watched = Watched::start_with(&database.url(), options, Everything).await;
    database
        .run("insert into t select id, repeat('x', 5000000) from generate_series(1, 3) id")
        .await;
    for id in 1..=3 {
        let change = watched.change().await;
        assert_eq!(
            described(&change).len(),
            format!("INSERT t ({id}, )").len() + 5_000_000
        );
    }
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_connection_unless_nobody_wants_its_table() {
    let database = database().await;
    database
        .run(&format!(
            "{PUBLISH_T}; create table u (id int primary key, a text)"
        ))
        .await;
    database
        .run("alter publication supabase_realtime add table u")
        .await;
    let u = u32::try_from(database.number("select 'u'::regclass::oid::bigint").await).unwrap();
    let options = StreamOptions {
        max_message_bytes: 100_000,
        ..eager()
    };

    let mut only_u = Watched::start_with(&database.url(), options.clone(), Only(u)).await;
    let mut watched = Watched::start_with(&database.url(), options, Everything).await;
    database
        .run("insert into t values (1, repeat('x', 3000000))")
        .await;
    let reason = watched.lost().await;
    assert!(
        matches!(
            &*reason,
            StreamError::MessageTooLarge {
                limit_bytes: 100_000,
                ..
            }
        ),
        "{reason}"
    );
    watched.streaming_at_last().await;

    database.run("insert into u values (1)").await;
    assert_eq!(only_u.rows(1).await, ["INSERT u (1, -)"]);
    assert_eq!(
        watched.rows(1).await,
        ["INSERT u (1, -)"],
        "what was too large is not met again"
    );
    assert_eq!(only_u.stats().changes_skipped.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_idle_stream_outlives_the_servers_timeout() {
    let (_postgres, database) = impatient().await;
    // Asked for less often than the server allows: the server's limit wins.
    let options = StreamOptions {
        status_interval_ms: 3_600_000,
        ..eager()
    };
    let mut watched = Watched::start_with(&database.url(), options, Everything).await;
    tokio::time::sleep(SENDER_TIMEOUT * 2).await;
    database.run("insert into t values (1)").await;
    assert_eq!(watched.rows(1).await, ["INSERT t (1, -)"]);
}

/// What the server knows of the only stream of the database.
async fn flushed(database: &Database) -> Lsn {
    let flushed =
        "select flush_lsn from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
                   where s.database = current_database()";
    database.text(flushed).await.parse().unwrap()
}

async fn position(database: &Database) -> Lsn {
    database
        .text("select pg_current_wal_lsn()")
        .await
        .parse()
        .unwrap()
}

#[tokio::test]
async fn an_idle_streams_slot_follows_the_log() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let options = StreamOptions {
        status_interval_ms: 20,
        ..eager()
    };
    let watched = Watched::start_with(&database.url(), options, Everything).await;
    // Nothing of this is published.
    database
        .run("create table unpublished as select repeat('x', 1000) from generate_series(1, 1000)")
        .await;
    let written = position(&database).await;
    soon("the confirmation", async {
        while flushed(&database).await < written {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let stats = watched.stats();
    assert!(stats.confirmed() >= written && stats.server_end() >= written);
}

#[tokio::test]
async fn only_what_the_consumer_has_taken_is_confirmed() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let options = StreamOptions {
        status_interval_ms: 20,
        ..eager()
    };
    let mut watched = Watched::start_with(&database.url(), options, Everything).await;
    database.run("insert into t values (1)").await;
    database.run("insert into t values (2)").await;
    let stats = watched.stats();
    soon("the reading of both", async {
        while stats.queue_changes.load(Ordering::Relaxed) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Written is what was read, flushed is what was taken.
    let end = position(&database).await;
    let is_written = format!(
        "exists (select from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
                 where s.database = current_database() and write_lsn >= '{end}')"
    );
    database.until(&is_written).await;
    let unconfirmed = flushed(&database).await;
    assert!(stats.lag_bytes() > 0);
    let first = watched.change().await.transaction;
    assert!(
        unconfirmed <= first.commit,
        "{unconfirmed} was confirmed before anything of {first:?} was taken"
    );
    let Some(Event::Commit { end, .. }) = watched.next().await else {
        panic!("no end of the first transaction")
    };
    soon("the confirmation of the first", async {
        while flushed(&database).await != end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    watched.change().await;
    watched.next().await;
    let end = position(&database).await;
    soon("the confirmation of all", async {
        while flushed(&database).await < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_consumer_hears_of_a_loss_after_what_was_read_before_it() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let config = Config::from_url(&database.url()).unwrap();
    let mut watched = Watched::spawn(
        config,
        StreamOptions {
            queue_changes: 5,
            ..eager()
        },
        Everything,
    );
    watched.streaming().await;
    database.run("insert into t select generate_series(1, 3)").await;
    let stats = watched.stats();
    soon("the reading", async {
        while stats.queue_changes.load(Ordering::Relaxed) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    database
        .run("select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()")
        .await;
    assert_eq!(
        watched.rows(3).await,
        ["INSERT t (1, -)", "INSERT t (2, -)", "INSERT t (3, -)"]
    );
    assert!(matches!(watched.next().await, Some(Event::Commit { .. })));
    let reason: Arc<StreamError> = watched.lost().await;
    assert!(
        matches!(&*reason, StreamError::Postgres { code, .. } if code == "57P01"),
        "{reason}"
    );
}
