// What a private channel missed and the database kept comes after the join.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { connect, kinds, newest, newestOn1, old, signIn } from './clients.mjs'
import { ADA, allow, build, enter, refusal } from './rooms.mjs'
import { startServer } from './server.mjs'

const MEMBER = { reads: true, writes: true }
const MINUTE_MS = 60_000

let walcast
before(async () => {
  walcast = await startServer()
  await build(walcast)
})
after(() => walcast.stop())

/** Keeps a message of some minutes ago; the rest are columns. */
async function keep(topic, minutes_ago, { event = 'note', payload = null, ...columns }) {
  const row = { id: randomUUID(), topic, event, payload, private: true, extension: 'broadcast', ...columns }
  const names = Object.keys(row)
  await walcast.sql(
    `insert into realtime.messages (inserted_at, ${names.map((name) => `"${name}"`).join(', ')})
     values ((now() - make_interval(mins => $1)) at time zone 'utc', ${names.map((_, index) => `$${index + 2}`).join(', ')})`,
    [minutes_ago, ...Object.values(row)],
  )
  return row.id
}

/** A room of Ada's, watched from before anything is kept of it. */
async function watch(topic) {
  await allow(walcast, ADA, topic, MEMBER)
  const witness = await enter(newest, walcast, ADA, topic, { broadcast: { replication_ready: true } })
  await witness.systems.until(({ message }) => message === 'Replication connection established')
  return witness
}

/** Waits until a kept message has come live: to who joins from then on it is a thing of the past. */
const heardBy = (witness, id) => witness.broadcasts.until(({ meta }) => meta?.id === id)

const since = (minutes_ago) => Date.now() - minutes_ago * MINUTE_MS
const replayed = (n, id) => ({ type: 'broadcast', event: 'note', payload: { n }, meta: { replayed: true, id } })

async function take(heard, count) {
  const taken = []
  while (taken.length < count) taken.push(await heard.broadcasts.next())
  return taken
}

for (const kind of [...kinds, newestOn1]) {
  describe(kind.name, () => {
    let topics = 0
    let topic, witness
    const join = async (replay, config = {}) => enter(kind, walcast, ADA, topic, { broadcast: { replay, ...config } })

    /** A topic of which nothing is kept yet, and that Ada may use. */
    const begin = async () => {
      topic = `${kind.name} ${(topics += 1)}`
      witness = await watch(topic)
    }

    /** What comes next on a channel comes after all that is replayed to it. */
    async function isAll(heard) {
      const sender = await enter(kind, walcast, ADA, topic)
      await sender.channel.send({ type: 'broadcast', event: 'end', payload: {} })
      assert.equal((await heard.broadcasts.next()).event, 'end')
    }

    test('kept messages since a time come oldest first, marked, with their ids', async () => {
      await begin()
      await keep(topic, 30, { payload: { n: 0 } })
      const second = await keep(topic, 5, { payload: { n: 2 } })
      const first = await keep(topic, 10, { payload: { n: 1 } })
      await heardBy(witness, first)
      const heard = await join({ since: since(20) })
      assert.deepEqual(await take(heard, 2), [replayed(1, first), replayed(2, second)])
      await isAll(heard)
    })

    test('of more than the limit the newest come', async () => {
      await begin()
      const ids = []
      for (let n = 0; n < 5; n += 1) ids.push(await keep(topic, 10 - n, { payload: { n } }))
      await heardBy(witness, ids[4])
      const heard = await join({ since: since(20), limit: 2 })
      assert.deepEqual(await take(heard, 2), [replayed(3, ids[3]), replayed(4, ids[4])])
      await isAll(heard)
    })

    test('without a limit, and above it, 25 come', async () => {
      await begin()
      let last
      for (let n = 0; n < 30; n += 1) last = await keep(topic, 30 - n, { payload: { n } })
      await heardBy(witness, last)
      for (const limit of [undefined, 1000]) {
        const heard = await join({ since: since(60), limit })
        const numbers = (await take(heard, 25)).map(({ payload }) => payload.n)
        assert.deepEqual(numbers, [...Array(25).keys()].map((index) => index + 5))
        await isAll(heard)
      }
    })

    test('of other topics, public ones and presences nothing comes', async () => {
      await begin()
      await keep(`${topic} or not`, 5, { payload: { n: 1 } })
      await keep(topic, 5, { payload: { n: 2 }, private: false })
      await keep(topic, 5, { payload: { n: 3 }, extension: 'presence' })
      const mine = await keep(topic, 4, { payload: { n: 4 } })
      await heardBy(witness, mine)
      const heard = await join({ since: since(20) })
      assert.deepEqual(await take(heard, 1), [replayed(4, mine)])
      await isAll(heard)
    })

    test('what the database broadcasts during the join comes once, whether replayed or live', async () => {
      await begin()
      for (let round = 0; round < 10; round += 1) {
        const started_ms = Date.now()
        const send = (n) => walcast.sql('select realtime.send($1, $2, $3)', [{ round, n }, 'note', topic])
        await send(0)
        const joining = join({ since: started_ms - 1000, limit: 25 })
        for (let n = 1; n < 10; n += 1) await send(n)
        const heard = await joining
        await send(10)
        const numbers = []
        while (numbers.length < 11) {
          const { payload } = await heard.broadcasts.next()
          // Replay goes by time, so what earlier rounds kept may come too.
          if (payload.round === round) numbers.push(payload.n)
        }
        // Live ones may come between those that are replayed.
        assert.deepEqual(numbers.sort((a, b) => a - b), [...Array(11).keys()])
        await isAll(heard)
      }
    })

    test('without the right to read there is no replay', async () => {
      await begin()
      await keep(topic, 5, { payload: { n: 1 } })
      await allow(walcast, ADA, topic, { writes: true })
      const ada = await signIn(kind, walcast, walcast.userToken(ADA))
      const config = { private: true, broadcast: { replay: { since: since(20) } } }
      const denied = `Unauthorized: You do not have permissions to read from this Channel topic: ${topic}`
      assert.equal(await refusal(ada, topic, config), denied)
      // To see who is present is not to hear what was said.
      await allow(walcast, ADA, topic, { extension: 'presence', reads: true })
      assert.equal(await refusal(ada, topic, { ...config, presence: { key: '', enabled: true } }), denied)
    })

    for (const [name, replay] of [
      ['no time', {}],
      ['a time that is text', { since: 'yesterday' }],
      ['a time with decimals', { since: 1.5 }],
      ['a limit that is text', { since: 0, limit: 'all' }],
    ]) {
      test(`${name} is refused`, async () => {
        await begin()
        const ada = await signIn(kind, walcast, walcast.userToken(ADA))
        const reason = await refusal(ada, topic, { private: true, broadcast: { replay } })
        assert.equal(reason, 'UnableToReplayMessages: Replay params are not valid')
      })
    }
  })
}

