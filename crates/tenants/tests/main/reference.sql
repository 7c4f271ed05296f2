-- A control database as the reference server leaves it (`database.md 8.1`, `8.2`), with the tenant of self-hosting.
create schema _realtime;
create table _realtime.schema_migrations (version bigint primary key, inserted_at timestamp(0));
insert into _realtime.schema_migrations values (20210706140551, '2023-01-01');
create table _realtime.tenants (
  id uuid primary key, name text, external_id text, jwt_secret text, jwt_jwks jsonb,
  max_concurrent_users integer not null default 200, max_events_per_second integer not null default 100,
  max_bytes_per_second integer not null default 100000, max_channels_per_client integer not null default 100,
  max_joins_per_second integer not null default 500, max_presence_events_per_second integer default 1000,
  max_payload_size_in_kb integer default 3000, max_client_presence_events_per_window integer,
  client_presence_window_ms integer, postgres_cdc_default text default 'postgres_cdc_rls',
  suspend boolean default false, private_only boolean not null default false,
  presence_enabled boolean not null default false, notify_private_alpha boolean default false,
  migrations_ran integer default 0, broadcast_adapter varchar(255) default 'gen_rpc',
  feature_flags jsonb not null default '{}', gcm_migrated_at timestamp(0),
  inserted_at timestamp(0) not null, updated_at timestamp(0) not null,
  constraint jwt_secret_or_jwt_jwks_required check (jwt_secret is not null or jwt_jwks is not null));
create unique index tenants_external_id_index on _realtime.tenants (external_id);
create table _realtime.extensions (
  id uuid primary key, type text, settings jsonb,
  tenant_external_id text references _realtime.tenants (external_id) on delete cascade,
  inserted_at timestamp(0) not null, updated_at timestamp(0) not null);
create unique index extensions_tenant_external_id_type_index on _realtime.extensions (tenant_external_id, type);
create index extensions_tenant_external_id_index on _realtime.extensions (tenant_external_id);
create table _realtime.feature_flags (
  id uuid primary key, name varchar(255) not null unique, enabled boolean not null default false,
  rollout_percentage integer not null default 100, bucket_key varchar(255),
  inserted_at timestamp(0) not null, updated_at timestamp(0) not null,
  constraint rollout_percentage_must_be_between_0_and_100 check (rollout_percentage between 0 and 100));

-- Sealed with the key `supabaserealtime`; the password is `postgres`.
insert into _realtime.tenants (id, name, external_id, jwt_secret, jwt_jwks, inserted_at, updated_at) values (
  'cba94c25-2f12-487b-a630-9d84f64a4e6b', 'realtime-dev', 'realtime-dev', 'h8qBRNlhVK66Esn+DYe2lLm2+kdaScUvMc/tGGreclU=',
  '{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "1"}]}', '2026-11-21 04:08:33', '2026-11-21 04:08:33');
insert into _realtime.extensions values (
  '11111111-1111-4111-8111-111111111111', 'postgres_cdc_rls', '{
    "region": "us-east-1", "db_host": "7DdgtSK7rYs2fSvlK2dwYA==", "db_port": "YlyojHpzq95/MAx5dd8T2A==",
    "db_name": "UInb8KzBUEPgg9VcQyFSXw==", "db_user": "uxbEq/zz8DXVD53TOI1zmw==", "db_password": "sWBpZNdjggEPTQVlI52Zfw==",
    "slot_name": "supabase_realtime_replication_slot", "publication": "supabase_realtime", "ssl_enforced": false,
    "poll_interval_ms": 100, "poll_max_changes": 100, "poll_max_record_bytes": 1048576}',
  'realtime-dev', '2026-11-21 04:08:33', '2026-11-21 04:08:33');
