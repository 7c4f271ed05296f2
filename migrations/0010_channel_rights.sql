-- Who may read and who may write which private channels? One round trip for many checks; each of them is what a
-- transaction of its own that is rolled back would be (database.md 3.2, 3.3).
--
-- writes        for each check: whether it asks for writing, or else for reading.
-- broadcasts    for each check: whether it is about broadcasts.
-- presences     for each check: whether it is about presence.
-- roles         the role of each check. Equal ones next to each other save planning.
-- claims        all claims of the token, JSON text, seen by policies as request.jwt.claims.
-- topics        the channel's name without `realtime:`, seen by policies as realtime.topic().
-- headers       the request's headers as a JSON object, seen by policies as request.headers.
-- slice_ms      no further check is begun once this long has passed, so that a slow one does not spoil the rest.
--
-- Returns a row for each check made, in order; checks without a row were not made.
--
-- number        which check, from 1.
-- broadcast     whether the role may; null when that was not asked, or the check failed.
-- presence      likewise.
-- failed_at     null, or where the check failed: `probe` (inserting the rows to be read), `settings` (becoming the
--               role) or `policies`.
-- state         null, or the SQLSTATE: of the failure; of a write that is not allowed, always 42501.
-- relation      null, or the table the failure is about, without its schema.
-- message       null, or what Postgres says about the failure, or about the write that is not allowed.
--
-- Nothing is left, nor ever seen by another session or by the replication stream: each check is a sub-transaction that
-- is always rolled back, and with it the role, the settings and whatever the policies' functions did.
create or replace function walcast.channel_rights(
  writes boolean[], broadcasts boolean[], presences boolean[],
  roles text[], claims text[], topics text[], headers text[], slice_ms int
)
returns table (
  number int, broadcast boolean, presence boolean, failed_at text, state text, relation text, message text
)
language plpgsql
volatile
-- The plan for a role is the same for all its topics; planned anew each time, a check costs thrice as much.
set plan_cache_mode = force_generic_plan
as $$
declare
  slice_end timestamptz := pg_catalog.clock_timestamp() + slice_ms * interval '1 millisecond';
  broadcast_probe uuid;
  presence_probe uuid;
  at_utc timestamp;
begin
  for check_number in 1 .. pg_catalog.cardinality(roles) loop
    number := check_number;
    broadcast := null;
    presence := null;
    state := null;
    relation := null;
    message := null;
    begin
      at_utc := pg_catalog.timezone('UTC'::text, pg_catalog.clock_timestamp());

      if not writes[number] then
        -- Rows for the read policies to look at, put there by ourselves, whom no policy hinders.
        failed_at := 'probe';
        broadcast_probe := case when broadcasts[number] then pg_catalog.gen_random_uuid() end;
        presence_probe := case when presences[number] then pg_catalog.gen_random_uuid() end;
        insert into realtime.messages (id, topic, extension, inserted_at, updated_at)
          select probe.id, topics[check_number], probe.extension, at_utc, at_utc
          from (values (broadcast_probe, 'broadcast'::text), (presence_probe, 'presence'::text)) as probe(id, extension)
          where probe.id is not null;
      end if;

      failed_at := 'settings';
      -- SET ROLE none would mean our own role, which may do anything. No role can be called that.
      if roles[number] = 'none' then
        raise invalid_parameter_value using message = 'role "none" does not exist';
      end if;
      perform
        pg_catalog.set_config('role', roles[check_number], true),
        pg_catalog.set_config('realtime.topic', topics[check_number], true),
        pg_catalog.set_config('request.jwt.claims', claims[check_number], true),
        pg_catalog.set_config('request.jwt.claim.sub',
          coalesce(pg_catalog.json_extract_path_text(claims[check_number]::json, 'sub'), ''), true),
        pg_catalog.set_config('request.jwt.claim.role', roles[check_number], true),
        pg_catalog.set_config('request.headers', headers[check_number], true);

      failed_at := 'policies';
      if writes[number] then
        -- Without RETURNING, which would ask the read policies too. Each insert in a savepoint of its own.
        if broadcasts[number] then
          begin
            broadcast := true;
            -- A cached plan is not looked up by name again, which is where Postgres asks for this right.
            if not pg_catalog.has_schema_privilege('realtime', 'usage') then
              raise insufficient_privilege using message = 'permission denied for schema realtime';
            end if;
            insert into realtime.messages (topic, extension, inserted_at, updated_at)
              values (topics[check_number], 'broadcast', at_utc, at_utc);
          exception when insufficient_privilege then
            broadcast := false;
            state := sqlstate;
            message := sqlerrm;
          end;
        end if;
        if presences[number] then
          begin
            presence := true;
            if not pg_catalog.has_schema_privilege('realtime', 'usage') then
              raise insufficient_privilege using message = 'permission denied for schema realtime';
            end if;
            insert into realtime.messages (topic, extension, inserted_at, updated_at)
              values (topics[check_number], 'presence', at_utc, at_utc);
          exception when insufficient_privilege then
            presence := false;
            state := sqlstate;
            message := coalesce(message, sqlerrm);
          end;
        end if;
      else
        if not pg_catalog.has_schema_privilege('realtime', 'usage') then
          raise insufficient_privilege using message = 'permission denied for schema realtime';
        end if;
        -- By id alone: a role may have been granted no other column.
        select pg_catalog.bool_or(seen.id = broadcast_probe), pg_catalog.bool_or(seen.id = presence_probe)
          into broadcast, presence
          from realtime.messages as seen
          where seen.id in (broadcast_probe, presence_probe);
        broadcast := case when broadcasts[number] then coalesce(broadcast, false) end;
        presence := case when presences[number] then coalesce(presence, false) end;
      end if;

      failed_at := null;
      raise sqlstate 'WALBK';
    exception
      -- All there are: `others` leaves out the other two.
      when others or query_canceled or assert_failure then
        if failed_at is not null then
          broadcast := null;
          presence := null;
          get stacked diagnostics state = returned_sqlstate, relation = table_name, message = message_text;
          relation := nullif(relation, '');
        elsif sqlstate <> 'WALBK' then
          -- Cancelled after the answer was known.
          return next;
          return;
        end if;
    end;
    return next;
    -- The statement's time limit is used up: nothing would stop a further check.
    exit when state = '57014' or pg_catalog.clock_timestamp() >= slice_end;
  end loop;
end
$$;

revoke all on function walcast.channel_rights(
  boolean[], boolean[], boolean[], text[], text[], text[], text[], int) from public;
