//! `realtime.messages` (`database.md 1.3`).

use crate::scene::{Session, migrate, migrated, with_partition};
use walcast_testkit::Postgres;

#[tokio::test]
async fn columns_are_the_specified_ones_in_their_order() {
    let database = migrated().await;
    let session = Session::of(&database).await;
    let columns = session
        .value(
            "select string_agg(format('%s %s%s', attname, format_type(atttypid, atttypmod), case when attnotnull then ' not null' else '' end), ', ' order by attnum)
             from pg_attribute where attrelid = 'realtime.messages'::regclass and attnum > 0",
        )
        .await
        .unwrap();
    assert_eq!(
        columns,
        "topic text not null, extension text not null, payload jsonb, event text, private boolean, \
         updated_at timestamp without time zone not null, inserted_at timestamp without time zone not null, \
         id uuid not null, binary_payload bytea"
    );
}

#[tokio::test]
async fn keys_index_check_owner_and_row_security_are_the_specified_ones() {
    let database = migrated().await;
    let session = Session::of(&database).await;
    for (query, expected) in [
        (
            "select pg_get_partkeydef('realtime.messages'::regclass)",
            "RANGE (inserted_at)",
        ),
        (
            "select pg_get_constraintdef(oid) from pg_constraint where conname = 'messages_pkey' and conrelid = 'realtime.messages'::regclass",
            "PRIMARY KEY (id, inserted_at)",
        ),
        (
            "select pg_get_constraintdef(oid) from pg_constraint where conname = 'messages_payload_exclusive'",
            "CHECK (((payload IS NULL) OR (binary_payload IS NULL)))",
        ),
        (
            "select pg_get_indexdef('realtime.messages_inserted_at_topic_index'::regclass)",
            "CREATE INDEX messages_inserted_at_topic_index ON ONLY realtime.messages USING btree (inserted_at DESC, topic) \
             WHERE ((extension = 'broadcast'::text) AND (private IS TRUE))",
        ),
        (
            "select format('%s %s %s', relowner::regrole, relrowsecurity, relforcerowsecurity) from pg_class where oid = 'realtime.messages'::regclass",
            "supabase_realtime_admin t f",
        ),
        ("select count(*) from pg_policy", "0"),
    ] {
        assert_eq!(session.value(query).await.as_deref(), Some(expected), "{query}");
    }
}

#[tokio::test]
async fn defaults_fill_in_a_public_message_at_utc_whatever_the_session_s_time_zone() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session
        .run(
            "set time zone 'Pacific/Kiritimati';
             insert into realtime.messages (topic, extension) values ('t', 'broadcast')",
        )
        .await
        .unwrap();
    let filled = session
        .value(
            "select private = false and payload is null and event is null and binary_payload is null and id is not null
               and abs(extract(epoch from inserted_at - (now() at time zone 'utc'))) < 60
               and abs(extract(epoch from updated_at - (now() at time zone 'utc'))) < 60
             from realtime.messages",
        )
        .await;
    assert_eq!(filled.as_deref(), Some("true"));
}

#[tokio::test]
async fn a_message_is_json_or_bytes_or_neither_but_not_both() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    for (payload, bytes, is_accepted) in [
        ("'{}'", "null", true),
        ("null", r"'\x01'", true),
        ("null", "null", true),
        ("'{}'", r"'\x01'", false),
    ] {
        let inserted = session
            .run(&format!(
                "insert into realtime.messages (topic, extension, payload, binary_payload) values ('t', 'broadcast', {payload}, {bytes})"
            ))
            .await;
        match inserted {
            Ok(_) => assert!(is_accepted, "{payload} and {bytes}"),
            Err(error) => {
                assert!(!is_accepted, "{error}");
                assert!(error.contains("messages_payload_exclusive"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_day_without_a_partition_is_refused_by_name_of_the_table() {
    let database = migrated().await;
    let client = database.client().await;
    let refused = client
        .batch_execute("insert into realtime.messages (topic, extension) values ('t', 'broadcast')")
        .await
        .unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(
        (refused.code().code(), refused.table()),
        ("23514", Some("messages"))
    );
}

#[tokio::test]
async fn privileges_are_the_specified_ones() {
    let database = migrated().await;
    let session = Session::of(&database).await;
    const ALL: &str = "DELETE INSERT REFERENCES SELECT TRIGGER TRUNCATE UPDATE";
    for (role, expected) in [
        ("anon", "INSERT SELECT UPDATE"),
        ("authenticated", "INSERT SELECT UPDATE"),
        ("service_role", "INSERT SELECT UPDATE"),
        ("postgres", ALL),
        ("dashboard_user", ALL),
        ("PUBLIC", ""),
    ] {
        let granted = session
            .value(&format!(
                "select coalesce(string_agg(privilege_type, ' ' order by privilege_type), '')
                 from information_schema.role_table_grants
                 where table_schema = 'realtime' and table_name = 'messages' and grantee = '{role}' and privilege_type <> 'MAINTAIN'"
            ))
            .await;
        assert_eq!(granted.as_deref(), Some(expected), "{role}");
    }
}

#[tokio::test]
async fn without_a_policy_only_roles_that_bypass_row_security_read_and_write() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    let insert = "insert into realtime.messages (topic, extension) values ('t', 'broadcast')";
    session.run(insert).await.unwrap();
    for (role, passes) in [("anon", false), ("authenticated", false), ("service_role", true)] {
        session.run(&format!("set role {role}")).await.unwrap();
        let seen = session.value("select count(*) > 0 from realtime.messages").await;
        assert_eq!(seen, Some(passes.to_string()), "{role} reads");
        assert_eq!(session.run(insert).await.is_ok(), passes, "{role} writes");
        session.run("reset role").await.unwrap();
    }
}

#[tokio::test]
async fn the_project_s_owner_makes_policies_and_triggers_on_it() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session
        .run(
            "set role postgres;
             create policy reads on realtime.messages for select to authenticated using (realtime.topic() = topic);
             create policy writes on realtime.messages for insert to authenticated with check (topic like 'room-%');
             create function public.touched() returns trigger language plpgsql as 'begin return new; end';
             create trigger touched before insert on realtime.messages for each row execute function public.touched();
             set role authenticated;
             insert into realtime.messages (topic, extension) values ('room-1', 'broadcast');
             set realtime.topic = 'room-1'",
        )
        .await
        .unwrap();
    assert_eq!(
        session
            .value("select count(*) from realtime.messages")
            .await
            .as_deref(),
        Some("1")
    );
}

#[tokio::test]
async fn without_the_platform_s_roles_the_table_is_made_all_the_same() {
    let server = Postgres::start(Postgres::options()).await;
    let database = server.database().await;
    database
        .execute(
            "drop schema realtime cascade;
             alter role dashboard_user rename to elsewhere;
             alter role supabase_realtime_admin rename to nowhere;
             create role owner login",
        )
        .await;
    let grant = format!("grant create on database {} to owner", database.name());
    database.execute(&grant).await;
    migrate(&database.url_as("owner", "")).await;
    let session = Session::of(&database).await;
    let owner = session
        .value("select relowner::regrole from pg_class where oid = 'realtime.messages'::regclass")
        .await;
    assert_eq!(
        owner.as_deref(),
        Some("owner"),
        "it may not make the role that would own it"
    );
}
