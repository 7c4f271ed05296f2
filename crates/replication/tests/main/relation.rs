//! When a table is announced again: after everything that may change cached facts about it.

use crate::server::database;
use crate::watched::{Watched, described};

#[tokio::test]
async fn a_table_is_announced_again_after_anything_that_concerns_rights_policies_or_columns() {
    let database = database().await;
    database
        .run(
            "create table t (id int primary key, a text); create role relation_reader;
             create publication supabase_realtime for all tables",
        )
        .await;
    let mut watched = Watched::start(&database.url()).await;
    database.run("insert into t values (1, 'x')").await;
    let mut version = watched.change().await.relation.version;
    for (at, statement) in (2..).zip([
        "grant select on t to relation_reader",
        "grant select (id) on t to relation_reader",
        "revoke select on t from relation_reader",
        "alter table t enable row level security",
        "create policy p on t for select using (true)",
        "alter policy p on t using (id > 0)",
        "drop policy p on t",
        "alter table t disable row level security",
        "alter table t replica identity full",
        "alter table t alter a type varchar(30)",
        "alter table t add b int",
        "alter table t rename a to c",
        "alter table t drop b",
        "alter table t rename to tt; alter table tt rename to t",
    ]) {
        database.run(&format!("insert into t (id) values ({at}00)")).await;
        assert_eq!(
            watched.change().await.relation.version,
            version,
            "nothing happened before: {statement}"
        );
        database.run(statement).await;
        database.run(&format!("insert into t (id) values ({at})")).await;
        let now = watched.change().await.relation.version;
        assert!(now > version, "{statement}");
        version = now;
    }
    database.run("drop table t; drop role relation_reader").await;
}

#[tokio::test]
async fn a_change_is_described_by_the_table_as_it_was_then() {
    let database = database().await;
    database
        .run("create table t (id int primary key, a text); create publication supabase_realtime for table t")
        .await;
    let mut watched = Watched::start(&database.url()).await;
    database.run("insert into t values (1, 'x')").await;
    database.run("alter table t rename to u").await;
    database.run("alter table u drop a").await;
    database.run("alter table u add b int default 5").await;
    database.run("insert into u values (2)").await;
    database.run("drop table u").await;
    let columns = |change: &walcast_replication::Change| {
        change
            .relation
            .columns
            .iter()
            .map(|column| column.name.clone())
            .collect::<Vec<_>>()
    };
    let first = watched.change().await;
    assert_eq!(
        (described(&first), columns(&first)),
        (
            "INSERT t (1, x)".to_owned(),
            vec!["id".to_owned(), "a".to_owned()]
        )
    );
    let second = watched.change().await;
    assert_eq!(
        (described(&second), columns(&second)),
        (
            "INSERT u (2, 5)".to_owned(),
            vec!["id".to_owned(), "b".to_owned()]
        )
    );
    assert_eq!(
        first.relation.oid, second.relation.oid,
        "a renamed table keeps its oid"
    );
}

#[tokio::test]
async fn partitions_arrive_under_their_own_names_or_under_the_root() {
    let database = database().await;
    database
        .run(
            "create table p (id int primary key) partition by range (id);
             create table p_low partition of p for values from (0) to (10);
             create table p_high partition of p for values from (10) to (20);
             create publication supabase_realtime for table p",
        )
        .await;
    let mut watched = Watched::start(&database.url()).await;
    database
        .run("insert into p values (1); update p set id = 11")
        .await;
    assert_eq!(
        watched.rows(3).await,
        ["INSERT p_low (1)", "DELETE p_low [1]", "INSERT p_high (11)"]
    );
    database
        .run("alter publication supabase_realtime set (publish_via_partition_root = true)")
        .await;
    database.run("insert into p values (2)").await;
    assert_eq!(watched.rows(1).await, ["INSERT p (2)"]);
}
