// Ready means ready: what is committed after a channel is subscribed arrives.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, kinds, listen, subscribe } from './clients.mjs'
import { startServer } from './server.mjs'

const ROUNDS = 50

let walcast
before(async () => {
  walcast = await startServer()
  await walcast.sql(`
    create table public.beats (id bigint generated always as identity primary key, round text);
    grant select on public.beats to anon;
    alter publication supabase_realtime add table public.beats;
  `)
})
after(() => walcast.stop())

const beat = (round) => walcast.sql('insert into public.beats (round) values ($1)', [round])

for (const kind of kinds) {
  describe(kind.name, () => {
    test(`a row written in the callback that says SUBSCRIBED is never lost (${ROUNDS} times)`, async () => {
      for (let round = 0; round < ROUNDS; round += 1) {
        // A client of its own each time: a connection, a join, a write, with nothing warm but the server.
        const client = connect(kind, walcast)
        const heard = listen(client, `round-${round}`, [{ event: 'INSERT', table: 'beats' }])
        const name = `${kind.name} ${round}`
        heard.channel.subscribe((status) => {
          if (status === 'SUBSCRIBED') beat(name).catch((error) => heard.changes.push(error))
        })
        const change = await heard.changes.next()
        assert.equal(change.new?.round, name, String(change))
        await client.removeChannel(heard.channel)
      }
    })

    test('a channel that left gets nothing more, and the same topic can be joined again', async () => {
      const client = connect(kind, walcast)
      const bindings = [{ event: 'INSERT', table: 'beats' }]
      const first = await subscribe(client, 'again', bindings)
      await beat('first')
      assert.equal((await first.changes.next()).new.round, 'first')
      assert.equal(await client.removeChannel(first.channel), 'ok')
      await beat('between')
      const second = await subscribe(client, 'again', bindings)
      await beat('second')
      // What was committed just before a join may come too.
      await second.changes.until((change) => change.new.round === 'second')
      assert.equal(first.changes.size, 0)
    })

    test('rows of many transactions arrive once each, in commit order', async () => {
      const heard = await subscribe(connect(kind, walcast), 'order', [{ event: 'INSERT', table: 'beats' }])
      const count = 500
      await beat('start')
      await heard.changes.until((change) => change.new.round === 'start')
      for (let i = 0; i < count; i += 1) await beat(`order ${i}`)
      for (let i = 0; i < count; i += 1) assert.equal((await heard.changes.next()).new.round, `order ${i}`)
      await beat('end')
      assert.equal((await heard.changes.next()).new.round, 'end')
    })
  })
}
