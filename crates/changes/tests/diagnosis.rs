//! Every reason for silence is found where it is, and gone once its own SQL has been run (`design.md 3`, promise 7).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states facts; a broken fact may stop it"
)]

use proptest::strategy::{Strategy, ValueTree};
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use std::collections::BTreeSet;
use walcast_changes::binding::Binding;
use walcast_changes::diagnosis::{self, Finding, Severity, Wish};
use walcast_changes::filter::Grammar;
use walcast_testkit::{Database, Postgres};

/// A table nothing is wrong with.
const SOUND: &str = "create table t (id int primary key, body text);
    grant select on t to authenticated;
    alter publication supabase_realtime add table t;";

struct Case {
    code: &'static str,
    severity: Severity,
    /// What there is beside or instead of [`SOUND`].
    setup: String,
    entry: Value,
}

fn case(code: &'static str, severity: Severity, setup: &str) -> Case {
    Case {
        code,
        severity,
        setup: format!("{SOUND} {setup}"),
        entry: entry(json!({})),
    }
}

fn entry(more: Value) -> Value {
    let mut entry = json!({ "event": "*", "schema": "public", "table": "t" });
    let Value::Object(more) = more else {
        panic!("not an object")
    };
    entry.as_object_mut().unwrap().extend(more);
    entry
}

impl Case {
    fn instead(mut self, setup: &str) -> Self {
        self.setup = setup.to_owned();
        self
    }

    fn of(mut self, more: Value) -> Self {
        self.entry = entry(more);
        self
    }
}

/// What is said about an entry of `authenticated`.
async fn findings(connection: &mut PgConnection, entry: &Value) -> Vec<Finding> {
    let binding = Binding::parse(entry.as_object().unwrap(), Grammar::Reference).unwrap();
    let publication = "supabase_realtime";
    let found = diagnosis::exposures(&mut *connection, publication, None, &["authenticated"])
        .await
        .unwrap();
    let mut named = found
        .iter()
        .filter(|it| binding.schema.matches(&it.table().schema) && binding.table.matches(&it.table().name))
        .peekable();
    if named.peek().is_none() {
        let finding = diagnosis::unpublished(connection, publication, &binding.schema, &binding.table).await;
        return vec![finding.unwrap()];
    }
    named
        .flat_map(|exposure| exposure.findings(Wish::Binding(&binding)))
        .collect()
}

fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(Finding::code).collect()
}

const PARTITIONED: &str =
    "create table root (id int, place text, primary key (id, place)) partition by list (place);
    create table t partition of root for values in ('here');
    grant select on root, t to authenticated;
    alter publication supabase_realtime add table root;";

