// Which changes arrive, and what they look like to an application.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, kinds, listen, newest, subscribe } from './clients.mjs'
import { startServer } from './server.mjs'

const ADA = '11111111-1111-4111-8111-111111111111'

let walcast
before(async () => {
  walcast = await startServer()
  await walcast.sql(`
    create table public.items (id int primary key, room_id int, name text);
    alter table public.items replica identity full;
    create table public.plain (id int primary key, name text);
    create table public.other (id int primary key);
    create table public.unpublished (id int primary key);
    grant select on public.items, public.plain, public.other, public.unpublished to anon;
    alter publication supabase_realtime add table public.items, public.plain, public.other;
  `)
})
after(() => walcast.stop())

for (const kind of kinds) {
  describe(kind.name, () => {
    before(() => walcast.sql('truncate public.items, public.plain, public.other'))

    test('an anonymous client gets the inserts that its filter matches, and no others', async () => {
      const heard = await subscribe(connect(kind, walcast), 'filtered', [
        { event: 'INSERT', table: 'messages', filter: 'room_id=eq.1' },
      ])
      const insert = 'insert into public.messages (room_id, user_id, body) values ($1, $2, $3) returning id'
      await walcast.sql(insert, [2, ADA, 'elsewhere'])
      const [{ id }] = await walcast.sql(insert, [1, ADA, 'here'])
      const change = await heard.changes.next()
      // Changes come in commit order: the first one was not sent.
      assert.deepEqual(
        { eventType: change.eventType, schema: change.schema, table: change.table, old: change.old, errors: change.errors },
        { eventType: 'INSERT', schema: 'public', table: 'messages', old: {}, errors: null },
      )
      const { inserted_at, ...row } = change.new
      assert.deepEqual(row, { id: Number(id), room_id: 1, user_id: ADA, body: 'here', is_private: false })
      assert.ok(Math.abs(Date.parse(inserted_at) - Date.now()) < 60_000, inserted_at)
      assert.ok(Math.abs(Date.parse(change.commit_timestamp) - Date.now()) < 60_000, change.commit_timestamp)
    })

    test('event * brings inserts, updates and deletes in commit order', async () => {
      const heard = await subscribe(connect(kind, walcast), 'all', [{ event: '*', table: 'items' }])
      await walcast.sql(`insert into public.items values (1, 1, 'one')`)
      await walcast.sql(`update public.items set name = 'uno' where id = 1`)
      await walcast.sql(`delete from public.items where id = 1`)
      const seen = []
      for (let i = 0; i < 3; i += 1) seen.push((await heard.changes.next()).eventType)
      assert.deepEqual(seen, ['INSERT', 'UPDATE', 'DELETE'])
    })

    test('with full replica identity, updates and deletes bring the whole old row', async () => {
      const heard = await subscribe(connect(kind, walcast), 'full', [
        { event: 'UPDATE', table: 'items' },
        { event: 'DELETE', table: 'items' },
      ])
      await walcast.sql(`insert into public.items values (2, 1, 'two')`)
      await walcast.sql(`update public.items set name = 'due' where id = 2`)
      await walcast.sql(`delete from public.items where id = 2`)
      const update = await heard.changes.next()
      assert.deepEqual(
        [update.binding, update.old, update.new],
        [0, { id: 2, room_id: 1, name: 'two' }, { id: 2, room_id: 1, name: 'due' }],
      )
      const gone = await heard.changes.next()
      assert.deepEqual([gone.binding, gone.old, gone.new], [1, { id: 2, room_id: 1, name: 'due' }, {}])
    })

    test('with default replica identity, the old row is its key', async () => {
      const heard = await subscribe(connect(kind, walcast), 'plain', [{ event: '*', table: 'plain' }])
      await walcast.sql(`insert into public.plain values (1, 'one')`)
      await walcast.sql(`update public.plain set name = 'uno'`)
      await walcast.sql(`delete from public.plain`)
      assert.equal((await heard.changes.next()).eventType, 'INSERT')
      const update = await heard.changes.next()
      assert.deepEqual([update.eventType, update.old, update.new], ['UPDATE', { id: 1 }, { id: 1, name: 'uno' }])
      const gone = await heard.changes.next()
      assert.deepEqual([gone.eventType, gone.old, gone.new], ['DELETE', { id: 1 }, {}])
    })

    test('each binding of a channel gets its own changes', async () => {
      const heard = await subscribe(connect(kind, walcast), 'several', [
        { event: 'INSERT', table: 'items', filter: 'room_id=eq.7' },
        { event: 'INSERT', table: 'items', filter: 'name=in.(b,c)' },
        { event: 'DELETE', table: 'other' },
        { event: '*', table: 'other' },
      ])
      await walcast.sql(`insert into public.items values (10, 7, 'a'), (11, 8, 'b'), (12, 7, 'c'), (13, 8, 'd')`)
      await walcast.sql('insert into public.other values (20)')
      await walcast.sql('delete from public.other')
      const seen = []
      for (let i = 0; i < 7; i += 1) {
        const { binding, eventType, ...change } = await heard.changes.next()
        seen.push([binding, eventType, change.new.id ?? change.old.id])
      }
      assert.deepEqual(seen, [
        [0, 'INSERT', 10],
        [1, 'INSERT', 11],
        [0, 'INSERT', 12],
        [1, 'INSERT', 12],
        [3, 'INSERT', 20],
        [2, 'DELETE', 20],
        [3, 'DELETE', 20],
      ])
    })

    test('a table that is not published is refused in a system message, and the channel stays', async () => {
      const heard = await subscribe(connect(kind, walcast), 'wrong', [{ event: '*', table: 'unpublished' }])
      const refusal = await heard.systems.next()
      assert.equal(refusal.extension, 'postgres_changes')
      assert.equal(refusal.status, 'error')
      assert.match(refusal.message, /^Unable to subscribe to changes with given parameters\. Please check Realtime is enabled/)
      assert.match(refusal.message, /table: unpublished/)
      assert.equal(heard.channel.state, 'joined')
    })
  })
}

test('a join that waits is answered when the subscription works', async () => {
  const heard = await subscribe(
    connect(newest, walcast),
    'waiting',
    [{ event: 'INSERT', table: 'other' }],
    { postgres_changes_options: { wait: true } },
  )
  await walcast.sql('insert into public.other values (99)')
  assert.equal((await heard.changes.next()).new.id, 99)
  assert.equal((await heard.systems.next()).message, 'Subscribed to PostgreSQL')
})

test('a join that waits for what cannot be is refused', async () => {
  const heard = listen(connect(newest, walcast), 'hopeless', [{ event: '*', table: 'unpublished' }], {
    postgres_changes_options: { wait: true },
  })
  heard.subscribe()
  const { error } = await heard.statuses.until(({ status }) => status === 'CHANNEL_ERROR')
  assert.match(error.message, /unpublished/)
})
