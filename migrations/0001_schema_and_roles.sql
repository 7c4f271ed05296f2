-- Schemas and roles Walcast works with. Everything is made only where it is missing, so that a database which the
-- Supabase platform or its realtime server has set up stays as it is.

-- `if not exists` would ask for the right to create schemas even where there is nothing to create.
do $$
begin
  if pg_catalog.to_regnamespace('walcast') is null then
    create schema walcast;
  end if;
  if pg_catalog.to_regnamespace('realtime') is null then
    create schema realtime;
  end if;
end
$$;

comment on schema walcast is 'Walcast''s own objects: bookkeeping and the visibility check. Nothing here is an interface.';

do $$
declare
  wanted record;
begin
  for wanted in
    select * from (values
      ('anon', 'nologin noinherit'),
      ('authenticated', 'nologin noinherit'),
      ('service_role', 'nologin noinherit bypassrls')
    ) as api_roles(role_name, attributes)
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = wanted.role_name) then
      begin
        execute pg_catalog.format('create role %I %s', wanted.role_name, wanted.attributes);
      exception
        -- Another session may make the role at the same moment: roles belong to the whole cluster.
        when duplicate_object or unique_violation then null;
        when insufficient_privilege then
          raise warning 'role % does not exist and may not be created by %; tokens with that role will be refused',
            wanted.role_name, current_user;
      end;
    end if;
  end loop;
end
$$;

-- Not where they have it: a grant by another role would be added to the first.
do $$
declare
  api_role text;
begin
  foreach api_role in array array['anon', 'authenticated', 'service_role'] loop
    if exists (select from pg_catalog.pg_roles where rolname = api_role)
      and not pg_catalog.has_schema_privilege(api_role, 'realtime', 'usage')
    then
      execute pg_catalog.format('grant usage on schema realtime to %I', api_role);
    end if;
  end loop;
exception
  when undefined_object or insufficient_privilege then
    raise warning 'could not grant usage on schema realtime to the API roles: %', sqlerrm;
end
$$;
