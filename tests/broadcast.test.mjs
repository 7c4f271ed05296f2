// What one client broadcasts, the others of its topic hear, whichever client and wire format they use.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, kinds, newest, newestOn1, old, subscribe } from './clients.mjs'
import { startServer } from './server.mjs'

let walcast
before(async () => (walcast = await startServer()))
after(() => walcast.stop())

const join = (kind, topic, broadcast) => subscribe(connect(kind, walcast), topic, [], { broadcast })
const message = (event, payload) => ({ type: 'broadcast', event, payload })
const bytes = (...values) => new Uint8Array(values).buffer

// What an application may send, and what JSON makes hard: other alphabets, escapes, numbers at the edge, empty things.
const PAYLOADS = [
  { text: 'hello' },
  {},
  { nested: { list: [1, 2.5, -3e-7, null, true, [], {}] }, zero: 0, large: Number.MAX_SAFE_INTEGER },
  { 'clé "quoted"\n': 'žluťoučký 🐎 \u2028 \\ " \u0000', event: 'not the event', type: 'not the type' },
  { ids: 'a key that changes use', meta: { id: 'mine' } },
]

for (const kind of [...kinds, newestOn1]) {
  describe(kind.name, () => {
    test('a broadcast reaches the other members of the topic as it was sent, and not its sender', async () => {
      const sender = await join(kind, 'plain')
      const receiver = await join(kind, 'plain')
      for (const payload of PAYLOADS) {
        assert.equal(await sender.channel.send(message('note', payload)), 'ok')
        assert.deepEqual(await receiver.broadcasts.next(), message('note', payload))
      }
      // Had the sender heard itself, this would not be the first that it hears.
      await receiver.channel.send(message('answer', { to: 'sender' }))
      assert.deepEqual(await sender.broadcasts.next(), message('answer', { to: 'sender' }))
    })

    test('with self the sender hears it too', async () => {
      const sender = await join(kind, 'self', { self: true })
      await sender.channel.send(message('echo', { heard: true }))
      assert.deepEqual(await sender.broadcasts.next(), message('echo', { heard: true }))
    })

    test('with ack, sending is over when the server has relayed', async () => {
      const receiver = await join(kind, 'acknowledged')
      const sender = await join(kind, 'acknowledged', { ack: true, self: true })
      assert.equal(await sender.channel.send(message('note', { n: 1 })), 'ok')
      // The echo is written before the answer.
      assert.equal(sender.broadcasts.size, 1)
      assert.deepEqual(await receiver.broadcasts.next(), message('note', { n: 1 }))
    })

    test('with ack, a payload over the limit is an error, and the channel stays', async () => {
      const receiver = await join(kind, 'large')
      const sender = await join(kind, 'large', { ack: true })
      const largest_bytes = 3_000_500
      assert.equal(await sender.channel.send(message('note', { text: 'x'.repeat(largest_bytes) })), 'error')
      const fitting = { text: 'x'.repeat(largest_bytes / 2) }
      assert.equal(await sender.channel.send(message('note', fitting)), 'ok')
      assert.deepEqual(await receiver.broadcasts.next(), message('note', fitting))
    })

    test('broadcasts of one sender keep their order', async () => {
      const count = 300
      const sender = await join(kind, 'order')
      const receiver = await join(kind, 'order')
      for (let n = 0; n < count; n += 1) sender.channel.send(message('count', { n }))
      for (let n = 0; n < count; n += 1) assert.deepEqual((await receiver.broadcasts.next()).payload, { n })
    })

    test('a topic hears nothing of another, nor of one whose name begins the same', async () => {
      const client = connect(kind, walcast)
      const here = await subscribe(client, 'room:1', [])
      const sender = connect(kind, walcast)
      const others = [await subscribe(sender, 'room', []), await subscribe(sender, 'room:1:2', [])]
      const same = await subscribe(sender, 'room:1', [])
      for (const { channel } of others) await channel.send(message('note', { to: 'others' }))
      await same.channel.send(message('note', { to: 'here' }))
      assert.deepEqual((await here.broadcasts.next()).payload, { to: 'here' })
    })

    test('who has left hears nothing more', async () => {
      const sender = await join(kind, 'leaving')
      const client = connect(kind, walcast)
      const leaver = await subscribe(client, 'leaving', [])
      const witness = await subscribe(client, 'leaving:witness', [])
      const partner = await join(kind, 'leaving:witness')
      await sender.channel.send(message('note', { n: 1 }))
      await leaver.broadcasts.next()
      assert.equal(await client.removeChannel(leaver.channel), 'ok')
      await sender.channel.send(message('note', { n: 2 }))
      // The same socket would have been given the second note before this.
      await partner.channel.send(message('note', { n: 3 }))
      assert.equal((await witness.broadcasts.next()).payload.n, 3)
      assert.equal(leaver.broadcasts.size, 0)
    })

    test('two channels of one client on two topics are told apart', async () => {
      const client = connect(kind, walcast)
      const both = [await subscribe(client, 'left', []), await subscribe(client, 'right', [])]
      const senders = [await join(kind, 'left'), await join(kind, 'right')]
      for (const [index, { channel }] of senders.entries()) await channel.send(message('note', { index }))
      for (const [index, heard] of both.entries()) {
        assert.deepEqual((await heard.broadcasts.next()).payload, { index })
        assert.equal(heard.broadcasts.size, 0)
      }
    })

    test('what the database sends arrives with the id of its row', async () => {
      const heard = await join(kind, 'from the database', { replication_ready: true })
      await heard.systems.until((system) => system.message === 'Replication connection established')
      for (const payload of PAYLOADS.filter((payload) => !JSON.stringify(payload).includes('\\u0000'))) {
        await walcast.sql('select realtime.send($1, $2, $3, false)', [payload, 'note', 'from the database'])
        const [{ id }] = await walcast.sql(
          `select id from realtime.messages where topic = 'from the database' order by inserted_at desc limit 1`,
        )
        const sent = { ...message('note', { ...payload, id }), meta: { id } }
        assert.deepEqual(await heard.broadcasts.next(), sent)
      }
    })

    test('a transaction that sends and fails is not heard', async () => {
      const heard = await join(kind, 'rolled back', { replication_ready: true })
      await heard.systems.until((system) => system.message === 'Replication connection established')
      const send = (n) => `select realtime.send('{"n": ${n}}', 'note', 'rolled back', false)`
      // Several statements in one message to Postgres are one transaction.
      await assert.rejects(walcast.sql(`${send(1)}; select 1 / 0`), /division by zero/)
      await walcast.sql(`${send(2)}; ${send(3)}`)
      for (const n of [2, 3]) assert.equal((await heard.broadcasts.next()).payload.n, n)
    })
  })
}

