-- A database as the reference server leaves it, after the platform's part (crates/postgres/sql/platform.sql): what its
-- migrations make in schema `realtime`, what it keeps in `_realtime`, and its publication (database.md 1.2 to 1.8, 8).
-- Definitions, owners and rights are those of the specification; the bodies of internal functions say only that they
-- are the reference's.

set role supabase_admin;

-- Members of the API's roles, and, without the platform's extension for policies, the project's owner a member of it.
grant supabase_realtime_admin to postgres;

create type realtime.action as enum ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'ERROR');
create type realtime.equality_op as enum (
  'eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in', 'like', 'ilike', 'is', 'match', 'imatch', 'isdistinct');
create type realtime.user_defined_filter as (column_name text, op realtime.equality_op, value text, negate boolean);
create type realtime.wal_column as (
  name text, type_name text, type_oid oid, value jsonb, is_pkey boolean, is_selectable boolean);
create type realtime.wal_rls as (wal jsonb, is_rls_enabled boolean, subscription_ids uuid[], errors text[]);

create table realtime.messages (
  topic text not null,
  extension text not null,
  payload jsonb,
  event text,
  private boolean default false,
  updated_at timestamp without time zone not null default now(),
  inserted_at timestamp without time zone not null default now(),
  id uuid not null default gen_random_uuid(),
  binary_payload bytea,
  constraint messages_pkey primary key (id, inserted_at)
) partition by range (inserted_at);
alter table realtime.messages add constraint messages_payload_exclusive
  check (payload is null or binary_payload is null) not valid;
create index messages_inserted_at_topic_index on realtime.messages (inserted_at desc, topic)
  where extension = 'broadcast' and private is true;
alter table realtime.messages enable row level security;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

-- Its partitions: yesterday to three days ahead, without row security of their own.
do $$
declare
  today date := timezone('utc', clock_timestamp())::date;
begin
  for ahead in -1 .. 3 loop
    execute format(
      'create table realtime.messages_%s partition of realtime.messages for values from (%L) to (%L)',
      to_char(today + ahead, 'YYYY_MM_DD'), today + ahead, today + ahead + 1);
    execute format('alter table realtime.messages_%s owner to supabase_realtime_admin',
      to_char(today + ahead, 'YYYY_MM_DD'));
  end loop;
end
$$;

create function realtime.to_regrole(role_name text) returns regrole language sql immutable
  as $$ select role_name::regrole $$;

create table realtime.subscription (
  id bigint generated always as identity,
  subscription_id uuid not null,
  entity regclass not null,
  filters realtime.user_defined_filter[] not null default '{}',
  claims jsonb not null,
  claims_role regrole not null generated always as (realtime.to_regrole(claims ->> 'role')) stored,
  created_at timestamp without time zone not null default timezone('utc', now()),
  action_filter text default '*',
  selected_columns text[],
  constraint pk_subscription primary key (id),
  constraint subscription_action_filter_check check (action_filter in ('*', 'INSERT', 'UPDATE', 'DELETE'))
);
create index ix_realtime_subscription_entity on realtime.subscription (entity);
create unique index subscription_subscription_id_entity_filters_action_filter_selec
  on realtime.subscription (subscription_id, entity, filters, action_filter, coalesce(selected_columns, '{}'));
grant select on realtime.subscription to anon, authenticated, service_role;
grant usage on sequence realtime.subscription_id_seq to anon, authenticated, service_role;

create function realtime.subscription_check_filters() returns trigger language plpgsql
  as $$ begin return new; /* the reference's */ end $$;
create trigger tr_check_filters before insert or update on realtime.subscription
  for each row execute function realtime.subscription_check_filters();

create function realtime.wal2json_escape_identifier(name text) returns text language sql immutable strict
  as $$ select regexp_replace(name, '([\\,.[:space:]])', '\\\1', 'g') $$;
create function realtime.quote_wal2json(entity regclass) returns text language sql immutable strict
  as $$ select entity::text /* the reference's */ $$;
create function realtime."cast"(val text, type_ regtype) returns jsonb language plpgsql immutable
  as $$ begin return to_jsonb(val); /* the reference's */ end $$;
create function realtime.check_equality_op(op realtime.equality_op, type_ regtype, val_1 text, val_2 text)
  returns boolean language plpgsql immutable as $$ begin return null; /* the reference's */ end $$;
create function realtime.check_equality_op(
  op realtime.equality_op, type_ regtype, val_1 text, val_2 text, negate boolean)
  returns boolean language plpgsql stable as $$ begin return null; /* the reference's */ end $$;
