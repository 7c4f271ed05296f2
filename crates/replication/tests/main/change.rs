//! Row changes as they arrive, by kind of change and replica identity (`database.md 9.1` to `9.6`).

use crate::server::{Database, database};
use crate::watched::{Only, Watched, described, eager};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_postgres::NoTls;
use walcast_replication::{Event, ReplicaIdentity, Transaction};
use walcast_testkit::Postgres;

const PUBLISH_ALL: &str =
    "drop publication if exists supabase_realtime; create publication supabase_realtime for all tables";

#[tokio::test]
async fn old_tuples_hold_what_the_replica_identity_says() {
    let database = database().await;
    database
        .run(&format!(
            "create table d (id int primary key, a text, b text);
             create table f (id int primary key, a text, b text); alter table f replica identity full;
             create table i (id int primary key, a text not null, b text);
             create unique index i_a on i (a); alter table i replica identity using index i_a;
             {PUBLISH_ALL}"
        ))
        .await;
    let mut watched = Watched::start(&database.url()).await;
    for (table, expected) in [
        (
            "d",
            [
                "INSERT d (1, x, -)",
                "UPDATE d (1, y, -)",
                "UPDATE d [1] -> (2, y, -)",
                "UPDATE d (2, y, z)",
                "DELETE d [2]",
            ],
        ),
        (
            "f",
            [
                "INSERT f (1, x, -)",
                "UPDATE f (1, x, -) -> (1, y, -)",
                "UPDATE f (1, y, -) -> (2, y, -)",
                "UPDATE f (2, y, -) -> (2, y, z)",
                "DELETE f (2, y, z)",
            ],
        ),
        (
            "i",
            [
                "INSERT i (1, x, -)",
                "UPDATE i [x] -> (1, y, -)",
                "UPDATE i (2, y, -)",
                "UPDATE i (2, y, z)",
                "DELETE i [y]",
            ],
        ),
    ] {
        database
            .run(&format!(
                "insert into {table} values (1, 'x', null); update {table} set a = 'y';
                 update {table} set id = 2; update {table} set b = 'z'; delete from {table}"
            ))
            .await;
        assert_eq!(watched.rows(5).await, expected);
    }
}

#[tokio::test]
async fn a_relation_says_its_columns_and_its_identity() {
    let database = database().await;
    database
        .run(&format!(
            "create schema \"odd schema\";
             create type mood as enum ('sad', 'ok');
             create table \"odd schema\".\"Tab,le.\"\"é\" (
                 id bigint, \"A b\" varchar(7), kind mood, twice bigint generated always as (id * 2) stored,
                 numbers int[], primary key (id, kind));
             create table whole (id int); alter table whole replica identity full;
             {PUBLISH_ALL}"
        ))
        .await;
    let mut watched = Watched::start(&database.url()).await;
    database.run("insert into \"odd schema\".\"Tab,le.\"\"é\" values (1, 'x', 'ok', default, '{1,2}'); insert into whole values (5)").await;

    let change = watched.change().await;
    let relation = &change.relation;
    let oid = database
        .number("select '\"odd schema\".\"Tab,le.\"\"é\"'::regclass::oid::bigint")
        .await;
    let mood = database.number("select 'mood'::regtype::oid::bigint").await;
    assert_eq!(i64::from(relation.oid), oid);
    assert_eq!((&*relation.schema, &*relation.name), ("odd schema", "Tab,le.\"é"));
    assert_eq!(relation.replica_identity, ReplicaIdentity::Default);
    let columns: Vec<_> = relation
        .columns
        .iter()
        .map(|c| (&*c.name, i64::from(c.type_oid), c.type_modifier, c.is_key))
        .collect();
    assert_eq!(
        columns,
        [
            ("id", 20, -1, true),
            ("A b", 1043, 11, false),
            ("kind", mood, -1, true),
            ("numbers", 1007, -1, false),
        ],
        "stored generated columns are left out"
    );
    assert_eq!(described(&change), "INSERT Tab,le.\"é (1, x, ok, {1,2})");

    let whole = watched.change().await;
    assert_eq!(whole.relation.replica_identity, ReplicaIdentity::Full);
    assert!(
        whole.relation.columns.iter().all(|column| column.is_key),
        "with identity full every column is flagged"
    );
}

