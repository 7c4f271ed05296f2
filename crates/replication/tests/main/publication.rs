//! The publication: missing, made, dropped (`database.md 9.9`).

use crate::server::{Database, database};
use crate::watched::{Everything, Watched, eager, soon};
use walcast_replication::{Config, Event, StreamError, StreamOptions, TablePublication};
use walcast_testkit::Postgres;

#[tokio::test]
async fn a_missing_publication_is_created_empty() {
    let database = database().await;
    database.run("create table t (id int primary key)").await;
    let mut watched = Watched::start(&database.url()).await;
    let count = |what| format!("select count(*) from {what} where pubname = 'supabase_realtime'");
    assert_eq!(database.number(&count("pg_publication")).await, 1);
    assert_eq!(database.number(&count("pg_publication_tables")).await, 0);
    database.run("insert into t values (1); alter publication supabase_realtime add table t; insert into t values (2)").await;
    assert_eq!(
        watched.rows(1).await,
        ["INSERT t (2)"],
        "a table's changes are offered from the moment it is added"
    );
}

#[tokio::test]
async fn without_leave_to_create_it_the_stream_waits_for_the_publication() {
    let database = database().await;
    let options = StreamOptions {
        create_publication: false,
        ..eager()
    };
    let mut watched = Watched::spawn(Config::from_url(&database.url()).unwrap(), options, Everything);
    for _ in 0..2 {
        let reason = watched.lost().await;
        assert!(
            matches!(&*reason, StreamError::NoPublication { name, .. } if name == "supabase_realtime"),
            "{reason}"
        );
    }
    // Written while there is no publication: a slot that existed now could never get past it.
    database
        .run("create table t (id int primary key); insert into t values (1)")
        .await;
    assert_eq!(
        database
            .number("select count(*) from pg_replication_slots where database = current_database()")
            .await,
        0
    );
    database
        .run("create publication supabase_realtime for table t")
        .await;
    watched.streaming_at_last().await;
    database.run("insert into t values (2)").await;
    assert_eq!(watched.rows(1).await, ["INSERT t (2)"]);
}

#[tokio::test]
async fn a_role_that_may_not_create_the_publication_waits_and_says_who_must() {
    let server = Postgres::start(Postgres::options()).await;
    let database = Database::of(&server).await;
    database.run("create role reader login replication").await;
    let url = database.url_as("reader", "");
    let mut watched = Watched::spawn(Config::from_url(&url).unwrap(), eager(), Everything);
    let sentence = watched.lost().await.to_string();
    assert!(
        sentence.contains("permission denied") && sentence.contains("create publication"),
        "{sentence}"
    );
    database.run("create publication supabase_realtime").await;
    watched.streaming_at_last().await;
}

#[tokio::test]
async fn a_dropped_publication_that_was_written_without_ends_the_slot_and_starts_anew() {
    let database = database().await;
    database
        .run("create table t (id int primary key); create publication supabase_realtime for table t")
        .await;
    let options = StreamOptions {
        create_publication: false,
        ..eager()
    };
    let mut watched = Watched::start_with(&database.url(), options, Everything).await;
    database.run("insert into t values (1)").await;
    assert_eq!(watched.rows(1).await, ["INSERT t (1)"]);
    assert!(matches!(watched.next().await, Some(Event::Commit { .. })));
    database.run("drop publication supabase_realtime").await;
    database.run("insert into t values (2)").await;
    let version = database
        .number("select current_setting('server_version_num')::bigint")
        .await;
    if version < 180_000 {
        let reason = watched.lost().await;
        assert!(
            matches!(&*reason, StreamError::NoPublication { name, .. } if name == "supabase_realtime"),
            "{reason}"
        );
        database
            .run("create publication supabase_realtime for table t")
            .await;
        watched.streaming_at_last().await;
    } else {
        // From here on Postgres passes over what was written without the publication.
        database
            .run("create publication supabase_realtime for table t")
            .await;
    }
    database.run("insert into t values (3)").await;
    assert_eq!(watched.rows(1).await, ["INSERT t (3)"]);
}