fn mendable() -> Vec<Case> {
    use Severity::{Problem, Warning};
    let partitioned = PARTITIONED.to_owned();
    vec![
        case("not_published", Problem, "alter publication supabase_realtime drop table t"),
        case("not_published", Problem, "create table \"Or\"\"der\" (\"I d\" int primary key); grant select on \"Or\"\"der\" to authenticated")
            .of(json!({ "table": "Or\"der" })),
        case("no_publication", Problem, "drop publication supabase_realtime"),
        case("unlogged", Problem, "").instead("create unlogged table t (id int primary key); grant select on t to authenticated"),
        case("unlogged", Problem, "").instead(
            "create unlogged table t (id int primary key); grant select on t to authenticated;
             drop publication supabase_realtime; create publication supabase_realtime for all tables",
        ),
        case("published_under_root", Problem, "")
            .instead(&format!("{partitioned} alter publication supabase_realtime set (publish_via_partition_root = true)")),
        case("published_as_partitions", Problem, "").instead(&partitioned).of(json!({ "table": "root" })),
        case("actions_not_published", Warning, "alter publication supabase_realtime set (publish = 'insert, truncate')"),
        case("actions_not_published", Problem, "alter publication supabase_realtime set (publish = 'insert')").of(json!({ "event": "UPDATE" })),
        case("row_filter", Warning, "alter publication supabase_realtime set table t (id, body) where (id > 5)"),
        case("row_filter", Warning, "create table child () inherits (t); alter publication supabase_realtime set table only t where (id > 5)"),
        case("columns_not_published", Warning, "alter publication supabase_realtime set table t (id)").of(json!({ "select": ["body"] })),
        case("columns_not_published", Problem, "alter publication supabase_realtime set table t (id) where (id <> 7)")
            .of(json!({ "event": "INSERT", "filter": "body=eq.x" })),
        case("columns_not_published", Problem, "alter publication supabase_realtime set (publish = 'insert'); alter publication supabase_realtime set table t (body)")
            .of(json!({ "event": "INSERT" })),
        case("no_schema_usage", Problem, "").instead(
            "create schema \"S\"; create table \"S\".t (id int primary key); grant select on \"S\".t to authenticated;
             alter table \"S\".t enable row level security; create policy p on \"S\".t using (true);
             alter publication supabase_realtime add table \"S\".t",
        ).of(json!({ "schema": "S" })),
        case("no_select", Problem, "revoke all on t from authenticated"),
        case("no_select", Problem, "revoke all on t from authenticated").of(json!({ "event": "DELETE" })),
        case("key_not_selectable", Problem, "revoke all on t from authenticated; grant select (body) on t to authenticated"),
        case("no_policy", Problem, "alter table t enable row level security"),
        case("no_policy", Problem, "alter table t enable row level security; create policy p on t to anon using (true);
             create policy strict on t as restrictive for select using (true); create policy w on t for insert with check (true)"),
        case("no_policy", Problem, "").instead(&format!("{partitioned} alter table root enable row level security")),
        case("no_primary_key", Problem, "alter table t drop constraint t_pkey"),
        case("no_primary_key", Problem, "").instead(
            "create table t (body text); grant select on t to authenticated; alter publication supabase_realtime add table t",
        ),
        case("no_primary_key", Problem, "").instead(
            "create table t (a int not null, b int not null, id text, unique (b, a)); grant select on t to authenticated;
             alter publication supabase_realtime add table t",
        ),
        case("no_replica_identity", Problem, "alter table t replica identity nothing"),
        case("no_replica_identity", Problem, "alter table t drop constraint t_pkey").of(json!({ "event": "DELETE" })),
        case("filter_not_in_identity", Warning, "").of(json!({ "filter": "id=gt.1,body=eq.x" })),
        case("filter_not_in_identity", Problem, "create unique index by_id on t (id); alter table t replica identity using index by_id")
            .of(json!({ "event": "DELETE", "filter": "body=eq.x" })),
        case("leave_not_told", Warning, "").of(json!({ "leave": true, "filter": "id=gt.1,body=eq.x" })),
    ]
}

async fn open(database: &Database) -> PgConnection {
    PgConnection::connect(&database.url()).await.unwrap()
}

#[tokio::test]
async fn every_finding_is_gone_once_its_own_sql_has_been_run() {
    let postgres = Postgres::shared().await;
    // Row filters and column lists came with 15.
    let too_new =
        |case: &Case| postgres.major() < 15 && matches!(case.code, "row_filter" | "columns_not_published");
    for case in mendable().iter().filter(|case| !too_new(case)) {
        let database = postgres.database().await;
        let mut connection = open(&database).await;
        database.execute(&case.setup).await;
        let found = findings(&mut connection, &case.entry).await;
        let told = format!("{} of `{}`", case.code, case.setup);
        let finding = found
            .iter()
            .find(|finding| finding.code() == case.code)
            .unwrap_or_else(|| panic!("no {told}: {found:?}"));
        assert_eq!(finding.severity(), case.severity, "{told}");
        let sql = finding.remedy().unwrap_or_else(|| panic!("no remedy for {told}"));
        connection
            .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())))
            .await
            .unwrap_or_else(|error| panic!("{error} in `{sql}` for {told}"));
        let left = codes(&findings(&mut connection, &case.entry).await);
        assert!(!left.contains(&case.code), "{told} stays after `{sql}`");
        // Something new would be a bad remedy. But a table that was hidden as a whole may have more to it.
        let known = codes(&found);
        assert!(
            left.iter().all(|code| known.contains(code)),
            "after `{sql}` for {told}: {left:?}"
        );
    }
}

