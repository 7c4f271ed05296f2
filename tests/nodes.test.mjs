// Several nodes behave as one: clients hear each other whichever node they are on.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, kinds, newest, signIn, subscribe } from './clients.mjs'
import { Nodes, redisProgram } from './nodes.mjs'

const skip = redisProgram ? false : 'neither redis-server nor valkey-server is installed'

const message = (event, payload) => ({ type: 'broadcast', event, payload })
const bytes = (...values) => new Uint8Array(values).buffer

describe('three nodes', { skip }, () => {
  let nodes
  before(async () => (nodes = await Nodes.start(3)))
  after(() => nodes?.stop())

  /** A client of each kind on each node, in a topic. */
  const everywhere = (topic, broadcast = {}) =>
    Promise.all(
      nodes.all.flatMap((node) => kinds.map((kind) => subscribe(connect(kind, node), topic, [], { broadcast }))),
    )

  test('a broadcast reaches every member on every node once, in order, and not its sender', async () => {
    const count = 100
    const receivers = await everywhere('room')
    const sender = await subscribe(connect(newest, nodes.all[0]), 'room', [], { broadcast: { ack: true } })
    for (let n = 0; n < count; n += 1) sender.channel.send(message('count', { n }))
    assert.equal(await sender.channel.send(message('count', { n: count })), 'ok')
    for (const { broadcasts } of receivers) {
      for (let n = 0; n <= count; n += 1) assert.deepEqual(await broadcasts.next(), message('count', { n }))
    }
    // Had anything come twice or back, it would be before this.
    await receivers[0].channel.send(message('last', {}))
    for (const { broadcasts } of [sender, ...receivers.slice(1)]) {
      assert.deepEqual(await broadcasts.next(), message('last', {}))
    }
  })

  test('whoever has joined hears what is said on another node from then on', async () => {
    for (let n = 0; n < 10; n += 1) {
      const sender = await subscribe(connect(newest, nodes.all[n % 3]), `fresh ${n}`, [])
      const receiver = await subscribe(connect(newest, nodes.all[(n + 1) % 3]), `fresh ${n}`, [])
      await sender.channel.send(message('first', { n }))
      assert.deepEqual(await receiver.broadcasts.next(), message('first', { n }))
    }
  })

  test('bytes arrive as bytes', async () => {
    const receiver = await subscribe(connect(newest, nodes.all[1]), 'bytes', [])
    const sender = await subscribe(connect(newest, nodes.all[2]), 'bytes', [])
    await sender.channel.send(message('bytes', bytes(0, 127, 128, 255)))
    const { payload } = await receiver.broadcasts.next()
    assert.deepEqual([...new Uint8Array(payload)], [0, 127, 128, 255])
  })

  test('a broadcast over HTTP to one node reaches members on the others', async () => {
    const receivers = await everywhere('over http')
    const channel = connect(newest, nodes.all[2]).channel('over http')
    await channel.httpSend('note', { text: 'hello' })
    for (const { broadcasts } of receivers) {
      assert.deepEqual((await broadcasts.next()).payload, { text: 'hello' })
    }
  })

  test('a broadcast from the database reaches every member once; private and public rooms do not mix', async () => {
    await nodes.walcast.sql(
      'create policy all_may on realtime.messages to authenticated using (true) with check (true)',
    )
    const token = nodes.walcast.userToken('0d6cf4d5-2f43-4a3c-9a55-0d2f4f0a6f39')
    const inPrivate = await Promise.all(
      nodes.all.map(async (node) => {
        const client = await signIn(newest, { ...node, anon_key: node.anon_key }, token)
        return subscribe(client, 'shared', [], { private: true, broadcast: { ack: true } })
      }),
    )
    const inPublic = await everywhere('shared')
    for (const n of [1, 2, 3]) {
      await nodes.walcast.sql(`select realtime.send($1::jsonb, 'note', 'shared', true)`, [{ n }])
    }
    for (const { broadcasts } of inPrivate) {
      for (const n of [1, 2, 3]) assert.equal((await broadcasts.next()).payload.n, n)
    }
    assert.equal(await inPrivate[0].channel.send(message('last', { private: true })), 'ok')
    await inPublic[0].channel.send(message('last', { private: false }))
    for (const { broadcasts } of inPrivate.slice(1)) {
      assert.deepEqual((await broadcasts.next()).payload, { private: true })
    }
    for (const { broadcasts } of inPublic.slice(1)) {
      assert.deepEqual((await broadcasts.next()).payload, { private: false })
    }
  })

  test('a node that goes and one that comes disturb nobody else', async () => {
    const [here, there] = await Promise.all(
      nodes.all.slice(0, 2).map((node) => subscribe(connect(newest, node), 'steady', [])),
    )
    await nodes.all.pop().stop('SIGKILL')
    await here.channel.send(message('note', { n: 1 }))
    assert.deepEqual((await there.broadcasts.next()).payload, { n: 1 })
    const late = await subscribe(connect(newest, await nodes.add()), 'steady', [])
    await here.channel.send(message('note', { n: 2 }))
    for (const { broadcasts } of [there, late]) assert.deepEqual((await broadcasts.next()).payload, { n: 2 })
  })

  test('while Redis is away a node serves its own, says so to who asks, and tells all when it is back', async () => {
    const sender = await subscribe(connect(newest, nodes.all[0]), 'alone', [], { broadcast: { ack: true } })
    const here = await subscribe(connect(newest, nodes.all[0]), 'alone', [])
    const there = await subscribe(connect(newest, nodes.all[1]), 'alone', [])
    await nodes.redis.stop()
    await Promise.all(nodes.all.map((node) => node.is('degraded')))
    assert.equal(await sender.channel.send(message('note', { n: 1 })), 'error')
    assert.deepEqual((await here.broadcasts.next()).payload, { n: 1 })
    await nodes.redis.launch()
    await Promise.all(nodes.all.map((node) => node.is('ready')))
    for (const { systems } of [sender, here, there]) {
      await systems.until(({ status, message }) => status === 'error' && /may have been missed/.test(message))
    }
    assert.equal(await sender.channel.send(message('note', { n: 2 })), 'ok')
    for (const { broadcasts } of [here, there]) assert.deepEqual((await broadcasts.next()).payload, { n: 2 })
  })
})