#[tokio::test]
async fn dropping_and_creating_the_publication_without_writes_between_is_harmless() {
    let database = database().await;
    database
        .run("create table t (id int primary key); create publication supabase_realtime for table t")
        .await;
    let mut watched = Watched::start(&database.url()).await;
    database
        .run("begin; drop publication supabase_realtime; create publication supabase_realtime for table t; commit")
        .await;
    database.run("insert into t values (1)").await;
    assert_eq!(watched.rows(1).await, ["INSERT t (1)"]);
}

#[tokio::test]
async fn several_publications_come_over_one_slot() {
    let database = database().await;
    database
        .run(
            "create table a (id int primary key); create table b (id int primary key);
              create publication \"A's \"\"first\"\"\" for table a; create publication second for table b",
        )
        .await;
    let publications = vec!["A's \"first\"".to_owned(), "second".to_owned()];
    let mut watched = Watched::start_with(
        &database.url(),
        StreamOptions {
            publications,
            ..eager()
        },
        Everything,
    )
    .await;
    database
        .run("insert into a values (1); insert into b values (2)")
        .await;
    assert_eq!(watched.rows(2).await, ["INSERT a (1)", "INSERT b (2)"]);
    assert_eq!(
        database
            .number("select count(*) from pg_replication_slots where database = current_database()")
            .await,
        1
    );
}

#[tokio::test]
async fn ready_means_that_no_later_commit_is_missed_even_of_a_transaction_that_was_open() {
    // Of its own: no test beside it could make a slot while the transaction is open.
    let server = Postgres::start(Postgres::options()).await;
    let database = Database::of(&server).await;
    database
        .run("create table t (id int primary key); create publication supabase_realtime for table t")
        .await;
    let open = database.session().await;
    open.batch_execute("begin; insert into t values (1)")
        .await
        .unwrap();
    let mut watched = Watched::spawn(Config::from_url(&database.url()).unwrap(), eager(), Everything);
    database.until("exists (select from pg_stat_activity where wait_event = 'transactionid' and backend_type = 'walsender')").await;
    open.batch_execute("commit").await.unwrap();
    watched.streaming().await;
    database.run("insert into t values (2)").await;
    let first = soon("a row", watched.rows(1)).await;
    assert_eq!(
        first,
        ["INSERT t (2)"],
        "the stream says it runs only when the slot can see everything"
    );
}

fn messages() -> StreamOptions {
    StreamOptions {
        table_publications: vec![TablePublication {
            name: "messages".to_owned(),
            schema: "casts".to_owned(),
            table: "messages".to_owned(),
        }],
        ..eager()
    }
}

const MESSAGES: &str = "
    create schema casts;
    create table casts.messages (id int, day int) partition by list (day);
    create table casts.messages_1 partition of casts.messages for values in (1);
    create table other (id int);";

#[tokio::test]
async fn a_publication_of_one_table_is_made_or_corrected_and_streams_its_partitions() {
    let before = [
        "",
        "create publication messages",
        "create publication messages for table other",
        "create publication messages for table casts.messages, other",
    ];
    for publication in before {
        let database = database().await;
        database.run(&format!("{MESSAGES} {publication}")).await;
        let mut watched = Watched::start_with(&database.url(), messages(), Everything).await;
        database
            .run(
                "insert into other values (1); insert into casts.messages values (2, 1);
                  create table casts.messages_2 partition of casts.messages for values in (2);
                  insert into casts.messages values (3, 2)",
            )
            .await;
        assert_eq!(
            watched.rows(2).await,
            ["INSERT messages_1 (2, 1)", "INSERT messages_2 (3, 2)"],
            "{publication}"
        );
    }
}

#[tokio::test]
async fn without_its_table_or_the_right_to_make_it_the_stream_runs_without_a_publication() {
    let database = database().await;
    database
        .run("create table t (id int); create publication supabase_realtime for table t")
        .await;
    let mut watched = Watched::start_with(&database.url(), messages(), Everything).await;
    database.run("insert into t values (1)").await;
    assert_eq!(watched.rows(1).await, ["INSERT t (1)"]);
    database.run(MESSAGES).await;
    database
        .run("drop role if exists streamer; create role streamer login replication password 'secret'")
        .await;
    let mut watched =
        Watched::start_with(&database.url_as("streamer", "secret"), messages(), Everything).await;
    database.run("insert into t values (2)").await;
    assert_eq!(watched.rows(1).await, ["INSERT t (2)"]);
}
