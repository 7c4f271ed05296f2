//! `PLATFORM_SQL` against Postgres: what applications and the server find (`database.md 1.1`).

#![allow(
    clippy::unwrap_used,
    reason = "tests state facts; clippy only knows that of the functions marked so"
)]

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use walcast_postgres::{Cluster, Options, PLATFORM_SQL};

const SUB: &str = "8d0e2f6e-9a3c-4a57-9a53-0a6a1f6a2b01";

async fn connect(cluster: &Cluster, user: &str) -> Client {
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(cluster.socket_dir())
        .port(cluster.port())
        .user(user)
        .dbname("postgres");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn bare() -> (Cluster, Client) {
    let mut options = Options::throwaway();
    options.version = std::env::var("WALCAST_TEST_PG")
        .ok()
        .filter(|version| !version.is_empty())
        .map(|version| version.parse().unwrap());
    let cluster = Cluster::start(options).await.unwrap();
    let client = connect(&cluster, cluster.superuser()).await;
    (cluster, client)
}

/// A cluster with the platform laid twice, the second time over itself.
async fn platform() -> (Cluster, Client) {
    let (cluster, client) = bare().await;
    client.batch_execute(PLATFORM_SQL).await.unwrap();
    client.batch_execute(PLATFORM_SQL).await.unwrap();
    (cluster, client)
}

#[tokio::test]
async fn claims_are_read_from_json_and_from_single_settings_which_win() {
    let (_cluster, client) = platform().await;
    let claims =
        format!(r#"{{"sub": "{SUB}", "role": "authenticated", "email": "a@b.c", "org": {{"id": 7}}}}"#);
    let other = "00000000-0000-0000-0000-000000000001";
    type Setting<'a> = (&'a str, &'a str);
    let cases: &[(&[Setting<'_>], &str, Option<&str>)] = &[
        (&[("claims", &claims)], "auth.uid()::text", Some(SUB)),
        (&[("claims", &claims)], "auth.role()", Some("authenticated")),
        (&[("claims", &claims)], "auth.email()", Some("a@b.c")),
        (&[("claims", &claims)], "auth.jwt() -> 'org' ->> 'id'", Some("7")),
        (&[("claim.sub", other)], "auth.uid()::text", Some(other)),
        (&[("claim.role", "anon")], "auth.role()", Some("anon")),
        (&[("claim.email", "d@e.f")], "auth.email()", Some("d@e.f")),
        (
            &[("claims", &claims), ("claim.sub", other)],
            "auth.uid()::text",
            Some(other),
        ),
        (
            &[("claims", &claims), ("claim.sub", "")],
            "auth.uid()::text",
            Some(SUB),
        ),
        (&[("claims", "{}")], "auth.uid()::text", None),
        (&[("claims", "")], "auth.uid()::text", None),
        (&[("claims", "")], "auth.jwt()::text", None),
        (&[], "auth.uid()::text", None),
        (&[], "auth.role()", None),
        (&[], "auth.email()", None),
        (&[], "auth.jwt()::text", None),
    ];
    for (settings, expression, expected) in cases {
        client.batch_execute("begin").await.unwrap();
        for (name, value) in *settings {
            let name = format!("request.jwt.{name}");
            client
                .execute("select set_config($1, $2, true)", &[&name, value])
                .await
                .unwrap();
        }
        let row = client
            .query_one(&format!("select {expression}"), &[])
            .await
            .unwrap();
        assert_eq!(
            row.get::<_, Option<&str>>(0),
            *expected,
            "{expression} with {settings:?}"
        );
        client.batch_execute("rollback").await.unwrap();
    }
}

#[tokio::test]
async fn a_claim_that_is_no_uuid_is_an_error_and_not_nobody() {
    let (_cluster, client) = platform().await;
    client
        .batch_execute(r#"set request.jwt.claims = '{"sub": "nobody"}'"#)
        .await
        .unwrap();
    let error = client.query_one("select auth.uid()", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INVALID_TEXT_REPRESENTATION));
}

#[tokio::test]
async fn roles_have_the_platforms_attributes() {
    let (_cluster, client) = platform().await;
    let query = "select rolsuper, rolcanlogin, rolinherit, rolbypassrls, rolreplication from pg_roles where rolname = $1";
    for (role, attributes) in [
        ("supabase_admin", [true, true, true, true, true]),
        ("postgres", [false, true, true, true, true]),
        ("anon", [false; 5]),
        ("authenticated", [false; 5]),
        ("service_role", [false, false, false, true, false]),
        ("authenticator", [false, true, false, false, false]),
        ("supabase_realtime_admin", [false; 5]),
    ] {
        let row = client.query_one(query, &[&role]).await.unwrap();
        let found: Vec<bool> = (0..5).map(|column| row.get(column)).collect();
        assert_eq!(
            found, attributes,
            "{role}: superuser, login, inherit, bypassrls, replication"
        );
    }
}

#[tokio::test]
async fn the_api_roles_may_use_new_tables_under_the_policies_of_their_owner() {
    let (cluster, _client) = platform().await;
    let owner = connect(&cluster, "postgres").await;
    owner
        .batch_execute(
            "create table notes (id int generated always as identity, owner uuid default auth.uid());
             alter table notes enable row level security;
             create policy own on notes to authenticated using (owner = auth.uid()) with check (owner = auth.uid());
             alter publication supabase_realtime add table notes;",
        )
        .await
        .unwrap();
    let api = connect(&cluster, "authenticator").await;
    let claims = format!(r#"set request.jwt.claims = '{{"sub": "{SUB}"}}'"#);
    api.batch_execute(&format!(
        "set role authenticated; {claims}; insert into notes default values"
    ))
    .await
    .unwrap();
    for (role, seen) in [("authenticated", 1_i64), ("anon", 0), ("service_role", 1)] {
        api.batch_execute(&format!("set role {role}")).await.unwrap();
        let row = api.query_one("select count(*) from notes", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), seen, "{role}");
    }
}

#[tokio::test]
async fn the_publication_is_there_and_empty_and_keeps_its_tables() {
    let (_cluster, client) = platform().await;
    let tables = "select count(*) from pg_publication_tables where pubname = 'supabase_realtime'";
    assert_eq!(client.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 0);
    client
        .batch_execute("create table t (); alter publication supabase_realtime add table t")
        .await
        .unwrap();
    client.batch_execute(PLATFORM_SQL).await.unwrap();
    assert_eq!(client.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn schema_realtime_is_open_for_use_and_closed_for_creation() {
    let (_cluster, client) = platform().await;
    for (role, usage, create) in [
        ("anon", true, false),
        ("authenticated", true, false),
        ("service_role", true, false),
        ("postgres", true, false),
        ("supabase_realtime_admin", true, true),
        ("dashboard_user", false, false),
    ] {
        let query = "select has_schema_privilege($1, 'realtime', 'usage'), has_schema_privilege($1, 'realtime', 'create')";
        let row = client.query_one(query, &[&role]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (usage, create), "{role}");
    }
}

#[tokio::test]
async fn it_can_be_laid_in_several_databases_at_once() {
    let (cluster, client) = bare().await;
    let databases = ["one", "two", "three", "four"];
    for database in databases {
        client
            .batch_execute(&format!("create database {database}"))
            .await
            .unwrap();
    }
    let lay = |database| {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(cluster.socket_dir())
            .port(cluster.port())
            .user(cluster.superuser())
            .dbname(database);
        async move {
            let (client, connection) = config.connect(NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(PLATFORM_SQL).await
        }
    };
    let [one, two, three, four] = databases.map(lay);
    let laid = tokio::join!(one, two, three, four);
    laid.0.and(laid.1).and(laid.2).and(laid.3).unwrap();
}
