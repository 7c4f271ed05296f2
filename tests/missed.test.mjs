// What an application misses while it is away, and rows that leave what it is shown.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { connect, kinds, listen, signIn, subscribe } from './clients.mjs'
import { Inbox } from './inbox.mjs'
import { Walcast } from './walcast.mjs'

let walcast
before(async () => {
  walcast = await Walcast.start()
  await walcast.sql(`
    create table public.orders (id int primary key, state text);
    create table public.tasks (id int primary key, owner uuid, state text);
    alter table public.tasks replica identity full;
    alter table public.tasks enable row level security;
    create policy own on public.tasks for select to authenticated using (owner = (select auth.uid()));
    grant select on public.orders to anon;
    grant select on public.tasks to authenticated;
    alter publication supabase_realtime add table public.orders, public.tasks;
  `)
})
after(() => walcast.stop())

/** The next changes in short, as many as are expected. */
async function told(changes, count) {
  const seen = []
  for (let i = 0; i < count; i += 1) {
    const { eventType, new: row, old } = await changes.next()
    seen.push([eventType, row.id ?? old.id])
  }
  return seen
}

for (const kind of kinds) {
  describe(kind.name, () => {
    before(() => walcast.sql('truncate public.orders, public.tasks'))

    test('a client that comes back with the time of its last change is told that one again and what it missed', async () => {
      const first = connect(kind, walcast)
      const heard = await subscribe(first, 'before', [{ event: '*', table: 'orders' }])
      await walcast.sql(`insert into public.orders values (1, 'open')`)
      const last = await heard.changes.next()
      await first.removeAllChannels()
      await walcast.sql(`insert into public.orders values (2, 'open'), (3, 'open')`)
      await walcast.sql(`update public.orders set state = 'paid' where id = 2`)
      await walcast.sql('delete from public.orders where id = 3')
      const back = await subscribe(connect(kind, walcast), 'after', [
        { event: '*', table: 'orders', since: last.commit_timestamp },
      ])
      await walcast.sql(`insert into public.orders values (4, 'open')`)
      assert.deepEqual(await told(back.changes, 6), [
        ['INSERT', 1],
        ['INSERT', 2],
        ['INSERT', 3],
        ['UPDATE', 2],
        ['DELETE', 3],
        ['INSERT', 4],
      ])
    })

    test('a channel whose binding follows what it hears misses nothing when its socket is lost', async () => {
      const client = connect(kind, walcast)
      const changes = new Inbox('change')
      const statuses = new Inbox('status')
      // The client sends this object with every join.
      const binding = { event: 'INSERT', schema: 'public', table: 'orders' }
      client
        .channel('following')
        .on('postgres_changes', binding, (change) => {
          binding.since = change.commit_timestamp
          changes.push(change)
        })
        .subscribe((status) => statuses.push(status))
      await statuses.until((status) => status === 'SUBSCRIBED')
      await walcast.sql(`insert into public.orders values (10, 'open')`)
      assert.deepEqual(await told(changes, 1), [['INSERT', 10]])
      await lose(client)
      await walcast.sql(`insert into public.orders values (11, 'open')`)
      await statuses.until((status) => status === 'SUBSCRIBED')
      await walcast.sql(`insert into public.orders values (12, 'open')`)
      assert.deepEqual(await told(changes, 3), [
        ['INSERT', 10],
        ['INSERT', 11],
        ['INSERT', 12],
      ])
    })

    test('a list that is kept with `leave` holds what a select would find, also after an absence', async () => {
      const ada = randomUUID()
      const client = await signIn(kind, walcast, walcast.userToken(ada))
      const open = { event: '*', table: 'tasks', filter: 'state=eq.open', leave: true }
      const heard = await subscribe(client, 'list', [open])
      await walcast.sql(`insert into public.tasks select n, $1, 'open' from generate_series(1, 4) n`, [ada])
      await walcast.sql(`update public.tasks set state = 'done' where id = 1`)
      await walcast.sql('update public.tasks set owner = $1 where id = 2', [randomUUID()])
      await walcast.sql(`update public.tasks set state = 'late' where id in (1, 2)`)
      for (const id of [1, 2, 3, 4]) assert.equal((await heard.changes.next()).new.id, id)
      const done = await heard.changes.next()
      assert.deepEqual([done.eventType, done.new, done.old], ['DELETE', {}, { id: 1, owner: ada, state: 'open' }])
      const last = await heard.changes.next()
      assert.deepEqual([last.eventType, last.old], ['DELETE', { id: 2, owner: ada, state: 'open' }])

      await client.removeAllChannels()
      await walcast.sql(`update public.tasks set state = 'done' where id = 3`)
      const back = listen(client, 'list again', [{ ...open, since: last.commit_timestamp }])
      back.subscribe()
      const missed = []
      // Whatever else was committed within that millisecond comes first.
      do missed.push(await back.changes.next())
      while (missed.at(-1).old.id !== 3)
      assert.deepEqual(
        missed.slice(-2).map(({ eventType, old }) => [eventType, old.id]),
        [
          ['DELETE', 2],
          ['DELETE', 3],
        ],
      )
    })
  })
}

/** Closes the socket beneath a client, which then connects anew by itself. */
async function lose(client) {
  const socket = client.realtime.conn ?? client.realtime.socketAdapter.socket.conn
  const lost = new Promise((resolve) => socket.addEventListener('close', resolve, { once: true }))
  socket.close(4000, 'lost')
  await lost
}