#[tokio::test]
async fn what_no_sql_can_mend_is_found_and_said() {
    let cases = [
        (
            "no_such_table",
            entry(json!({ "table": "T" })),
            "there is no table public.T; schema \"public\", table \"t\" is published and is spelt nearly so",
        ),
        (
            "no_such_table",
            entry(json!({ "table": "public.t" })),
            "there is no table public.public.t; schema \"public\", table \"t\" is published and is spelt nearly so",
        ),
        (
            "no_such_table",
            entry(json!({ "table": "nope" })),
            "there is no table public.nope; names are taken letter by letter, upper and lower case differ",
        ),
        (
            "not_a_table",
            entry(json!({ "table": "seen" })),
            "public.seen is a view, which has no changes of its own; subscribe to the tables behind it",
        ),
        (
            "not_a_table",
            entry(json!({ "table": "counted" })),
            "public.counted is a materialized view, which has no changes of its own; subscribe to the tables behind it",
        ),
        (
            "not_a_table",
            entry(json!({ "table": "abroad" })),
            "public.abroad is a foreign table, which has no changes of its own; subscribe to the tables behind it",
        ),
        (
            "nothing_published",
            json!({ "schema": "empty" }),
            "publication supabase_realtime has no table of schema empty; add the tables whose changes are wanted",
        ),
        (
            "leave_not_heard",
            entry(json!({ "leave": true, "event": "UPDATE" })),
            "`leave` has no effect with `event: \"UPDATE\"`, for that a row left is told as a DELETE",
        ),
        (
            "nothing_published",
            json!({ "schema": "*", "table": "nope" }),
            "publication supabase_realtime has no table called nope; add the tables whose changes are wanted",
        ),
    ];
    let database = Postgres::shared().await.database().await;
    database.execute(SOUND).await;
    database
        .execute(
            "create view seen as select 1; create materialized view counted as select 1; create schema empty;
             create foreign data wrapper w; create server s foreign data wrapper w; create foreign table abroad (id int) server s;",
        )
        .await;
    let mut connection = open(&database).await;
    for (code, entry, sentence) in cases {
        let found = findings(&mut connection, &entry).await;
        assert_eq!(codes(&found), [code], "{entry}");
        assert_eq!(found[0].remedy(), None, "{entry}");
        assert_eq!(found[0].warning(), sentence, "{entry}");
    }
}

#[tokio::test]
async fn a_table_without_a_fault_has_no_finding_for_whoever_may_see_it() {
    let database = Postgres::shared().await.database().await;
    database
        .execute(&format!(
            "{SOUND} alter table t enable row level security; grant select on t to service_role;
             create policy p on t for select to authenticated using (id > 5)"
        ))
        .await;
    let mut connection = open(&database).await;
    let roles = ["authenticated", "service_role", "no_such_role"];
    let found = diagnosis::exposures(&mut connection, "supabase_realtime", None, &roles)
        .await
        .unwrap();
    let seen: Vec<_> = found
        .iter()
        .map(|it| (it.role(), codes(&it.findings(Wish::Everything))))
        .collect();
    assert_eq!(seen, [("authenticated", vec![]), ("service_role", vec![])]);
}

#[tokio::test]
async fn delete_alone_needs_neither_key_nor_policy() {
    let database = Postgres::shared().await.database().await;
    database
        .execute(&format!(
            "{SOUND} alter table t enable row level security; alter table t drop constraint t_pkey; alter table t replica identity full"
        ))
        .await;
    let mut connection = open(&database).await;
    let of = async |connection: &mut PgConnection, event: &str| {
        codes(&findings(connection, &entry(json!({ "event": event }))).await)
    };
    assert_eq!(of(&mut connection, "DELETE").await, Vec::<&str>::new());
    for event in ["INSERT", "UPDATE", "*"] {
        assert_eq!(of(&mut connection, event).await, ["no_primary_key", "no_policy"]);
    }
}