#[tokio::test]
async fn an_unchanged_out_of_line_value_is_marked_unless_the_old_tuple_has_it() {
    let database = database().await;
    database
        .run(&format!(
            "create table d (id int primary key, n int, big text); alter table d alter big set storage external;
             create table f (like d including all); alter table f replica identity full; {PUBLISH_ALL}"
        ))
        .await;
    let mut watched = Watched::start(&database.url()).await;
    let big = "x".repeat(20_000);
    for table in ["d", "f"] {
        database
            .run(&format!(
                "insert into {table} values (1, 1, '{big}'); update {table} set n = 2"
            ))
            .await;
    }
    assert_eq!(
        watched.rows(4).await,
        [
            format!("INSERT d (1, 1, {big})"),
            "UPDATE d (1, 2, ~)".to_owned(),
            format!("INSERT f (1, 1, {big})"),
            format!("UPDATE f (1, 1, {big}) -> (1, 2, ~)"),
        ]
    );
}

#[tokio::test]
async fn changes_are_numbered_within_their_transaction_and_its_end_follows() {
    let database = database().await;
    database
        .run(&format!(
            "create table t (id int primary key); create table u (id int); {PUBLISH_ALL}"
        ))
        .await;
    let t = u32::try_from(database.number("select 't'::regclass::oid::bigint").await).unwrap();
    let mut watched = Watched::start_with(&database.url(), eager(), Only(t)).await;
    let before = SystemTime::now();
    let xid = database
        .number("begin; insert into t values (1); select pg_current_xact_id()::text::bigint")
        .await;
    database
        .run("insert into u values (7), (8); insert into t values (2); commit")
        .await;
    let after = SystemTime::now();
    // Nobody wants this one, so that its end is not told either.
    database.run("insert into u values (9)").await;
    database.run("insert into t values (3)").await;

    let mut seen = Vec::new();
    while seen.len() < 5 {
        match watched.next().await.unwrap() {
            Event::Change(change) => {
                seen.push(format!("{} number {}", described(&change), change.index));
                assert_eq!(change.relation.oid, t);
                if seen.len() == 1 {
                    let Transaction {
                        xid: told,
                        commit,
                        commit_timestamp_us,
                    } = change.transaction;
                    assert_eq!(i64::from(told), xid);
                    assert!(commit.0 > 0);
                    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap();
                    let at = Duration::from_micros(commit_timestamp_us.try_into().unwrap());
                    let tolerance = Duration::from_secs(1);
                    assert!(since(before) <= at + tolerance && at <= since(after) + tolerance);
                }
            }
            Event::Commit { transaction, end } => {
                assert!(end > transaction.commit);
                seen.push("end".to_owned());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        seen,
        [
            "INSERT t (1) number 0",
            "INSERT t (2) number 3",
            "end",
            "INSERT t (3) number 0",
            "end"
        ],
        "changes of unwanted tables count, but are not delivered"
    );
    let stats = watched.stats();
    let read = |figure: &std::sync::atomic::AtomicU64| figure.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(
        (read(&stats.changes_decoded), read(&stats.changes_skipped)),
        (3, 3)
    );
}

#[tokio::test]
async fn a_truncate_names_the_wanted_tables_it_emptied() {
    let database = database().await;
    database
        .run(&format!(
            "create table a (id int primary key); create table b (id int references a); {PUBLISH_ALL}"
        ))
        .await;
    let mut watched = Watched::start(&database.url()).await;
    database.run("truncate a cascade").await;
    match watched.next().await.unwrap() {
        Event::Truncate { relations, .. } => {
            let mut names: Vec<_> = relations.iter().map(|relation| relation.name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["a", "b"]);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(watched.next().await, Some(Event::Commit { .. })));

    let b = u32::try_from(database.number("select 'b'::regclass::oid::bigint").await).unwrap();
    let mut only_b = Watched::start_with(&database.url(), eager(), Only(b)).await;
    database.run("truncate a cascade").await;
    match only_b.next().await.unwrap() {
        Event::Truncate { relations, .. } => {
            assert_eq!(relations.iter().map(|r| r.oid).collect::<Vec<_>>(), [b]);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn origins_logical_messages_and_rolled_back_work_are_no_changes() {
    let database = database().await;
    let origin = format!("from_elsewhere_{}", database.name());
    database
        .run(&format!("create table t (id int primary key); {PUBLISH_ALL}"))
        .await;
    let mut watched = Watched::start(&database.url()).await;
    database
        .run(&format!(
            "select pg_logical_emit_message(true, 'p', 'in'), pg_logical_emit_message(false, 'p', 'outside');
             begin; insert into t values (1); rollback;
             begin; insert into t values (2); savepoint s; insert into t values (3); rollback to s; commit;
             select pg_replication_origin_create('{origin}'), pg_replication_origin_session_setup('{origin}');
             begin; select pg_replication_origin_xact_setup('0/123', '2020-01-01'); insert into t values (4); commit;
             select pg_replication_origin_session_reset(), pg_replication_origin_drop('{origin}');
             insert into t values (5)"
        ))
        .await;
    assert_eq!(
        watched.rows(3).await,
        ["INSERT t (2)", "INSERT t (4)", "INSERT t (5)"]
    );
}

#[tokio::test]
async fn a_prepared_transaction_arrives_when_it_is_committed() {
    // Of its own: while a transaction is prepared no other test could make a slot.
    let server = Postgres::start(Postgres::options().setting("max_prepared_transactions", "2")).await;
    let database = Database::of(&server).await;
    database
        .run(&format!("create table t (id int primary key); {PUBLISH_ALL}"))
        .await;
    let mut watched = Watched::start(&database.url()).await;
    for statement in [
        "begin; insert into t values (1); prepare transaction 'p'",
        "insert into t values (2)",
        "commit prepared 'p'",
        "insert into t values (3)",
    ] {
        database.run(statement).await;
    }
    assert_eq!(
        watched.rows(3).await,
        ["INSERT t (2)", "INSERT t (1)", "INSERT t (3)"]
    );
}

#[tokio::test]
async fn values_are_printed_alike_whatever_the_settings_of_role_and_database() {
    let database = database().await;
    let name = database.name();
    database
        .run(&format!(
            "create table t (id int primary key, at timestamptz, span interval, number float8, bytes bytea); {PUBLISH_ALL};
             alter database {name} set TimeZone = 'Asia/Kolkata'; alter database {name} set DateStyle = 'German';
             alter database {name} set IntervalStyle = 'sql_standard'; alter database {name} set bytea_output = 'escape';
             alter database {name} set extra_float_digits = 0;
             alter role current_user in database {name} set TimeZone = 'America/Lima';
             alter role current_user in database {name} set statement_timeout = 1"
        ))
        .await;
    let mut watched = Watched::start(&database.url()).await;
    database
        .run("set statement_timeout = 0; insert into t values (1, '2024-02-03 04:05:06+00', '1 day 02:03', 0.1::float8 + 0.2, '\\x01ff')")
        .await;
    assert_eq!(
        watched.rows(1).await,
        ["INSERT t (1, 2024-02-03 09:35:06+05:30, 1 day 02:03:00, 0.30000000000000004, \\x01ff)"],
        "the zone is the database's"
    );
}

#[tokio::test]
async fn a_value_that_is_not_utf_8_costs_its_change_only() {
    let database = database().await;
    let name = format!("{}_ascii", database.name());
    database
        .run(&format!(
            "create database {name} encoding SQL_ASCII locale 'C' template template0"
        ))
        .await;
    let url = database.url().replace(database.name(), &name);
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let table =
        "create table t (id int primary key, a text); create publication supabase_realtime for all tables";
    client.batch_execute(table).await.unwrap();
    let mut watched = Watched::start(&url).await;
    client
        .batch_execute("insert into t values (1, E'\\xff'), (2, 'fine')")
        .await
        .unwrap();
    let change = watched.change().await;
    assert_eq!(
        (described(&change), change.index),
        ("INSERT t (2, fine)".to_owned(), 1)
    );
    let left_out = watched
        .stats()
        .changes_undecodable
        .load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(left_out, 1);
    watched.cancel().await;
    drop(client);
    database.run(&format!("drop database {name} with (force)")).await;
}