test('kept bytes come as bytes, and not at all where they cannot be written', async () => {
  const topic = 'bytes'
  const witness = await watch(topic)
  const id = await keep(topic, 5, { binary_payload: Buffer.from([0, 1, 255]) })
  const text = await keep(topic, 4, { payload: { n: 1 } })
  await heardBy(witness, text)
  const broadcast = { replay: { since: since(20) } }
  const heard = await enter(newest, walcast, ADA, topic, { broadcast })
  const [bytes, last] = await take(heard, 2)
  assert.deepEqual(bytes, {
    type: 'broadcast',
    event: 'note',
    payload: new Uint8Array([0, 1, 255]).buffer,
    meta: { replayed: true, id },
  })
  assert.deepEqual(last, replayed(1, text))
  for (const kind of [newestOn1, old]) {
    assert.deepEqual(await take(await enter(kind, walcast, ADA, topic, { broadcast }), 1), [replayed(1, text)])
  }
})

test('a public channel cannot replay', async () => {
  // The newest client does not even ask.
  const broadcast = { replay: { since: since(20) } }
  assert.throws(() => connect(newest, walcast).channel('public', { config: { broadcast } }), /must be a private channel/)
  assert.equal(
    await refusal(connect(old, walcast), 'public', { broadcast }),
    'UnableToReplayMessages: Replay is not allowed for public channels',
  )
})

test('a broadcast that asks for it is kept: members hear it once, and a later join has it replayed', async () => {
  const receiver = await watch('kept')
  const sender = await enter(newest, walcast, ADA, 'kept', { broadcast: { ack: true } })
  const send = (message) => sender.channel.send({ type: 'broadcast', event: 'note', ...message })
  assert.equal(await send({ payload: { n: 0 }, persist: true }), 'ok')
  assert.equal(await send({ payload: { n: 1 }, persist: { ttl: 60 } }), 'ok')
  const [first, second] = await take(receiver, 2)
  assert.deepEqual([first.payload, second.payload], [{ n: 0 }, { n: 1 }])
  assert.equal(await send({ payload: { n: 2 } }), 'ok')
  assert.deepEqual((await receiver.broadcasts.next()).payload, { n: 2 })

  const later = await enter(newest, walcast, ADA, 'kept', { broadcast: { replay: { since: since(1) } } })
  assert.deepEqual(await take(later, 2), [replayed(0, first.meta.id), replayed(1, second.meta.id)])
  assert.equal(await send({ event: 'end', payload: {} }), 'ok')
  for (const { broadcasts } of [receiver, later]) assert.equal((await broadcasts.next()).event, 'end')
  assert.equal(sender.broadcasts.size, 0)
})