test('bytes that the database sends reach those who can be given them', async () => {
  const receivers = [await join(newest, 'stored bytes', { replication_ready: true }), await join(old, 'stored bytes')]
  await receivers[0].systems.until((system) => system.message === 'Replication connection established')
  await walcast.sql(`select realtime.send_binary('\\x0001ff', 'bytes', 'stored bytes', false)`)
  await walcast.sql(`select realtime.send('{"id": "mine"}', 'note', 'stored bytes', false)`)
  const heard = await receivers[0].broadcasts.next()
  assert.deepEqual({ ...heard, meta: undefined }, { ...message('bytes', bytes(0, 1, 255)), meta: undefined })
  assert.match(heard.meta.id, /^[0-9a-f-]{36}$/)
  for (const { broadcasts } of receivers) {
    const { meta, ...text } = await broadcasts.next()
    assert.deepEqual(text, message('note', { id: 'mine' }))
    assert.match(meta.id, /^[0-9a-f-]{36}$/)
  }
})

test('bytes arrive as they were sent, of any length', async () => {
  const sender = await join(newest, 'bytes')
  const receiver = await join(newest, 'bytes')
  const all = new Uint8Array(256).map((_, index) => index).buffer
  for (const payload of [bytes(), bytes(0), all, new Uint8Array(100_000).fill(255).buffer]) {
    await sender.channel.send(message('bytes', payload))
    const heard = await receiver.broadcasts.next()
    assert.ok(heard.payload instanceof ArrayBuffer)
    assert.deepEqual(heard, message('bytes', payload))
  }
})

test('clients of both wire formats hear each other; bytes reach only those who can be given them', async () => {
  const all = [await join(newest, 'mixed'), await join(newestOn1, 'mixed'), await join(old, 'mixed')]
  for (const [index, sender] of all.entries()) {
    for (const payload of PAYLOADS) {
      await sender.channel.send(message(`from ${index}`, payload))
      for (const receiver of all) {
        if (receiver === sender) continue
        assert.deepEqual(await receiver.broadcasts.next(), message(`from ${index}`, payload))
      }
    }
  }

  const sender = await join(newest, 'mixed')
  await sender.channel.send(message('bytes', bytes(1, 2, 3)))
  await sender.channel.send(message('text', { n: 4 }))
  assert.deepEqual(await all[0].broadcasts.next(), message('bytes', bytes(1, 2, 3)))
  for (const receiver of all) assert.deepEqual(await receiver.broadcasts.next(), message('text', { n: 4 }))
})

test('one text broadcast is heard with what the older client adds to it', async () => {
  // The newest keeps event and payload alone; the older sends the whole argument.
  const receiver = await join(newest, 'extra')
  const sender = await join(old, 'extra')
  await sender.channel.send({ ...message('note', { n: 1 }), urgent: true })
  assert.deepEqual(await receiver.broadcasts.next(), { ...message('note', { n: 1 }), urgent: true })
})
