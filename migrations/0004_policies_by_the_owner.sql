-- Policies on realtime.messages are made by its owner (database.md 1.1). Where nothing else lets the project's owner do
-- so, it becomes a member of that role, as on the platform's images without the extension that hands out policy rights.
do $$
begin
  if exists (select from pg_catalog.pg_roles where rolname = 'postgres' and not rolsuper)
    and exists (select from pg_catalog.pg_roles where rolname = 'supabase_realtime_admin' and not rolsuper)
    and not pg_catalog.pg_has_role('postgres', 'supabase_realtime_admin', 'member')
    and coalesce(pg_catalog.current_setting('supautils.policy_grants', true), '') not like '%realtime.messages%'
  then
    grant supabase_realtime_admin to postgres;
  end if;
exception
  -- Memberships belong to the whole cluster: another session may be granting it at the same moment.
  when unique_violation then null;
  when insufficient_privilege then
    raise notice 'role postgres may not make policies on realtime.messages: %', sqlerrm;
end
$$;
