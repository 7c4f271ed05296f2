-- What the Supabase platform gives a database before anything of the application's own is in it (database.md 1.1).
-- For a superuser, in each database. It may be run again: roles and the publication stay as they are, the functions of
-- schema auth become these.

-- Roles belong to the whole cluster: another session may be making them at this moment.
do $$
declare
  wanted record;
begin
  for wanted in
    select * from (values
      -- The project's owner. On the platform the superuser is supabase_admin, and applications do not have it.
      ('postgres', 'login nosuperuser createdb createrole replication bypassrls'),
      ('supabase_admin', 'login superuser createdb createrole replication bypassrls'),
      -- What an API request runs as, by the role claim of its token.
      ('anon', 'nologin noinherit'),
      ('authenticated', 'nologin noinherit'),
      ('service_role', 'nologin noinherit bypassrls'),
      -- Whom the REST server logs in as before it becomes one of these.
      ('authenticator', 'login noinherit'),
      ('dashboard_user', 'nologin createdb createrole replication'),
      ('supabase_auth_admin', 'login noinherit createrole'),
      ('supabase_realtime_admin', 'nologin noinherit')
    ) as roles(name, attributes)
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = wanted.name) then
      begin
        execute pg_catalog.format('create role %I %s', wanted.name, wanted.attributes);
      exception
        when duplicate_object or unique_violation then null;
      end;
    end if;
  end loop;
end
$$;

-- Grants of membership, only where missing: concurrent ones would collide on the same catalog row.
do $$
declare
  wanted record;
begin
  for wanted in
    select granted, member
    from (values ('authenticator'), ('postgres'), ('supabase_realtime_admin')) as members(member),
         (values ('anon'), ('authenticated'), ('service_role')) as api_roles(granted)
  loop
    if not exists (
      select from pg_catalog.pg_auth_members
      where roleid = wanted.granted::pg_catalog.regrole and member = wanted.member::pg_catalog.regrole
    ) then
      begin
        execute pg_catalog.format('grant %I to %I', wanted.granted, wanted.member);
      exception
        when duplicate_object or unique_violation then null;
      end;
    end if;
  end loop;
end
$$;

do $$
begin
  execute pg_catalog.format('grant create on database %I to postgres, supabase_realtime_admin', current_database());
end
$$;

create schema if not exists auth authorization supabase_admin;
create schema if not exists extensions authorization supabase_admin;
create schema if not exists realtime authorization supabase_admin;

grant usage on schema public, auth, extensions to postgres, anon, authenticated, service_role;
grant usage, create on schema public to postgres, supabase_realtime_admin;
grant usage on schema extensions, auth to supabase_realtime_admin, dashboard_user;
grant usage on schema realtime to anon, authenticated, service_role;
grant usage on schema realtime to postgres with grant option;
grant usage, create on schema realtime to supabase_realtime_admin with grant option;

-- What the API's roles may do with tables is up to policies and the application's own grants and revokes.
do $$
declare
  owner name;
begin
  foreach owner in array array['postgres', 'supabase_admin', current_user]::name[] loop
    execute pg_catalog.format(
      'alter default privileges for role %I in schema public grant all on tables to postgres, anon, authenticated, service_role',
      owner);
    execute pg_catalog.format(
      'alter default privileges for role %I in schema public grant all on sequences to postgres, anon, authenticated, service_role',
      owner);
    execute pg_catalog.format(
      'alter default privileges for role %I in schema public grant all on functions to postgres, anon, authenticated, service_role',
      owner);
  end loop;
end
$$;

alter default privileges for role supabase_admin in schema realtime grant all on tables to postgres, dashboard_user;
alter default privileges for role supabase_admin in schema realtime grant all on sequences to postgres, dashboard_user;
alter default privileges for role supabase_admin in schema realtime grant all on functions to postgres, dashboard_user;

-- The claims of the request's token. A server says them once as JSON; older ones said each in a setting of its own,
-- and where both are there the single one wins. A setting that was set in some earlier transaction reads as ''.
create or replace function auth.jwt()
returns jsonb
language sql
stable
return coalesce(
  nullif(current_setting('request.jwt.claim', true), ''),
  nullif(current_setting('request.jwt.claims', true), ''))::jsonb;

create or replace function auth.uid()
returns uuid
language sql
stable
return coalesce(
  nullif(current_setting('request.jwt.claim.sub', true), ''),
  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid;

create or replace function auth.role()
returns text
language sql
stable
return coalesce(
  nullif(current_setting('request.jwt.claim.role', true), ''),
  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role');

create or replace function auth.email()
returns text
language sql
stable
return coalesce(
  nullif(current_setting('request.jwt.claim.email', true), ''),
  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email');

grant execute on all functions in schema auth to public;

do $$
begin
  if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
    -- So that the project's owner can add tables to it.
    alter publication supabase_realtime owner to postgres;
  end if;
end
$$;
