//! The tables are made where they are missing, and left alone where they are not.

use walcast_tenants::{ControlError, SchemaError};

use crate::scene::{connect, connect_with, database, reference};

/// Everything that is defined in the schema, and the rows of bookkeeping.
const SNAPSHOT: &str = "
    select string_agg(line, e'\\n' order by line) from (
      select format('class %s %s %s %s', c.oid::regclass, c.relkind, c.relowner::regrole, c.relacl) as line
        from pg_class c where c.relnamespace = '_realtime'::regnamespace
      union all
      select format('column %s.%s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull,
                    pg_get_expr(adbin, adrelid))
        from pg_attribute join pg_class c on c.oid = attrelid left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where c.relnamespace = '_realtime'::regnamespace and attnum > 0
      union all
      select format('constraint %s', pg_get_constraintdef(oid)) from pg_constraint
        where connamespace = '_realtime'::regnamespace
      union all
      select format('trigger %s', tgname) from pg_trigger where tgrelid in ('_realtime.tenants'::regclass,
        '_realtime.extensions'::regclass) and not tgisinternal
    ) as lines";

const TABLES_ALONE: &str = "drop table _realtime.schema_migrations";

async fn snapshot(database: &walcast_testkit::Database) -> String {
    let row = database.client().await.query_one(SNAPSHOT, &[]).await.unwrap();
    row.get(0)
}

#[tokio::test]
async fn a_control_database_of_the_reference_server_stays_as_it_is() {
    let database = reference().await;
    let before = snapshot(&database).await;
    connect(&database).await;
    connect(&database).await;
    assert_eq!(snapshot(&database).await, before);
    database
        .until("select array_agg(version) = '{20210706140551}' from _realtime.schema_migrations")
        .await;
}

#[tokio::test]
async fn what_is_made_has_the_columns_and_constraints_of_the_reference_servers() {
    let reference = reference().await;
    reference.execute(TABLES_ALONE).await;
    let ours = database().await;
    connect(&ours).await;
    let lines = |snapshot: String| -> Vec<String> {
        let is_shape = |line: &&str| line.starts_with("column _realtime.") || line.starts_with("constraint");
        let mut lines: Vec<String> = snapshot
            .lines()
            .filter(is_shape)
            // Named by an index here, by a constraint there.
            .filter(|line| !line.contains("_index.") && !line.contains("_key.") && !line.contains("UNIQUE"))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(snapshot(&ours).await), lines(snapshot(&reference).await));
}

#[tokio::test]
async fn what_an_older_reference_server_has_not_made_yet_is_left_to_it() {
    let database = reference().await;
    database.execute("drop table _realtime.feature_flags").await;
    connect(&database).await;
    database
        .until("select to_regclass('_realtime.feature_flags') is null")
        .await;
}

#[tokio::test]
async fn several_processes_may_prepare_it_at_once() {
    let database = database().await;
    let connected = futures_util::future::join_all((0..4).map(|_| connect(&database))).await;
    assert_eq!(connected[0].list().await.unwrap(), []);
}

#[tokio::test]
async fn without_a_query_to_run_after_connecting_the_tables_are_in_the_usual_schema() {
    let database = reference().await;
    let control = connect_with(&database, None).await.unwrap();
    assert_eq!(control.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_query_to_run_after_connecting_that_leads_nowhere_is_an_error_that_says_so() {
    let database = database().await;
    let refused = connect_with(&database, Some("set search_path to nowhere")).await;
    assert!(matches!(refused, Err(ControlError::Schema(SchemaError::Nowhere))));
}
