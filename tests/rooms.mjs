// Private channels, whose members a table of the application knows.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { listen, signIn, subscribe } from './clients.mjs'

export const ADA = '11111111-1111-4111-8111-111111111111'
export const BEN = '22222222-2222-4222-8222-222222222222'

/** Has the database of a server decide by the table of members. */
export async function build(walcast) {
  await walcast.sql(await readFile(new URL('rooms.sql', import.meta.url), 'utf8'))
}

/** Says what a user may do in a room from now on: nothing but `rights`. */
export function allow(walcast, user, topic, { extension = 'broadcast', reads = false, writes = false }) {
  return walcast.sql(
    `insert into public.members (topic, user_id, extension, reads, writes) values ($1, $2, $3, $4, $5)
     on conflict (topic, user_id, extension) do update set reads = excluded.reads, writes = excluded.writes`,
    [topic, user, extension, reads, writes],
  )
}

/** A private channel that a user has joined. */
export async function enter(kind, walcast, user, topic, config = {}) {
  return subscribe(await signIn(kind, walcast, walcast.userToken(user)), topic, [], { private: true, ...config })
}

/** Why a client's join is refused. */
export async function refusal(client, topic, config) {
  const heard = listen(client, topic, [], config)
  heard.subscribe()
  const { error } = await heard.statuses.until(({ status }) => status === 'CHANNEL_ERROR')
  await client.removeChannel(heard.channel)
  return reasonOf(error)
}

/** The text of a join's error; older clients give it as JSON. */
function reasonOf(error) {
  assert.ok(error instanceof Error, String(error))
  return error.message.startsWith('"') ? JSON.parse(error.message) : error.message
}
