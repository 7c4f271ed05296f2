// What fails comes back by itself: the stream, the server, the client's socket.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, kinds, subscribe } from './clients.mjs'
import { Walcast } from './walcast.mjs'

const inserts = [{ event: 'INSERT', table: 'marks' }]
const BACK_WITHIN_MS = 6000

let walcast
before(async () => {
  walcast = await Walcast.start()
  await walcast.sql(`
    create table public.marks (id int primary key);
    grant select on public.marks to anon;
    alter publication supabase_realtime add table public.marks;
  `)
})
after(() => walcast.stop())

const mark = (id) => walcast.sql('insert into public.marks values ($1)', [id])

for (const kind of kinds) {
  describe(kind.name, () => {
    before(() => walcast.sql('truncate public.marks'))

    test('a lost replication connection is told, and changes flow again without the client doing anything', async () => {
      const heard = await subscribe(connect(kind, walcast), 'stream', inserts)
      await mark(1)
      assert.equal((await heard.changes.next()).new.id, 1)
      assert.equal((await heard.systems.next()).status, 'ok')

      const lost_at_ms = performance.now()
      const [{ ended }] = await walcast.sql(
        `select count(pg_terminate_backend(pid))::int as ended from pg_stat_replication`,
      )
      assert.equal(ended, 1)
      const loss = await heard.systems.next(BACK_WITHIN_MS)
      assert.equal(loss.status, 'error')
      assert.match(loss.message, /^Changes may have been missed: /)
      const back = await heard.systems.next(BACK_WITHIN_MS)
      assert.deepEqual([back.status, back.message], ['ok', 'Subscribed to PostgreSQL'])

      await mark(2)
      assert.equal((await heard.changes.next()).new.id, 2)
      const took_ms = performance.now() - lost_at_ms
      assert.ok(took_ms < BACK_WITHIN_MS, `${took_ms} ms`)
      assert.equal(heard.channel.state, 'joined')
    })

    test('after a crash of the server the client reconnects, and its channel works again', async () => {
      const heard = await subscribe(connect(kind, walcast), 'crash', inserts)
      await mark(10)
      assert.equal((await heard.changes.next()).new.id, 10)
      // The restart has a Postgres of its own to stop and start: a while, so the limits are wide.
      await walcast.crashAndRestart()
      await heard.statuses.until(({ status }) => status === 'SUBSCRIBED', 30_000)
      await mark(11)
      assert.equal((await heard.changes.next()).new.id, 11)
    })
  })
}