#[tokio::test]
async fn a_role_that_walcast_may_not_become_is_named_with_the_grant_it_needs() {
    let database = Postgres::shared().await.database().await;
    let name = format!("Walcast of {}", database.name());
    let quoted = diagnosis::identifier(&name).into_owned();
    database
        .execute(&format!(
            "{SOUND} alter table t enable row level security; create policy p on t for select to authenticated using (true);
             create role {quoted} login"
        ))
        .await;
    let mut connection = PgConnection::connect(&database.url_as(&name, "")).await.unwrap();
    let found = findings(&mut connection, &entry(json!({}))).await;
    assert_eq!(codes(&found), ["role_not_granted"]);
    database.execute(&found[0].remedy().unwrap()).await;
    assert_eq!(findings(&mut connection, &entry(json!({}))).await, []);
    connection.close().await.unwrap();
    database
        .execute(&format!("revoke authenticated from {quoted}; drop role {quoted}"))
        .await;
}

#[tokio::test]
async fn a_row_filter_is_not_shown_to_clients() {
    let postgres = Postgres::shared().await;
    if postgres.major() < 15 {
        return;
    }
    let database = postgres.database().await;
    database
        .execute(&format!(
            "{SOUND} alter publication supabase_realtime set table t (id) where (id <> 4711)"
        ))
        .await;
    let entry = entry(json!({ "select": ["body"] }));
    let found = findings(&mut open(&database).await, &entry).await;
    assert_eq!(codes(&found), ["row_filter", "columns_not_published"]);
    for finding in found {
        assert!(!finding.warning().contains("4711"), "{finding}");
    }
}

#[test]
fn codes_are_all_different_and_each_is_provoked() {
    let all: BTreeSet<&str> = Finding::CODES.iter().copied().collect();
    assert_eq!(all.len(), Finding::CODES.len());
    let provoked: BTreeSet<&str> = mendable().iter().map(|case| case.code).collect();
    // By the tests above, two by those of `walcast doctor`, and what the claims make raise by those of the modes.
    let elsewhere = BTreeSet::from([
        "no_such_table",
        "not_a_table",
        "nothing_published",
        "leave_not_heard",
        "role_not_granted",
        "no_such_role",
        "delete_hidden",
        "claims_raise",
    ]);
    let seen: BTreeSet<&str> = provoked.union(&elsewhere).copied().collect();
    assert_eq!(seen, all);
}

#[test]
fn every_finding_is_explained() {
    let page = include_str!("../../../docs/troubleshooting.md");
    for code in Finding::CODES {
        assert!(page.contains(&format!("| `{code}` |")), "{code} is not explained");
    }
}

#[tokio::test]
async fn names_are_quoted_as_postgres_quotes_them() {
    let database = Postgres::shared().await.database().await;
    let client = database.client().await;
    let words = client
        .query("select word from pg_get_keywords()", &[])
        .await
        .unwrap();
    let mut names: Vec<String> = words.iter().map(|row| row.get(0)).collect();
    names.extend(["a", "A", "a b", "_a1", "1a", "a$", "a\"b", "é", "a-b", "\\"].map(str::to_owned));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..200 {
        let name = "[^\\x00]{1,20}".new_tree(&mut runner).unwrap().current();
        names.push(name);
    }
    for name in names {
        let row = client
            .query_one("select quote_ident($1), quote_literal($1)", &[&name])
            .await
            .unwrap();
        assert_eq!(diagnosis::identifier(&name), row.get::<_, String>(0), "{name:?}");
        let read = format!("select {}", diagnosis::literal(&name));
        assert_eq!(
            client.query_one(&read, &[]).await.unwrap().get::<_, String>(0),
            name
        );
    }
}
