// Broadcasts that are sent by HTTP, by clients that need not be connected.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, kinds, newest, newestOn1, signIn, subscribe } from './clients.mjs'
import { ADA, allow as allowIn, BEN, build, enter as enterIn } from './rooms.mjs'
import { startServer } from './server.mjs'

let walcast
before(async () => {
  walcast = await startServer()
  await build(walcast)
})
after(() => walcast.stop())

const join = (kind, topic) => subscribe(connect(kind, walcast), topic, [])
const allow = (user, topic, rights) => allowIn(walcast, user, topic, rights)
const enter = (kind, user, topic) => enterIn(kind, walcast, user, topic)
const message = (event, payload) => ({ type: 'broadcast', event, payload })
const note = (payload) => message('note', payload)
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
    before(() => walcast.sql('truncate public.members'))

    test('a client that has not joined sends by HTTP, and all who have hear it', async () => {
      const client = connect(kind, walcast)
      const receivers = [await join(kind, 'batch'), await join(newest, 'batch')]
      const unjoined = client.channel('batch')
      for (const payload of PAYLOADS) {
        assert.equal(await unjoined.send(message('note', payload)), 'ok')
        for (const { broadcasts } of receivers) assert.deepEqual(await broadcasts.next(), message('note', payload))
      }
      const large = { text: 'x'.repeat(3_000_500) }
      assert.equal(await unjoined.send(message('note', large)), 'error')
    })

    test('who has not joined sends by HTTP if they may write, though they may not read', async () => {
      await allow(ADA, 'letters', { reads: true })
      await allow(BEN, 'letters', { writes: true })
      const receivers = [await enter(kind, ADA, 'letters'), await enter(newest, ADA, 'letters')]
      const unjoined = async (user) => {
        const client = await signIn(kind, walcast, walcast.userToken(user))
        return client.channel('letters', { config: { private: true } })
      }
      // The batch says nothing of rights.
      assert.equal(await (await unjoined(ADA)).send(note({ from: 'Ada' })), 'ok')
      assert.equal(await (await unjoined(BEN)).send(note({ from: 'Ben' })), 'ok')
      for (const { broadcasts } of receivers) assert.deepEqual(await broadcasts.next(), note({ from: 'Ben' }))
    })
  })
}

test('a client sends by HTTP alone, text and bytes, and learns why it cannot', async () => {
  const name = 'by/HTTP & "more" é'
  const receiver = await join(newest, name)
  const channel = connect(newest, walcast).channel(name)
  for (const payload of PAYLOADS) {
    assert.deepEqual(await channel.httpSend('an event/é', payload), { success: true })
    assert.deepEqual(await receiver.broadcasts.next(), message('an event/é', payload))
  }
  assert.deepEqual(await channel.httpSend('bytes', bytes(0, 1, 255)), { success: true })
  assert.deepEqual(await receiver.broadcasts.next(), message('bytes', bytes(0, 1, 255)))
  await assert.rejects(channel.httpSend('note', { text: 'x'.repeat(3_000_500) }), /Unprocessable Entity/)

  const stranger = connect(newest, walcast, { token: `${walcast.userToken('u').slice(0, -5)}wrong` })
  await stranger.realtime.setAuth()
  await assert.rejects(stranger.channel(name).httpSend('note', {}), /^Error: Unauthorized$/)
})

test('who may not write learns so from a single send by HTTP', async () => {
  await allow(ADA, 'mail', { reads: true })
  await allow(BEN, 'mail', { writes: true })
  const receiver = await enter(newest, ADA, 'mail')
  const unjoined = async (user) => {
    const client = await signIn(newest, walcast, walcast.userToken(user))
    return client.channel('mail', { config: { private: true } })
  }
  await assert.rejects((await unjoined(ADA)).httpSend('note', { from: 'Ada' }), /^Error: Unauthorized$/)
  assert.deepEqual(await (await unjoined(BEN)).httpSend('note', { from: 'Ben' }), { success: true })
  assert.deepEqual(await receiver.broadcasts.next(), note({ from: 'Ben' }))
})

test('a single send that asks to be kept is heard, and replayed to who joins later', async () => {
  await allow(ADA, 'archive', { reads: true, writes: true })
  const client = await signIn(newest, walcast, walcast.userToken(ADA))
  const unjoined = client.channel('archive', { config: { private: true } })
  const receiver = await enterIn(newest, walcast, ADA, 'archive', { broadcast: { replication_ready: true } })
  await receiver.systems.until((system) => system.message === 'Replication connection established')
  const kept = []
  for (const [n, persist] of [true, { ttl: 60 }].entries()) {
    assert.deepEqual(await unjoined.httpSend('note', { n }, { persist }), { success: true })
    kept.push(await receiver.broadcasts.next())
    assert.deepEqual(kept[n].payload, { n })
  }
  assert.deepEqual(await unjoined.httpSend('note', { n: 2 }), { success: true })
  assert.deepEqual(await receiver.broadcasts.next(), note({ n: 2 }))

  const later = await enterIn(newest, walcast, ADA, 'archive', { broadcast: { replay: { since: Date.now() - 60_000 } } })
  for (const { meta, ...message } of kept) {
    assert.deepEqual(await later.broadcasts.next(), { ...message, meta: { replayed: true, id: meta.id } })
  }
  assert.deepEqual(await unjoined.httpSend('end', {}), { success: true })
  for (const { broadcasts } of [receiver, later]) assert.equal((await broadcasts.next()).event, 'end')
})
