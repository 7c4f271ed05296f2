//! A permanent slot loses nothing while the connection is away, and a guard lets one stream at a time be.

use crate::server::{Database, database};
use crate::watched::{Everything, Watched, described, eager, soon};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use walcast_replication::{Config, Event, Guard, Slot, Stream, StreamError, StreamOptions, spawn};

const PUBLISH_T: &str =
    "create table t (id int primary key); create publication supabase_realtime for table t";
const SLOTS: &str = "select count(*) from pg_replication_slots where database = current_database()";
const TERMINATE: &str = "select count(pg_terminate_backend(active_pid)) from pg_replication_slots
    where database = current_database()";

fn permanent(database: &Database, resumes: bool) -> StreamOptions {
    StreamOptions {
        slot: Slot::Permanent {
            name: format!("kept_{}", database.name()),
            resumes,
        },
        ..eager()
    }
}

fn start(database: &Database, options: StreamOptions) -> (Stream, CancellationToken) {
    let cancel = CancellationToken::new();
    let config = Config::from_url(&database.url()).unwrap();
    (
        spawn(config, options, Arc::new(Everything), cancel.clone()),
        cancel,
    )
}

/// The next stream that begins, over any failures to start: whether it was resumed.
async fn resumed(stream: &mut Stream) -> bool {
    loop {
        match soon("a stream", stream.take()).await {
            Some(Event::Streaming { is_resumed, .. }) => return is_resumed,
            Some(Event::Lost { .. }) => {}
            other => panic!("{other:?} instead of a running stream"),
        }
    }
}

/// Rows up to this one, with the end of its transaction, unsettled.
async fn rows_up_to(stream: &mut Stream, last: &str) -> Vec<String> {
    let mut rows = Vec::new();
    loop {
        match soon(last, stream.take()).await {
            Some(Event::Change(change)) => rows.push(described(&change)),
            Some(Event::Commit { .. }) if rows.last().is_some_and(|row| row == last) => return rows,
            Some(Event::Commit { .. }) => {}
            other => panic!("{other:?} instead of {last}"),
        }
    }
}

async fn end(mut stream: Stream, cancel: CancellationToken) {
    cancel.cancel();
    while soon("the end", stream.take()).await.is_some() {}
}

async fn drop_slots(database: &Database) {
    database
        .until("not exists (select from pg_replication_slots where database = current_database() and active)")
        .await;
    let drop = "select count(pg_drop_replication_slot(slot_name)) from pg_replication_slots
        where database = current_database()";
    database.number(drop).await;
}

#[tokio::test]
async fn a_permanent_slot_brings_again_what_was_not_settled_and_what_was_committed_meanwhile() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let (mut stream, cancel) = start(&database, permanent(&database, false));
    assert!(!resumed(&mut stream).await);
    database.run("insert into t values (1)").await;
    assert_eq!(rows_up_to(&mut stream, "INSERT t (1)").await, ["INSERT t (1)"]);
    // The server may go as far as it is told that we are, not as far as we read.
    assert_eq!(database.number(TERMINATE).await, 1);
    let lost = soon("a loss", stream.take()).await;
    assert!(
        matches!(lost, Some(Event::Lost { is_kept: true, .. })),
        "{lost:?}"
    );
    database.run("insert into t values (2)").await;
    assert!(resumed(&mut stream).await);
    assert_eq!(
        rows_up_to(&mut stream, "INSERT t (2)").await,
        ["INSERT t (1)", "INSERT t (2)"]
    );
    stream.settle();
    database
        .until(
            "(select confirmed_flush_lsn from pg_replication_slots where database = current_database())
             >= pg_current_wal_flush_lsn()",
        )
        .await;
    end(stream, cancel).await;
    assert_eq!(database.number(SLOTS).await, 1);

    database.run("insert into t values (3)").await;
    let (mut stream, cancel) = start(&database, permanent(&database, true));
    assert!(resumed(&mut stream).await);
    assert_eq!(rows_up_to(&mut stream, "INSERT t (3)").await, ["INSERT t (3)"]);
    end(stream, cancel).await;

    // Who begins anew does not hear of what was before.
    let (mut stream, cancel) = start(&database, permanent(&database, false));
    assert!(!resumed(&mut stream).await);
    database.run("insert into t values (4)").await;
    assert_eq!(rows_up_to(&mut stream, "INSERT t (4)").await, ["INSERT t (4)"]);
    end(stream, cancel).await;
    drop_slots(&database).await;
}

#[tokio::test]
async fn a_place_in_the_log_that_cannot_be_passed_costs_the_permanent_slot() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let (mut stream, cancel) = start(&database, permanent(&database, false));
    assert!(!resumed(&mut stream).await);
    // `database.md 9.9`: a change that is made while there is no publication ends the stream, each time.
    database
        .run("drop publication supabase_realtime; insert into t values (1)")
        .await;
    let lost = soon("a loss", stream.take()).await;
    assert!(
        matches!(&lost, Some(Event::Lost { reason, is_kept: false, .. })
            if matches!(&**reason, StreamError::NoPublication { .. })),
        "{lost:?}"
    );
    assert!(!resumed(&mut stream).await);
    end(stream, cancel).await;
    drop_slots(&database).await;
}

#[tokio::test]
async fn a_slot_of_something_else_is_left_alone() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let options = permanent(&database, false);
    let Slot::Permanent { name, .. } = &options.slot else {
        panic!("not permanent");
    };
    database
        .text(&format!(
            "select slot_name from pg_create_logical_replication_slot('{name}', 'test_decoding')"
        ))
        .await;
    let config = Config::from_url(&database.url()).unwrap();
    let mut watched = Watched::spawn(config, options.clone(), Everything);
    let reason = watched.lost().await;
    assert!(matches!(&*reason, StreamError::ForeignSlot { .. }), "{reason}");
    watched.cancel().await;
    assert_eq!(database.number(SLOTS).await, 1);
    drop_slots(&database).await;
}

#[tokio::test]
async fn of_two_streams_with_one_guard_the_later_one_streams_and_the_other_says_why_it_does_not() {
    let database = database().await;
    database.run(PUBLISH_T).await;
    let options = StreamOptions {
        guard: Some(Guard {
            name: "the log's reader".to_owned(),
        }),
        ..eager()
    };
    let mut first = Watched::start_with(&database.url(), options.clone(), Everything).await;
    let mut second = Watched::start_with(&database.url(), options, Everything).await;
    let reason = first.lost().await;
    assert!(
        matches!(&*reason, StreamError::Postgres { code, .. } if code == "57P01"),
        "{reason}"
    );
    let reason = first.lost().await;
    assert!(
        matches!(&*reason, StreamError::Guarded { pid, .. } if *pid > 0),
        "{reason}"
    );
    assert_eq!(database.number(SLOTS).await, 1);
    database.run("insert into t values (1)").await;
    assert_eq!(second.rows(1).await, ["INSERT t (1)"]);
    // The lock goes with the session.
    second.cancel().await;
    first.streaming_at_last().await;
    assert_eq!(database.number(SLOTS).await, 1);
}
