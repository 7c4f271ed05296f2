-- Messages that are to be kept for less than the retention (protocol.md 15.2). The table of messages is a contract with
-- applications and gets no column for it.
create table if not exists walcast.message_lifetimes (
  id uuid primary key,
  inserted_at timestamp without time zone not null,
  expires_at timestamp with time zone not null
);

create index if not exists message_lifetimes_expires_at on walcast.message_lifetimes (expires_at);

comment on table walcast.message_lifetimes is 'Rows of realtime.messages that end before their partition does.';
