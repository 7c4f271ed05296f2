-- Private channels as an application keeps them: a table says who may read and write which topic.
create table public.members (
  topic text not null,
  user_id uuid not null,
  extension text not null default 'broadcast',
  reads boolean not null,
  writes boolean not null,
  primary key (topic, user_id, extension)
);
grant select on public.members to authenticated;

create policy "members read" on realtime.messages for select to authenticated using (exists (
  select from public.members m
  where m.topic = (select realtime.topic()) and m.extension = messages.extension and m.user_id = (select auth.uid()) and m.reads
));

create policy "members write" on realtime.messages for insert to authenticated with check (exists (
  select from public.members m
  where m.topic = (select realtime.topic()) and m.extension = messages.extension and m.user_id = (select auth.uid()) and m.writes
));
