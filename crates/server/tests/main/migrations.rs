//! Migrations over a database that the reference server has used (`database.md 1.10`).

use std::collections::BTreeSet;

use walcast::migrate::migrate_at;
use walcast_testkit::Postgres;

/// What the reference server leaves behind, as far as a migration could touch it (`database.md 1.2` to `1.8`), and what
/// an application has put on top.
const REFERENCE: &str = r#"
    create type realtime.action as enum ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'ERROR');
    create type realtime.equality_op as enum ('eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in');
    create type realtime.user_defined_filter as (column_name text, op realtime.equality_op, value text);
    create function realtime.to_regrole(role_name text) returns regrole language sql immutable as 'select role_name::regrole';
    create table realtime.subscription (
      id bigint generated always as identity primary key, subscription_id uuid not null, entity regclass not null,
      filters realtime.user_defined_filter[] not null default '{}', claims jsonb not null,
      claims_role regrole not null generated always as (realtime.to_regrole(claims ->> 'role')) stored,
      created_at timestamp not null default timezone('utc', now()));
    insert into realtime.subscription (subscription_id, entity, claims)
      values ('00000000-0000-4000-8000-000000000001', 'pg_class', '{"role": "anon"}');
    create table realtime.schema_migrations (version bigint primary key, inserted_at timestamp(0));
    insert into realtime.schema_migrations values (20211116024918, now()), (20211116045059, now());
    create table realtime.messages (
      topic text not null, extension text not null, payload jsonb, event text, private boolean default false,
      updated_at timestamp not null default now(), inserted_at timestamp not null default now(),
      id uuid not null default gen_random_uuid(), primary key (id, inserted_at)) partition by range (inserted_at);
    create table realtime.messages_2026_01_01 partition of realtime.messages for values from ('2026-01-01') to ('2026-01-02');
    alter table realtime.messages enable row level security;
    alter table realtime.messages owner to supabase_realtime_admin;
    create policy members on realtime.messages for select to authenticated using (topic like 'room-%');
    create function realtime.touch() returns trigger language plpgsql as 'begin return new; end';
    create trigger touched before insert on realtime.messages for each row execute function realtime.touch();
    create function realtime.topic() returns text language sql stable as $$select nullif(current_setting('realtime.topic', true), '')::text$$;
    create function realtime.send(payload jsonb, event text, topic text, private boolean default true)
      returns void language plpgsql as 'begin /* the reference''s */ end';
    create function realtime.send_binary(payload bytea, event text, topic text, private boolean default true)
      returns void language plpgsql as 'begin /* the reference''s */ end';
    create function realtime.broadcast_changes(
      topic_name text, event_name text, operation text, table_name text, table_schema text, new record, old record,
      level text default 'ROW') returns void language plpgsql as 'begin /* the reference''s */ end';
    create schema _realtime;
    create table _realtime.tenants (id uuid primary key, external_id text);
    insert into _realtime.tenants values (gen_random_uuid(), 'realtime-dev');
    create publication supabase_realtime_messages_publication for table realtime.messages;
"#;

/// Everything in all schemas but ours: definitions, owners, rights, policies, triggers, and the rows of bookkeeping.
const SNAPSHOT: &str = "
    select string_agg(line, e'\\n' order by line) from (
      select format('schema %s %s %s', nspname, nspowner::regrole, nspacl) as line from pg_namespace where nspname !~ '^(pg_|walcast)'
      union all
      select format('class %s %s %s %s %s', c.oid::regclass, c.relkind, c.relowner::regrole, c.relacl, c.relrowsecurity)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname !~ '^(pg_|walcast|information)'
      union all
      select format('column %s.%s %s %s', attrelid::regclass, attname, atttypid::regtype, attacl)
        from pg_attribute join pg_class c on c.oid = attrelid join pg_namespace n on n.oid = c.relnamespace
        where n.nspname !~ '^(pg_|walcast|information)' and attnum > 0
      union all
      select format('function %s %s %s %s', p.oid::regprocedure, p.proowner::regrole, p.proacl, md5(p.prosrc))
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname !~ '^(pg_|walcast|information)'
      union all
      select format('policy %s %s %s', polname, polrelid::regclass, polqual) from pg_policy
      union all
      select format('trigger %s %s', tgname, tgrelid::regclass) from pg_trigger
      union all
      select format('publication %s %s', pubname, (select string_agg(tablename, ',' order by tablename) from pg_publication_tables t where t.pubname = p.pubname))
        from pg_publication p
      union all
      select format('subscription %s', s) from realtime.subscription s
      union all
      select format('bookkeeping %s', m) from realtime.schema_migrations m
      union all
      select format('tenant %s', t) from _realtime.tenants t
    ) catalog";

