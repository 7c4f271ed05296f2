-- Records of tenants, in the shape of the reference server's control database (`database.md 8.1`, `8.2`). All or nothing:
-- where there is a table of tenants, its server makes and alters the rest itself. Names are not qualified: the
-- connection's search_path says which schema they are in.

do $$
begin
  if pg_catalog.to_regclass(pg_catalog.format('%I.tenants', pg_catalog.current_schema())) is not null then
    return;
  end if;

  create table tenants (
    id uuid primary key,
    name text,
    external_id text,
    jwt_secret text,
    jwt_jwks jsonb,
    max_concurrent_users integer not null default 200,
    max_events_per_second integer not null default 100,
    max_bytes_per_second integer not null default 100000,
    max_channels_per_client integer not null default 100,
    max_joins_per_second integer not null default 500,
    max_presence_events_per_second integer default 1000,
    max_payload_size_in_kb integer default 3000,
    max_client_presence_events_per_window integer,
    client_presence_window_ms integer,
    postgres_cdc_default text default 'postgres_cdc_rls',
    suspend boolean default false,
    private_only boolean not null default false,
    presence_enabled boolean not null default false,
    notify_private_alpha boolean default false,
    migrations_ran integer default 0,
    broadcast_adapter varchar(255) default 'gen_rpc',
    feature_flags jsonb not null default '{}',
    gcm_migrated_at timestamp(0),
    inserted_at timestamp(0) not null,
    updated_at timestamp(0) not null,
    constraint jwt_secret_or_jwt_jwks_required check (jwt_secret is not null or jwt_jwks is not null)
  );

  create unique index tenants_external_id_index on tenants (external_id);

  create table extensions (
    id uuid primary key,
    type text,
    settings jsonb,
    tenant_external_id text references tenants (external_id) on delete cascade,
    inserted_at timestamp(0) not null,
    updated_at timestamp(0) not null
  );

  create unique index extensions_tenant_external_id_type_index on extensions (tenant_external_id, type);
  create index extensions_tenant_external_id_index on extensions (tenant_external_id);

  create table feature_flags (
    id uuid primary key,
    name varchar(255) not null,
    enabled boolean not null default false,
    rollout_percentage integer not null default 100,
    bucket_key varchar(255),
    inserted_at timestamp(0) not null,
    updated_at timestamp(0) not null,
    constraint rollout_percentage_must_be_between_0_and_100 check (rollout_percentage between 0 and 100)
  );

  create unique index feature_flags_name_index on feature_flags (name);
end
$$;
