-- Which of some rows may which of some identities see? One round trip for a batch of rows and identities.
--
-- probe        a statement with one text[] parameter a key column that returns int[]: the positions of those keys
--              whose row exists for the current role and claims. It is prepared once a session, so that an identity
--              costs an execution and not a plan.
-- roles        the role of each identity; equal ones next to each other save a switch.
-- claims       the claims of each identity, JSON text, seen by policies as request.jwt.claims.
-- sets         for each identity the number (from 1) of its list in row_sets.
-- row_sets     lists of row numbers (from 1), each an int[] literal.
-- keys         the key texts, all rows of the first key column, then all of the second, and so on.
-- key_columns  how many key columns there are.
-- xids         transactions (32 bit) that must be over before the rows are looked at: the stream can be ahead of
--              what other sessions see.
-- wait_ms      how long to wait for them.
--
-- Returns a row for each identity that sees something (seen: row numbers) or whose check raised (failure: why; the
-- rows that did not raise are in seen), and a single row with identity 0 when a transaction is still running.
--
-- A raising policy costs only its own identity and row: the batch is asked again row by row.
create or replace function walcast.visible_rows(
  probe text, roles text[], claims text[], sets int[], row_sets text[],
  keys text[], key_columns int, xids int8[], wait_ms int
)
returns table (identity int, seen int[], failure text)
language plpgsql
volatile
-- A probe's parameters never change which plan is right, and planning costs more than running it.
set plan_cache_mode = force_generic_plan
as $$
declare
  statement_name text := 'walcast_' || pg_catalog.md5(probe);
  rows_total int := pg_catalog.cardinality(keys) / key_columns;
  deadline timestamptz := pg_catalog.clock_timestamp() + wait_ms * interval '1 millisecond';
  horizon int8;
  full_xid int8;
  xid int8;
  current_role_name text := '';
  ignored text;
  current_set int := 0;
  set_rows int[];
  single int;
  call text;
  found int[];
begin
  foreach xid in array xids loop
    -- The upper half of the 64-bit id is that of the snapshot, or its neighbour around a wrap.
    horizon := pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8;
    full_xid := (horizon >> 32 << 32) | xid;
    if full_xid - horizon > 2147483648 then
      full_xid := full_xid - 4294967296;
    elsif horizon - full_xid > 2147483648 then
      full_xid := full_xid + 4294967296;
    end if;
    while not pg_catalog.pg_visible_in_snapshot(full_xid::text::xid8, pg_catalog.pg_current_snapshot()) loop
      if pg_catalog.clock_timestamp() > deadline then
        identity := 0;
        return next;
        return;
      end if;
      perform pg_catalog.pg_sleep(0.0003);
    end loop;
  end loop;

  if not exists (select from pg_catalog.pg_prepared_statements s where s.name = statement_name) then
    execute 'prepare ' || statement_name || ' as ' || probe;
  end if;

  for i in 1 .. pg_catalog.cardinality(roles) loop
    if sets[i] <> current_set then
      current_set := sets[i];
      set_rows := row_sets[current_set]::int[];
      select 'execute ' || statement_name || '(' || pg_catalog.string_agg(
          pg_catalog.quote_literal((
            select pg_catalog.array_agg(keys[(c - 1) * rows_total + r] order by o)
            from pg_catalog.unnest(set_rows) with ordinality as u(r, o))::text) || '::text[]', ', ' order by c) || ')'
        into call
        from pg_catalog.generate_series(1, key_columns) as c;
    end if;
    identity := i;
    seen := null;
    failure := null;
    begin
      if roles[i] <> current_role_name then
        -- SET ROLE none would mean the session's own, far mightier role. No role can be called that.
        if not exists (select from pg_catalog.pg_roles where rolname = roles[i]) then
          raise undefined_object using message = pg_catalog.format('role "%s" does not exist', roles[i]);
        end if;
        ignored := pg_catalog.set_config('role', roles[i], true);
        current_role_name := roles[i];
      end if;
      ignored := pg_catalog.set_config('request.jwt.claims', claims[i], true);
      execute call into found;
      if found is not null then
        select pg_catalog.array_agg(set_rows[f]) into seen from pg_catalog.unnest(found) as f;
      end if;
    exception when others then
      failure := sqlerrm;
      -- The rolled-back block took the role with it.
      current_role_name := '';
    end;
    if failure is not null and pg_catalog.cardinality(set_rows) > 1
      and exists (select from pg_catalog.pg_roles where rolname = roles[i]) then
      foreach single in array set_rows loop
        begin
          ignored := pg_catalog.set_config('role', roles[i], true);
          ignored := pg_catalog.set_config('request.jwt.claims', claims[i], true);
          execute (
            select 'execute ' || statement_name || '(' || pg_catalog.string_agg(
              pg_catalog.quote_literal(array[keys[(c - 1) * rows_total + single]]::text) || '::text[]', ', ' order by c) || ')'
            from pg_catalog.generate_series(1, key_columns) as c)
          into found;
          if found is not null then
            seen := seen || single;
          end if;
        exception when others then
          failure := sqlerrm;
        end;
        current_role_name := '';
      end loop;
    end if;
    if seen is not null or failure is not null then
      return next;
    end if;
  end loop;
  ignored := pg_catalog.set_config('role', 'none', true);
end
$$;

revoke all on function walcast.visible_rows(text, text[], text[], int[], text[], text[], int, int8[], int) from public;