#[tokio::test]
async fn a_database_of_the_reference_server_stays_as_it_is() {
    let database = Postgres::shared().await.database().await;
    database.execute(REFERENCE).await;
    let client = database.client().await;
    let before: String = client.query_one(SNAPSHOT, &[]).await.unwrap().get(0);
    for _ in 0..2 {
        Box::pin(migrate_at(&database.url())).await.unwrap();
        let after: String = client.query_one(SNAPSHOT, &[]).await.unwrap().get(0);
        assert_eq!(before, after);
    }
}

#[tokio::test]
async fn an_older_database_of_the_reference_server_gets_only_the_functions_it_lacks() {
    let database = Postgres::shared().await.database().await;
    database.execute(REFERENCE).await;
    // It once took bytes, too (`database.md 1.6`), and knew the others not yet.
    database
        .execute(
            "drop function realtime.send(jsonb, text, text, boolean), realtime.send_binary, realtime.broadcast_changes;
             create function realtime.send(payload bytea, event text, topic text, private boolean default true)
               returns void language plpgsql as 'begin /* the reference''s */ end'",
        )
        .await;
    let client = database.client().await;
    let snapshot = async || -> BTreeSet<String> {
        let lines: String = client.query_one(SNAPSHOT, &[]).await.unwrap().get(0);
        lines.lines().map(str::to_owned).collect()
    };
    let before = snapshot().await;
    Box::pin(migrate_at(&database.url())).await.unwrap();
    let after = snapshot().await;
    assert_eq!(before.difference(&after).next(), None, "nothing is changed");
    let added: Vec<&str> = after
        .difference(&before)
        .filter_map(|line| line.split_once(") ").map(|(signature, _)| signature))
        .collect();
    assert_eq!(
        added,
        [
            "function realtime.broadcast_changes(text,text,text,text,text,record,record,text",
            "function realtime.send(jsonb,text,text,boolean",
            "function realtime.send_binary(bytea,text,text,boolean",
        ]
    );
}

#[tokio::test]
async fn where_everything_is_there_no_right_to_create_in_the_application_s_schemas_is_needed() {
    let database = Postgres::shared().await.database().await;
    database.execute(REFERENCE).await;
    Box::pin(migrate_at(&database.url_as("postgres", "")))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_empty_database_gets_schemas_and_roles() {
    let database = Postgres::shared().await.database().await;
    database
        .execute("drop schema realtime cascade; drop schema auth cascade")
        .await;
    Box::pin(migrate_at(&database.url())).await.unwrap();
    let client = database.client().await;
    let row = client
        .query_one(
            "select to_regnamespace('realtime') is not null,
               (select count(*) from pg_roles where rolname in ('anon', 'authenticated', 'service_role')),
               has_schema_privilege('anon', 'realtime', 'usage'), has_schema_privilege('anon', 'walcast', 'usage')",
            &[],
        )
        .await
        .unwrap();
    let found: (bool, i64, bool, bool) = (row.get(0), row.get(1), row.get(2), row.get(3));
    assert_eq!(found, (true, 3, true, false));
}

#[tokio::test]
async fn a_migration_that_was_applied_before_its_text_was_corrected_counts_as_applied() {
    let database = Postgres::shared().await.database().await;
    Box::pin(migrate_at(&database.url())).await.unwrap();
    let recorded = |checksum: &str| {
        format!("update walcast.migrations set checksum = decode('{checksum}', 'hex') where version = 1")
    };
    // The text that granted usage on schema realtime again to those who have it.
    let superseded = "bb71c50dd894b150d9b17e519fcea72e456e28e33bb28517f1a6df8b7ff1d9f5\
                      fa5ece8ff3d80efc38ad14950d4e5805";
    database.execute(&recorded(superseded)).await;
    Box::pin(migrate_at(&database.url())).await.unwrap();
    database.execute(&recorded("00")).await;
    let error = Box::pin(migrate_at(&database.url())).await.unwrap_err();
    assert!(error.to_string().contains("modified"), "{error}");
}
