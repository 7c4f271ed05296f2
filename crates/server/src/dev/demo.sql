-- What the page of `walcast dev` shows: notes of which some are shared and some are for their writer alone.
create table if not exists public.messages (
  id bigint generated always as identity primary key,
  room_id int not null default 1,
  user_id uuid not null default auth.uid(),
  body text not null check (length(body) between 1 and 500),
  is_private boolean not null default false,
  inserted_at timestamptz not null default now()
);

alter table public.messages enable row level security;
grant select, insert, update, delete on public.messages to anon, authenticated, service_role;

do $$
begin
  if not exists (select from pg_policies where schemaname = 'public' and tablename = 'messages') then
    create policy "shared notes are for everybody" on public.messages for select using (not is_private);
    create policy "private notes are for their writer" on public.messages for select to authenticated
      using (user_id = (select auth.uid()));
    create policy "users write their own notes" on public.messages for all to authenticated
      using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));
  end if;
  if not exists (
    select from pg_publication_tables where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = 'messages'
  ) then
    alter publication supabase_realtime add table public.messages;
  end if;
end
$$;