create function realtime.is_visible_through_filters(
  columns realtime.wal_column[], filters realtime.user_defined_filter[])
  returns boolean language sql stable as $$ select null::boolean /* the reference's */ $$;
create function realtime.build_prepared_statement_sql(
  prepared_statement_name text, entity regclass, columns realtime.wal_column[])
  returns text language sql as $$ select ''::text /* the reference's */ $$;
create function realtime.apply_rls(wal jsonb, max_record_bytes integer default 1048576)
  returns setof realtime.wal_rls language plpgsql as $$ begin return; /* the reference's */ end $$;
create function realtime.list_changes(
  publication name, slot_name name, max_changes integer, max_record_bytes integer)
  returns table (wal jsonb, is_rls_enabled boolean, subscription_ids uuid[], errors text[], slot_changes_count bigint)
  language sql set log_min_messages = 'fatal'
  as $$ select null::jsonb, null::boolean, null::uuid[], null::text[], 0::bigint where false $$;

-- What applications call: they work, and say whose they are.
create function realtime.topic() returns text language sql stable
  as $$ select nullif(current_setting('realtime.topic', true), '')::text /* the reference's */ $$;
create function realtime.send(payload jsonb, event text, topic text, private boolean default true)
returns void language plpgsql as $$
declare
  generated uuid := gen_random_uuid();
begin
  perform set_config('realtime.topic', send.topic, true);
  insert into realtime.messages (id, payload, event, topic, private, extension)
  values (generated, jsonb_build_object('id', generated) || send.payload, send.event, send.topic, send.private, 'broadcast');
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm; /* the reference's */
end
$$;
create function realtime.send_binary(payload bytea, event text, topic text, private boolean default true)
returns void language plpgsql as $$
begin
  perform set_config('realtime.topic', send_binary.topic, true);
  insert into realtime.messages (binary_payload, event, topic, private, extension)
  values (send_binary.payload, send_binary.event, send_binary.topic, send_binary.private, 'broadcast');
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm; /* the reference's */
end
$$;
create function realtime.broadcast_changes(
  topic_name text, event_name text, operation text, table_name text, table_schema text,
  new record, old record, level text default 'ROW')
returns void language plpgsql as $$
begin
  perform realtime.send(
    jsonb_build_object('schema', table_schema, 'table', table_name, 'operation', operation,
      'record', to_jsonb(new), 'old_record', to_jsonb(old)),
    event_name, topic_name, true); /* the reference's */
end
$$;

do $$
declare
  thing record;
begin
  for thing in
    select 'type' as kind, t.oid::regtype::text as name from pg_type t
      where t.typnamespace = 'realtime'::regnamespace and (t.typtype = 'e' or t.typrelid in (
        select c.oid from pg_class c where c.relkind = 'c'))
    union all
    select 'function', p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'realtime'::regnamespace
    union all
    select 'table', unnest(array['realtime.messages', 'realtime.subscription'])
  loop
    execute format('alter %s %s owner to supabase_realtime_admin', thing.kind, thing.name);
  end loop;
end
$$;

create table realtime.schema_migrations (version bigint primary key, inserted_at timestamp(0) without time zone);
revoke all on realtime.schema_migrations from postgres, dashboard_user;
insert into realtime.schema_migrations
  select 20211116024918 + step, '2026-08-01' from generate_series(1, 81) as step;
-- A subscriber it had when it was stopped.
insert into realtime.subscription (subscription_id, entity, claims)
  values ('00000000-0000-4000-8000-000000000001', 'pg_class', '{"role": "anon"}');

create publication supabase_realtime_messages_publication for table realtime.messages;

create schema _realtime;
grant usage, create on schema _realtime to supabase_realtime_admin;
create table _realtime.schema_migrations (version bigint primary key, inserted_at timestamp(0) without time zone);
create table _realtime.tenants (
  id uuid primary key, name text, external_id text unique, jwt_secret text, jwt_jwks jsonb,
  max_concurrent_users integer not null default 200, inserted_at timestamp(0) not null, updated_at timestamp(0) not null);
create table _realtime.extensions (
  id uuid primary key, type text, settings jsonb,
  tenant_external_id text references _realtime.tenants (external_id) on delete cascade,
  inserted_at timestamp(0) not null, updated_at timestamp(0) not null);
insert into _realtime.tenants (id, name, external_id, jwt_secret, inserted_at, updated_at)
  values ('00000000-0000-4000-8000-000000000002', 'realtime-dev', 'realtime-dev', 'c2VhbGVk', '2026-08-01', '2026-08-01');

reset role;
