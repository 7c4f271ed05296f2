-- The table private channels are judged by and broadcasts from the database are written to, and the functions that
-- write them (database.md 1.3 and 1.6). All of it is a contract with applications: what exists already, made by the
-- Supabase platform or its realtime server, stays as it is.

-- The owner that applications and the platform expect.
do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'supabase_realtime_admin') then
    create role supabase_realtime_admin nologin noinherit;
  end if;
exception
  when duplicate_object or unique_violation or insufficient_privilege then null;
end
$$;

-- Gives what was made here to that owner. Without the right to, the role that runs this file stays the owner.
create function walcast.give_away(thing text) returns void
language plpgsql
as $$
begin
  execute 'alter ' || thing || ' owner to supabase_realtime_admin';
exception when insufficient_privilege or undefined_object then
  raise notice '% stays with %: %', thing, current_user, sqlerrm;
end
$$;

do $$
declare
  api_role text;
begin
  if pg_catalog.to_regclass('realtime.messages') is not null then
    return;
  end if;

  create table realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    -- Partitions are UTC days, whatever the time zone of a session.
    updated_at timestamp without time zone not null default (pg_catalog.now() at time zone 'utc'),
    inserted_at timestamp without time zone not null default (pg_catalog.now() at time zone 'utc'),
    id uuid not null default pg_catalog.gen_random_uuid(),
    binary_payload bytea,
    constraint messages_pkey primary key (id, inserted_at),
    constraint messages_payload_exclusive check (payload is null or binary_payload is null)
  ) partition by range (inserted_at);

  create index messages_inserted_at_topic_index on realtime.messages (inserted_at desc, topic)
    where extension = 'broadcast' and private is true;

  alter table realtime.messages enable row level security;

  foreach api_role in array array['anon', 'authenticated', 'service_role'] loop
    if exists (select from pg_catalog.pg_roles where rolname = api_role) then
      execute pg_catalog.format('grant select, insert, update on realtime.messages to %I', api_role);
    end if;
  end loop;
  foreach api_role in array array['postgres', 'dashboard_user'] loop
    if exists (select from pg_catalog.pg_roles where rolname = api_role) then
      execute pg_catalog.format('grant all on realtime.messages to %I', api_role);
    end if;
  end loop;
  perform walcast.give_away('table realtime.messages');
end
$$;

do $outer$
begin
  if pg_catalog.to_regprocedure('realtime.topic()') is null then
    create function realtime.topic() returns text
    language sql stable
    as $$ select nullif(pg_catalog.current_setting('realtime.topic', true), '') $$;
    perform walcast.give_away('function realtime.topic()');
  end if;

  if pg_catalog.to_regprocedure('realtime.send(jsonb, text, text, boolean)') is null then
    create function realtime.send(payload jsonb, event text, topic text, private boolean default true)
    returns void
    language plpgsql volatile
    as $$
    #variable_conflict use_variable
    declare
      row_id uuid := pg_catalog.gen_random_uuid();
      body jsonb := payload;
    begin
      -- A message that cannot be sent must not undo the work of whoever sends it.
      begin
        if not coalesce(pg_catalog.jsonb_typeof(payload) = 'object' and payload ? 'id', false) then
          body := pg_catalog.jsonb_set(payload, '{id}', pg_catalog.to_jsonb(row_id));
        end if;
        if topic is null then
          raise exception 'the topic is null';
        end if;
        perform pg_catalog.set_config('realtime.topic', topic, true);
        insert into realtime.messages (id, payload, event, topic, private, extension)
          values (row_id, body, event, topic, private, 'broadcast');
      exception when others then
        raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
      end;
    end
    $$;
    perform walcast.give_away('function realtime.send(jsonb, text, text, boolean)');
  end if;

  if pg_catalog.to_regprocedure('realtime.send_binary(bytea, text, text, boolean)') is null then
    create function realtime.send_binary(payload bytea, event text, topic text, private boolean default true)
    returns void
    language plpgsql volatile
    as $$
    #variable_conflict use_variable
    begin
      begin
        if topic is null then
          raise exception 'the topic is null';
        end if;
        perform pg_catalog.set_config('realtime.topic', topic, true);
        insert into realtime.messages (binary_payload, event, topic, private, extension)
          values (payload, event, topic, private, 'broadcast');
      exception when others then
        raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
      end;
    end
    $$;
    perform walcast.give_away('function realtime.send_binary(bytea, text, text, boolean)');
  end if;

  if pg_catalog.to_regprocedure(
    'realtime.broadcast_changes(text, text, text, text, text, record, record, text)') is null
  then
    create function realtime.broadcast_changes(
      topic_name text, event_name text, operation text, table_name text, table_schema text,
      new record, old record, level text default 'ROW')
    returns void
    language plpgsql volatile
    as $$
    begin
      if level = 'STATEMENT' then
        raise exception 'function can only be triggered for each row, not for each statement';
      end if;
      if operation is null or operation not in ('INSERT', 'UPDATE', 'DELETE') then
        raise exception 'Unexpected operation type: %', operation;
      end if;
      perform realtime.send(
        pg_catalog.jsonb_build_object(
          'operation', operation,
          'table', table_name,
          'schema', table_schema,
          'record', pg_catalog.to_jsonb(new),
          'old_record', pg_catalog.to_jsonb(old)),
        event_name, topic_name, true);
    exception when others then
      raise exception 'Failed to process the row: %', sqlerrm;
    end
    $$;
    perform walcast.give_away(
      'function realtime.broadcast_changes(text, text, text, text, text, record, record, text)');
  end if;
end
$outer$;

drop function walcast.give_away(text);
